"""What an adaptation tells of its progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self) -> None:
        """One is done."""

    def expect(self, count: int | None) -> None:
        """So many more are to come, as far as known."""


Progress = Callable[[str], AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(doing: str) -> Iterator[Advance]:
    """A `Progress` that tells nothing."""

    class Nothing:
        def __call__(self) -> None:
            pass

        def expect(self, count: int | None) -> None:
            pass

    yield Nothing()
