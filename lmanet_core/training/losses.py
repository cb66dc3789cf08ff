"""The loss the published networks were trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: Sequence[float], ignore_index: int = 255
) -> torch.Tensor:
    """Cross entropy, each pixel weighted by its class, divided by the sum of the weights.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64 class ids; pixels of `ignore_index` do not count.
        class_weights: one per channel of the logits.
        ignore_index: id of void.

    Returns:
        Scalar.

    Raises:
        ValueError: as many weights as channels are wanted.
    """
    if len(class_weights) != logits.shape[1]:
        raise ValueError(f"wanted {logits.shape[1]} class weights, one per channel, got {len(class_weights)}")
    return F.cross_entropy(logits, labels, weight=logits.new_tensor(class_weights), ignore_index=ignore_index)
