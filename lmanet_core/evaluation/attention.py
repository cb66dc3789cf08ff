"""Where the memory is read, drawn over the past images: the window's weights on each memory frame (the paper's Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.errors import InputError
from lmanet_core.evaluation.pictures import caption
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.stream.attention_view import Attention, attend
from lmanet_core.stream.segmenter import VideoSegmenter

_CROSS = (255, 0, 160)
_MIN_SHARE = 0.01  # of the picture: smaller classes are no place to look from


@dataclass(frozen=True, slots=True)
class Explanation:
    """One position of one frame.

    Attributes:
        title: in words.
        panels: caption → (h, w, 3) RGB at the network's size: this frame, then each memory frame, newest first.
        shares: how much of the weight lies on each of them, newest first.
    """

    title: str
    panels: dict[str, UInt8Array]
    shares: tuple[float, ...]


class AttentionWatch:
    """Follows a stream, keeps the images that its memory holds, and explains one frame.

    Args:
        segmenter: of the stream.
        frame: number of the frame to explain; None: the first one from the tenth on whose memory is full.
        positions: (x, y) pixels; None: the middles of three small regions, seen by the frame before.
    """

    def __init__(
        self, segmenter: VideoSegmenter, frame: int | None = None, positions: Sequence[tuple[float, float]] | None = None
    ) -> None:
        self.explanations: list[Explanation] = []
        self._segmenter = segmenter
        self._wanted = frame
        self._positions = positions
        self._images: dict[int, UInt8Array] = {}  # stamp → image
        self._labels: UInt8Array | None = None  # of the frame before
        self._number = -1
        self._pending: list[Attention] = []  # of the frame in hand

    @property
    def is_done(self) -> bool:
        """Whether the frame was explained."""
        return bool(self.explanations)

    def before_step(self, frame: Frame) -> None:
        """Call with each frame before it is segmented."""
        self._number += 1
        self._pending = []
        if self.is_done or not self._is_wanted():
            return
        positions = self._positions
        if positions is None:
            positions = [] if self._labels is None else choose_positions(self._labels, frame.image.shape[:2])
        self._pending = attend(self._segmenter, frame.image, positions)

    def after_step(self, frame: Frame, result: FrameResult) -> None:
        """Call with each frame and its result.

        Raises:
            InputError: this is the frame that was asked for by number, and no memory was read for it.
        """
        if self._pending and result.discontinuity is None:
            self.explanations = [self._draw(frame, attention) for attention in self._pending]
            self._images.clear()
        elif self._number == self._wanted:
            why = "it has no memory" if result.discontinuity is None else f"it was cleared ({result.discontinuity.value})"
            raise InputError(f"frame {self._number} did not read the memory: {why}; choose a later --frame")
        if self.is_done:
            return
        self._labels = result.labels
        self._images[frame.stamp_ns] = frame.image
        kept = self._segmenter.memory_stamps_ns
        self._images = {stamp: image for stamp, image in self._images.items() if stamp in kept}

    def _is_wanted(self) -> bool:
        if self._wanted is not None:
            return self._number == self._wanted
        capacity = self._segmenter.memory_capacity
        return self._number >= 10 and capacity > 0 and len(self._segmenter.memory_stamps_ns) == capacity

    def _draw(self, frame: Frame, attention: Attention) -> Explanation:
        order = sorted(range(len(attention.stamps_ns)), key=lambda index: -attention.stamps_ns[index])
        shares = tuple(float(attention.weights[index].sum()) for index in order)
        panels = {"this frame": mark_position(attention.geometry.to_network(frame.image), attention)}
        peak = float(attention.weights.max())
        for index, share in zip(order, shares, strict=True):
            age_ms = (frame.stamp_ns - attention.stamps_ns[index]) / 1e6
            image = attention.geometry.to_network(self._images[attention.stamps_ns[index]])
            panels[f"{age_ms:.0f} ms before: {100 * share:.1f} %"] = draw_weights(image, attention, index, peak)
        x, y = attention.column, attention.row
        title = f"Frame {frame.name or self._number}, feature position {x},{y}: {100 * sum(shares):.1f} % in the picture"
        return Explanation(title, panels, shares)


def choose_positions(labels: UInt8Array, image_size: tuple[int, int]) -> list[tuple[float, float]]:
    """Middles of the three smallest classes that are not tiny, as (x, y) in an image of (height, width)."""
    counts = np.bincount(labels.ravel(), minlength=256)[:255]
    classes = [index for index in np.argsort(counts, kind="stable") if counts[index] >= _MIN_SHARE * labels.size][:3]
    positions = []
    for index in classes:
        depth = cv2.distanceTransform(np.pad((labels == index).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        scale_y, scale_x = image_size[0] / labels.shape[0], image_size[1] / labels.shape[1]
        positions.append(((float(column) + 0.5) * scale_x, (float(row) + 0.5) * scale_y))
    return positions


def draw_weights(image: UInt8Array, attention: Attention, frame: int, peak: float) -> UInt8Array:
    """The weights over one memory frame.

    Args:
        image: (h, w, 3) RGB of the memory frame at the network's size.
        attention: of one position.
        frame: which of the memory frames.
        peak: weight that gets the full colour.
    """
    weights = attention.weights[frame]
    half = weights.shape[0] // 2
    height, width = attention.map_size
    padded = np.zeros((height + 2 * half, width + 2 * half), np.float32)
    padded[attention.row : attention.row + 2 * half + 1, attention.column : attention.column + 2 * half + 1] = weights
    heat = padded[half : half + height, half : half + width] / max(peak, 1e-9)
    faint = np.sqrt(heat * 255.0 * 255.0).astype(np.uint8)  # the root, so that faint ones show
    alpha = resize_labels(faint, attention.geometry.network_size)
    colors = np.asarray(cv2.applyColorMap(alpha, cv2.COLORMAP_INFERNO), np.float32)[:, :, ::-1]
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2).astype(np.float32)
    share = (alpha.astype(np.float32) / 255.0)[:, :, None] ** 0.5
    blended = (0.65 * grey * (1.0 - share) + colors * share).astype(np.uint8)
    stride_y, stride_x = image.shape[0] / height, image.shape[1] / width
    corner = round((attention.column - half) * stride_x), round((attention.row - half) * stride_y)
    opposite = round((attention.column + half + 1) * stride_x) - 1, round((attention.row + half + 1) * stride_y) - 1
    return np.asarray(cv2.rectangle(blended, corner, opposite, (200, 200, 200), 1), np.uint8)


def mark_position(image: UInt8Array, attention: Attention) -> UInt8Array:
    """The frame at the network's size with a cross at the position."""
    marked = image.copy()
    x = round((attention.column + 0.5) * image.shape[1] / attention.map_size.width)
    y = round((attention.row + 0.5) * image.shape[0] / attention.map_size.height)
    reach = max(6, image.shape[0] // 24)
    for color, thickness in (((255, 255, 255), 4), (_CROSS, 2)):
        cv2.line(marked, (x - reach, y), (x + reach, y), color, thickness)
        cv2.line(marked, (x, y - reach), (x, y + reach), color, thickness)
    return np.asarray(marked, np.uint8)


def draw_sheet(rows_of_panels: Sequence[Mapping[str, UInt8Array]]) -> UInt8Array:
    """Rows of panels, caption → (h, w, 3) RGB, as one picture."""
    rows = [np.concatenate([caption(panel, text) for text, panel in panels.items()], 1) for panels in rows_of_panels]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.asarray(np.concatenate(padded, 0), np.uint8)
