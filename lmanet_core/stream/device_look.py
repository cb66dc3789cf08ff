"""What the memories of a stream want to know of a picture, found where the picture is, on a GPU.

    picture as the network sees it → thumbnail → flow to the picture believed    → what of the past labels holds
                                              → flow to it from the one remembered → where remembered positions are

Works between buffers that stay where they are, asks the host nothing, and can be captured in a CUDA graph. What outlives a
frame belongs to the stream's memories (`LabelMemory.picture`, `MemoryBuffer.places`).
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
        grid: of the features, where remembered positions are followed, else None.
        compares: whether there is a label memory.
        device: where they are.
    """

    def __init__(self, size: Size, grid: Size | None, compares: bool, device: torch.device) -> None:
        self._thumbnails = Thumbnails(size, device)
        small = self._thumbnails.size
        self._flow = DenseFlow(small, device)
        self._comparison = Comparison(small, device) if compares else None
        self._motion = None if grid is None else BlockMotion(small, grid, device)
        if grid is not None:
            rows, columns = (torch.arange(side, device=device).float() for side in grid)
            self._home = torch.stack((rows[:, None].expand(grid), columns.expand(grid)))
        #: (3, h, w) float32, the picture that past labels are of; the caller fills it in.
        self.believed = torch.zeros(3, *small, device=device)
        #: 1.0 where there are past labels, 0.0 where nothing holds; the caller fills it in.
        self.goes_on = torch.zeros(1, device=device)
        #: (3, h, w) float32 of the picture looked at: what holds, see `label_evidence`, and what to compare the next one with.
        self.evidence, self.seen = (torch.zeros(3, *small, device=device) for _ in range(2))
        self._picture: Picture | None = None
        self._now: torch.Tensor | None = None

    def thumbnail(self, picture: torch.Tensor) -> Picture:
        """Of a picture (H, W, 3) float32, whole numbers of 0–255."""
        return self._thumbnails(picture)

    def look(self, now: Picture, places: Places | None, count: int) -> torch.Tensor | None:
        """Look at a picture: fills `evidence` and `seen` where there is a label memory.

        Args:
            now: its thumbnail.
            places: of the frames remembered; None: there is no memory that follows them.
            count: how many are.

        Returns:
            (1, T, 2, rows, columns), row and column of each remembered position in this picture; None where T is 0.
        """
        self._picture = now  # kept until the next: a branch of the graph may still read it
        follows = places is not None and self._motion is not None and count > 0
        pairs = []
        if self._comparison is not None:
            pairs.append((now.grey, self._thumbnails.grey(self.believed)))
        if follows:
            assert places is not None
            pairs.append((places.newest, now.grey))
        flows = list(self._flow(*(torch.stack(side) for side in zip(*pairs, strict=True)))) if pairs else []
        if self._comparison is not None:
            evidence, seen = self._comparison(now, self.believed, flows.pop(0))
            goes_on = self.goes_on > 0
            # pictures without a past hold nothing, and nothing of them is lost
            self.evidence.copy_(torch.where(goes_on, evidence, torch.zeros_like(evidence)))
            self.seen.copy_(torch.where(goes_on, seen, now.colours))
        self._now = None
        if follows:
            assert places is not None and self._motion is not None
            shift = self._motion(places.newest, now.grey, flows.pop(0))
            self._now = self._motion.move(places.kept[:count], shift)
        return None if self._now is None else self._now[None]

    def remember(self, places: Places, slot: torch.Tensor) -> None:
        """The picture looked at last is remembered.

        Args:
            places: of the frames remembered so far, which are brought up to date.
            slot: (1,) int64, a new one or one that is overwritten.
        """
        if self._now is not None:
            places.kept[: len(self._now)].copy_(self._now)
        places.kept.index_copy_(0, slot, self._home[None])
        assert self._picture is not None
        places.newest.copy_(self._picture.grey)
