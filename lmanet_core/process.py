"""What every executable of ours does to its process: before PyTorch is imported, and where it is asked to stop.

A library has no business calling this, but for `uninterrupted` and `leave_if_asked`: these do nothing where no `stopping` is
around them. Signals come to the main thread, and all of this is its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; older glibc refuses more
_KEEP = 512 * 2**20  # bytes; a frame's own needs come and go far below this

#: OpenMP's own settings of how its threads wait; one that is set is the user's, and all are left alone.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
#: Turns that a waiting thread of GNU OpenMP spins before it sleeps, and milliseconds of LLVM's (benchmarks/shared_cpu.py).
_SPINS, _BLOCKTIME_MS = "1000", "0"


def prepare_process() -> None:
    """Keep freed memory, and let the threads of OpenMP sleep where others want the processor."""
    keep_freed_memory()
    let_threads_sleep()


@dataclass
class _Asked:
    """Whether this process was asked to stop.

    Attributes:
        signal: by which signal; 0: it was not.
        held: `uninterrupted` bodies that run.
        waits: the signal came in such a body, whose end raises.
    """

    signal: int = 0
    held: int = 0
    waits: bool = False


_asked = _Asked()


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """While the body runs, Ctrl-C raises KeyboardInterrupt, and SIGTERM SystemExit with 143: files are closed on the way out.

    What is raised where Python passes over exceptions, as in `__del__` and in what C code calls back, is lost. It is not told
    on standard error then, and `leave_if_asked` raises it again.
    """
    global _asked
    before, hook = _asked, sys.unraisablehook
    _asked = _Asked()

    def ask(number: int, frame: FrameType | None) -> None:
        first, _asked.signal = not _asked.signal, number
        if first and _asked.held:
            _asked.waits = True
        else:
            _leave()

    def pass_over(unraisable: sys.UnraisableHookArgs) -> None:
        if not (_asked.signal and issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit))):
            hook(unraisable)

    sys.unraisablehook = pass_over
    try:
        with handle_signals(ask, signal.SIGINT, signal.SIGTERM):
            yield
    finally:
        _asked, sys.unraisablehook = before, hook


def leave_if_asked() -> None:
    """Raise what a signal raised and what was lost on the way; for loops, once a turn."""
    if _asked.signal:
        _leave()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the body come to its end before a signal stops it, so that files agree; a second signal does not wait."""
    asked = _asked
    asked.held += 1
    try:
        yield
    finally:
        asked.held -= 1
    if asked.waits and not asked.held:
        asked.waits = False
        _leave()


def _leave() -> NoReturn:
    if _asked.signal == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + _asked.signal)


@contextlib.contextmanager
def leave_quietly() -> Iterator[None]:
    """While the body imports, Ctrl-C and SIGTERM end the process at once, with exit code 130 or 143.

    An import in C code that is interrupted turns the exception into others, and there is nothing to clean up yet.
    """
    with handle_signals(_end, signal.SIGINT, signal.SIGTERM):
        yield


def always_leave_quietly() -> None:
    """The same for as long as the process lives: wherever nothing else is said, and while the interpreter takes its leave."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(Exception):  # somebody may just be writing there
        sys.stdout.flush()
    if number == signal.SIGINT:
        with contextlib.suppress(Exception):
            print("stopped", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None], *signals: int) -> Iterator[None]:
    """Handle signals while the body runs, and as before afterwards.

    Outside of the main thread somebody else does. What whoever started this process had ignored stays so, as with a job that a
    script puts into the background.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def keep_freed_memory() -> bool:
    """Have the C library reuse freed blocks instead of asking the system for new ones.

    By default glibc gives blocks of camera-image and feature-map size back to the system when they are freed, and every new one
    is cleared by the kernel page by page, for each message and each layer of each frame: a tenth of the time of a frame on a
    CPU. Resident memory stays at its peak instead, as far as that is below 512 MiB above what is in use. Blocks above 32 MiB
    are not kept.

    Returns:
        Whether the C library took it; only glibc knows how.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEEP))


def let_threads_sleep() -> bool:
    """Have OpenMP's threads spin only briefly while they wait for each other.

    By default they spin for as long as a layer takes. Where another process wants the same cores, the one thread that still has
    work is then kept from it by those that have none, and a frame takes up to twenty times as long. The results are the same
    bits. Nothing is changed where the user has set how threads wait, or where PyTorch is loaded already and would not look.

    Returns:
        Whether it was set.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _WAITING):
        return False
    os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"] = _SPINS, _BLOCKTIME_MS
    return True


def describe_waiting() -> str:
    """How OpenMP's threads wait in this process, in words."""
    found = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
    return f"threads wait by {', '.join(found)}" if found else "threads spin while they wait (OpenMP's default)"
