"""What a run leaves behind while it goes: weights, resume file, log. Every file is replaced in one move or not at all."""

from __future__ import annotations

import csv
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lmanet_core import __version__
from lmanet_core.errors import OutputError
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.training.module import TrainingModule
from lmanet_core.weights.checkpoint import ModelConfig, save_model

RESUME, LAST, BEST, LOG = "resume.ckpt", "last.safetensors", "best.safetensors", "log.csv"

_COLUMNS = ("step", "epoch", "loss", "learning_rate", "val_miou", "data_s", "network_s")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, then renames: with a full disk or a kill the old one survives."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See Lightning's; raises OutputError where it cannot be written."""
        replace_file(Path(path), lambda file: torch.save(checkpoint, file))


def replace_file(path: Path, write: Callable[[Any], None]) -> None:
    """Have `write` fill a new file that takes the place of `path` when it is complete; raises OutputError."""
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns the system's errors into RuntimeError
        raise OutputError(f"cannot write {path}: {error}; the old file is as it was") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


class RunFiles(Checkpoint):
    """Keeps the files of a run up to date.

    Args:
        out: folder of the run.
        model: what is known about the network, its origin included.
        batches_per_epoch: to know when an epoch ends.
        folder: the claim on `out`, told of what was written; None in processes other than the first.
    """

    def __init__(self, out: Path, model: ModelConfig, batches_per_epoch: int, folder: ResultFolder | None = None) -> None:
        self._folder = folder
        self.out, self._model, self._batches_per_epoch = out, model, batches_per_epoch
        self._data_s = self._network_s = 0.0
        self._total_data_s = self._total_network_s = 0.0
        self._since = math.nan
        self._losses: list[float] = []

    @property
    def network_share(self) -> float:
        """Of the time of training steps, the share in the network and not waiting for data; NaN before the first."""
        total = self._total_data_s + self._total_network_s
        return self._total_network_s / total if total else math.nan

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock starts when the loader is asked for the first batch."""
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """What went by was waiting for data."""
        waited = self._lap()
        self._data_s += waited
        self._total_data_s += waited

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; write the log and the resume file when they are due."""
        module = _ours(pl_module)
        computed = self._lap()
        self._network_s += computed
        self._total_network_s += computed
        module.finish_batch()
        self._losses.append(module.last_loss)
        config, batches = module.config, module.progress.batches
        step, within = divmod(batches, config.accumulate)
        if within:
            return
        if step % config.log_every == 0:
            self._log(trainer, module)
        if step % config.checkpoint_every == 0 and not trainer.is_last_batch:
            self._save(trainer, module)
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the best weights."""
        module = _ours(pl_module)
        progress = module.progress
        self._log(trainer, module, with_miou=True)
        if progress.last_miou > progress.best_miou:
            progress.best_miou = progress.last_miou
            self._save_weights(trainer, module, BEST)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After validation and schedule: the state of a finished epoch."""
        self._save(trainer, _ours(pl_module))
        self._since = time.perf_counter()

    def _save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        trainer.save_checkpoint(self.out / RESUME)
        self._save_weights(trainer, module, LAST)
        if self._folder is not None:
            self._folder.update()

    def _save_weights(self, trainer: L.Trainer, module: TrainingModule, name: str) -> None:
        if trainer.is_global_zero:
            save_model(self.out / name, module.network, self._with_provenance(module))

    def _with_provenance(self, module: TrainingModule) -> ModelConfig:
        config, progress = module.config, module.progress
        known = {
            "stage": config.stage,
            "data": f"{module.data_info['set']}, {module.data_info['clips']} labelled frames",
            "command": shlex.join(sys.argv),
            "steps": str(progress.batches // config.accumulate),
            "batch_size": str(config.batch_size * config.accumulate),
            "seed": str(config.seed),
            "trained": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "versions": f"lmanet_ros {__version__}, torch {torch.__version__}, lightning {L.__version__}",
        }
        if progress.last_miou >= 0:
            known["val_miou"] = f"{progress.last_miou:.4f} at {config.size}"
        return replace(self._model, provenance={**self._model.provenance, **known})

    def _log(self, trainer: L.Trainer, module: TrainingModule, with_miou: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        progress, losses = module.progress, self._losses
        step = progress.batches // module.config.accumulate
        figures = {
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "val_miou": progress.last_miou if with_miou else math.nan,
            "data_s": self._data_s,
            "network_s": self._network_s,
        }
        self._losses, self._data_s, self._network_s = [], 0.0, 0.0
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        for logger in trainer.loggers:
            logger.log_metrics(known, step)
        row = {
            "step": step,
            "epoch": (progress.batches - 1) // self._batches_per_epoch,
            **{n: f"{v:.6g}" for n, v in known.items()},
        }
        path = self.out / LOG
        try:
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, _COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error

    def _lap(self) -> float:
        now = time.perf_counter()
        gone, self._since = now - self._since, now
        return gone


def rewind_log(path: Path, step: int) -> None:
    """Take back what a killed run logged after the step from which it goes on."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def write(file: Any) -> None:
        lines = [",".join(_COLUMNS), *(",".join(row[name] or "" for name in _COLUMNS) for row in rows)]
        file.write(("\n".join(lines) + "\n").encode())

    replace_file(path, write)


def _ours(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
