"""`lmanet segment`: a recording in; label maps, masks, videos, a result bag out."""

from __future__ import annotations

import json
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lmanet_core import __version__
from lmanet_core.commands.options import add_segmenter_options, choose_weights, describe_segmenter, make_segmenter
from lmanet_core.commands.terminal import console, progress
from lmanet_core.errors import ConfigError, OutputError, system_says
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.media import SINK_KINDS, check_sink_kinds, open_frames, open_sinks
from lmanet_core.media.picture import draw_picture, write_image
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.media.sinks import png_name
from lmanet_core.stream.loop import StreamSummary, segment_stream
from lmanet_core.stream.resuming import skip_done
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import Model, hash_file, load_model

_RESUMABLE = {"labels", "masks"}  # written whole, frame by frame


def make_parser() -> ArgumentParser:
    """Options of `lmanet segment`."""
    parser = ArgumentParser(
        description="Segment a video file, a folder of images, an image, or a ROS 1 or ROS 2 bag.", exit_on_error=False
    )
    parser.add_argument("input", type=str, help="video, image folder, image, or bag (mcap, sqlite3, ROS 1)")
    parser.add_argument(
        "--weights",
        type=str | None,
        default=None,
        help="ours, published LMANet, ERFNet or PSPNet weights, or a model of yours: hf:FOLDER, hf:owner/name, "
        "python:FILE.py:function, TorchScript, ONNX; default: those that ship, which know the generated street",
    )
    parser.add_argument("--out", type=str, required=True, help="folder for the results")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument(
        "--save",
        type=list[str] | str | None,
        default=None,
        help=f"what to write, of {','.join(SINK_KINDS)}; default: labels,masks,overlay, and bag when the input is one",
    )
    parser.add_argument("--picture", type=int | None, default=None, help="also write picture.png of the frame with this number")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already there")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped or killed; of --save labels,masks"
    )
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of a bag with several cameras")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames")
    parser.add_argument(
        "--stills", action="store_true", help="images are no video: each is segmented by itself, without memory"
    )
    add_segmenter_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Segment, and say what happened; returns the exit code.

    Raises:
        LmanetError: input, weights, settings or output are not usable; results so far are whole files.
    """
    out = Path(options.out)
    for name, least in (("max_frames", 1), ("picture", 0)):
        if options[name] is not None and options[name] < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be {least} or more, got {options[name]}")
    with open_frames(options.input, topic=options.topic, **({} if options.fps is None else {"fps": options.fps})) as source:
        kinds = options.save
        if kinds is None:
            kinds = ["labels", "masks", "overlay", *(["bag"] if source.kind == "bag" else [])]
        elif isinstance(kinds, str):
            kinds = [kind.strip() for kind in kinds.split(",")]
        check_sink_kinds(kinds)
        if options.resume and not {"labels"} <= set(kinds) <= _RESUMABLE:
            raise ConfigError(f"--resume goes on with PNGs: --save labels or labels,masks, got {','.join(kinds)}")
        if options.stills:
            options.memory = options.label_memory = False
        options.weights = choose_weights(options.weights)
        model = load_model(options.weights)
        segmenter = make_segmenter(model, options)
        console.print(describe_segmenter(segmenter, model), highlight=False)
        summary = StreamSummary()
        stopped = True
        with ResultFolder(
            out,
            overwrite=options.overwrite,
            inputs=[options.input],
            resume=options.resume,
            writes=[*kinds, "summary.json", "picture.png"],
            run=_describe_run(options),
        ) as folder:
            try:
                with (
                    open_sinks(out, segmenter.labels, kinds=kinds, fps=source.fps or 10.0) as sink,
                    progress("segmenting", source.expected_frames, options.max_frames) as advance,
                ):

                    def on_frame(frame: Frame, result: FrameResult) -> None:
                        if summary.frames - 1 == options.picture:
                            write_image(out / "picture.png", draw_picture(frame, result, segmenter.labels))
                        advance()

                    limit, frames = options.max_frames, None
                    if options.resume:
                        left = None if limit is None else max(0, limit - len(list((out / "labels").glob("*.png"))))
                        limit, frames = None, islice(skip_done(source, partial(_is_done, out), segmenter), left)
                    segment_stream(source, segmenter, sink, summary, on_frame, limit, frames)
                stopped = False
                if options.picture is not None and summary.frames <= options.picture:
                    console.print(f"no picture.png: frame {options.picture} was wanted, the last one is {summary.frames - 1}")
            finally:
                folder.keep = summary.frames > 0
                _write_summary(out / "summary.json", summary, segmenter, model, options, stopped)
                _print_summary(out, summary)
    return 0


def _describe_run(options: Namespace) -> dict[str, Any]:
    """What decides the labels: a run that goes on must have the same."""
    left_out = ("config", "out", "overwrite", "resume", "save", "picture", "max_frames", "weights")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    return {**given, "weights": hash_file(Path(options.weights))}


def _is_done(out: Path, frame: Frame) -> bool:
    """Whether all PNGs of a frame are there; the masks are written after the labels."""
    name = png_name(frame)
    masks = out / "masks"
    return (out / "labels" / name).is_file() and all((group / name).is_file() for group in masks.glob("*/"))


def _write_summary(
    path: Path, summary: StreamSummary, segmenter: VideoSegmenter, model: Model, options: Namespace, stopped: bool
) -> None:
    runtime = segmenter.runtime
    data = {
        "version": __version__,
        "input": options.input,
        "complete": not stopped,
        **({"resumed": True} if options.resume else {}),
        "frames": summary.frames,
        "skipped": summary.skipped,
        "resets": dict(summary.resets),
        "not_remembered": summary.not_remembered,
        "timings_ms": summary.percentiles(),
        "weights": {"file": Path(options.weights).name, "sha256": hash_file(Path(options.weights)), "kind": model.source},
        "device": str(runtime.device),
        "precision": runtime.precision,
        "memory": segmenter.memory_enabled,
        "classes": list(segmenter.labels.names),
    }
    try:
        path.write_text(json.dumps(data, indent=1) + "\n")
    except OSError as error:
        if not stopped:  # else the first error is the one to show
            raise OutputError(f"cannot write {path}: {system_says(error, path)}") from error


def _print_summary(out: Path, summary: StreamSummary) -> None:
    if not summary.frames:
        return
    total = summary.percentiles()["total"]
    resets = ", ".join(f"{count} {cause}" for cause, count in summary.resets.items())
    skipped = f", {summary.skipped} damaged skipped" if summary.skipped else ""
    console.print(
        f"{summary.frames} frames{skipped}; {total['p50']:.0f} ms a frame (p95 {total['p95']:.0f}); resets: {resets}; in {out}",
        highlight=False,
        soft_wrap=True,
    )
