"""Local attention in operators that every exchange format has: for `torch.export` and ONNX, where shapes are fixed.

The same tiles of queries that share one patch of keys as `lmanet_core.ops.tiling`, a row of tiles at a time, without buffers,
in-place writes or strided views. Beyond `local_attention` it knows slots of a memory that hold no frame yet: a program of fixed
shapes is given all of them.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

_OUTSIDE = -1e30  # not −inf: where nothing is held, there must be no NaN
_ROWS, _COLUMNS = 4, 8  # queries of a tile
_SCORES = 1 << 22  # of one step of global attention, at most


def traceable_local_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    held: torch.Tensor,
    window: int | None,
    *,
    softmax: Literal["joint", "per_frame"] = "joint",
    border: Literal["zero", "masked"] = "zero",
) -> torch.Tensor:
    """`local_attention` over the frames that are held.

    Args:
        query: (1, Dk, H, W), float32.
        keys: (T, Dk, H, W).
        values: (T, Dv, H, W).
        held: (T,) 1 where a slot holds a frame, 0 where not; what the others contain has no influence.
        window, softmax, border: as in `local_attention`.

    Returns:
        (1, Dv, H, W); some finite values where nothing is held.
    """
    empty = (held - 1.0) * -_OUTSIDE  # (T,) 0 or very negative
    rows = query[0].permute(1, 2, 0)  # (H, W, Dk)
    kept_keys, kept_values = keys.permute(0, 2, 3, 1), values.permute(0, 2, 3, 1)  # (T, H, W, D)
    if window is None:
        out = _read_everywhere(rows * keys.shape[1] ** -0.5, kept_keys, kept_values, held, empty, softmax)
    else:
        out = _read_window(rows, kept_keys, kept_values, held, empty, window, softmax, border)
    return out.permute(2, 0, 1).unsqueeze(0)


def _read_everywhere(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, held: torch.Tensor, empty: torch.Tensor, softmax: str
) -> torch.Tensor:
    height, width, _ = query.shape
    frames = keys.shape[0]
    queries, keys, values = query.flatten(0, 1), keys.flatten(1, 2), values.flatten(1, 2)
    step = max(1, _SCORES // (frames * height * width))
    starts = range(0, height * width, step)
    parts = [_read(queries[None, at : at + step], keys[None], values[None], held, empty, softmax)[0] for at in starts]
    return torch.cat(parts).reshape(height, width, -1)


def _read_window(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    held: torch.Tensor,
    empty: torch.Tensor,
    window: int,
    softmax: str,
    border: str,
) -> torch.Tensor:
    height, width, channels = query.shape
    half = window // 2
    rows, columns = min(_ROWS, height), min(_COLUMNS, width)
    below, right = -height % rows, -width % columns
    down, across = (height + below) // rows, (width + right) // columns
    query = F.pad(query, (0, 0, 0, right, 0, below))
    margins = (0, 0, half, half + right, half, half + below)
    keys, values = F.pad(keys, margins), F.pad(values, margins)
    patch_rows, patch_columns = rows + 2 * half, columns + 2 * half
    starts = torch.arange(across)[:, None] * columns + torch.arange(patch_columns)  # (tiles, patch columns)
    allowed = _window_mask(rows, columns, half)[:, None]  # (queries, 1, patch)
    outside = torch.full((height, width), 0.0)
    outside = F.pad(outside, margins[2:], value=_OUTSIDE if border == "masked" else 0.0)
    parts = []
    for top in range(0, down * rows, rows):
        row = query[top : top + rows].reshape(rows, across, columns, channels)
        tiles = row.transpose(0, 1).reshape(across, rows * columns, channels)
        seen = slice(top, top + patch_rows)
        mask = allowed
        if border == "masked":
            beyond = outside[seen][:, starts].transpose(0, 1).flatten(1)  # (tiles, patch)
            mask = (allowed + beyond[:, None, None]).clamp(min=_OUTSIDE)  # (tiles, queries, 1, patch)
        seen_keys, seen_values = (_patches(maps[:, seen], starts) for maps in (keys, values))
        read = _read(tiles, seen_keys, seen_values, held, empty, softmax, mask)
        parts.append(read.reshape(across, rows, columns, -1).transpose(0, 1).flatten(1, 2))
    return torch.cat(parts)[:height, :width]


def _patches(maps: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """(T, rows, W, D) → (tiles, T, rows · patch columns, D)."""
    frames, rows, _, channels = maps.shape
    taken = maps.index_select(2, starts.flatten()).reshape(frames, rows, *starts.shape, channels)
    return taken.permute(2, 0, 1, 3, 4).flatten(2, 3)


def _read(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    held: torch.Tensor,
    empty: torch.Tensor,
    softmax: str,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, n, Dk), (N, T, m, Dk), (N, T, m, Dv) → (N, n, Dv); the mask broadcasts to the scores (N, n, T, m)."""
    frames, pairs = keys.shape[1:3]
    shape = (*queries.shape[:2], frames, pairs)
    scores = torch.matmul(queries, keys.flatten(1, 2).transpose(1, 2)).reshape(shape)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(3) * held[:, None] if softmax == "per_frame" else (scores + empty[:, None]).flatten(2).softmax(2)
    return torch.matmul(weights.flatten(2), values.flatten(1, 2))


def _window_mask(rows: int, columns: int, half: int) -> torch.Tensor:
    """(queries, patch): 0 for pairs within the window, very negative for the others."""

    def near(queries: int) -> torch.Tensor:
        offset = torch.arange(queries + 2 * half)[None, :] - torch.arange(queries)[:, None]
        return (offset >= 0) & (offset <= 2 * half)

    allowed = (near(rows)[:, None, :, None] & near(columns)[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return torch.where(allowed, 0.0, _OUTSIDE)
