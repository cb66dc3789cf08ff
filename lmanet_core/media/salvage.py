"""Read what is left of bags that rosbags refuses: cut off, never closed, or ROS 1 messages in an MCAP.

A recorder that is killed leaves a file without the index at its end, and rosbags needs that index. These readers need none:
they walk the file from its start, record by record, and stop where it stops. Messages come in file order. One function for
each format; each reports damage through a callback and then goes on, or ends, and never raises for it.

Formats: https://mcap.dev/spec, http://wiki.ros.org/Bags/Format/2.0, and rosbag2's tables `topics` and `messages` in SQLite.
"""

from __future__ import annotations

import bz2
import shutil
import sqlite3
import struct
import sys
from binascii import crc32
from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

import lz4.frame  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OnDamage = Callable[[str], None]

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_ROS1_MAGIC = b"#ROSBAG V2.0\n"
PACKED_SUFFIXES = (".zstd", ".zst")
_MAX_RECORD = 2**32  # a longer one is a damaged length


class RawMessage(NamedTuple):
    """A message as it lies in a bag.

    Attributes:
        topic: its name.
        msgtype: in the form package/msg/Name, for ROS 1 as well.
        receive_ns: when the recorder got it.
        data: serialised.
        serialization: "cdr" (ROS 2), "ros1", or whatever else an MCAP holds.
        after_loss: messages were recorded between the one before and this, and are lost.
    """

    topic: str
    msgtype: str
    receive_ns: int
    data: bytes
    serialization: str
    after_loss: bool = False


class _Broken(Exception):
    """The file ends in the middle of a record, or a record cannot be what it says."""


def scan_file(path: Path, on_damage: OnDamage) -> Iterator[RawMessage]:
    """All messages of an .mcap, .db3 or ROS 1 .bag (also .bag.active) file that can be read, in file order.

    The file may be compressed as a whole, as rosbag2 does with `--compression-mode file`: x.mcap.zstd, x.db3.zstd.
    """
    is_packed = path.suffix in PACKED_SUFFIXES
    if (Path(path.stem) if is_packed else path).suffix == ".db3":
        yield from _scan_packed_sqlite(path, on_damage) if is_packed else _scan_sqlite(path, on_damage)
        return
    try:
        with _open_packed(path) if is_packed else path.open("rb") as file:
            start = file.peek(len(_ROS1_MAGIC))
            if start.startswith(_MCAP_MAGIC):
                file.read(len(_MCAP_MAGIC))
                yield from _McapScan(on_damage).read(file)
            elif start.startswith(_ROS1_MAGIC):
                file.read(len(_ROS1_MAGIC))
                yield from _Ros1Scan(on_damage).read(file)
            else:
                on_damage(f"{path.name} does not start like a bag")
    except OSError as error:
        on_damage(f"{path.name} cannot be read: {error.strerror or error}")


