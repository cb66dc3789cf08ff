"""Optical flow from each frame to the next, on a small grid, once for all label maps that are compared."""

from __future__ import annotations

import math

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.geometry import Size, resize_image
from lmanet_core.metrics import FlowMatcher, Matches

MAX_PIXELS = 160 * 120  # of the grid; the flow of larger images costs more than it tells


class PairMatcher:
    """Matches each image with the one before it. One thread at a time."""

    def __init__(self) -> None:
        self._matcher = FlowMatcher()
        self._before: UInt8Array | None = None

    def next(self, image: UInt8Array) -> Matches | None:
        """Matches from the image before to this one; None for the first one and after a change of size.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        small = resize_image(image, grid_size(Size(*image.shape[:2])))
        before, self._before = self._before, small
        if before is None or before.shape != small.shape:
            return None
        return self._matcher.match(before, small)


def grid_size(size: Size) -> Size:
    """The grid on which images of a size are matched: the same aspect, `MAX_PIXELS` at most."""
    shrink = min(1.0, math.sqrt(MAX_PIXELS / (size.height * size.width)))
    return Size(*(max(1, round(side * shrink)) for side in size))


def to_grid(labels: UInt8Array, matches: Matches) -> UInt8Array:
    """Label map (H, W) on the grid of some matches, nearest pixel."""
    return resize_labels(labels, Size(*matches.valid.shape))
