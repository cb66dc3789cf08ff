"""Sizes of images, networks and features."""

from __future__ import annotations

import re
from typing import NamedTuple

from lmanet_core.errors import ConfigError

MAX_SIDE = 32766  # OpenCV keeps coordinates of its resizers in 16 bits


class Size(NamedTuple):
    """Height and width in pixels, in the order of array shapes."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse_size(text: str) -> Size:
    """Read "WxH" as in "1280x720"; raises ConfigError on anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not match or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise ConfigError(f"a size is WIDTHxHEIGHT with sides of 1–{MAX_SIDE}, such as 1024x512, got {text!r}")
    return Size(int(match[2]), int(match[1]))


def fit_network_size(camera_size: Size, max_pixels: int, multiple: int = 8, remainder: int = 0) -> Size:
    """The largest size with the camera's aspect that is not above the camera's own nor above `max_pixels`.

    Args:
        camera_size: size of the incoming images.
        max_pixels: area the network was trained on, pixels.
        multiple, remainder: sides must be `multiple · n + remainder` (ERFNet 8n, PSPNet 8n + 1).

    Returns:
        Sides rounded to the nearest allowed value, at least one multiple each.
    """
    shrink: float = min(1.0, (max_pixels / max(1, camera_size.height * camera_size.width)) ** 0.5)

    def nearest(side: int) -> int:
        return max(1, round((side * shrink - remainder) / multiple)) * multiple + remainder

    return Size(nearest(camera_size.height), nearest(camera_size.width))


def feature_grid(size: Size, stride: int) -> Size:
    """Height and width of the features of a network whose input has this size."""
    return Size(*(-(-side // stride) for side in size))
