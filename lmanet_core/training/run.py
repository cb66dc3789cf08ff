"""A training run from settings to weights: `train(TrainConfig(…))`.

    sources → network, frozen parts → TrainingModule ← batches of a seeded stream
                                         ↓
    OUT/config.yaml  best.safetensors  last.safetensors  resume.ckpt  log.csv  tensorboard/

An epoch of Lightning's is an epoch of ours, or what is left of it after an interruption.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from lmanet_core.data import ClipDataset, ClipSource
from lmanet_core.data.clips import ClipItem, Preparation, start_worker
from lmanet_core.data.sampler import BatchStream
from lmanet_core.errors import ConfigError, InputError, OutputError, WeightsError
from lmanet_core.labels import LabelSet
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.network import LMANet
from lmanet_core.training.build import (
    class_weights,
    frozen_modules,
    make_network,
    make_sources,
    require_complete,
    whiten_keys,
)
from lmanet_core.training.callbacks import BEST, LAST, LOG, RESUME, AtomicCheckpointIO, RunFiles, rewind_log
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.module import TrainingModule
from lmanet_core.training.synced_norm import sync_batch_norms
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import cpu_computes_bfloat16

#: Warnings of Lightning's about what is meant here.
_UNHELPFUL = (
    "does not have many workers",
    "in eval mode",
    "smaller than the logging interval",
    "LeafSpec",
    "Checkpoint directory",
    "across ranks is zero",
    "sync_dist",
)
_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        last: weights at its end.
        best: weights of the best validation mIoU; None where nothing was validated.
        steps: optimiser steps of the whole run.
        loss: of the last batch.
        val_miou: the best, 0–1; NaN where nothing was validated.
        network_share: of the time of training steps, what was not waiting for data.
    """

    last: Path
    best: Path | None
    steps: int
    loss: float
    val_miou: float
    network_share: float


