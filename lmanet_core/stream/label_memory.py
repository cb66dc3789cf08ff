"""What a stream believes about the class of each pixel.

The labels of the past are moved along the picture's motion and corrected by each frame. Works on the logits of any network,
needs no training and delays nothing.

    logits ─┐
    belief ─┴→ where the pixel was → past and present weighed → labels, confidence, new belief
    evidence ┘      (label_evidence)

A belief keeps the two likeliest classes of each pixel, their probabilities and how much evidence stands behind them: its size
does not grow with the number of classes. `blend` is a pure function of tensors, the same for a CPU and within a CUDA graph, but
that OpenCV moves the belief on a CPU; `LabelMemory` belongs to one stream and to one thread at a time.

For a pixel x that was at y in the frame before, with the network's probability p, the belief's q, evidence n, and the share h
of the past that holds:

    c = p_best² + 0.02                                             a sure frame counts more
    w = h · n(y) / (n(y) + c)
    q(x) ← (1 − w) p(x) + w q(y),   n(x) ← min(c / (1 − w), N)     a mean over time while h is 1

Where the picture is lost, c is small, h is 1 and the evidence fades.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.geometry import Size
from lmanet_core.stream.argmax import STRIPE_BYTES, ClassPlanes, exponentials_, stripes
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT, PictureComparison

_MOST_EVIDENCE = 8.0  # N, frames: a belief can always be changed
_LEAST_CERTAINTY = 0.02
_LOST_COUNTS = 0.03  # of a frame, where the picture is lost
_FADES = 0.8  # evidence kept from frame to frame, where the picture is lost

# A probability and its class are one word: a float32 whose last 8 bits are the class. Such words compare as whole numbers.
# A belief's first plane holds the likeliest class in that way. Its second plane holds the runner-up: the first 16 bits of its
# probability (a bfloat16), 8 bits of the evidence's root, and the class.
_CLASS = 0xFF
_PROBABILITY = -1 << 8
_SHORT_PROBABILITY, _HALF_OF_ITS_LAST_BIT = -1 << 16, 1 << 15
_EVIDENCE_SHIFT = 8
_ROOT_UNIT = 255.0 / _MOST_EVIDENCE**0.5
_SEEN_WINS = 1.0 + 2.0**-14  # against words that differ from its own by no more than the bits of the class
_OPENCV_SIDE = 32767  # pixels; `cv2.remap` takes less
_THREAD_PIXELS = 1 << 18  # that each thread of a CPU works on at a time, looking at the logits of fewer at a time


@dataclass(frozen=True, slots=True, eq=False)
class LabelView:
    """What one image may use of the past labels.

    Attributes:
        evidence: (3, h, w) float32, see `PictureComparison`; None: nothing, there is no past, or the device looks for itself.
    """

    evidence: Float32Array | None


class LabelMemory:
    """The past labels of one stream.

    Attributes:
        belief: (2, H, W) int32 at the logits' size; None while nothing is believed.
        picture: (3, h, w) float32, the thumbnail that it is of, where a device looks for itself.
    """

    def __init__(self) -> None:
        self.belief: torch.Tensor | None = None
        self.picture: torch.Tensor | None = None
        self._comparison = PictureComparison()
        self._open: LabelView | None = None

    def view(self, image: UInt8Array | None) -> LabelView:
        """What an image may use.

        Args:
            image: (H, W, 3) uint8 RGB as the network sees it; None: the device looks at it.
        """
        evidence = None if image is None else self._comparison.compare(image)
        self._open = LabelView(None if self.belief is None else evidence)
        return self._open

    def commit(self, view: LabelView, belief: torch.Tensor, picture: torch.Tensor | None = None) -> None:
        """Believe what `blend` made of the image that a view was made for.

        Args:
            view: the last one made, not committed yet.
            belief: (2, H, W) int32; kept, not copied.
            picture: (3, h, w) float32, from a device that looked for itself; kept, not copied.

        Raises:
            ValueError: another view was made since, or this one was committed before.
        """
        if view is not self._open:
            raise ValueError("a frame is believed once, with the last view that was made for it")
        self._open = None
        self._comparison.commit()
        self.belief, self.picture = belief, picture

    def clear(self) -> None:
        """Forget the stream."""
        self._open = self.belief = self.picture = None
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

    look = _Look(logits[0])
    for rows in stripes(height, width, _THREAD_PIXELS * torch.get_num_threads()) if logits.is_cpu else (slice(0, height),):
        words = past.words(rows)
        kinds = words & _CLASS
        first, after[1, rows] = _weigh(words, kinds, past.factors(rows), look(rows, kinds))
        after[0, rows] = first
        labels[rows] = first & _CLASS
        certain[rows] = first.view(torch.float32).mul(255.0).add_(0.5)
    return labels, certain, after


def no_belief(size: Size, classes: int, device: torch.device) -> torch.Tensor:
    """(2, H, W) int32: nothing is believed of any pixel. The two classes of a pixel always differ."""
    belief = torch.zeros(2, *size, dtype=torch.int32, device=device)
    belief[1] = min(1, classes - 1)
    return belief


def likeliest(belief: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a belief (2, H, W) int32 says: its two classes (2, H, W) int32, the likelier first, and their probabilities."""
    shares = torch.stack((belief[0] & _PROBABILITY, belief[1] & _SHORT_PROBABILITY)).view(torch.float32)
    return belief & _CLASS, shares


