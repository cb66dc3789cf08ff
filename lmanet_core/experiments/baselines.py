"""Other ways to read the memory, for `lmanet bench` only: what there is to compare `local_attention` with.

Each function takes query (1, Dk, H, W), keys (1, T, Dk, H, W), values (1, T, Dv, H, W) and the window, and gives a function of
nothing that reads: layouts and masks are made beforehand, as each likes them best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from lmanet_core.ops import local_attention

Read = Callable[[], torch.Tensor]
MakeRead = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int | None], Read]


def shift_and_multiply(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> Read:
    """The definition in plain PyTorch: one multiplication a shift, every score stored."""
    return partial(local_attention, query, keys, values, window, impl="reference")


def published_scheme(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> Read:
    """Correlation kernel, softmax, transposed correlation kernel; scores are stored in the inputs' precision."""
    from lmanet_core.experiments.baseline_kernels import published_scheme  # imports Triton

    if window is None:
        raise ValueError("the published scheme has windows only")
    query, keys, values = (maps.contiguous() for maps in (query, keys, values))
    return partial(published_scheme, query, keys, values, window)


def flex_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> _Ordered:
    """PyTorch's FlexAttention with a block mask, and the same zero-logit border.

    Positions are ordered by tiles of 8×16, so that its blocks of 128 are compact; the mass outside is put back by
    `out · σ(lse − ln n_out)`. Compiled on CUDA; eager (every score stored) on a CPU.
    """
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as attend

    height, width = query.shape[-2:]
    frames, device = keys.shape[1], query.device
    y, x = (grid.flatten().to(device) for grid in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    order = ((y // 8 * width + x // 16) * 128 + y % 8 * 16 + x % 16).argsort()
    y, x = y[order], x[order]
    q, k, v = (
        maps.reshape(1, -1, maps.shape[-3], height * width).transpose(-1, -2)[:, :, order].flatten(1, 2).unsqueeze(1)
        for maps in (query, keys, values)
    )  # (1, 1, T*H*W, D)
    compiled = torch.compile(attend) if device.type == "cuda" else attend
    half, positions = (window or 1) // 2, height * width

    def near(b: torch.Tensor, h: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        other = other % positions
        return ((y[one] - y[other]).abs() <= half) & ((x[one] - x[other]).abs() <= half)

    if window is None:
        return _Ordered(lambda: compiled(q, k, v), order)  # scaled by 1/√Dk, as ours
    mask = create_block_mask(near, None, None, positions, frames * positions, device=str(device))
    seen = [(torch.clamp(at + half + 1, max=side) - torch.clamp(at - half, min=0)) for at, side in ((y, height), (x, width))]
    outside = (frames * (window * window - seen[0] * seen[1])).float().log()  # −∞ where the whole window is inside

    def read() -> torch.Tensor:
        out, beside = compiled(q, k, v, block_mask=mask, scale=1.0, return_aux=AuxRequest(lse=True))  # type: ignore[arg-type]
        result: torch.Tensor = out * torch.sigmoid(beside.lse - outside).unsqueeze(-1).to(out.dtype)
        return result

    return _Ordered(read, order)


@dataclass(frozen=True)
class _Ordered:
    """Reads (1, 1, H·W, Dv), positions in this order."""

    read: Read
    order: torch.Tensor

    def __call__(self) -> torch.Tensor:
        return self.read()


def natten(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> Read:
    """NATTEN, one call a frame: the nearest it comes. Its windows shift inwards at the border and it has no joint softmax.

    It wants keys as wide as values, so keys are filled up with zeros.
    """
    import natten  # type: ignore[import-not-found, unused-ignore]

    if window is None:
        raise ValueError("NATTEN has windows only")
    fill = values.shape[2] - keys.shape[2]
    q, k, v = (maps.movedim(-3, -1).unsqueeze(-2).contiguous() for maps in (query, keys, values))  # (1, [T,] H, W, 1, D)
    q, k = (torch.nn.functional.pad(rows, (0, fill)) for rows in (q, k))
    frames = range(k.shape[1])
    return lambda: torch.stack([natten.na2d(q, k[:, t], v[:, t], kernel_size=window, scale=1.0) for t in frames], 1)


#: Name in the table → how to make it.
BASELINES: dict[str, MakeRead] = {
    "shift-and-multiply": shift_and_multiply,
    "published scheme": published_scheme,
    "FlexAttention": flex_attention,
    "NATTEN": natten,
}
