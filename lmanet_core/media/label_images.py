"""Label images → (H, W) uint8 ids exactly as stored: from PNG data, from files and from ROS messages.

Nothing is converted on the way: a palette file gives its indices and not its colours, a lossy format is refused.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PALETTE, _GREY = 3, 0  # PNG colour types
_SAMPLES = {"mono8": "u1", "8UC1": "u1", "8SC1": "i1", "mono16": "u2", "16UC1": "u2", "16SC1": "i2", "32SC1": "i4"}


def decode_label_ids(data: UInt8Array, name: str) -> UInt8Array:
    """Decode an encoded label image.

    Args:
        data: (N,) uint8, the encoded file.
        name: what to call it in errors.

    Returns:
        (H, W) uint8 as stored, palette files by index.

    Raises:
        InputError: damaged, lossy, or anything but one 8-bit channel.
    """
    if data[:2].tobytes() == _JPEG:
        raise InputError(f"{name}: JPEG changes class ids; label maps must be stored without loss, as PNG")
    ids = cv2.imdecode(_palette_as_grey(data), cv2.IMREAD_UNCHANGED) if data.size else None
    if ids is None:
        raise InputError(f"{name}: not a label map that can be read; make it anew or leave it out")
    if ids.ndim != 2 or ids.dtype != np.uint8:
        channels = 1 if ids.ndim == 2 else ids.shape[2]
        raise InputError(f"{name}: label maps have one 8-bit channel of class ids, got {channels} of {ids.dtype}")
    depth = data[24] if data[:8].tobytes() == _PNG else 8
    if depth < 8:  # the decoder spreads these over 0–255
        ids = ids // (255 // ((1 << int(depth)) - 1))
    return np.asarray(ids, np.uint8)


def label_ids_from_message(message: Any, name: str) -> UInt8Array:  # any of the generated classes, ROS 1 or ROS 2
    """Class ids of a sensor_msgs/Image with one channel, or of a CompressedImage that holds a PNG.

    Args:
        message: read by attribute only.
        name: what to call it in errors.

    Returns:
        (H, W) uint8; ids of wider integers must lie within 0–255, −1 becomes 255.

    Raises:
        InputError: colours, lossy compression, too little data, ids that do not fit.
    """
    if hasattr(message, "format"):
        return decode_label_ids(np.frombuffer(message.data, np.uint8), name)
    encoding, height, width = str(message.encoding), int(message.height), int(message.width)
    if encoding not in _SAMPLES:
        raise InputError(f"{name}: a label image has one channel of ids ({', '.join(_SAMPLES)}), got {encoding}")
    sample = np.dtype(("<", ">")[bool(message.is_bigendian)] + _SAMPLES[encoding])
    step = int(message.step) or width * sample.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if min(height, width) < 1 or step < width * sample.itemsize or data.size < step * height:
        raise InputError(f"{name}: {width}x{height} ids in {encoding} do not fit step {step} and {data.size} bytes of data")
    rows = data[: step * height].reshape(height, step)[:, : width * sample.itemsize]
    ids = np.ascontiguousarray(rows).view(sample)
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
