"""The CUDA kernels of local attention, in Triton: forward, and three kernels for the gradients.

Importing this module needs Triton. Every map is (B, T, C, H, W) in any layout, given by its strides, so that a ring of memory
frames is read where it lies; a query is a map with T = 1. A program owns one tile of positions and walks over the blocks of
positions that any of them sees, all frames in one loop:

    attend             a tile of queries walks over keys and values; online softmax
    score_gradients    a tile of queries walks over keys (→ its own gradient), or a tile of keys over queries
    value_gradients    a tile of keys walks over queries
    dot_maps           Σ_c gradient · result, which the softmax's gradient needs

Each number is written once, by one program that adds up in a fixed order: no atomics, the same bits on every run. Scores are
recomputed from the log-sum-exp and never stored. Positions outside the map are not visited: at the border "zero" each adds
exp(0) to the sum and 0 to the result, so the online softmax starts at maximum 0 with their number as the sum. Scores are in
float32 and in base 2, for that is what the hardware's exponential takes. Sizes are not specialised: one binary serves every map
and every number of frames, and a size of 1 does not turn into a constant.
"""

from __future__ import annotations

import triton
import triton.language as tl

_FAR = tl.constexpr(1 << 29)  # a coordinate in nobody's window
_LOW = tl.constexpr(-1.0e30)  # below every logit, and finite: −∞ minus −∞ is no number


