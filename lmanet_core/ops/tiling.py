"""A map of queries cut into tiles, and the patches of keys and values that the queries of a tile may see.

All queries of a tile share one patch, the tile grown by the window's half on each side. A fixed mask switches off the pairs
that are in one patch but not in each other's window. Patches are padded with zeros, which *is* the zero-logit border: a zero
key scores 0, a zero value reads 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F

from lmanet_core.ops.scratch import Scratch

_WORKSPACE_BYTES = 10 << 20  # a few megabytes beyond the L2 cache cost nothing, tens of megabytes do
_PADDED_BYTES = 32 << 20  # up to this size whole maps are padded, once; of larger ones, what a few tiles see
_OUTSIDE = -1e30  # not −inf: a row of tiles may hold queries beyond the map, and those must not become NaN


class _Place(Protocol):
    """Where the queries and the keys of one block are in their maps."""

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, H, W, D) → (N, n, D): the entries of the block's queries."""

    def paste(self, rows: torch.Tensor, maps: torch.Tensor) -> None:
        """(N, n, D) → written into maps (B, H, W, D) where the block's queries are."""

    def add_patches(self, patches: torch.Tensor, maps: torch.Tensor) -> None:
        """(N, m, D) → added into maps (B, T, H, W, D) where the block's keys came from."""


@dataclass(frozen=True)
class Block:
    """Some queries and all the keys and values that any of them may see; N counts batch entries and tiles.

    Valid until the next block of the same scratch.

    Attributes:
        place: where they are.
        queries: (N, n, Dk), keys: (N, m, Dk), values: (N, m, Dv).
        mask: (1, n, m) 0 or −inf, in each other's window or not; None where all are.
        outside: (N, 1, m) for a masked border: very negative where the key is outside the image.
    """

    place: _Place
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None
    outside: torch.Tensor | None = None

    def scores(self, scratch: Scratch) -> torch.Tensor:
        """(N, n, m) logits, −inf where a key is not in the query's window."""
        batch, n, _ = self.queries.shape
        out = scratch.get("scores", (batch, n, self.keys.shape[1]), self.queries.dtype, self.queries.device)
        keys = self.keys.transpose(1, 2)
        if self.mask is None:
            return torch.bmm(self.queries, keys, out=out)
        scores = torch.baddbmm(self.mask, self.queries, keys, out=out)
        return scores if self.outside is None else scores.add_(self.outside)


def blocks(
    query_rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    value_dtype: torch.dtype,
    window: int | None,
    border: str,
    scratch: Scratch,
) -> Iterator[Block]:
    """Query (B, H, W, Dk); keys (B, T, Dk, H, W) are scored in its dtype, values (B, T, Dv, H, W) read in `value_dtype`."""
    key_source = _Source("keys", keys.movedim(2, -1), query_rows.dtype)
    value_source = _Source("values", values.movedim(2, -1), value_dtype)
    if window is None:
        yield from _global_blocks(query_rows, key_source, value_source)
    else:
        yield from _window_blocks(query_rows, key_source, value_source, window, border, scratch)


@dataclass(frozen=True)
class _Source:
    """Maps (B, T, H, W, D) that patches are cut from, to be of `dtype`; `outside` is what lies beyond them."""

    name: str
    maps: torch.Tensor
    dtype: torch.dtype
    outside: float = 0.0

    @property
    def width_bytes(self) -> int:
        """Of one position of one frame."""
        return int(self.maps.shape[-1]) * self.dtype.itemsize

    def padded(self, rows: range, columns: range, scratch: Scratch) -> torch.Tensor:
        """(B, T, rows, columns, D): a part of the maps, which may reach beyond them."""
        batch, frames, height, width, channels = self.maps.shape
        shape = (batch, frames, len(rows), len(columns), channels)
        part = scratch.get(f"padded {self.name}", shape, self.dtype, self.maps.device)
        top, bottom = (min(max(row - rows.start, 0), len(rows)) for row in (0, height))
        left, right = (min(max(column - columns.start, 0), len(columns)) for column in (0, width))
        for margin in (part[:, :, :top], part[:, :, bottom:], part[:, :, :, :left], part[:, :, :, right:]):
            margin.fill_(self.outside)
        inner = self.maps[:, :, top + rows.start : bottom + rows.start, left + columns.start : right + columns.start]
        part[:, :, top:bottom, left:right].copy_(inner)
        return part


