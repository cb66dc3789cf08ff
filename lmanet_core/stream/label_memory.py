"""What a stream believes about the class of each pixel.

The labels of the past are moved along the picture's motion and corrected by each frame. Works on the logits of any network,
needs no training and delays nothing.

    logits ─┐
    belief ─┴→ where the pixel was → past and present weighed → labels, confidence, new belief
    evidence ┘      (label_evidence)

A belief keeps the two likeliest classes of each pixel, their probabilities and how much evidence stands behind them: its size
does not grow with the number of classes. `blend` is a pure function of tensors, the same for a CPU and within a CUDA graph;
`LabelMemory` belongs to one stream and to one thread at a time.

For a pixel x that was at y in the frame before, with the network's probability p, the belief's q, evidence n, and the share h
of the past that holds:

    c = p_best² + 0.02                                             a sure frame counts more
    w = h · n(y) / (n(y) + c)
    q(x) ← (1 − w) p(x) + w q(y),   n(x) ← min(c / (1 − w), N)     a mean over time while h is 1

Where the picture is lost, c is small, h is 1 and the evidence fades.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.geometry import Size
from lmanet_core.stream.argmax import first_equal, stripes
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT, PictureComparison

_MOST_EVIDENCE = 8.0  # N, frames: a belief can always be changed
_LEAST_CERTAINTY = 0.02
_LOST_COUNTS = 0.03  # of a frame, where the picture is lost
_FADES = 0.8  # evidence kept from frame to frame, where the picture is lost
_STRIPE_BYTES = 4 << 20  # of logits that a CPU works on at a time

# A scored class is a whole number that compares by probability: 22 bits of it above 8 bits of class. A belief's first word
# holds 12 bits of probability, the class and 11 bits of evidence; the second one probability and class of the runner-up.
_SCORE_UNIT = float((1 << 22) - 1)
_STORED_UNIT = float((1 << 12) - 1)
_DROPPED_BITS, _CLASS_BITS, _EVIDENCE_BITS = 10, 8, 11
_EVIDENCE_UNIT = 64.0  # evidence of one frame
_CLASS = (1 << _CLASS_BITS) - 1


@dataclass(frozen=True, slots=True, eq=False)
class LabelView:
    """What one image may use of the past labels.

    Attributes:
        evidence: (3, h, w) float32, see `PictureComparison`; None: nothing, there is no past.
    """

    evidence: Float32Array | None


class LabelMemory:
    """The past labels of one stream.

    Attributes:
        belief: (2, H, W) int32 at the logits' size; None while nothing is believed.
    """

    def __init__(self) -> None:
        self.belief: torch.Tensor | None = None
        self._comparison = PictureComparison()
        self._open: LabelView | None = None

    def view(self, image: UInt8Array) -> LabelView:
        """What an image may use.

        Args:
            image: (H, W, 3) uint8 RGB as the network sees it.
        """
        evidence = self._comparison.compare(image)
        self._open = LabelView(None if self.belief is None else evidence)
        return self._open

    def commit(self, view: LabelView, belief: torch.Tensor) -> None:
        """Believe what `blend` made of the image that a view was made for.

        Args:
            view: the last one made, not committed yet.
            belief: (2, H, W) int32; kept, not copied.

        Raises:
            ValueError: another view was made since, or this one was committed before.
        """
        if view is not self._open:
            raise ValueError("a frame is believed once, with the last view that was made for it")
        self._open = None
        self._comparison.commit()
        self.belief = belief

    def clear(self) -> None:
        """Forget the stream."""
        self._open = self.belief = None
        self._comparison.clear()


def blend(
    logits: torch.Tensor, belief: torch.Tensor | None, evidence: torch.Tensor | None, strength: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weigh past labels against what the network says now.

    Args:
        logits: (1, C, H, W) of 1 to 255 classes, in any layout. Where one is NaN or infinite the past decides alone.
        belief: (2, H, W) int32 of the frame before; None: there is none.
        evidence: (3, h, w) float32 about this image and the one before, see `label_evidence`; None: nothing of the past holds,
            and the labels are the network's own.
        strength: 0–1, share of the past that is used where all of it holds.

    Returns:
        Labels (H, W) uint8; probability of that class as (H, W) uint8 0–255; the new belief (2, H, W) int32.
    """
    classes, height, width = logits.shape[1:]
    labels, certain = (torch.empty(height, width, dtype=torch.uint8, device=logits.device) for _ in range(2))
    after = torch.empty(2, height, width, dtype=torch.int32, device=logits.device)
    if belief is None or evidence is None:
        belief = no_belief(Size(height, width), classes, logits.device)
        evidence = logits.new_zeros(3, 1, 1, dtype=torch.float32)
    past = _Past(belief, evidence, strength)
    for rows in stripes(height, classes * width * 4, _STRIPE_BYTES) if logits.is_cpu else (slice(0, height),):
        shares = logits[0, :, rows].to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # (C, r, W)
        highest = shares.amax(0)
        best = first_equal(shares, highest)
        total = shares.sub_(highest).exp_().sum(0)
        sure = torch.nan_to_num_(1.0 / total, 0.0, 0.0, 0.0)  # probability of the likeliest class
        counts = sure.square().add_(_LEAST_CERTAINTY)
        first, second, gathered = past.weigh(rows, shares, total, best, sure, counts)
        labels[rows] = first & _CLASS
        certain[rows] = (first >> _CLASS_BITS) * (255.0 / _SCORE_UNIT) + 0.5
        words = gathered.clamp_(max=_MOST_EVIDENCE).mul_(_EVIDENCE_UNIT).int()
        after[0, rows] = words.bitwise_or_(_stored(first) << _EVIDENCE_BITS)
        after[1, rows] = _stored(second)
    return labels, certain, after