@triton.jit
def _load(base, y, x, channel, stride_c, stride_y, stride_x, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """Entries (n, channel) at n positions inside the map; 0 beyond the last channel, where there may be such."""
    at = base + (y * stride_y + x * stride_x)[:, None] + channel[None, :] * stride_c
    if PADDED:
        return tl.load(at, mask=channel[None, :] < CHANNELS, other=0.0)
    return tl.load(at)


@triton.jit
def _tile(tile, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Top and left of a tile, and its positions (n,), which may lie beyond the map."""
    across = (W + COLUMNS - 1) // COLUMNS
    top, left = tile // across * ROWS, tile % across * COLUMNS
    n = tl.arange(0, ROWS * COLUMNS)
    return top, left, top + n // COLUMNS, left + n % COLUMNS


@triton.jit
def _walk(first, length, side, half, BLOCK: tl.constexpr):
    """Along one axis of a map of this side: where what a tile sees begins, and how many blocks it takes."""
    begin = tl.maximum(first - half, 0)
    return begin, (tl.minimum(first + length + half, side) - begin + BLOCK - 1) // BLOCK


@triton.jit
def _block(block, first_y, first_x, down, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Frame and positions (m,) of a block; frames outermost, positions may lie beyond the map."""
    m = tl.arange(0, ROWS * COLUMNS)
    y = first_y + block // across % down * ROWS + m // COLUMNS
    x = first_x + block % across * COLUMNS + m % COLUMNS
    return (block // (down * across)).to(tl.int64), y, x


@triton.jit
def _in_window(y, x, other_y, other_x, H, W, half):
    """(n, m): whether others are in the map and at most `half` away along both axes. Negative differences wrap around."""
    other_y, other_x = tl.where(other_y < H, other_y, _FAR), tl.where(other_x < W, other_x, _FAR)
    near_y = (other_y[None, :] - y[:, None] + half).to(tl.uint32) <= 2 * half
    near_x = (other_x[None, :] - x[:, None] + half).to(tl.uint32) <= 2 * half
    return near_y & near_x


@triton.jit(do_not_specialize=["T", "H", "W", "half"])
def attend(
    query, keys, values, out, lse,
    T, H, W, half, scale_log2,
    query_b, query_c, query_y, query_x,
    keys_b, keys_t, keys_c, keys_y, keys_x,
    values_b, values_t, values_c, values_y, values_x,
    out_b, out_c, out_y, out_x,
    MASKED: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PADDED_DK: tl.constexpr, DOT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OTHER_ROWS: tl.constexpr, OTHER_COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Result (B, Dv, H, W) and log₂-sum-exp (B, H, W) of a tile of ROWS × COLUMNS queries, for CHANNELS of the values.

    Grid: tiles, slices of the values' channels (each scores anew), batch.
    """
    tile, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    top, left, y, x = _tile(tile, W, ROWS, COLUMNS)
    inside_y, inside_x = tl.minimum(y, H - 1), tl.minimum(x, W - 1)
    key_channel = tl.arange(0, PADDED_DK)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    q = _load(query + batch * query_b, inside_y, inside_x, key_channel, query_c, query_y, query_x, DK, PADDED_DK != DK)
    q = q.to(DOT)

    if MASKED:
        outside = tl.full((ROWS * COLUMNS,), 0.0, tl.float32)
    else:
        seen_y = (tl.minimum(y + half + 1, H) - tl.maximum(y - half, 0)).to(tl.float32)
        seen_x = (tl.minimum(x + half + 1, W) - tl.maximum(x - half, 0)).to(tl.float32)
        side = (2 * half + 1).to(tl.float32)
        outside = T * (side * side - seen_y * seen_x)
    highest = tl.where(outside > 0, 0.0, _LOW)
    total = outside
    read = tl.full((ROWS * COLUMNS, CHANNELS), 0.0, tl.float32)

    first_y, down = _walk(top, ROWS, H, half, OTHER_ROWS)
    first_x, across = _walk(left, COLUMNS, W, half, OTHER_COLUMNS)
    for block in range(0, T * down * across):
        frame, key_y, key_x = _block(block, first_y, first_x, down, across, OTHER_ROWS, OTHER_COLUMNS)
        at_y, at_x = tl.minimum(key_y, H - 1), tl.minimum(key_x, W - 1)
        k = _load(keys + batch * keys_b + frame * keys_t, at_y, at_x, key_channel, keys_c, keys_y, keys_x, DK, PADDED_DK != DK)
        scores = tl.dot(q, tl.trans(k.to(DOT)), input_precision="ieee") * scale_log2
        scores = tl.where(_in_window(y, x, key_y, key_x, H, W, half), scores, float("-inf"))

        new_highest = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - new_highest)
        weights = tl.exp2(scores - new_highest[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = new_highest
        v = _load(
            values + batch * values_b + frame * values_t,
            at_y, at_x, channel, values_c, values_y, values_x, DV, DV % CHANNELS != 0,
        )  # fmt: skip
        v = v.to(DOT)
        read = tl.dot(weights.to(v.dtype), v, read * shrink[:, None], input_precision="ieee")

    in_map = (y < H) & (x < W)
    at = out + batch * out_b + (y * out_y + x * out_x)[:, None] + channel[None, :] * out_c
    result = (read / total[:, None]).to(out.dtype.element_ty)
    tl.store(at, result, mask=in_map[:, None] & (channel[None, :] < DV))
    if part == 0:
        tl.store(lse + batch * H * W + y * W + x, highest + tl.log2(total), mask=in_map)


@triton.jit(do_not_specialize=["H", "W"])
def dot_maps(
    one, other, dots,
    H, W,
    one_b, one_c, one_y, one_x,
    other_b, other_c, other_y, other_x,
    DV: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Σ_c one · other of two maps (B, Dv, H, W), as (B, H, W) float32. Grid: runs of POSITIONS, batch."""
    position, batch = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS), tl.program_id(1).to(tl.int64)
    y, x = tl.minimum(position // W, H - 1), position % W
    total = tl.full((POSITIONS,), 0.0, tl.float32)
    for start in range(0, DV, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        a = _load(one + batch * one_b, y, x, channel, one_c, one_y, one_x, DV, DV % CHANNELS != 0)
        b = _load(other + batch * other_b, y, x, channel, other_c, other_y, other_x, DV, DV % CHANNELS != 0)
        total += tl.sum(a.to(tl.float32) * b.to(tl.float32), 1)
    tl.store(dots + batch * H * W + position, total, mask=position < H * W)


@triton.jit(do_not_specialize=["other_T", "H", "W", "half"])
def score_gradients(
    own_key, own_value, other_key, other_value, grad, lse, dots,
    other_T, H, W, half, scale_log2, scale,
    own_key_b, own_key_t, own_key_c, own_key_y, own_key_x,
    own_value_b, own_value_t, own_value_c, own_value_y, own_value_x,
    other_key_b, other_key_t, other_key_c, other_key_y, other_key_x,
    other_value_b, other_value_t, other_value_c, other_value_y, other_value_x,
    grad_b, grad_t, grad_c, grad_y, grad_x,
    QUERY_IS_OWN: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, PADDED_DK: tl.constexpr, DOT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OTHER_ROWS: tl.constexpr, OTHER_COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient (B, T, Dk, H, W) of what a tile scores with: of its queries, or of its keys.

    The score of a query and a key is symmetric, so both walks are one: dS = P · (dP − dots), with dP the product of the
    query's gradient and the key's value, and the gradient is dS times the other side's entries. "Value" means the gradient of
    the result on the queries' side. Grid: tiles, own frames, batch.
    """
    tile, own_t, batch = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    top, left, y, x = _tile(tile, W, ROWS, COLUMNS)
    inside_y, inside_x = tl.minimum(y, H - 1), tl.minimum(x, W - 1)
    key_channel = tl.arange(0, PADDED_DK)
    own = _load(
        own_key + batch * own_key_b + own_t * own_key_t,
        inside_y, inside_x, key_channel, own_key_c, own_key_y, own_key_x, DK, PADDED_DK != DK,
    )  # fmt: skip
    own = own.to(DOT)
    own_values = own_value + batch * own_value_b + own_t * own_value_t
    lse += batch * H * W
    dots += batch * H * W
    if QUERY_IS_OWN:
        own_lse = tl.load(lse + inside_y * W + inside_x)
        own_dots = tl.load(dots + inside_y * W + inside_x)
    total = tl.full((ROWS * COLUMNS, PADDED_DK), 0.0, tl.float32)

    first_y, down = _walk(top, ROWS, H, half, OTHER_ROWS)
    first_x, across = _walk(left, COLUMNS, W, half, OTHER_COLUMNS)
    for block in range(0, other_T * down * across):
        frame, other_y, other_x = _block(block, first_y, first_x, down, across, OTHER_ROWS, OTHER_COLUMNS)
        at_y, at_x = tl.minimum(other_y, H - 1), tl.minimum(other_x, W - 1)
        other = _load(
            other_key + batch * other_key_b + frame * other_key_t,
            at_y, at_x, key_channel, other_key_c, other_key_y, other_key_x, DK, PADDED_DK != DK,
        )  # fmt: skip
        other = other.to(DOT)
        scores = tl.dot(own, tl.trans(other), input_precision="ieee") * scale_log2
        near = _in_window(y, x, other_y, other_x, H, W, half)

        other_values = other_value + batch * other_value_b + frame * other_value_t
        products = tl.full((ROWS * COLUMNS, OTHER_ROWS * OTHER_COLUMNS), 0.0, tl.float32)
        for start in range(0, DV, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            a = _load(own_values, inside_y, inside_x, channel, own_value_c, own_value_y, own_value_x, DV, DV % CHANNELS != 0)
            b = _load(other_values, at_y, at_x, channel, other_value_c, other_value_y, other_value_x, DV, DV % CHANNELS != 0)
            products = tl.dot(a.to(DOT), tl.trans(b.to(DOT)), products, input_precision="ieee")
        if QUERY_IS_OWN:
            weights = tl.exp2(tl.where(near, scores - own_lse[:, None], float("-inf")))
            gradients = weights * (products - own_dots[:, None])
        else:
            weights = tl.exp2(tl.where(near, scores - tl.load(lse + at_y * W + at_x)[None, :], float("-inf")))
            gradients = weights * (products - tl.load(dots + at_y * W + at_x)[None, :])
        total = tl.dot(gradients.to(other.dtype), other, total, input_precision="ieee")

    at = grad + batch * grad_b + own_t * grad_t + (y * grad_y + x * grad_x)[:, None] + key_channel[None, :] * grad_c
    in_map = (y < H) & (x < W)
    tl.store(at, (total * scale).to(grad.dtype.element_ty), mask=in_map[:, None] & (key_channel[None, :] < DK))


@triton.jit(do_not_specialize=["T", "H", "W", "half"])
def value_gradients(
    keys, query, grad_out, grad, lse,
    T, H, W, half, scale_log2,
    keys_b, keys_t, keys_c, keys_y, keys_x,
    query_b, query_c, query_y, query_x,
    grad_out_b, grad_out_c, grad_out_y, grad_out_x,
    grad_b, grad_t, grad_c, grad_y, grad_x,
    DK: tl.constexpr, DV: tl.constexpr, PADDED_DK: tl.constexpr, DOT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OTHER_ROWS: tl.constexpr, OTHER_COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient (B, T, Dv, H, W) of the values: for a tile of keys, Pᵀ times the result's gradient, for CHANNELS of them.

    Grid: tiles of each frame, slices of the values' channels, batch.
    """
    part, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tile, frame = tl.program_id(0) // T, (tl.program_id(0) % T).to(tl.int64)
    top, left, y, x = _tile(tile, W, ROWS, COLUMNS)
    inside_y, inside_x = tl.minimum(y, H - 1), tl.minimum(x, W - 1)
    key_channel = tl.arange(0, PADDED_DK)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    k = _load(
        keys + batch * keys_b + frame * keys_t,
        inside_y, inside_x, key_channel, keys_c, keys_y, keys_x, DK, PADDED_DK != DK,
    )  # fmt: skip
    k = k.to(DOT)
    total = tl.full((ROWS * COLUMNS, CHANNELS), 0.0, tl.float32)

    first_y, down = _walk(top, ROWS, H, half, OTHER_ROWS)
    first_x, across = _walk(left, COLUMNS, W, half, OTHER_COLUMNS)
    for block in range(0, down * across):
        _, other_y, other_x = _block(block, first_y, first_x, down, across, OTHER_ROWS, OTHER_COLUMNS)
        at_y, at_x = tl.minimum(other_y, H - 1), tl.minimum(other_x, W - 1)
        q = _load(query + batch * query_b, at_y, at_x, key_channel, query_c, query_y, query_x, DK, PADDED_DK != DK)
        scores = tl.dot(k, tl.trans(q.to(DOT)), input_precision="ieee") * scale_log2
        query_lse = tl.load(lse + batch * H * W + at_y * W + at_x)
        near = _in_window(y, x, other_y, other_x, H, W, half)
        weights = tl.exp2(tl.where(near, scores - query_lse[None, :], float("-inf")))
        g = _load(
            grad_out + batch * grad_out_b,
            at_y, at_x, channel, grad_out_c, grad_out_y, grad_out_x, DV, DV % CHANNELS != 0,
        )  # fmt: skip
        g = g.to(DOT)
        total = tl.dot(weights.to(g.dtype), g, total, input_precision="ieee")

    at = grad + batch * grad_b + frame * grad_t + (y * grad_y + x * grad_x)[:, None] + channel[None, :] * grad_c
    in_map = (y < H) & (x < W)
    tl.store(at, total.to(grad.dtype.element_ty), mask=in_map[:, None] & (channel[None, :] < DV))
