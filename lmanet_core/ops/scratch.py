"""Buffers that a computation works in again and again.

On a CPU each thread keeps its buffers from call to call: new ones would have to be cleared by the system, page by page.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

_KEPT_BYTES = 32 << 20  # larger buffers go back to the system


class Scratch:
    """Buffers that one block after the other works in."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def get(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """An uninitialised contiguous tensor of this shape, in the storage that had this name before."""
        wanted = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < wanted:
            with torch.inference_mode(False):  # both kinds of callers may write to it
                self._buffers[name, dtype] = buffer = torch.empty(wanted, dtype=dtype, device=device)
        return buffer[:wanted].view(*shape)

    def shrink(self) -> None:
        """Give large buffers back."""
        self._buffers = {key: one for key, one in self._buffers.items() if one.nbytes <= _KEPT_BYTES}


class _ThreadScratch(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


_of_thread = _ThreadScratch()


@contextmanager
def scratch_on(device: torch.device) -> Iterator[Scratch]:
    """Buffers for one computation on a device; on a CPU those of the calling thread."""
    if device.type != "cpu":
        yield Scratch()  # that device's allocator keeps memory by itself
        return
    scratch = _of_thread.scratch
    try:
        yield scratch
    finally:
        scratch.shrink()
