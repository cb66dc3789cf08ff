"""Writing files so that none is ever half of itself, and saying in a sentence why one cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmanet_core.errors import OutputError


@contextmanager
def output_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names `path` and says what to do.

    Args:
        path: what is written.
        needed: bytes that it takes, where they are known.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = f"no space is left for it{_room(path, needed)}; free some or choose another output"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "writing there is not permitted; choose another output or change the permissions"
        elif error.errno == errno.ENOENT:
            why = "there is no such folder; make it, or choose another output"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            why = "a folder is needed and there is a file of that name; choose another output"
        else:
            why = f"{error.strerror or error}"
        raise OutputError(f"{path}: cannot be written: {why}") from error


def _room(path: Path, needed: int | None) -> str:
    """How much is wanted and how much there is, as far as it is known, in words for a sentence."""
    words = [] if needed is None else [f"it takes {_size(needed)}"]
    folder = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    with suppress(OSError):  # a disk that is full may also be gone
        words += [] if folder is None else [f"{_size(shutil.disk_usage(folder).free)} are free there"]
    return f" ({', '.join(words)})" if words else ""


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_ / 10:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


@contextmanager
def replace_file(path: Path, durable: bool = False, needed: int | None = None) -> Iterator[Path]:
    """Give the name of a file beside `path`, which takes its place when the body ends; else the old file is as it was.

    Whoever watches the folder never sees half a file.

    Args:
        path: of the file.
        durable: wait until the disk has it, so that it outlives a power failure.
        needed: as of `output_errors`.

    Raises:
        OutputError: an OSError of the body, or the file cannot take its place.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with output_errors(path, needed):
        try:
            yield beside
            if durable:
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)  # after a success it is not there any more
