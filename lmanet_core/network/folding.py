"""Fold BatchNorm into the convolution before it: fewer passes over the map, same function (inference only)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> int:
    """Replace each convolution that a BatchNorm follows by one that does both, in place.

    Pairs are neighbours in an `nn.Sequential`, and what a module declares as `folds = (("conv", "bn"), …)`. Everything else
    is left as it is.

    Args:
        network: in eval mode.

    Returns:
        How many pairs were folded.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("BatchNorm can be folded in eval mode only: call network.eval() first")
    pairs = [pair for module in network.modules() for pair in _foldable(module)]
    for parent, conv_name, bn_name in pairs:
        conv, bn = getattr(parent, conv_name), getattr(parent, bn_name)
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn, transpose=isinstance(conv, nn.ConvTranspose2d)))
        setattr(parent, bn_name, nn.Identity())
    return len(pairs)


def _foldable(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    names = [name for name, _ in module.named_children()] if isinstance(module, nn.Sequential) else []
    declared = cast("tuple[tuple[str, str], ...]", getattr(module, "folds", ()))
    for conv_name, bn_name in (*pairwise(names), *declared):
        conv, bn = getattr(module, conv_name), getattr(module, bn_name)
        if isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and _takes_scales(conv):
            yield module, conv_name, bn_name


def _takes_scales(conv: nn.Module) -> bool:
    """Whether one axis of the weight is the output channels; a grouped transposed convolution has no such axis."""
    return isinstance(conv, nn.Conv2d) or (isinstance(conv, nn.ConvTranspose2d) and conv.groups == 1)
