"""Local attention as small matrix products: the CPU path, and a plain PyTorch path for any device.

The map is cut into tiles of queries. All queries of a tile share one patch of keys and values, the tile grown by the window's
half on each side, so scoring and reading are two batched matrix products with a softmax between them. A fixed mask switches
off the pairs that are in one patch but not in each other's window. Patches are padded with zeros, which *is* the zero-logit
border: a zero key scores 0, a zero value reads 0.

A few tiles are worked on at a time, within `_WORKSPACE_BYTES`: scores stay in cache, and nothing of size T·R²·H·W exists. The
backward pass recomputes the scores and turns them into weights with the saved log-sum-exp, tile by tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

_WORKSPACE_BYTES = 12 << 20  # a few megabytes beyond the L2 cache cost nothing, tens of megabytes do
_OUTSIDE = -1e30  # not −inf: a row of tiles may hold queries beyond the map, and those must not become NaN


def blocked_local_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    border: Literal["zero", "masked"],
    scale: float,
) -> torch.Tensor:
    """Arguments and result as `lmanet_core.ops.local_attention`; the result is laid out channels-last."""
    if torch.is_grad_enabled() and (query.requires_grad or keys.requires_grad or values.requires_grad):
        out: torch.Tensor = _BlockedAttention.apply(  # type: ignore[no-untyped-call]
            query, keys, values, window, border, scale
        )
        return out
    out, _ = _forward(query, keys, values, window, border, scale, keep_lse=False)
    return out


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        border: Literal["zero", "masked"],
        scale: float,
    ) -> torch.Tensor:
        out, lse = _forward(query, keys, values, window, border, scale, keep_lse=True)
        ctx.save_for_backward(query, keys, values, out, lse)
        ctx.options = (window, border, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, keys, values, out, lse = ctx.saved_tensors
        grads = _backward(query, keys, values, out, lse, grad_out, *ctx.options)
        return (*grads, None, None, None)


class _Scratch:
    """Buffers that one block after the other works in: fresh megabytes for each would cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def get(self, name: str, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """An uninitialised contiguous tensor of this shape, in the storage that had this name before."""
        wanted = shape[0] * shape[1] * shape[2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < wanted:
            self._buffers[name] = buffer = torch.empty(wanted, dtype=dtype, device=device)
        return buffer[:wanted].view(shape)

    def like(self, name: str, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """As `get`, with the shape and device of `rows`."""
        n, m, d = rows.shape
        return self.get(name, (n, m, d), dtype, rows.device)


class _Place(Protocol):
    """Where the queries and the keys of one block are in their maps."""

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, H, W, D) → (N, n, D): the entries of the block's queries."""

    def paste(self, rows: torch.Tensor, maps: torch.Tensor) -> None:
        """(N, n, D) → written into maps (B, H, W, D) where the block's queries are."""

    def add_patches(self, patches: torch.Tensor, maps: torch.Tensor) -> None:
        """(N, m, D) → added into maps (B, T, H, W, D) where the block's keys came from."""


@dataclass(frozen=True)
class _Block:
    """Some queries and all the keys and values that any of them may see; N counts batch entries and tiles.

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

    def scores(self, scratch: _Scratch) -> torch.Tensor:
        """(N, n, m) logits, −inf where a key is not in the query's window; valid until the next block's."""
        batch, n, _ = self.queries.shape
        out = scratch.get("scores", (batch, n, self.keys.shape[1]), self.queries.dtype, self.queries.device)
        scores = torch.bmm(self.queries, self.keys.transpose(1, 2), out=out)
        for bias in (self.mask, self.outside):
            if bias is not None:
                scores.add_(bias)
        return scores


def _blocks(
    query_rows: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor, window: int | None, border: str
) -> Iterator[_Block]:
    if window is None:
        yield from _global_blocks(query_rows, key_rows, value_rows)
    else:
        yield from _window_blocks(query_rows, key_rows, value_rows, window, border)


def _global_blocks(query_rows: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor) -> Iterator[_Block]:
    keys, values = key_rows.flatten(1, 3), value_rows.flatten(1, 3)  # (B, T*H*W, D)
    score_bytes = keys.shape[0] * keys.shape[1] * (2 * keys.element_size() + values.element_size())
    step = max(1, _WORKSPACE_BYTES // score_bytes)
    for start in range(0, query_rows.shape[1] * query_rows.shape[2], step):
        place = _Span(slice(start, start + step))
        yield _Block(place, place.cut(query_rows), keys, values)


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
    query_rows: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor, window: int, border: str
) -> Iterator[_Block]:
    tiling = _choose_tiling(query_rows, value_rows, window)
    mask = _window_mask(tiling, key_rows.shape[1], query_rows.dtype, query_rows.device)
    inside = torch.zeros_like(key_rows[..., :1]) if border == "masked" else None
    for top in range(0, tiling.height, tiling.rows):
        for tiles in _chunks(tiling, mask, key_rows, value_rows):
            place = _Tiles(tiling, top, tiles)
            yield _Block(
                place,
                place.cut(query_rows),
                place.cut_patches(key_rows),
                place.cut_patches(value_rows),
                mask,
                None if inside is None else place.cut_patches(inside, _OUTSIDE).transpose(1, 2),
            )


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

    def cut_patches(self, maps: torch.Tensor, outside: float = 0.0) -> torch.Tensor:
        """(B, T, H, W, D) → (B·tiles, T·patch rows·patch columns, D): what the queries can see, `outside` beyond the map."""
        tiling = self.tiling
        first, last = self.top - tiling.half, self.top + tiling.rows + tiling.half
        left, right = self._columns.start - tiling.half, self._columns.stop + tiling.half
        region = maps[:, :, max(first, 0) : min(last, tiling.height), max(left, 0) : min(right, tiling.width)]
        margins = (max(-left, 0), max(right - tiling.width, 0), max(-first, 0), max(last - tiling.height, 0))
        if any(margins):
            region = F.pad(region, (0, 0, *margins), value=outside)
        patches = region.unfold(3, tiling.patch_columns, tiling.columns)  # (B, T, rows, tiles, D, columns)
        return patches.permute(0, 3, 1, 2, 5, 4).flatten(2, 4).flatten(0, 1)

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
    rows, columns = (8, 8) if value_rows.shape[-1] <= 256 else (8, 16)
    return _Tiling(height, width, min(rows, height), min(columns, width), window // 2)


def _chunks(tiling: _Tiling, mask: torch.Tensor, key_rows: torch.Tensor, value_rows: torch.Tensor) -> Iterator[range]:
    """Ranges of tiles of one stripe that fit the workspace together: patches, scores, weights."""
    _, queries, pairs = mask.shape
    key_bytes, value_bytes = key_rows.element_size(), value_rows.element_size()
    patch_bytes = pairs * (key_bytes * key_rows.shape[-1] + value_bytes * value_rows.shape[-1])
    tile_bytes = key_rows.shape[0] * (patch_bytes + queries * pairs * (2 * key_bytes + value_bytes))
    step = max(1, _WORKSPACE_BYTES // tile_bytes)
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


def _forward(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    border: str,
    scale: float,
    keep_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Result (B, Dv, H, W) and, if asked for, the log-sum-exp (B, H, W, 1) of each query's logits."""
    batch, _, height, width = query.shape
    query_rows, key_rows = _score_rows(query, scale), _score_rows(keys)
    value_rows = values.movedim(2, -1)  # (B, T, H, W, Dv)
    out = torch.empty(batch, height, width, values.shape[2], dtype=values.dtype, device=values.device)
    lse = torch.empty(batch, height, width, 1, dtype=query_rows.dtype, device=query.device) if keep_lse else None
    scratch = _Scratch()
    for block in _blocks(query_rows, key_rows, value_rows, window, border):
        scores = block.scores(scratch)
        if lse is not None:
            block.place.paste(scores.logsumexp(-1, keepdim=True), lse)
        weights = torch.softmax(scores, -1, out=scratch.like("weights", scores, scores.dtype))
        if weights.dtype != value_rows.dtype:
            weights = scratch.like("rounded", scores, value_rows.dtype).copy_(weights)
        block.place.paste(torch.bmm(weights, block.values), out)
    return out.permute(0, 3, 1, 2), lse


def _backward(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor,
    window: int | None,
    border: str,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, keys and values. The outside mass needs no term: its value is 0, so it only sits in lse."""
    query_rows, key_rows, value_rows = _score_rows(query, scale), _score_rows(keys), _score_rows(values)
    grad_rows = _score_rows(grad_out)  # (B, H, W, Dv)
    delta = (grad_rows * _score_rows(out)).sum(-1, keepdim=True)  # (B, H, W, 1)
    grad_query, grad_keys, grad_values = (
        torch.zeros(rows.shape, dtype=rows.dtype, device=rows.device) for rows in (query_rows, key_rows, value_rows)
    )
    scratch = _Scratch()
    for block in _blocks(query_rows, key_rows, value_rows, window, border):
        weights = block.scores(scratch).sub_(block.place.cut(lse)).exp_()
        block_grad = block.place.cut(grad_rows)
        grad_scores = torch.bmm(block_grad, block.values.transpose(1, 2)).sub_(block.place.cut(delta)).mul_(weights)
        block.place.add_patches(torch.bmm(weights.transpose(1, 2), block_grad), grad_values)
        block.place.add_patches(torch.bmm(grad_scores.transpose(1, 2), block.queries), grad_keys)
        block.place.paste(torch.bmm(grad_scores, block.keys).mul_(scale), grad_query)
    return (
        grad_query.movedim(-1, 1).to(query.dtype),
        grad_keys.movedim(-1, 2).to(keys.dtype),
        grad_values.movedim(-1, 2).to(values.dtype),
    )


def _score_rows(maps: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(…, D, H, W) → (…, H, W, D) in the dtype of the scores: half precision is scored in float32."""
    rows = maps.movedim(-3, -1)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    return rows if scale == 1.0 else rows * scale
