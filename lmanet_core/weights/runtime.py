"""A network made ready to run: device, precision, memory layout, folded BatchNorm. Shared by all segmenters of a process.

Holds no state of any stream. Segmenters of several cameras use one `Runtime`, one call at a time (PyTorch uses all cores or the
whole device for each call anyway).
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lmanet_core.errors import ConfigError
from lmanet_core.network import LMANet, MemoryConfig
from lmanet_core.network.adapter import ModuleBackbone
from lmanet_core.network.folding import fold_batch_norm
from lmanet_core.ops import auto_implementation
from lmanet_core.settings import check_settings, setting, word_for
from lmanet_core.weights.adapters import recut, relabel
from lmanet_core.weights.checkpoint import Model, ModelConfig
from lmanet_core.weights.compiling import NetworkCompiler
from lmanet_core.weights.tiles import use_measured_tiles

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_WIDEST = 255  # positions: a window of this side sees all of ERFNet's map from everywhere


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how a network runs.

    Raises:
        ConfigError: a value outside its range.
    """

    device: str = setting("auto", "auto (CUDA where there is one), cpu, cuda or cuda:N.")
    precision: str = setting("auto", "Precision of the network.", choices=("auto", *PRECISIONS))
    cut: str = setting(
        "auto", "Layer of a model of your own before which a memory of features goes in; auto: its last classifier."
    )
    label_set: str = setting(
        "",
        "Names, colours, groups of the classes: cityscapes, camvid11, ade20k, mapillary or a YAML file (or only colours); "
        "empty: as trained.",
    )
    threads: int = setting(0, "CPU threads of the network; 0 lets PyTorch choose.", low=0, high=256)
    compile: str = setting(
        "auto",
        "Code of the network by torch.compile, made at the first image and kept on disk: auto (so far: false), true or false.",
        choices=("auto", "true", "false"),
    )
    window: int | Literal["global"] | None = setting(
        None, "Side of the window, odd; 0: as trained, -1: global attention, as is a side above 255, wider than any map.",
        unit="positions", low=-1, high=99_999, name="memory.window", unset=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "compile", word_for(self.compile, ("true", "false")))
        check_settings(self)
        if self.window in (0, -1):
            object.__setattr__(self, "window", None if self.window == 0 else "global")
        window: object = self.window
        if isinstance(window, int) and window > _WIDEST:
            object.__setattr__(self, "window", "global")
            return
        if window not in (None, "global") and not (isinstance(window, int) and window % 2):
            raise ConfigError(f"memory.window must be odd, 0 (as trained) or -1 (global), got {self.window}")