class _Factors(NamedTuple):
    """What becomes of some pixels' past, each (r, W) float32 or the same for all.

    Attributes:
        holds: the share of it that holds.
        remains: the evidence that remains, for each unit of a word's.
        present: how much the present counts.
    """

    holds: torch.Tensor
    remains: torch.Tensor | float
    present: torch.Tensor | float


class _Past:
    """A belief, brought to the pixels of an image; asked for some rows at a time."""

    def __init__(self, belief: torch.Tensor, evidence: torch.Tensor, strength: float) -> None:
        height, width = belief.shape[1:]
        self._height, self._lines = height, evidence.shape[1]
        shift = torch.stack((evidence[RIGHT] * width, evidence[DOWN] * height))
        move = _move_by_opencv if belief.is_cpu and max(height, width) < _OPENCV_SIDE else _move
        self._words = move(belief, shift)
        holds = evidence[HOLDS]
        lost = (holds == LOST).float()
        factors = [torch.where(holds == LOST, strength, holds * strength)]
        if not evidence.is_cpu or bool(lost.any()):  # else both are the same everywhere
            factors += [_ROOT_UNIT**-2 + (_FADES - 1.0) * _ROOT_UNIT**-2 * lost, 1.0 + (_LOST_COUNTS - 1.0) * lost]
        # rows follow when they are wanted, which is faster
        self._factors = interpolate(torch.stack(factors)[None], (self._lines, width), mode="nearest")[0]

    def words(self, rows: slice) -> torch.Tensor:
        """(2, r, W) int32: what was believed where the pixels of some rows were."""
        return self._words[:, rows]

    def factors(self, rows: slice) -> _Factors:
        """Of some rows."""
        row = torch.arange(rows.start, rows.stop, dtype=torch.float32, device=self._factors.device)
        lines = row.mul_(self._lines / self._height).long()  # as `interpolate` takes the nearest
        holds, *others = self._factors.index_select(1, lines)
        return _Factors(holds, *(others or (_ROOT_UNIT**-2, 1.0)))


