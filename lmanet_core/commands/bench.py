"""`lmanet bench`: the memory read and a streamed frame, timed on this machine; a GPU checked; its kernels' tiles measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.commands.terminal import console as progress_console
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.experiments import gpu_check
from lmanet_core.experiments.benchmark import run_benchmark
from lmanet_core.experiments.timed_parts import Outcome
from lmanet_core.experiments.tune_tiles import tune_and_keep

_NAME_WIDTH = 70  # of a kernel; C++ names go on for lines


def make_parser() -> ArgumentParser:
    """Options of `lmanet bench`."""
    parser = ArgumentParser(
        description="Measure the memory read and a streamed frame, against other ways to do the same.", exit_on_error=False
    )
    parser.add_argument("--quick", action="store_true", help="one window, few repetitions")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="instead, in five minutes: whether a CUDA device computes what the CPU does, and how fast; exit code 1 if not",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="instead, in some minutes: measure which tiles of the CUDA kernels are fastest here, and use them from now on",
    )
    parser.add_argument("--json", type=str | None, default=None, help="also record it here, with machine, versions and commit")
    return parser


def run(options: Namespace) -> int:
    """Measure, print, record; returns the exit code.

    Raises:
        ConfigError: several things at a time; no CUDA device where one is needed.
        OutputError: the record cannot be written; tables of `--quick` and of the whole are printed by then.
    """
    modes = [f"--{mode}" for mode in ("quick", "gpu", "tune") if options[mode]]
    if len(modes) > 1:
        raise ConfigError(f"bench takes one of --quick, --gpu and --tune, got {' '.join(modes)}; run it once for each")
    given = ["bench", *modes, *(["--json", options.json] if options.json else [])]
    shown = Console(markup=False, width=None if sys.stdout.isatty() else 180)
    path = None if options.json is None else Path(options.json)
    if options.gpu:
        gpu_check.require_gpu()
        agrees = gpu_check.run_gpu_check(path, given, lambda name, outcome: print_outcome(name, outcome, shown))
        return 0 if agrees else 1
    if options.tune:
        file = tune_and_keep(path, given, lambda line: progress_console.print(line, soft_wrap=True))
        shown.print(f"{file}: used from now on", soft_wrap=True)
        return 0
    record = run_benchmark(options.quick, given)
    print_tables(record, shown)
    if path is not None:
        try:
            path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return 0


def print_tables(record: dict[str, Any], console: Console) -> None:
    """One table after the other, a case in each column."""
    for title, rows in record["tables"].items():
        console.print(f"{title} (times in ms)")
        table = Table()
        table.add_column("")
        for row in rows:
            table.add_column(row["what"], justify="right")
        for figure in rows[0]["cells"] if rows else ():
            table.add_row(figure, *(_cell(row["cells"][figure]) for row in rows))
        console.print(table)


def print_outcome(name: str, outcome: Outcome, console: Console) -> None:
    """How a part of `--gpu` ended, and a table of what it found: cases in columns, or kernels in lines."""
    console.print(f"{name}: {outcome.status} ({outcome.seconds:.0f} s)")
    for row in outcome.rows:
        if not row.get("agrees", True):
            console.print(f"{row['what']}: does not agree")
    if outcome.rows:
        cases = [{"": _short(row["what"]), **row["cells"]} for row in outcome.rows]
        console.print(_lines(cases) if "share" in outcome.rows[0]["cells"] else _columns(cases))
    if outcome.said:
        console.print(outcome.said)


def _lines(cases: Sequence[Mapping[str, Any]]) -> Table:
    """A case in each line."""
    names = list(dict.fromkeys(name for case in cases for name in case))
    table = Table(*names)
    for column in table.columns[1:]:
        column.justify = "right"
    for case in cases:
        table.add_row(*(_exact(case.get(name, "")) for name in names))
    return table


def _columns(cases: Sequence[Mapping[str, Any]]) -> Table:
    """A case in each column; what one of them lacks is empty."""
    first, *names = dict.fromkeys(name for case in cases for name in case)
    table = Table(first, *(str(case[first]) for case in cases))
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        table.add_row(name, *(_exact(case.get(name, "")) for case in cases))
    return table


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _exact(value: float | str) -> str:
    """With digits enough for shares of labels."""
    return value if isinstance(value, str) else f"{value:.5g}"


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
