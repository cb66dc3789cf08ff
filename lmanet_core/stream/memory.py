"""What one stream remembers of its past frames.

`StreamMemory` is what a segmenter holds: `view` says what the next image may read, `commit` remembers that image afterwards.
The paper's order, read and then remember, cannot be broken: a frame is committed with the view that was read, and each view
once. Beneath it is `MemoryBuffer`, a ring of S frames allocated once. Its slots are channels-last, so that the read gathers
whole feature vectors. The softmax over the memory is joint, so the order of slots means nothing: the oldest is overwritten.

A memory belongs to one stream and its caller, never to a network. Not thread-safe: one thread steps a stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size
from lmanet_core.network.memory_read import KeyValue, MemoryFrames
from lmanet_core.stream.device_look import Places
from lmanet_core.stream.motion import PositionTracker


class MemoryBuffer:
    """A ring of at most `capacity` frames.

    Attributes:
        places: of what it holds, where a device follows it along the motion of the picture.

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
        self._stamps: list[int] = []  # by slot
        self._next = 0
        self.places: Places | None = None

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

    @property
    def next_slot(self) -> int:
        """Where the next frame belongs."""
        return self._next

    def clear(self) -> None:
        """Forget every frame; the storage stays."""
        self._stamps.clear()
        self._next = 0

    def release(self) -> None:
        """Forget every frame and give the storage back."""
        self.clear()
        self._keys = self._values = self.places = None

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
        for ring, maps in zip(self.reserve(frame), frame, strict=True):
            ring[:, self._next].copy_(maps.movedim(1, -1))
        self.advance(stamp_ns)
        return True

    def advance(self, stamp_ns: int) -> None:
        """Count the next slot as held, which `push` or a device has filled."""
        self._stamps[self._next : self._next + 1] = [stamp_ns]
        self._next = (self._next + 1) % self.capacity

    def frames(self) -> MemoryFrames | None:
        """Views of what is held, (B, T, Dk, h, w) and (B, T, Dv, h, w); None while empty. Valid until the next push."""
        return self.slots(len(self._stamps)) if self._stamps else None

    def follow_on(self, grid: Size, size: Size, device: torch.device) -> Places:
        """`places` for this grid of features, of pictures of this size; they stay where they are."""
        if self.places is None or not self.places.fit(grid, size):
            self.places = Places.of(self.capacity, grid, size, device)
        return self.places

    def slots(self, count: int) -> MemoryFrames:
        """Views of the first `count` slots, of rings that were reserved."""
        assert self._keys is not None and self._values is not None
        return MemoryFrames(self._keys[:, :count].movedim(-1, 2), self._values[:, :count].movedim(-1, 2))

    def reserve(self, frame: KeyValue) -> tuple[torch.Tensor, torch.Tensor]:
        """The rings (B, S, h, w, Dk) and (B, S, h, w, Dv) for frames like this one; they stay where they are.

        Raises:
            ValueError: frames of another shape are held.
        """
        self._keys = self._ring_for(self._keys, frame.key)
        self._values = self._ring_for(self._values, frame.value)
        return self._keys, self._values

    def _ring_for(self, ring: torch.Tensor | None, maps: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = maps.shape
        wanted = (batch, self.capacity, height, width, channels)
        if ring is not None and ring.shape == wanted and ring.dtype == maps.dtype and ring.device == maps.device:
            return ring
        if self._stamps:
            raise ValueError(f"this memory holds frames of another shape than {tuple(maps.shape)}; clear it first")
        return torch.empty(wanted, dtype=maps.dtype, device=maps.device)


@dataclass(frozen=True, slots=True, eq=False)
class MemoryView:
    """What one image may read, and the slot that it would be remembered in.

    Attributes:
        count: frames held.
        positions: (1, T, 2, h, w) float32 on the CPU: row and column of each remembered position in this image, for weights
            with motion compensation; None: all are where they were, or the device follows them.
        slot: where the image belongs once it has been read for.
    """

    count: int
    positions: torch.Tensor | None
    slot: int


class StreamMemory:
    """The past of one stream: see the module.

    Args:
        capacity: S, frames kept.
        interval_s: least time between two kept frames, seconds.
        follows_motion: remembered positions are tracked along the motion of the picture.

    Raises:
        ConfigError: as `MemoryBuffer`.
    """

    def __init__(self, capacity: int, interval_s: float = 0.0, follows_motion: bool = False) -> None:
        self.buffer = MemoryBuffer(capacity, interval_s)
        self._tracker = PositionTracker() if follows_motion else None
        self._open: MemoryView | None = None  # the view that may be committed

    def __len__(self) -> int:
        """Frames held now."""
        return len(self.buffer)

    @property
    def follows_motion(self) -> bool:
        """Whether `view` looks at the image."""
        return self._tracker is not None

    def accepts(self, stamp_ns: int) -> bool:
        """Whether an image with this stamp would be remembered."""
        return self.buffer.accepts(stamp_ns)

    def view(self, image: UInt8Array | None, grid: Size) -> MemoryView:
        """What an image may read.

        Args:
            image: (H, W, 3) uint8 RGB as the network sees it; None is enough where motion is not followed, or by the device.
            grid: height and width of the features.
        """
        positions = None
        if self._tracker is not None and image is not None:
            positions = torch.from_numpy(self._tracker.track(image, grid)).unsqueeze(0)
        self._open = MemoryView(len(self.buffer), positions, self.buffer.next_slot)
        return self._open

    def commit(self, view: MemoryView, stamp_ns: int, frame: KeyValue | None) -> None:
        """Remember the image that a view was made for, after it has been read for.

        Args:
            view: the last one made, not committed yet.
            stamp_ns: capture time, nanoseconds; one that is accepted.
            frame: key and value, copied; None where the device has written them to the view's slot itself.

        Raises:
            ValueError: another view was made since, this one was committed before, or the stamp is not accepted.
        """
        if view is not self._open:
            raise ValueError("a frame is remembered once, with the last view that was made for it")
        if not self.accepts(stamp_ns):
            raise ValueError(f"stamp {stamp_ns} is not due: the newest frame held is of {max(self.buffer.stamps_ns)}")
        self._open = None
        if self._tracker is not None and view.positions is not None:
            self._tracker.commit(view.slot)
        if frame is None:
            self.buffer.advance(stamp_ns)
        else:
            self.buffer.push(frame, stamp_ns)

    def clear(self) -> None:
        """Forget every frame; the storage stays."""
        self._open = None
        self.buffer.clear()
        if self._tracker is not None:
            self._tracker.clear()

    def release(self) -> None:
        """Forget every frame and give the storage back."""
        self.clear()
        self.buffer.release()
