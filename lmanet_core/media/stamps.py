"""When an image was taken, where the driver does not say: stamps of zero, or a clock that stands still.

Sits between a message and the segmenter, live and in recordings alike. What the node publishes keeps the header it came with.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_FASTEST = 10.0  # a stamp farther ahead is another clock and says nothing of the speed of this one
_SOON_NS = 10 * 10**9
_CHANGES = 3  # a stamp that outlives so many changes of the picture is no repetition: the clock stands


class StampSource:
    """The stamps of one stream, made good.

    * A stamp of 0 means that the driver left it out. It is estimated in the stream's own time: from the last stamp that was
      there, as fast as stamps and receiving went along beside each other; before the first one, the time of receiving stands
      for it. A simulation that begins at 0 means it so.
    * The same stamp under the same picture is a repeated image and keeps it.
    * The same stamp under one different picture after the other is a clock that stands still: from the third change on, time
      goes on from that stamp as fast as images are received, until the stamp changes again.

    Args:
        simulated: the first stamp may be 0 and mean it, see `begins_at_zero`.

    Attributes:
        zero: whether a stamp was left out so far.
        standing: whether the clock has stood still so far.
    """

    def __init__(self, simulated: bool = False) -> None:
        self.zero = False
        self.standing = False
        self._given_ns: int | None = None  # the last stamp, as it came
        self._first_received_ns = 0  # when it came first
        self._stamp_ns = 0  # the last stamp, made good
        self._picture: int | None = None  # checksum of the last image that repeated a stamp
        self._changes = 0
        self._simulated = simulated
        self._speed = 1.0  # of stamps beside the time of receiving
        self._began: tuple[int, int] | None = None  # stamp and time of receiving from which it is measured

    def stamp_ns(self, given_ns: int, received_ns: int, image: npt.NDArray[np.uint8]) -> int:
        """The stamp to go by.

        Args:
            given_ns: the header's, nanoseconds.
            received_ns: when the message came, or was recorded, on any clock that goes on.
            image: (H, W, 3) uint8, looked at only where stamps repeat.
        """
        if given_ns == 0 and not (self._simulated and self._given_ns is None):
            self.zero = True
            if self._given_ns is None:
                return received_ns
            return self._given_ns + round(self._speed * (received_ns - self._first_received_ns))
        if given_ns != self._given_ns:
            self._measure_speed(given_ns, received_ns)
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

    def _measure_speed(self, given_ns: int, received_ns: int) -> None:
        """Over all of the stream so far, for single images come in bursts; anew where the clock jumped."""
        first_given_ns, first_received_ns = self._began or (given_ns, received_ns)
        since_ns = received_ns - first_received_ns
        speed = (given_ns - first_given_ns) / since_ns if since_ns > 0 else 0.0
        if 0.0 < speed <= _FASTEST:
            self._speed = speed
        else:
            self._began = (given_ns, received_ns)


def begins_at_zero(stamps_ns: Iterable[int]) -> bool:
    """Whether the first stamps of a stream are those of a simulation that begins at 0: a first 0, and soon after it no 0.

    Args:
        stamps_ns: the first two of a recording.
    """
    first, second = (*stamps_ns, 0, 0)[:2]
    return first == 0 and 0 < second <= _SOON_NS


def stamp_from_name(stem: str) -> int | None:
    """The time that a file's name tells, in nanoseconds; None where it tells none.

    Understood are nanoseconds (16 to 19 digits) and seconds with a point or underscore (1700000000.066667).
    """
    if re.fullmatch(r"\d{16,19}", stem):
        return int(stem)
    match = re.fullmatch(r"(\d{9,10})[._](\d{1,9})", stem)
    return int(match[1]) * 10**9 + int(match[2].ljust(9, "0")) if match else None
