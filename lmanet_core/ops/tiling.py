"""A map of queries cut into tiles, and the patches of keys and values that the queries of a tile may see.

All queries of a tile share one patch, the tile grown by the window's half on each side. A fixed mask switches off the pairs
that are in one patch but not in each other's window. Patches are padded with zeros, which *is* the zero-logit border: a zero
key scores 0, a zero value reads 0.

Tiles are worked on in columns, one below the other. What a column may see is copied once, row by row with the frames side by
side, so that each patch is a part of that copy in one piece, and patches share what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F

from lmanet_core.ops.scratch import Scratch

_WORKSPACE_BYTES = 16 << 20  # a column of tiles at ERFNet's size; much less costs copies, tens of megabytes the cache
NARROW = 256  # channels; up to so many a position's values are small change beside its scores
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
    gradients: bool,
) -> Iterator[Block]:
    """All queries, some at a time.

    Args:
        query_rows: (B, H, W, Dk).
        keys: (B, T, Dk, H, W), scored in the dtype of the queries.
        values: (B, T, Dv, H, W), read in `value_dtype`.
        value_dtype, window, border: as `local_attention` has them.
        scratch: buffers to work in.
        gradients: for a read that is trained through, of which gradients are added up block by block.
    """
    key_source = _Source("keys", keys.movedim(2, -1), query_rows.dtype)
    value_source = _Source("values", values.movedim(2, -1), value_dtype)
    if window is None:
        yield from _global_blocks(query_rows, key_source, value_source)
    else:
        tiling = _choose_tiling(query_rows, value_source.maps, window, gradients)
        yield from _window_blocks(query_rows, key_source, value_source, tiling, border, scratch)


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

    def seen(self, rows: range, columns: range, scratch: Scratch) -> torch.Tensor:
        """(B, rows, T, columns, D): a part of the maps, which may reach beyond them."""
        batch, frames, height, width, channels = self.maps.shape
        part = scratch.get(self.name, (batch, len(rows), frames, len(columns), channels), self.dtype, self.maps.device)
        top, bottom = (min(max(row - rows.start, 0), len(rows)) for row in (0, height))
        left, right = (min(max(column - columns.start, 0), len(columns)) for column in (0, width))
        middle = part[:, top:bottom]
        for margin in (part[:, :top], part[:, bottom:], middle[:, :, :, :left], middle[:, :, :, right:]):
            margin.fill_(self.outside)
        inner = self.maps[:, :, top + rows.start : bottom + rows.start, left + columns.start : right + columns.start]
        middle[:, :, :, left:right].copy_(inner.transpose(1, 2))
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
    query_rows: torch.Tensor, key_source: _Source, value_source: _Source, tiling: _Tiling, border: str, scratch: Scratch
) -> Iterator[Block]:
    frames = key_source.maps.shape[1]
    mask = _window_mask(tiling, frames, query_rows.dtype, query_rows.device)
    sources = [key_source, value_source]
    if border == "masked":
        inside = torch.zeros_like(key_source.maps[..., :1])
        sources.append(_Source("outside", inside, query_rows.dtype, _OUTSIDE))
    batch = len(query_rows)
    position_bytes = batch * frames * sum(source.width_bytes for source in sources)
    pair_bytes = batch * (query_rows.dtype.itemsize + value_source.dtype.itemsize)
    for left in range(0, tiling.width, tiling.columns):
        for tiles in _chunks(tiling, mask, position_bytes, pair_bytes):
            place = _Tiles(tiling, left, tiles)
            keys, values, *outside = (
                place.patches(source.seen(*place.seen(), scratch), source.name, scratch) for source in sources
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
    def tiles_down(self) -> int:
        return -(-self.height // self.rows)


@dataclass(frozen=True)
class _Tiles:
    """A range of tiles, one below the other, whose first column of queries is `left`. They may reach beyond the map."""

    tiling: _Tiling
    left: int
    tiles: range

    @property
    def _rows(self) -> slice:
        return slice(self.tiles.start * self.tiling.rows, self.tiles.stop * self.tiling.rows)

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        tiling, count = self.tiling, len(self.tiles)
        part = maps[:, self._rows, self.left : self.left + tiling.columns]
        part = F.pad(part, (0, 0, 0, tiling.columns - part.shape[2], 0, count * tiling.rows - part.shape[1]))
        return part.reshape(-1, tiling.rows * tiling.columns, maps.shape[-1])  # (B*tiles, rows*columns, D)

    def paste(self, rows: torch.Tensor, maps: torch.Tensor) -> None:
        tiling = self.tiling
        part = rows.view(-1, len(self.tiles) * tiling.rows, tiling.columns, rows.shape[-1])
        target = maps[:, self._rows, self.left : self.left + tiling.columns]
        target.copy_(part[:, : target.shape[1], : target.shape[2]])

    def seen(self) -> tuple[range, range]:
        """Rows and columns that the queries of these tiles may see; they reach beyond the map."""
        tiling = self.tiling
        top, left = self._rows.start - tiling.half, self.left - tiling.half
        return range(top, self._rows.stop + tiling.half), range(left, left + tiling.patch_columns)

    def patches(self, seen: torch.Tensor, name: str, scratch: Scratch) -> torch.Tensor:
        """(B, rows, T, columns, D) → (B·tiles, patch rows·T·patch columns, D), a view of it for a batch of one."""
        row = seen.shape[2] * seen.shape[3]
        patches = seen.flatten(1, 3).unfold(1, self.tiling.patch_rows * row, self.tiling.rows * row)  # (B, tiles, D, positions)
        patches = patches.transpose(2, 3)
        if len(patches) > 1:
            patches = scratch.get(f"patches of {name}", patches.shape, seen.dtype, seen.device).copy_(patches)
        return patches.flatten(0, 1)

    def add_patches(self, patches: torch.Tensor, maps: torch.Tensor) -> None:
        tiling = self.tiling
        shape = (-1, len(self.tiles), tiling.patch_rows, maps.shape[1], tiling.patch_columns, maps.shape[-1])
        by_tile = patches.view(shape).transpose(2, 3)  # (B, tiles, T, rows, columns, D)
        first = self.left - tiling.half
        columns = range(max(first, 0), min(first + tiling.patch_columns, tiling.width))
        for index, tile in enumerate(self.tiles):  # neighbours overlap: one after the other, always in the same order
            top = tile * tiling.rows - tiling.half
            rows = range(max(top, 0), min(top + tiling.patch_rows, tiling.height))
            maps[:, :, rows.start : rows.stop, columns.start : columns.stop] += by_tile[
                :, index, :, rows.start - top : rows.stop - top, columns.start - first : columns.stop - first
            ]


def _choose_tiling(query_rows: torch.Tensor, value_rows: torch.Tensor, window: int, gradients: bool) -> _Tiling:
    """Small tiles score fewer pairs outside the window, large ones copy and add up less; wide values favour large."""
    _, height, width, _ = query_rows.shape
    narrow = (4, 8) if gradients else (2, 6)
    rows, columns = narrow if value_rows.shape[-1] <= NARROW else (8, 16)
    return _Tiling(height, width, min(rows, height), min(columns, width), window // 2)


def _chunks(tiling: _Tiling, mask: torch.Tensor, position_bytes: int, pair_bytes: int) -> Iterator[range]:
    """Ranges of the tiles of one column, about equally long, that fit the workspace: what they see, scores, weights.

    Args:
        tiling: of the map.
        mask: (1, queries, pairs).
        position_bytes: of a position's keys and values, of all frames and the whole batch.
        pair_bytes: of a pair's score and weight.
    """
    _, queries, pairs = mask.shape
    row_bytes = tiling.patch_columns * position_bytes
    tile_bytes = tiling.rows * row_bytes + queries * pairs * pair_bytes
    left = _WORKSPACE_BYTES - 2 * tiling.half * row_bytes  # beside what is seen above and below
    chunks = -(-tiling.tiles_down // max(1, left // tile_bytes))
    step = -(-tiling.tiles_down // chunks)
    for start in range(0, tiling.tiles_down, step):
        yield range(start, min(start + step, tiling.tiles_down))


@lru_cache(maxsize=16)
def _window_mask(tiling: _Tiling, frames: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1, rows·columns, patch rows·T·patch columns): 0 for pairs within the window, −inf for the others."""

    def near(queries: int, patch: int) -> torch.Tensor:
        offset = torch.arange(patch)[None, :] - torch.arange(queries)[:, None]
        return (offset >= 0) & (offset <= 2 * tiling.half)  # (queries, patch)

    rows = near(tiling.rows, tiling.patch_rows)[:, None, :, None, None]
    columns = near(tiling.columns, tiling.patch_columns)[None, :, None, None, :]
    allowed = (rows & columns).expand(-1, -1, -1, frames, -1).flatten(2).flatten(0, 1)  # (rows*columns, patch)
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -torch.inf)
    return mask.unsqueeze(0).to(device)
