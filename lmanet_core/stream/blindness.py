"""Notice that the camera sees nothing: a black, saturated or covered picture, or one that has stopped.

Called once per frame by `continuity.ContinuityMonitor`, which owns a detector. A picture without texture shows nothing,
whatever its brightness; noise is no texture, and a night scene with a single lamp has some. A picture is frozen where its very
bytes are repeated while stamps go on. A parked camera is not, for its noise differs from frame to frame. Neither is a generated
scene that comes to rest: it slows down first, so that little of the last picture that differed was different, while nearly all
of it is where a moving or noisy picture stops. A picture that never differed is not told to be frozen, however long it stays:
the first frames of a generated scene at rest, as of a simulated robot that waits, have the very same bytes as those of a camera
that hangs from the start.

Not thread-safe: one detector belongs to one stream and one thread.
"""

from __future__ import annotations

import math
import zlib

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.frame import Blindness
from lmanet_core.stream.likeness import Glimpse, glimpse

_WIDTH, _HEIGHT = 32, 24  # cells of 64 samples, over which noise of sigma 25 is averaged down to 2
_TEXTURE_SIGMA = 2.0  # cells
_BLOCKS = (4, 4)  # of cells; the one with most texture decides, so that one lamp at night is enough to see
_LEAST_TEXTURE = 1.5  # grey levels, root mean square in that block: blind pictures have 0–0.9, dark streets 2.8, others 15–65
_NOISE_LEFT = 0.16  # of the noise's standard deviation: so much texture it makes in the cells
_DARK, _BRIGHT = 32.0, 224.0  # grey levels, mean of the picture
_CLIPPED = 250  # grey level from which a sample is overexposed
_MOVED = 0.2  # share of the samples' values that differed at the last change: more in moving or noisy pictures
_NOISE_STEP = 4  # every so many-th sample tells the noise


class BlindnessDetector:
    """Looks at each picture of a stream.

    Args:
        frozen_repeats: frames in a row with the same bytes after which a picture is frozen; 0: it never is.
    """

    def __init__(self, frozen_repeats: int) -> None:
        self._limit = frozen_repeats
        self._before: UInt8Array | None = None
        self._digest: int | None = None  # of the image before, where its samples were repeated
        self._moved = 0.0  # share of the values that differed when the picture changed last
        self._repeats = 0

    def reset(self) -> None:
        """Forget the stream; the next picture is its first."""
        self._before = self._digest = None
        self._moved, self._repeats = 0.0, 0

    def look(self, image: UInt8Array, now: Glimpse) -> Blindness | None:
        """What is wrong with the next picture; None where it shows something.

        Args:
            image: (H, W, 3) uint8 RGB.
            now: a glimpse of it.
        """
        frozen = self._is_frozen(image, now.samples)
        return textureless(now) or (Blindness.FROZEN if frozen else None)

    def _is_frozen(self, image: UInt8Array, samples: UInt8Array) -> bool:
        before, self._before = self._before, samples
        if before is None or before.shape != samples.shape:
            self._digest, self._repeats, self._moved = None, 0, 0.0
            return False
        different = int(np.count_nonzero(before != samples))
        if different:
            self._digest, self._repeats = None, 0
            self._moved = different / samples.size
            return False
        digest = zlib.crc32(np.ascontiguousarray(image).data)
        if self._digest not in (None, digest):  # little is different, between the samples
            self._repeats, self._moved = 0, 0.0
        else:
            self._repeats += 1
        self._digest = digest
        return 0 < self._limit <= self._repeats and self._moved >= _MOVED


def textureless(image: UInt8Array | Glimpse) -> Blindness | None:
    """BLACK, SATURATED or COVERED for a picture without texture; None for one that shows something.

    Args:
        image: (H, W, 3) uint8 RGB, or a glimpse of it.
    """
    grey = glimpse(image).grey
    cells = np.asarray(cv2.resize(grey, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA), np.float32)
    texture = cells - cv2.GaussianBlur(cells, (0, 0), _TEXTURE_SIGMA)
    most = float(np.sqrt(cv2.resize(texture * texture, _BLOCKS, interpolation=cv2.INTER_AREA).max()))
    if most >= _LEAST_TEXTURE + _NOISE_LEFT * _noise(grey):
        return None
    brightness = float(cells.mean())
    return Blindness.BLACK if brightness < _DARK else Blindness.SATURATED if brightness > _BRIGHT else Blindness.COVERED


def overexposed_share(now: Glimpse) -> float:
    """Share of the picture that is as bright as can be, 0–1."""
    return float(np.count_nonzero(now.grey >= _CLIPPED) / now.grey.size)


def _noise(grey: UInt8Array) -> float:
    """Standard deviation of the samples' noise, grey levels, at most: structure finer than a cell counts as noise, too."""
    fine = np.asarray(cv2.Laplacian(grey, cv2.CV_16S), np.int16)[::_NOISE_STEP, ::_NOISE_STEP]
    return float(np.median(np.abs(fine))) / (0.6745 * math.sqrt(20.0))
