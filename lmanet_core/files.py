"""Writing files so that none is ever half of itself, and saying in a sentence why one cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmanet_core.errors import OutputError


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = "no space is left for it; free some or choose another output"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "writing there is not permitted; choose another output or change the permissions"
        elif error.errno == errno.ENOENT:
            why = "there is no such folder; make it, or choose another output"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            why = "a folder is needed and there is a file of that name; choose another output"
        else:
            why = f"{error.strerror or error}"
        raise OutputError(f"{path}: cannot be written: {why}") from error


@contextmanager
def replace_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give the name of a file beside `path`, which takes its place when the body ends; else the old file is as it was.

    Whoever watches the folder never sees half a file.

    Args:
        path: of the file.
        durable: wait until the disk has it, so that it outlives a power failure.

    Raises:
        OutputError: an OSError of the body, or the file cannot take its place.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with output_errors(path):
        try:
            yield beside
            if durable:
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)  # after a success it is not there any more
