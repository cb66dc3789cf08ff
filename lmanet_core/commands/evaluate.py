"""`lmanet evaluate`: accuracy, steadiness, latency and a verdict from recordings, or weights on a set of clips."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.commands.options import add_segmenter_options, describe_segmenter, make_segmenter
from lmanet_core.commands.terminal import cell, console, progress
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.live import evaluate_live
from lmanet_core.evaluation.page import write_page
from lmanet_core.evaluation.recorded import evaluate_recorded
from lmanet_core.evaluation.recorder import Recorder
from lmanet_core.evaluation.report import (
    COUNTS,
    QUALITY,
    SHARES,
    SPEED,
    build_summary,
    figure_names,
    hash_input,
    write_summary,
)
from lmanet_core.evaluation.run import Outcome, evaluate, name_cameras, require_labels
from lmanet_core.evaluation.verdict import Check, check_names, read_thresholds
from lmanet_core.experiments.sets import SET_OPTIONS, add_set_options, run_evaluate_set
from lmanet_core.label_mapping import LabelMapping, list_mappings, load_mapping
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import Model, hash_file, load_model
from lmanet_core.weights.shipped import default_weights

_SAVE = ("bag", "video", "page")


def make_parser() -> ArgumentParser:
    """Options of `lmanet evaluate`."""
    parser = ArgumentParser(
        description="Accuracy, steadiness, latency and a verdict from recordings; exit code 1 where a threshold is missed.",
        exit_on_error=False,
    )
    parser.add_argument("input", type=str, nargs="*", help="videos, image folders or bags (mcap, sqlite3, ROS 1)")
    parser.add_argument("--weights", type=str | None, default=None, help="ours or published ones; default: those that ship")
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
    parser.add_argument("--compare-off", type=bool, default=True, help="also segment with the memory off, on the same frames")
    parser.add_argument(
        "--save", type=str, default=",".join(_SAVE), help=f"besides summary and frames: {','.join(_SAVE)} or none"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is already there")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of bags; several cameras with commas")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames of each camera")
    add_segmenter_options(parser)
    add_set_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Evaluate and write the report; returns the exit code.

    Raises:
        LmanetError: input, weights, labels or output are not usable; what was measured by then is in the report.
    """
    if options.data is not None:
        return run_evaluate_set(options)
    if not options.input or options.out is None:
        raise ConfigError("lmanet evaluate wants recordings and --out for the report, or --data for a set of labelled clips")
    started = time.perf_counter()
    save = _listed(options.save) if options.save != "none" else []
    for kind in save:
        if kind not in _SAVE:
            raise ConfigError(f"--save takes {', '.join(_SAVE)} or none, got {kind!r}")
    if not options.tolerance >= 0.0:
        raise ConfigError(f"--tolerance must be 0 seconds or more, got {options.tolerance}")
    if isinstance(options.live, float) and not 0.0 < options.live < math.inf:
        raise ConfigError(f"--live takes measured or milliseconds above 0, got {options.live}")
    if options.live is not None and options.results is not None:
        raise ConfigError("--results are of a live run already; leave --live out")
    cameras = name_cameras(options.input, _listed(options.topic), _listed(options.labels), options.fps)
    if options.results is not None:
        results = _listed(options.results)
        if len(results) != len(cameras):
            raise ConfigError(f"wanted --results for each of {len(cameras)} cameras, got {len(results)}")
        cameras = [replace(camera, results=each) for camera, each in zip(cameras, results, strict=True)]
    options.weights = options.weights or str(default_weights())
    model = load_model(options.weights)
    segmenter = make_segmenter(model, options)
    variants = _variants(segmenter, options.compare_off)
    labels = segmenter.labels
    mapping = LabelMapping.identity(labels) if options.mapping is None else load_mapping(options.mapping, labels)
    thresholds = () if options.thresholds is None else read_thresholds(Path(options.thresholds))
    check_names(thresholds, figure_names(mapping.classes.names, variants))
    out = Path(options.out)
    console.print(describe_segmenter(segmenter, model), highlight=False)

    def make_segmenters() -> Mapping[str, VideoSegmenter]:
        return {name: VideoSegmenter(segmenter.runtime, replace(segmenter.config, memory=name == "on")) for name in variants}

    inputs = [*options.input, *_listed(options.labels), *_listed(options.results)]
    with ResultFolder(out, overwrite=options.overwrite, inputs=inputs) as folder:
        recorder = Recorder(out, labels, mapping, [camera.name for camera in cameras], variants, save)
        outcome = Outcome()
        figures: dict[str, Any] = {}
        complete = False
        try:
            with progress("evaluating", None, options.max_frames) as advance:
                limits = {"tolerance_s": options.tolerance, "max_frames": options.max_frames}
                common: dict[str, Any] = {**limits, "on_frame": advance}
                if options.results is not None:
                    figures |= evaluate_recorded(cameras, make_segmenters, recorder, outcome, **common)
                elif options.live is None:
                    evaluate(cameras, make_segmenters, recorder, outcome, **common)
                else:
                    inference_s = None if options.live == "measured" else options.live / 1e3
                    figures |= evaluate_live(
                        cameras, make_segmenters, recorder, outcome, mapping, inference_s=inference_s, **common
                    )
            require_labels(outcome, options.tolerance)
            complete = True
        finally:
            recorder.close()
            folder.keep = recorder.summary.frames > 0
            if folder.keep:
                elapsed_s = time.perf_counter() - started
                run = _describe_run(options, model, segmenter)
                extra = {"figures": figures, "pictures": recorder.save_pictures() if "page" in save else {}}
                summary = build_summary(recorder, outcome, cameras, thresholds, run, elapsed_s, complete, extra)
                write_summary(out / "summary.json", summary)
                if "page" in save:
                    write_page(out)
    _print_figures(summary)
    failed = [Check(**check).describe() for check in summary["verdict"]["checks"] if not check["passed"]]
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _variants(segmenter: VideoSegmenter, compare_off: bool) -> tuple[str, ...]:
    """The one the report is about, then the one to compare with."""
    if not segmenter.memory_enabled:
        return ("off",)
    return ("on", "off") if compare_off else ("on",)


