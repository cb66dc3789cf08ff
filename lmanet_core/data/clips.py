"""Clips: S past frames and the labelled one; where they come from (`ClipSource`), how the trainer gets them (`ClipDataset`).

Everything random in a clip is drawn from a generator made of (seed, round, index), so a clip is the same whoever loads it, in
whatever order and after whatever interruption.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.augment import AugmentConfig, augment
from lmanet_core.data.flow import backward_flow
from lmanet_core.geometry import Size, feature_grid
from lmanet_core.labels import LabelSet
from lmanet_core.stream.motion import follow


class Clip(NamedTuple):
    """Neighbouring frames of one video.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, oldest first.
        labels: (T, H, W) uint8 class ids, 255 where nothing is known; of frames without labels all of it.
        soft: (2 K, H, W) uint8 of the last frame: the K likeliest classes, then their shares of 255; None: its labels are sure.
    """

    frames: UInt8Array
    labels: UInt8Array
    soft: UInt8Array | None = None


class ClipSource(ABC):
    """A set of labelled frames with what came before each of them.

    Attributes:
        labels: the classes.
        size: of frames and label maps.
    """

    labels: LabelSet
    size: Size

    @abstractmethod
    def __len__(self) -> int:
        """Number of labelled frames."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What this frame is called, for messages."""

    @abstractmethod
    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """The clip that ends at labelled frame `index`.

        Args:
            index: 0 … len − 1.
            frames: T, 1 or more.
            stride: video frames from one frame of the clip to the next.
            rng: for what the source makes up.

        Raises:
            InputError: a file that is missing, damaged or does not fit; the message names it.
        """

    def label_map(self, index: int) -> UInt8Array | None:
        """(H, W) uint8 classes of labelled frame `index` at its own size, 255 void; None where the set makes them up.

        Raises:
            InputError: as `clip`.
        """
        return None

    def prepare(self, index: int, frames: int, stride: int) -> None:  # noqa: B027 (most sources have nothing to prepare)
        """Do once, in the order of the indices, what would be slow in the order of training."""

    @abstractmethod
    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """What would go wrong with clips of this length and stride, a line each.

        Args:
            frames, stride: as for `clip`; the largest that will be used.
            deep: also open every label map and compare sizes and values; else look for missing files only.
        """


class ClipItem(TypedDict, total=False):
    """What the trainer gets; a loader stacks them.

    Attributes:
        clip: (T, 3, H, W) uint8 RGB.
        labels: (H, W) uint8 of the last frame, 255 void.
        soft: (2 K, H, W) uint8, see `Clip`; where the set has such.
        index: () int64, position in the source.
        positions: (T - 1, 2, h, w) float32, row and column of the past frames' cells in the last frame, see `motion.follow`.
        positions_before: (T - 2, 2, h, w) float32, the same in the frame before it.
        flow: (2, H, W) float32, x and y displacement in pixels from the last frame to the one before; NaN where unknown.
    """

    clip: torch.Tensor
    labels: torch.Tensor
    soft: torch.Tensor
    index: torch.Tensor
    positions: torch.Tensor
    positions_before: torch.Tensor
    flow: torch.Tensor


@dataclass(frozen=True)
class ClipDataset(Dataset[ClipItem]):
    """Clips as tensors, augmented.

    Indexed by (round, index): the same index gives another augmentation in another round, and always the same in the same.

    Attributes:
        source: where clips come from.
        frames: T.
        stride, max_stride: video frames between frames of a clip, drawn evenly from this range.
        augmentation: None for validation.
        seed: of everything random.
        with_flow: also give the optical flow to the frame before (for the temporal-consistency loss).
        feature_stride: of the network; also give the positions of past frames' cells (for a motion-compensated memory).
            None: do not.
    """

    source: ClipSource
    frames: int
    stride: int = 1
    max_stride: int = 1
    augmentation: AugmentConfig | None = None
    seed: int = 0
    with_flow: bool = False
    feature_stride: int | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> ClipItem:
        turn, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng((self.seed, turn, index))
        stride = int(rng.integers(self.stride, max(self.stride, self.max_stride) + 1))
        clip = self.source.clip(index, self.frames, stride, rng)
        frames, maps = clip.frames, clip.labels[-1:]
        if clip.soft is not None:
            maps = np.concatenate((maps, clip.soft))
        if self.augmentation is not None:
            frames, maps = augment(frames, maps, self.augmentation, rng)
        maps = np.ascontiguousarray(maps)
        item: ClipItem = {
            "clip": torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))),
            "labels": torch.from_numpy(maps[0]),
            "index": torch.tensor(index),
        }
        if clip.soft is not None:
            item["soft"] = torch.from_numpy(maps[1:])
        if self.feature_stride is not None and len(frames) > 1:
            *_, before, last = follow(frames, feature_grid(Size(*frames.shape[1:3]), self.feature_stride))
            item["positions"] = torch.from_numpy(last)
            if self.with_flow:
                item["positions_before"] = torch.from_numpy(before)
        if self.with_flow and len(frames) > 1:
            item["flow"] = torch.from_numpy(backward_flow(frames[-2], frames[-1]))
        return item


@dataclass(frozen=True)
class Preparation(Dataset[int]):
    """`ClipSource.prepare` for every clip, as a data set, so that a loader's workers can share it."""

    source: ClipSource
    frames: int
    stride: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> int:
        self.source.prepare(index, self.frames, self.stride)
        return index


def start_worker(worker: int) -> None:
    """For `DataLoader(worker_init_fn=…)`: one thread a worker."""
    cv2.setNumThreads(0)
