"""What all sources of frames share: one pass over frames, closed at the end, damage counted and said, never fatal.

A source belongs to one thread. It holds a file open from `open_frames` until `close`; leave it through `with`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.media.pixels import SampleDepth

SourceKind = Literal["video", "folder", "bag"]

_WARNINGS = 5


class FrameSource:
    """Frames of one video, folder or bag, once and in order: a context manager and an iterator.

    Args:
        path: what is opened.
        logger: for damage.
        bits: of images with 16, see `SampleDepth`.

    Attributes:
        path: what was opened; text where it is no file.
        depth: how 16 bits become 8.
        kind: "video", "folder" or "bag".
        topic: the image topic, of bags.
        expected_frames: how many frames to expect (for a progress bar), None where nobody knows; damage makes it fewer.
        skipped: images, messages or files that were damaged so far. Each has a warning in the log, the sixth the last one.
        fps: frames a second as the video says or the folder was given; None for bags and where the video does not say.
    """

    kind: SourceKind

    def __init__(self, path: Path | str, logger: logging.Logger, bits: int = 16) -> None:
        self.path = path
        self.depth = SampleDepth(bits, lambda sentence: logger.warning("%s: %s", path, sentence))
        self.topic: str | None = None
        self.expected_frames: int | None = None
        self.skipped = 0
        self.fps: float | None = None
        self._logger = logger
        self._first_damage = ""
        self._frames = self._until_the_end()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame.

        Raises:
            InputError: at the end, when everything was damaged and not one frame came.
        """
        return next(self._frames)

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; harmless when repeated. No frame comes afterwards."""
        self._frames.close()
        self._release()

    def _read(self) -> Iterator[Frame]:
        raise NotImplementedError

    def _release(self) -> None:
        """Close what `__init__` opened."""

    def _skip(self, what: str, why: object, count: int = 1) -> None:
        """Count damage and warn, a few times at most."""
        self.skipped += count
        self._first_damage = self._first_damage or f"{what}: {why}"
        warned = self.skipped - count
        if warned < _WARNINGS:
            self._logger.warning("%s: skipped %s: %s", self.path, what, why)
        elif warned == _WARNINGS:
            self._logger.warning("%s: skipped %s: %s (further damage is only counted)", self.path, what, why)

    def _until_the_end(self) -> Generator[Frame, None, None]:
        came = 0
        for frame in self._read():
            came += 1
            yield frame
        if not came:
            raise InputError(
                f"{self.path}: no image could be read, {self.skipped} damaged; the first was {self._first_damage}"
                if self.skipped
                else f"{self.path}: no image could be read, it holds none"
            )
        if self.skipped:
            self._logger.warning("%s: %d frames read, %d damaged", self.path, came, self.skipped)