def no_belief(size: Size, classes: int, device: torch.device) -> torch.Tensor:
    """(2, H, W) int32: nothing is believed of any pixel. The two classes of a pixel always differ."""
    belief = torch.zeros(2, *size, dtype=torch.int32, device=device)
    belief[1] = min(1, classes - 1)
    return belief


class _Past:
    """A belief, brought to the pixels of an image some rows at a time."""

    def __init__(self, belief: torch.Tensor, evidence: torch.Tensor, strength: float) -> None:
        _, self._height, self._width = belief.shape
        self._words = belief.flatten(1)
        size = (self._height, self._width)
        moved = interpolate(evidence[None, :HOLDS], size, mode="bilinear", align_corners=False)[0]
        self._down = moved[DOWN].mul_(self._height).round_().int()  # (H, W), pixels
        self._right = moved[RIGHT].mul_(self._width).round_().int()
        self._holds = interpolate(evidence[None, HOLDS : HOLDS + 1], size, mode="nearest")[0, 0]
        self._strength = strength

    def weigh(
        self,
        rows: slice,
        shares: torch.Tensor,
        total: torch.Tensor,
        best: torch.Tensor,
        sure: torch.Tensor,
        counts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The formulas of this module, for the two classes that were believed and the one that is seen.

        Args:
            rows: of the image.
            shares: (C, r, W), of `total` (r, W): the network's probabilities.
            best: (r, W) uint8, its likeliest class.
            sure: (r, W), the probability of that.
            counts: (r, W), what this frame's evidence counts.

        Returns:
            The two likeliest classes with their scores, and the evidence, (r, W) each.
        """
        holds = self._holds[rows]
        lost = holds == LOST
        where = self._origins(rows)
        word, second = (words.index_select(0, where).view_as(best) for words in self._words)
        evidence = (word & ((1 << _EVIDENCE_BITS) - 1)) * (1.0 / _EVIDENCE_UNIT)
        evidence *= 1.0 - (1.0 - _FADES) * lost
        counts = counts * (1.0 - (1.0 - _LOST_COUNTS) * lost)
        weight = holds.clamp(max=1.0).mul_(self._strength).mul_(evidence).div_(evidence.add_(counts))
        rest = 1.0 - weight
        scale, weight = torch.nan_to_num(rest / total, 0.0, 0.0, 0.0), weight.mul_(1.0 / _STORED_UNIT)
        now = best.int()
        index = torch.int32 if shares.numel() < 1 << 31 else torch.int64
        pixel = torch.arange(best.numel(), dtype=index, device=best.device).view_as(best)
        scored, known = [], torch.zeros_like(lost)
        for past in (word >> _EVIDENCE_BITS, second):
            kind = past & _CLASS
            share = shares.flatten().index_select(0, (kind.to(index) * best.numel() + pixel).flatten()).view_as(total)
            share = torch.nan_to_num_(share, 0.0, 0.0, 0.0).mul_(scale).add_(weight * (past >> _CLASS_BITS))
            scored.append(_scored(share, kind))
            known |= kind == now
        high, low = torch.maximum(*scored), torch.minimum(*scored)
        third = _scored((sure * rest).masked_fill_(known, 0.0), now)  # what is seen, if it is neither of them
        return torch.maximum(high, third), torch.maximum(low, torch.minimum(high, third)), counts / rest

    def _origins(self, rows: slice) -> torch.Tensor:
        """Where the pixels of some rows were: the nearest pixel's number, flat."""
        row = torch.arange(rows.start, rows.stop, dtype=torch.int32, device=self._down.device)[:, None]
        column = torch.arange(self._width, dtype=torch.int32, device=self._down.device)
        down = (self._down[rows] + row).clamp_(0, self._height - 1)
        right = (self._right[rows] + column).clamp_(0, self._width - 1)
        flat: torch.Tensor = down * self._width + right
        return flat.flatten()


def _scored(probability: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """Probabilities 0–1 and classes → whole numbers that compare by probability."""
    return torch.bitwise_or((probability * _SCORE_UNIT).int() << _CLASS_BITS, kind)


def _stored(scored: torch.Tensor) -> torch.Tensor:
    """Scored classes with as much of the probability as is kept."""
    return (scored >> (_CLASS_BITS + _DROPPED_BITS) << _CLASS_BITS).bitwise_or_(scored & _CLASS)
