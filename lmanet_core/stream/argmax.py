"""From logits to labels: the likeliest class of each pixel, and how likely it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import torch

#: Of float32 logits that each thread of a CPU works on at a time: fewer are more calls, more leave the caches.
STRIPE_BYTES = 2 << 20

_FAR = 3e38
_LOG2_E = math.log2(math.e)


def argmax_labels(logits: torch.Tensor, confidence: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The class of each pixel.

    Args:
        logits: (1, C, h, w) of 1 to 255 classes, in any layout.
        confidence: whether it is wanted.

    Returns:
        Labels (h, w) uint8, the first of classes that are equally likely; softmax probability of that class as (h, w) uint8
        0–255, or None. Where a logit is NaN the label is some class.
    """
    if logits.is_cpu:
        return _argmax_in_stripes(logits[0], confidence)
    labels = logits.max(1).indices[0].to(torch.uint8)
    if not confidence:
        return labels, None
    planes = logits[0].contiguous()  # one for each class: sums over whole planes are several times faster
    return labels, _as_byte((planes - planes.amax(0)).exp_().sum(0)).to(torch.uint8)


def _argmax_in_stripes(logits: torch.Tensor, confidence: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `argmax_labels`, of (C, h, w), some rows at a time and one plane for each class: half the time, and no large maps."""
    classes, height, width = logits.shape
    labels = torch.empty(height, width, dtype=torch.uint8)
    certain = torch.empty(height, width, dtype=torch.uint8) if confidence else None
    planes = ClassPlanes(logits)
    for rows in stripes(height, classes * width * 4, STRIPE_BYTES * torch.get_num_threads()):
        labels[rows] = planes.look(rows)
        if certain is not None:
            certain[rows] = _as_byte(exponentials_(planes.relative).sum(0))
    return labels, certain


class ClassPlanes:
    """Logits, some rows at a time, as one plane for each class, in memory that is used again.

    Args:
        logits: (C, h, w), in any layout.

    Attributes:
        relative: (C, r, w) float32, the rows that were looked at last less the best logit of each pixel.
    """

    relative: torch.Tensor

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits.detach()
        self._memory = self._moved = torch.empty(0, device=logits.device)
        self._turned = logits.new_empty(0)
        classes = len(logits)
        self._ranks = torch.arange(classes, 0, -1, dtype=torch.float32, device=logits.device).view(classes, 1, 1)

    def look(self, rows: slice) -> torch.Tensor:
        """(r, w) float32, a whole number: the first of the likeliest classes.

        Several times faster on a CPU than `argmax` or a comparison: all but the best are moved far down.
        """
        logits = self._logits[:, rows]
        if self._memory.numel() < logits.numel():
            self._memory, self._moved = (torch.empty(logits.numel(), device=logits.device) for _ in range(2))
        self.relative, moved = (one[: logits.numel()].view(logits.shape) for one in (self._memory, self._moved))
        self._copy(logits)
        self.relative.sub_(self.relative.amax(0))
        best = torch.add(self._ranks, self.relative, alpha=_FAR, out=moved).amax(0).nan_to_num_(1.0)
        return len(self._ranks) - best

    def _copy(self, logits: torch.Tensor) -> None:
        """To `relative`."""
        classes, height, width = logits.shape
        across, down = logits.stride(2), logits.stride(1)
        if not (logits.is_cpu and logits.stride(0) == 1 and down == width * across and logits.element_size() in (2, 4)):
            self.relative.copy_(logits)
            return
        pixels = torch.as_strided(logits, (height * width, classes), (across, 1))  # OpenCV turns it several times faster
        if logits.dtype == torch.float32:
            cv2.transpose(pixels.numpy(), self.relative.view(classes, -1).numpy())
            return
        if self._turned.numel() < logits.numel():
            self._turned = logits.new_empty(logits.numel())
        turned = self._turned[: logits.numel()].view(classes, -1)
        cv2.transpose(pixels.view(torch.int16).numpy(), turned.view(torch.int16).numpy())
        self.relative.copy_(turned.view_as(self.relative))


def stripes(height: int, row_bytes: int, stripe_bytes: int) -> Iterator[slice]:
    """Rows to be worked on at a time, so that they take no more than so many bytes."""
    step = max(1, stripe_bytes // max(1, row_bytes))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def exponentials_(planes: torch.Tensor) -> torch.Tensor:
    """e to the power of each, in place; twice as fast as `exp_` on a CPU."""
    return planes.mul_(_LOG2_E).exp2_()


def _as_byte(total: torch.Tensor) -> torch.Tensor:
    """(h, w) of which the likeliest class has 1 → its probability, 0–255."""
    return (255.0 / total).round_()
