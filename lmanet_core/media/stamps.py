"""When an image was taken, where the driver does not say: stamps of zero, or a clock that stands still.

Sits between a message and the segmenter, live and in recordings alike. What the node publishes keeps the header it came with.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_CHANGES = 3  # a stamp that outlives so many changes of the picture is no repetition: the clock stands
_SIMULATED_NS = 10 * 86_400 * 10**9  # stamps below are no date: simulated time, or since the robot was started
_RATES = 0.01, 100.0  # seconds of the stamps to a second of receiving; anything else is no clock's rate


class Known(NamedTuple):
    """A stamp that the driver gave, and when it was received; nanoseconds."""

    given_ns: int
    received_ns: int


class StampSource:
    """The stamps of one stream, made good.

    * A stamp of 0 means that the driver left it out. It is estimated from the last stamp that was given and the time of
      receiving since, which goes as fast as stamps went before. Where none was given yet, the time of receiving stands for it.
    * Zeros before small stamps are simulated time at its start, and true.
    * The same stamp under the same picture is a repeated image and keeps it.
    * The same stamp under one different picture after the other is a clock that stands still: from the third change on, time
      goes on from that stamp as fast as images are received, until the stamp changes again.

    Args:
        ahead: the first stamp that is not 0, where that can be known: in recordings.

    Attributes:
        zero: whether a stamp was left out so far.
        standing: whether the clock has stood still so far.
    """

    def __init__(self, ahead: Known | None = None) -> None:
        self._ahead = ahead
        self._known: tuple[Known, ...] = ()  # the last two that were given
        self.zero = False
        self.standing = False
        self._given_ns: int | None = None  # the last stamp, as it came
        self._first_received_ns = 0  # when it came first
        self._stamp_ns = 0  # the last stamp, made good
        self._picture: int | None = None  # checksum of the last image that repeated a stamp
        self._changes = 0

    def stamp_ns(self, given_ns: int, received_ns: int, image: npt.NDArray[np.uint8]) -> int:
        """The stamp to go by.

        Args:
            given_ns: the header's, nanoseconds.
            received_ns: when the message came, or was recorded, on any clock that goes on.
            image: (H, W, 3) uint8, looked at only where stamps repeat.
        """
        if given_ns == 0:
            if not self._known and self._ahead is not None and self._ahead.given_ns < _SIMULATED_NS:
                return 0
            self.zero = True
            return self._estimate(received_ns)
        if given_ns != self._given_ns:
            self._known = (*self._known[-1:], Known(given_ns, received_ns))
            self._given_ns = self._stamp_ns = given_ns
            self._first_received_ns, self._picture, self._changes = received_ns, None, 0
            return given_ns
        picture = zlib.crc32(np.ascontiguousarray(image).data)
        changed = self._picture is not None and picture != self._picture
        self._picture = picture
        self._changes += changed
        if changed and self._changes >= _CHANGES:
            self.standing = True
            self._stamp_ns = given_ns + received_ns - self._first_received_ns
        return self._stamp_ns

    def _estimate(self, received_ns: int) -> int:
        """The stamp of an image that has none, in the stream's own time where that is known."""
        if not self._known:
            ahead = self._ahead
            return received_ns if ahead is None else ahead.given_ns - (ahead.received_ns - received_ns)
        last, rate = self._known[-1], 1.0
        stamps_ns, receiving_ns = (new - old for new, old in zip(last, self._known[0], strict=True))
        if receiving_ns > 0 and _RATES[0] < stamps_ns / receiving_ns < _RATES[1]:
            rate = stamps_ns / receiving_ns
        return last.given_ns + round(rate * (received_ns - last.received_ns))


def stamp_from_name(stem: str) -> int | None:
    """The time that a file's name tells, in nanoseconds; None where it tells none.

    Understood are nanoseconds (16 to 19 digits) and seconds with a point or underscore (1700000000.066667).
    """
    if re.fullmatch(r"\d{16,19}", stem):
        return int(stem)
    match = re.fullmatch(r"(\d{9,10})[._](\d{1,9})", stem)
    return int(match[1]) * 10**9 + int(match[2].ljust(9, "0")) if match else None
