"""A drive through the generated street as a ROS 2 bag, as a robot would have recorded it, with the truth beside the camera."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from lmanet_core.errors import OutputError
from lmanet_core.files import output_errors
from lmanet_core.labels import CITYSCAPES
from lmanet_core.media.bag_writer import LATCHED_QOS, BagWriter
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.generator import Street

IMAGE_TOPIC = "/camera/image_raw/compressed"
INFO_TOPIC = "/camera/camera_info"
LABEL_TOPIC = "/camera/labels/compressed"
LABEL_INFO_TOPIC = "/camera/label_info"
FRAME_ID = "camera"
START_NS = 1_700_000_000_000_000_000  # a stamp of zero would mean "not set"


def record_street(path: Path, config: StreetConfig, frames: int, on_frame: Callable[[], None] = lambda: None) -> None:
    """Record the first `frames` frames of a drive: JPEG images, camera_info, label ids as PNG, class names.

    Args:
        path: `drive.mcap` makes one file, any other name a bag folder.
        config: of the street.
        frames: at least 1.
        on_frame: called after each frame, for progress.

    Raises:
        OutputError: the path exists, or cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path}: exists already; delete it or choose another output")
    single = path.suffix == ".mcap"
    folder = path.with_name(f".{path.name}.part") if single else path
    try:
        bag = BagWriter(folder)
        try:
            _write(bag, Street(config), frames, on_frame)
        finally:
            bag.close()
        if single:
            with output_errors(path):
                (folder / f"{folder.name}.mcap").replace(path)
    finally:
        if single:
            shutil.rmtree(folder, ignore_errors=True)


def _write(bag: BagWriter, street: Street, frames: int, on_frame: Callable[[], None]) -> None:
    bag.put(LABEL_INFO_TOPIC, bag.label_info(CITYSCAPES, START_NS, FRAME_ID), START_NS, LATCHED_QOS)
    for frame in street.frames(0, frames):
        stamp_ns = START_NS + frame.stamp_ns
        bag.put(INFO_TOPIC, bag.camera_info(frame.camera_info, stamp_ns, FRAME_ID), stamp_ns)
        bag.put(IMAGE_TOPIC, bag.compressed_image(frame.image, stamp_ns, FRAME_ID, "jpeg"), stamp_ns)
        bag.put(LABEL_TOPIC, bag.compressed_image(frame.labels, stamp_ns, FRAME_ID, "png"), stamp_ns)
        on_frame()
