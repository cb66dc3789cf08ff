"""A published file onto this machine: resumed where it broke off, checked before it gets its name, never over another."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from lmanet_core import __version__
from lmanet_core.errors import OutputError, WeightsError
from lmanet_core.weights.catalogue import KnownWeights

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_MOST_BYTES = 4 << 30  # what a server may send where no size is known
Progress = Callable[[int, int | None], None]


def fetch(known: KnownWeights, target: Path, progress: Progress = lambda done, total: None) -> bool:
    """Bring published weights here.

    Args:
        known: which; not one of the hub's.
        target: the file to write. While it is incomplete it is called `NAME.part`, and the same call goes on with that.
        progress: told how many bytes are there, and of how many.

    Returns:
        False where the file was there already, and is the right one.

    Raises:
        OutputError: another file is there, or it cannot be written.
        WeightsError: no network, not what was published, or only a part came.
    """
    if target.exists():
        if _git_blob(target) == known.git_blob:
            return False
        raise OutputError(f"{target} is there and is not {known.name}; it stays: choose another --out, or move it away")
    part = target.with_name(f"{target.name}.part")
    try:
        total = _receive(known, part, progress)
        done = part.stat().st_size
        if total is not None and done < total:
            raise WeightsError(f"{known.name}: got {done} of {total} bytes; the same command goes on from there")
        if (got := _git_blob(part)) != known.git_blob:
            part.unlink()
            raise WeightsError(
                f"{known.name}: what came from {known.address} is not what was published (git blob {got}, wanted "
                f"{known.git_blob}); it was thrown away: try again, and if that does not help, the file has changed"
            )
        os.link(part, target)  # fails where another has been written meanwhile
        part.unlink()
    except FileExistsError as error:
        raise OutputError(f"{target} has been written by somebody else meanwhile; the download is {part}") from error
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    return True


def _receive(known: KnownWeights, part: Path, progress: Progress) -> int | None:
    """Append to the part what is missing of it; returns the size of the whole, where the server says it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(known.address, headers={"User-Agent": f"lmanet_ros/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            if answer.status != 206:
                have = 0  # it sends everything again
            length = answer.headers.get("Content-Length")
            total = known.size if length is None else have + int(length)
            if known.size is not None and total != known.size:
                raise WeightsError(f"{known.name}: wanted {known.size} bytes, the server has {total}; the file has changed")
            with part.open("ab" if have else "wb") as file:
                _copy(answer, file, have, total, progress)
            return total
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return have
        raise WeightsError(f"{known.name}: {known.address} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise WeightsError(f"{known.name}: cannot reach {known.address} ({error.reason}); is there a network?") from error
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"{known.name}: the connection broke ({type(error).__name__}); the same command goes on from there"
        ) from error


def _copy(answer: Any, file: IO[bytes], have: int, total: int | None, progress: Progress) -> None:
    limit = _MOST_BYTES if total is None else total
    while chunk := answer.read(_CHUNK):
        have += len(chunk)
        if have > limit:
            raise WeightsError(f"more than {limit} bytes came; the file has changed")
        file.write(chunk)
        progress(have, total)


def _git_blob(path: Path) -> str:
    """SHA-1 of a file as git names it."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
