"""Images in messages that are not sensor_msgs' own, put in the form of those, so that everything behind knows only two.

Foxglove's CompressedImage, CompressedVideo and RawImage, in protobuf or as ROS messages; packets of ffmpeg_image_transport; and
what zstd_image_transport puts into a CompressedImage. Read by their published definitions:
https://docs.foxglove.dev/docs/visualization/message-schemas, github.com/ros-misc-utils/ffmpeg_image_transport_msgs.
"""

from __future__ import annotations

import struct
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from lmanet_core.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: ROS type → definition, for the types that need no other.
DEFINITIONS = {
    "foxglove_msgs/msg/CompressedImage": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "foxglove_msgs/msg/CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "foxglove_msgs/msg/RawImage": "builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\nuint32 height\n"
    "string encoding\nuint32 step\nuint8[] data\n",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\n"
    "uint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data\n",
}
#: Protobuf type → number of each field, see Foxglove's schemas.
_PROTOBUF = {
    "foxglove.CompressedImage": {"timestamp": 1, "data": 2, "format": 3, "frame_id": 4},
    "foxglove.CompressedVideo": {"timestamp": 1, "frame_id": 2, "data": 3, "format": 4},
    "foxglove.RawImage": {
        "timestamp": 1, "width": 2, "height": 3, "encoding": 4, "step": 5, "data": 6, "frame_id": 7,
    },
}  # fmt: skip
RAW_TYPES = ("foxglove_msgs/msg/RawImage", "foxglove.RawImage")
TYPES = (*DEFINITIONS, *_PROTOBUF)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_HEADER = struct.Struct("<IIBII")  # height, width, is_bigendian, step, length of the encoding's name
_MAX_IMAGE = 2**30  # bytes


def as_sensor_message(message: Any) -> Any:
    """An Image or CompressedImage by attributes, from a deserialised message of `DEFINITIONS`."""
    if hasattr(message, "pts"):
        return SimpleNamespace(header=message.header, format=message.encoding, data=message.data)
    header = SimpleNamespace(stamp=message.timestamp, frame_id=message.frame_id)
    if hasattr(message, "format"):
        return SimpleNamespace(header=header, format=message.format, data=message.data)
    return SimpleNamespace(
        header=header,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=0,
        step=message.step,
        data=message.data,
    )


def read_protobuf(data: bytes, msgtype: str) -> Any:
    """An Image or CompressedImage by attributes, from one of Foxglove's messages in protobuf.

    Raises:
        InputError: another type, or damaged.
    """
    numbers = _PROTOBUF.get(msgtype)
    if numbers is None:
        raise InputError(f"wanted one of {', '.join(_PROTOBUF)}, got {msgtype}")
    fields = _fields(data)
    values = {name: fields.get(number) for name, number in numbers.items()}
    time = _fields(values["timestamp"]) if isinstance(values["timestamp"], bytes) else {}
    stamp = SimpleNamespace(sec=_integer(time.get(1)), nanosec=_integer(time.get(2)))
    texts = {name: _text(values.get(name)) for name in ("frame_id", "format", "encoding")}
    content = values["data"] if isinstance(values["data"], bytes) else b""
    whole = {name: _integer(values.get(name)) for name in ("width", "height", "step")}
    message = {"timestamp": stamp, "frame_id": texts["frame_id"], "data": np.frombuffer(content, np.uint8)}
    if "format" in numbers:
        return as_sensor_message(SimpleNamespace(**message, format=texts["format"]))
    return as_sensor_message(SimpleNamespace(**message, **whole, encoding=texts["encoding"]))


def unpack_zstd(message: Any) -> Any:
    """The Image that zstd_image_transport packed into a CompressedImage; any other CompressedImage as it is.

    Raises:
        InputError: it begins like one and cannot be unpacked.
    """
    data = memoryview(message.data)
    if len(data) < _ZSTD_HEADER.size:
        return message
    height, width, is_bigendian, step, length = _ZSTD_HEADER.unpack_from(data)
    start = _ZSTD_HEADER.size + length
    if bytes(data[start : start + 4]) != _ZSTD_MAGIC:
        return message
    if step * height > _MAX_IMAGE:
        raise InputError(f"an image of {height} rows of {step} bytes is not believable")
    try:
        encoding = bytes(data[_ZSTD_HEADER.size : start]).decode().rstrip("\0")
        pixels = zstd.decompress(data[start:])
    except (zstd.ZstdError, UnicodeDecodeError) as error:
        raise InputError(f"an image of the zstd transport cannot be unpacked: {error}") from error
    return SimpleNamespace(
        header=message.header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=step,
        data=np.frombuffer(pixels, np.uint8),
    )


def _fields(data: bytes) -> dict[int, int | bytes]:
    """Number → value of a protobuf message; of repeated fields the last.

    https://protobuf.dev/programming-guides/encoding
    """
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, size = tag & 7, 0
        if kind == 0:
            found[tag >> 3], at = _varint(data, at)
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise InputError(f"a protobuf message with a field of kind {kind}")
        value = data[at : at + size]
        if len(value) != size:
            raise InputError(f"a protobuf message is cut off: {size} bytes expected, {len(value)} left")
        found[tag >> 3] = value if kind == 2 else int.from_bytes(value, "little")
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise InputError("a protobuf message is cut off in a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise InputError("a protobuf message with a number of more than 64 bits")


def _integer(value: int | bytes | None) -> int:
    return value if isinstance(value, int) else 0


def _text(value: int | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