class _Packed(RawIOBase):
    """The content of a file that was compressed with zstd; where it cannot be unpacked it ends, as if it were cut off there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = zstd.ZstdDecompressor()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        while not self._ready and not self._unpacker.eof:
            packed = self._file.read(1 << 16)
            try:
                self._ready = memoryview(self._unpacker.decompress(packed))
            except zstd.ZstdError:
                return 0
            if not packed:
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_packed(path: Path) -> BufferedReader:
    return BufferedReader(_Packed(path), 1 << 20)


class _McapScan:
    """MCAP, records from the header to the end of the data section or of the file."""

    def __init__(self, on_damage: OnDamage) -> None:
        self._on_damage = on_damage
        self._schemas: dict[int, tuple[str, str]] = {0: ("", "")}  # id → name, encoding
        self._channels: dict[int, tuple[str, str, str]] = {}  # id → topic, type, serialisation

    def read(self, file: BinaryIO) -> Iterator[RawMessage]:
        try:
            yield from self._records(file)
        except (_Broken, struct.error, UnicodeDecodeError) as error:
            self._on_damage(f"the file breaks off: {error}")

    def _records(self, file: BinaryIO, in_chunk: bool = False) -> Iterator[RawMessage]:
        while True:
            op = file.read(1)
            if not op:
                if not in_chunk:
                    raise _Broken("it was never closed")
                return
            if op in (b"\x02", b"\x0f"):  # footer, end of data
                return
            size = struct.unpack("<Q", _read(file, 8))[0]
            if op == b"\x06" and not in_chunk:
                yield from self._chunk(file, size)
                continue
            record = BytesIO(_read(file, size))
            if op == b"\x03":
                key = struct.unpack("<H", _read(record, 2))[0]
                self._schemas[key] = (_text(record), _text(record))
            elif op == b"\x04":
                self._channel(record)
            elif op == b"\x05":
                key, _, receive_ns, _ = struct.unpack("<HIQQ", _read(record, 22))
                if key in self._channels:
                    topic, msgtype, serialization = self._channels[key]
                    yield RawMessage(topic, msgtype, receive_ns, record.read(), serialization)

    def _channel(self, record: BytesIO) -> None:
        key, schema = struct.unpack("<HH", _read(record, 4))
        topic, serialization = _text(record), _text(record)
        name, encoding = self._schemas.get(schema, ("", ""))
        is_ros = encoding in ("ros1msg", "ros2msg", "ros2idl")
        self._channels[key] = (topic, _ros_type(name) if is_ros else name, serialization)

    def _chunk(self, file: BinaryIO, size: int) -> Iterator[RawMessage]:
        if size > _MAX_RECORD:
            raise _Broken(f"a chunk of {size} bytes")
        record = BytesIO(file.read(size))
        is_whole = record.getbuffer().nbytes == size
        _, _, unpacked_size, checksum = struct.unpack("<QQQI", _read(record, 28))
        compression, packed_size = _text(record), struct.unpack("<Q", _read(record, 8))[0]
        packed = record.read(packed_size)
        if not is_whole and compression:
            raise _Broken("in a compressed chunk")
        try:
            data = _unpack(packed, compression)
        except Exception as error:  # three libraries, each with errors of its own
            self._on_damage(f"a chunk cannot be unpacked ({compression}): {error}")
            return
        if is_whole and (len(data) != unpacked_size or (checksum and crc32(data) != checksum)):
            self._on_damage("a chunk does not match its checksum")
            return
        yield from self._records(BytesIO(data), in_chunk=True)


class _Ros1Scan:
    """ROS 1 bag format 2.0: connections and messages, in chunks or bare."""

    def __init__(self, on_damage: OnDamage) -> None:
        self._on_damage = on_damage
        self._connections: dict[bytes, tuple[str, str]] = {}  # id → topic, type
        self._index_position = 0

    def read(self, file: BinaryIO) -> Iterator[RawMessage]:
        try:
            yield from self._records(file)
            if file.tell() <= self._index_position or not self._index_position:
                raise _Broken("it was never closed")
        except (_Broken, struct.error, UnicodeDecodeError, KeyError) as error:
            self._on_damage(f"the file breaks off: {error}")

    def _records(self, file: BinaryIO) -> Iterator[RawMessage]:
        while start := file.read(4):
            fields = _fields(_read(file, struct.unpack("<I", start.ljust(4))[0]))
            size = struct.unpack("<I", _read(file, 4))[0]
            op = fields[b"op"]
            if op == b"\x05":
                yield from self._chunk(file, size, fields[b"compression"].decode())
                continue
            data = _read(file, size)
            if op == b"\x03":
                self._index_position = struct.unpack("<Q", fields[b"index_pos"])[0]
            elif op == b"\x07":
                self._connections[fields[b"conn"]] = (fields[b"topic"].decode(), _ros_type(_fields(data)[b"type"].decode()))
            elif op == b"\x02" and fields[b"conn"] in self._connections:
                topic, msgtype = self._connections[fields[b"conn"]]
                seconds, nanoseconds = struct.unpack("<II", fields[b"time"])
                yield RawMessage(topic, msgtype, seconds * 10**9 + nanoseconds, data, "ros1")

    def _chunk(self, file: BinaryIO, size: int, compression: str) -> Iterator[RawMessage]:
        packed = file.read(size)
        is_whole = len(packed) == size
        if not is_whole and compression != "none":
            raise _Broken("in a compressed chunk")
        try:
            data = _unpack(packed, compression)
        except Exception as error:  # three libraries, each with errors of its own
            self._on_damage(f"a chunk cannot be unpacked ({compression}): {error}")
            return
        yield from self._records(BytesIO(data))


def _scan_packed_sqlite(path: Path, on_damage: OnDamage) -> Iterator[RawMessage]:
    """SQLite reads files alone, so it is unpacked into a temporary one, as far as that goes."""
    with TemporaryDirectory(prefix="lmanet_") as folder:
        unpacked = Path(folder) / path.stem
        try:
            with _open_packed(path) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            on_damage(f"{path.name} cannot be unpacked: {error.strerror or error}")
            return
        yield from _scan_sqlite(unpacked, on_damage)


def _scan_sqlite(path: Path, on_damage: OnDamage) -> Iterator[RawMessage]:
    """Rows in the order they were written, up to the first page that is missing."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            connection.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a file shorter than its header says
            topics = {key: rest for key, *rest in connection.execute("SELECT id, name, type, serialization_format FROM topics")}
            for key, receive_ns, data in connection.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY rowid"):
                if key in topics and isinstance(data, bytes):
                    name, msgtype, serialization = topics[key]
                    yield RawMessage(name, msgtype, receive_ns, data, serialization)
        finally:
            connection.close()
    except sqlite3.Error as error:
        on_damage(f"the database breaks off: {error}")


def _read(file: BinaryIO, size: int) -> bytes:
    if size > _MAX_RECORD:
        raise _Broken(f"a record of {size} bytes")
    data = file.read(size)
    if len(data) != size:
        raise _Broken(f"{size} bytes expected, {len(data)} left")
    return data


def _text(file: BinaryIO) -> str:
    return _read(file, struct.unpack("<I", _read(file, 4))[0]).decode()


def _fields(header: bytes) -> dict[bytes, bytes]:
    """ROS 1 record header: length, name=value, and again."""
    stream, fields = BytesIO(header), {}
    while start := stream.read(4):
        name, _, value = _read(stream, struct.unpack("<I", start)[0]).partition(b"=")
        fields[name] = value
    return fields


def _unpack(packed: bytes, compression: str) -> bytes:
    if compression in ("", "none"):
        return packed
    if compression == "lz4":
        return bytes(lz4.frame.decompress(packed))
    if compression == "zstd":
        return zstd.decompress(packed)
    if compression == "bz2":
        return bz2.decompress(packed)
    raise _Broken(f"unknown compression {compression}")


def _ros_type(name: str) -> str:
    """package/Name → package/msg/Name, the form of ROS 2."""
    package, *_, base = name.split("/")
    return f"{package}/msg/{base}"
