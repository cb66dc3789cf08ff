"""Weights on sets of labelled clips: `evaluate_sets`, and its scores as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lmanet_core import __version__
from lmanet_core.data.named_sets import NAMED_SETS
from lmanet_core.errors import OutputError
from lmanet_core.experiments.clip_sets import ClipScorer, Condition, make_conditions
from lmanet_core.geometry import parse_size
from lmanet_core.training.build import require_complete
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime

#: The generated street's validation set, where no configuration says which.
STREET = {"data": "street", "stage": "backbone", "size": "512x256"}


def evaluation_config(data: str, **overrides: Any) -> TrainConfig:
    """The set that `--data` names.

    Args:
        data: "street", a published one (with `root`), or the YAML file of a training run, whose validation set it is.
        overrides: settings in place of the set's own.
    """
    if data == "street":
        return TrainConfig(**{**STREET, **overrides})
    if data in ("cityscapes", *NAMED_SETS):
        return TrainConfig(**{"data": data, "stage": "backbone", **overrides})
    # A stage that needs no weights, and without what only other stages have.
    return TrainConfig.from_yaml(data, **{"stage": "backbone", "consistency": 0.0, "whiten_keys": False, **overrides})


def evaluate_sets(
    weights: Sequence[str],
    config: TrainConfig,
    conditions: Sequence[str],
    *,
    memory_frames: int | None = None,
    network_size: str = "auto",
    stride: int = 1,
    max_clips: int | None = None,
    runtime: RuntimeConfig = RuntimeConfig(),  # noqa: B008 (frozen)
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Score each weights file under each condition.

    Args:
        weights: files of any understood kind.
        config: whose validation set is used.
        conditions: see `make_conditions`.
        memory_frames: S; None: as trained. Weights without memory take part without.
        network_size: "auto" or "WxH".
        stride: video frames between frames of a clip.
        max_clips: of each condition; None: all.
        runtime: where and how the networks run; its window counts for those with a memory.
        console: where progress is shown.

    Returns:
        One dict for each pair: "weights", "condition" and what `ClipScores.to_dict` gives.

    Raises:
        LmanetError: weights, data or settings that do not fit, see `load_model`, `prepare_runtime`, `make_conditions`,
            `ClipScorer`.
        InputError: files are missing of sets that are used in full (no `max_clips`); said before the first clip is scored.
    """
    made = make_conditions(config, conditions)
    size = None if network_size == "auto" else parse_size(network_size)
    rows = []
    with Progress(console=console or Console(stderr=True), transient=True) as progress:
        for path in weights:
            model = load_model(path)
            single = model.config.memory is None
            ready = prepare_runtime(model, replace(runtime, window=None) if single else runtime)
            scorer = ClipScorer(ready, None if single else memory_frames, size, stride)
            for condition in made if max_clips is None else ():
                frames = (scorer.memory_frames or 0) + 2
                require_complete(condition.source, frames, stride, "lmanet train with these --data and --root")
            for condition in made:
                task = progress.add_task(f"{Path(path).name} {condition.name}", total=_count(condition, max_clips))
                scores = scorer.score(condition, max_clips, lambda task=task: progress.advance(task))  # type: ignore[misc]
                rows.append({"weights": str(path), "condition": condition.name, **scores.to_dict()})
    return rows


def _count(condition: Condition, max_clips: int | None) -> int:
    return min(len(condition.source), max_clips or len(condition.source))


def write_scores(out: Path, rows: Sequence[dict[str, Any]], config: TrainConfig) -> None:
    """`scores.json` with everything, `scores.csv` with a line for each pair; raises OutputError."""
    plain = ("weights", "condition", "clips")
    most = max(len(row["miou"]) for row in rows)
    named = {f"miou_{filled}": ("miou", filled) for filled in range(most)}
    named |= {
        f"{kind}_{state}": (kind, place) for kind in ("flicker", "consistency") for place, state in ((0, "off"), (1, "on"))
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        content = {"version": __version__, "config": config.to_dict(), "scores": list(rows)}
        (out / "scores.json").write_text(json.dumps(content, indent=1) + "\n")
        with (out / "scores.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*plain, *named])
            for row in rows:
                figures = [row[key][place] if place < len(row[key]) else "" for key, place in named.values()]
                writer.writerow([*(row[key] for key in plain), *figures])
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error}") from error
