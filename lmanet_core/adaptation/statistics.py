"""The statistics of BatchNorm, measured anew on the recordings: what fits a network to another camera in seconds.

Another camera's light, lens and colours move the mean and the variance of every feature; the network was trained to see them
where its own data has them (Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016). How far to go
from the old statistics to the new ones is chosen by how much the network then knows, see `mirror`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lmanet_core.adaptation.mirror import measure_mirror_agreement
from lmanet_core.arrays import UInt8Array
from lmanet_core.network import LMANet
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import prepare

SHARES = (0.0, 0.3, 0.6, 1.0)  # of the new statistics
LEAST_GAIN = 0.01  # of the information, as a share, for weights to be changed at all
_BATCH = 4


def adapt_statistics(
    model: Model,
    clips: Sequence[torch.Tensor],
    images: Sequence[UInt8Array],
    device: str = "auto",
    advance: Callable[[], None] = lambda: None,
) -> tuple[Model, dict[float, float]]:
    """The model with statistics of its own or of the recordings, or something in between; whichever lets it know most.

    Args:
        model: stays as it is.
        clips: (T, 3, H, W) RGB of 0–255 each, the past first; what statistics are measured on.
        images: (H, W, 3) uint8 RGB; what it is judged on.
        device: as `prepare` takes it.
        advance: called len(SHARES) · len(images) times.

    Returns:
        The model, and for each share of new statistics the information in bits, see `MirrorAgreement`; empty, and the model
        itself, where it has no BatchNorm.
    """
    information: dict[float, float] = {}
    candidates = mix_statistics(model, clips)
    if not candidates:
        return model, {}
    for share in SHARES:
        information[share] = measure_mirror_agreement(prepare(candidates[share], device), images, advance).information
    best = max(SHARES, key=lambda share: information[share] * (1.0 - LEAST_GAIN if share else 1.0))
    return candidates[best], information


def mix_statistics(model: Model, clips: Sequence[torch.Tensor]) -> dict[float, Model]:
    """The model with each of `SHARES` of the statistics measured on the clips; empty where it has no BatchNorm."""
    old = _statistics(model.network)
    if not old:
        return {}
    new, mixed = _measure(model.network, clips), {0.0: model}
    for share in SHARES[1:]:
        network = copy.deepcopy(model.network)
        for layer, before, after in zip(_layers(network), old, new, strict=True):
            for kept, first, second in zip((layer.running_mean, layer.running_var), before, after, strict=True):
                assert kept is not None
                kept.copy_(torch.lerp(first, second, share))
        mixed[share] = replace(model, network=network)
    return mixed


def _layers(network: nn.Module) -> list[_BatchNorm]:
    """Layers that normalise by statistics they keep."""
    kept = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [module for module in kept if module.running_mean is not None and module.running_var is not None]


def _statistics(network: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of each layer."""
    return [(layer.running_mean.clone(), layer.running_var.clone()) for layer in _layers(network)]  # type: ignore[union-attr]


@torch.no_grad()
def _measure(network: LMANet, clips: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Statistics over all clips, each layer behind others that have theirs from the same batch."""
    measured = copy.deepcopy(network).eval()
    for layer in _layers(measured):
        layer.reset_running_stats()
        layer.momentum = None  # a mean over all batches
        layer.train()
    for start in range(0, len(clips), _BATCH):
        batch = torch.stack(list(clips[start : start + _BATCH]))
        measured(measured.backbone.normalize(batch), last_only=True)
    return _statistics(measured)
