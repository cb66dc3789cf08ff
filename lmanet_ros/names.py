"""One rule for the names of topics, for node and launch files alike (docs/ros.md, 'Names').

    image                         the camera's topic; a name without a slash before it lies in the node's namespace
    image ending in /compressed   is JPEG or PNG, whatever `transport` says; else `transport` compressed adds the ending
    camera_info                   beside the image, unless it is remapped itself
    <camera>/…                    before all of them, where cameras have names, be it one

Knows nothing of ROS: names go in, names come out. Nothing but the standard library is imported, so a launch file may use it
with an interpreter that has no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

COMPRESSED = "/compressed"
#: Below which the results are, unless the parameter `output_prefix` says otherwise.
OUTPUT = "segmentation"


@dataclass(frozen=True)
class CameraTopics:
    """What one camera is heard on.

    Attributes:
        image: of the images, with `/compressed` where they are.
        camera_info: of the calibration.
        compressed: whether messages are CompressedImage.
    """

    image: str
    camera_info: str
    compressed: bool


def camera_info_beside(image: str) -> str:
    """The calibration's topic for an image topic, by the custom of ROS: the last part of the name is replaced."""
    parent, slash, _ = image.removesuffix(COMPRESSED).rpartition("/")
    return f"{parent}{slash}camera_info"


def resolve(name: str, namespace: str) -> str:
    """A topic's full name, as ROS resolves it.

    Args:
        name: absolute or relative.
        namespace: of the node, with or without a slash before it; empty is the root.
    """
    if name.startswith("/"):
        return name
    namespace = namespace.strip("/")
    return f"/{namespace}/{name}" if namespace else f"/{name}"


def subscribed(prefix: str, transport: str, expanded: Callable[[str], str], remapped: Callable[[str], str]) -> CameraTopics:
    """Where a node listens to one camera.

    Args:
        prefix: "" or "<camera>/".
        transport: "raw" or "compressed".
        expanded: a relative name → its full name before remapping.
        remapped: a relative name → its full name after remapping.
    """
    image, compressed = remapped(f"{prefix}image"), transport == "compressed"
    own = remapped(f"{prefix}image{COMPRESSED}")
    if image.endswith(COMPRESSED):
        compressed = True
    elif compressed:
        image = own if own != expanded(f"{prefix}image{COMPRESSED}") else f"{image}{COMPRESSED}"
    info = remapped(f"{prefix}camera_info")
    if info == expanded(f"{prefix}camera_info"):
        info = camera_info_beside(image)
    return CameraTopics(image, info, compressed)


def of_launch(image: str, cameras: Sequence[str], compressed: bool | None) -> Mapping[str, CameraTopics]:
    """The topics that arguments of a launch file mean, by the prefix of the camera.

    Args:
        image: topic, with {camera} in it where there are several; empty: camera/image_raw or {camera}/image_raw.
        cameras: names; empty for one camera without.
        compressed: as told; None: as the name ends, or as the node's parameters say.

    Raises:
        ValueError: names that contradict each other.
    """
    names = list(cameras) or [""]
    image = image or ("{camera}/image_raw" if cameras else "camera/image_raw")
    if len(names) > 1 and "{camera}" not in image:
        raise ValueError(f"image:={image} must hold {{camera}} where there are several cameras")
    if "{camera}" in image and not cameras:
        raise ValueError(f"image:={image} holds {{camera}}, but there are no cameras:=")
    ends = image.endswith(COMPRESSED)
    if ends and compressed is False:
        raise ValueError(f"image:={image} is a compressed topic, and compressed:=false says otherwise; leave one of them out")
    topics = {}
    for name in names:
        topic = image.replace("{camera}", name)
        full = topic if ends or not compressed else f"{topic}{COMPRESSED}"
        topics[f"{name}/" if name else ""] = CameraTopics(full, camera_info_beside(topic), bool(compressed) or ends)
    return topics
