"""`lmanet bench --tune`: which tiles of the CUDA kernels are fastest on this GPU, for reads of the paper's networks."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmanet_core.errors import ConfigError
from lmanet_core.experiments.benchmark import SIZES, OperatorSize, make_inputs, time_backward
from lmanet_core.experiments.timing import time_on
from lmanet_core.files import replace_file
from lmanet_core.ops import local_attention
from lmanet_core.weights.machine import describe_run
from lmanet_core.weights.tiles import write_tiles

if TYPE_CHECKING:
    from lmanet_core.ops.triton_launch import Tiles

Timer = Callable[[str], float]

_WINDOW = 21
_LEAST_CAPABILITY = (8, 0)  # below, the kernels have no tensor cores, and one set of tiles that spills little


def tune_and_keep(path: Path | None, arguments: Sequence[str], on_line: Callable[[str], None]) -> Path:
    """Measure on the current CUDA device and write what is fastest to the user's cache.

    Args:
        path: also record every measurement here, JSON; None: it is not recorded.
        arguments: of the command line, for the record.
        on_line: called with each measurement in words.

    Returns:
        The file in the cache.

    Raises:
        ConfigError: no CUDA device, or one without tensor cores that the kernels use.
        OutputError: a file that cannot be written.
    """
    require_tunable()
    device = torch.device("cuda", torch.cuda.current_device())
    rows: list[dict[str, Any]] = []

    def on_row(row: dict[str, Any]) -> None:
        rows.append(row)
        on_line(f"{row['kernel']}, {row['kind']}, {row['tiles']}: {row['found']}")

    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    fastest = tune(name, capability, on_row, partial(make_timer, str(device)))
    if path is not None:
        with replace_file(path) as beside:
            record = {"run": describe_run(shlex.join(["lmanet", *arguments])), "rows": rows}
            beside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return write_tiles(device, fastest)


def require_tunable() -> None:
    """Raise a ConfigError where there is nothing to measure."""
    if os.environ.get("LMANET_TUNE", "0") not in ("", "0"):
        raise ConfigError("bench --tune wants to choose tiles itself, and LMANET_TUNE=1 has every launch do so; unset it")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"bench --tune wants a CUDA device, and PyTorch {torch.__version__} sees none; run it where there is one"
        )
    capability = torch.cuda.get_device_capability()
    if capability < _LEAST_CAPABILITY:
        raise ConfigError(
            f"bench --tune wants compute capability {_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]} or newer, "
            f"{torch.cuda.get_device_name()} has {capability[0]}.{capability[1]}; its kernels have no tiles to choose from"
        )


def tune(
    device_name: str,
    capability: tuple[int, int],
    on_row: Callable[[dict[str, Any]], None],
    make_timer: Callable[[OperatorSize], Timer],
    sizes: Sequence[OperatorSize] = SIZES,
) -> dict[str, dict[str, Tiles]]:
    """Time every candidate of every kernel that fits the device, the other kernels in the fastest tiles so far.

    Args:
        device_name: as launches know it.
        capability: its compute capability.
        on_row: called with each measurement: kernel, kind, size, tiles, and what was found, ms or why not.
        make_timer: for a read, how long a kernel takes, ms.
        sizes: reads; the kind of tiles depends on the channels of their values.

    Returns:
        Kernel → kind → the fastest tiles, which launches take from now on.
    """
    from lmanet_core.ops.triton_launch import TILES, every_candidate, fits, kind_of, use_tiles

    fastest: dict[str, dict[str, Tiles]] = {name: {} for name in TILES}
    for size in sizes:
        timer, kind = make_timer(size), kind_of(size.value_channels)
        for name in TILES:
            times: dict[Tiles, float] = {}
            for tiles in every_candidate(name, kind):
                if not fits(tiles, size.key_channels, capability):
                    continue
                fastest[name][kind] = tiles
                use_tiles(device_name, fastest)
                found: float | str
                try:
                    found = times[tiles] = timer(name)
                except Exception as error:  # of one that the device does not take after all
                    found = f"{type(error).__name__}: {error}".splitlines()[0]
                on_row({"kernel": name, "kind": kind, "size": size.name, "tiles": list(tiles), "found": found})
            fastest[name].pop(kind, None)
            if times:
                fastest[name][kind] = min(times, key=times.__getitem__)
    use_tiles(device_name, fastest)
    return fastest


def make_timer(device: str, size: OperatorSize) -> Timer:
    """How long a kernel's part takes, ms, in float16: the read, or all its gradients."""
    inputs = make_inputs(size, torch.float16, device)

    def time_kernel(name: str) -> float:
        if name == "attend":
            return time_on(device, partial(local_attention, *inputs, _WINDOW, impl="triton"))
        return time_backward(inputs, _WINDOW)

    return time_kernel
