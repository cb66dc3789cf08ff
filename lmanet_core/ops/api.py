"""`local_attention`: what it computes, what it accepts, and which implementation does the work.

    s[t,dy,dx](y,x) = scale · Σ_c q[c,y,x] · K[t,c,y+dy,x+dx]        dy, dx ∈ −h..h,  h = (R−1)/2
    p               = softmax of s, jointly over (t,dy,dx)            outside the image: s = 0 takes part (border "zero")
    out[c,y,x]      = Σ_{t,dy,dx} p[t,dy,dx](y,x) · V[t,c,y+dy,x+dx]  outside the image: V = 0, that mass is lost

The published weights were trained with exactly this. A new implementation is one more entry in `_implementations`: it gets
validated arguments and never sees options it need not know (a softmax per frame becomes a batch of single frames here).
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache, partial
from typing import Literal, Protocol, cast

import torch

from lmanet_core.ops.blocked import blocked_local_attention
from lmanet_core.ops.reference import reference_local_attention, reference_weights
from lmanet_core.ops.triton_attention import triton_local_attention, why_not_triton

SoftmaxScope = Literal["joint", "per_frame"]
Border = Literal["zero", "masked"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Implementation(Protocol):
    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None, border: Border, scale: float
    ) -> torch.Tensor: ...


_implementations: dict[str, _Implementation] = {
    "reference": reference_local_attention,
    "blocked": blocked_local_attention,
    "triton": triton_local_attention,
}
_PLAIN = ("reference", "blocked")  # plain PyTorch: any device, any dtype


def available_implementations(device: torch.device | str | None = None) -> tuple[str, ...]:
    """Names that `impl` takes besides "auto"; with a device, those that run on it in single and half precision."""
    if device is None:
        return tuple(_implementations)
    device = torch.device(device)
    return (*_PLAIN, "triton") if _why_blocked(device, torch.float16, 1) is None else _PLAIN


def auto_implementation(device: torch.device, dtype: torch.dtype, key_channels: int) -> str:
    """What impl="auto" takes for inputs like these: "triton" where it runs, else "blocked".

    A CUDA device that has to do without Triton is a `RuntimeWarning`, once for each reason.
    """
    reason = _why_blocked(device, dtype, key_channels)
    if reason is None:
        return "triton"
    if device.type == "cuda":
        _warn_once(reason)
    return "blocked"


def _why_blocked(device: torch.device, dtype: torch.dtype, key_channels: int) -> str | None:
    """Also a CPU in Triton's interpreter stays with the blocked path: that is for tests, by name."""
    return why_not_triton(device, dtype, key_channels) if device.type == "cuda" else "not a CUDA device"


@lru_cache(maxsize=64)
def _warn_once(reason: str) -> None:
    warnings.warn(f"local attention takes the slower blocked path: {reason}", RuntimeWarning, stacklevel=4)


