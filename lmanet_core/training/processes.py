"""Several processes that train one network: which one this is, sums over all of them, and BatchNorm over their whole batch.

PyTorch's own SyncBatchNorm is for GPUs only; the one here works on CPUs too, so that it can be tested anywhere.
"""

from __future__ import annotations

import functools
import os

import torch
import torch.distributed as dist
from torch import nn


@functools.lru_cache(maxsize=1)
def is_first_process() -> bool:
    """Known before the processes are set up: by the variables that Fabric, torchrun and SLURM set."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK"))


def count_processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of what each process has; without gradient. Every process must call it."""
    if count_processes() == 1:
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


def _sum_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """The same, for a loss that depends on every process's share."""
    from torch.distributed.nn.functional import all_reduce  # not in every build of PyTorch

    summed: torch.Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call]
    return summed


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, with statistics over all processes in training mode; equal shares of the batch are assumed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → the same shape."""
        processes = count_processes()
        if not self.training or processes == 1:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        dims = (0, 2, 3)
        values = x.float()
        mean = _sum_with_gradient(values.mean(dims)) / processes
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum_with_gradient(centred.square().mean(dims)) / processes
        with torch.no_grad():
            count = values.numel() // values.shape[1] * processes
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(1, count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def sync_batch_norms(module: nn.Module) -> None:
    """Make every `nn.BatchNorm2d` inside `module` a synced one."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SyncedBatchNorm2d