def _global_blocks(query_rows: torch.Tensor, key_source: _Source, value_source: _Source) -> Iterator[Block]:
    keys, values = (source.maps.to(source.dtype).flatten(1, 3) for source in (key_source, value_source))  # (B, T*H*W, D)
    score_bytes = keys.shape[0] * keys.shape[1] * (2 * keys.element_size() + values.element_size())
    step = max(1, _WORKSPACE_BYTES // score_bytes)
    for start in range(0, query_rows.shape[1] * query_rows.shape[2], step):
        place = _Span(slice(start, start + step))
        yield Block(place, place.cut(query_rows), keys, values)


@dataclass(frozen=True)
class _Span:
    """Queries at a range of positions y·W + x, and every key there is."""

    positions: slice

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(1, 2)[:, self.positions]

    def paste(self, rows: torch.Tensor, maps: torch.Tensor) -> None:
        maps.flatten(1, 2)[:, self.positions] = rows

    def add_patches(self, patches: torch.Tensor, maps: torch.Tensor) -> None:
        maps.flatten(1, 3).add_(patches)


def _window_blocks(
    query_rows: torch.Tensor, key_source: _Source, value_source: _Source, window: int, border: str, scratch: Scratch
) -> Iterator[Block]:
    tiling = _choose_tiling(query_rows, value_source.maps, window)
    frames = key_source.maps.shape[1]
    mask = _window_mask(tiling, frames, query_rows.dtype, query_rows.device)
    sources = [key_source, value_source]
    if border == "masked":
        inside = torch.zeros_like(key_source.maps[..., :1])
        sources.append(_Source("outside", inside, query_rows.dtype, _OUTSIDE))
    whole = _Tiles(tiling, 0, range(tiling.tiles_across)).seen(tiling.tiles_down)
    batch = len(query_rows)
    position_bytes = batch * sum(source.width_bytes for source in sources)
    pair_bytes = batch * (query_rows.dtype.itemsize + value_source.dtype.itemsize)
    pad_once = len(whole[0]) * len(whole[1]) * frames * position_bytes <= _PADDED_BYTES
    padded = [source.padded(*whole, scratch) for source in sources] if pad_once else []
    for top in range(0, tiling.height, tiling.rows):
        for tiles in _chunks(tiling, mask, position_bytes, pair_bytes):
            place = _Tiles(tiling, top, tiles)
            rows, columns = place.seen()
            parts = [maps[:, :, rows.start + tiling.half :, columns.start + tiling.half :] for maps in padded]
            parts = parts or [source.padded(rows, columns, scratch) for source in sources]
            keys, values, *outside = (
                place.cut_patches(part, source.name, scratch) for part, source in zip(parts, sources, strict=True)
            )
            yield Block(place, place.cut(query_rows), keys, values, mask, outside[0].transpose(1, 2) if outside else None)


@dataclass(frozen=True)
class _Tiling:
    """How a map of H × W queries is cut: tiles of `rows` × `columns` queries, patches grown by `half` on every side."""

    height: int
    width: int
    rows: int
    columns: int
    half: int

    @property
    def patch_rows(self) -> int:
        return self.rows + 2 * self.half

    @property
    def patch_columns(self) -> int:
        return self.columns + 2 * self.half

    @property
    def tiles_across(self) -> int:
        return -(-self.width // self.columns)

    @property
    def tiles_down(self) -> int:
        return -(-self.height // self.rows)


@dataclass(frozen=True)
class _Tiles:
    """A range of neighbouring tiles, whose first row of queries is `top`. Tiles may reach beyond the map; zeros are there."""

    tiling: _Tiling
    top: int
    tiles: range

    @property
    def _columns(self) -> slice:
        return slice(self.tiles.start * self.tiling.columns, self.tiles.stop * self.tiling.columns)

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        tiling, count = self.tiling, len(self.tiles)
        part = maps[:, self.top : self.top + tiling.rows, self._columns]
        part = F.pad(part, (0, 0, 0, count * tiling.columns - part.shape[2], 0, tiling.rows - part.shape[1]))
        tiles = part.reshape(-1, tiling.rows, count, tiling.columns, maps.shape[-1]).transpose(1, 2)
        return tiles.flatten(2, 3).flatten(0, 1)  # (B*tiles, rows*columns, D)

    def paste(self, rows: torch.Tensor, maps: torch.Tensor) -> None:
        tiling = self.tiling
        tiles = rows.view(-1, len(self.tiles), tiling.rows, tiling.columns, rows.shape[-1])
        part = tiles.transpose(1, 2).flatten(2, 3)  # (B, rows, tiles*columns, D)
        target = maps[:, self.top : self.top + tiling.rows, self._columns]
        target.copy_(part[:, : target.shape[1], : target.shape[2]])

    def seen(self, tiles_down: int = 1) -> tuple[range, range]:
        """Rows and columns that the queries of these tiles, and of those below, may see; they reach beyond the map."""
        tiling = self.tiling
        first, left = self.top - tiling.half, self.tiles.start * tiling.columns - tiling.half
        return (
            range(first, first + tiles_down * tiling.rows + 2 * tiling.half),
            range(left, left + len(self.tiles) * tiling.columns + 2 * tiling.half),
        )

    def cut_patches(self, part: torch.Tensor, name: str, scratch: Scratch) -> torch.Tensor:
        """(B, T, rows, columns, D) from the first seen row and column on → (B·tiles, T·patch rows·patch columns, D)."""
        tiling = self.tiling
        seen = part[:, :, : tiling.patch_rows, : len(self.seen()[1])]
        patches = seen.unfold(3, tiling.patch_columns, tiling.columns)  # (B, T, rows, tiles, D, columns)
        patches = patches.permute(0, 3, 1, 2, 5, 4)
        return scratch.get(name, patches.shape, part.dtype, part.device).copy_(patches).flatten(2, 4).flatten(0, 1)

    def add_patches(self, patches: torch.Tensor, maps: torch.Tensor) -> None:
        tiling = self.tiling
        shape = (-1, len(self.tiles), maps.shape[1], tiling.patch_rows, tiling.patch_columns, maps.shape[-1])
        by_tile = patches.view(shape)
        first = self.top - tiling.half
        rows = range(max(first, 0), min(first + tiling.patch_rows, tiling.height))
        for index, tile in enumerate(self.tiles):  # neighbours overlap: one after the other, always in the same order
            left = tile * tiling.columns - tiling.half
            columns = range(max(left, 0), min(left + tiling.patch_columns, tiling.width))
            maps[:, :, rows.start : rows.stop, columns.start : columns.stop] += by_tile[
                :, index, :, rows.start - first : rows.stop - first, columns.start - left : columns.stop - left
            ]


def _choose_tiling(query_rows: torch.Tensor, value_rows: torch.Tensor, window: int) -> _Tiling:
    """Small tiles score fewer pairs outside the window, large ones copy each patch less often; wide values favour large."""
    _, height, width, _ = query_rows.shape
    rows, columns = (4, 8) if value_rows.shape[-1] <= 256 else (8, 16)
    return _Tiling(height, width, min(rows, height), min(columns, width), window // 2)


def _chunks(tiling: _Tiling, mask: torch.Tensor, position_bytes: int, pair_bytes: int) -> Iterator[range]:
    """Ranges of tiles of one stripe, about equally long, that fit the workspace: patches, scores, weights.

    Args:
        tiling: of the map.
        mask: (1, queries, pairs).
        position_bytes: of a position's keys and values, of the whole batch.
        pair_bytes: of a pair's score and weight.
    """
    _, queries, pairs = mask.shape
    tile_bytes = pairs * (position_bytes + queries * pair_bytes)
    chunks = -(-tiling.tiles_across // max(1, _WORKSPACE_BYTES // tile_bytes))
    step = -(-tiling.tiles_across // chunks)
    for start in range(0, tiling.tiles_across, step):
        yield range(start, min(start + step, tiling.tiles_across))


@lru_cache(maxsize=16)
def _window_mask(tiling: _Tiling, frames: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1, rows·columns, T·patch rows·patch columns): 0 for pairs within the window, −inf for the others."""

    def near(queries: int, patch: int) -> torch.Tensor:
        offset = torch.arange(patch)[None, :] - torch.arange(queries)[:, None]
        return (offset >= 0) & (offset <= 2 * tiling.half)  # (queries, patch)

    rows = near(tiling.rows, tiling.patch_rows)[:, None, :, None]
    columns = near(tiling.columns, tiling.patch_columns)[None, :, None, :]
    allowed = (rows & columns).flatten(2, 3).flatten(0, 1)  # (rows*columns, patch)
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -torch.inf)
    return mask.repeat(1, frames).unsqueeze(0).to(device)
