"""Local attention as small matrix products: the CPU path, and a plain PyTorch path for any device.

The map is cut into tiles of queries whose keys and values are one patch (`lmanet_core.ops.tiling`), so scoring and reading are
two batched matrix products with a softmax between them. A few tiles are worked on at a time: scores stay in cache, and nothing
of size T·R²·H·W exists. The backward pass recomputes the scores and turns them into weights with the saved log-sum-exp, tile
by tile.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

from lmanet_core.ops.scratch import scratch_on
from lmanet_core.ops.tiling import NARROW, blocks


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
    query_rows = _score_rows(query, scale)
    # on a CPU, rounding the weights to half precision gains time only where many values are read by each
    value_dtype = query_rows.dtype if values.is_cpu and values.shape[2] <= NARROW else values.dtype
    out = torch.empty(batch, height, width, values.shape[2], dtype=values.dtype, device=values.device)
    lse = torch.empty(batch, height, width, 1, dtype=query_rows.dtype, device=query.device) if keep_lse else None
    with scratch_on(query.device) as scratch:
        for block in blocks(query_rows, keys, values, value_dtype, window, border, scratch, keep_lse):
            scores = block.scores(scratch)
            if lse is not None:
                block.place.paste(scores.logsumexp(-1, keepdim=True), lse)
            weights = torch.softmax(scores, -1, out=scores if scores.is_cpu else None)  # there it goes row by row
            if weights.dtype != value_dtype:
                weights = scratch.get("rounded", weights.shape, value_dtype, out.device).copy_(weights)
            read = scratch.get("read", (*weights.shape[:2], out.shape[-1]), value_dtype, out.device)
            block.place.paste(torch.bmm(weights, block.values, out=read), out)
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
    query_rows, grad_rows = _score_rows(query, scale), _score_rows(grad_out)  # (B, H, W, Dk), (B, H, W, Dv)
    delta = (grad_rows * _score_rows(out)).sum(-1, keepdim=True)  # (B, H, W, 1)
    grad_query, grad_keys, grad_values = (
        torch.zeros(maps.movedim(-3, -1).shape, dtype=query_rows.dtype, device=maps.device) for maps in (query, keys, values)
    )
    with scratch_on(query.device) as scratch:
        for block in blocks(query_rows, keys, values, query_rows.dtype, window, border, scratch, True):
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
