"""Whether this interpreter can run the node: what must be there, and in which versions. Imports nothing large by itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

#: What is imported, the least version, and the first that is too new; empty: any.
NEEDED: Mapping[str, tuple[str, str]] = {
    "rclpy": ("", ""),
    "numpy": ("1.23", "3"),
    "cv2": ("4.8", "5"),
    "torch": ("2.6", "3"),
    "safetensors": ("", ""),
    "rosbags.image": ("", ""),
}
_REMEDY = (
    "Run it with an interpreter that can: ros2 launch lmanet_ros segment.launch.py python:=/path/to/venv/bin/python, "
    "or activate that environment (docs/ros.md, 'Install')"
)


def complaint_of_missing() -> str:
    """A sentence about what cannot be found; empty where all is there."""
    missing = [name for name in NEEDED if not _is_importable(name)]
    return f"{sys.executable} cannot import {', '.join(missing)}. {_REMEDY}" if missing else ""


def complaint_of_versions(versions: Mapping[str, str] | None = None) -> str:
    """A sentence about what is too old or too new; empty where all fits.

    Args:
        versions: by name; None: those of this interpreter, for which PyTorch is imported.
    """
    wrong = []
    for name, (least, below) in NEEDED.items():
        if least:
            version = str(import_module(name).__version__) if versions is None else versions[name]
            if not _numbers(least) <= _numbers(version) < _numbers(below):
                wrong.append(f"{name} {version} (wanted {least} or newer, below {below})")
    return f"{sys.executable} has {', '.join(wrong)}. {_REMEDY}" if wrong else ""


def _numbers(version: str) -> tuple[int, ...]:
    """Of "2.6.0a0+nv24.10": (2, 6, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else (0,)


def _is_importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # the parent is missing
        return False
