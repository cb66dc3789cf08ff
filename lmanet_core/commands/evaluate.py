"""`lmanet evaluate`: accuracy, steadiness, latency and a verdict from recordings, or weights on a set of clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.commands.options import add_segmenter_options, choose_weights, describe_segmenter, make_segmenter
from lmanet_core.commands.terminal import cell, console, progress
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.report import COUNTS, QUALITY, SHARES, SPEED, WAYS
from lmanet_core.evaluation.run import SAVE, EvaluationConfig, evaluate
from lmanet_core.experiments.sets import evaluate_sets, evaluation_config, write_scores
from lmanet_core.labels.mapping import list_mappings
from lmanet_core.media.inputs import expand_inputs
from lmanet_core.media.live import hide_password, is_stream
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.shipped import default_weights


def make_parser() -> ArgumentParser:
    """Options of `lmanet evaluate`."""
    parser = ArgumentParser(
        description="Accuracy, steadiness, latency and a verdict from recordings; exit code 1 where a threshold is missed.",
        exit_on_error=False,
    )
    parser.add_argument("input", type=str, nargs="*", help="videos, image folders or bags (mcap, sqlite3, ROS 1)")
    parser.add_argument("--weights", type=str | None, default=None, help="as of `lmanet segment`; default: those that ship")
    parser.add_argument("--out", type=str | None, default=None, help="folder for the report")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help="topic, BAG:TOPIC or folder of PNGs; several cameras: one each, with commas",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="seconds between a label's stamp and its frame's, at most"
    )
    parser.add_argument(
        "--mapping", type=str | None, default=None, help=f"what label ids mean: {', '.join(list_mappings())} or a YAML file"
    )
    parser.add_argument(
        "--thresholds", type=str | None, default=None, help="YAML file such as 'miou: \">= 0.60\"'; sets the exit code"
    )
    parser.add_argument(
        "--live",
        type=Literal["measured"] | float | None,
        default=None,
        help="as if live, with the node's queue: milliseconds a frame takes, or measured; left out: every frame once, in order",
    )
    parser.add_argument(
        "--results",
        type=str | None,
        default=None,
        help="score what a node published: BAG or BAG:TOPIC with its label maps; several cameras: one each, with commas",
    )
    parser.add_argument(
        "--compare",
        default="off",
        help="Other ways to segment the same frames, comma-separated: off (single frames), labels (label memory only), "
        "features (feature memory only); none segments once.",
    )
    parser.add_argument(
        "--save", type=str, default=",".join(SAVE), help=f"besides summary and frames: {','.join(SAVE)} or none"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is already there")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of bags; several cameras with commas")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    parser.add_argument(
        "--start", type=str | None, default=None, help="seconds to leave out at the beginning; one each, with commas"
    )
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames of each camera")
    parser.add_argument("--flow", type=str, default="dis", help="optical flow of the measures over time: dis or farneback")
    parser.add_argument("--stills", action="store_true", help="images are no video: no memory, no measures over time")
    add_segmenter_options(parser)
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="evaluate on labelled clips: street, a data set by name (with --root), or a training YAML",
    )
    parser.add_argument("--conditions", type=str, default="none", help="--data: what images suffer, such as none,noise,blocks")
    parser.add_argument("--size", type=str | None, default=None, help="--data: WxH of frames and labels")
    parser.add_argument("--max-clips", type=int | None, default=None, help="--data: so many clips at most")
    for name, about in (
        ("root", "folder of the set"),
        ("val-root", "of the stills to evaluate on"),
        ("cache", "of the street"),
    ):
        parser.add_argument(f"--{name}", type=str | None, default=None, help=f"--data: {about}; default: as in the YAML")
    return parser


def run(options: Namespace) -> int:
    """Evaluate and write the report; returns the exit code.

    Raises:
        LmanetError: input, weights, labels or output are not usable; what was measured by then is in the report.
    """
    if options.data is not None:
        return _run_set(options)
    if not options.input or options.out is None:
        raise ConfigError("lmanet evaluate wants recordings and --out for the report, or --data for a set of labelled clips")
    config = EvaluationConfig(
        inputs=list_recordings(options.input, "evaluate"),
        out=Path(options.out),
        weights=Path(choose_weights(options.weights)),
        labels=_listed(options.labels),
        tolerance_s=options.tolerance,
        mapping=options.mapping,
        thresholds=None if options.thresholds is None else Path(options.thresholds),
        live=options.live,
        results=_listed(options.results),
        compare=_listed(options.compare) if options.compare != "none" else (),
        save=_listed(options.save) if options.save != "none" else (),
        overwrite=options.overwrite,
        topics=_listed(options.topic),
        fps=options.fps,
        max_frames=options.max_frames,
        starts_s=_seconds(options.start),
        flow=options.flow,
        stills=options.stills,
        settings=segmenter_settings(options),
    )
    model = load_model(str(config.weights))
    segmenter = make_segmenter(model, options)
    console.print(describe_segmenter(segmenter, model), highlight=False)
    config = replace(config, segmenter=segmenter, weights_kind=model.source)
    with progress("evaluating", config.max_frames) as advance:
        report = evaluate(config, advance, advance.expect)
    _print_figures(report.summary)
    for check in report.missed:
        print(f"FAILED: {check.describe()}")
    return 1 if report.missed else 0


def segmenter_settings(options: Namespace | None = None) -> dict[str, Any]:
    """The options of `add_segmenter_options` (None: their defaults), for the record."""
    parser = ArgumentParser(add_help=False)
    add_segmenter_options(parser)
    defaults = vars(parser.get_defaults())
    return {name: default if options is None else options[name] for name, default in defaults.items()}


def list_recordings(inputs: Sequence[str], command: str) -> tuple[str, ...]:
    """One for each stream of frames; raises ConfigError for what is no recording, in the name of a command."""
    recordings = expand_inputs(inputs)
    for text in recordings:
        if not Path(text).exists() or is_stream(text):
            raise ConfigError(f"lmanet {command} wants recordings (videos, bags, folders of images), got {hide_password(text)}")
    return tuple(recordings)


def _seconds(text: str | None) -> tuple[float, ...]:
    """Raises ConfigError for what is no number of seconds, 0 or more."""
    try:
        seconds = tuple(float(part) for part in _listed(text))
    except ValueError:
        seconds = (-1.0,)
    if not all(0.0 <= one < math.inf for one in seconds):
        raise ConfigError(f"--start takes seconds, 0 or more, got {text!r}")
    return seconds


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _print_figures(summary: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    figures, variants = summary["figures"], summary["variants"]
    table = Table(box=None, pad_edge=False)
    table.add_column()
    for variant in variants:
        table.add_column(WAYS[variant], justify="right")
    compares = "off" in variants[1:]
    if compares:
        table.add_column("change", justify="right")
    for figure in QUALITY:
        if figures[figure] is None:
            continue
        cells = [cell(figures[figure]), *(cell(figures[f"{variant}.{figure}"]) for variant in variants[1:])]
        if compares:
            cells.append(cell(figures[f"gain.{figure}"], "+.4f"))
        table.add_row(figure, *cells)
    for figure in SHARES:
        if figures.get(figure) is not None:
            table.add_row(figure, cell(figures[figure]))
    for figure in (*COUNTS, *SPEED):
        value = figures.get(figure, summary["speed"].get(figure))
        if value is not None:
            table.add_row(figure, f"{value:.1f}" if isinstance(value, float) else str(value))
    Console(soft_wrap=True, markup=False, highlight=False).print(table)
    main = summary["runs"][variants[0]]
    if figures["labelled_frames"]:
        print(describe_classes(main, len(summary["classes"])))
    print(f"hash of the results, equal on every run: {summary['hash']}")


def describe_classes(measured: Mapping[str, Any], classes: int, of: str = "") -> str:
    """Which classes the mIoU is over, in a line."""
    only_predicted = ", ".join(measured["only_predicted"]) or "none"
    return f"{of}classes in the truth: {measured['classes_in_truth']} of {classes}; only predicted: {only_predicted}"


def _run_set(options: Namespace) -> int:
    """`--data`: print the tables and write the files of `--out`; returns the exit code."""
    if options.input:
        raise ConfigError(f"--data says what to evaluate on; leave {options.input[0]} out, or --data")
    overrides = {name: options[name] for name in ("root", "val_root", "cache", "size") if options[name] is not None}
    config = evaluation_config(options.data, **overrides)
    rows = evaluate_sets(
        (options.weights or str(default_weights())).split(","),
        config,
        options.conditions.split(","),
        memory_frames=options.memory_frames,
        network_size=options.network_size,
        stride=config.stride,
        max_clips=options.max_clips,
        device=options.device,
        precision=options.precision,
    )
    tables = Console(width=160)
    tables.print(scores_table(rows))
    tables.print(classes_table(rows))
    for row in rows:
        print(describe_classes(row, len(row["iou"][0]), f"{Path(row['weights']).name} {row['condition']}: "))
    if options.out is not None:
        with ResultFolder(Path(options.out), overwrite=options.overwrite):
            write_scores(Path(options.out), rows, config)
    return 0


def scores_table(rows: Sequence[dict[str, Any]]) -> Table:
    """mIoU by frames in the memory, flicker and temporal consistency without and with it; percent."""
    most = max(len(row["miou"]) for row in rows)
    table = Table(
        title="mIoU of the classes in the truth, by frames in the memory; flicker and TC without and with memory (%)",
        title_justify="left",
    )
    for column in ("weights", "condition"):
        table.add_column(column, overflow="fold")
    for column in (*(str(filled) for filled in range(most)), "at network size", "flicker", "TC"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        miou = [f"{_percent(value)}" for value in row["miou"]]
        table.add_row(
            row["weights"],
            row["condition"],
            *(miou + [""] * (most - len(miou))),
            _pair(row["miou_working"]),
            _pair(row["flicker"], 2),
            _pair(row["consistency"]),
        )
    return table


def classes_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Class-wise IoU without and with memory (the paper's Table VI), percent."""
    table = Table(title="IoU by class, memory off → on (%)", title_justify="left")
    table.add_column("class")
    for row in rows:
        table.add_column(f"{Path(row['weights']).stem} {row['condition']}", justify="right", no_wrap=True)
    for name in rows[0]["iou"][0]:
        table.add_row(name, *(_pair([part[name] for part in row["iou"]]) for row in rows))
    return table


def _percent(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _pair(values: Sequence[float], digits: int = 1) -> str:
    """Without → with memory, or one value where there is none."""
    ends = [values[0]] if len(values) == 1 else [values[0], values[-1]]
    return " → ".join(_percent(value, digits) for value in ends)
