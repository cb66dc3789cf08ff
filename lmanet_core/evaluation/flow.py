"""Optical flow from each frame to the next, on a small grid, once for all label maps that are compared."""

from __future__ import annotations

import math

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.geometry import Size, resize_image
from lmanet_core.metrics import FlowMatcher, Matches
from lmanet_core.metrics.temporal import Farneback

MAX_PIXELS = 160 * 120  # of the grid; the flow of larger images costs more than it tells


#: Optical flows that measures can go along, in words.
FLOWS = {"dis": "OpenCV DIS, preset medium", "farneback": "OpenCV Farneback"}


class PairMatcher:
    """Matches each image with the one before it. One thread at a time.

    Args:
        flow: of `FLOWS`.
    """

    def __init__(self, flow: str = "dis") -> None:
        self._matcher = FlowMatcher(Farneback() if flow == "farneback" else None)
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
