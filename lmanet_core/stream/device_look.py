"""What the memories of a stream want to know of a picture, found where the picture is, on a GPU.

    picture as the network sees it → thumbnail → flow to the picture believed      → what of the past labels holds
                                              → flow to it from the one remembered → where remembered positions are

Works between buffers that stay where they are, asks the host nothing, and can be captured in a CUDA graph. It looks before the
host knows whether the stream goes on: what was found is asked for afterwards. What outlives a frame belongs to the stream's
memories (`LabelMemory.picture`, `MemoryBuffer.places`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lmanet_core.geometry import Size
from lmanet_core.stream.dense_flow import DenseFlow
from lmanet_core.stream.device_comparison import Comparison
from lmanet_core.stream.device_motion import BlockMotion
from lmanet_core.stream.motion import LEAST_SIDE, thumbnail_size
from lmanet_core.stream.picture_tensors import Picture, Thumbnails


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the positions of remembered frames are, on a device.

    Attributes:
        kept: (S, 2, rows, columns) float32 by slot, row and column in cells: where they were in the newest frame remembered.
        newest: (h, w) float32, the grey thumbnail of that frame.
    """

    kept: torch.Tensor
    newest: torch.Tensor

    @classmethod
    def of(cls, capacity: int, grid: Size, size: Size, device: torch.device) -> Places:
        """For S frames with this grid of features, of pictures of this size."""
        kept = torch.zeros(capacity, 2, *grid, device=device)
        return cls(kept, torch.zeros(*thumbnail_size(size), device=device))

    def fit(self, grid: Size, size: Size) -> bool:
        """Whether they are for such a grid and such pictures."""
        return Size(*self.kept.shape[2:]) == grid and Size(*self.newest.shape) == thumbnail_size(size)


def can_look(size: Size) -> bool:
    """Whether pictures of this size have room for the flow's squares; smaller ones are looked at on the host."""
    return min(thumbnail_size(size)) >= LEAST_SIDE


class DeviceLook:
    """Looks at pictures of one size.

    Args:
        size: of the pictures, as the network sees them.
        compares: whether there is a label memory.
        places: of the frames remembered, where they are followed, else None.
        device: where all is.
    """

    def __init__(self, size: Size, compares: bool, places: Places | None, device: torch.device) -> None:
        self._thumbnails = Thumbnails(size, device)
        small = self._thumbnails.size
        self._flow = DenseFlow(small, device)
        self._comparison = Comparison(small, device) if compares else None
        #: (3, h, w) float32, the picture that past labels are of; the caller fills it in.
        self.believed = torch.zeros(3, *small, device=device)
        self._now = Picture(torch.zeros(3, *small, device=device), torch.zeros(*small, device=device))
        self._evidence, self._seen = (torch.zeros(3, *small, device=device) for _ in range(2))
        self._places, self._motion = places, None
        if places is not None:
            grid = Size(*places.kept.shape[2:])
            self._motion = BlockMotion(small, grid, device)
            rows, columns = (torch.arange(side, device=device).float() for side in grid)
            self._home = torch.stack((rows[:, None].expand(grid), columns.expand(grid)))
            self._moved = torch.zeros_like(places.kept)

    def take(self, picture: torch.Tensor) -> None:
        """Have a picture (H, W, 3) float32 to look at, whole numbers of 0–255."""
        for kept, made in zip(self._now, self._thumbnails(picture), strict=True):
            kept.copy_(made)

    def look(self) -> None:
        """Find out how the picture that was taken goes on from those before."""
        now, pairs = self._now.grey, []
        if self._comparison is not None:
            pairs.append((now, self._thumbnails.grey(self.believed)))
        if self._places is not None:
            pairs.append((self._places.newest, now))
        flows = list(self._flow(*(torch.stack(side) for side in zip(*pairs, strict=True))))
        if self._comparison is not None:
            evidence, seen = self._comparison(self._now, self.believed, flows.pop(0))
            self._evidence.copy_(evidence)
            self._seen.copy_(seen)
        if self._places is not None and self._motion is not None:
            shift = self._motion(self._places.newest, now, flows.pop(0))
            self._moved.copy_(self._motion.move(self._places.kept, shift))

    def evidence(self, goes_on: torch.Tensor) -> torch.Tensor:
        """(3, h, w) float32: what of the past labels holds, see `label_evidence`.

        Args:
            goes_on: (1,), 1.0; or 0.0 where there are no past labels: then nothing holds and nothing is lost.
        """
        return self._evidence * goes_on

    def picture(self, goes_on: torch.Tensor) -> torch.Tensor:
        """(3, h, w) float32: what to compare the next picture with; `goes_on` as for `evidence`."""
        return torch.where(goes_on > 0.0, self._seen, self._now.colours)

    def positions(self, count: int) -> torch.Tensor | None:
        """(1, T, 2, rows, columns): row and column of each position of T remembered frames; None where none are followed."""
        return None if self._places is None or not count else self._moved[None, :count]

    def remember(self, slot: torch.Tensor, count: int) -> None:
        """The picture is remembered: bring `Places` up to date.

        Args:
            slot: (1,) int64, a new one or one that is overwritten.
            count: frames that were remembered before.
        """
        if self._places is not None:
            self._places.kept[:count].copy_(self._moved[:count])
            self._places.kept.index_copy_(0, slot, self._home[None])
            self._places.newest.copy_(self._now.grey)