@dataclass(frozen=True)
class _Length:
    """Of a run, in batches; an epoch is a whole number of optimiser steps."""

    per_epoch: int
    total: int

    @classmethod
    def of(cls, config: TrainConfig, clips: int) -> _Length:
        batches = (config.epoch_clips or clips) // config.batch_size
        per_epoch = max(1, batches // config.accumulate) * config.accumulate
        total = config.epochs * per_epoch
        if config.max_steps is not None:
            total = min(total, config.max_steps * config.accumulate)
        return cls(per_epoch, total)


class _Loaders(L.LightningDataModule):
    """Loaders for what is left of the epoch that is due."""

    def __init__(self, train: ClipDataset, validation: ClipDataset | None, module: TrainingModule, length: _Length) -> None:
        super().__init__()
        self._train, self._validation, self._module, self._length = train, validation, module, length

    def train_dataloader(self) -> DataLoader[ClipItem]:
        config, start = self._module.config, self._module.progress.batches
        end_of_epoch = (start // self._length.per_epoch + 1) * self._length.per_epoch
        batches = BatchStream(
            len(self._train),
            config.batch_size,
            config.seed,
            start,
            min(end_of_epoch, self._length.total),
            self._process,
            self._processes,
        )
        return DataLoader(self._train, batch_sampler=batches, **self._options(config))

    def val_dataloader(self) -> DataLoader[ClipItem] | list[Any]:
        if self._validation is None:
            return []
        config = self._module.config
        share = Subset(self._validation, range(self._process, len(self._validation), self._processes))
        return DataLoader(share, batch_size=max(1, config.batch_size // self._processes), **self._options(config))

    @property
    def _process(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _options(self, config: TrainConfig) -> dict[str, Any]:
        return {
            "num_workers": config.workers,
            "worker_init_fn": start_worker,
            "pin_memory": torch.cuda.is_available() and config.accelerator != "cpu",
        }


def train(config: TrainConfig) -> TrainResult:
    """Train, or go on with a run that was interrupted.

    Raises:
        LmanetError: anything wrong with settings, data, weights or the place for results, see the subclasses;
            `NonFiniteLossError` when the loss is NaN.
    """
    if not config.out:
        raise ConfigError("out is missing: the folder for weights, resume file and log")
    on_gpu = _on_gpu(config)
    config = replace(config, precision=_chosen_precision(config, on_gpu))
    out = Path(config.out)
    training, validation = make_sources(config)
    network, model = make_network(config, training.labels)
    frames = 1 if model.memory is None else model.memory.memory_frames + 1
    for source in (training, validation):
        if source is not None:
            require_complete(source, frames, config.largest_stride)
    data_info = _describe(config, training)
    saved = _saved_run(out, config, data_info)
    teacher = _load_teacher(config, training.labels)
    weights = class_weights(config, training)
    length = _Length.of(config, len(training))
    with _claim(out, config, saved) as folder:
        if is_first_process():
            _prepare(training, frames, config, length.total)
            if validation is not None:
                _prepare(validation, frames, config, None)
        if config.whiten_keys and saved is None:
            whiten_keys(network, training, config)
        frozen = frozen_modules(network, config)
        if config.devices * config.nodes > 1:
            sync_batch_norms(network)
        module = TrainingModule(
            network,
            frozen,
            config,
            weights,
            length.total // config.accumulate,
            teacher,
            out,
        )
        module.data_info = data_info
        files = RunFiles(out, model, length.per_epoch, folder)
        done = 0 if saved is None else int(saved["progress"]["batches"])
        epochs = math.ceil(length.total / length.per_epoch) - done // length.per_epoch
        trainer = _make_trainer(config, files, epochs, on_gpu)
        if done < length.total:
            follows = model.memory is not None and model.memory.follow_motion
            stride = network.backbone.stride if follows else None
            datasets = _datasets(config, training, validation, frames, stride)
            if folder is not None:
                folder.keep = True
            _fit(trainer, module, _Loaders(*datasets, module, length), None if saved is None else out / RESUME)
        else:
            module.on_load_checkpoint({"lmanet": saved})
        best = out / BEST
        return TrainResult(
            last=out / LAST,
            best=best if best.exists() else None,
            steps=module.progress.batches // config.accumulate,
            loss=module.last_loss,
            val_miou=module.progress.best_miou if module.progress.best_miou >= 0 else math.nan,
            network_share=files.network_share,
        )


def _prepare(source: ClipSource, frames: int, config: TrainConfig, batches: int | None) -> None:
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
    for _ in track(loader, "rendering", disable=not config.progress):
        pass


def _datasets(
    config: TrainConfig, training: ClipSource, validation: ClipSource | None, frames: int, feature_stride: int | None
) -> tuple[ClipDataset, ClipDataset | None]:
    train_set = ClipDataset(
        training,
        frames,
        config.stride,
        config.largest_stride,
        config.augmentation(),
        config.seed,
        with_flow=config.consistency > 0,
        feature_stride=feature_stride,
    )
    if validation is None:
        return train_set, None
    return train_set, ClipDataset(validation, frames, config.stride, feature_stride=feature_stride)


def _make_trainer(config: TrainConfig, files: RunFiles, epochs: int, on_gpu: bool) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    processes = config.devices * config.nodes
    return L.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if processes > 1 else "auto",
        precision=_PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=max(1, epochs),
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_gradient,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[files, *([TQDMProgressBar()] if config.progress else [])],
        plugins=[AtomicCheckpointIO()],
        logger=TensorBoardLogger(files.out, name="tensorboard", version=""),
        log_every_n_steps=1,
        enable_progress_bar=config.progress,
        enable_model_summary=False,
    )


def _on_gpu(config: TrainConfig) -> bool:
    """Where the run computes; raises ConfigError where it is told to use GPUs that are not there."""
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and present > 0)
    if on_gpu and config.devices > present:
        raise ConfigError(
            f"GPUs wanted on this machine: {config.devices}; PyTorch {torch.__version__} sees {present}; "
            "lower devices, or set accelerator: cpu"
        )
    return on_gpu


def _chosen_precision(config: TrainConfig, on_gpu: bool) -> Literal["32", "bf16", "16"]:
    """What "auto" is here: a run keeps it, so that it can only be resumed in the same arithmetic."""
    if config.precision != "auto":
        return config.precision
    computes = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_computes_bfloat16()
    return "bf16" if computes else "32"


def _fit(trainer: L.Trainer, module: TrainingModule, loaders: _Loaders, resume: Path | None) -> None:
    with warnings.catch_warnings():
        for unhelpful in _UNHELPFUL:
            warnings.filterwarnings("ignore", f".*{unhelpful}.*")
        trainer.fit(module, loaders, ckpt_path=None if resume is None else str(resume), weights_only=True)


def _load_teacher(config: TrainConfig, labels: LabelSet) -> LMANet | None:
    if config.teacher is None:
        return None
    model = load_model(config.teacher)
    if model.config.labels.names != labels.names:
        raise WeightsError(f"the teacher {config.teacher} has other classes than the data; train one on this data first")
    return model.network.requires_grad_(False)


def _describe(config: TrainConfig, source: ClipSource) -> dict[str, Any]:
    where = "" if config.root is None else Path(config.root).name
    return {"set": f"{config.data} {where}".strip(), "clips": len(source), "classes": list(source.labels.names)}


def _saved_run(out: Path, config: TrainConfig, data: dict[str, Any]) -> dict[str, Any] | None:
    """What the resume file knows, when a run is to go on.

    Raises:
        OutputError: there is a run, and nobody said what is to become of it.
        InputError: nothing to go on with, or a damaged file.
        ConfigError: a run with other settings or other data.
    """
    path = out / RESUME
    if not config.resume:
        present = _files_of_a_run(out)
        if present and not config.overwrite and is_first_process():
            found = present[0].name
            raise OutputError(f"{out} already holds a run ({found}, …); resume: true goes on, overwrite: true replaces it")
        return None
    if not path.is_file():
        raise InputError(f"nothing to resume: no {path}; leave resume out to start")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["lmanet"]
    except (OSError, RuntimeError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is not a resume file, or damaged ({error})"[:300]) from error
    differences = config.differences(saved["config"])
    before = saved["data"]
    differences += [f"{n} of the data: was {before.get(n)}, now {now}" for n, now in data.items() if before.get(n) != now]
    if differences:
        raise ConfigError(f"the run in {out} cannot go on with other settings: {'; '.join(differences)}")
    return saved


def _files_of_a_run(out: Path) -> list[Path]:
    return [path for path in (out / name for name in (RESUME, LAST, BEST, LOG, "config.yaml")) if path.exists()]


@contextlib.contextmanager
def _claim(out: Path, config: TrainConfig, saved: dict[str, Any] | None) -> Iterator[ResultFolder | None]:
    """The folder of the run, held for as long as it goes on; nothing in processes other than the first."""
    if not is_first_process():
        yield None
        return
    with ResultFolder(out, overwrite=config.overwrite, resume=saved is not None) as folder:
        try:
            if saved is not None:
                rewind_log(out / LOG, int(saved["progress"]["batches"]) // config.accumulate)
            settings = {name: value for name, value in config.to_dict().items() if name not in ("resume", "overwrite", "check")}
            (out / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error}") from error
        folder.keep = saved is not None
        yield folder


@functools.lru_cache(maxsize=1)
def is_first_process() -> bool:
    """Before Lightning has set up its processes: by the variables that it, torchrun and SLURM set."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK"))
