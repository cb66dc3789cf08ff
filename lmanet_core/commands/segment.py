"""`lmanet segment`: recordings or live streams in; label maps, masks, videos, pictures, result bags out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from lmanet_core import __version__
from lmanet_core.commands.options import add_segmenter_options, choose_weights, describe_segmenter, make_segmenter
from lmanet_core.commands.terminal import console, progress
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.evaluation.session import name_cameras
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size
from lmanet_core.media import SINK_KINDS, FrameSource, check_sink_kinds, open_frames, open_sinks
from lmanet_core.media.inputs import expand_inputs
from lmanet_core.media.kept_results import EARLIER_BAG, KeptResults
from lmanet_core.media.live import hide_password
from lmanet_core.media.output import SINK_FILES
from lmanet_core.media.picture import draw_picture, write_image
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.media.video_sink import OPACITY
from lmanet_core.stream.loop import StreamSummary, segment_stream
from lmanet_core.stream.resuming import skip_done
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import Model, hash_file, load_model

_FILES = (*SINK_FILES.values(), EARLIER_BAG, "summary.json", "picture.png")  # that a run may write


def make_parser() -> ArgumentParser:
    """Options of `lmanet segment`."""
    parser = ArgumentParser(
        description="Segment videos, folders of images, images, ROS 1 and ROS 2 bags, cameras and streams.", exit_on_error=False
    )
    parser.add_argument(
        "input",
        type=str,
        nargs="+",
        help="videos, image folders, images, bags (mcap, sqlite3, ROS 1), cameras (0, /dev/video0), addresses (rtsp://, "
        "http://), globs or patterns of images (frame_%%04d.png), or - for what is piped in",
    )
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
        "--resume", action="store_true", help="go on with a run that was stopped or killed, by the labels that it saved"
    )
    parser.add_argument("--opacity", type=float, default=OPACITY, help="of the colours in overlay and overlay_images, 0 to 1")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of bags; several cameras with commas")
    parser.add_argument(
        "--fps", type=float | None, default=None, help="frames a second of images (the times in their names, or 10)"
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds to leave out at the beginning")
    parser.add_argument("--end", type=float | None, default=None, help="seconds after the first frame at which to stop")
    parser.add_argument("--stride", type=int, default=1, help="every so manyth frame only")
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames of each camera")
    parser.add_argument(
        "--stills", action="store_true", help="images are no video: each is segmented by itself, without memory"
    )
    add_segmenter_options(parser, short={"label-set": "labels"})
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
    cameras = _list_cameras(options)
    with ExitStack() as stack:
        source = stack.enter_context(_open(cameras[0], options))  # before the weights: what is wrong with it is said first
        kinds = _choose_kinds(source, options)
        check_sink_kinds(kinds)
        if options.resume and ("labels" not in kinds or source.kind == "live"):
            what = "a live stream" if source.kind == "live" else f"--save {','.join(kinds)}"
            raise ConfigError(f"--resume goes on with a recording whose labels were saved, got {what}; leave it out")
        if options.stills:
            options.memory = options.label_memory = False
        options.weights = choose_weights(options.weights)
        model = load_model(options.weights)
        segmenter = make_segmenter(model, options)
        console.print(describe_segmenter(segmenter, model), highlight=False)
        read = [camera.input for camera in cameras if Path(camera.input).exists()]
        folder = stack.enter_context(
            ResultFolder(
                out,
                overwrite=options.overwrite,
                inputs=read,
                resume=options.resume,
                writes=[f"{camera.name}/{name}".lstrip("/") for camera in cameras for name in _FILES],
                run=_describe_run(options),
            )
        )
        folder.keep = False
        for number, camera in enumerate(cameras):
            if number:
                source = stack.enter_context(_open(camera, options))
                segmenter = VideoSegmenter(segmenter.runtime, segmenter.config)
            _segment(camera, source, segmenter, model, folder, options)
            source.close()
    return 0


class _Camera(NamedTuple):
    """One stream to segment, and where its results go."""

    name: str  # empty where it is the only one
    input: str
    topic: str | None
    out: Path


def _list_cameras(options: Namespace) -> list[_Camera]:
    """Every topic of every input; several cameras have a folder each."""
    inputs = expand_inputs(options.input)
    topics = [topic.strip() for topic in (options.topic or "").split(",") if topic.strip()]
    names = [camera.name for camera in name_cameras(inputs, topics, (), options.fps)]
    pairs = [(text, topic) for text in inputs for topic in (topics or [None])]
    out = Path(options.out)
    if len(pairs) == 1:
        return [_Camera("", *pairs[0], out)]
    return [_Camera(name, *pair, out / name) for name, pair in zip(names, pairs, strict=True)]


def _open(camera: _Camera, options: Namespace) -> FrameSource:
    source = open_frames(camera.input, topic=camera.topic, fps=options.fps, bits=options.bits)
    try:
        source.select(options.start, options.end, options.stride)
    except ConfigError:
        source.close()
        raise
    return source


def _choose_kinds(source: FrameSource, options: Namespace) -> list[str]:
    """What to write: what was asked for, or what fits the source."""
    if options.save is None:
        shown = "overlay_images" if source.kind == "folder" and source.expected_frames == 1 else "overlay"
        return ["labels", "masks", shown, *(["bag"] if source.kind == "bag" else [])]
    return [kind.strip() for kind in options.save.split(",")] if isinstance(options.save, str) else list(options.save)


def _segment(
    camera: _Camera,
    source: FrameSource,
    segmenter: VideoSegmenter,
    model: Model,
    folder: ResultFolder,
    options: Namespace,
) -> None:
    """One stream, from its source into its folder."""
    summary, kept, stopped = StreamSummary(), 0, True
    kinds = _choose_kinds(source, options)
    doing = f"segmenting {camera.name}".rstrip()
    try:
        earlier = KeptResults(camera.out, kinds, segmenter.labels) if options.resume else None
        sink = open_sinks(camera.out, segmenter.labels, kinds=kinds, fps=source.fps, opacity=options.opacity)
        with sink, progress(doing, options.max_frames) as advance:
            advance.expect(source.expected_frames)

            def on_frame(frame: Frame, result: FrameResult) -> None:
                folder.keep = True
                if kept + summary.frames - 1 == options.picture:
                    write_image(camera.out / "picture.png", draw_picture(frame, result, segmenter.labels))
                advance()

            def is_done(earlier: KeptResults, frame: Frame) -> bool:
                nonlocal kept
                result = earlier.of(frame, segmenter.plan_for(Size(*frame.image.shape[:2]), frame.pixel_aspect))
                if result is None:
                    return False
                kept += 1
                sink.anew().write(frame, result)
                on_frame(frame, result)
                return True

            frames: Iterator[Frame] = islice(source, options.max_frames)
            if earlier is not None:
                frames = skip_done(frames, partial(is_done, earlier), segmenter)
            segment_stream(source, segmenter, sink, summary, on_frame, frames=frames)
        if earlier is not None:
            earlier.finish()
        stopped = False
        if options.picture is not None and kept + summary.frames <= options.picture:
            console.print(f"no picture.png: frame {options.picture} was wanted, the last one is {kept + summary.frames - 1}")
    finally:
        _write_summary(camera, source, summary, segmenter, model, options, stopped, kept)
        _print_summary(camera.out, source, summary)


def _describe_run(options: Namespace) -> dict[str, Any]:
    """What decides the labels: a run that goes on must have the same."""
    left_out = ("config", "out", "overwrite", "resume", "save", "picture", "max_frames", "weights")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    return {**given, "input": [hide_password(text) for text in options.input], "weights": hash_file(Path(options.weights))}


def _write_summary(
    camera: _Camera,
    source: FrameSource,
    summary: StreamSummary,
    segmenter: VideoSegmenter,
    model: Model,
    options: Namespace,
    stopped: bool,
    kept: int,
) -> None:
    runtime, path = segmenter.runtime, camera.out / "summary.json"
    data = {
        "version": __version__,
        "input": hide_password(camera.input),
        **({"topic": source.topic} if source.topic is not None else {}),
        "complete": not stopped and not summary.skipped,
        **({"resumed": True, "kept": kept} if options.resume else {}),
        "frames": summary.frames,
        "skipped": summary.skipped,
        **({"dropped": source.dropped} if source.kind == "live" else {}),
        "resets": dict(summary.resets),
        "blind": dict(summary.blind),
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
            raise OutputError(f"cannot write {path}: {error}") from error


def _print_summary(out: Path, source: FrameSource, summary: StreamSummary) -> None:
    if not summary.frames:
        return
    total = summary.percentiles()["total"]
    resets = ", ".join(f"{count} {cause}" for cause, count in summary.resets.items()) or "none"
    skipped = f", {summary.skipped} damaged skipped" if summary.skipped else ""
    skipped += f", {source.dropped} dropped that came too fast" if source.dropped else ""
    blind = "".join(f", {count} {why}" for why, count in summary.blind.items())
    console.print(
        f"{summary.frames} frames{skipped}{blind}; {total['p50']:.0f} ms a frame (p95 {total['p95']:.0f}); "
        f"resets: {resets}; in {out}",
        highlight=False,
        soft_wrap=True,
    )
