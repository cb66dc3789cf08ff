"""`lmanet evaluate`, `lmanet compare`, `lmanet explain`: options, what is printed, exit codes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.checkpoint import Model, load_model
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.evaluation.mapping import LabelMapping, list_mappings, load_mapping
from lmanet_core.evaluation.recorder import Recorder
from lmanet_core.evaluation.report import (
    COUNTS,
    QUALITY,
    SPEED,
    build_summary,
    figure_names,
    hash_input,
    write_summary,
)
from lmanet_core.evaluation.run import Outcome, evaluate, name_cameras, require_labels
from lmanet_core.evaluation.verdict import Check, check_names, read_thresholds
from lmanet_core.segment_options import add_segmenter_options, describe_segmenter, hash_file, make_segmenter
from lmanet_core.segmenter import VideoSegmenter
from lmanet_core.terminal import console, progress

_SAVE = ("bag", "video", "page")
_RESULTS = ("summary.json", "frames.jsonl", "report.html")  # of these one is enough to call a folder a report


def evaluate_parser() -> ArgumentParser:
    """Options of `lmanet evaluate`."""
    parser = ArgumentParser(
        description="Accuracy, steadiness, latency and a verdict from recordings; exit code 1 where a threshold is missed.",
        exit_on_error=False,
    )
    parser.add_argument("input", type=str, nargs="+", help="videos, image folders or bags (mcap, sqlite3, ROS 1)")
    parser.add_argument("--weights", type=str, required=True, help="ours, or published LMANet, ERFNet or PSPNet weights")
    parser.add_argument("--out", type=str, required=True, help="folder for the report")
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
    parser.add_argument("--compare-off", type=bool, default=True, help="also segment with the memory off, on the same frames")
    parser.add_argument(
        "--save", type=str, default=",".join(_SAVE), help=f"besides summary and frames: {','.join(_SAVE)} or none"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is already there")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of bags; several cameras with commas")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames of each camera")
    add_segmenter_options(parser)
    return parser


def run_evaluate(options: Namespace) -> int:
    """Evaluate and write the report; returns the exit code.

    Raises:
        LmanetError: input, weights, labels or output are not usable; what was measured by then is in the report.
    """
    started = time.perf_counter()
    save = _listed(options.save) if options.save != "none" else []
    for kind in save:
        if kind not in _SAVE:
            raise ConfigError(f"--save takes {', '.join(_SAVE)} or none, got {kind!r}")
    if not options.tolerance >= 0.0:
        raise ConfigError(f"--tolerance must be 0 seconds or more, got {options.tolerance}")
    cameras = name_cameras(options.input, _listed(options.topic), _listed(options.labels), options.fps)
    model = load_model(options.weights)
    segmenter = make_segmenter(model, options)
    variants = _variants(segmenter, options.compare_off)
    labels = segmenter.labels
    mapping = LabelMapping.identity(labels) if options.mapping is None else load_mapping(options.mapping, labels)
    thresholds = () if options.thresholds is None else read_thresholds(Path(options.thresholds))
    check_names(thresholds, figure_names(mapping.classes.names, variants))
    out = Path(options.out)
    _prepare_out(out, options.overwrite)
    console.print(describe_segmenter(segmenter, model), highlight=False)

    def make_segmenters() -> Mapping[str, VideoSegmenter]:
        return {name: VideoSegmenter(segmenter.runtime, replace(segmenter.config, memory=name == "on")) for name in variants}

    recorder = Recorder(out, labels, mapping, [camera.name for camera in cameras], variants, save)
    outcome = Outcome()
    complete = False
    try:
        with progress("evaluating", None, options.max_frames) as advance:
            evaluate(
                cameras,
                make_segmenters,
                recorder,
                outcome,
                tolerance_s=options.tolerance,
                max_frames=options.max_frames,
                on_frame=advance,
            )
        require_labels(outcome, options.tolerance)
        complete = True
    finally:
        recorder.close()
        if recorder.summary.frames:
            elapsed_s = time.perf_counter() - started
            run = _describe_run(options, model, segmenter)
            summary = build_summary(recorder, outcome, cameras, thresholds, run, elapsed_s, complete, {})
            write_summary(out / "summary.json", summary)
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


def _prepare_out(out: Path, overwrite: bool) -> None:
    import shutil

    try:
        if not out.is_dir():
            return
        present = [out / name for name in _RESULTS if (out / name).exists()]
        if present and not overwrite:
            raise OutputError(f"{out} already holds a report ({present[0].name}, …); choose another --out, or pass --overwrite")
        ours = [*present, *out.glob("result*/metadata.yaml"), *out.glob("side_by_side*.mp4"), *out.glob("pictures/*.jpg")]
        for path in ours:
            if path.name == "metadata.yaml":
                shutil.rmtree(path.parent)
            else:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot replace the report in {out}: {error.strerror or error}") from error


def _describe_run(options: Namespace, model: Model, segmenter: VideoSegmenter) -> dict[str, Any]:
    """What the result depends on: weights, inputs, settings. No paths, which may differ where nothing else does."""
    left_out = ("input", "weights", "out", "config", "labels", "thresholds", "save", "overwrite")
    settings = {key: value for key, value in vars(options).items() if key not in left_out and not key.startswith("_")}
    return {
        "mode": "lock-step",
        "weights": {"file": Path(options.weights).name, "sha256": hash_file(Path(options.weights)), "kind": model.source},
        "inputs": [{"name": Path(path).name, "sha256": hash_input(Path(path))} for path in options.input],
        "labels": _listed(options.labels) and [Path(labels).name for labels in _listed(options.labels)],
        "device": str(segmenter.runtime.device),
        "precision": segmenter.runtime.precision,
        "memory": segmenter.memory_enabled,
        "settings": settings,
    }


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
        cells = [_cell(figures[figure]), *(_cell(figures[f"{variant}.{figure}"]) for variant in variants[1:])]
        if len(variants) > 1:
            cells.append(_cell(figures[f"gain.{figure}"], "+.4f"))
        table.add_row(figure, *cells)
    for figure in (*COUNTS, *SPEED):
        value = figures.get(figure, summary["speed"].get(figure))
        if value is not None:
            table.add_row(figure, f"{value:.1f}" if isinstance(value, float) else str(value))
    Console(soft_wrap=True, markup=False, highlight=False).print(table)
    print(f"hash {summary['hash']}")


def _cell(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else format(value, form)


def compare_parser() -> ArgumentParser:
    return ArgumentParser(exit_on_error=False)


def explain_parser() -> ArgumentParser:
    return ArgumentParser(exit_on_error=False)


def run_compare(options: Namespace) -> int:
    return 0


def run_explain(options: Namespace) -> int:
    return 0
