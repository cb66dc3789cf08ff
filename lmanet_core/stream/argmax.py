"""From logits to labels: the likeliest class of each pixel, and how likely it is."""

from __future__ import annotations

from collections.abc import Iterator

import torch

#: Of float32 logits that each thread of a CPU works on at a time: they stay in its core's cache.
STRIPE_BYTES = 1 << 20

_FAR = 3e38


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
    return labels, _confidence(planes - planes.amax(0)).to(torch.uint8)


def _argmax_in_stripes(logits: torch.Tensor, confidence: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `argmax_labels`, of (C, h, w), some rows at a time and one plane for each class: half the time, and no large maps."""
    classes, height, width = logits.shape
    labels = torch.empty(height, width, dtype=torch.uint8)
    certain = torch.empty(height, width, dtype=torch.uint8) if confidence else None
    ranks = class_ranks(classes, logits.device)
    for rows in stripes(height, classes * width * 4, STRIPE_BYTES * torch.get_num_threads()):
        planes = planes_of(logits[:, rows])
        labels[rows] = first_best(planes, ranks)
        if certain is not None:
            certain[rows] = _confidence(planes)
    return labels, certain


def planes_of(logits: torch.Tensor) -> torch.Tensor:
    """(C, h, w) logits in any layout → a copy, one float32 plane for each class, less the best logit of each pixel."""
    planes = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return planes.sub_(planes.amax(0))


def class_ranks(classes: int, device: torch.device) -> torch.Tensor:
    """(C, 1, 1) float32 for `first_best`: C for the first class, 1 for the last."""
    return torch.arange(classes, 0, -1, dtype=torch.float32, device=device).view(classes, 1, 1)


def first_best(planes: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """The first class that is 0 in what `planes_of` gives: (h, w) float32, a whole number.

    Several times faster on a CPU than `argmax` or a comparison: all but the best are moved far down.
    """
    return len(ranks) - torch.add(ranks, planes, alpha=_FAR).amax(0).nan_to_num_(1.0)


def stripes(height: int, row_bytes: int, stripe_bytes: int) -> Iterator[slice]:
    """Rows to be worked on at a time, so that they take no more than so many bytes."""
    step = max(1, stripe_bytes // max(1, row_bytes))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _confidence(relative: torch.Tensor) -> torch.Tensor:
    """(C, h, w) logits minus the best one, overwritten → (h, w) 0–255."""
    return (255.0 / relative.exp_().sum(0)).round_()
