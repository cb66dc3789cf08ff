"""Any `nn.Module` that segments an image, as a backbone: the memory goes in just before its last classifier.

    ModuleBackbone(module) ── one dry run: what comes out, at which size, for which input sizes, which layer is the classifier
      encode                  the module as far as that layer, or all of it where there is none
      decode                  that layer and the resizing after it

Nothing of the module is split, subclassed or rewritten: a hook before the layer takes the features and ends the forward pass.
What comes after the layer is repeated only where the dry run gave the same bits that way; else the module runs as a whole and
there is no place for a memory of features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.errors import ConfigError, WeightsError
from lmanet_core.network.backbone import Backbone
from lmanet_core.network.dry_run import Cut, HeightWidth, accepted_sizes, enlarge, find_cut, logits_of, named_cut, noise, run


class ModuleBackbone(Backbone):
    """A module of the user's own, or of a library, as a `Backbone`.

    Logits that are smaller than the input are enlarged to it, bilinear. Beyond that they are the module's own, bit for bit.

    Args:
        module: takes a normalised image (B, 3, H, W); gives logits (B, classes, h, w), alone, as `out` or `logits` of a dict,
            as attribute `logits`, or first in a tuple. Put into eval mode.
        cut: name of the submodule before which the memory goes in; "auto": the last convolution that gives the classes.
        mean, std: of RGB in 0–1, also where the module takes BGR.
        bgr: the module takes its channels as BGR.
        input_size: (height, width) it was trained on, tried where it refuses a small image; None: unknown.

    Attributes:
        num_classes: channels of the logits.
        cut: see `Cut`; None where there is no place for a memory of features.
        no_cut: why not; empty where there is one.
        size_multiple, fixed_size: see `Backbone`.
        probe_size: (height, width) of an image that it takes.

    Raises:
        WeightsError: the module does not run on an image, or gives no logits of the input's size or a fraction of it, or NaN.
        ConfigError: a cut of this name does not exist, or cannot be one.
    """

    foreign = True

    def __init__(
        self,
        module: nn.Module,
        cut: str = "auto",
        *,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        bgr: bool = False,
        input_size: HeightWidth | None = None,
    ) -> None:
        super().__init__()
        self.module = module.eval()
        self.mean, self.std, self.bgr, self.input_size = mean, std, bgr, input_size
        size, self.size_multiple, self.fixed_size = accepted_sizes(module, input_size)
        image = noise(module, size)
        logits = run(module, image)
        if logits.isnan().any():  # also of weights that a compiled network does not show
            raise WeightsError("the model must return numbers, got logits that are NaN; is there a NaN among its weights?")
        self.num_classes = logits.shape[1]
        self.cut: Cut | None = None
        found, self.no_cut = find_cut(module, image, logits) if cut == "auto" else (named_cut(module, cut, image, logits), "")
        if found is not None:
            self._settle(found, size, required=cut != "auto")
        elif isinstance(module, Program):
            self.no_cut = "got a compiled network, which gives logits only"
        self.stride = self.size_multiple if self.cut is None else self.cut.stride
        self.probe_size = size

    def _settle(self, cut: Cut, size: HeightWidth, required: bool) -> None:
        """Take the cut, if it also holds for an image of another size."""
        multiple = math.lcm(self.size_multiple, cut.stride)
        other = size if self.fixed_size else (size[0] + multiple, size[1] + 2 * multiple)
        image = noise(self.module, other)
        self.cut = cut
        try:
            with torch.no_grad():
                whole = enlarge(run(self.module, image), other)
                same = torch.equal(self.decode(self._features(image, cut)), whole)
        except WeightsError:
            same = False
        if same:
            self.size_multiple = 1 if self.fixed_size else multiple
            return
        self.cut, self.no_cut = None, f"got a network in which what follows {cut.layer} depends on the image's size"
        if required:
            raise ConfigError(f"cut {cut.layer} cannot be one: {self.no_cut}; name another layer, or leave cut out")

    @property
    def feature_channels(self) -> int:  # type: ignore[override]
        """Channels of the features; raises ConfigError where there is no place for a memory of features."""
        if self.cut is None:
            raise ConfigError(f"a memory of features wants one layer that makes logits of them; {self.no_cut}")
        return self.cut.channels

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised RGB (B, 3, H, W) → features (B, C, h, w), or logits (B, classes, H, W) where there is no cut."""
        image = (image.flip(1) if self.bgr else image).contiguous()  # a module may well take views that channels-last has not
        if self.cut is None:
            return enlarge(logits_of(self._run(image)), image.shape[-2:])
        return self._features(image, self.cut)

    def require_runs(self, dtype: torch.dtype, device: torch.device) -> None:
        """Raises ConfigError where the module, brought to this precision and device, fails there."""
        if (dtype, device.type) == (torch.float32, "cpu"):
            return  # as it was tried
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, *self.probe_size, dtype=dtype, device=device))
        except Exception as error:  # of the module, whatever it is
            raise ConfigError(
                f"this network does not compute in {str(dtype).removeprefix('torch.')} on {device}: {error}; "
                "try --precision fp32, or --device cpu"
            ) from error

    def _features(self, image: torch.Tensor, cut: Cut) -> torch.Tensor:
        if torch.compiler.is_compiling():  # no exception passes through a trace; what nothing uses falls out of it
            return self._caught(image, cut)
        hook = self.module.get_submodule(cut.layer).register_forward_pre_hook(_stop)
        try:
            self._run(image)
        except _Reached as reached:
            return reached.features
        finally:
            hook.remove()
        raise WeightsError(f"{cut.layer} was not reached this time; name another layer as cut")

    def _run(self, image: torch.Tensor) -> Any:
        try:
            return self.module(image)
        except SystemExit as error:  # else the process would end without a word
            raise WeightsError(f"the model ends the process while it segments an image: sys.exit({error.code!r})") from error

    def _caught(self, image: torch.Tensor, cut: Cut) -> torch.Tensor:
        """The features as the module passes them on; the whole of it runs."""
        caught: list[torch.Tensor] = []
        layer = self.module.get_submodule(cut.layer)
        hook = layer.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0].clone()))
        try:
            self.module(image)
        finally:
            hook.remove()
        return caught[0]

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) → logits (B, classes, H, W); logits stay as they are where there is no cut."""
        if self.cut is None:
            return features
        cut = self.cut
        height, width = (side * cut.stride for side in features.shape[-2:])
        logits = self.module.get_submodule(cut.layer)(features.clone() if cut.overwrites else features)
        if cut.resizing is not None:
            logits = F.interpolate(logits, size=(height // cut.shrink, width // cut.shrink), **cut.resizing)
        return enlarge(logits, (height, width))


class Program(nn.Module):
    """A compiled or exported network as a module: it knows no training mode, and says so by failing.

    Args:
        program: takes (B, 3, H, W), gives logits.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Program:
        """Changes nothing: what was compiled stays as it is."""
        self.training = False
        return self

    def forward(self, image: torch.Tensor) -> Any:
        """What the program makes of the image."""
        return self.program(image)


class _Reached(BaseException):
    """Ends a forward pass at the cut; no `except Exception` of the module stops it."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features


def _stop(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    raise _Reached(arguments[0])