def _describe_run(options: Namespace, model: Model, segmenter: VideoSegmenter) -> dict[str, Any]:
    """What the result depends on: weights, inputs, settings. No paths, which may differ where nothing else does."""
    left_out = ("input", "weights", "out", "config", "labels", "thresholds", "results", "save", "overwrite", *SET_OPTIONS)
    settings = {key: value for key, value in vars(options).items() if key not in left_out and not key.startswith("_")}
    return {
        "mode": _mode(options),
        "weights": {"file": Path(options.weights).name, "sha256": hash_file(Path(options.weights)), "kind": model.source},
        "inputs": [{"name": Path(path).name, "sha256": hash_input(Path(path))} for path in options.input],
        "labels": _listed(options.labels) and [Path(labels).name for labels in _listed(options.labels)],
        "device": str(segmenter.runtime.device),
        "precision": segmenter.runtime.precision,
        "memory": segmenter.memory_enabled,
        "memory_frames": segmenter.memory_capacity,
        "settings": settings,
    }


def _mode(options: Namespace) -> str:
    live = options.live
    if options.results is not None:
        return "live, as published by a node"
    if live is None:
        return "lock-step"
    return "as if live, times measured" if live == "measured" else f"as if live at {live:g} ms a frame"


def _print_figures(summary: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    figures, variants = summary["figures"], summary["variants"]
    table = Table(box=None, pad_edge=False)
    table.add_column()
    names = {"on": "memory on", "off": "memory off"}
    for variant in variants:
        table.add_column(names[variant], justify="right")
    if len(variants) > 1:
        table.add_column("change", justify="right")
    for figure in QUALITY:
        if figures[figure] is None:
            continue
        cells = [cell(figures[figure]), *(cell(figures[f"{variant}.{figure}"]) for variant in variants[1:])]
        if len(variants) > 1:
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
    print(f"hash {summary['hash']}")
