"""`lmanet experiment`: options, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lmanet_core.commands.options import choose_weights
from lmanet_core.commands.terminal import console, progress
from lmanet_core.errors import ConfigError
from lmanet_core.experiments.memory_gain import CONDITIONS, CONTENDERS, GainConfig, measure_gain
from lmanet_core.experiments.paper import EXPERIMENTS, ExperimentConfig, run_experiment, write_result
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.training.config import TrainConfig

_GAIN = "memory-gain"
_NAMES = (*EXPERIMENTS, _GAIN)
#: Settings of the training configuration that the command line may replace.
_OVERRIDES = ("weights", "root", "val_root", "cache", "max_steps", "seed")


def make_parser() -> ArgumentParser:
    """The options of `lmanet experiment`."""
    parser = ArgumentParser(
        description="The paper's experiments on any data set: train the variants, evaluate them, write a table and a plot.",
        exit_on_error=False,
    )
    parser.add_argument("name", type=Literal[_NAMES], help="which experiment")
    parser.add_argument(
        "--data", type=str | None, default=None, help="YAML of a training run: data set, training of the variants"
    )
    parser.add_argument("--out", type=str, required=True, help="folder for tables and trained variants; goes on where it was")
    parser.add_argument(
        "--weights", type=str | None, default=None, help="start from these, variants without their memory; else as in the YAML"
    )
    parser.add_argument("--stages", type=str, default="memory,joint", help="trained for each variant, of memory, joint, all")
    parser.add_argument("--conditions", type=str, default="none", help="evaluated on, such as none,mixed")
    parser.add_argument("--max-clips", type=int | None, default=None, help="evaluate on so many clips")
    parser.add_argument("--max-steps", type=int | None, default=None, help="train each stage for so many steps")
    parser.add_argument("--root", type=str | None, default=None, help="folder of the data set")
    parser.add_argument("--val-root", type=str | None, default=None, help="stills: folder to validate on")
    parser.add_argument("--cache", type=str | None, default=None, help="street: keep rendered frames in this folder")
    parser.add_argument("--seed", type=int | None, default=None, help="of the training")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", type=Literal["auto", "fp32", "bf16", "fp16"], default="auto", help="of the evaluation")
    gain = parser.add_argument_group(_GAIN, "What each kind of memory gains on a labelled recording, by conditions.")
    gain.add_argument("--recording", type=str | None, default=None, help="Video, folder of images or bag.")
    gain.add_argument("--labels", type=str | None, default=None, help="Its labels: a folder of PNGs, a topic, or BAG:TOPIC.")
    gain.add_argument("--mapping", type=str | None, default=None, help="From label images to classes, a name or a YAML file.")
    gain.add_argument("--control", type=str | None, default=None, help="Weights that were trained as long without a memory.")
    gain.add_argument("--contenders", type=str | None, default=None, help=f"Some of: {', '.join(CONTENDERS)}.")
    gain.add_argument("--network-size", type=str, default="auto", help="WxH the network sees.")
    gain.add_argument("--fps", type=float | None, default=None, help="Frames a second of a folder of images.")
    gain.add_argument("--seeds", type=int, default=1, help="Repetitions of random conditions.")
    gain.add_argument("--max-frames", type=int | None, default=None, help="Use so many frames of the recording.")
    return parser


def run(options: Namespace) -> int:
    """Run the experiment and print its table; returns the exit code."""
    if options.name == _GAIN:
        return _run_gain(options)
    if options.data is None:
        raise ConfigError(f"experiment {options.name} wants --data, the YAML of a training run")
    overrides = {name: options[name] for name in _OVERRIDES if options[name] is not None}
    stages = tuple(options.stages.split(","))
    config = ExperimentConfig(
        name=options.name,
        train=TrainConfig.from_yaml(options.data, stage=stages[0], **overrides),
        out=Path(options.out),
        stages=stages,
        conditions=tuple(options.conditions.split(",")),
        max_clips=options.max_clips,
        device=options.device,
        precision=options.precision,
    )
    Console(width=140).print(run_experiment(config, console.print).table())
    return 0


def _run_gain(options: Namespace) -> int:
    if options.recording is None or options.labels is None:
        raise ConfigError(f"experiment {_GAIN} wants --recording and --labels")
    out = Path(options.out)
    config = GainConfig(
        recording=options.recording,
        labels=options.labels,
        weights=choose_weights(options.weights),
        out=out,
        control=options.control,
        mapping=options.mapping,
        network_size=options.network_size,
        fps=options.fps,
        conditions=tuple(CONDITIONS) if options.conditions == "none" else tuple(options.conditions.split(",")),
        contenders=None if options.contenders is None else tuple(options.contenders.split(",")),
        seeds=options.seeds,
        max_frames=options.max_frames,
        device=options.device,
        precision=options.precision,
    )
    with ResultFolder(out, resume=True), progress("comparing") as advance:
        result = measure_gain(config, console.print, advance.expect, advance)
        write_result(out, _GAIN, result)
    Console(width=140).print(result.table())
    return 0
