"""The label memory in operators that every exchange format has: `label_memory.blend` for programs that leave PyTorch.

TensorRT and OpenVINO have no words of bits, so the belief is planes of float32 here. The formulas are those of `label_memory`,
and what it drops by rounding is dropped here, but for the last bits of the likeliest class: labels differ only where two
classes are equally likely, or a pixel was between two others. `test_export.py` holds both against each other.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from lmanet_core.stream import label_memory as words
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT

#: Planes of a belief: likeliest class, its probability, runner-up, its probability, root of the evidence (0–255).
PLANES = 5
_SPLIT = float((1 << 16) + 1)  # leaves the first 8 of the 24 bits of a float32 (Veltkamp 1968)
_Share = tuple[torch.Tensor, torch.Tensor]  # probability and class


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
    says = total == total  # not NaN
    certainty = torch.where(says, 1.0 / total, 0.0)
    first_class, first_share, second_class, second_share, root = _moved(belief, evidence)
    unbelieved = (first_share == 0.0) & (root == 0.0)
    second_class = torch.where(unbelieved, float(min(1, classes - 1)), second_class)

    holds = interpolate(evidence[None, HOLDS : HOLDS + 1], (height, width), mode="nearest")[0, 0]
    lost = (holds == LOST).float()
    gathered = root * root * words._ROOT_UNIT**-2 * (1.0 - (1.0 - words._FADES) * lost)
    counts = (certainty * certainty + words._LEAST_CERTAINTY) * (1.0 - (1.0 - words._LOST_COUNTS) * lost)
    weight = holds.clamp(max=1.0) * strength * gathered / (gathered + counts)
    rest = 1.0 - weight
    scale = torch.where(says, rest / total, 0.0)
    now = torch.where(says, best.float(), float(classes - 1))  # as `first_best`

    def believed(kind: torch.Tensor, share: torch.Tensor) -> _Share:
        seen = shares.gather(0, kind.long().unsqueeze(0))[0]
        return torch.where(seen == seen, seen, 0.0) * scale + weight * share, kind

    high, low = _sorted(believed(first_class, first_share), believed(second_class, second_share))
    first, middle = _sorted(high, (scale * words._SEEN_WINS, now))
    middle = torch.where(high[1] == now, 0.0, middle[0]), middle[1]  # the two classes of a belief differ
    second, _ = _sorted(low, middle)
    root = torch.floor((counts / rest).clamp(max=words._MOST_EVIDENCE).sqrt() * words._ROOT_UNIT + 0.5)
    certain = torch.floor(first[0] * 255.0 + 0.5)
    split = second[0] * _SPLIT
    after = torch.stack((first[1], first[0], second[1], split - (split - second[0]), root))
    return first[1], certain, after


def _moved(belief: torch.Tensor, evidence: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The planes of a belief at the pixels where they are now."""
    _, height, width = belief.shape
    shift = interpolate(evidence[None, :HOLDS], (height, width), mode="bilinear", align_corners=False)[0]
    rows = (torch.arange(height, dtype=torch.float32)[:, None] + shift[DOWN] * height).round()
    columns = (torch.arange(width, dtype=torch.float32) + shift[RIGHT] * width).round()
    origin = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)  # exact up to 2^24 pixels
    moved = belief.flatten(1).index_select(1, origin.long().flatten())
    return tuple(plane.view(height, width) for plane in moved)


def _sorted(one: _Share, other: _Share) -> tuple[_Share, _Share]:
    """The larger first; of equal ones the higher class."""
    larger = (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] >= other[1]))
    first = torch.where(larger, one[0], other[0]), torch.where(larger, one[1], other[1])
    return first, (torch.where(larger, other[0], one[0]), torch.where(larger, other[1], one[1]))
