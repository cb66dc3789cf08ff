"""Where a run computes: device, precision and processes, by Lightning's Fabric."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from lmanet_core.errors import ConfigError
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.runtime import cpu_computes_bfloat16


class _Autocast(MixedPrecision):
    """Fabric's, but what goes into the network stays as it is: optical flow and positions need their 32 bits."""

    def convert_input(self, data: Any) -> Any:
        return data


def computes_on_gpu(config: TrainConfig) -> bool:
    """Whether a run uses GPUs; raises ConfigError where it is told to use some that are not there."""
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and present > 0)
    if on_gpu and config.devices > present:
        raise ConfigError(
            f"GPUs wanted on this machine: {config.devices}; PyTorch {torch.__version__} sees {present}; "
            "lower devices, or set accelerator: cpu"
        )
    return on_gpu


def chosen_precision(config: TrainConfig, on_gpu: bool) -> Literal["32", "bf16", "16"]:
    """What "auto" is here: a run keeps it, so that it can only be resumed in the same arithmetic."""
    if config.precision != "auto":
        return config.precision
    computes = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_computes_bfloat16()
    return "bf16" if computes else "32"


def make_fabric(config: TrainConfig, on_gpu: bool) -> Fabric:
    """Fabric for devices, processes and precision of a run; its processes are not started yet."""
    for name in ("lightning.fabric", "lightning.pytorch"):  # Fabric speaks through both
        logging.getLogger(name).setLevel(logging.WARNING)
    device = "cuda" if on_gpu else "cpu"
    half = None
    if config.precision != "32":
        half = _Autocast("bf16-mixed" if config.precision == "bf16" else "16-mixed", device)
    return Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.processes > 1 else "auto",
        plugins=half,
    )


@contextmanager
def launched(fabric: Fabric) -> Iterator[None]:
    """The other processes of this machine start here; they end with this one if it fails, instead of waiting for it."""
    try:
        fabric.launch()
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.kill()
        raise
