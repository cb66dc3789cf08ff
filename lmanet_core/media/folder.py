"""Frames of a folder of images, in the natural order of their names (frame2 before frame10); or of a single image file."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.frame import Frame
from lmanet_core.media.pixels import decode_image
from lmanet_core.media.source import FrameSource

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

_LOGGER = logging.getLogger(__name__)


class FolderSource(FrameSource):
    """Images of a folder (not of folders inside it), or one image file.

    The n-th file has stamp n / fps, also where files before it are damaged, so that a hole stays a hole in time. Each frame
    has the size of its own file. Frames are named after the file without its suffix, with the suffix where two files share it.

    Args:
        path: folder or image file.
        fps: frames a second; image files carry no time.

    Raises:
        ConfigError: fps not positive.
        InputError: a folder without images, or that may not be read.
    """

    kind = "folder"

    def __init__(self, path: Path, fps: float = 10.0) -> None:
        super().__init__(path, _LOGGER)
        if not (math.isfinite(fps) and fps > 0.0):
            raise ConfigError(f"fps must be a positive number, got {fps}")
        self.fps = fps
        self._files = [path] if path.is_file() else _list_images(path)
        self.expected_frames = len(self._files)

    def _read(self) -> Iterator[Frame]:
        assert self.fps is not None
        for index, (file, name) in enumerate(zip(self._files, _unique_names(self._files), strict=True)):
            try:
                image = decode_image(file.read_bytes(), upright=True)
            except (InputError, OSError) as error:
                self._skip(file.name, error)
                continue
            yield Frame(image, round(index * 1e9 / self.fps), name=name)


def _list_images(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be listed: {error.strerror}") from error
    files = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not files:
        inside = [entry.name for entry in entries if entry.is_dir()]
        got = f"{len(entries)} other entries" if entries else "an empty folder"
        hint = f"; images inside {inside[0]}/ are not looked for, name that folder" if inside else ""
        raise InputError(f"{folder}: wanted images ({', '.join(IMAGE_SUFFIXES)}) or a bag, got {got}{hint}")
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Digits compare as numbers, all else as lower-case text; the name itself settles ties."""
    parts = re.split(r"([0-9]+)", file.name.lower())
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)], file.name


def _unique_names(files: Sequence[Path]) -> list[str]:
    stems = Counter(file.stem for file in files)
    taken: set[str] = set()
    names: list[str] = []
    for file in files:
        base = file.stem if stems[file.stem] == 1 else file.name.replace(".", "_")
        name, number = base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names
