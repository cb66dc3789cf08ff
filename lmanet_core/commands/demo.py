"""`lmanet demo`: the main job on a machine that has nothing else.

Drives a generated street into a bag, segments it without and with memories, and compares.

    OUT/drive.mcap      camera, camera_info, true labels
    OUT/report/         report.html, result bag, side-by-side video, summary.json (see `lmanet evaluate`)
    OUT/picture.png     camera, truth, single frame, both memories
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.commands.evaluate import segmenter_settings
from lmanet_core.commands.terminal import console, progress
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.pictures import caption
from lmanet_core.evaluation.report import Report
from lmanet_core.evaluation.run import EvaluationConfig, evaluate
from lmanet_core.geometry import parse_size
from lmanet_core.labels import CITYSCAPES, LabelSet
from lmanet_core.media.picture import draw_legend, write_image
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.street import DEGRADATIONS, Street, StreetConfig
from lmanet_core.street.recording import LABEL_TOPIC, record_street
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare
from lmanet_core.weights.shipped import default_weights

_TOWN = 2_000_000  # a seed that no training and no validation uses
_COMMON = 0.01  # of the pixels with truth
_WARM_UP = 6  # frames before the picture, so that the memory is full


def make_parser() -> ArgumentParser:
    """Options of `lmanet demo`."""
    parser = ArgumentParser(
        description="Drive a generated street into a bag, segment it without and with memories, and compare.",
        exit_on_error=False,
    )
    parser.add_argument("--out", type=str, default="out", help="folder for bag, report, video and picture")
    parser.add_argument("--weights", type=str | None, default=None, help="default: those that ship")
    parser.add_argument("--frames", type=int, default=100, help="how long the drive is")
    parser.add_argument("--size", type=str, default="512x256", help="WxH of the camera")
    parser.add_argument("--seed", type=int, default=_TOWN, help="of the town; the default was never trained on")
    parser.add_argument("--degradation", type=Literal[DEGRADATIONS], default="mixed", help="what the camera suffers")
    parser.add_argument("--level", type=int, default=3, help="of the degradation, 0 clean to 3 heavy")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in OUT")
    return parser


def run(options: Namespace) -> int:
    """Run it; returns the exit code.

    Raises:
        LmanetError: settings out of range, unusable weights, results that cannot be written.
    """
    if options.frames <= _WARM_UP:
        raise ConfigError(f"--frames must be more than {_WARM_UP}, got {options.frames}")
    out, size = Path(options.out), parse_size(options.size)
    street = StreetConfig(
        width=size.width, height=size.height, seed=options.seed, degradation=options.degradation, level=options.level
    )
    weights = Path(options.weights or default_weights())
    model = load_model(str(weights))
    runtime = prepare(model)
    if runtime.config.memory is None or runtime.config.labels.names != CITYSCAPES.names:
        raise ConfigError("the demo compares memory off and on over Cityscapes' classes; give weights that have both")
    bag = out / "drive.mcap"
    with ResultFolder(out, overwrite=options.overwrite) as folder:
        folder.keep = False
        with progress("driving") as advance:
            advance.expect(options.frames)
            record_street(bag, street, options.frames, advance)
        config = EvaluationConfig(
            inputs=(str(bag),),
            out=out / "report",
            weights=weights,
            segmenter=VideoSegmenter(runtime),
            weights_kind=model.source,
            labels=(LABEL_TOPIC,),
            compare=("off", "labels"),
            settings=segmenter_settings(),
        )
        with progress("evaluating") as advance:
            report = evaluate(config, advance, advance.expect)
        folder.keep = True
        Console(markup=False, highlight=False).print(classes_table(report.summary))
        write_image(out / "picture.png", draw_comparison(Street(street), runtime, _most_different(report)))
    page, video = report.folder / "report.html", report.folder / "side_by_side.webm"
    console.print(f"look at {out / 'picture.png'}, {page}, {video}", soft_wrap=True)
    return 0


def classes_table(summary: Mapping[str, Any]) -> Table:
    """IoU of each class, steadiness and frame rate of an evaluation: without memories, with one and with both, side by side."""
    ways = {"off": "single frame", "labels": "label memory", "on": "both memories"}
    runs = [summary["runs"][way] for way in ways]
    table = Table(box=None, pad_edge=False)
    table.add_column("IoU by class, %")
    for column in (*ways.values(), "change"):
        table.add_column(column, justify="right")
    pixels = np.sum(runs[0]["confusion"], 1)
    names = [name for name, count in zip(runs[0]["iou"], pixels, strict=True) if count]
    common = {name for name, count in zip(runs[0]["iou"], pixels, strict=True) if count >= _COMMON * pixels.sum()}
    for name in names:
        if name in common:
            _add_row(table, name, [run["iou"][name] for run in runs])
    rare = [name for name in names if name not in common]
    if rare:  # some hundred pixels each: single figures of them say nothing
        _add_row(
            table, f"{len(rare)} rare classes, mean", [float(np.mean([run["iou"][name] for name in rare])) for run in runs]
        )
    table.add_section()
    for name, title in (("miou", f"mIoU of {len(names)} classes"), ("tc", "temporal consistency"), ("flicker", "flicker")):
        _add_row(table, title, [run[name] for run in runs])
    table.add_row("frames a second, here and now", *(f"{1e3 / summary['frame_ms'][way]:.1f}" for way in ways), "")
    return table


def _add_row(table: Table, title: str, shares: Sequence[float | None]) -> None:
    """Values as percent, and how the last differs from the first as they stand there."""
    known = [round(100.0 * share, 1) for share in shares if share is not None]
    if len(known) < len(shares):
        table.add_row(title, *("–" for _ in shares), "")
    else:
        change = round(known[-1] - known[0], 1)
        table.add_row(title, *(f"{value:.1f}" for value in known), f"{change:+.1f}" if change else "0.0")


def _most_different(report: Report) -> int:
    """The frame in which memory off and on differ most, once the memory is full."""
    return int(max((row for row in report.frames() if row["index"] >= _WARM_UP), key=lambda row: row["differs"])["index"])


def draw_comparison(street: Street, runtime: Runtime, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Camera, truth, single frame and both memories for frame `number` of a drive (RGB), the names of the classes below."""
    labels: LabelSet = runtime.config.labels
    off, on = (VideoSegmenter(runtime, SegmenterConfig(memory=both, label_memory=both)) for both in (False, True))
    for frame in street.frames(max(0, number - _WARM_UP), min(number, _WARM_UP) + 1):
        stamp_ns = frame.stamp_ns + 1
        without, remembered = off.step(frame.image, stamp_ns), on.step(frame.image, stamp_ns)
    panels = {
        "camera": frame.image,
        "truth": labels.colorize(frame.labels),
        "single frame": labels.colorize(without.labels),
        "both memories": labels.colorize(remembered.labels),
    }
    drawn = [caption(panel, text) for text, panel in panels.items()]
    grid = np.concatenate([np.concatenate(drawn[:2], 1), np.concatenate(drawn[2:], 1)])
    return np.concatenate((grid, draw_legend(frame.labels, labels, grid.shape[1])))
