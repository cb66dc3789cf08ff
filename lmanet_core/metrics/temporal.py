"""Measures of a stream's steadiness: temporal consistency, agreement, flicker, video consistency.

A constant label map is perfectly steady, so none of these means anything without an accuracy beside it.

Neighbouring frames are matched by optical flow (OpenCV DIS, preset medium, in both directions on grey images). A pixel counts
where it stays in the picture and forward and backward flow agree within `FLOW_AGREEMENT_PX`; the rest is occlusion or error.
Flow is smooth and may be computed on a smaller picture; labels are not, and compared on a coarse grid they seem to flicker at
every border. So flow is enlarged to the labels, never are labels reduced to the flow.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.geometry import Size, fit_network_size, resize_image
from lmanet_core.metrics.confusion import ConfusionMatrix

FLOW_AGREEMENT_PX = 1.0  # forward and then backward must come back this close, pixels, or half a pixel where flow is computed
STATIC_GREY_LEVELS = 10  # along the flow, a pixel that keeps its looks changes by no more than this, of 0–255
_UNLABELLED = 255


@dataclass(frozen=True)
class Matches:
    """Where the pixels of one frame are in the next.

    Attributes:
        columns, rows: (H, W) float32, position in the next frame, pixels.
        valid: (H, W) bool, where flow can be trusted.
        static: (H, W) bool, valid, and with the same grey level in both frames.
    """

    columns: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    static: npt.NDArray[np.bool_]

    def fetch(self, labels: UInt8Array) -> UInt8Array:
        """The next frame's labels (H, W), brought to this frame's pixels; nearest, 255 outside."""
        nearest = cv2.remap(
            labels, self.columns, self.rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(_UNLABELLED,) * 4
        )
        return np.asarray(nearest, np.uint8)


class DenseFlow(Protocol):
    """An algorithm of dense optical flow, such as `cv2.DISOpticalFlow`."""

    def calc(self, first: UInt8Array, second: UInt8Array, flow: None) -> Any:
        """(H, W, 2) float32: from each pixel of the first grey picture to where it is in the second, right and down."""


class Farneback:
    """OpenCV's dense flow after Farnebäck (2003), which no memory and no loss here uses."""

    def calc(self, first: UInt8Array, second: UInt8Array, flow: None) -> Float32Array:
        """See `DenseFlow`."""
        start = np.zeros((*first.shape, 2), np.float32)
        return np.asarray(cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 5, 15, 3, 5, 1.1, 0), np.float32)


class FlowMatcher:
    """Matches frames with their successors. Keeps the flow algorithm's buffers; one thread at a time.

    Args:
        flow: None: what the measures use, OpenCV's DIS, preset medium.
        max_flow_pixels: larger frames are made smaller, at the same aspect, before flow is computed; None: never.
    """

    def __init__(self, flow: DenseFlow | None = None, max_flow_pixels: int | None = None) -> None:
        medium = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        self._flow: DenseFlow = flow or cast(DenseFlow, cv2.DISOpticalFlow.create(medium))
        self._max_pixels = max_flow_pixels

    def match(self, image: UInt8Array, following: UInt8Array) -> Matches:
        """Match two frames.

        Args:
            image, following: (H, W, 3) uint8 RGB, the following frame second.

        Raises:
            ValueError: sizes differ.
        """
        if image.shape != following.shape:
            raise ValueError(f"neighbouring frames must have one size, got {image.shape} and {following.shape}")
        grey, next_grey = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in (image, following))
        height, width = grey.shape
        size = fit_network_size(Size(height, width), self._max_pixels or height * width, multiple=1)
        small, next_small = resize_image(grey, size), resize_image(next_grey, size)
        forth, back = self._calc(small, next_small, grey.shape), self._calc(next_small, small, grey.shape)
        agreement = FLOW_AGREEMENT_PX * max(1.0, 0.5 * width / size.width)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        columns, rows = columns + forth[..., 0], rows + forth[..., 1]
        inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
        returned = forth + np.asarray(cv2.remap(back, columns, rows, cv2.INTER_LINEAR), np.float32)
        valid = inside & (np.hypot(returned[..., 0], returned[..., 1]) <= agreement)
        arrived = np.asarray(cv2.remap(next_grey, columns, rows, cv2.INTER_LINEAR), np.int16)
        static = valid & (np.abs(arrived - grey) <= STATIC_GREY_LEVELS)
        return Matches(columns, rows, valid, static)

    def _calc(self, first: UInt8Array, second: UInt8Array, shape: tuple[int, ...]) -> Float32Array:
        """Flow between two small grey pictures, (H, W, 2) float32 in pixels of the large ones."""
        flow = np.asarray(self._flow.calc(first, second, None), np.float32)
        if flow.shape[:2] == shape:
            return flow
        height, width = shape
        scale = np.array((width / flow.shape[1], height / flow.shape[0]), np.float32)
        return np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32) * scale


