"""Errors a user can act on: each message says what was wanted, what came and what to do.

Everything this package raises on purpose for bad input derives from `LmanetError`; the command line turns those into one
line and an exit code, the ROS node into one log entry. Anything else that escapes is a bug of ours.
"""

import contextlib
import errno
import shutil
from pathlib import Path


class LmanetError(Exception):
    """Base of all errors that a user's input, files or settings can cause."""

    exit_code = 2


class InputError(LmanetError):
    """A video, folder, bag or image that cannot be read, or holds no images."""

    exit_code = 3


class WeightsError(LmanetError):
    """A weights file that is missing, damaged, unsafe or made for another architecture."""

    exit_code = 4


class OutputError(LmanetError):
    """A result that cannot be written: no permission, no space, wrong place."""

    exit_code = 5


class ConfigError(LmanetError):
    """A setting that is unknown, out of range or contradicts another."""

    exit_code = 2


class DeviceMemoryError(LmanetError):
    """The device has too little memory even for a single frame."""

    exit_code = 6


def system_says(error: BaseException, place: Path, needed_bytes: int | None = None) -> str:
    """What went wrong with a file, in words, without the name in the system's error, which may be that of a temporary file.

    Args:
        error: of the system, or anything else.
        place: where it was to be written; where space ran out, what is free there is said.
        needed_bytes: size of the file, where it is known.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error.strerror
    needed = "" if needed_bytes is None else f"{needed_bytes / 1e6:.1f} MB are needed, "
    with contextlib.suppress(OSError):
        return f"{error.strerror}; {needed}{shutil.disk_usage(place.parent).free / 1e6:.1f} MB are free"
    return error.strerror
