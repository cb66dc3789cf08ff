"""Frames of a video file, through OpenCV.

Stamps are the file's own presentation times, in nanoseconds from its start. Where a file or a backend has none, or they stand
still, the frame follows its predecessor by one period; so stamps always increase.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import cv2

from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.media.pixels import to_rgb
from lmanet_core.media.source import FrameSource

_ASSUMED_FPS = 25.0  # for the stamps of a video that gives neither times nor a rate
_MAX_FPS = 1000.0  # AVI and raw streams without a rate report the ticks of their clock instead

_LOGGER = logging.getLogger(__name__)


class VideoSource(FrameSource):
    """Frames of a video file.

    Args:
        path: a file that OpenCV can read.

    Raises:
        InputError: not a video, or cut off so that not one frame can be read.
    """

    kind = "video"

    def __init__(self, path: Path) -> None:
        super().__init__(path, _LOGGER)
        self._capture = cv2.VideoCapture(str(path))
        self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not self._first[0]:
            self._capture.release()
            raise InputError(
                f"{path}: wanted a video, got a file of {path.stat().st_size} bytes from which OpenCV reads no frame: "
                f"not a video, cut off, or in a codec that is missing here (try: ffprobe {path})"
            )
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0.0 < fps <= _MAX_FPS else None
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.expected_frames = int(count) if math.isfinite(count) and count >= 1.0 else None
        if self.fps is None:
            _LOGGER.warning("%s: the video gives no frame rate; stamps assume %g fps where it has none", path, _ASSUMED_FPS)

    def _read(self) -> Iterator[Frame]:
        period_ns = round(1e9 / (self.fps or _ASSUMED_FPS))
        stamp_ns = -period_ns
        count = 0
        ok, image = self._first
        self._first = (False, None)
        while ok and image is not None:
            stamp_ns = _next_stamp(stamp_ns, period_ns, float(self._capture.get(cv2.CAP_PROP_POS_MSEC)))
            yield Frame(to_rgb(image[:, :, ::-1]), stamp_ns, name=f"{count:06d}")
            count += 1
            ok, image = self._capture.read()
        self._check_complete(count)

    def _check_complete(self, count: int) -> None:
        missing = (self.expected_frames or count) - count
        # Containers without a frame count have it estimated from duration and rate, a frame or two off.
        if missing > max(1, count // 50):
            self._skip(
                f"the last {missing} frames", f"the video breaks off after {count} of {self.expected_frames}", count=missing
            )

    def _release(self) -> None:
        self._capture.release()


def _next_stamp(last_ns: int, period_ns: int, position_ms: float) -> int:
    position_ns = round(position_ms * 1e6) if math.isfinite(position_ms) else -1
    return position_ns if position_ns > last_ns and position_ns >= 0 else last_ns + period_ns
