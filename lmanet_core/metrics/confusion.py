"""Accuracy and intersection over union from one confusion matrix over a whole set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs; void truth is ignored, a prediction outside the classes is a miss.

    Args:
        num_classes: classes 0 … num_classes − 1; any other truth value is void.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= 255:
            raise ValueError(f"a confusion matrix has 1 to 255 classes, got {num_classes}")
        self.num_classes = num_classes
        #: (num_classes, num_classes + 1) counts: rows truth, columns prediction, the last column "none of the classes".
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> None:
        """Add one label map.

        Args:
            prediction: (H, W) uint8.
            truth: (H, W) uint8.

        Raises:
            ValueError: sizes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction and truth must have one size, got {prediction.shape} and {truth.shape}")
        columns = self.num_classes + 1
        known = truth < self.num_classes
        pairs = truth[known].astype(np.int64) * columns + np.minimum(prediction[known], self.num_classes)
        self.counts += np.bincount(pairs, minlength=self.num_classes * columns).reshape(self.counts.shape)

    def accuracy(self) -> float:
        """Share of known pixels with the right class; NaN while there are none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    def iou(self) -> npt.NDArray[np.float64]:
        """(num_classes,) intersection over union; NaN for classes that neither truth nor prediction has."""
        hits = np.diagonal(self.counts).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, : self.num_classes].sum(0) - hits
        iou: npt.NDArray[np.float64] = np.divide(hits, union, out=np.full(self.num_classes, np.nan), where=union > 0)
        return iou

    def mean_iou(self) -> float:
        """Mean over the classes that truth or prediction has; NaN while there are none. Say how many with `classes_present`."""
        return self._mean(np.isfinite(self.iou()))

    def mean_iou_of_truth(self) -> float:
        """Mean over the classes that truth has; NaN while there are none. Say how many with `in_truth`."""
        return self._mean(self.in_truth())

    def mean_iou_above(self, share: float) -> float:
        """Mean over the classes that truth or prediction has at this share of the pixels or more; NaN while there are none."""
        pixels = self.counts.sum(1) + self.counts[:, : self.num_classes].sum(0) - np.diagonal(self.counts)
        return self._mean((pixels > 0) & (pixels >= share * self.counts.sum()))

    def in_truth(self) -> npt.NDArray[np.bool_]:
        """(num_classes,) which classes truth has."""
        return np.asarray(self.counts.sum(1) > 0)

    def only_predicted(self) -> npt.NDArray[np.bool_]:
        """(num_classes,) which classes prediction has and truth does not: their IoU is 0."""
        return np.isfinite(self.iou()) & ~self.in_truth()

    def classes_present(self) -> int:
        """Number of classes that truth or prediction has."""
        return int(np.isfinite(self.iou()).sum())

    def _mean(self, classes: npt.NDArray[np.bool_]) -> float:
        return float(self.iou()[classes].mean()) if classes.any() else float("nan")
