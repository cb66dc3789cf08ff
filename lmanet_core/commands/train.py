"""`lmanet train`: options, their YAML file, and what is printed. Lightning is imported when training starts, not before."""

from __future__ import annotations

import math
import sys
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from lmanet_core.commands.options import wants_lightning
from lmanet_core.data.class_counts import count_classes
from lmanet_core.settings import RENAMED, rename_old, settings_of
from lmanet_core.training.build import list_problems, make_sources
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.processes import is_first_process


def main() -> int:
    """`ros2 run lmanet_ros train …`: the same as `lmanet train …`."""
    from lmanet_core.commands.main import main as lmanet

    return lmanet(["train", *sys.argv[1:]])


def make_parser() -> ArgumentParser:
    """Every setting of `TrainConfig` as an option."""
    parser = ArgumentParser(
        description="Train a network: backbone (single frames), then memory, then joint (memory and decoder).",
        exit_on_error=False,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file with any of these options, such as config/train/street.yaml"
    )
    for one in settings_of(TrainConfig):
        bare_means_true: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(one.default, bool) else {}
        parser.add_argument(f"--{one.option}", type=one.kind, default=one.default, help=one.setting.help, **bare_means_true)
        for old in (old for old, new in RENAMED.items() if new == one.name):
            parser.add_argument(f"--{old.replace('_', '-')}", type=one.kind | None, default=None, help=SUPPRESS)
    return parser


def run(options: Namespace) -> int:
    """Train, or check the data; returns the exit code.

    Raises:
        ConfigError: Lightning is not installed.
    """
    config = read_config(options)
    if config.check:
        return _check(config)
    with wants_lightning("training"):
        from lmanet_core.training.run import train
    result = train(config)
    if not is_first_process():
        return 0
    figures = [f"{result.steps} steps, loss {result.loss:.4f}"]
    if not math.isnan(result.val_miou):
        figures.append(f"best validation mIoU {100 * result.val_miou:.2f} %")
    if not math.isnan(result.network_share):
        figures.append(f"{100 * result.network_share:.0f} % of the time in the network, the rest waiting for data")
    print(f"{result.best or result.last}: {'; '.join(figures)}")
    return 0


def read_config(options: Namespace) -> TrainConfig:
    """The settings of a run; a file from the release before may have some under their old names.

    Raises:
        ConfigError: a setting out of range, or there under both names.
    """
    current = {one.name: options[one.name] for one in settings_of(TrainConfig)}
    for old, new in RENAMED.items():
        if options[old] is None:
            continue
        print(f"{old} is called {new} now; the old name goes with the next release", file=sys.stderr)
        if current[new] == getattr(TrainConfig, new):  # nothing else was said
            del current[new]
        current[old] = options[old]
    return TrainConfig(**rename_old(current))


def _check(config: TrainConfig) -> int:
    problems = list_problems(config)
    for problem in problems:
        print(problem)
    for name, source in zip(("training", "validation"), make_sources(config), strict=True):
        counts = None if source is None else count_classes(source)
        if counts is not None and counts.maps:
            print(f"{name}, {counts.describe()}")
            for warning in counts.warnings():
                print(f"{name}: {warning}")
    print(f"{len(problems)} problems" if problems else "the data is complete")
    return 1 if problems else 0
