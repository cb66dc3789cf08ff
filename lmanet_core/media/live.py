"""Frames of a camera or network stream as they come, through OpenCV: the newest image wins, a lost connection is made anew.

A thread reads the stream, for nobody else can keep up with it, and leaves the newest image in a mailbox. The capture belongs to
that thread from `open_stream` on until `close` has ended it; everything else belongs to the thread that takes the frames.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.media.mailbox import Mailbox
from lmanet_core.media.pixels import to_rgb
from lmanet_core.media.source import FrameSource
from lmanet_core.media.video import VideoSource

_TIMEOUT_MS = 10_000.0  # to open a stream, and for its next image
_GIVE_UP_S = 30.0  # without a connection
_PAUSES_S = (0.2, 5.0)  # between two tries, doubled from the first to the second
_SLOT = "stream"

_LOGGER = logging.getLogger(__name__)


def is_stream(text: str) -> bool:
    """Whether an input is a camera's number, a camera device, or an address (rtsp://, http://, udp://, …) and no file."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return True
    path = Path(text)
    return (text.isdecimal() and not path.exists()) or path.is_char_device()


def hide_password(text: str) -> str:
    """An address without the user and password that it may hold, for logs and reports."""
    return re.sub(r"(://)[^/@\s]+@", r"\1…@", text)


def open_stream(text: str, give_up_s: float = _GIVE_UP_S) -> FrameSource:
    """Frames of a camera or an address.

    An address of a whole file (a video on a web server) is read like a file, every frame once.

    Args:
        text: see `is_stream`.
        give_up_s: how long to try to connect anew before the stream is taken to be over.

    Raises:
        InputError: nothing answers there, or it gives no image.
    """

    def connect() -> cv2.VideoCapture:
        if "://" not in text:
            return cv2.VideoCapture(int(text) if text.isdecimal() else text)
        timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS)
        return cv2.VideoCapture(text, cv2.CAP_FFMPEG, [int(value) for value in timeouts])

    capture = connect()
    if "://" in text and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        capture.release()
        return VideoSource(text)
    return LiveSource(hide_password(text), capture, connect, give_up_s)


class _Arrival(NamedTuple):
    image: UInt8Array  # BGR
    stamp_ns: int
    connection: int  # counted from 0


class LiveSource(FrameSource):
    """Frames of a stream that is going on.

    The stamp is the time at which an image was received, on a clock that never jumps. Frames that come while the one before is
    worked on are dropped, all but the newest. It ends when the connection is lost and cannot be made anew.

    Args:
        name: what to call the stream in messages.
        capture: opened.
        connect: opens another.
        give_up_s: how long to try.

    Raises:
        InputError: the capture gives no image.
    """

    kind = "live"

    def __init__(
        self, name: str, capture: cv2.VideoCapture, connect: Callable[[], cv2.VideoCapture], give_up_s: float = _GIVE_UP_S
    ) -> None:
        super().__init__(name, _LOGGER)
        self._clock_ns = time.time_ns() - time.monotonic_ns()
        ok, image = capture.read() if capture.isOpened() else (False, None)
        if not ok or image is None:
            capture.release()
            raise InputError(
                f"{name}: wanted a camera or stream, but no image comes: nothing answers there, another program has it, or it "
                f"is no video{'' if '://' in name else ' (which cameras there are: v4l2-ctl --list-devices)'}"
            )
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0.0 < fps <= 240.0 else None
        self._mailbox: Mailbox[_Arrival] = Mailbox([_SLOT])
        self._mailbox.put(_SLOT, self._arrival(image, 0))
        self._connect, self._give_up_s = connect, give_up_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._receive, args=(capture,), name="stream", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """See `FrameSource`."""
        return self._mailbox.dropped[_SLOT]

    def _read(self) -> Iterator[Frame]:
        count, connection = 0, 0
        while (taken := self._mailbox.take()) is not None:
            arrival = taken[1]
            rgb = to_rgb(arrival.image[:, :, ::-1])
            # Also where the first image of a connection was replaced by its second before it was taken.
            yield Frame(rgb, arrival.stamp_ns, name=f"{count:06d}", after_loss=arrival.connection != connection)
            count, connection = count + 1, arrival.connection

    def _receive(self, capture: cv2.VideoCapture) -> None:
        """The thread: from the capture into the mailbox, until it is stopped or the stream is over."""
        connection = 0
        try:
            while not self._stopped.is_set():
                ok, image = capture.read()
                if ok and image is not None:
                    self._mailbox.put(_SLOT, self._arrival(image, connection))
                    continue
                capture.release()
                again = self._reconnect()
                if again is None:
                    return
                capture, connection = again, connection + 1
        finally:
            capture.release()
            self._mailbox.close()

    def _reconnect(self) -> cv2.VideoCapture | None:
        if self._stopped.is_set():
            return None
        _LOGGER.warning("%s: the stream broke off; connecting anew", self.path)
        begin, pause_s = time.monotonic(), _PAUSES_S[0]
        while time.monotonic() - begin < self._give_up_s and not self._stopped.wait(pause_s):
            capture = self._connect()
            if capture.isOpened():
                return capture
            capture.release()
            pause_s = min(_PAUSES_S[1], 2.0 * pause_s)
        if not self._stopped.is_set():
            _LOGGER.warning("%s: no connection for %g s; the stream is over", self.path, self._give_up_s)
        return None

    def _arrival(self, image: object, connection: int) -> _Arrival:
        return _Arrival(np.asarray(image, np.uint8), self._clock_ns + time.monotonic_ns(), connection)

    def _release(self) -> None:
        self._stopped.set()
        self._mailbox.close()
        self._thread.join(2.0 + _TIMEOUT_MS / 1e3)
