"""What people write for an input → sources of frames: `~`, globs, `frame_%04d.png`, `-`, folders of folders.

`expand_inputs` makes one input of each stream of frames; `find_sequence` finds the files of one that is a sequence of images.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media.bag_files import is_bag_folder
from lmanet_core.media.folder import IMAGE_SUFFIXES, natural_order
from lmanet_core.media.live import is_stream

STDIN = "-"

_NUMBER = re.compile(r"%0?(\d*)[diu]")
_LIST_BYTES = 4096  # looked at, to tell a list of names from a video
_MAX_LIST = 2**26
#: What a file of this kind begins with → its suffix.
_MAGIC = {
    b"\x89MCAP0\r\n": ".mcap", b"#ROSBAG V": ".bag", b"SQLite format 3\0": ".db3", b"\x89PNG": ".png", b"BM": ".bmp",
    b"II*\0": ".tiff", b"MM\0*": ".tiff", b"P5": ".pgm", b"P6": ".ppm",
}  # fmt: skip


def expand_home(text: str) -> str:
    """Text with the home folder in place of a `~` at its start, which no shell has seen inside of quotes."""
    return str(Path(text).expanduser()) if text.startswith("~") else text


def expand_inputs(inputs: Sequence[str]) -> list[str]:
    """One input for each stream of frames, in the order given.

    Args:
        inputs: files, folders, addresses, camera numbers, `-`, globs and patterns. A glob of images, or a pattern, is one
            stream; other globs stand for what they match, and a folder that holds no images for the folders in it that do.

    Raises:
        InputError: something that is not there, or that nothing matches.
    """
    found: list[str] = []
    for text in map(expand_home, inputs):
        path = Path(text)
        if text == STDIN or is_stream(text):
            found.append(text)
        elif path.is_dir():
            found += _streams_below(path)
        elif path.exists() or _NUMBER.search(path.name):
            found.append(text)
        elif glob.has_magic(text):
            matches = _match(text)
            if all(match.suffix.lower() in IMAGE_SUFFIXES for match in matches):
                found.append(text)
            else:
                found += expand_inputs([str(match) for match in matches])
        else:
            raise InputError(f"{text}: wanted a video, image, bag or folder, there is no such file")
    return found


def find_sequence(text: str) -> list[Path] | None:
    """The images that a glob or a pattern such as frame_%04d.png stands for, in their order; None where it is neither.

    Raises:
        InputError: no image matches.
    """
    path = Path(text)
    number = _NUMBER.search(path.name)
    if number is not None:
        digits = rf"\d{{{number[1]},}}" if number[1] else r"\d+"
        parts = re.escape(path.name[: number.start()]), re.escape(path.name[number.end() :])
        name = re.compile(f"{parts[0]}({digits}){parts[1]}")
        try:
            there = [(match, entry) for entry in path.parent.iterdir() if (match := name.fullmatch(entry.name))]
        except OSError as error:
            raise InputError(f"{text}: {path.parent} cannot be listed: {error.strerror}") from error
        files = [entry for _, entry in sorted(there, key=lambda pair: int(pair[0][1]))]
    elif glob.has_magic(text):
        files = [match for match in _match(text) if match.suffix.lower() in IMAGE_SUFFIXES]
    else:
        return None
    if not files:
        raise InputError(f"{text}: no image has such a name")
    return files


def read_stdin(stream: BinaryIO | None = None) -> tuple[list[Path], Path | None]:
    """What is piped in: the names of images, one a line; or a video, bag or image itself.

    Args:
        stream: None: standard input.

    Returns:
        The images and None; or nothing and a temporary file, for the caller to remove, with a suffix that says what it is.

    Raises:
        ConfigError: nothing is piped in.
        InputError: it is empty, or a list with a name that is not there.
    """
    if stream is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("- reads standard input, and nothing is piped in; name a file")
        stream = sys.stdin.buffer
    head = stream.read(_LIST_BYTES)
    if not head:
        raise InputError("standard input is empty; wanted a video, a bag, an image, or names of images, one a line")
    if _is_text(head):
        names = (head + stream.read(_MAX_LIST)).decode(errors="replace").splitlines()
        return [_listed(name.strip()) for name in names if name.strip()], None
    suffix = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), ".video")
    with tempfile.NamedTemporaryFile(prefix="lmanet_", suffix=suffix, delete=False) as file:
        file.write(head)
        while part := stream.read(1 << 20):
            file.write(part)
    return [], Path(file.name)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character is cut in two
            return False
        text = head[: error.start].decode()
    return text.isprintable() or all(line.isprintable() for line in text.splitlines())


def _listed(name: str) -> Path:
    path = Path(expand_home(name))
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        raise InputError(f"standard input: wanted names of images, one a line, got {name!r}, which is none")
    return path


def _match(pattern: str) -> list[Path]:
    anchor = Path(pattern).anchor
    found = Path(anchor or ".").glob(pattern[len(anchor) :])
    matches = [match for match in found if not match.name.startswith(".")]
    if not matches:
        raise InputError(f"{pattern}: nothing matches")
    return sorted(matches, key=lambda path: (str(path.parent), natural_order(path)))


def _streams_below(folder: Path) -> list[str]:
    """The folder, or where it holds no images itself, the folders and bags below it that are streams."""
    if _is_stream_folder(folder):
        return [str(folder)]
    below: list[str] = []
    for root, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(root) != folder and _is_stream_folder(Path(root)):
            below.append(root)
            folders.clear()
    return below or [str(folder)]


def _is_stream_folder(folder: Path) -> bool:
    if is_bag_folder(folder):
        return True
    return any(entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") for entry in folder.iterdir())
