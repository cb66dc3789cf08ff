"""The `lmanet` command: segment and evaluate recordings, train, record a street, look at weights and machine.

Exit codes: 0 done, 1 a check failed or training diverged, 2 wrong arguments or settings, 3 unreadable input, 4 unusable
weights, 5 results that cannot be written, 6 too little memory on the device, 130 stopped with Ctrl-C, 143 terminated. Results
so far are complete files in every case.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Literal

import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lmanet_core import __version__
from lmanet_core.commands.demo import demo_parser, run_demo
from lmanet_core.commands.evaluate import (
    compare_parser,
    evaluate_parser,
    explain_parser,
    run_compare,
    run_evaluate,
    run_explain,
)
from lmanet_core.commands.experiment import experiment_parser, run_experiment_command
from lmanet_core.commands.options import add_segmenter_options, describe_segmenter, hash_file, make_segmenter
from lmanet_core.commands.process import keep_freed_memory
from lmanet_core.commands.terminal import console, progress
from lmanet_core.commands.train import run_train, train_parser
from lmanet_core.errors import ConfigError, LmanetError, OutputError
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import parse_size
from lmanet_core.media import SINK_KINDS, check_sink_kinds, open_frames, open_sinks
from lmanet_core.media.picture import draw_picture, write_image
from lmanet_core.stream.loop import StreamSummary, segment_stream
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.street import DEGRADATIONS, StreetConfig
from lmanet_core.street.recording import record_street
from lmanet_core.weights.checkpoint import Model, load_model, save_model
from lmanet_core.weights.shipped import default_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    keep_freed_memory()  # a tenth of the time of a frame on a CPU
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        files, others = _split_config(arguments)
        parsers = {"train": train_parser, "evaluate": evaluate_parser}
        _check_config_keys(files, parsers.get(next(iter(others), ""), _segment_parser)())
        # First, for jsonargparse lets the later win, and the command line is to override the file wherever it stands.
        options = build_parser().parse_args([*others[:1], *(f"--config={file}" for file in files), *others[1:]])
        with _sigterm_as_exit():
            return _run(options)
    except LmanetError as error:
        return _fail(str(error), error.exit_code)
    except ArgumentError as error:
        return _fail(f"{_in_short(error)}; see lmanet --help", ConfigError.exit_code)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _fail(message: str, exit_code: int) -> int:
    """One line, whatever the message was."""
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(line.strip() for line in message.splitlines()), highlight=False, soft_wrap=True)
    return exit_code


def _in_short(error: ArgumentError) -> str:
    """What jsonargparse says in many lines about a value of the wrong type: the option, what was wanted, what came."""
    first, *lines = (line.strip(" -") for line in str(error).splitlines())
    wanted = [line for line in lines if line.startswith("Expected a") and "NoneType" not in line]
    given = [line for line in lines if line.startswith("Given value:")]
    return f"{first} {'; '.join(wanted + given)}".strip(" .")


def build_parser() -> ArgumentParser:
    """The whole command line, also for completion and documentation; raises ArgumentError where arguments are wrong."""
    parser = ArgumentParser(
        prog="lmanet",
        description="Video semantic segmentation with a local attention memory.",
        version=f"lmanet_ros {__version__}",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    commands.add_subcommand("segment", _segment_parser(), help="segment a video, a folder of images or a bag")
    commands.add_subcommand("train", train_parser(), help="train the backbone, the memory, or the memory and the decoder")
    commands.add_subcommand("evaluate", evaluate_parser(), help="accuracy, steadiness, latency and a verdict from recordings")
    commands.add_subcommand("compare", compare_parser(), help="what differs between two evaluations")
    commands.add_subcommand("explain", explain_parser(), help="where in the past images the memory is read")
    commands.add_subcommand("experiment", experiment_parser(), help="the paper's experiments on any data set")
    commands.add_subcommand("demo", demo_parser(), help="drive a generated street and compare memory off and on")
    commands.add_subcommand("street", _street_parser(), help="record a drive through a generated street, with its labels")
    commands.add_subcommand("doctor", _doctor_parser(), help="say what this machine will run on")
    weights = ArgumentParser(description="Look at weights of any understood kind, or convert them.", exit_on_error=False)
    commands.add_subcommand("weights", weights, help="look at weights, or convert them to our format")
    _add_weights_actions(weights)
    commands.add_subcommand("bench", _bench_parser(), help="measure the memory read and a streamed frame here")
    return parser


def _segment_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Segment a video file, a folder of images, an image, or a ROS 1 or ROS 2 bag.", exit_on_error=False
    )
    parser.add_argument("input", type=str, help="video, image folder, image, or bag (mcap, sqlite3, ROS 1)")
    parser.add_argument(
        "--weights",
        type=str | None,
        default=None,
        help="ours, or published LMANet, ERFNet or PSPNet weights; default: those that ship, which know the generated street",
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
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of a bag with several cameras")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    parser.add_argument("--max-frames", type=int | None, default=None, help="stop after so many frames")
    add_segmenter_options(parser)
    return parser


def _street_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Record a drive through a generated street as a ROS 2 bag: images, camera_info, true labels.",
        exit_on_error=False,
    )
    parser.add_argument("--out", type=str, required=True, help="drive.mcap for one file, any other name for a bag folder")
    parser.add_argument("--frames", type=int, default=200, help="how many frames")
    parser.add_argument("--size", type=str, default="512x256", help="WxH of the images")
    parser.add_argument("--fps", type=float, default=StreetConfig.fps, help="frames a second")
    parser.add_argument("--seed", type=int, default=0, help="one seed is one town with its traffic and weather")
    parser.add_argument("--degradation", type=Literal[DEGRADATIONS], default="none", help="what the camera suffers")
    parser.add_argument("--level", type=int, default=2, help="of the degradation, 0 clean to 3 heavy")
    return parser


def _add_weights_actions(parser: ArgumentParser) -> None:
    commands = parser.add_subcommands(required=True, dest="action")
    info = ArgumentParser(description="Print what a weights file holds.", exit_on_error=False)
    info.add_argument("file", type=str, help="weights of any understood kind")
    convert = ArgumentParser(description="Write weights as safetensors with metadata.", exit_on_error=False)
    convert.add_argument("file", type=str, help="weights of any understood kind")
    convert.add_argument("--out", type=str, required=True, help="file to write, .safetensors")
    convert.add_argument("--half", action="store_true", help="float16, half the size")
    commands.add_subcommand("info", info, help="print what a file holds")
    commands.add_subcommand("convert", convert, help="write our format")


def _doctor_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Interpreter, libraries, device, precision, ROS; exit code 1 where something is wrong.", exit_on_error=False
    )
    parser.add_argument("--weights", type=str | None, default=None, help="also try to load these")
    return parser


def _bench_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Measure the memory read and a streamed frame, against other ways to do the same.", exit_on_error=False
    )
    parser.add_argument("--quick", action="store_true", help="one window, few repetitions")
    parser.add_argument("--json", type=str | None, default=None, help="also record it here, with machine, versions and commit")
    return parser


def _split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files given as `--config FILE` or `--config=FILE`, and all other arguments."""
    files: list[str] = []
    others: list[str] = []
    for argument in arguments:
        if others[-1:] == ["--config"]:
            others.pop()
            files.append(argument)
        elif argument.startswith("--config="):
            files.append(argument.partition("=")[2])
        else:
            others.append(argument)
    return files, others


