"""`lmanet bench`: the memory read and a streamed frame, timed on this machine."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from lmanet_core.experiments.benchmark import run_bench


def make_parser() -> ArgumentParser:
    """Options of `lmanet bench`."""
    parser = ArgumentParser(
        description="Measure the memory read and a streamed frame, against other ways to do the same.", exit_on_error=False
    )
    parser.add_argument("--quick", action="store_true", help="one window, few repetitions")
    parser.add_argument("--json", type=str | None, default=None, help="also record it here, with machine, versions and commit")
    return parser


def run(options: Namespace) -> int:
    """Measure and print; returns the exit code."""
    given = ["bench", *(["--quick"] if options.quick else []), *(["--json", options.json] if options.json else [])]
    return run_bench(options.quick, None if options.json is None else Path(options.json), given)
