"""The label memory in operators that every exchange format has: `label_memory.blend` for programs that leave PyTorch.

TensorRT and OpenVINO have no shifts of whole numbers, so the belief is planes of float32 here, that hold the same whole numbers
as the words of `label_memory`; the formulas, the order of two equally likely classes and what is dropped by rounding are the
same. `test_export.py` holds both against each other.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from lmanet_core.stream import label_memory as words
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT

#: Planes of a belief: likeliest class, its share of 0–4095, runner-up, its share, evidence in 64ths of a frame.
PLANES = 5
_DROPPED = float(1 << words._DROPPED_BITS)
_Scored = tuple[torch.Tensor, torch.Tensor]  # score and class, whole numbers in float32


def blend_planes(
    logits: torch.Tensor, belief: torch.Tensor, evidence: torch.Tensor, strength: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`label_memory.blend`, the belief as planes.

    Args:
        logits: (1, C, H, W) float32.
        belief: (5, H, W) float32; zeros: nothing is believed.
        evidence: (3, h, w) float32; zeros: nothing of the past holds.
        strength: 0–1.

    Returns:
        Labels and probability (H, W) as float32 of whole numbers 0–255; the new belief (5, H, W).
    """
    classes, height, width = logits.shape[1:]
    highest, best = logits[0].max(0)
    shares = (logits[0] - highest).exp()
    total = shares.sum(0)
    sure = _numbers(1.0 / total)
    counts = sure * sure + words._LEAST_CERTAINTY
    first_class, first_share, second_class, second_share, known = _moved(belief, evidence)
    unbelieved = (first_share == 0.0) & (known == 0.0)
    second_class = torch.where(unbelieved, float(min(1, classes - 1)), second_class)

    holds = interpolate(evidence[None, HOLDS : HOLDS + 1], (height, width), mode="nearest")[0, 0]
    lost = (holds == LOST).float()
    gathered = known * (1.0 / words._EVIDENCE_UNIT) * (1.0 - (1.0 - words._FADES) * lost)
    counts = counts * (1.0 - (1.0 - words._LOST_COUNTS) * lost)
    weight = holds.clamp(max=1.0) * strength * gathered / (gathered + counts)
    rest = 1.0 - weight
    scale, weight = _numbers(rest / total), weight * (1.0 / words._STORED_UNIT)
    now = torch.where(total == total, best.float(), float(classes - 1))  # as `first_equal`

    def believed(kind: torch.Tensor, share: torch.Tensor) -> _Scored:
        seen = _numbers(shares.gather(0, kind.long().unsqueeze(0))[0])
        return _scored(seen * scale + weight * share), kind

    one, other = believed(first_class, first_share), believed(second_class, second_share)
    among = (first_class == now) | (second_class == now)
    third = _scored(torch.where(among, 0.0, sure * rest)), now
    high, low = _sorted(one, other)
    first, middle = _sorted(high, third)
    second, _ = _sorted(low, middle)
    gathered = torch.floor((counts / rest).clamp(max=words._MOST_EVIDENCE) * words._EVIDENCE_UNIT)
    certain = torch.floor(first[0] * (255.0 / words._SCORE_UNIT) + 0.5)
    after = torch.stack((first[1], torch.floor(first[0] / _DROPPED), second[1], torch.floor(second[0] / _DROPPED), gathered))
    return first[1], certain, after


def _moved(belief: torch.Tensor, evidence: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The planes of a belief at the pixels where they are now."""
    _, height, width = belief.shape
    shift = interpolate(evidence[None, :HOLDS], (height, width), mode="bilinear", align_corners=False)[0]
    rows = torch.arange(height, dtype=torch.float32)[:, None] + (shift[DOWN] * height).round()
    columns = torch.arange(width, dtype=torch.float32) + (shift[RIGHT] * width).round()
    origin = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)  # exact up to 2^24 pixels
    moved = belief.flatten(1).index_select(1, origin.long().flatten())
    return tuple(plane.view(height, width) for plane in moved)


def _numbers(values: torch.Tensor) -> torch.Tensor:
    """0 where a value is NaN; only that differs from itself."""
    return torch.where(values == values, values, 0.0)


def _scored(share: torch.Tensor) -> torch.Tensor:
    return torch.floor(share * words._SCORE_UNIT)


def _sorted(one: _Scored, other: _Scored) -> tuple[_Scored, _Scored]:
    """The larger first; of equal scores the higher class."""
    larger = (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] >= other[1]))
    first = torch.where(larger, one[0], other[0]), torch.where(larger, one[1], other[1])
    return first, (torch.where(larger, other[0], one[0]), torch.where(larger, other[1], one[1]))
