"""What there is to know of a module that segments images, by running it on some noise.

Found are the sizes it takes, the logits it gives, and the layer before which a memory of features can go in.

A cut is only one where what follows it is known: the layer once more and a resize must give the module's own logits, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.errors import ConfigError, LmanetError, WeightsError

HeightWidth = tuple[int, int]  # height, width

_FIRST_TRY: HeightWidth = (192, 256)  # small, and no side a multiple of the other
_USUAL: HeightWidth = (512, 1024)
_STEPS = (8, 16, 32, 64)
_RESIZINGS: tuple[dict[str, Any], ...] = (
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "nearest"},
)


@dataclass(frozen=True)
class Cut:
    """Where the memory goes in.

    Attributes:
        layer: name of the submodule that makes logits of the features.
        channels: of the features.
        stride: input pixels per feature position.
        shrink: input pixels per position of the module's own logits.
        resizing: arguments of `interpolate` from the layer's output to the module's own logits; None: they are the same.
        overwrites: whether the layer writes into its input.
    """

    layer: str
    channels: int
    stride: int
    shrink: int
    resizing: Mapping[str, Any] | None
    overwrites: bool


def logits_of(output: Any) -> torch.Tensor:
    """The logits in what a module returned.

    Raises:
        WeightsError: no tensor is where one is looked for.
    """
    got = output
    if not isinstance(got, torch.Tensor) and isinstance(getattr(got, "logits", None), torch.Tensor):
        return got.logits  # type: ignore[no-any-return]
    if isinstance(got, Mapping):
        name = next((name for name in ("out", "logits") if name in got), None)
        if name is None:
            raise WeightsError(f"the model must return logits, or a dict with 'out' or 'logits'; got a dict of {list(got)}")
        got = got[name]
    elif isinstance(got, tuple | list) and got:
        return logits_of(got[0])
    if not isinstance(got, torch.Tensor):
        raise WeightsError(f"the model must return logits (B, classes, H, W) as a tensor, in a dict or tuple; got {_kind(got)}")
    return got


def enlarge(logits: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Logits (B, classes, h, w) at this height and width, bilinear; as they are where they have it."""
    if logits.shape[-2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def noise(module: nn.Module, size: HeightWidth) -> torch.Tensor:
    """An image (1, 3, H, W) of which no two positions are alike, on the module's device and in its precision."""
    like = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), torch.empty(0))
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def run(module: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The module's own logits, looked at closely; raises WeightsError."""
    try:
        with torch.no_grad():
            output = module(image)
    except LmanetError:
        raise
    except (Exception, SystemExit) as error:  # of the module, whatever it is
        shape = tuple(image.shape)
        raise WeightsError(f"the model does not run on an image {shape}: {type(error).__name__}: {_line(error)}") from error
    logits = logits_of(output)
    size, shape = image.shape[-2:], tuple(logits.shape)
    if logits.dim() != 4 or not logits.is_floating_point():
        raise WeightsError(f"the model must return logits (B, classes, H, W), before any argmax; got {logits.dtype} {shape}")
    if shape[1] < 2:
        raise WeightsError(
            f"the model must return logits of two classes or more, got {shape}; for a mask, (B, 2, H, W) of (−x, x)"
        )
    if logits.device != image.device:
        raise WeightsError(
            f"the model must return logits on the device of its input, {image.device}; got {logits.device}; "
            "keep all of it on one"
        )
    height, width = shape[-2:]
    if height > size[0] or width > size[1] or abs(height * size[1] / size[0] - width) >= 1:
        raise WeightsError(
            f"the model must return logits at its input's size, {size[1]}x{size[0]}, or a fraction of it; got "
            f"{width}x{height}: resize them in your function"
        )
    return logits


def accepted_sizes(module: nn.Module, input_size: HeightWidth | None) -> tuple[HeightWidth, int, HeightWidth | None]:
    """A size that the module runs on, what sides must be a multiple of, and the only size where there is but one.

    Raises:
        WeightsError: it runs on none.
    """
    problems: list[WeightsError] = []
    for start in dict.fromkeys((_FIRST_TRY, _multiple(input_size or _USUAL, _STEPS[-1]))):
        logits = _try(module, start, problems)
        if logits is None:
            continue
        for step in _STEPS:
            size = _odd_multiple(start, step)
            other = _try(module, size, [])
            # one that drops what its patches do not cover would give labels that are stretched
            if other is not None and all(other.shape[k - 2] * start[k] >= logits.shape[k - 2] * size[k] for k in (0, 1)):
                return start, step, None
        if input_size is None:
            return start, 1, start
        break
    if input_size is None:
        raise WeightsError(f"{problems[0]}; if it takes one size only, give it as input_size = (height, width)") from problems[
            0
        ]
    if _try(module, input_size, problems) is None:
        raise problems[-1]
    return input_size, 1, input_size


def _multiple(size: HeightWidth, step: int) -> HeightWidth:
    """Sides rounded up to a multiple."""
    return -(-size[0] // step) * step, -(-size[1] // step) * step


def _odd_multiple(size: HeightWidth, step: int) -> HeightWidth:
    """Sides a little larger that are a multiple of the step, but of no more powers of two, and differ."""
    height, width = (side // step + 1 + side // step % 2 for side in size)
    return height * step, (width + 2) * step


def _try(module: nn.Module, size: HeightWidth, problems: list[WeightsError]) -> torch.Tensor | None:
    try:
        return run(module, noise(module, size))
    except WeightsError as error:
        problems.append(error)
        return None


@dataclass
class _Seen:
    """What passed through a layer."""

    calls: int = 0
    features: Any = None
    output: Any = None
    overwrites: bool = False


@contextmanager
def _watching(module: nn.Module, names: list[str]) -> Iterator[dict[str, _Seen]]:
    """Note what passes through these layers, in the order in which they were last called."""
    seen: dict[str, _Seen] = {}
    versions: dict[str, int] = {}
    hooks = []
    for name in names:

        def before(_: nn.Module, arguments: tuple[Any, ...], name: str = name) -> None:
            versions[name] = _writes(arguments)

        def after(_: nn.Module, arguments: tuple[Any, ...], output: Any, name: str = name) -> None:
            was = seen.pop(name, _Seen())
            features = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], torch.Tensor) else None
            seen[name] = _Seen(was.calls + 1, features, output, _writes(arguments) != versions[name])

        layer = module.get_submodule(name)
        hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _writes(arguments: tuple[Any, ...]) -> int:
    """How often the first argument was written to, as far as PyTorch counts it."""
    first = arguments[0] if arguments else None
    return first._version if isinstance(first, torch.Tensor) and not first.is_inference() else 0


def find_cut(module: nn.Module, image: torch.Tensor, logits: torch.Tensor) -> tuple[Cut | None, str]:
    """The last convolution that gives the classes and after which there is nothing but a resize; or None, and why."""
    classes = logits.shape[1]
    names = [
        name
        for name, layer in module.named_modules()
        if name and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.out_channels == classes
    ]
    with _watching(module, names) as seen:
        logits = run(module, image)
    reasons = []
    for name, one in reversed(seen.items()):
        try:
            return _examine(name, one, image, logits), ""
        except ConfigError as error:
            reasons.append(str(error))
    if not seen:
        return None, f"got a network in which no convolution gives its {classes} classes; name a layer as cut"
    if len(seen) == 1:
        return None, f"got a network in which {reasons[0]}; name another layer as cut"
    return None, f"got {len(seen)} that may be it ({', '.join(seen)}), and more than a resize after each; name a layer as cut"


def named_cut(module: nn.Module, cut: str, image: torch.Tensor, logits: torch.Tensor) -> Cut:
    """The cut of this name; raises ConfigError."""
    known = [name for name, _ in module.named_modules() if name]
    if cut not in known:
        found, _ = find_cut(module, image, logits)
        near = [found.layer] if found is not None else known[-3:]
        raise ConfigError(f"cut must name a submodule; there is no {cut!r}, but for example {', '.join(near) or 'none at all'}")
    with _watching(module, [cut]) as seen:
        logits = run(module, image)
    if cut not in seen:
        raise ConfigError(f"cut {cut} is not called when an image is segmented; name another layer, or leave cut out")
    try:
        return _examine(cut, seen[cut], image, logits)
    except ConfigError as error:
        raise ConfigError(f"cut {cut} cannot be one: {error}; name another layer, or leave cut out") from error


def _examine(name: str, seen: _Seen, image: torch.Tensor, logits: torch.Tensor) -> Cut:
    """The cut before a layer, from what passed through it; raises ConfigError with the reason where it cannot be one."""
    features, output = seen.features, seen.output
    if seen.calls != 1:
        raise ConfigError(f"{name} is called {seen.calls} times an image")
    if features is None or features.dim() != 4 or not isinstance(output, torch.Tensor) or output.dim() != 4:
        raise ConfigError(f"{name} does not turn one map of features (B, C, h, w) into another")
    resizing: Mapping[str, Any] | None = None
    alike = output.shape[1] == logits.shape[1] and output.dtype == logits.dtype
    if not alike or not torch.equal(output, logits):
        size = tuple(logits.shape[-2:])
        possible = _RESIZINGS if alike and output.shape != logits.shape else ()
        resizing = next((way for way in possible if torch.equal(F.interpolate(output, size=size, **way), logits)), None)
        if resizing is None:
            raise ConfigError(f"more than a resize follows {name}")
    stride, shrink = (_whole(image, one) for one in (features, logits))
    if not stride or not shrink:
        raise ConfigError(f"features or logits of {name} are no whole fraction of the input's size")
    return Cut(name, features.shape[1], stride, shrink, resizing, seen.overwrites)


def _whole(image: torch.Tensor, smaller: torch.Tensor) -> int:
    """How many pixels of the image make one position, 0 where that is no whole number or differs along the sides."""
    (height, width), (rows, columns) = image.shape[-2:], smaller.shape[-2:]
    ratio = int(height // rows)
    return ratio if (rows * ratio, columns * ratio) == (height, width) else 0


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:200]


def _kind(thing: Any) -> str:
    return "nothing" if thing is None else f"{type(thing).__name__}"
