"""Tiles of the CUDA kernels that `lmanet bench --tune` measured on the devices of this machine, in a file of the user's cache.

    ~/.cache/lmanet/tiles.json (or below XDG_CACHE_HOME):   "device, capability, Triton's version" → kernel → kind → tiles

Whatever is wrong with the file costs speed at most: then it is said once, and the kernels take their own tiles.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmanet_core.errors import OutputError
from lmanet_core.files import output_errors, replace_file

if TYPE_CHECKING:
    from lmanet_core.ops.triton_launch import Tiles

_log = logging.getLogger(__name__)


def tiles_file() -> Path | None:
    """Where they are, or would be; None where the user has neither a home nor XDG_CACHE_HOME."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    if Path(told).is_absolute():  # a relative one is to be ignored, says its specification
        return Path(told, "lmanet", "tiles.json")
    try:
        return Path.home() / ".cache" / "lmanet" / "tiles.json"
    except RuntimeError:
        return None


def use_measured_tiles(device: torch.device) -> bool:
    """Have the kernels take what was measured on a device with this version of Triton; a CPU has no such kernels.

    Returns:
        Whether there is such a measurement.
    """
    path = tiles_file()
    if device.type != "cuda" or path is None or not path.is_file():
        return False
    from lmanet_core.ops.triton_launch import use_tiles  # imports Triton

    try:
        found = _parse(json.loads(path.read_text()).get(_key(device), {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s cannot be used (%s); delete it, or measure again with lmanet bench --tune", path, error)
        return False
    if found:
        use_tiles(torch.cuda.get_device_name(device), found)
    return bool(found)


def write_tiles(device: torch.device, tiles: Mapping[str, Mapping[str, Tiles]]) -> Path:
    """Put what was measured on a CUDA device beside what the file holds of others; returns the file.

    Args:
        device: that was measured.
        tiles: kernel → kind → tiles.

    Raises:
        OutputError: the file cannot be written.
    """
    path = tiles_file()
    if path is None:
        raise OutputError("the tiles have nowhere to go: set XDG_CACHE_HOME to a folder, or HOME")
    try:
        held = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        held = {}
    held[_key(device)] = tiles
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as beside:
        beside.write_text(json.dumps(held, indent=1) + "\n")
    return path


def _key(device: torch.device) -> str:
    import triton

    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, {major}.{minor}, Triton {triton.__version__}"


def _parse(kernels: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Tiles]]:
    """Tiles from what JSON holds; raises ValueError where they are none that are known."""
    from lmanet_core.ops.triton_launch import TUNED, Tiles, every_candidate

    (known, *_) = TUNED.values()

    parsed: dict[str, dict[str, Tiles]] = {}
    for name, kinds in kernels.items():
        for kind, row in kinds.items():
            tiles = Tiles(*row)
            if kind not in known.get(name, ()) or tiles not in every_candidate(name, kind):
                raise ValueError(f"no tiles of {name}, {kind}: {row}")
            parsed.setdefault(name, {})[kind] = tiles
    return parsed
