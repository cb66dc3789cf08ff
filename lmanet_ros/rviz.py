"""What RViz shows: `config/segment.rviz`, which is for one camera, made into one for the cameras at hand.

    segment.rviz ─ arrange: a display of each kind for each camera, topics by their full names, panels side by side
                 ─ with_fixed_frame: the camera's own frame, once an image has come (`open_rviz`)

Knows nothing of ROS: `ros2 launch` runs it in an interpreter of its own, tests without ROS.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_IMAGES = "/camera/image_raw"  # topics in segment.rviz
_RESULTS = "/segmentation/"
_IMAGE, _CLOUD = "rviz_default_plugins/Image", "rviz_default_plugins/PointCloud2"

_DISPLAYS_WIDTH = 250  # pixels, of the list of displays at the left
_COLUMN_WIDTH = 340  # of a column of images beside points
_MOST_IMAGES = 660  # pixels that all columns take beside points, at most
_BARS_HEIGHT = 90  # menu, tools, status line
_LEAST_SCENE = 60  # of the 3D view, where there is nothing in it

# Numbers of Qt's.
_HORIZONTAL, _VERTICAL = 1, 2
_UNLIMITED = 0xFFFFFF
_CORNERS = (4, 4, 8, 8)  # those at the top belong to the area at the top, the others to that at the bottom


@dataclass(frozen=True)
class CameraView:
    """What is shown of one camera.

    Attributes:
        name: of the camera; empty for one that has none.
        image: full name of the topic of its images, with /compressed where they are.
        results: full name below which the node publishes.
    """

    name: str
    image: str
    results: str


def arrange(base: Mapping[str, Any], cameras: Sequence[CameraView], points: bool) -> dict[str, Any]:
    """The configuration of RViz for some cameras.

    Args:
        base: the content of `segment.rviz`.
        cameras: one or more.
        points: whether `semantic_points` runs; else no display waits for its clouds, and images have the window.

    Returns:
        A configuration as RViz reads it from YAML. Displays of a named camera begin with its name, for RViz tells their panels
        apart by that.
    """
    made = copy.deepcopy(dict(base))
    manager = made["Visualization Manager"]
    displays = []
    columns: list[list[str]] = []
    for camera in cameras:
        images = []
        for display in base["Visualization Manager"]["Displays"]:
            if display["Class"] in (_IMAGE, _CLOUD):
                own = _of_camera(display, camera)
                if own["Class"] == _IMAGE:
                    images.append(own["Name"])
                if own["Class"] == _IMAGE or points:
                    displays.append(own)
        columns += _columns(images, 2 if len(cameras) == 1 and not points else 1)
    others = [display for display in manager["Displays"] if display["Class"] not in (_IMAGE, _CLOUD)]
    manager["Displays"] = others + displays
    geometry = made["Window Geometry"]
    width, height = geometry["Width"], geometry["Height"]
    room = min(_COLUMN_WIDTH * len(columns), _MOST_IMAGES) if points else width - _DISPLAYS_WIDTH - _LEAST_SCENE
    made["Window Geometry"] = {
        "Displays": {"collapsed": False},
        **{name: {"collapsed": False} for column in columns for name in column},
        "Height": height,
        "Hide Left Dock": False,
        "Hide Right Dock": False,
        "QMainWindow State": window_state("Displays", columns, _DISPLAYS_WIDTH, room, width, height - _BARS_HEIGHT).hex(),
        "Width": width,
        "X": geometry["X"],
        "Y": geometry["Y"],
    }
    return made


def with_fixed_frame(config: Mapping[str, Any], frame: str) -> dict[str, Any]:
    """The configuration with another fixed frame, such as that of the camera's images."""
    made = copy.deepcopy(dict(config))
    made["Visualization Manager"]["Global Options"]["Fixed Frame"] = frame
    return made


def _of_camera(display: Mapping[str, Any], camera: CameraView) -> dict[str, Any]:
    own = copy.deepcopy(dict(display))
    topic = own["Topic"]["Value"]
    own["Topic"]["Value"] = camera.image if topic == _IMAGES else topic.replace(_RESULTS, f"{camera.results}/", 1)
    if camera.name:
        own["Name"] = f"{camera.name} {own['Name'].lower()}"
    return own


def _columns(names: Sequence[str], count: int) -> list[list[str]]:
    return [list(names[start::count]) for start in range(count)]


def window_state(
    left: str, columns: Sequence[Sequence[str]], left_width: int, right_width: int, width: int, height: int
) -> bytes:
    """Where the panels of RViz's window are, as Qt's `QMainWindow.saveState` writes it and RViz keeps it in hexadecimal.

    Args:
        left: name of the panel at the left.
        columns: names of the panels at the right, from left to right, each from top to bottom.
        left_width, right_width: pixels that they take; the 3D view has the rest.
        width, height: pixels of the window without its bars.
    """
    each = right_width // len(columns)
    right = [(each, _sequence(_VERTICAL, [(height // len(column), name) for name in column])) for column in columns]
    state = struct.pack(">iiBi", 0xFF, 0, 0xFD, 2)  # of the window, version, of its areas, how many are not empty
    state += struct.pack(">iii", 0, left_width, height) + _sequence(_VERTICAL, [(height, left)])
    state += struct.pack(">iii", 1, right_width, height) + _sequence(_HORIZONTAL, right)
    state += struct.pack(">ii", width - left_width - right_width, height)  # of the 3D view
    state += struct.pack(">iiii", *_CORNERS)
    # One row of tools, at the top, with one bar: visible, first, as wide as it likes.
    state += struct.pack(">Biii", 0xFC, 1, 2, 1) + _text("Tools") + struct.pack(">Biiii", 1, 0, -1, 0, 0)
    return state


def _sequence(direction: int, items: Sequence[tuple[int, str | bytes]]) -> bytes:
    """Panels, by name, or further sequences, each with its width or height in pixels."""
    written, start = struct.pack(">BBi", 0xFC, direction, len(items)), 0
    for size, item in items:
        place = struct.pack(">iiii", start, size, 0, _UNLIMITED)
        written += b"\xfb" + _text(item) + b"\x01" + place if isinstance(item, str) else b"\xfc" + place + item
        start += size
    return written


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">i", len(encoded)) + encoded
