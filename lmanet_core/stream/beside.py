"""Work on an image that the network needs only once it has encoded it, such as where things have moved to: done beside it.

The processor's vector units are the network's, but the network does not keep every core busy all the time, and such work is
OpenCV's on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Beside:
    """One thread beside the caller's, started when there is work. Ends with this object; a forked process gets its own."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin; `result()` waits for what comes of it, and raises what it raised."""
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(1, "beside"), os.getpid()
        return self._pool.submit(work)


def done_at_once(result: T) -> Future[T]:
    """For what was no work."""
    future: Future[T] = Future()
    future.set_result(result)
    return future
