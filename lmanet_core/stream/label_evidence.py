"""How much of the past labels still holds, pixel by pixel: what two pictures of a stream say about it.

    picture now, picture before → where each pixel was (optical flow) → does it look the same there?
                                                                      → or is the picture lost there?

Works on thumbnails, and knows neither networks nor classes. A picture is lost where it is perfectly flat and was not before:
blocks of lost packets, a covered lens, a saturated patch. There the present has nothing to say, so the past is kept, in the
labels and in the picture that the next one is compared with.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.stream.motion import LEAST_SIDE, thumbnail

Mask: TypeAlias = npt.NDArray[np.bool_]

DOWN, RIGHT, HOLDS = range(3)  # planes of the evidence
LOST = 2.0  # in the plane `HOLDS`
TOLERANCE = 10.0  # grey levels along the motion; a pixel that differs by so much holds to a third
BLUR = 3  # pixels over which the difference is averaged
CONTRAST = 50.0  # grey levels of standard deviation; flatter pictures (night) are compared more strictly …
LEAST_CONTRAST = 0.2  # … down to this share of the tolerance
FREE_NOISE = 1.0  # grey levels of camera noise that the tolerance covers
NOISE_DIFFERENCE = 1.13  # mean absolute difference of two pictures whose noise has standard deviation 1
FLAT = 2  # grey levels between the darkest and the brightest pixel of a flat window
FLAT_SIDE = 5  # pixels of that window
_FLAT_WINDOW = np.ones((FLAT_SIDE, FLAT_SIDE), np.uint8)
DIFFERS = 0.7  # of the tolerance; a pixel of a flat patch that differs by more looks different
LOST_SHARE = 0.3  # of a flat patch that must look different from before for the patch to be lost
MARGIN = 9  # pixels of a square around what is lost: the network's labels suffer there, too
SURROUNDINGS = (1.5, 5.0)  # such squares over which it is averaged, near and far
COARSE = 8  # thumbnail pixels a side of the squares by which motion is filled in

SECOND_DERIVATIVE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
NOISE_MEDIAN = 0.6745 * 6.0  # of its absolute value, in noise of standard deviation 1
_AROUND_LOST = np.ones((MARGIN, MARGIN), np.uint8)


class PictureComparison:
    """Compares each picture of a stream with the one before it. One thread at a time."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(0)
        self._past: UInt8Array | None = None
        self._seen: UInt8Array | None = None

    def clear(self) -> None:
        """Forget the stream."""
        self._past = self._seen = None

    def compare(self, image: UInt8Array) -> Float32Array | None:
        """What this picture says about the labels of the last one that was committed.

        Args:
            image: (H, W, 3) uint8 RGB, of any size with the same aspect as before.

        Returns:
            (3, h, w) float32 at the thumbnail's size: where each pixel was, as shares of the picture's height (`DOWN`) and
            width (`RIGHT`) from where it is; how much of the past holds (`HOLDS`, 0–1), or `LOST` where the picture is lost.
            None where there is nothing to compare with.
        """
        now = thumbnail(image).copy()  # small images are their own thumbnail, and the caller's to reuse
        self._seen = now
        if self._past is None or self._past.shape != now.shape:
            return None
        grey, flat = _grey(now), _flat(now)
        has_flat = bool(flat.any())
        flow = self._measure(grey, _grey(self._past))
        if has_flat:
            flow = _filled(flow, cv2.dilate(flat, _AROUND_LOST) == 0)
        height, width = grey.shape
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        columns, rows = columns + flow[..., 0], rows + flow[..., 1]
        inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
        came = np.asarray(cv2.remap(self._past, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        difference = cv2.blur(_mean_of_colours(np.asarray(cv2.absdiff(came, now), np.uint8)), (BLUR, BLUR))
        difference = np.maximum(difference - NOISE_DIFFERENCE * max(0.0, _noise(grey) - FREE_NOISE), 0.0)
        tolerance = TOLERANCE * float(np.clip(grey.std() / CONTRAST, LEAST_CONTRAST, 1.0))
        evidence = np.empty((3, height, width), np.float32)
        evidence[DOWN], evidence[RIGHT] = flow[..., 1] / height, flow[..., 0] / width
        evidence[HOLDS] = np.exp(-np.square(difference / tolerance)) * inside
        if has_flat:
            lost = _lost(flat, difference > DIFFERS * tolerance) & inside
            evidence[HOLDS][lost] = LOST
            self._seen = np.where(lost[..., None], came, now)
        return evidence

    def commit(self) -> None:
        """The picture compared last is the one that the next is compared with."""
        self._past = self._seen

    def _measure(self, now: UInt8Array, past: UInt8Array) -> Float32Array:
        """(h, w, 2): from each pixel to where it was, right and down, pixels."""
        if min(now.shape) < LEAST_SIDE:
            return np.zeros((*now.shape, 2), np.float32)
        return np.asarray(self._flow.calc(now, past, None), np.float32)  # type: ignore[call-overload]


def _grey(picture: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _mean_of_colours(picture: UInt8Array) -> Float32Array:
    """(h, w, 3) → (h, w)."""
    red, green, blue = cv2.split(picture)
    total = cv2.add(cv2.add(red, green, dtype=cv2.CV_32F), blue, dtype=cv2.CV_32F)
    return np.asarray(total / np.float32(3.0), np.float32)


def _flat(picture: UInt8Array) -> UInt8Array:
    """(h, w) 1 where the picture is of one colour over a whole window."""
    span = cv2.subtract(cv2.dilate(picture, _FLAT_WINDOW), cv2.erode(picture, _FLAT_WINDOW))
    red, green, blue = cv2.split(span)
    flat = (cv2.max(cv2.max(red, green), blue) <= FLAT).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(flat, cv2.MORPH_OPEN, _FLAT_WINDOW), np.uint8)


def _lost(flat: UInt8Array, differs: Mask) -> Mask:
    """(h, w) bool: flat patches that look different from what was there, and a margin around them."""
    count, patches = cv2.connectedComponents(flat)
    sizes = np.bincount(patches.ravel(), minlength=count)
    changed = np.bincount(patches.ravel(), differs.ravel(), count) / np.maximum(sizes, 1)
    lost = changed > LOST_SHARE
    lost[0] = False  # what is not flat
    return cv2.dilate(lost[patches].astype(np.uint8), _AROUND_LOST) > 0


def _filled(flow: Float32Array, known: Mask) -> Float32Array:
    """A flow (h, w, 2) with the motion of the surroundings where it is not known."""
    height, width = known.shape
    weight = known.astype(np.float32)
    size = (max(1, width // COARSE), max(1, height // COARSE))
    coarse = cv2.resize(np.dstack((flow * weight[..., None], weight)), size, interpolation=cv2.INTER_AREA)
    near, far = (cv2.GaussianBlur(coarse, (0, 0), sigma) for sigma in SURROUNDINGS)
    coarse = near + 1e-2 * far + 1e-6 * coarse.mean((0, 1))
    smooth = cv2.resize(coarse[..., :2] / np.maximum(coarse[..., 2:], 1e-9), (width, height))
    return np.where(known[..., None], flow, smooth).astype(np.float32)


def _noise(grey: UInt8Array) -> float:
    """Standard deviation of the noise, grey levels: of what a difference of second derivatives leaves of a picture."""
    return float(np.median(np.abs(cv2.filter2D(grey, cv2.CV_32F, SECOND_DERIVATIVE)))) / NOISE_MEDIAN
