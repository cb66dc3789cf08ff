"""What the commands say on standard error: lines and progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True, markup=False)  # paths may hold brackets


@contextlib.contextmanager
def progress(doing: str, expected: int | None, limit: int | None) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; call what it gives once per frame.

    Args:
        doing: in words.
        expected: frames, as far as known.
        limit: no more than these.
    """
    total = min(value for value in (expected, limit) if value is not None) if expected or limit else None
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} frames/s" if speed else "")

        yield advance


@contextlib.contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for bytes on standard error; call what it gives with how many there are, and of how many."""
    with Progress(TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plain_table() -> Table:
    """Rows of a name and what there is to say of it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def cell(value: float | None, form: str = ".4f") -> str:
    """A figure in a table; a dash where there is none."""
    return "–" if value is None else format(value, form)
