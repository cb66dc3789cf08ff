"""Frames of a video file, through OpenCV; interlaced ones through PyAV.

Stamps are the file's own presentation times, in nanoseconds from its start. Where a file or a backend has none, or they stand
still, the frame follows its predecessor by one period; so stamps always increase. Reading goes on behind damage: what could not
be decoded is counted, and the frame after it says so.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.media.interlaced import InterlacedSource, is_interlaced
from lmanet_core.media.pixels import to_rgb
from lmanet_core.media.source import FrameSource

_ASSUMED_FPS = 25.0  # for the stamps of a video that gives neither times nor a rate
_MAX_FPS = 1000.0  # AVI and raw streams without a rate report the ticks of their clock instead
_TRIES = 64  # reads that fail in a row before the file is taken to be over; a damaged packet or two fail each
_MATROSKA = b"\x1a\x45\xdf\xa3"  # how MKV and WebM begin
_LOOKAHEAD = 4  # frames in which something must change, or the packets say nothing either

_LOGGER = logging.getLogger(__name__)


def open_video(path: Path) -> FrameSource:
    """Frames of a video file.

    Raises:
        InputError: not a video, cut off so that not one frame can be read, or one that cannot be read rightly here.
    """
    return InterlacedSource(path) if is_interlaced(path) else VideoSource(path)


class VideoSource(FrameSource):
    """Frames of a video file, through OpenCV.

    Args:
        path: a file, or the address of one, that OpenCV can read.

    Raises:
        InputError: not a video, cut off so that not one frame can be read, or one whose pictures OpenCV cannot convert.
    """

    kind = "video"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, _LOGGER)
        self._capture = cv2.VideoCapture(str(path))
        self._ahead: deque[tuple[UInt8Array, float, int]] = deque()  # image in BGR, position in ms, reads that failed before it
        self._tries = 0
        while self._capture.isOpened() and len(self._ahead) < _LOOKAHEAD and self._grab():
            pass
        if not self._ahead:
            self._capture.release()
            size = f" of {path.stat().st_size} bytes" if isinstance(path, Path) else ""
            raise InputError(
                f"{path}: wanted a video, got a file{size} from which OpenCV reads no frame: "
                f"not a video, cut off, or in a codec that is missing here (try: ffprobe {path})"
            )
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0.0 < fps <= _MAX_FPS else None
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        count -= self._frames_before_start(path)
        self.expected_frames = int(count) if math.isfinite(count) and count >= 1.0 else None
        self._pixel_aspect = _pixel_aspect(self._capture)
        if self.fps is None:
            _LOGGER.warning("%s: the video gives no frame rate; stamps assume %g fps where it has none", path, _ASSUMED_FPS)
        if isinstance(path, Path) and self._stands_still() and _packets_differ(path, self._ahead[0][0].size // 3):
            self._capture.release()
            raise InputError(
                f"{path}: OpenCV gives the same picture for frames that differ: the video is interlaced, or of pixels that it "
                "cannot convert; PyAV reads it (pip install av, the extra video)"
            )

    def _read(self) -> Iterator[Frame]:
        period_ns = round(1e9 / (self.fps or _ASSUMED_FPS))
        stamp_ns = -period_ns
        count = 0
        while self._ahead or self._grab():
            image, position_ms, lost = self._ahead.popleft()
            stamp_ns = _next_stamp(stamp_ns, period_ns, position_ms)
            if lost:
                self._skip(f"{lost} frame{'s' * (lost > 1)} before {stamp_ns / 1e9:.2f} s", "not to be decoded", lost)
            rgb = to_rgb(image[:, :, ::-1])
            yield Frame(rgb, stamp_ns, name=f"{count:06d}", after_loss=lost > 0, pixel_aspect=self._pixel_aspect)
            count += 1
        self._check_complete(count, stamp_ns)

    def _frames_before_start(self, path: Path | str) -> float:
        """Frames from time 0 to the first that there is, where the container's duration counts them in, as Matroska's does."""
        if self.fps is None or not isinstance(path, Path):
            return 0.0
        with path.open("rb") as file:
            if file.read(len(_MATROSKA)) != _MATROSKA:
                return 0.0
        newest = self._capture.get(getattr(cv2, "CAP_PROP_PTS", -1))  # in frames from time 0; older OpenCV has none
        before = newest - self._ahead[-1][1] / 1e3 * self.fps
        return round(before) if math.isfinite(before) and before > 0.0 else 0.0

    def _grab(self) -> bool:
        """Read one frame ahead, over damage; False at the end."""
        while self._tries <= _TRIES:
            ok, image = self._capture.read()
            if ok and image is not None:
                position_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
                self._ahead.append((np.asarray(image, np.uint8), position_ms, self._tries))
                self._tries = 0
                return True
            self._tries += 1
        return False

    def _stands_still(self) -> bool:
        first = self._ahead[0][0].tobytes()
        return len(self._ahead) == _LOOKAHEAD and all(image.tobytes() == first for image, *_ in self._ahead)

    def _check_complete(self, count: int, last_ns: int) -> None:
        expected = self.expected_frames or 0
        missing = expected - count - self.skipped
        if self.fps is not None:  # containers that count no frames tell their duration; frames need not come at one rate
            missing = min(missing, round(expected - 1 - last_ns / 1e9 * self.fps))
        # Containers without a frame count have it estimated from duration and rate, a frame or two off.
        if missing > max(1, count // 50):
            self._skip(f"the last {missing} frames", f"the video breaks off after {count} of {expected}", count=missing)

    def _release(self) -> None:
        self._capture.release()


def _pixel_aspect(capture: cv2.VideoCapture) -> float:
    """Width of a pixel over its height, of the pictures as they come out; 1 where nothing is said."""
    width, height = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    if not (width > 0 and height > 0):
        return 1.0
    turned = capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) and capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90
    return height / width if turned else width / height


def _packets_differ(path: Path, pixels: int) -> bool:
    """Whether the first packets say that the pictures differ: a picture like the one before takes a bit for each block."""
    capture = cv2.VideoCapture(str(path))
    packets = []
    if capture.set(cv2.CAP_PROP_FORMAT, -1):  # packets in place of pictures
        packets = [packet.tobytes() for ok, packet in (capture.read() for _ in range(_LOOKAHEAD)) if ok and packet is not None]
    capture.release()
    return len(set(packets)) == _LOOKAHEAD and min(map(len, packets)) > 200 + pixels // 1000


def _next_stamp(last_ns: int, period_ns: int, position_ms: float) -> int:
    position_ns = round(position_ms * 1e6) if math.isfinite(position_ms) else -1
    return position_ns if position_ns > last_ns and position_ns >= 0 else last_ns + period_ns
