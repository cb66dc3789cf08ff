"""The memory read as first published, in Triton: every score is stored, then softmax, then the transposed correlation.

Only `lmanet bench` uses it, to have something to compare with on the same device. Importing this module needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "H", "W"])
def _correlate(
    query, keys, scores, T, H, W, DK: tl.constexpr, HALF: tl.constexpr, POSITIONS: tl.constexpr
):  # fmt: skip
    """Scores (T, R·R, H·W) of contiguous query (Dk, H, W) and keys (T, Dk, H, W); 0 outside. Grid: positions, T·R·R."""
    side: tl.constexpr = 2 * HALF + 1
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    frame, offset = tl.program_id(1) // (side * side), tl.program_id(1) % (side * side)
    y, x = position // W + offset // side - HALF, position % W + offset % side - HALF
    in_map = position < H * W
    inside = in_map & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    total = tl.full((POSITIONS,), 0.0, tl.float32)
    for channel in range(0, DK):
        q = tl.load(query + channel * H * W + position, mask=in_map, other=0.0)
        k = tl.load(keys + (frame * DK + channel) * H * W + y * W + x, mask=inside, other=0.0)
        total += q.to(tl.float32) * k.to(tl.float32)
    at = tl.program_id(1).to(tl.int64) * H * W + position
    tl.store(scores + at, total.to(scores.dtype.element_ty), mask=in_map)


@triton.jit(do_not_specialize=["T", "H", "W"])
def _gather(
    weights, values, out, T, H, W, DV: tl.constexpr, HALF: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Weighted values (Dv, H, W) of contiguous weights (T, R·R, H·W), values (T, Dv, H, W). Grid: positions, channels."""
    side: tl.constexpr = 2 * HALF + 1
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    in_map = position < H * W
    total = tl.full((CHANNELS, POSITIONS), 0.0, tl.float32)
    for pair in range(0, T * side * side):
        frame, offset = pair // (side * side), pair % (side * side)
        y, x = position // W + offset // side - HALF, position % W + offset % side - HALF
        inside = in_map & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        weight = tl.load(weights + tl.cast(pair, tl.int64) * H * W + position, mask=in_map, other=0.0).to(tl.float32)
        at = values + (frame * DV + channel).to(tl.int64)[:, None] * H * W + (y * W + x)[None, :]
        v = tl.load(at, mask=inside[None, :] & (channel[:, None] < DV), other=0.0)
        total += weight[None, :] * v.to(tl.float32)
    at = out + channel[:, None] * H * W + position[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=in_map[None, :] & (channel[:, None] < DV))


def published_scheme(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int) -> torch.Tensor:
    """`local_attention` of one batch entry: query (1, Dk, H, W), keys and values (1, T, D, H, W), all contiguous."""
    _, key_channels, height, width = query.shape
    frames, value_channels = values.shape[1:3]
    scores = query.new_empty(frames * window * window, height * width)
    out = query.new_empty(1, value_channels, height, width)
    blocks, half = triton.cdiv(height * width, 128), window // 2
    _correlate[(blocks, frames * window * window)](
        query, keys, scores, frames, height, width, DK=key_channels, HALF=half, POSITIONS=128
    )
    weights = scores.softmax(0)
    _gather[(blocks, triton.cdiv(value_channels, 16))](
        weights, values, out, frames, height, width, DV=value_channels, HALF=half, POSITIONS=128, CHANNELS=16
    )
    return out
