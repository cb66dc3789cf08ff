"""Label images → (H, W) uint8 ids exactly as stored: from PNG data, from files and from ROS messages.

A palette file gives its indices and not its colours, a lossy format is refused. Colour-coded images are understood where the
caller says which colour is which id.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.labels import UNLABELLED
from lmanet_core.media.ros_images import image_from_message

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PALETTE, _GREY = 3, 0  # PNG colour types
_COLORS = ("rgb8", "bgr8", "rgba8", "bgra8")
_UNLABELLED_16 = 65535
_SPREAD = 257  # 65535 / 255: what converters multiply 8 bits by to fill 16
_PER_INSTANCE = 1000  # Cityscapes' instanceIds: id · 1000 + number, for classes whose things are counted
_STRAY_COLORS = 0.01  # of the pixels
_LOGGER = logging.getLogger(__name__)
_told: set[str] = set()  # folders whose spread values were told
_SAMPLES = {"mono8": "u1", "8UC1": "u1", "8SC1": "i1", "mono16": "u2", "16UC1": "u2", "16SC1": "i2", "32SC1": "i4"}


def decode_label_ids(data: UInt8Array, name: str, colors: Mapping[int, int] | None = None) -> UInt8Array:
    """Decode an encoded label image.

    Args:
        data: (N,) uint8, the encoded file.
        name: what to call it in errors; where it ends in `_instanceIds.png`, values from 1000 on are id · 1000 + a number, as
            Cityscapes has it.
        colors: for colour-coded images, colour as 0xRRGGBB → id; None: these are refused.

    Returns:
        (H, W) uint8 as stored, palette files by index, 16-bit ids that lie below 256 (65535 becomes 255) or are 8 bits
        spread to 16 (id · 257), colours by `colors`.

    Raises:
        InputError: damaged, lossy, wider values, or colours that lead nowhere.
    """
    if data[:2].tobytes() == _JPEG:
        raise InputError(f"{name}: JPEG changes class ids; label maps must be stored without loss, as PNG")
    try:
        ids = cv2.imdecode(_palette_as_grey(data), cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:  # a header that promises more than there can be
        ids = None
    if ids is None:
        raise InputError(f"{name}: not a label map that can be read; make it anew or leave it out")
    if ids.dtype == np.uint16:
        ids = _narrow(ids, name)
    if ids.dtype != np.uint8 or (ids.ndim == 3 and ids.shape[2] < 3):
        channels = 1 if ids.ndim == 2 else ids.shape[2]
        raise InputError(f"{name}: label maps have one channel of class ids, got {channels} of {ids.dtype}")
    if ids.ndim == 3:
        return _ids_of_colors(np.asarray(ids[:, :, 2::-1], np.uint8), name, colors)
    depth = data[24] if data[:8].tobytes() == _PNG else 8
    if depth < 8:  # the decoder spreads these over 0–255
        ids = ids // (255 // ((1 << int(depth)) - 1))
    return np.asarray(ids, np.uint8)


def _narrow(ids: npt.NDArray[Any], name: str) -> UInt8Array:
    """16-bit values as ids of 8 bits."""
    ids = np.where(ids == _UNLABELLED_16, np.uint16(UNLABELLED), ids)
    if name.endswith("_instanceIds.png"):
        ids = np.where(ids >= _PER_INSTANCE, ids // _PER_INSTANCE, ids)
    highest = int(ids.max())
    if highest > UNLABELLED and not (ids % _SPREAD)[ids != UNLABELLED].any():
        _tell_of_spread(str(Path(name).parent))
        return np.where(ids == UNLABELLED, UNLABELLED, ids // _SPREAD).astype(np.uint8)
    if highest > UNLABELLED:
        raise InputError(
            f"{name}: class ids must be 0–255 (or 65535, unlabelled), got values up to {highest}; is this a depth image, or "
            "do its values count instances? give the label maps of the classes"
        )
    return ids.astype(np.uint8)


def _tell_of_spread(folder: str) -> None:
    """Once for each folder, as soon as warnings are heard."""
    if folder in _told or not _LOGGER.isEnabledFor(logging.WARNING):
        return
    _told.add(folder)
    _LOGGER.warning(
        "%s: label maps of 16 bits hold multiples of %d alone, as where 8 bits were spread; read as 8 bits", folder, _SPREAD
    )


def _ids_of_colors(image: UInt8Array, name: str, colors: Mapping[int, int] | None) -> UInt8Array:
    """(H, W, 3) RGB → (H, W) ids; pixels of other colours are void where they are few, as at edges that somebody smoothed."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue) and not _are_colors(red, colors or {}):
        return np.ascontiguousarray(red)  # ids that were stored as grey in three channels
    if not colors:
        raise InputError(
            f"{name}: label maps have one channel of class ids, got a colour image; say with names and colors which colour is "
            "which class (labels.yaml, or --mapping for lmanet evaluate)"
        )
    table = _color_table(tuple(sorted(colors.items())))
    packed = red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue
    ids = table[packed]
    unknown = ids < 0
    if unknown.any():
        share = float(unknown.mean())
        found, counts = np.unique(packed[unknown], return_counts=True)
        most = ", ".join(f"#{found[index]:06x}" for index in np.argsort(-counts)[:3])
        what = f"{name}: {100 * share:.1f} % of the pixels have a colour of no class ({most})"
        if share > _STRAY_COLORS:
            raise InputError(f"{what}; is this a label map, and of these classes? name its colours under ids or ignore")
        _LOGGER.warning("%s; they are void", what)
        ids = np.where(unknown, np.int16(table[0] if table[0] >= 0 else UNLABELLED), ids)
    return np.asarray(ids, np.uint8)


