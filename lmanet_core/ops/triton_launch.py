"""How the kernels of `triton_kernels.py` are started: which tiles, how many programs, on which device.

Importing this module needs Triton. Which tiles are fastest depends on the device. What was measured on this very device
(`lmanet bench --tune`, handed over by `use_tiles`) comes first. Then comes a table of devices that were measured: others take
the tiles of the nearest of them where these fit, else tiles that fit every device. So no start waits for a measurement (it took
12 s at the first image). With `LMANET_TUNE=1` in the environment the first call with a size measures the candidates here, and
Triton keeps the answer in its cache on disk for later processes that set it, too; results of other tiles differ in the last
bits. With `TRITON_INTERPRET=1` kernels run on the CPU, in the first candidate's tiles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources

from lmanet_core.ops import triton_kernels as kernels

INTERPRETED = not isinstance(kernels.attend, triton.JITFunction)

_LOG2_E = 1.4426950408889634
_MAX_OFFSET = 2**31 - 1  # offsets within one frame are 32-bit
_NARROW = 128  # values this wide at most are read by one program


class Tiles(NamedTuple):
    """A tile of positions, the blocks of other positions it walks over, channels of the values at a time, warps, stages."""

    rows: int
    columns: int
    other_rows: int
    other_columns: int
    channels: int
    warps: int
    stages: int

    @property
    def config(self) -> Any:
        """As Triton's autotuner takes it."""
        names = ("ROWS", "COLUMNS", "OTHER_ROWS", "OTHER_COLUMNS", "CHANNELS")
        return triton.Config(dict(zip(names, self[:5], strict=True)), num_warps=self.warps, num_stages=self.stages)


#: Kernel → kind → candidates; "channels" is an upper limit. The first of each fits every device without spilling registers,
#: but for score_gradients without tensor cores at 128 key channels (`test_triton_compile.py` holds it to what it spills now).
TILES: dict[str, dict[str, tuple[Tiles, ...]]] = {
    "attend": {
        "narrow": (Tiles(8, 8, 2, 32, 128, 4, 2), Tiles(8, 8, 4, 16, 128, 4, 2), Tiles(8, 8, 2, 32, 128, 4, 3),
                   Tiles(8, 8, 4, 32, 128, 4, 2), Tiles(4, 8, 2, 32, 128, 2, 2), Tiles(8, 16, 2, 32, 128, 8, 2)),
        "wide": (Tiles(8, 8, 1, 32, 64, 8, 1), Tiles(8, 8, 2, 32, 128, 4, 2), Tiles(8, 16, 2, 32, 128, 8, 2),
                 Tiles(8, 16, 2, 32, 256, 8, 2), Tiles(8, 16, 2, 32, 256, 8, 3), Tiles(8, 8, 2, 32, 256, 8, 2)),
        "plain": (Tiles(4, 8, 1, 16, 64, 8, 1), Tiles(4, 4, 1, 16, 64, 4, 1), Tiles(4, 8, 1, 32, 64, 8, 1)),
    },
    "score_gradients": {
        "narrow": (Tiles(8, 8, 2, 32, 64, 4, 2), Tiles(8, 8, 4, 16, 64, 4, 2), Tiles(8, 16, 2, 32, 64, 8, 2)),
        "wide": (Tiles(8, 8, 1, 32, 64, 8, 1), Tiles(8, 8, 2, 32, 64, 4, 2), Tiles(8, 16, 2, 32, 64, 8, 3)),
        "plain": (Tiles(4, 4, 1, 16, 16, 8, 1), Tiles(4, 8, 1, 16, 32, 4, 1), Tiles(4, 8, 1, 16, 64, 8, 1)),
    },
    "value_gradients": {
        "narrow": (Tiles(8, 8, 2, 32, 128, 4, 2), Tiles(8, 8, 4, 16, 128, 4, 2), Tiles(8, 16, 2, 32, 128, 8, 2)),
        "wide": (Tiles(8, 8, 1, 32, 64, 8, 1), Tiles(8, 8, 2, 32, 128, 4, 2), Tiles(8, 16, 2, 32, 128, 8, 2),
                 Tiles(8, 16, 2, 32, 256, 8, 2)),
        "plain": (Tiles(4, 8, 1, 16, 64, 8, 1), Tiles(4, 4, 1, 16, 64, 4, 1), Tiles(4, 8, 1, 32, 64, 8, 1)),
    },
}  # fmt: skip


#: Compute capability → kernel → kind → the fastest tiles: an H200, float16, R = 21, ERFNet S = 4 and PSPNet S = 3
#: (benchmarks/results/tiles_h200.json).
TUNED: dict[tuple[int, int], dict[str, dict[str, Tiles]]] = {
    (9, 0): {
        "attend": {"narrow": Tiles(8, 8, 4, 32, 128, 4, 4), "wide": Tiles(8, 8, 4, 16, 512, 8, 2)},
        "score_gradients": {"narrow": Tiles(8, 8, 2, 32, 64, 8, 2), "wide": Tiles(8, 8, 2, 32, 64, 4, 3)},
        "value_gradients": {"narrow": Tiles(8, 8, 2, 32, 128, 8, 2), "wide": Tiles(8, 8, 2, 32, 512, 8, 2)},
    },
}
#: Compute capability → shared memory that a program may have, KiB; of others at least as much as 8.6 has is taken for granted.
_SHARED_KIB = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
_LEAST_SHARED_KIB = 99
_MEASURED_KEY_CHANNELS = 128  # with more, tiles that were measured spill registers