def _move(belief: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A belief (2, H, W) where each pixel was, by the nearest pixel; `shift` (2, h, w) is in pixels, right and down."""
    _, height, width = belief.shape
    right, down = interpolate(shift[None], (height, width), mode="bilinear", align_corners=False)[0]
    rows, columns = (torch.arange(size, dtype=torch.float32, device=shift.device) for size in (height, width))
    row = down.add_(rows[:, None]).round_().clamp_(0, height - 1).int()
    column = right.add_(columns).round_().clamp_(0, width - 1).int()
    where = torch.add(column, row, alpha=width).flatten()
    return belief.flatten(1).index_select(1, where).view_as(belief)


def _move_by_opencv(belief: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """As `_move`, on a CPU, in less time. A word is copied as it is, whatever number its bits are."""
    _, height, width = belief.shape
    smooth = cv2.resize(shift.permute(1, 2, 0).contiguous().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    where = cv2.add(smooth, _pixels(height, width), dst=smooth)
    moved = torch.empty_like(belief)
    for before, now in zip(belief.view(torch.float32).numpy(), moved.view(torch.float32).numpy(), strict=True):
        cv2.remap(before, where, None, cv2.INTER_NEAREST, dst=now, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return moved


@lru_cache(maxsize=2)
def _pixels(height: int, width: int) -> Float32Array:
    """(H, W, 2): column and row of each pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack((columns, rows)).astype(np.float32)


class _Seen(NamedTuple):
    """What the network says of some pixels.

    Attributes:
        best: (r, W) int32, the likeliest class.
        total: (r, W) float32, of which the likeliest class has 1; infinite where the network says nothing.
        shares: (2, r, W) float32 of the same total, of the two classes that were believed.
    """

    best: torch.Tensor
    total: torch.Tensor
    shares: torch.Tensor


class _Look:
    """What logits (C, H, W) say of the likeliest class and of two others, some rows at a time."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits, self._planes = logits, ClassPlanes(logits)
        self._pixels = torch.empty(0, dtype=torch.int32, device=logits.device)

    def __call__(self, rows: slice, believed: torch.Tensor) -> _Seen:
        """Some rows.

        Args:
            rows: of the logits.
            believed: (2, r, W) int32, classes.
        """
        (classes, _, width), device = self._logits.shape, self._logits.device
        height = rows.stop - rows.start
        best, total = (torch.empty(height, width, device=device) for _ in range(2))
        shares = torch.empty(2, height, width, device=device)
        cached = STRIPE_BYTES * torch.get_num_threads()
        for part in stripes(height, classes * width * 4, cached) if self._logits.is_cpu else (slice(0, height),):
            best[part] = self._planes.look(slice(rows.start + part.start, rows.start + part.stop))
            planes = exponentials_(self._planes.relative)
            torch.sum(planes, 0, out=total[part])
            count = planes[0].numel()
            for kind, share in zip(believed[:, part], shares[:, part], strict=True):
                where = torch.add(self._first(count, planes.numel()), kind.flatten(), alpha=count)
                torch.index_select(planes.view(-1), 0, where, out=share.view(-1))
        return _Seen(best.int(), torch.nan_to_num_(total, torch.inf), torch.nan_to_num_(shares, 0.0))

    def _first(self, count: int, most: int) -> torch.Tensor:
        """0 to `count` − 1, in whole numbers that reach `most`."""
        if len(self._pixels) < count:
            kind = torch.int32 if most < 1 << 31 else torch.int64
            self._pixels = torch.arange(count, dtype=kind, device=self._pixels.device)
        return self._pixels[:count]


def _weigh(words: torch.Tensor, kinds: torch.Tensor, factors: _Factors, seen: _Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas of this module, for the two classes that were believed and the one that is seen.

    Args:
        words: (2, r, W) int32, as `_Past.words`.
        kinds: (2, r, W) int32, their classes.
        factors: as `_Past.factors`.
        seen: what the network says.

    Returns:
        The two planes of the new belief, (r, W) int32 each.
    """
    evidence = (words[1] >> _EVIDENCE_SHIFT).bitwise_and_(_CLASS).float().square_().mul_(factors.remains)
    counts = seen.total.reciprocal().square_().add_(_LEAST_CERTAINTY).mul_(factors.present)
    weight = evidence.div_(evidence + counts).mul_(factors.holds)
    rest = 1.0 - weight
    scale = rest / seen.total
    shares = seen.shares.mul_(scale)
    shares[0].addcmul_(words[0].view(torch.float32), weight)
    shares[1].addcmul_((words[1] & _SHORT_PROBABILITY).view(torch.float32), weight)
    past = _word(shares, kinds)
    high, low = torch.maximum(*past), torch.minimum(*past)
    now = _word(scale.mul_(_SEEN_WINS), seen.best)
    differs = (high ^ now).bitwise_and_(_CLASS).clamp_(max=1)
    first = torch.maximum(high, now)
    second = torch.minimum(high, now, out=now).mul_(differs)  # the two classes of a belief differ
    second = torch.maximum(second, low, out=low).add_(_HALF_OF_ITS_LAST_BIT).bitwise_and_(_SHORT_PROBABILITY | _CLASS)
    evidence = counts.div_(rest).clamp_(max=_MOST_EVIDENCE).sqrt_().mul_(_ROOT_UNIT).add_(0.5).int()
    return first, second.bitwise_or_(evidence.bitwise_left_shift_(_EVIDENCE_SHIFT))


def _word(probability: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """Probabilities 0–1, which are overwritten, and classes → words."""
    return probability.view(torch.int32).bitwise_and_(_PROBABILITY).bitwise_or_(kind)
