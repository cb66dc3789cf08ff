"""BatchNorm over the batch of all processes, on CPUs too (PyTorch's own SyncBatchNorm is for GPUs only)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, with statistics over all processes in training mode; equal shares of the batch are assumed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → the same shape."""
        if not (self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        dims, processes = (0, 2, 3), torch.distributed.get_world_size()
        values = x.float()
        mean = _sum_over_processes(values.mean(dims)) / processes
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum_over_processes(centred.square().mean(dims)) / processes
        with torch.no_grad():
            count = values.numel() // values.shape[1] * processes
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(1, count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def sync_batch_norms(module: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` inside `module` by a synced one with the same tensors, in place."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            for own, theirs in zip(synced.parameters(), child.parameters(), strict=True):
                own.requires_grad_(theirs.requires_grad)
            setattr(module, name, synced)
        else:
            sync_batch_norms(child)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _all_reduced(gradient)  # every process's loss depends on every process's share


def _all_reduced(tensor: torch.Tensor) -> torch.Tensor:
    summed = tensor.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(summed)
    return summed


def _sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _SumOverProcesses.apply(tensor)  # type: ignore[no-untyped-call]
    return summed