#: Name of a device of this machine → kernel → kind → tiles that were measured on it.
_measured: dict[str, Mapping[str, Mapping[str, Tiles]]] = {}


def use_tiles(device_name: str, tiles: Mapping[str, Mapping[str, Tiles]]) -> None:
    """Have later launches take these on a device, where they fit the maps.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        tiles: kernel → "narrow" or "wide" → tiles; what is not there is taken from the table.
    """
    _measured[device_name] = tiles


def tiles_for(
    name: str,
    key_channels: int,
    value_channels: int,
    tensor_cores: bool,
    capability: tuple[int, int],
    device_name: str = "",
) -> Tiles:
    """The tiles of a kernel on a device: those measured there, or of the nearest in the table, or the first candidate.

    Args:
        name: of the kernel.
        key_channels, value_channels: Dk, Dv.
        tensor_cores: whether products run on them.
        capability: the device's compute capability.
        device_name: the device's name.
    """
    if tensor_cores:
        kind = kind_of(value_channels)
        nearest = min(TUNED, key=lambda one: abs(10 * (one[0] - capability[0]) + one[1] - capability[1]))
        for tiles in (_measured.get(device_name, {}).get(name, {}).get(kind), TUNED[nearest][name][kind]):
            if tiles is not None and fits(_cut(tiles, value_channels), key_channels, capability):
                return _cut(tiles, value_channels)
    return candidates(name, value_channels, tensor_cores)[0]


def fits(tiles: Tiles, key_channels: int, capability: tuple[int, int]) -> bool:
    """Whether a device with tensor cores has the shared memory and the registers for tiles that were measured on another."""
    shared_kib = _SHARED_KIB.get(capability, _LEAST_SHARED_KIB)
    return key_channels <= _MEASURED_KEY_CHANNELS and shared_bytes(tiles, key_channels, capability) <= shared_kib << 10


def shared_bytes(tiles: Tiles, key_channels: int, capability: tuple[int, int]) -> int:
    """Shared memory that a program takes at most, in half precision: what is loaded ahead, what stays, and the weights.

    What is multiplied now lies in registers, but for devices of 9.0 to 11.0, which multiply from shared memory.
    `test_triton_compile.py` compares it with what is compiled for 8.0, 8.9 and 9.0.
    """
    own, others = tiles.rows * tiles.columns, tiles.other_rows * tiles.other_columns
    padded = _padded(key_channels)
    from_memory = 9 <= capability[0] <= 11
    ahead = max(1, tiles.stages - (0 if from_memory else 1)) * others * (padded + tiles.channels)
    return 2 * (ahead + own * padded + own * others) + 1024  # and sums of each position


def candidates(name: str, value_channels: int, tensor_cores: bool) -> list[Tiles]:
    """Tiles to choose from for a kernel, channels cut to what there are.

    Without tensor cores (float32, for exactness; Turing, which Triton no longer drives) products take many more registers.
    """
    kind = kind_of(value_channels) if tensor_cores else "plain"
    return list(dict.fromkeys(_cut(tiles, value_channels) for tiles in TILES[name][kind]))


def kind_of(value_channels: int) -> str:
    """Which tiles values want on tensor cores: "narrow" where one program reads all channels, else "wide"."""
    return "narrow" if value_channels <= _NARROW else "wide"


def every_candidate(name: str, kind: str) -> list[Tiles]:
    """Of a kernel and a kind, uncut: those that any device may take, and those that were the fastest on one."""
    return list(dict.fromkeys([*TILES[name][kind], *(kernels[name][kind] for kernels in TUNED.values())]))


def _cut(tiles: Tiles, value_channels: int) -> Tiles:
    """With no more channels than there are."""
    return tiles._replace(channels=min(tiles.channels, max(16, triton.next_power_of_2(value_channels))))


def forward(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    half: int,
    masked: bool,
    scale: float,
) -> None:
    """Fill out (B, Dv, H, W) and lse (B, H, W); shapes as in `triton_attention.local_attention_op`."""
    batch, key_channels, height, width = query.shape
    frames, value_channels = values.shape[1:3]
    _start(
        "attend",
        lambda tiles: (_tile_count(tiles, height, width), _slices(tiles, value_channels), batch),
        (query, keys, values, out, lse, frames, height, width, half, scale * _LOG2_E, *_strides(query, keys, values, out)),
        {"MASKED": masked, **_channels(key_channels, value_channels, query)},
    )


def backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    grads: Sequence[torch.Tensor],
    half: int,
    scale: float,
) -> None:
    """Fill the gradients of query, keys and values."""
    batch, key_channels, height, width = query.shape
    frames, value_channels = values.shape[1:3]
    grad_query, grad_keys, grad_values = grads
    channels = _channels(key_channels, value_channels, query)
    dots = torch.empty_like(lse)
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        kernels.dot_maps[(triton.cdiv(height * width, 64), batch)](
            grad_out, out, dots, height, width, *_strides(grad_out, out), DV=value_channels, POSITIONS=64, CHANNELS=64
        )
    size = (height, width, half, scale * _LOG2_E)
    _start(
        "value_gradients",
        lambda tiles: (_tile_count(tiles, height, width) * frames, _slices(tiles, value_channels), batch),
        (keys, query, grad_out, grad_values, lse, frames, *size, *_strides(keys, query, grad_out, grad_values)),
        channels,
    )
    query_side = [maps.unsqueeze(1) for maps in (query, grad_out)]  # a frame of queries
    key_side = [keys, values]
    for own, other, grad in (
        (query_side, key_side, grad_query.unsqueeze(1)),
        (key_side, query_side, grad_keys),
    ):
        own_frames, other_frames = own[0].shape[1], other[0].shape[1]
        _start(
            "score_gradients",
            lambda tiles, own_frames=own_frames: (_tile_count(tiles, height, width), own_frames, batch),
            (*own, *other, grad, lse, dots, other_frames, *size, scale, *_strides(*own, *other, grad)),
            {"QUERY_IS_OWN": own is query_side, **channels},
        )


def _start(name: str, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
    first: torch.Tensor = arguments[0]
    tensor_cores = _has_tensor_cores(first)
    chosen = candidates(name, constants["DV"], tensor_cores)
    if INTERPRETED:
        getattr(kernels, name)[grid(chosen[0])](*arguments, **constants, **chosen[0].config.all_kwargs())
        return
    if os.environ.get("LMANET_TUNE", "0") in ("", "0"):
        capability, device = torch.cuda.get_device_capability(first.device), torch.cuda.get_device_name(first.device)
        tiles = tiles_for(name, constants["DK"], constants["DV"], tensor_cores, capability, device)
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            try:
                getattr(kernels, name)[grid(tiles)](*arguments, **constants, **tiles.config.all_kwargs())
            except OutOfResources:  # of tiles from another device, whose shared memory is only estimated here
                getattr(kernels, name)[grid(chosen[0])](*arguments, **constants, **chosen[0].config.all_kwargs())
        return
    tuner = _tuner(name, tuple(chosen), torch.cuda.get_device_name(first.device))
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        tuner[lambda meta: grid(_tiles_of(meta))](*arguments, **constants)


@lru_cache(maxsize=64)
def _tuner(name: str, chosen: tuple[Tiles, ...], device_name: str) -> Any:
    """Measures once per device and size. How full the memory is (T) does not matter: the tiles suit any number of frames."""
    configs = [tiles.config for tiles in chosen]
    tune = triton.autotune(configs, key=["H", "W", "half", "DK", "DV", "QUERY_IS_OWN"], cache_results=True)
    return tune(getattr(kernels, name))


def _has_tensor_cores(maps: torch.Tensor) -> bool:
    if maps.dtype == torch.float32:
        return False
    return INTERPRETED or torch.cuda.get_device_capability(maps.device) >= (8, 0)


def _tiles_of(meta: dict[str, Any]) -> Tiles:
    return Tiles(meta["ROWS"], meta["COLUMNS"], meta["OTHER_ROWS"], meta["OTHER_COLUMNS"], meta["CHANNELS"], 0, 0)


def _tile_count(tiles: Tiles, height: int, width: int) -> int:
    return int(triton.cdiv(height, tiles.rows) * triton.cdiv(width, tiles.columns))


def _slices(tiles: Tiles, value_channels: int) -> int:
    return int(triton.cdiv(value_channels, tiles.channels))


def _strides(*maps: torch.Tensor) -> tuple[int, ...]:
    for one in maps:
        reach = sum((size - 1) * abs(stride) for size, stride in zip(one.shape[-3:], one.stride()[-3:], strict=True))
        if reach > _MAX_OFFSET:
            raise ValueError(f"one frame of a map must span less than 2³¹ elements, got {tuple(one.shape)}")
    return tuple(stride for one in maps for stride in one.stride())


def _channels(key_channels: int, value_channels: int, query: torch.Tensor) -> dict[str, Any]:
    dtypes = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
    dot = dtypes[query.dtype]
    if INTERPRETED and dot == tl.bfloat16:
        dot = tl.float32  # the interpreter would multiply the bits
    return {"DK": key_channels, "DV": value_channels, "PADDED_DK": _padded(key_channels), "DOT": dot}


def _padded(key_channels: int) -> int:
    """Key channels as products take them."""
    return max(16, int(triton.next_power_of_2(key_channels)))
