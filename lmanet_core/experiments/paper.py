"""The paper's experiments on any data set: what a setting of the memory is worth, and what it costs.

    memory-size    Table I    a network trained for each S
    window         Table II   a network trained for each R, and for global attention
    fusion         Table III  a network trained for each fusion
    cost           Table IV   time a frame and memory, nothing is trained
    longer-memory  Table S4   one network, read with more frames than it was trained with
    classes        Table VI   IoU by class, memory off and on

A variant is trained from the same single-frame weights with the same seed and the same batches, and keeps its folder: an
experiment that was interrupted goes on where it was.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lmanet_core.errors import ConfigError, LmanetError, OutputError
from lmanet_core.evaluation.plots import draw_bars
from lmanet_core.experiments.sets import evaluate_sets
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.network import LMANet
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import hash_file, load_model, save_model
from lmanet_core.weights.runtime import RuntimeConfig

#: What varies in each experiment that trains: setting → (column heading, changed settings) of each variant.
VARIANTS: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] = {
    "memory-size": [(f"S = {frames}", {"memory_frames": frames}) for frames in (1, 2, 3, 4, 5)],
    "window": [
        *((f"R = {side}", {"window": side}) for side in (1, 11, 21, 41)),
        ("global", {"window": "global"}),
    ],
    "fusion": [
        ("concat", {"fusion": "concat"}),
        ("gated", {"fusion": "gated"}),
        ("reduced-gated", {"fusion": "reduced-gated", "value_channels": 0}),
        ("residual", {"fusion": "residual", "value_channels": 0}),
    ],
}
COST_WINDOWS: tuple[int | None, ...] = (None, 41, 21, 11)
COST_ROUNDS = 3
LONGER = (1, 2, 3, 4)  # times the frames trained with
EXPERIMENTS = (*VARIANTS, "cost", "longer-memory", "classes")  # those of the paper


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment.

    Attributes:
        name: one of `EXPERIMENTS`.
        train: data set, and how variants are trained; its `weights` are the single-frame network, or one with a memory,
            which is left out where variants are trained.
        out: folder for results and trained variants.
        stages: trained one after the other for each variant.
        conditions: see `make_conditions`.
        max_clips: to evaluate on; None: all.
        device, precision: of the evaluation.

    Raises:
        ConfigError: unknown experiment, or no weights to start from.
    """

    name: str
    train: TrainConfig
    out: Path
    stages: Sequence[str] = ("memory", "joint")
    conditions: Sequence[str] = ("none",)
    max_clips: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.name not in EXPERIMENTS:
            raise ConfigError(f"an experiment is one of {', '.join(EXPERIMENTS)}; got {self.name!r}")
        if self.train.weights is None:
            raise ConfigError("an experiment starts from trained weights; give --weights, or train the backbone first")
        wrong = [stage for stage in self.stages if stage not in ("memory", "joint", "all")]
        if wrong or not self.stages:
            raise ConfigError(f"stages are memory, joint, all, or several of them, got {', '.join(self.stages) or 'none'}")


@dataclass(frozen=True)
class ExperimentResult:
    """A table: `rows` of plain values under `columns`; the first column names the row.

    Attributes:
        plotted: places of the columns that are drawn, all in the same `unit`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    plotted: tuple[int, ...] = (1,)
    unit: str = "mIoU, %"

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
        return table


def run_experiment(config: ExperimentConfig, say: Callable[[str], None] = print) -> ExperimentResult:
    """Train what is missing, evaluate, and write `NAME.csv`, `NAME.txt` and `NAME.svg` into `config.out`.

    Raises:
        LmanetError: as training and evaluation; variants that are done are kept.
    """
    with ResultFolder(config.out, resume=True):
        if config.name == "cost":
            result = _cost(config)
        elif config.name == "longer-memory":
            result = _longer_memory(config)
        elif config.name == "classes":
            result = _classes(config)
        else:
            result = _trained_variants(config, say)
        write_result(config.out, config.name, result)
        return result


# ---- experiments that train


def _trained_variants(config: ExperimentConfig, say: Callable[[str], None]) -> ExperimentResult:
    single = _single_frame_weights(config)
    rows = _measure(config, single, "single frame")
    for heading, changes in VARIANTS[config.name]:
        folder = config.out / config.name / heading.replace(" ", "")
        weights = _train_variant(config, single, folder, changes, lambda text, heading=heading: say(f"{heading}: {text}"))  # type: ignore[misc]
        rows += _measure(config, str(weights), heading)
    return ExperimentResult(
        f"{config.name}: mIoU, flicker, TC in %",
        ("", "condition", "memory off", "memory on", "flicker off", "flicker on", "TC off", "TC on"),
        tuple(rows),
        plotted=(2, 3),
    )


def _single_frame_weights(config: ExperimentConfig) -> str:
    """The weights that every variant starts from: those given, or a file of theirs without the memory."""
    given = str(config.train.weights)
    model = load_model(given)
    if model.config.memory is None:
        return given
    path = config.out / config.name / "single_frame.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_model(path, LMANet(model.network.backbone, None), replace(model.config, memory=None))
    return str(path)


def _train_variant(
    config: ExperimentConfig, weights: str, folder: Path, changes: Mapping[str, Any], say: Callable[[str], None]
) -> Path:
    from lmanet_core.training.run import train  # Lightning

    for stage in config.stages:
        out = folder / stage
        settings = replace(config.train, **{**changes, "stage": stage, "weights": weights, "out": str(out)})
        if stage != config.stages[0]:
            settings = replace(settings, whiten_keys=False)  # they were trained by now
        finished, run = folder / f"{stage}.json", {"settings": settings.to_dict(), "weights": hash_file(Path(weights))}
        if not _is_finished(finished, run):
            say(f"training stage {stage}")
            finished.unlink(missing_ok=True)
            train(replace(settings, overwrite=True))
            finished.write_text(json.dumps(run))
        weights = str(out / "last.safetensors")
    return Path(weights)


def _is_finished(finished: Path, run: Mapping[str, Any]) -> bool:
    """Whether a variant was trained to its end with these very settings and starting weights."""
    try:
        return bool(json.loads(finished.read_text()) == json.loads(json.dumps(run)))
    except (OSError, json.JSONDecodeError):
        return False


def _measure(config: ExperimentConfig, weights: str, heading: str) -> list[tuple[Any, ...]]:
    return [
        (heading, row["condition"], *(100 * end for key in ("miou", "flicker", "consistency") for end in _ends(row[key])))
        for row in _scores(config, weights)
    ]


def _scores(config: ExperimentConfig, weights: str, memory_frames: int | None = None) -> list[dict[str, Any]]:
    return evaluate_sets(
        [weights],
        config.train,
        config.conditions,
        memory_frames=memory_frames,
        stride=config.train.stride,
        max_clips=config.max_clips,
        runtime=RuntimeConfig(config.device, config.precision),
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Without and with the full memory; the same twice where there is none."""
    return values[0], values[-1]


