"""Adam over what is not frozen, and its learning rate: lowered on a plateau of the loss, or a cosine of the step."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lmanet_core.network import LMANet
from lmanet_core.training.config import TrainConfig

_FACTOR = 0.8  # of the learning rate where the loss has stopped to fall (paper)
_LOWEST = 1e-8  # learning rate (paper)


def make_optimizer(network: LMANet, config: TrainConfig) -> torch.optim.Adam:
    """Adam; keys may have a group of their own. `share` of a group is that of `config.learning_rate`."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    keys = {name for name in trained if name.startswith("memory.") and ".key." in name and config.key_learning_rate != 1.0}
    groups = [([parameter for name, parameter in trained.items() if name not in keys], 1.0)]
    if keys:
        groups.append(([parameter for name, parameter in trained.items() if name in keys], config.key_learning_rate))
    return torch.optim.Adam(
        [{"params": params, "share": share, "lr": config.learning_rate * share} for params, share in groups],
        weight_decay=config.weight_decay,
    )


def make_plateau(optimizer: torch.optim.Optimizer, config: TrainConfig) -> ReduceLROnPlateau | None:
    """The rule that is told the loss of every epoch; None for another schedule."""
    if config.schedule != "plateau":
        return None
    return ReduceLROnPlateau(optimizer, factor=_FACTOR, patience=config.patience, min_lr=_LOWEST)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps: int) -> None:
    """For step `step` of `steps`, where the schedule is a function of it."""
    if config.schedule == "cosine":
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(config, step, steps) * group["share"]


def cosine_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rises to `config.learning_rate` in `warmup_steps`, then falls until the last of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return _LOWEST + (config.learning_rate - _LOWEST) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
