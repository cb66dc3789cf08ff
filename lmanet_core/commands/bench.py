"""`lmanet bench`: the memory read and a streamed frame, timed on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.errors import OutputError
from lmanet_core.experiments.benchmark import run_benchmark


def make_parser() -> ArgumentParser:
    """Options of `lmanet bench`."""
    parser = ArgumentParser(
        description="Measure the memory read and a streamed frame, against other ways to do the same.", exit_on_error=False
    )
    parser.add_argument("--quick", action="store_true", help="one window, few repetitions")
    parser.add_argument("--json", type=str | None, default=None, help="also record it here, with machine, versions and commit")
    return parser


def run(options: Namespace) -> int:
    """Measure, print, record; returns the exit code.

    Raises:
        OutputError: the record cannot be written; the tables are printed.
    """
    given = ["bench", *(["--quick"] if options.quick else []), *(["--json", options.json] if options.json else [])]
    record = run_benchmark(options.quick, given)
    print_tables(record, Console(markup=False, width=None if sys.stdout.isatty() else 180))
    if options.json is not None:
        path = Path(options.json)
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


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
