"""The memory of one stream: a ring of S past frames, allocated once.

Belongs to the caller (one per camera), never to a network. Slots are laid out channels-last, so that the read gathers whole
feature vectors. The softmax over the memory is joint, so the order of slots means nothing and the oldest is simply overwritten.
Not thread-safe: one thread steps a stream.
"""

from __future__ import annotations

import math

import torch

from lmanet_core.errors import ConfigError
from lmanet_core.network.memory_read import KeyValue, MemoryFrames


class MemoryBuffer:
    """A ring of at most `capacity` frames.

    Args:
        capacity: S, frames kept.
        interval_s: least time between two kept frames, seconds; 0 keeps every frame. With an interval the memory spans the
            same time at any frame rate. A frame counts as due half a millisecond early, for cameras whose stamps jitter.

    Raises:
        ConfigError: capacity below 1, or an interval that is negative or not finite.
    """

    _JITTER_NS = 500_000

    def __init__(self, capacity: int, interval_s: float = 0.0) -> None:
        if capacity < 1:
            raise ConfigError(f"a memory holds at least 1 frame, got {capacity}")
        if not 0.0 <= interval_s < math.inf:
            raise ConfigError(f"memory interval must be 0 s or more, got {interval_s}")
        self.capacity = capacity
        self._interval_ns = round(interval_s * 1e9)
        self._keys: torch.Tensor | None = None  # (B, S, h, w, Dk)
        self._values: torch.Tensor | None = None
        self._stamps: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        """Frames held now."""
        return len(self._stamps)

    @property
    def stamps_ns(self) -> tuple[int, ...]:
        """Stamps of the frames held, oldest first."""
        return tuple(sorted(self._stamps))

    @property
    def slots_ns(self) -> tuple[int, ...]:
        """Stamps of the frames held, in the order in which `frames` has them."""
        return tuple(self._stamps)

    def clear(self) -> None:
        """Forget every frame; the storage stays."""
        self._stamps.clear()
        self._next = 0

    def accepts(self, stamp_ns: int) -> bool:
        """Whether a frame with this stamp would be kept: newer than all held, and due by the interval."""
        if not self._stamps:
            return True
        newest = max(self._stamps)
        return stamp_ns > newest and stamp_ns - newest >= self._interval_ns - self._JITTER_NS

    def push(self, frame: KeyValue, stamp_ns: int) -> bool:
        """Keep a frame, overwriting the oldest when full.

        Args:
            frame: key (B, Dk, h, w) and value (B, Dv, h, w); copied.
            stamp_ns: its capture time, nanoseconds.

        Returns:
            Whether it was kept; a repeated or older stamp, or one not yet due, is not.
        """
        if not self.accepts(stamp_ns):
            return False
        self.write(frame)
        self.count(stamp_ns)
        return True

    def frames(self) -> MemoryFrames | None:
        """Views of what is held, (B, T, Dk, h, w) and (B, T, Dv, h, w); None while empty. Valid until the next push."""
        return self.slots(len(self._stamps)) if self._stamps else None

    # `push` in its parts, for those who know already that a frame is accepted, or write to `next_slot` themselves.

    def write(self, frame: KeyValue) -> None:
        """Copy a frame into the next slot; it is held once it is counted."""
        for ring, maps in zip(self.reserve(frame), frame, strict=True):
            ring[:, self._next].copy_(maps.movedim(1, -1))

    @property
    def next_slot(self) -> int:
        """Where the next frame belongs."""
        return self._next

    def reserve(self, frame: KeyValue) -> tuple[torch.Tensor, torch.Tensor]:
        """The rings (B, S, h, w, Dk) and (B, S, h, w, Dv) for frames like this one; they stay where they are.

        Raises:
            ValueError: frames of another shape are held.
        """
        self._keys = self._ring_for(self._keys, frame.key)
        self._values = self._ring_for(self._values, frame.value)
        return self._keys, self._values

    def slots(self, count: int) -> MemoryFrames:
        """Views of the first `count` slots, of rings that were reserved."""
        assert self._keys is not None and self._values is not None
        return MemoryFrames(self._keys[:, :count].movedim(-1, 2), self._values[:, :count].movedim(-1, 2))

    def count(self, stamp_ns: int) -> None:
        """The next slot has been written."""
        if len(self._stamps) < self.capacity:
            self._stamps.append(stamp_ns)
        else:
            self._stamps[self._next] = stamp_ns
        self._next = (self._next + 1) % self.capacity

    def release(self) -> None:
        """Forget every frame and give the storage back."""
        self.clear()
        self._keys = self._values = None

    def _ring_for(self, ring: torch.Tensor | None, maps: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = maps.shape
        wanted = (batch, self.capacity, height, width, channels)
        if ring is not None and ring.shape == wanted and ring.dtype == maps.dtype and ring.device == maps.device:
            return ring
        if self._stamps:
            raise ValueError(f"this memory holds frames of another shape than {tuple(maps.shape)}; clear it first")
        return torch.empty(wanted, dtype=maps.dtype, device=maps.device)