@dataclass(frozen=True)
class Runtime:
    """What `prepare` made of a model.

    Attributes:
        network: in eval mode, on `device`, in `dtype`; channels-last, unless it is somebody else's module.
        config: of the model, with the memory options in use.
        device: where it runs.
        dtype: precision of weights and features.
        compiler: has the network run compiled; None: it runs as it is written.
        lock: held by whoever has the device compute.
    """

    network: LMANet
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    compiler: NetworkCompiler | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @cached_property
    def graph_pool(self) -> Any:
        """Where the CUDA graphs of all streams have their intermediate results; only one is replayed at a time."""
        return torch.cuda.graph_pool_handle()

    @cached_property
    def _normalization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Made once: within a CUDA graph nothing may be copied from the host."""
        return self.network.backbone.normalization(self.device)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """RGB (B, 3, h, w) of 0–255 on the device → what the network's first layer takes; float32 is overwritten."""
        scale, offset = self._normalization
        return pixels.float().mul_(scale).add_(offset).to(self.input_dtype)

    @property
    def input_dtype(self) -> torch.dtype:
        """What images are given in: float32 where the first layer keeps full precision."""
        parameters = self.network.backbone.parameters()
        return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), self.dtype)

    @property
    def precision(self) -> str:
        """Name of the precision, as `prepare` takes it."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def describe_precision(self) -> str:
        """The same for people, and whether code is compiled."""
        return self.precision if self.compiler is None else f"{self.precision}, compiled at the first image"

    def attention(self, impl: str = "auto") -> str:
        """The implementation of `local_attention` that runs when `impl` is asked for; "none" without memory."""
        memory = self.config.memory
        if memory is None:
            return "none"
        if impl != "auto":
            return impl
        return auto_implementation(self.device, self.dtype, memory.key_channels)


def prepare_runtime(model: Model, config: RuntimeConfig) -> Runtime:
    """`prepare` by settings.

    Raises:
        ConfigError: as `prepare`; a window for weights that have no memory; a cut for weights that have a place for it; a label
            set that is none, or for another number of classes.
    """
    if config.cut != "auto":
        model = recut(model, config.cut)
    if config.label_set:
        model = relabel(model, config.label_set)
    if config.threads:
        torch.set_num_threads(config.threads)
    memory = model.config.memory
    if config.window is not None:
        if memory is None:
            raise ConfigError("a window was given, but these weights have no memory (single-frame network); leave it out")
        memory = replace(memory, window=None if config.window == "global" else config.window)
    return prepare(model, config.device, config.precision, memory, compiled=choose_compile(config.compile))


def prepare(
    model: Model,
    device: str = "auto",
    precision: str = "auto",
    memory: MemoryConfig | None = None,
    fold: bool = True,
    compiled: bool = False,
) -> Runtime:
    """Make a model ready for inference; the model itself stays as it is.

    Args:
        model: as `load_model` gave it.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", …
        precision: "auto" (fp16 on CUDA, bf16 on a CPU that computes in it, else fp32; fp32 for somebody else's module), "fp32",
            "bf16" or "fp16".
        memory: other ways to read: window, softmax, border, memory_frames. Widths and fusion belong to the weights.
        fold: fold BatchNorm into convolutions.
        compiled: have torch.compile make code for each size of image when its first one comes; see `NetworkCompiler`.

    Raises:
        ConfigError: unknown or absent device, unknown precision or one that a module does not compute in, memory options that
            the weights do not allow.
    """
    foreign = model.network.backbone.foreign
    chosen_device = choose_device(device)
    dtype = choose_precision("fp32" if foreign and precision == "auto" else precision, chosen_device)
    with torch.no_grad():  # else copies of TorchScript's weights count as computed ones
        network, config = copy.deepcopy(model.network).eval(), model.config
    if memory is not None:
        config = replace(config, memory=_override_memory(network, memory))
    if fold and not foreign:
        fold_batch_norm(network)
    network.requires_grad_(False)
    network = network.to(device=chosen_device, dtype=dtype)
    if dtype in network.backbone.sensitive_to:
        for name in network.backbone.sensitive:
            original = model.network.backbone.get_submodule(name)
            network.backbone.set_submodule(name, _FullPrecision(original, dtype, fold).to(chosen_device))
    if isinstance(network.backbone, ModuleBackbone):
        network.backbone.require_runs(dtype, chosen_device)
        if network.memory is not None:  # ours
            network.memory.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_measured_tiles(chosen_device)
    return Runtime(network, config, chosen_device, dtype, NetworkCompiler(network) if compiled else None)


def choose_compile(name: str) -> bool:
    """Whether to compile, for "auto", "true" or "false".

    On a CPU a faster frame is paid for with a late first image and other labels (docs/cuda.md); on CUDA a whole frame has not
    been measured.
    """
    return {"auto": False, "true": True, "false": False}[name]


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; raises ConfigError where it is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device {name} is not there: PyTorch {torch.__version__} sees {count} CUDA devices; try auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of this name, or the fastest that keeps the labels for "auto"; raises ConfigError for unknown names."""
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_computes_bfloat16() else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be auto, {', '.join(PRECISIONS)}; got {name!r}")
    return PRECISIONS[name]


@lru_cache(maxsize=1)
def cpu_computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware. Emulated, it would be slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


class _FullPrecision(nn.Module):
    """Run one module of a half-precision network in float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, fold: bool) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.dtype = dtype
        if fold:
            fold_batch_norm(self.module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.module(x.float())
        return out.to(self.dtype)


def _override_memory(network: LMANet, memory: MemoryConfig) -> MemoryConfig:
    if network.memory is None:
        raise ConfigError("these weights have no memory (single-frame network); leave the memory options out")
    trained = network.memory.config
    memory.require_weights_of(trained)
    network.memory.config = memory
    return memory
