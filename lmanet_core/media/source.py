"""What all sources of frames share: one pass over frames, closed at the end, damage counted and said, never fatal.

A source belongs to one thread. It holds a file open from `open_frames` until `close`; leave it through `with`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.frame import Frame
from lmanet_core.media.pixels import SampleDepth

SourceKind = Literal["video", "folder", "bag", "live"]

_WARNINGS = 5


class FrameSource:
    """Frames of one video, folder, bag or camera, once and in order: a context manager and an iterator.

    Args:
        path: what is opened.
        logger: for damage.
        bits: of images with 16, see `SampleDepth`.

    Attributes:
        path: what was opened; text where it is no file.
        depth: how 16 bits become 8.
        kind: "video", "folder", "bag" or "live".
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
        self._excerpt = (0.0, math.inf, 1)
        self._cleanup = ExitStack()
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

    @property
    def dropped(self) -> int:
        """Frames of a live stream that came too fast to be given out."""
        return 0

    def select(self, start_s: float = 0.0, end_s: float | None = None, stride: int = 1) -> None:
        """Give out a part of the frames; to be called before the first.

        Args:
            start_s, end_s: seconds after the first frame, by the stamps; the end is left out, None: to the last frame.
            stride: every so manyth frame from the start on.

        Raises:
            ConfigError: nothing can lie between them, or a stride below 1.
        """
        end = math.inf if end_s is None else end_s
        if not (0.0 <= start_s < end):
            raise ConfigError(f"start must be 0 s or more and before the end, got {start_s:g} to {end:g} s")
        if stride < 1:
            raise ConfigError(f"stride must be 1 or more, got {stride}")
        self._excerpt = (start_s, end, stride)
        if self.expected_frames is None:
            return
        if self.fps is not None:
            last = min(self.expected_frames, math.ceil(end * self.fps) if math.isfinite(end) else self.expected_frames)
            self.expected_frames = max(0, last - math.ceil(start_s * self.fps))
        elif (start_s, end) != (0.0, math.inf):
            self.expected_frames = None  # only the stamps will tell
            return
        self.expected_frames = math.ceil(self.expected_frames / stride)

    def at_close(self, cleanup: Callable[[], object]) -> None:
        """Call something after `close`, such as what removes a temporary file."""
        self._cleanup.callback(cleanup)

    def close(self) -> None:
        """Release the file; harmless when repeated. No frame comes afterwards."""
        self._frames.close()
        self._release()
        self._cleanup.close()

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
        came = seen = 0
        start_s, end_s, stride = self._excerpt
        first_ns, lost, begun, elapsed_s = None, False, False, 0.0
        for frame in self._read():
            first_ns = frame.stamp_ns if first_ns is None else first_ns
            elapsed_s = (frame.stamp_ns - first_ns) / 1e9
            if elapsed_s >= end_s:
                break
            lost |= frame.after_loss
            begun |= elapsed_s >= start_s
            if not begun:
                continue
            seen += 1
            if (seen - 1) % stride:
                continue
            came += 1
            yield replace(frame, after_loss=True) if lost else frame
            lost = False
        if not came and first_ns is not None:
            raise InputError(f"{self.path}: no frame lies after {start_s:g} s, the last one is at {elapsed_s:.2f} s")
        if not came:
            raise InputError(
                f"{self.path}: no image could be read, {self.skipped} damaged; the first was {self._first_damage}"
                if self.skipped
                else f"{self.path}: no image could be read, it holds none"
            )
        if self.skipped:
            self._logger.warning("%s: %d frames read, %d damaged", self.path, came, self.skipped)
