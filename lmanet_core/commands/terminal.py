"""What the commands say on standard error: lines and progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lmanet_core.process import leave_if_asked

console = Console(stderr=True, markup=False)  # paths may hold brackets


class Advance:
    """Moves a progress bar on: call it once per frame."""

    def __init__(self, bar: Progress, limit: int | None) -> None:
        self._bar, self._limit = bar, limit
        self._task = bar.add_task("", total=None, rate="")
        self._total: int | None = 0

    def __call__(self) -> None:
        """One frame is done; raises what a signal raised and what was lost on the way."""
        leave_if_asked()
        self._bar.advance(self._task)
        task = self._bar.tasks[0]
        speed = task.finished_speed or task.speed
        self._bar.update(self._task, rate=f"{speed:.1f} frames/s" if speed else "")

    def expect(self, frames: int | None) -> None:
        """So many frames more are to come, as far as known: of one stream, of which the limit may be reached first."""
        known = [count for count in (frames, self._limit) if count is not None]
        self._total = self._total + min(known) if known and self._total is not None else None
        self._bar.tasks[0].total = self._total  # `update` takes None for unchanged


@contextlib.contextmanager
def progress(doing: str, limit: int | None = None) -> Iterator[Advance]:
    """A progress bar on standard error, with the total and the time left once `Advance.expect` has told how much there is.

    Args:
        doing: in words.
        limit: no more than these of each stream.
    """
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield Advance(bar, limit)


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