def _check_config_keys(files: Sequence[str], parser: ArgumentParser) -> None:
    """Name file, key and the nearest known key before the parser says less."""
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read config {file}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"config {file}: wanted 'option: value' lines, got {type(content).__name__}")
        for key in content:
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
                raise ConfigError(f"config {file}: unknown option {key!r}{hint}")


def _run(options: Namespace) -> int:
    commands: dict[str, Callable[[Namespace], int]] = {
        "segment": _segment,
        "evaluate": run_evaluate,
        "compare": run_compare,
        "explain": run_explain,
        "train": run_train,
        "experiment": run_experiment_command,
        "demo": run_demo,
        "street": _street,
        "weights": _weights,
        "doctor": _doctor,
        "bench": _bench,
    }
    return commands[options.command](options[options.command])


def _segment(options: Namespace) -> int:
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
        options.weights = options.weights or str(default_weights())
        model = load_model(options.weights)
        segmenter = make_segmenter(model, options)
        console.print(describe_segmenter(segmenter, model), highlight=False)
        _prepare_out(out, Path(options.input), options.overwrite)
        summary = StreamSummary()
        stopped = True
        try:
            with (
                open_sinks(out, segmenter.labels, kinds=kinds, fps=source.fps or 10.0) as sink,
                progress("segmenting", source.expected_frames, options.max_frames) as advance,
            ):

                def on_frame(frame: Frame, result: FrameResult) -> None:
                    if summary.frames - 1 == options.picture:
                        write_image(out / "picture.png", draw_picture(frame, result, segmenter.labels))
                    advance()

                segment_stream(source, segmenter, sink, summary, on_frame, options.max_frames)
            stopped = False
            if options.picture is not None and summary.frames <= options.picture:
                console.print(f"no picture.png: frame {options.picture} was wanted, the last one is {summary.frames - 1}")
        finally:
            _write_summary(out / "summary.json", summary, segmenter, model, options, stopped)
            _print_summary(out, summary)
    return 0


