"""All measures of one way to segment, from frames that come one by one: needs no files, keeps no frame but the last.

    pairs, measures = PairMatcher(), Measures(segmenter.labels)
    for frame, truth in …:
        result = segmenter.step(frame.image, frame.stamp_ns)
        measures.add(result, truth, pairs.next(frame.image))
    measures.summary()

Accuracy is measured in the classes of a mapping, steadiness on the weights' own label maps. Where the stream begins anew with
another picture (gap, cut, backward stamp, another size, …), all measures over time begin anew: no pair and no window reaches
over it. A reset on request leaves the picture as it is, so what is unsteady there counts.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.errors import InputError
from lmanet_core.evaluation.flow import to_grid
from lmanet_core.frame import Discontinuity, FrameResult
from lmanet_core.geometry import Size
from lmanet_core.labels import UNLABELLED, LabelSet
from lmanet_core.labels.mapping import LabelMapping
from lmanet_core.metrics import ConfusionMatrix, Matches, Steadiness, VideoConsistency

MVC_FRAMES = 8
BOUNDARY_SHARE = 0.0075  # of the diagonal: how far from a border of the truth a pixel counts for the boundary's mIoU
SINCE_RESET = (0, 1, 2, 3, 4, 5, 10, 20, 50)  # lower bounds of the groups "frames since the memory was cleared"
_SAME_PICTURE = (None, Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP)
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class FrameScores:
    """What is known of one frame; None where it cannot be.

    Attributes:
        accuracy: share of its known pixels with the right class.
        agreement: share of the matched pixels with the label they had in the frame before.
        flicker: share of the pixels that look as in the frame before and have another label.
        since_reset: frames since the memory was cleared, 0 for the frame that cleared it.
    """

    accuracy: float | None
    agreement: float | None
    flicker: float | None
    since_reset: int


class Measures:
    """Counts of one way to segment one stream; `absorb` adds those of others.

    Args:
        labels: classes of the weights.
        mapping: how label images and weights meet; None: label images hold the weights' ids.
    """

    def __init__(self, labels: LabelSet, mapping: LabelMapping | None = None) -> None:
        self.mapping = mapping or LabelMapping.identity(labels)
        classes = len(self.mapping.classes.names)
        self.frames = 0
        self.labelled = 0
        self.boundary_px = 0
        self.unjudged = 0
        self.matrix = ConfusionMatrix(classes)
        self.boundary = ConfusionMatrix(classes)
        self.since_reset = [ConfusionMatrix(classes) for _ in SINCE_RESET]
        self.unknown_values: Counter[int] = Counter()
        self._steadiness = Steadiness(len(labels.names))
        self._video = VideoConsistency(MVC_FRAMES, classes)
        self._before: UInt8Array | None = None
        self._since_reset = 0

    def add(self, result: FrameResult, truth: UInt8Array | None = None, matches: Matches | None = None) -> FrameScores:
        """Add the next frame.

        Args:
            result: of the segmenter.
            truth: (H, W) uint8 ids as a label image holds them; None for frames without. May be larger or smaller than the
                result's label map, whose nearest pixels are then compared.
            matches: of the frame before to this one, see `PairMatcher`; None: not measured.

        Raises:
            InputError: truth with another aspect ratio.
        """
        self.frames += 1
        self._since_reset = 0 if result.discontinuity is not None else self._since_reset + 1
        before, self._before = self._before, result.labels
        if result.discontinuity not in _SAME_PICTURE:
            before = None
        if before is None or truth is None:
            self._video.reset()
        agreement = flicker = None
        if matches is not None and before is not None:
            pair = self._steadiness.update(matches, to_grid(before, matches), to_grid(result.labels, matches))
            agreement, flicker = _number(pair.agreement()), _number(pair.flicker())
        accuracy = None if truth is None else self._score(result.labels, truth)
        return FrameScores(accuracy, agreement, flicker, self._since_reset)

    def summary(self) -> dict[str, Any]:
        """Figures so far as plain numbers; None where nothing was measured."""
        names = self.mapping.classes.names
        return {
            "frames": self.frames,
            "labelled_frames": self.labelled,
            "unjudged": self._unjudged_share(),
            "accuracy": _number(self.matrix.accuracy()),
            "miou": _number(self.matrix.mean_iou_of_truth()),
            "miou_union": _number(self.matrix.mean_iou()),
            "classes_in_truth": int(self.matrix.in_truth().sum()),
            "classes_present": self.matrix.classes_present(),
            "only_predicted": [names[index] for index in np.flatnonzero(self.matrix.only_predicted())],
            "iou": {name: _number(iou) for name, iou in zip(names, self.matrix.iou(), strict=True)},
            "boundary_miou": _number(self.boundary.mean_iou_of_truth()),
            "boundary_px": self.boundary_px,
            f"mvc_{MVC_FRAMES}": _number(self._video.value()),
            "tc": _number(self._steadiness.consistency()),
            "flicker": _number(self._steadiness.flicker()),
            "agreement": _number(self._steadiness.agreement()),
            "pairs": self._steadiness.pairs,
            "since_reset": [
                {
                    "from": least,
                    "pixels": int(matrix.counts.sum()),
                    "accuracy": _number(matrix.accuracy()),
                    "miou": _number(matrix.mean_iou_of_truth()),
                }
                for least, matrix in zip(SINCE_RESET, self.since_reset, strict=True)
            ],
            "confusion": self.matrix.counts.tolist(),
        }

    def _unjudged_share(self) -> float | None:
        known = self.unjudged + int(self.matrix.counts.sum())
        return self.unjudged / known if known and self.mapping.void_predictions else None

    def absorb(self, other: Measures) -> None:
        """Add the counts of another stream with the same classes; nothing is compared across the two."""
        self.frames += other.frames
        self.labelled += other.labelled
        self.unjudged += other.unjudged
        self.boundary_px = max(self.boundary_px, other.boundary_px)
        for ours, theirs in zip(self._matrices(), other._matrices(), strict=True):
            ours.counts += theirs.counts
        self.unknown_values.update(other.unknown_values)
        self._steadiness.absorb(other._steadiness)
        self._video.absorb(other._video)

    def _matrices(self) -> tuple[ConfusionMatrix, ...]:
        return (self.matrix, self.boundary, *self.since_reset)

    def _score(self, labels: UInt8Array, ids: UInt8Array) -> float | None:
        size, labels_size = Size(*ids.shape), Size(*labels.shape)
        stretch = (size.width * labels_size.height) / (size.height * labels_size.width)
        if abs(stretch - 1.0) > _ASPECT_TOLERANCE:
            raise InputError(f"label images and label maps must show the same picture, got {size} and {labels_size}")
        self._count_unknown(ids)
        truth, seen = self.mapping.map_truth(ids), resize_labels(labels, size)
        prediction = self.mapping.map_prediction(seen)
        self.boundary_px = max(1, round(BOUNDARY_SHARE * math.hypot(*size)))
        near = near_boundary(truth, self.boundary_px)
        if self.mapping.void_predictions:
            unjudged = self.mapping.is_void(seen) & (truth != UNLABELLED)
            self.unjudged += int(unjudged.sum())
            truth = np.where(unjudged, np.uint8(UNLABELLED), truth)
        one = ConfusionMatrix(self.matrix.num_classes)
        one.update(prediction, truth)
        self.matrix.counts += one.counts
        group = max(index for index, least in enumerate(SINCE_RESET) if least <= self._since_reset)
        self.since_reset[group].counts += one.counts
        self.boundary.update(prediction[near], truth[near])
        self._video.update(prediction, truth)
        self.labelled += 1
        return _number(one.accuracy())

    def _count_unknown(self, ids: UInt8Array) -> None:
        if not cv2.LUT(ids, (~self.mapping.known).astype(np.uint8)).any():
            return
        counts = np.bincount(ids.ravel(), minlength=256)
        for value in np.flatnonzero((counts > 0) & ~self.mapping.known):
            self.unknown_values[int(value)] += int(counts[value])


def near_boundary(truth: UInt8Array, reach_px: int) -> npt.NDArray[np.bool_]:
    """Pixels within `reach_px` (along rows, columns or diagonals) of a border between two values of a label map (H, W).

    The trimap of Kohli et al. (2009); the two pixels at a border are its first pixels on either side.
    """
    border = np.zeros(truth.shape, np.uint8)
    sideways, downwards = truth[:, 1:] != truth[:, :-1], truth[1:] != truth[:-1]
    border[:, 1:] |= sideways
    border[:, :-1] |= sideways
    border[1:] |= downwards
    border[:-1] |= downwards
    side = 2 * (reach_px - 1) + 1
    return np.asarray(cv2.dilate(border, np.ones((side, side), np.uint8)), bool)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
