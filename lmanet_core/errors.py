"""Errors a user can act on: each message says what was wanted, what came and what to do.

Everything this package raises on purpose for bad input derives from `LmanetError`; the command line turns those into one
line and an exit code, the ROS node into one log entry. Anything else that escapes is a bug of ours.
"""

from collections.abc import Iterable
from difflib import get_close_matches


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


def nearest_name(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The known name that was probably meant; empty where none is alike (a share of it, 0 to 1)."""
    return next(iter(get_close_matches(name, list(known), 1, alike)), "")


def suggest_name(name: str, known: Iterable[str], all_of_them: str = "") -> str:
    """The end of a message about an unknown name: "; did you mean …?".

    Args:
        name: what came.
        known: what could have come.
        all_of_them: where nothing is alike, these words and every known name are said; empty: nothing is.
    """
    known = list(known)
    if near := nearest_name(name, known):
        return f"; did you mean {near}?"
    return f"; {all_of_them} {', '.join(known)}" if all_of_them else ""
