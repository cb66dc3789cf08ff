"""What a run leaves behind while it goes: weights, resume file, log. Every file is replaced in one move or not at all."""

from __future__ import annotations

import contextlib
import csv
import math
import pickle
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from lmanet_core import __version__
from lmanet_core.errors import ConfigError, InputError, OutputError
from lmanet_core.files import output_errors, replace_file
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.network import LMANet
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.processes import is_first_process
from lmanet_core.weights.checkpoint import ModelConfig, save_model

RESUME, LAST, BEST, LOG = "resume.ckpt", "last.safetensors", "best.safetensors", "log.csv"

_COLUMNS = ("step", "epoch", "loss", "learning_rate", "val_miou", "data_s", "network_s")


@dataclass
class Progress:
    """How far a run has come; kept in the resume file.

    Attributes:
        batches: done, of all epochs.
        epoch_loss, epoch_batches: sum of the losses of the epoch that is going on, and how many.
        best_miou: best validation mIoU so far (0–1), below 0 while there is none.
        last_miou: of the weights as they are now, below 0 where they were not validated.
    """

    batches: int = 0
    epoch_loss: float = 0.0
    epoch_batches: int = 0
    best_miou: float = -1.0
    last_miou: float = -1.0

    def count_batch(self, loss: float) -> None:
        """One more is done."""
        self.batches += 1
        self.epoch_loss += loss
        self.epoch_batches += 1
        self.last_miou = -1.0  # it was that of other weights


class RunFiles:
    """Keeps the files of a run up to date; in processes other than the first it writes nothing.

    Args:
        config: see `TrainConfig`.
        data: what is known of the data, see `describe_data`.
        model: what is known of the network, its origin included.
        folder: the claim on the run's folder, told of what was written; None in processes other than the first.
    """

    def __init__(self, config: TrainConfig, data: Mapping[str, Any], model: ModelConfig, folder: ResultFolder | None) -> None:
        self._config, self._data, self._model, self._folder = config, data, model, folder
        self._out = Path(config.out)
        self._losses: list[float] = []
        self._times = {"data_s": 0.0, "network_s": 0.0}
        self._total_times = dict(self._times)
        self._events: SummaryWriter | None = None

    @property
    def network_share(self) -> float:
        """Of the time of training steps, the share in the network and not waiting for data; NaN before the first."""
        total = sum(self._total_times.values())
        return self._total_times["network_s"] / total if total else math.nan

    def note(self, loss: float, data_s: float, network_s: float) -> None:
        """The figures of a batch, for the next line of the log."""
        if self._folder is None:
            return
        self._losses.append(loss)
        for name, seconds in (("data_s", data_s), ("network_s", network_s)):
            self._times[name] += seconds
            self._total_times[name] += seconds

    def log(self, progress: Progress, epoch: int, learning_rate: float, val_miou: float | None = None) -> None:
        """A line of what was noted since the last one."""
        if self._folder is None:
            return
        figures = {"learning_rate": learning_rate, **self._times}
        if self._losses:
            figures["loss"] = sum(self._losses) / len(self._losses)
        if val_miou is not None:
            figures["val_miou"] = val_miou
        self._losses, self._times = [], dict.fromkeys(self._times, 0.0)
        step = progress.batches // self._config.accumulate
        row = {"step": step, "epoch": epoch, **{name: f"{value:.6g}" for name, value in figures.items()}}
        path, events = self._out / LOG, self._out / "tensorboard"
        with output_errors(path):
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, _COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        with output_errors(events):
            self._events = self._events or SummaryWriter(str(events))
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def save(self, state: Mapping[str, Any], network: LMANet, progress: Progress) -> None:
        """The resume file, of `state` and what it must go on with, and the weights as they are now."""
        if self._folder is not None:
            known = {"config": self._config.to_dict(), "data": self._data, "progress": asdict(progress)}
            save_state(self._out / RESUME, {**known, **state})
            self.save_weights(LAST, network, progress)
            self._folder.update()

    def save_weights(self, name: str, network: LMANet, progress: Progress) -> None:
        """With what is known of where they come from."""
        if self._folder is None:
            return
        config = self._config
        known = {
            "stage": config.stage,
            "data": f"{self._data['set']}, {self._data['clips']} labelled frames",
            "command": shlex.join(sys.argv),
            "steps": str(progress.batches // config.accumulate),
            "batch_size": str(config.batch_size * config.accumulate),
            "seed": str(config.seed),
            "trained": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "versions": f"lmanet_ros {__version__}, torch {torch.__version__}, lightning {version('lightning')}",
        }
        if progress.last_miou >= 0:
            known["val_miou"] = f"{progress.last_miou:.4f} at {config.size}"
        save_model(self._out / name, network, replace(self._model, provenance={**self._model.provenance, **known}))

    def close(self) -> None:
        """Nothing is written after this."""
        if self._events is not None:
            with output_errors(self._out / "tensorboard"):
                self._events.close()


@contextlib.contextmanager
def claim_folder(config: TrainConfig, saved: Mapping[str, Any] | None) -> Iterator[ResultFolder | None]:
    """The folder of the run, held for as long as it goes on; None in processes other than the first."""
    if not is_first_process():
        yield None
        return
    out = Path(config.out)
    with ResultFolder(out, overwrite=config.overwrite, resume=saved is not None) as folder:
        with output_errors(out):
            if saved is not None:
                _rewind_log(out / LOG, int(saved["progress"]["batches"]) // config.accumulate)
            settings = {name: value for name, value in config.to_dict().items() if name not in ("resume", "overwrite", "check")}
            (out / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        folder.keep = saved is not None
        yield folder


def read_saved(config: TrainConfig, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The resume file, when a run is to go on.

    Raises:
        OutputError: there is a run, and nobody said what is to become of it.
        InputError: nothing to go on with, or a file that is damaged or of an earlier version.
        ConfigError: a run with other settings or other data.
    """
    out = Path(config.out)
    path = out / RESUME
    if not config.resume:
        present = [name for name in (RESUME, LAST, BEST, LOG, "config.yaml") if (out / name).exists()]
        if present and not config.overwrite and is_first_process():
            raise OutputError(f"{out} already holds a run ({present[0]}, …); resume: true goes on, overwrite: true replaces it")
        return None
    if not path.is_file():
        raise InputError(f"nothing to resume: no {path}; leave resume out to start")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "lmanet" in saved:
            raise InputError(f"{path} is of an earlier version; start a new run, with weights: {out / LAST}")
        differences, before = config.differences(saved["config"]), saved["data"]
    except (OSError, RuntimeError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is not a resume file, or damaged ({error})"[:300]) from error
    differences += [f"{n} of the data: was {before.get(n)}, now {now}" for n, now in data.items() if before.get(n) != now]
    if differences:
        raise ConfigError(f"the run in {out} cannot go on with other settings: {'; '.join(differences)}")
    return saved


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what PyTorch can pickle; the old file stays until the new one is on the disk. Raises OutputError."""
    needed = path.stat().st_size if path.is_file() else None  # as much as the one before took
    with replace_file(path, durable=True, needed=needed) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # PyTorch's writer hides the system's reason
            raise error.__context__ if isinstance(error.__context__, OSError) else error from error


def _rewind_log(path: Path, step: int) -> None:
    """Take back what a killed run logged after the step from which it goes on."""
    if not path.is_file() or not path.stat().st_size:
        return
    header, *rows = path.read_bytes().splitlines(keepends=True)
    kept = [row for row in rows if row.endswith(b"\n") and int(row.partition(b",")[0]) <= step]
    with replace_file(path, durable=True) as file:
        file.write_bytes(header + b"".join(kept))
