"""The definition of local attention, written to be read: shift, multiply, softmax, shift, multiply.

Stores every score, so it is for small maps, for tests and for looking at the weights. Not optimised, and no fast path calls it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F


def reference_weights(
    query: torch.Tensor,
    keys: torch.Tensor,
    window: int | None,
    border: Literal["zero", "masked"],
    scale: float,
    per_frame: bool = False,
) -> torch.Tensor:
    """(B, Dk, H, W) and (B, T, Dk, H, W) → weights (B, T, R·R or H·W, H, W) that sum to 1 jointly, or per frame."""
    if query.dtype in (torch.float16, torch.bfloat16):
        query, keys = query.float(), keys.float()
    height, width = query.shape[-2:]
    if window is None:
        scores = torch.einsum("bcyx,btcvu->btvuyx", query, keys).flatten(2, 3)  # (B, T, H*W, H, W)
    else:
        shifted = [
            (query.unsqueeze(1) * _shift(keys, dy, dx)).sum(2)  # (B, T, H, W)
            for dy, dx in _offsets(window)
        ]
        scores = torch.stack(shifted, 2)  # (B, T, R*R, H, W)
    scores = scores * scale
    if border == "masked" and window is not None:
        inside = torch.ones(1, 1, 1, height, width, device=query.device)
        outside = torch.stack([_shift(inside, dy, dx)[0, 0, 0] == 0 for dy, dx in _offsets(window)])
        scores = scores.masked_fill(outside, -torch.inf)
    if per_frame:
        return scores.softmax(2)
    return scores.flatten(1, 2).softmax(1).view(scores.shape)


def reference_local_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    border: Literal["zero", "masked"],
    scale: float,
) -> torch.Tensor:
    """Arguments and result as `lmanet_core.ops.local_attention`."""
    weights = reference_weights(query, keys, window, border, scale)
    dtype, values = values.dtype, values.to(weights.dtype)
    if window is None:
        return torch.einsum("btnyx,btcn->bcyx", weights, values.flatten(3, 4)).to(dtype)
    out = torch.zeros_like(values[:, 0])
    for index, (dy, dx) in enumerate(_offsets(window)):
        out = out + (weights[:, :, index].unsqueeze(2) * _shift(values, dy, dx)).sum(1)
    return out.to(dtype)


def _offsets(window: int) -> list[tuple[int, int]]:
    half = window // 2
    return [(dy, dx) for dy in range(-half, half + 1) for dx in range(-half, half + 1)]


def _shift(maps: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """maps (B, T, C, H, W) → maps[..., y+dy, x+dx], continued by zeros."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (abs(dx), abs(dx), abs(dy), abs(dy)))
    return padded[..., abs(dy) + dy : abs(dy) + dy + height, abs(dx) + dx : abs(dx) + dx + width]