def local_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    *,
    softmax: SoftmaxScope = "joint",
    border: Border = "zero",
    scale: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Read the memory through a window around each position (paper, III-C).

    Differentiable with respect to query, keys and values. Half-precision inputs are scored and normalised in float32.

    Args:
        query: (B, Dk, H, W), floating.
        keys: (B, T, Dk, H, W), T ≥ 1, same dtype and device.
        values: (B, T, Dv, H, W), same dtype and device.
        window: side R of the window, odd (R = 21 reaches ±10); None attends to all T·H·W positions.
            A window that is wider than the map costs no more than that.
        softmax: "joint" over all frames (published weights), or "per_frame", each frame's sum added (equations 4 and 5).
        border: "zero": positions outside the image take part with logit 0 and value 0 (published weights);
            "masked": they do not take part.
        scale: factor on the logits; None means 1 for a window and 1/√Dk for global attention, as published.
        impl: "auto" (see `auto_implementation`), or a name of `available_implementations()`, which is then used or fails,
            never replaced.

    Returns:
        (B, Dv, H, W), dtype of the inputs.

    Raises:
        ValueError: window even or not positive, shapes, dtypes or devices that do not agree, unknown option.
    """
    _validate(query, keys, window, softmax, border)
    _validate_values(query, keys, values)
    if scale is None:
        scale = 1.0 if window is not None else float(query.shape[1]) ** -0.5
    name = auto_implementation(query.device, query.dtype, query.shape[1]) if impl == "auto" else impl
    if name not in _implementations:
        raise ValueError(f"impl must be auto, {', '.join(_implementations)}; got {impl!r}")
    implementation = _implementations[name]
    if window is not None and window >= 2 * max(query.shape[-2:]) and name != "reference":
        implementation, window = partial(_read_whole_map, implementation, window), None
    if softmax == "joint" or keys.shape[1] == 1:
        return implementation(query, keys, values, window, border, scale)
    frames = keys.shape[1]
    apart = implementation(
        query.repeat_interleave(frames, 0),
        keys.flatten(0, 1).unsqueeze(1),  # (B·T, 1, Dk, H, W)
        values.flatten(0, 1).unsqueeze(1),
        window,
        border,
        scale,
    )
    return apart.reshape(-1, frames, *apart.shape[1:]).sum(1)


def _read_whole_map(
    implementation: _Implementation,
    side: int,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: None,
    border: Border,
    scale: float,
) -> torch.Tensor:
    """A window of this side, which reaches over the whole map from everywhere: global attention beside its share outside.

    What lies outside is as much for every position. One more frame of values 0 stands for it, whose equal logits make up
    its mass; so a window of any side costs no more than global attention.
    """
    if border == "masked":
        return implementation(query, keys, values, window, border, scale)
    _, frames, channels, height, width = keys.shape
    outside = frames * (side * side - height * width) / (height * width)  # for each position of that frame
    query = torch.cat((query, torch.ones_like(query[:, :1])), 1)
    keys = torch.cat((keys, torch.zeros_like(keys[:, :, :1])), 2)
    beyond = torch.zeros_like(keys[:, :1])
    beyond[:, :, channels] = math.log(outside) / scale
    keys, values = torch.cat((keys, beyond), 1), torch.cat((values, torch.zeros_like(values[:, :1])), 1)
    return implementation(query, keys, values, window, border, scale)


def attention_weights(
    query: torch.Tensor,
    keys: torch.Tensor,
    window: int | None,
    *,
    softmax: SoftmaxScope = "joint",
    border: Border = "zero",
    scale: float | None = None,
) -> torch.Tensor:
    """The weights p that `local_attention` reads with: for looking at, not for speed.

    Args:
        query, keys, window, softmax, border, scale: as in `local_attention`.

    Returns:
        (B, T, R·R, H, W), offset index (dy+h)·R + (dx+h); for global attention (B, T, H·W, H, W).

    Raises:
        ValueError: as `local_attention`.
    """
    _validate(query, keys, window, softmax, border)
    if scale is None:
        scale = 1.0 if window is not None else float(query.shape[1]) ** -0.5
    return reference_weights(query, keys, window, border, scale, per_frame=softmax == "per_frame")


def _validate(query: torch.Tensor, keys: torch.Tensor, window: int | None, softmax: str, border: str) -> None:
    if window is not None and (window < 1 or window % 2 == 0):
        raise ValueError(f"window must be odd and positive, or None for global attention; got {window}")
    if softmax not in ("joint", "per_frame"):
        raise ValueError(f"softmax must be joint or per_frame, got {softmax!r}")
    if border not in ("zero", "masked"):
        raise ValueError(f"border must be zero or masked, got {border!r}")
    if query.dim() != 4 or keys.dim() != 5:
        raise ValueError(f"wanted query (B, Dk, H, W) and keys (B, T, Dk, H, W), got {_shape(query)} and {_shape(keys)}")
    batch, channels, height, width = query.shape
    wanted = (batch, keys.shape[1], channels, height, width)
    if tuple(keys.shape) != wanted or keys.shape[1] < 1:
        raise ValueError(f"wanted keys (B, T ≥ 1, Dk, H, W) that fit the query {_shape(query)}, got {_shape(keys)}")
    if min(batch, channels, height, width) < 1:
        raise ValueError(f"wanted maps with at least one position, channel and batch entry, got query {_shape(query)}")
    if query.dtype not in _DTYPES:
        raise ValueError(f"query must be float16, bfloat16, float32 or float64, got {query.dtype}")
    _same_kind("keys", keys, query)


def _validate_values(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    fits = values.dim() == 5 and values.shape[:2] == keys.shape[:2] and values.shape[3:] == keys.shape[3:]
    if not fits:
        raise ValueError(f"wanted values (B, T, Dv, H, W) that fit keys {_shape(keys)}, got {_shape(values)}")
    _same_kind("values", values, query)


def _same_kind(name: str, tensor: torch.Tensor, query: torch.Tensor) -> None:
    if tensor.dtype != query.dtype:
        raise ValueError(f"{name} must have the query's dtype {query.dtype}, got {tensor.dtype}")
    if tensor.device != query.device:
        raise ValueError(f"{name} must be on the query's device {query.device}, got {tensor.device}")


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return cast("tuple[int, ...]", tuple(tensor.shape))