class Steadiness:
    """Measures of pairs of neighbouring frames: temporal consistency, agreement and flicker.

    Args:
        num_classes: classes of the label maps.

    Attributes:
        pairs: counted so far.
        matrix: rows: labels, columns: the next frame's along the flow; of all pairs, where flow can be trusted.
        static: pixels that look the same in both frames.
        changed: those of them whose label is another.
    """

    def __init__(self, num_classes: int) -> None:
        self.pairs = 0
        self.matrix = ConfusionMatrix(num_classes)
        self.static = 0
        self.changed = 0

    def update(self, matches: Matches, labels: UInt8Array, following: UInt8Array) -> Steadiness:
        """Add a pair of label maps (H, W) uint8, matched by `matches`; returns the measures of this pair alone."""
        pair = Steadiness(self.matrix.num_classes)
        pair.pairs, fetched = 1, matches.fetch(following)
        pair.matrix.update(fetched, np.where(matches.valid, labels, _UNLABELLED).astype(np.uint8))
        pair.static = int(matches.static.sum())
        pair.changed = int((matches.static & (fetched != labels)).sum())
        self.absorb(pair)
        return pair

    def absorb(self, other: Steadiness) -> None:
        """Count the pairs of another stream too."""
        self.pairs += other.pairs
        self.matrix.counts += other.matrix.counts
        self.static += other.static
        self.changed += other.changed

    def consistency(self) -> float:
        """TC: mIoU of a frame's labels against the next frame's, 0–1, higher is steadier; NaN before the first pair."""
        return self.matrix.mean_iou()

    def agreement(self) -> float:
        """Share of the labelled pixels with the same label in the next frame, 0–1; NaN before the first pair."""
        return self.matrix.accuracy()

    def flicker(self) -> float:
        """Share of the static pixels with another label in the next frame, 0–1, lower is steadier; NaN while there are none."""
        return self.changed / self.static if self.static else float("nan")


class VideoConsistency:
    """mVC_n (VSPW): of the pixels whose truth is constant over n frames, the share whose prediction is too; mean over windows.

    Every n neighbouring frames of one size are a window: a frame of another size begins anew, as `reset` does. Needs truth on
    every frame; void truth does not count.

    Args:
        frames: n, at least 2.
        num_classes: truth from this id on is void.
    """

    def __init__(self, frames: int, num_classes: int) -> None:
        if frames < 2:
            raise ValueError(f"video consistency is over windows of 2 or more frames, got {frames}")
        self._frames = frames
        self._num_classes = num_classes
        self._window: deque[tuple[UInt8Array, UInt8Array]] = deque(maxlen=frames)
        self._shares: list[float] = []

    def update(self, prediction: UInt8Array, truth: UInt8Array) -> None:
        """Add the next frame's label maps, (H, W) uint8."""
        if self._window and self._window[-1][1].shape != truth.shape:
            self.reset()
        self._window.append((prediction, truth))
        if len(self._window) < self._frames:
            return
        first_prediction, first_truth = self._window[0]
        constant_truth = first_truth < self._num_classes
        constant_prediction = np.ones_like(constant_truth)
        for later_prediction, later_truth in list(self._window)[1:]:
            constant_truth &= later_truth == first_truth
            constant_prediction &= later_prediction == first_prediction
        count = int(constant_truth.sum())
        if count:
            self._shares.append(int((constant_truth & constant_prediction).sum()) / count)

    def absorb(self, other: VideoConsistency) -> None:
        """Count the windows of another clip too."""
        self._shares += other._shares

    def reset(self) -> None:
        """Begin another clip: no window reaches over its start."""
        self._window.clear()

    def value(self) -> float:
        """0–1, higher is steadier; NaN before the first full window."""
        return float(np.mean(self._shares)) if self._shares else float("nan")
