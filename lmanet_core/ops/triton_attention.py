"""Local attention on CUDA: one operator of `torch.library`, `lmanet::local_attention`, whose kernels are in Triton.

`torch.compile`, `torch.export` and autograd see one operator. Triton itself is imported when the operator first runs, so that
this module can be imported, traced and exported from where Triton is not installed. No maps are copied, padded or stacked;
beside the result a log-sum-exp of 4 bytes a query is kept.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import torch

MAX_KEY_CHANNELS = 256
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_MIN_TRITON = (3, 6)
_MIN_CAPABILITY = (7, 5)  # the oldest that the kernels are compiled for; bfloat16 needs 8.0


def triton_local_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    border: Literal["zero", "masked"],
    scale: float,
) -> torch.Tensor:
    """Arguments and result as `lmanet_core.ops.local_attention`; the result is laid out channels-last.

    The gradients of scores are multiplied in the inputs' precision, so float16 overflows where they exceed 65 504, as usual.

    Raises:
        ValueError: what these kernels do not do on this device; `why_not_triton` says it beforehand.
    """
    reason = why_not_triton(query.device, query.dtype, query.shape[1])
    if reason is not None:
        raise ValueError(f"impl triton: {reason}; choose another, or auto")
    if window is None:  # everything is in a window this large
        window, border = 2 * max(query.shape[-2:]) + 1, "masked"
    out: torch.Tensor = local_attention_op(query, keys, values, window // 2, border == "masked", scale)[0]
    return out


@lru_cache(maxsize=64)
def why_not_triton(device: torch.device, dtype: torch.dtype, key_channels: int) -> str | None:
    """What keeps these kernels from such inputs, in words; None where they run."""
    if dtype not in _DTYPES:
        return f"wanted float16, bfloat16 or float32, got {dtype}"
    if key_channels > MAX_KEY_CHANNELS:
        return f"wanted at most {MAX_KEY_CHANNELS} key channels, got {key_channels}"
    version = _triton_version()
    if version is None or version < _MIN_TRITON:
        wanted, found = (".".join(map(str, numbers)) for numbers in (_MIN_TRITON, version or ()))
        return (
            f"wanted the package triton {wanted} or newer, it is {found or 'not installed'} (CUDA builds of PyTorch bring it)"
        )
    if _launch().INTERPRETED:
        return None
    if device.type != "cuda":
        return f"wanted tensors on a CUDA device, got {device}"
    least = (8, 0) if dtype == torch.bfloat16 else _MIN_CAPABILITY
    capability = torch.cuda.get_device_capability(device)
    if capability < least:
        return f"{dtype} wants compute capability {least[0]}.{least[1]}, {device} has {capability[0]}.{capability[1]}"
    return None


@lru_cache(maxsize=1)
def _triton_version() -> tuple[int, int] | None:
    try:
        import triton
    except ImportError:
        return None
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def _launch() -> ModuleType:
    from lmanet_core.ops import triton_launch  # imports Triton

    return triton_launch


@torch.library.custom_op("lmanet::local_attention", mutates_args=())
def local_attention_op(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, half: int, masked: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Result (B, Dv, H, W) and log₂-sum-exp (B, H, W) in float32; `half` is the reach of the window, (R − 1) / 2."""
    out, lse = _empty_results(query, values)
    _launch().forward(query, keys, values, out, lse, half, masked, scale)
    return out, lse


@local_attention_op.register_fake
def _(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, half: int, masked: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty_results(query, values)


@torch.library.custom_op("lmanet::local_attention_backward", mutates_args=())
def local_attention_backward_op(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    half: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, keys and values. The mass outside the map needs no term: its value is 0, it only sits in `lse`."""
    grads = _empty_gradients(query, keys, values)
    _launch().backward(grad_out, query, keys, values, out, lse, grads, half, scale)
    return grads


@local_attention_backward_op.register_fake
def _(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    half: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _empty_gradients(query, keys, values)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, keys, values, half, _, scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(query, keys, values, out, lse)
    ctx.half, ctx.scale = half, scale


def _backward(ctx: Any, grad_out: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*local_attention_backward_op(grad_out, *ctx.saved_tensors, ctx.half, ctx.scale), None, None, None)


local_attention_op.register_autograd(_backward, setup_context=_setup_context)


def _empty_results(query: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, height, width = query.shape
    out = query.new_empty(batch, height, width, values.shape[2]).permute(0, 3, 1, 2)
    return out, query.new_empty(batch, height, width, dtype=torch.float32)


def _empty_gradients(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_query, grad_keys, grad_values = (torch.empty_like(maps) for maps in (query, keys, values))
    return grad_query, grad_keys, grad_values
