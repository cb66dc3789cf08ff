"""Serialised messages of a bag, ROS 1 or ROS 2, whole or damaged.

rosbags reads, without the definitions inside the bag: only sensor_msgs is needed and its definitions are known, so a topic of
an unknown or broken type disturbs nobody. (`rosbags.highlevel.AnyReader` parses them all, and refuses the bag for one.) Where
rosbags gives up, on a damaged file or on ROS 1 messages in an MCAP, `salvage` reads on in file order.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2

from lmanet_core.errors import InputError
from lmanet_core.media.salvage import PACKED_SUFFIXES, OnDamage, RawMessage, scan_file

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

BAG_SUFFIXES = (".bag", ".mcap", ".db3", ".active")  # rosbag record writes x.bag.active until it closes the bag
METADATA = "metadata.yaml"
_PARTS = tuple(f"{suffix}{packing}" for suffix in (".mcap", ".db3") for packing in ("", *PACKED_SUFFIXES))

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BagTopic:
    """A topic of a bag: name, type in the form package/msg/Name, number of messages."""

    name: str
    msgtype: str
    count: int


def is_bag_file(file: Path) -> bool:
    """Whether a file's name says that it is a bag, also one that is compressed as a whole (x.mcap.zstd)."""
    return file.suffix in BAG_SUFFIXES or file.name.endswith(_PARTS)


def is_bag_folder(folder: Path) -> bool:
    """Whether a folder is a ROS 2 bag, also one whose metadata.yaml is missing because the recorder was killed."""
    metadata = folder / METADATA
    return bool(_storage_files(folder)) or (metadata.is_file() and b"rosbag2_bagfile_information" in metadata.read_bytes())


class BagFiles:
    """A bag, open for reading.

    Args:
        path: ROS 2 bag folder, .mcap, .db3 or ROS 1 .bag file.
        on_damage: called with a reason for each place that could not be read.

    Attributes:
        topics: by name.

    Raises:
        InputError: not a bag, or damaged so that not one message can be read.
    """

    def __init__(self, path: Path, on_damage: OnDamage) -> None:
        self._path = path
        self._on_damage = on_damage
        self._files = _storage_files(path) if path.is_dir() else [path]
        self._connections: list[Connection] = []
        self._reader: Reader1 | Reader2 | None = None
        self._holes_ns = _find_missing_parts(path, on_damage) if path.is_dir() else []
        try:
            self._open_reader()
        except Exception as error:  # besides its own errors rosbags lets KeyError, struct.error, OSError and others through
            self.topics = self._scan_topics(f"{error or type(error).__name__}")
        else:
            self.topics = self._list_topics()

    def messages(self, names: Collection[str]) -> Iterator[RawMessage]:
        """Messages of the named topics, in the order of the bag."""
        damage: list[str] = []
        known, holes_ns = 0, list(self._holes_ns)
        for message in self._read(names, damage):
            after_loss = len(damage) > known
            while holes_ns and message.receive_ns >= holes_ns[0]:
                after_loss = bool(holes_ns.pop(0))
            known = len(damage)
            yield message._replace(after_loss=True) if after_loss else message
        for why in damage:
            self._on_damage(why)

    def _read(self, names: Collection[str], damage: list[str]) -> Iterator[RawMessage]:
        """Messages through rosbags, and from where it stops in file order; what is wrong with the file goes into `damage`."""
        delivered, reason = 0, ""
        wanted = sum(self.topics[name].count for name in names)
        connections = [connection for connection in self._connections if connection.topic in names]
        if self._reader is not None:
            serialization = "ros1" if isinstance(self._reader, Reader1) else "cdr"
            try:
                for connection, receive_ns, data in self._reader.messages(connections):
                    yield RawMessage(connection.topic, connection.msgtype, receive_ns, data, serialization)
                    delivered += 1
            except Exception as error:  # as in __init__
                reason = f"{error or type(error).__name__}"
            if delivered >= wanted:
                return
            _LOGGER.info("%s: rosbags stops after %d of %d messages %s", self._path, delivered, wanted, reason)
        in_file_order = (message for message in self._scan(damage.append) if message.topic in names)
        for message in islice(in_file_order, delivered, None):
            yield message
            delivered += 1
        if delivered < wanted and not damage:
            damage.append(f"{wanted} messages are announced, {delivered} are there {reason}".rstrip())

    def close(self) -> None:
        """Close the files."""
        reader, self._reader = self._reader, None
        if isinstance(reader, Reader1) or (reader is not None and reader.is_open):
            reader.close()

    def _open_reader(self) -> None:
        reader = Reader1(self._path) if self._path.suffix in (".bag", ".active") else Reader2(self._path)
        reader.open()
        self._reader = reader
        self._connections = list(reader.connections)
        if isinstance(reader, Reader2) and reader.compression_mode:
            self._files = []  # compressed as files or message by message: only rosbags unpacks that
        for file in self._files:
            journal = file.with_name(f"{file.name}-wal")
            if journal.is_file() and journal.stat().st_size:
                self._on_damage(
                    f"{journal.name} holds messages that were never merged into {file.name} "
                    f"(merge them: sqlite3 {file.name} 'PRAGMA wal_checkpoint')"
                )

    def _list_topics(self) -> dict[str, BagTopic]:
        topics: dict[str, BagTopic] = {}
        for connection in self._connections:
            before = topics.get(connection.topic)
            count = connection.msgcount + (before.count if before else 0)
            topics[connection.topic] = BagTopic(connection.topic, connection.msgtype, count)
        return topics

    def _scan_topics(self, reason: str) -> dict[str, BagTopic]:
        damage: list[str] = []
        counts: dict[tuple[str, str], int] = {}
        for message in self._scan(damage.append):
            key = (message.topic, message.msgtype)
            counts[key] = counts.get(key, 0) + 1
        if not counts:
            raise InputError(f"{self._path}: wanted a ROS bag, but not one message can be read: {'; '.join((reason, *damage))}")
        _LOGGER.info("%s: rosbags cannot open it (%s); reading in file order", self._path, reason)
        return {name: BagTopic(name, msgtype, count) for (name, msgtype), count in counts.items()}

    def _scan(self, on_damage: OnDamage) -> Iterator[RawMessage]:
        for file in self._files:
            yield from scan_file(file, on_damage)


def _storage_files(folder: Path) -> list[Path]:
    """Parts of a ROS 2 bag, x_0 before x_10; not what macOS puts beside them (._x_0)."""
    files = [file for file in folder.iterdir() if file.name.endswith(_PARTS) and not file.name.startswith(".")]
    return sorted(files, key=lambda file: (len(file.name), file.name))


def _find_missing_parts(folder: Path, on_damage: OnDamage) -> list[int]:
    """Report the files of a split bag that its metadata name and that are not there.

    Returns:
        When each of them begins, nanoseconds on the recorder's clock, in order; those of which nothing is said left out.
    """
    try:
        content = yaml.safe_load((folder / METADATA).read_text(encoding="utf-8"))
        about = content["rosbag2_bagfile_information"]
        names = [str(name) for name in about["relative_file_paths"]]
        begins = {str(file["path"]): int(file["starting_time"]["nanoseconds_since_epoch"]) for file in about.get("files") or []}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return []  # rosbags says what is wrong with the metadata, or there are none
    missing = [name for name in names if not (folder / name).exists()]
    if len(missing) == len(names):
        return []  # renamed, or no bag of several files: not a part that is missing
    for name in missing:
        on_damage(f"{name} is missing, of the {len(names)} files that {METADATA} names")
    return sorted(begins[name] for name in missing if name in begins)
