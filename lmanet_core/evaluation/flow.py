"""Optical flow from each frame to the next, once for all label maps that are compared."""

from __future__ import annotations

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.geometry import Size, fit_network_size, resize_image
from lmanet_core.metrics import FlowMatcher, Matches
from lmanet_core.metrics.temporal import Farneback

MAX_FLOW_PIXELS = 240 * 180  # of the pictures that flow is computed on; that of larger ones costs more than it tells
MAX_PIXELS = 640 * 480  # of the label maps that are compared along it

#: Optical flows that measures can go along, in words.
FLOWS = {"dis": "OpenCV DIS, preset medium", "farneback": "OpenCV Farneback"}


class PairMatcher:
    """Matches each image with the one before it. One thread at a time.

    Args:
        flow: of `FLOWS`.
    """

    def __init__(self, flow: str = "dis") -> None:
        self._matcher = FlowMatcher(Farneback() if flow == "farneback" else None, MAX_FLOW_PIXELS)
        self._before: UInt8Array | None = None

    def next(self, image: UInt8Array) -> Matches | None:
        """Matches from the image before to this one, at `MAX_PIXELS` at most; None for the first and after a change of size.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        small = resize_image(image, fit_network_size(Size(*image.shape[:2]), MAX_PIXELS, multiple=1))
        before, self._before = self._before, small
        if before is None or before.shape != small.shape:
            return None
        return self._matcher.match(before, small)


def to_grid(labels: UInt8Array, matches: Matches) -> UInt8Array:
    """Label map (H, W) on the pixels of some matches, nearest pixel."""
    return resize_labels(labels, Size(*matches.valid.shape))
