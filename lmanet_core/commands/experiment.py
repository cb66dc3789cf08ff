"""`lmanet experiment`: options, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lmanet_core.experiments.paper import EXPERIMENTS, ExperimentConfig, run_experiment
from lmanet_core.training.config import TrainConfig

#: Settings of the training configuration that the command line may replace.
_OVERRIDES = ("weights", "root", "val_root", "cache", "max_steps", "seed")


def make_parser() -> ArgumentParser:
    """The options of `lmanet experiment`."""
    parser = ArgumentParser(
        description="The paper's experiments on any data set: train the variants, evaluate them, write a table and a plot.",
        exit_on_error=False,
    )
    parser.add_argument("name", type=Literal[EXPERIMENTS], help="which experiment")
    parser.add_argument("--data", type=str, required=True, help="YAML of a training run: data set and training of the variants")
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
    return parser


def run(options: Namespace) -> int:
    """Run the experiment and print its table; returns the exit code."""
    overrides = {name: options[name] for name in _OVERRIDES if options[name] is not None}
    stages = tuple(options.stages.split(","))
    config = ExperimentConfig(
        name=options.name,
        train=TrainConfig.from_yaml(options.data, stage=stages[0], progress=False, **overrides),
        out=Path(options.out),
        stages=stages,
        conditions=tuple(options.conditions.split(",")),
        max_clips=options.max_clips,
        device=options.device,
        precision=options.precision,
    )
    console = Console(stderr=True)
    Console(width=140).print(run_experiment(config, console.print).table())
    return 0