# ---- experiments with given weights


def _longer_memory(config: ExperimentConfig) -> ExperimentResult:
    trained = load_model(str(config.train.weights)).config.memory
    if trained is None:
        raise ConfigError(f"{config.train.weights} has no memory; longer-memory wants weights trained with one")
    most = max(LONGER) * trained.memory_frames
    scores = _scores(config, str(config.train.weights), most)
    conditions = tuple(row["condition"] for row in scores)
    names = [f"S = {frames}" + (" (trained)" if frames == trained.memory_frames else "") for frames in range(most + 1)]
    rows = tuple((name, *(100 * row["miou"][frames] for row in scores)) for frames, name in enumerate(names))
    title = "longer-memory: mIoU in % by frames in the memory"
    return ExperimentResult(title, ("", *conditions), rows, tuple(range(1, 1 + len(conditions))))


def _classes(config: ExperimentConfig) -> ExperimentResult:
    scores = _scores(config, str(config.train.weights))
    columns = tuple(f"{row['condition']} {state}" for row in scores for state in ("off", "on"))
    totals = ("mean", *(100 * end for row in scores for end in _ends(row["miou"])))
    names = list(scores[0]["iou"][0])
    rows = [(name, *(100 * part[name] for row in scores for part in (row["iou"][0], row["iou"][-1]))) for name in names]
    title = "classes: IoU in %, memory off and on"
    return ExperimentResult(title, ("", *columns), (totals, *rows), tuple(range(1, 1 + len(columns))), "IoU, %")


# ---- cost


def _cost(config: ExperimentConfig) -> ExperimentResult:
    """Each variant in a process of its own, so that its memory can be told; in rounds, so that all meet the same machine."""
    variants = [("single frame", "none"), *((_window_name(side), str(side or "global")) for side in COST_WINDOWS)]
    rounds = np.array([[_measure_cost(config, window) for _, window in variants] for _ in range(COST_ROUNDS)])
    figures = np.median(rounds, 0)  # (variants, 2)
    more = 100 * (figures / figures[:1] - 1)  # of the figures beside them, so that they fit
    rows = [
        (heading, *(float(value) for pair in zip(figures[place], more[place], strict=True) for value in pair))
        for place, (heading, _) in enumerate(variants)
    ]
    title = f"cost at {config.train.size}: median time of a frame, peak memory"
    return ExperimentResult(title, ("", "ms", "Δ %", "MB", "Δ %"), tuple(rows), unit="ms a frame")


def _window_name(side: int | None) -> str:
    return "global" if side is None else f"R = {side}"


def _measure_cost(config: ExperimentConfig, window: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "lmanet_core.experiments.cost", str(config.train.weights), config.train.size, window]
    command += [str(config.train.memory_frames or 3), config.device, config.precision]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode != 0:
        raise LmanetError(f"measuring the cost of window {window} failed: {done.stderr.strip()[-300:]}")
    figures = json.loads(done.stdout)
    return statistics.median(figures["frame_ms"]), float(figures["peak_mb"])


# ---- files


def write_result(out: Path, name: str, result: ExperimentResult) -> None:
    """`NAME.csv`, `NAME.txt` and, where there are numbers, `NAME.svg`; raises OutputError."""
    from rich.console import Console

    try:
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(result.columns)
            writer.writerows(result.rows)
        with (out / f"{name}.txt").open("w") as file:
            Console(file=file, width=140).print(result.table())
        drawn = [place for place in result.plotted if isinstance(result.rows[0][place], float)]
        if drawn:
            names = [" ".join(str(value) for value in row if isinstance(value, str)) for row in result.rows]
            series = {result.columns[place]: [row[place] for row in result.rows] for place in drawn}
            title = result.title.partition(":")[0]  # what is drawn of it stands at the axis
            (out / f"{name}.svg").write_text(draw_bars(title, result.unit, names, series), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error}") from error
