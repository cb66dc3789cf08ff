"""The gains and biases of the first BatchNorm layers, trained on the recordings without a label.

Behind new statistics a network may still see less than it could: the first layers tell edges and textures from noise by
thresholds that were learned in another light. Their gains and biases are trained to let the labels of a picture tell as much as
possible about those of its mirror image (`mirror`), which cannot be had by calling everything the same. Only the first layers:
those behind them know what classes look like, and lose that while the measure still rises (docs/results.md, adaptation).
Training such parameters on what a network says by itself is TENT's idea (Wang et al., 2021).

A step changes each channel by a share of its own gain: networks differ tenfold in how large their gains are. What was trained
must then stand another test than the one it was trained for: labels that agree no less with those of reduced pictures. A
network that comes to harm at home fails it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from lmanet_core.adaptation.mirror import information_of_pairs, measure_mirror_agreement
from lmanet_core.adaptation.reduced import measure_reduced_agreement
from lmanet_core.adaptation.statistics import LEAST_GAIN
from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import Size
from lmanet_core.network import LMANet
from lmanet_core.stream.stream_plan import fit_to_backbone
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import choose_device, cpu_computes_bfloat16, prepare

STEPS = 60
_FIRST = 0.2  # of the layers
_CROPS = 2  # of a step, each with its mirror image
_SIDES = (0.5, 0.75)  # of the crops of a step, as shares of the picture's, by turns
_LEARNING_RATE = 6e-3  # of shares of the gains
_WARM_UP = 10  # steps
_BEFORE = 0.8  # what counts of the steps before: two crops do not show all classes
_HELD = 0.25  # of the images, which say whether it was of any use
_AGREEMENT_MARGIN = 0.005  # of the agreement with reduced pictures, which is noisy
_TRAINED = ("weight", "bias")  # as PyTorch calls gain and bias


@dataclass(frozen=True)
class Gained:
    """What training changed, on images that nothing was learned from.

    Attributes:
        before, after: what labels tell of those of mirrored pictures, bits.
        agreed_before, agreed_after: how well labels agree with those of reduced pictures, mean IoU, 0–1.
    """

    before: float
    after: float
    agreed_before: float
    agreed_after: float

    @property
    def enough(self) -> bool:
        """Whether it is worth to change the weights."""
        more = self.after * (1.0 - LEAST_GAIN) > self.before
        return more and self.agreed_after >= self.agreed_before - _AGREEMENT_MARGIN


def adapt_gains(
    model: Model,
    images: Sequence[UInt8Array],
    device: str = "auto",
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Model, Gained | None]:
    """The model with gains and biases of the recordings, or as it is where they are not worth it; see `train_gains`."""
    trained, gained = train_gains(model, images, device, seed, advance)
    return (trained if gained is not None and gained.enough else model), gained


def train_gains(
    model: Model,
    images: Sequence[UInt8Array],
    device: str = "auto",
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
    steps: int = STEPS,
) -> tuple[Model, Gained | None]:
    """The model with gains and biases trained on the recordings, whether that is worth it or not.

    Args:
        model: stays as it is.
        images: (H, W, 3) uint8 RGB of one size that the network takes, at least 4, in the order of time; the last quarter is
            judged on.
        device: as `prepare` takes it.
        seed: of which crops are seen.
        advance: called after each step.
        steps: of the optimiser.

    Returns:
        The model, and what it gained; the model itself and None where there is nothing to train.
    """
    if not _first_layers(model.network) or len(images) < 4:
        return model, None
    cut = len(images) - max(1, round(_HELD * len(images)))
    held = images[cut:]
    trained = replace(model, network=_train(model, images[:cut], choose_device(device), seed, steps, advance))
    runtimes = [prepare(one, device) for one in (model, trained)]
    before, after = (measure_mirror_agreement(runtime, held).information for runtime in runtimes)
    agreed = (measure_reduced_agreement(runtime, held) for runtime in runtimes)
    return trained, Gained(before, after if math.isfinite(after) else -math.inf, *agreed)


def _first_layers(network: LMANet) -> list[_BatchNorm]:
    """Of the backbone; none where it has no BatchNorm that is trained."""
    every = [layer for layer in network.backbone.modules() if isinstance(layer, _BatchNorm) and layer.affine]
    return every[: math.ceil(_FIRST * len(every))]


def _train(
    model: Model, images: Sequence[UInt8Array], device: torch.device, seed: int, steps: int, advance: Callable[[], None]
) -> LMANet:
    network = copy.deepcopy(model.network).to(device).eval().requires_grad_(False)
    layers = _first_layers(network)
    optimizer = torch.optim.Adam([shares for layer in layers for shares in _in_shares_of_gains(layer)], _LEARNING_RATE)
    classes, rng = len(model.config.labels.names), np.random.default_rng(seed)
    half = device.type == "cuda" or cpu_computes_bfloat16()
    so_far: torch.Tensor | None = None
    for step in range(steps):
        crops = torch.from_numpy(_crops(model, images, _SIDES[step % len(_SIDES)], rng)).permute(0, 3, 1, 2).to(device)
        seen = network.backbone.normalize(torch.cat((crops, crops.flip(3))))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = network.decode(network.encode(seen))
        own, other = logits[:, :classes].float().softmax(1).chunk(2)
        pairs = torch.einsum("bihw,bjhw->ij", own, other.flip(3)) / own[:, 0].numel()
        pairs = pairs if so_far is None else torch.lerp(pairs, so_far, _BEFORE)
        so_far = pairs.detach()
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        (-information_of_pairs(pairs)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance()
    for layer in layers:
        for name in _TRAINED:
            parametrize.remove_parametrizations(layer, name)
    return network.requires_grad_(True).to("cpu")


class _Shifted(nn.Module):
    """A parameter of every channel: where it started, and a share of the channel's gain."""

    def __init__(self, start: torch.Tensor, gain: torch.Tensor) -> None:
        super().__init__()
        self.start, self.gain = start.detach().clone(), gain.detach().abs()

    def forward(self, share: torch.Tensor) -> torch.Tensor:
        return self.start + self.gain * share

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value)


def _in_shares_of_gains(layer: _BatchNorm) -> list[torch.Tensor]:
    """What is trained of a layer from now on; zeros."""
    gain = layer.weight.detach().clone()
    for name in _TRAINED:
        parametrize.register_parametrization(layer, name, _Shifted(getattr(layer, name), gain))
    return [parameter.requires_grad_() for parameter in layer.parameters()]


def _crops(model: Model, images: Sequence[UInt8Array], side: float, rng: np.random.Generator) -> UInt8Array:
    """(B, h, w, 3) windows of images chosen at random, of this share of their sides."""
    height, width = images[0].shape[:2]
    size = fit_to_backbone(Size(round(side * height), round(side * width)), height * width, model.network.backbone)
    if size.height > height or size.width > width:
        size = Size(height, width)
    windows = []
    for index in rng.choice(len(images), _CROPS, replace=len(images) < _CROPS):
        top, left = rng.integers(0, height - size.height + 1), rng.integers(0, width - size.width + 1)
        windows.append(images[index][top : top + size.height, left : left + size.width])
    return np.stack(windows)
