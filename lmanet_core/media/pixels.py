"""Whatever an image came as → (H, W, 3) uint8 RGB, the only pixel format behind the sources.

Arrays go through `to_rgb`, encoded files and CompressedImage data through `decode_image`. Nothing is resized, stretched or
guessed here: what has no clear meaning as a colour image is refused with `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"

_LOOKED_AT = 3  # images of 16 bits, before it is said that their values are small


class SampleDepth:
    """How many of 16 bits a camera fills, the same for a whole stream, so that brightness does not flicker.

    Args:
        bits: values go up to 2^bits − 1; larger ones become white.
        on_small: called once with a sentence where the first images use fewer bits than that, and would look black.

    Raises:
        ConfigError: bits outside 8–16.
    """

    def __init__(self, bits: int = 16, on_small: Callable[[str], None] | None = None) -> None:
        if not 8 <= bits <= 16:
            raise ConfigError(f"bits must be 8 to 16, got {bits}")
        self.bits = bits
        self._on_small = on_small
        self._looked_at = self._highest = 0

    def to_8_bit(self, samples: npt.NDArray[np.uint16]) -> UInt8Array:
        """The upper eight of the bits, as an array of the same shape."""
        if self._on_small is not None and self._looked_at < _LOOKED_AT:
            self._look_at(int(samples.max(initial=0)))
        if self.bits < 16:
            samples = np.minimum(samples, (1 << self.bits) - 1)
        return (samples >> (self.bits - 8)).astype(np.uint8)

    def _look_at(self, highest: int) -> None:
        self._looked_at += 1
        self._highest = max(self._highest, highest)
        filled = next((bits for bits in (8, 10, 12, 14) if self._highest < 1 << bits), 16)
        if self._looked_at == _LOOKED_AT and filled < self.bits and self._on_small is not None:
            self._on_small(
                f"the values of its first {_LOOKED_AT} images of 16 bits go up to {self._highest} only, as of a camera of "
                f"{filled} bits, and look black when divided by {1 << (self.bits - 8)}; try --bits {filled} (node: bits)"
            )


SIXTEEN_BITS = SampleDepth()


def to_rgb(image: npt.NDArray[Any], depth: SampleDepth = SIXTEEN_BITS) -> UInt8Array:
    """Bring an image array to RGB.

    Args:
        image: (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, whose alpha is dropped; uint8, or uint16, which is
            brought to 8 bits on a fixed scale. Three channels always mean R, G, B in this order: turn OpenCV's BGR around
            with `image[..., ::-1]` first.
        depth: of uint16.

    Returns:
        (H, W, 3) uint8, C-contiguous; without a copy where the array already is that.

    Raises:
        InputError: no pixels, another dtype, or a shape that is not an image.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        hint = "; move the channels last" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise InputError(f"an image is (H, W) or (H, W, 1, 3 or 4), got shape {image.shape}{hint}")
    if image.size == 0:
        raise InputError(f"an image needs at least one pixel, got shape {image.shape}")
    if image.dtype == np.uint16:
        image = depth.to_8_bit(image)
    elif image.dtype != np.uint8:
        hint = "; multiply values of 0–1 by 255 and convert" if np.issubdtype(image.dtype, np.floating) else ""
        raise InputError(f"an image must be uint8 or uint16, got {image.dtype}{hint}")
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)  # (H, W, 3)
    return np.ascontiguousarray(image[:, :, :3])


def decode_image(
    data: bytes | memoryview | npt.NDArray[np.uint8], *, upright: bool = False, depth: SampleDepth = SIXTEEN_BITS
) -> UInt8Array:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or PNM that is in memory.

    Args:
        data: the whole encoded image.
        upright: turn the image as its EXIF orientation says (photographs); else keep the sensor's pixel grid (cameras).
        depth: of images of 16 bits.

    Returns:
        (H, W, 3) uint8 RGB, alpha dropped.

    Raises:
        InputError: empty, damaged or cut off, or not an image.
    """
    return to_rgb(decode_pixels(data, upright=upright), depth)


def decode_pixels(data: bytes | memoryview | npt.NDArray[np.uint8], *, upright: bool = False) -> npt.NDArray[Any]:
    """As `decode_image`, with the samples and channels that were stored: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA."""
    encoded = np.frombuffer(data, np.uint8)
    if encoded.size == 0:
        raise InputError("an encoded image was expected, got 0 bytes")
    if _is_cut_off(encoded.tobytes()):
        raise InputError(f"the encoded image is cut off after {encoded.size} bytes")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if upright else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error as error:
        raise InputError(f"the encoded image cannot be decoded: {error.err or error}") from error
    if image is None:
        raise InputError(f"{encoded.size} bytes are not an image that OpenCV can decode (damaged, or another format)")
    if image.ndim == 3 and image.shape[2] >= 3:
        order = [2, 1, 0, 3][: image.shape[2]]  # OpenCV decodes to BGR and BGRA
        image = image[:, :, order]
    return image


def _is_cut_off(data: bytes) -> bool:
    """Older OpenCV fills the missing half of a JPEG or PNG with grey and calls it a success."""
    if data.startswith(_JPEG_START):
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    return data.startswith(_PNG_START) and _PNG_END not in data
