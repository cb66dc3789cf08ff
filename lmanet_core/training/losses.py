"""Losses: the one the published networks were trained with, and later practice as options.

Each returns a sum and what it is to be divided by, apart: with several processes both are summed over all of them first, so
that a batch split over processes has exactly the gradient of the whole batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from lmanet_core.labels import UNLABELLED

#: Weights of Cityscapes' 19 classes by trainId with which ERFNet's decoder was trained (Romera et al., 2018).
ERFNET_CITYSCAPES_WEIGHTS = (
    2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903, 9.5110931396484, 10.311357498169,
    10.026463508606, 4.6323022842407, 9.5608062744141, 7.8698215484619, 9.5168733596802, 10.373730659485, 6.6616044044495,
    10.260489463806, 10.287888526917, 10.289801597595, 10.405355453491, 10.138095855713,
)  # fmt: skip

_RARITY = 1.10  # of ERFNet's decoder weights: 1/ln(1.10 + p) reproduces those above


def cross_entropy_sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    hardest: float = 1.0,
    soft: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of the pixels that are known, weighted by class, and the sum of these weights; 0 and 0 where all is void.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, 255 void.
        class_weights: (C,).
        soft: (B, 2 K, H, W) uint8, K classes of each pixel and their shares of 255, which the network is to give; None: the
            label alone.
        hardest: share of the known pixels that count, those of the highest unweighted loss (OHEM, Shrivastava et al., 2016).

    Returns:
        Two scalars: sum of weighted losses, sum of the weights of the pixels in it.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if soft is None:
        losses = F.cross_entropy(precise, labels, ignore_index=UNLABELLED, reduction="none")
    else:
        losses = _soft_cross_entropy(precise, *soft.chunk(2, 1))
    counts = labels != UNLABELLED
    weights = class_weights[labels.where(counts, 0)] * counts
    if hardest < 1.0:
        known = int(counts.sum())
        if known:
            easiest_kept = losses.detach()[counts].topk(max(1, round(hardest * known))).values[-1]
            weights = weights * (losses.detach() >= easiest_kept)
    return (losses * weights).sum(), weights.sum()


def _soft_cross_entropy(logits: torch.Tensor, classes: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W), K likeliest classes (B, K, H, W) and their shares → (B, H, W), 0 where there are none."""
    wanted = shares.float() * (classes < logits.shape[1])
    log_shares = logits.log_softmax(1).gather(1, classes.long().clamp(max=logits.shape[1] - 1))
    return -(log_shares * wanted).sum(1) / wanted.sum(1).clamp(min=1.0)


def distillation_sums(logits: torch.Tensor, teacher_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kullback–Leibler divergence from the teacher's distribution, over every pixel, labelled or not, as sum and count.

    Args:
        logits, teacher_logits: (B, classes, H, W) over the same classes.
    """
    target = teacher_logits.float().log_softmax(1)
    divergence = F.kl_div(logits.float().log_softmax(1), target, reduction="sum", log_target=True)
    return divergence, divergence.new_tensor(float(logits[:, 0].numel()))


def consistency_sums(logits: torch.Tensor, before: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared difference of class probabilities along the optical flow, as sum and count of the pixels with flow.

    Args:
        logits: (B, classes, H, W) of the last frame.
        before: (B, classes, H, W) of the frame before it; no gradient flows into it (it must not learn to be vague).
        flow: (B, 2, H, W) displacement in pixels from the last frame to the one before, NaN where unknown.
    """
    known = torch.isfinite(flow).all(1)
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device, dtype=flow.dtype),
        torch.arange(width, device=flow.device, dtype=flow.dtype),
        indexing="ij",
    )
    moved = torch.nan_to_num(flow)
    grid = torch.stack(((x + moved[:, 0]) / max(1, width - 1), (y + moved[:, 1]) / max(1, height - 1)), -1) * 2 - 1
    past = F.grid_sample(before.detach().float().softmax(1), grid, align_corners=True, padding_mode="border")
    difference = (logits.float().softmax(1) - past).square().sum(1)
    return (difference * known).sum(), known.sum().to(difference.dtype)


def weights_from_counts(counts: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """Class weights 1 / ln(1.10 + share of the pixels) (ENet's formula, ERFNet's constant); (classes,) counts of pixels."""
    shares = counts / max(1, int(counts.sum()))
    return tuple(float(weight) for weight in 1.0 / np.log(_RARITY + shares))
