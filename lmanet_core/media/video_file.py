"""A WebM that is written picture by picture: what every browser plays, with the times of the pictures, playable at any moment.

PyAV (the extra "video") writes VP9, and the times exactly. Without it OpenCV writes VP8 at one rate, in which pictures are
repeated to keep the time. A process that is killed leaves a file that plays up to a second or so before.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError, OutputError
from lmanet_core.geometry import Size, resize_image
from lmanet_core.media.packets import require_decoder
from lmanet_core.media.sinks import make_folder

_MIN_SIDE = 16  # encoders refuse less than 2 and players less than this
_MIN_FREE_BYTES = 2**22  # not every encoder says that a disk is full, so look before each picture
_LONGEST_PAUSE_S = 10.0  # a longer one is shortened to this: nobody waits for a recorder that was off over night
_MAX_FPS = 60.0
_TICKS = 1000  # of a WebM's clock, a second
_KEY_FRAMES_S = 2.0  # apart, to jump to
_VP9 = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "lag-in-frames": "0", "crf": "30", "b": "0"}


class _Encoder(Protocol):
    def add(self, picture: UInt8Array, time_s: float) -> None:
        """Append (H, W, 3) RGB to be shown at this time, later than the one before."""

    def close(self) -> None:
        """Finish the file."""


class VideoFile:
    """A video that is written picture by picture.

    The first picture sets the size, with sides rounded up to even numbers as the codec needs; later ones of another size are
    scaled to fit, centred, with black bars.

    Args:
        path: the .webm file; replaced where it exists.
        fps: pictures a second where no stamps say it; None: 10.

    Raises:
        ConfigError: fps not positive.
        OutputError: the folder cannot be made.
    """

    def __init__(self, path: str | Path, fps: float | None = None) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0.0):
            raise ConfigError(f"fps must be a positive number, got {fps}")
        self.path = Path(path)
        self._fps = fps
        self._encoder: _Encoder | None = None
        self._held: tuple[UInt8Array, int | None] | None = None  # the first picture, until the second tells the rate
        self._canvas_size = Size(0, 0)
        self._last_ns: int | None = None
        self._time_s = self._period_s = 0.0
        make_folder(self.path.parent)
        if self.path.is_dir():
            raise OutputError(f"{self.path}: cannot be written: a video file is wanted and there is a folder of that name")

    def write(self, picture: UInt8Array, stamp_ns: int | None = None) -> None:
        """Append (H, W, 3) uint8 RGB.

        Args:
            picture: the next one.
            stamp_ns: its time; differences count. None: one period after the one before. Stamps that run backwards are one
                period on, too, and pauses of more than 10 s are 10 s.

        Raises:
            OutputError: it cannot be written.
        """
        free = shutil.disk_usage(self.path.parent).free
        if free < _MIN_FREE_BYTES:
            raise OutputError(f"{self.path}: only {free} bytes of space are left for it; free some or choose another output")
        if self._encoder is None and self._held is None:
            self._held = (picture, stamp_ns)
            return
        if self._held is not None:
            self._begin(stamp_ns)
        self._append(picture, stamp_ns)

    def close(self) -> None:
        """Finish the file; harmless when repeated.

        Raises:
            OutputError: it cannot be finished, or not every picture can be read back.
        """
        if self._held is not None:
            self._begin(None)
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()

    def _begin(self, second_ns: int | None) -> None:
        """Open the file at the rate that is known by now, and append the picture that was held."""
        assert self._held is not None
        (picture, first_ns), self._held = self._held, None
        step_s = 0.0 if first_ns is None or second_ns is None else (second_ns - first_ns) / 1e9
        by_stamps = min(_MAX_FPS, 1.0 / step_s) if 0.0 < step_s <= 1.0 else 0.0
        fps = max(by_stamps, self._fps or 0.0) or 10.0
        self._period_s, self._last_ns = 1.0 / fps, first_ns
        self._canvas_size = _round_up(Size(*picture.shape[:2]))
        self._encoder = _open_encoder(self.path, self._canvas_size, fps)
        self._encoder.add(_fit(picture, self._canvas_size), 0.0)

    def _append(self, picture: UInt8Array, stamp_ns: int | None) -> None:
        assert self._encoder is not None
        step_s = self._period_s
        if stamp_ns is not None and self._last_ns is not None and stamp_ns > self._last_ns:
            step_s = min(_LONGEST_PAUSE_S, (stamp_ns - self._last_ns) / 1e9)
        self._time_s, self._last_ns = self._time_s + step_s, stamp_ns
        self._encoder.add(_fit(picture, self._canvas_size), self._time_s)


def _open_encoder(path: Path, size: Size, fps: float) -> _Encoder:
    try:
        av = require_decoder("VP9")
        av.Codec("libvpx-vp9", "w")
    except (InputError, ValueError):  # not installed; built without
        return _OpenCVEncoder(path, size, fps)
    return _AvEncoder(av, path, size, fps)


class _AvEncoder:
    """VP9 with the times of the pictures, through PyAV."""

    def __init__(self, av: Any, path: Path, size: Size, fps: float) -> None:
        self._av, self._path, self._last = av, path, -1
        with self._errors():
            options = {"cluster_time_limit": "1000", "flush_packets": "1"}
            self._container = av.open(str(path), "w", format="webm", options=options)
            self._stream = self._container.add_stream("libvpx-vp9", rate=Fraction(fps).limit_denominator(1001), options=_VP9)
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = size.width, size.height, "yuv420p"
            context.time_base, context.gop_size = Fraction(1, _TICKS), max(1, round(_KEY_FRAMES_S * fps))
            context.colorspace = 6  # BT.601, as pictures are converted; not told, players guess by the size

    def add(self, picture: UInt8Array, time_s: float) -> None:
        """See `_Encoder`."""
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._last = max(self._last + 1, round(time_s * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        with self._errors():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """See `_Encoder`."""
        with self._errors():
            self._container.mux(self._stream.encode())
            self._container.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error


class _OpenCVEncoder:
    """VP8 at a constant rate, through OpenCV."""

    def __init__(self, path: Path, size: Size, fps: float) -> None:
        self._path, self._fps, self._written = path, fps, 0
        self._picture: UInt8Array | None = None
        with _quiet():  # it remarks that WebM has no numbers for codecs
            self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), fps, (size.width, size.height))
        if not self._writer.isOpened():
            raise OutputError(
                f"{path}: OpenCV cannot open a video of {size} at {fps:g} fps there; is writing permitted, does the name end "
                "in .webm, does this OpenCV have FFmpeg with VP8? (pip install av, the extra video, writes it as well)"
            )

    def add(self, picture: UInt8Array, time_s: float) -> None:
        """See `_Encoder`."""
        while self._picture is not None and self._written < round(time_s * self._fps):
            self._put(self._picture)
        self._put(picture)
        self._picture = picture

    def close(self) -> None:
        """Checks that the video can be played, since OpenCV reports no errors of writing."""
        self._writer.release()
        check = cv2.VideoCapture(str(self._path))
        seconds = check.get(cv2.CAP_PROP_FRAME_COUNT) / (check.get(cv2.CAP_PROP_FPS) or self._fps) if check.isOpened() else 0.0
        check.release()
        readable = round(seconds * self._fps)
        if readable < self._written:
            raise OutputError(
                f"{self._path}: {self._written} frames were written, {readable} can be read back; is the disk full?"
            )

    def _put(self, picture: UInt8Array) -> None:
        self._writer.write(picture[:, :, ::-1])  # OpenCV wants BGR
        self._written += 1


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries write to standard error meanwhile goes nowhere."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _round_up(size: Size) -> Size:
    return Size(*(max(_MIN_SIDE, side + side % 2) for side in size))


def _fit(picture: UInt8Array, canvas_size: Size) -> UInt8Array:
    """Onto a canvas of that size: as it is where only rounding up is missing, else scaled to fit; black around."""
    size = Size(*picture.shape[:2])
    if size == canvas_size:
        return np.ascontiguousarray(picture)
    top = left = 0
    if _round_up(size) != canvas_size:
        scale = min(canvas_size.height / size.height, canvas_size.width / size.width)
        size = Size(*(max(1, min(room, round(side * scale))) for side, room in zip(size, canvas_size, strict=True)))
        picture = resize_image(picture, size)
        top, left = (canvas_size.height - size.height) // 2, (canvas_size.width - size.width) // 2
    canvas = np.zeros((*canvas_size, 3), np.uint8)
    canvas[top : top + size.height, left : left + size.width] = picture
    return canvas
