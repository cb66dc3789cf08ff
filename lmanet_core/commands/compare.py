"""`lmanet compare`: what changed from one report to another, and whether for the worse."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.commands.terminal import cell
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.compare import compare, list_differences, load_report


def make_parser() -> ArgumentParser:
    """Options of `lmanet compare`."""
    parser = ArgumentParser(
        description="What changed from report A to report B; exit code 1 where something got worse beyond the tolerance.",
        exit_on_error=False,
    )
    parser.add_argument("before", type=str, help="folder of report A")
    parser.add_argument("after", type=str, help="folder of report B")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of shares and counts: how much worse is still the same")
    parser.add_argument("--speed-tolerance", type=float, default=0.1, help="of times and memory, as a share; .inf ignores them")
    parser.add_argument("--all", action="store_true", help="list every figure, also those that did not change")
    return parser


def run(options: Namespace) -> int:
    """Print the comparison; returns the exit code.

    Raises:
        InputError: not a report.
        ConfigError: a tolerance below 0.
    """
    for name in ("tolerance", "speed_tolerance"):
        if not options[name] >= 0.0:
            raise ConfigError(f"--{name.replace('_', '-')} must be 0 or more, got {options[name]}")
    before, after = load_report(Path(options.before)), load_report(Path(options.after))
    changes = compare(before, after, options.tolerance, options.speed_tolerance)
    follows = ("off.", "gain.iou.")  # from the other figures
    shown = [
        change for change in changes if options.all or (change.before != change.after and not change.figure.startswith(follows))
    ]
    if shown:
        table = Table(box=None, pad_edge=False)
        for heading, side in (("", "left"), ("A", "right"), ("B", "right"), ("change", "right"), ("", "left")):
            table.add_column(heading, justify="left" if side == "left" else "right")
        for change in shown:
            cells = (cell(change.before), cell(change.after), cell(change.difference, "+.4f"))
            table.add_row(change.figure, *cells, "worse" if change.worse else "")
        Console(soft_wrap=True, markup=False, highlight=False).print(table)
    for difference in list_differences(before, after):
        print(f"differs: {difference}")
    worse = [change.figure for change in changes if change.worse]
    same = before["hash"] == after["hash"]
    print(
        f"worse: {', '.join(worse)}"
        if worse
        else "the same, hash for hash"
        if same
        else "nothing got worse beyond the tolerance"
    )
    return 1 if worse else 0
