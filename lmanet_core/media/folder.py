"""Frames of a folder of images, in the natural order of their names (frame2 before frame10); or of a single image file."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.frame import Frame
from lmanet_core.media.heif import HEIF_SUFFIXES, decode_heif, require_heif
from lmanet_core.media.pixels import decode_image
from lmanet_core.media.source import FrameSource
from lmanet_core.media.stamps import stamp_from_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".avif", ".heic", ".heif")
_FPS = 10.0

_LOGGER = logging.getLogger(__name__)


class FolderSource(FrameSource):
    """Images of a folder (not of folders inside it), one image file, or files that are one sequence.

    Where the names of all files are times (`stamp_from_name`), these are the stamps, and their order that of the frames. Else
    the n-th file has stamp n / fps, also where files before it are damaged, so that a hole stays a hole in time. Each frame has
    the size of its own file. Frames are named after the file without its suffix, with the suffix where two files share it.

    Args:
        path: folder or image file; or what the files are called in messages.
        fps: frames a second; None: by the names, or 10.
        bits: of images with 16, see `SampleDepth`.
        files: in their order, where `path` is no file or folder.

    Raises:
        ConfigError: fps not positive.
        InputError: a folder without images, or that may not be read.
    """

    kind = "folder"

    def __init__(self, path: Path | str, fps: float | None = None, bits: int = 16, files: Sequence[Path] | None = None) -> None:
        super().__init__(path, _LOGGER, bits)
        if fps is not None and not (math.isfinite(fps) and fps > 0.0):
            raise ConfigError(f"fps must be a positive number, got {fps}")
        self._files = list(files) if files is not None else [Path(path)] if Path(path).is_file() else list_images(Path(path))
        if any(file.suffix.lower() in HEIF_SUFFIXES for file in self._files):
            require_heif()
        named = [stamp_from_name(file.stem) for file in self._files]
        times = [stamp for stamp in named if stamp is not None]
        if fps is None and len(times) == len(named) and len(set(times)) > 1:
            ordered = sorted(zip(times, self._files, strict=True), key=lambda pair: pair[0])
            self._stamps, self._files = [stamp for stamp, _ in ordered], [file for _, file in ordered]
        else:
            self.fps = fps or _FPS
            self._stamps = [round(index * 1e9 / self.fps) for index in range(len(self._files))]
        self.expected_frames = len(self._files)

    def _read(self) -> Iterator[Frame]:
        for stamp_ns, file, name in zip(self._stamps, self._files, _unique_names(self._files), strict=True):
            try:
                image = self._decode(file)
            except (InputError, OSError) as error:
                self._skip(file.name, error)
                continue
            yield Frame(image, stamp_ns, name=name)

    def _decode(self, file: Path) -> UInt8Array:
        if file.suffix.lower() in HEIF_SUFFIXES:
            return decode_heif(file)
        return decode_image(file.read_bytes(), upright=True, depth=self.depth)


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in natural order; raises InputError where there are none."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be listed: {error.strerror}") from error
    files = [
        entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and (entry.is_file() or _leads_nowhere(entry))
    ]
    if not files:
        inside = [entry.name for entry in entries if entry.is_dir()]
        got = f"{len(entries)} other entries" if entries else "an empty folder"
        hint = f"; images inside {inside[0]}/ are not looked for, name that folder" if inside else ""
        raise InputError(f"{folder}: wanted images ({', '.join(IMAGE_SUFFIXES)}) or a bag, got {got}{hint}")
    return sorted(files, key=natural_order)


def _leads_nowhere(entry: Path) -> bool:
    """Whether it is a link to what is gone: an image that is missing, not one that never was."""
    return entry.is_symlink() and not entry.exists()


def natural_order(file: Path) -> tuple[list[tuple[int, str]], str]:
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