def _prepare_out(out: Path, source: Path, overwrite: bool) -> None:
    names = ("labels", "masks", "result", "overlay.mp4", "color.mp4", "summary.json", "picture.png")
    try:
        present = [out / name for name in names if (out / name).exists()]
        if present and not overwrite:
            raise OutputError(f"{out} already holds results ({present[0].name}, …); choose another --out, or pass --overwrite")
        for path in present:
            if path.resolve() in (source.resolve(), *source.resolve().parents):
                raise OutputError(f"--overwrite would delete the input {source}; choose another --out")
        for path in present:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot replace results in {out}: {error.strerror or error}") from error


def _write_summary(
    path: Path, summary: StreamSummary, segmenter: VideoSegmenter, model: Model, options: Namespace, stopped: bool
) -> None:
    runtime = segmenter.runtime
    data = {
        "version": __version__,
        "input": options.input,
        "complete": not stopped,
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
            raise OutputError(f"cannot write {path}: {error}") from error


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


def _street(options: Namespace) -> int:
    if options.frames < 1:
        raise ConfigError(f"--frames must be 1 or more, got {options.frames}")
    size = parse_size(options.size)
    config = StreetConfig(
        width=size.width,
        height=size.height,
        fps=options.fps,
        seed=options.seed,
        degradation=options.degradation,
        level=options.level,
    )
    with progress("recording", options.frames, None) as advance:
        record_street(Path(options.out), config, options.frames, advance)
    print(f"{options.out}: {options.frames} frames of {size}, seed {config.seed}")
    return 0


def _weights(options: Namespace) -> int:
    action = options[options.action]
    model = load_model(action.file)
    if options.action == "convert":
        provenance = {
            **model.config.provenance,
            "converted_from": Path(action.file).name,
            "sha256": hash_file(Path(action.file)),
        }
        save_model(action.out, model.network, replace(model.config, provenance=provenance), action.half)
        print(f"{action.out}: {model.source}, {model.parameters:,} parameters")
        return 0
    config = model.config
    table = _table()
    table.add_row("file", action.file)
    table.add_row("kind", model.source)
    table.add_row("architecture", config.architecture)
    table.add_row("parameters", f"{model.parameters:,}")
    table.add_row("trained at", str(config.input_size))
    memory = config.memory
    if memory is None:
        table.add_row("memory", "none: frames are segmented one by one")
    else:
        table.add_row("memory", f"{memory.memory_frames} frames, window {memory.window or 'global'}, {memory.fusion} fusion")
        table.add_row("key, value", f"{memory.key_channels}, {memory.value_channels or 'the features'} channels")
        if memory.nearness:
            table.add_row("nearness", f"{memory.nearness:g}{', follows motion' if memory.follow_motion else ''}")
    table.add_row("classes", f"{len(config.labels.names)}: {', '.join(config.labels.names)}")
    for group, members in config.labels.groups.items():
        table.add_row(f"group {group}", ", ".join(members))
    for key, value in config.provenance.items():
        table.add_row(key, value)
    for reason in sorted(set(model.dropped.values())):
        keys = [key for key, why in model.dropped.items() if why == reason]
        table.add_row("not used", f"{len(keys)} keys ({keys[0]}, …): {reason}")
    Console(soft_wrap=True, markup=False).print(table)
    return 0


def _doctor(options: Namespace) -> int:
    from lmanet_core.commands.doctor import examine

    rows, problems = examine(None if options.weights is None else Path(options.weights))
    table = _table()
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True, markup=False).print(table)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("ready" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return 1 if problems else 0


def _bench(options: Namespace) -> int:
    from lmanet_core.experiments.benchmark import run_bench

    given = ["bench", *(["--quick"] if options.quick else []), *(["--json", options.json] if options.json else [])]
    return run_bench(options.quick, None if options.json is None else Path(options.json), given)


def _table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM leaves through `with` and `finally`, so that files are closed as after Ctrl-C."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread: somebody else handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
