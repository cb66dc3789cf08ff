"""How long a run is, and the loaders of its batches: for each epoch, or for what is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from lmanet_core.data import ClipDataset, ClipSource
from lmanet_core.data.clips import ClipItem, Preparation, start_worker
from lmanet_core.data.sampler import BatchStream
from lmanet_core.training.config import TrainConfig


@dataclass(frozen=True)
class Length:
    """Of a run, in batches; an epoch is a whole number of optimiser steps."""

    per_epoch: int
    total: int

    @classmethod
    def of(cls, config: TrainConfig, clips: int) -> Length:
        """Of a run on a set of so many clips."""
        batches = (config.epoch_clips or clips) // config.batch_size
        per_epoch = max(1, batches // config.accumulate) * config.accumulate
        total = config.epochs * per_epoch
        if config.max_steps is not None:
            total = min(total, config.max_steps * config.accumulate)
        return cls(per_epoch, total)

    def epochs(self, done: int) -> Iterator[range]:
        """Numbers of the batches after the first `done`, an epoch at a time; an interrupted one goes on as a shorter one."""
        while done < self.total:
            end = min((done // self.per_epoch + 1) * self.per_epoch, self.total)
            yield range(done, end)
            done = end


@dataclass(frozen=True)
class Batches:
    """The loaders of one process.

    Attributes:
        config: see `TrainConfig`.
        frames, feature_stride: of a clip, as for `ClipDataset`.
        process, processes: which share of each batch is loaded.
    """

    config: TrainConfig
    frames: int
    feature_stride: int | None
    process: int
    processes: int

    def training(self, source: ClipSource, numbers: range) -> DataLoader[ClipItem]:
        """Batches of these numbers."""
        config = self.config
        strides, drawn = (config.stride, config.largest_stride), (config.augmentation(), config.seed)
        clips = ClipDataset(source, self.frames, *strides, *drawn, config.consistency > 0, self.feature_stride)
        shares = (self.process, self.processes)
        stream = BatchStream(len(source), config.batch_size, config.seed, numbers.start, numbers.stop, *shares)
        return DataLoader(clips, batch_sampler=stream, **self._options())

    def validation(self, source: ClipSource) -> DataLoader[ClipItem]:
        """Every clip once, in one of the processes."""
        clips = ClipDataset(source, self.frames, self.config.stride, feature_stride=self.feature_stride)
        share = Subset(clips, range(self.process, len(source), self.processes))
        return DataLoader(share, batch_size=max(1, self.config.batch_size // self.processes), **self._options())

    def _options(self) -> dict[str, Any]:
        pinned = torch.cuda.is_available() and self.config.accelerator != "cpu"
        return {"num_workers": self.config.workers, "worker_init_fn": start_worker, "pin_memory": pinned}


def prepare_clips(source: ClipSource, frames: int, config: TrainConfig, batches: int | None) -> None:
    """`ClipSource.prepare` for the clips of the first `batches` of the run; None: for all."""
    if type(source).prepare is ClipSource.prepare or config.cache is None:
        return
    clips: Sequence[int] = range(len(source))
    if batches is not None:
        stream = BatchStream(len(source), config.batch_size, config.seed, 0, batches)
        clips = sorted({index for keys in stream for _, index in keys})
    loader = DataLoader(
        Subset(Preparation(source, frames, config.stride), clips),
        batch_size=8,
        num_workers=config.workers,
        worker_init_fn=start_worker,
    )
    for _ in track(loader, "rendering", console=Console(stderr=True), disable=not config.progress):
        pass