def _are_colors(grey: UInt8Array, colors: Mapping[int, int]) -> bool:
    """Whether the greys (H, W) of an image are colours of classes, such as that of asphalt, and not ids."""
    values = set(np.flatnonzero(np.bincount(grey.ravel(), minlength=256)).tolist())
    return all(value * 0x010101 in colors for value in values) and not values <= {*colors.values(), UNLABELLED}


@lru_cache(maxsize=2)
def _color_table(colors: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int16]:
    """(2²⁴,) int16, id of each colour, −1 where it is none."""
    table = np.full(1 << 24, -1, np.int16)
    for color, number in colors:
        table[color] = number
    return table


def label_ids_from_message(message: Any, name: str, colors: Mapping[int, int] | None = None) -> UInt8Array:
    """Class ids of a sensor_msgs/Image with one channel, or of a CompressedImage that holds a PNG.

    Args:
        message: read by attribute only; any of the generated classes, ROS 1 or ROS 2.
        name: what to call it in errors.
        colors: as of `decode_label_ids`.

    Returns:
        (H, W) uint8; ids of 16 bits as of `decode_label_ids`, those of other wider integers lie within 0–255, −1 becomes 255.

    Raises:
        InputError: colours, lossy compression, too little data, ids that do not fit.
    """
    if hasattr(message, "format"):
        return decode_label_ids(np.frombuffer(message.data, np.uint8), name, colors)
    encoding, height, width = str(message.encoding), int(message.height), int(message.width)
    if colors and encoding in _COLORS:
        image = image_from_message(message)
        return _ids_of_colors(image, name, colors)
    if encoding not in _SAMPLES:
        raise InputError(f"{name}: a label image has one channel of ids ({', '.join(_SAMPLES)}), got {encoding}")
    sample = np.dtype(("<", ">")[bool(message.is_bigendian)] + _SAMPLES[encoding])
    step = int(message.step) or width * sample.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if min(height, width) < 1 or step < width * sample.itemsize or data.size < step * height:
        raise InputError(f"{name}: {width}x{height} ids in {encoding} do not fit step {step} and {data.size} bytes of data")
    rows = data[: step * height].reshape(height, step)[:, : width * sample.itemsize]
    ids = np.ascontiguousarray(rows).view(sample)
    if sample == np.dtype("u2") or sample == np.dtype(">u2"):
        return _narrow(ids, name)
    if sample.itemsize > 1 or sample.kind == "i":
        if int(ids.min()) < -1 or int(ids.max()) > 255:
            raise InputError(f"{name}: class ids must be 0–255 (or −1, unlabelled), got {int(ids.min())} to {int(ids.max())}")
        ids = np.where(ids == -1, 255, ids)
    return ids.astype(np.uint8)


def _palette_as_grey(data: UInt8Array) -> UInt8Array:
    """A palette PNG told to be grey, so that the decoder gives indices, not colours; anything else as it is."""
    content = data.tobytes()
    if content[:8] != _PNG or len(content) < 33 or content[25] != _PALETTE:
        return data
    header = b"IHDR" + content[16:25] + bytes([_GREY]) + content[26:29]
    parts = [_PNG, struct.pack(">I", 13), header, struct.pack(">I", zlib.crc32(header))]
    start = 33
    while start + 12 <= len(content):
        (length,) = struct.unpack(">I", content[start : start + 4])
        if content[start + 4 : start + 8] not in (b"PLTE", b"tRNS"):
            parts.append(content[start : start + 12 + length])
        start += 12 + length
    return np.frombuffer(b"".join(parts), np.uint8)
