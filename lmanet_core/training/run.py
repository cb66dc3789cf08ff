"""A training run from settings to weights: `train(TrainConfig(…))`.

    sources → network, frozen parts → ClipLoss ← batches of a seeded stream
                                         ↓
    OUT/config.yaml  best.safetensors  last.safetensors  resume.ckpt  log.csv  tensorboard/

Everything random in a step is seeded from the number of its batch, so a run that was killed goes on exactly as if it had not
been: network, optimiser, learning rate and `Progress` are all there is to keep.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lmanet_core.data.class_counts import count_classes
from lmanet_core.data.clips import ClipItem, ClipSource
from lmanet_core.errors import ConfigError, LmanetError, OutputError
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.process import leave_if_asked
from lmanet_core.training.batches import Batches, Length, prepare_clips
from lmanet_core.training.build import (
    class_weights,
    describe_data,
    frozen_modules,
    load_teacher,
    make_network,
    make_sources,
    require_complete,
    thawed_modules,
    whiten_keys,
)
from lmanet_core.training.clip_loss import ClipLoss
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.machine import chosen_precision, computes_on_gpu, launched, make_fabric
from lmanet_core.training.optimizer import make_optimizer, make_plateau, set_learning_rate
from lmanet_core.training.processes import is_first_process, sum_over_processes, sync_batch_norms
from lmanet_core.training.run_files import BEST, LAST, Progress, RunFiles, claim_folder, read_saved, save_state
from lmanet_core.weights.tiles import use_measured_tiles

_LOGGER = logging.getLogger(__name__)
_COUNTED = 64  # label maps that are looked at before a run


class NonFiniteLossError(LmanetError):
    """The loss or a gradient is NaN or infinite; the batch was saved."""

    exit_code = 1


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


def train(config: TrainConfig) -> TrainResult:
    """Train, or go on with a run that was interrupted.

    Raises:
        LmanetError: anything wrong with settings, data, weights or the place for results, see the subclasses;
            `NonFiniteLossError` when the loss is NaN.
    """
    if not config.out:
        raise ConfigError("out is missing: the folder for weights, resume file and log")
    on_gpu = computes_on_gpu(config)
    config = replace(config, precision=chosen_precision(config, on_gpu))
    training, validation = make_sources(config)
    network, model = make_network(config, training.labels)
    frames = 1 if model.memory is None else model.memory.memory_frames + 1
    for source in (training, validation):
        if source is not None:
            require_complete(source, frames, config.largest_stride)
    data = describe_data(config, training)
    saved = read_saved(config, data)
    if saved is None and is_first_process():
        _tell_classes(training, config)
    teacher = load_teacher(config, training.labels)
    weights = class_weights(config, training)
    frozen, thawed = frozen_modules(network, config), thawed_modules(network, config)
    length = Length.of(config, len(training))
    with claim_folder(config, saved) as folder:
        if folder is not None:
            prepare_clips(training, frames, config, length.total)
            if validation is not None:
                prepare_clips(validation, frames, config, None)
            folder.keep = True
        if config.whiten_keys and saved is None:
            whiten_keys(network, training, config)
        if config.processes > 1:
            sync_batch_norms(network)
        follows = model.memory is not None and model.memory.motion_compensation
        fabric = make_fabric(config, on_gpu)
        use_measured_tiles(fabric.device)
        with launched(fabric), contextlib.closing(RunFiles(config, data, model, folder)) as files:
            run = _Run(config, fabric, ClipLoss(network, frozen, config, weights, teacher, thawed), saved)
            stride = network.memory_stride if follows else None
            batches = Batches(config, frames, stride, fabric.global_rank, fabric.world_size)
            _train_epochs(run, training, validation, batches, length, files)
        return run.result(files)


def _tell_classes(source: ClipSource, config: TrainConfig) -> None:
    """What the label maps hold, on standard error; what looks wrong even without a progress bar."""
    counts = count_classes(source, _COUNTED)
    if counts is None:
        return
    if config.progress:
        Console(stderr=True, highlight=False, markup=False).print(counts.describe(), soft_wrap=True)
    for warning in counts.warnings():
        _LOGGER.warning("%s", warning)


def _train_epochs(
    run: _Run, training: ClipSource, validation: ClipSource | None, batches: Batches, length: Length, files: RunFiles
) -> None:
    config, progress = run.config, run.progress
    total_steps = length.total // config.accumulate
    with _make_bar(config) as bar:
        shown = bar.add_task("training", total=length.total, completed=progress.batches)
        for epoch in length.epochs(progress.batches):
            epoch_number = epoch.start // length.per_epoch
            run.loss.train()
            since = time.perf_counter()
            for number, batch in zip(epoch, batches.training(training, epoch), strict=True):
                batch = run.fabric.to_device(batch)
                waited = time.perf_counter() - since
                set_learning_rate(run.optimizer, config, number // config.accumulate, total_steps)
                run.train_batch(batch, number)
                progress.count_batch(run.last_loss)
                files.note(run.last_loss, waited, time.perf_counter() - since - waited)
                step, within = divmod(progress.batches, config.accumulate)
                if not within and step % config.log_every == 0:
                    files.log(progress, epoch_number, run.learning_rate)
                if not within and step % config.checkpoint_every == 0 and progress.batches < epoch.stop:
                    files.save(run.state(), run.loss.network, progress)
                bar.update(shown, completed=progress.batches, description=f"epoch {epoch_number}, loss {run.last_loss:.4f}")
                since = time.perf_counter()
                leave_if_asked()
            if validation is not None:
                progress.last_miou = run.validate(batches.validation(validation))
                files.log(progress, epoch_number, run.learning_rate, progress.last_miou)
                if progress.last_miou > progress.best_miou:
                    progress.best_miou = progress.last_miou
                    files.save_weights(BEST, run.loss.network, progress)
            if run.plateau is not None:
                run.plateau.step(progress.epoch_loss / progress.epoch_batches)
            progress.epoch_loss, progress.epoch_batches = 0.0, 0
            files.save(run.state(), run.loss.network, progress)


class _Run:
    """What a run changes, on its device: network, optimiser, learning rate, progress."""

    def __init__(self, config: TrainConfig, fabric: Fabric, loss: ClipLoss, saved: dict[str, Any] | None) -> None:
        self.config, self.fabric, self.loss = config, fabric, loss
        self._forward = fabric.setup_module(loss)  # the same, with gradients averaged over the processes
        self.optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(make_optimizer(loss.network, config)))
        self.plateau = make_plateau(self.optimizer, config)
        self.progress = Progress()
        self.last_loss = math.nan
        if saved is not None:
            self.progress = Progress(**saved["progress"])
            loss.network.load_state_dict(saved.pop("network"))  # taken out, so as not to be kept twice
            self.optimizer.load_state_dict(saved.pop("optimizer"))
            fabric.strategy.precision.load_state_dict(saved["precision"])
            if self.plateau is not None:
                self.plateau.load_state_dict(saved["plateau"])

    def state(self) -> dict[str, Any]:
        """For the resume file, beside progress."""
        return {
            "network": self.loss.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": None if self.plateau is None else self.plateau.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the scale of the loss in 16 bits
        }

    @property
    def learning_rate(self) -> float:
        """Of everything that has no rate of its own."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_batch(self, batch: ClipItem, number: int) -> None:
        """Its loss, its gradients and, when enough of them are gathered, a step; raises NonFiniteLossError before that."""
        config, fabric = self.config, self.fabric
        gathered = (number + 1) % config.accumulate == 0
        seeds = np.random.SeedSequence((config.seed, number, fabric.global_rank, 2))
        torch.manual_seed(int(seeds.generate_state(1, np.uint32)[0]))  # for dropout
        with fabric.no_backward_sync(self._forward, enabled=not gathered):
            loss = self._forward(batch, number)
            self.last_loss = float(sum_over_processes(loss.detach().float())) / fabric.world_size
            if not math.isfinite(self.last_loss):
                self._refuse(f"the loss is {self.last_loss}", batch)
            fabric.backward(loss / config.accumulate)
        if gathered:
            longest = config.clip_gradient or math.inf
            norm = fabric.clip_gradients(self.loss, self.optimizer, max_norm=longest, error_if_nonfinite=False)
            # In 16 bits the scaler of the loss leaves such steps out itself.
            if config.precision != "16" and norm is not None and not math.isfinite(norm):
                self._refuse(f"a gradient is {float(norm)}", batch)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def validate(self, batches: Iterable[ClipItem]) -> float:
        """mIoU of the classes in the truth of the whole validation set, at the network's size; below 0 where none is."""
        self.loss.eval()
        matrix = ConfusionMatrix(len(self.loss.class_weights))
        counts = torch.from_numpy(matrix.counts).to(self.fabric.device)
        for batch in batches:
            with self.fabric.autocast():
                counts += self.loss.count(self.fabric.to_device(batch))
        matrix.counts = sum_over_processes(counts).cpu().numpy()
        return matrix.mean_iou_of_truth() if matrix.in_truth().any() else -1.0

    def result(self, files: RunFiles) -> TrainResult:
        """What it came to so far."""
        out, progress = Path(self.config.out), self.progress
        return TrainResult(
            last=out / LAST,
            best=out / BEST if (out / BEST).exists() else None,
            steps=progress.batches // self.config.accumulate,
            loss=self.last_loss,
            val_miou=progress.best_miou if progress.best_miou >= 0 else math.nan,
            network_share=files.network_share,
        )

    def _refuse(self, what: str, batch: ClipItem) -> None:
        rank = self.fabric.global_rank
        path = Path(self.config.out) / (f"bad_batch-{rank}.pt" if rank else "bad_batch.pt")
        kept = {"batch": {name: tensor.cpu() for name, tensor in batch.items()}, **asdict(self.progress)}  # type: ignore[attr-defined]
        try:
            save_state(path, kept)
        except OutputError as error:
            raise OutputError(f"{what}, and the batch cannot be saved: {error}") from error
        raise NonFiniteLossError(
            f"{what} in batch {self.progress.batches}; the batch is in {path}. The weights and the resume file are from before "
            "it; a lower learning_rate or clip_gradient may help"
        )


def _make_bar(config: TrainConfig) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), disable=not (config.progress and is_first_process()))
