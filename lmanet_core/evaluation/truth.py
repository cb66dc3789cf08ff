"""Label images beside frames: a topic of a bag, or a folder of PNGs, matched by name or by nearest stamp.

Labels may be sparse: most frames then have none. Each label belongs to at most one frame, the nearest in time, and only within
a tolerance. Labels are read as the frames go by and decoded when they match, so memory does not grow with the recording.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.frame import Frame
from lmanet_core.labels.encoding import LabelEncoding
from lmanet_core.media.bag import DAMAGE, choose_image_topic, deserialize, first_stamps, header_stamp_ns
from lmanet_core.media.bag_files import BagFiles, is_bag_file, is_bag_folder
from lmanet_core.media.label_files import LabelFiles
from lmanet_core.media.label_images import decode_label_ids, label_ids_from_message
from lmanet_core.media.salvage import RawMessage
from lmanet_core.media.stamps import StampSource, begins_at_zero, stamp_from_name

_LOGGER = logging.getLogger(__name__)
_ONE_PICTURE = np.zeros((1, 1, 3), np.uint8)
_LOOKAHEAD = 8  # labels that may stand between two in order: late ones, or one with a stamp that is nonsense


@dataclass(frozen=True, slots=True)
class StampedLabels:
    """One label image that is not decoded yet.

    Attributes:
        stamp_ns: its time, nanoseconds.
        read: gives (H, W) uint8 ids, or raises InputError.
        receive_ns: when it was recorded; None for files.
    """

    stamp_ns: int
    read: Callable[[], UInt8Array]
    receive_ns: int | None = None


class Truth(ABC):
    """Where the labels of one stream come from. The counts are right once the frames have gone by.

    Attributes:
        matched: labels that belong to a frame.
        unmatched: labels that belong to none.
        first_damage: why the first one that could not be read could not; empty where all could.
    """

    def __init__(self) -> None:
        self.first_damage = ""
        self.matched = 0
        self.unmatched = 0
        self._unreadable = 0

    @property
    def damaged(self) -> int:
        """Labels that could not be read."""
        return self._unreadable

    @property
    def examples(self) -> tuple[str, ...]:
        """Names of the first labels, where names decide; empty where stamps do."""
        return ()

    @abstractmethod
    def find(self, frame: Frame, following: Frame | None) -> UInt8Array | None:
        """Labels (H, W) of a frame, None where it has none; frames in their order, with the one after."""

    @abstractmethod
    def finish(self) -> None:
        """No frame is left; what remains is unmatched."""

    def _read(self, read: Callable[[], UInt8Array], what: str) -> UInt8Array | None:
        """Labels that were matched; None, counted and with a warning, where they cannot be read."""
        try:
            labels = read()
        except DAMAGE as error:
            self._unreadable += 1
            self.first_damage = self.first_damage or str(error)
            if self._unreadable <= 3:
                _LOGGER.warning("%s: %s", what, error)
            return None
        self.matched += 1
        return labels


def open_truth(labels: str, recording: Path, tolerance_s: float, encoding: LabelEncoding | None = None) -> Truth:
    """Labels of a stream.

    Args:
        labels: a folder of PNGs, a bag's image topic (it begins with / or is no folder), or BAG:TOPIC for another bag. Where
            the names of all PNGs are times, nanoseconds (16 to 19 digits) or seconds with a point or underscore
            (1700000000.066667), the nearest stamp decides; else see `FileTruth`.
        recording: where the topic is looked for.
        tolerance_s: how far a label's stamp may be from its frame's.
        encoding: which colours are which ids, and how the files are called; None: one channel of ids.

    Raises:
        InputError: no such folder or topic, or nothing in it.
    """
    folder = Path(labels)
    colors = None if encoding is None else encoding.colors
    if folder.is_dir():
        return _open_folder(folder, tolerance_s, "" if encoding is None else encoding.suffix, colors)
    bag, _, topic = labels.rpartition(":")
    path = Path(bag) if bag else recording
    if not path.exists():
        raise InputError(f"labels {labels}: there is no {path}; wanted a folder of PNGs, a topic, or BAG:TOPIC")
    is_bag = is_bag_folder(path) if path.is_dir() else is_bag_file(path)
    if not is_bag or not topic.startswith("/"):
        raise InputError(f"labels {labels}: no such folder; a topic of a bag begins with /")
    return StampedTruth(TopicLabels(path, topic, colors), tolerance_s)


def with_truth(frames: Iterable[Frame], truth: Truth | None) -> Iterator[tuple[Frame, UInt8Array | None]]:
    """Each frame with its labels; reads one frame ahead, to know which of two a label is nearer to."""
    if truth is None:
        yield from ((frame, None) for frame in frames)
        return
    waiting: Frame | None = None
    for frame in frames:
        if waiting is not None:
            yield waiting, truth.find(waiting, frame)
        waiting = frame
    if waiting is not None:
        yield waiting, truth.find(waiting, None)
    truth.finish()


class TopicLabels:
    """Label images of a bag's topic in the order of the bag, an iterator; stamps of zero are made good as those of images are.

    Raises:
        InputError: not a bag, or no such image topic in it.
    """

    def __init__(self, path: Path, topic: str, colors: Mapping[int, int] | None = None) -> None:
        self.damaged = 0
        self._colors = colors
        self._path = path
        self._bag = BagFiles(path, self._on_damage)
        try:
            self.topic = choose_image_topic(path, list(self._bag.topics.values()), topic).name
        except InputError:
            self._bag.close()
            raise

    def __iter__(self) -> Iterator[StampedLabels]:
        stamps = StampSource(begins_at_zero(first_stamps(self._bag, self.topic)))
        try:
            for number, raw in enumerate(self._bag.messages({self.topic})):
                try:
                    message = deserialize(raw)
                except DAMAGE as error:
                    self._on_damage(f"message {number}: {error}")
                    continue
                # Under one picture a stamp that repeats is kept: labels are matched by the one they carry.
                stamp_ns = stamps.stamp_ns(header_stamp_ns(message), raw.receive_ns, _ONE_PICTURE)
                yield StampedLabels(stamp_ns, self._reader(raw, number), raw.receive_ns)
        finally:
            self._bag.close()

    def _reader(self, raw: RawMessage, number: int) -> Callable[[], UInt8Array]:
        return lambda: label_ids_from_message(deserialize(raw), f"{self._path}: message {number} of {self.topic}", self._colors)

    def _on_damage(self, why: str) -> None:
        self.damaged += 1
        if self.damaged <= 3:
            _LOGGER.warning("%s: labels: %s", self._path, why)


class StampedTruth(Truth):
    """Labels with stamps, matched to frames by time.

    Follows clocks that jump and bags that loop, as long as labels and frames do so in the same order.

    Attributes:
        last: the labels found last, None before.
    """

    def __init__(self, labels: Iterable[StampedLabels], tolerance_s: float) -> None:
        super().__init__()
        self.last: StampedLabels | None = None
        self._labels = labels
        self._coming = iter(labels)
        self._window: deque[StampedLabels] = deque()
        self._tolerance_ns = round(tolerance_s * 1e9)

    @property
    def damaged(self) -> int:
        """Labels that could not be read, by now or by the bag."""
        return self._unreadable + getattr(self._labels, "damaged", 0)

    def find(self, frame: Frame, following: Frame | None) -> UInt8Array | None:
        """Labels (H, W) of a frame, None where it has none."""
        self._fill()
        while self._window:
            nearest = min(range(len(self._window)), key=lambda index: abs(self._window[index].stamp_ns - frame.stamp_ns))
            if nearest < _LOOKAHEAD:
                break
            self._drop(nearest - _LOOKAHEAD + 1)  # all of these lie before it, and it may not be the nearest yet
            self._fill()
        if not self._window:
            return None
        found = self._window[nearest]
        away = abs(found.stamp_ns - frame.stamp_ns)
        if away > self._tolerance_ns:
            return None
        if following is not None and abs(found.stamp_ns - following.stamp_ns) < away:
            return None  # it belongs to the next frame
        self._drop(nearest)
        self._window.popleft()
        labels = self._read(found.read, f"labels at {found.stamp_ns / 1e9:.3f} s")
        self.last = self.last if labels is None else found
        return labels

    def finish(self) -> None:
        """What is left is unmatched."""
        self.unmatched += len(self._window) + sum(1 for _ in self._coming)
        self._window.clear()

    def _fill(self) -> None:
        self._window.extend(itertools.islice(self._coming, 2 * _LOOKAHEAD - len(self._window)))

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._window.popleft()
        self.unmatched += count


class FileTruth(Truth):
    """Label images by the names of their frames: an image's stem, or a running number of six digits.

    Args:
        files: of the label images.
        colors: of colour-coded ones, see `decode_label_ids`.
    """

    def __init__(self, files: LabelFiles, colors: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self._files, self._colors = files, colors

    @property
    def examples(self) -> tuple[str, ...]:
        """Names of the first labels."""
        return tuple(file.name for file in self._files.files[:2])

    def has(self, frame: Frame) -> bool:
        """Whether a label has the name of this frame."""
        return self._files.of(frame.name) is not None

    def find(self, frame: Frame, following: Frame | None) -> UInt8Array | None:
        """Labels (H, W) of a frame, None where it has none."""
        file = self._files.of(frame.name)
        return None if file is None else self._read(_file_reader(file, self._colors), "labels")

    def finish(self) -> None:
        """What is left is unmatched."""
        self.unmatched = max(0, self._files.count - self.matched - self._unreadable)


class _NameOrStampTruth(Truth):
    """Labels that are named by their times: from the first image on that has the very name of a label, names alone decide."""

    def __init__(self, by_name: FileTruth, by_stamp: StampedTruth) -> None:
        super().__init__()
        self._by_name, self._by_stamp = by_name, by_stamp
        self._chosen: Truth = by_stamp

    @property
    def damaged(self) -> int:
        """Labels that could not be read."""
        return self._chosen.damaged

    @property
    def examples(self) -> tuple[str, ...]:
        """Names of the first labels, where names decide."""
        return self._chosen.examples

    def find(self, frame: Frame, following: Frame | None) -> UInt8Array | None:
        """Labels (H, W) of a frame, None where it has none."""
        if self._by_name.has(frame):
            self._chosen = self._by_name
        labels = self._chosen.find(frame, following)
        self.matched, self.first_damage = self._chosen.matched, self._chosen.first_damage
        return labels

    def finish(self) -> None:
        """What is left is unmatched."""
        self._chosen.finish()
        self.unmatched = self._chosen.unmatched


def _open_folder(folder: Path, tolerance_s: float, suffix: str, colors: Mapping[int, int] | None) -> Truth:
    files = LabelFiles(folder, suffix)
    stamped = sorted((stamp, file) for file in files.files if (stamp := stamp_from_name(file.stem)) is not None)
    by_name = FileTruth(files, colors)
    if len(stamped) < len(files.files):
        return by_name
    by_stamp = StampedTruth([StampedLabels(stamp, _file_reader(file, colors)) for stamp, file in stamped], tolerance_s)
    return _NameOrStampTruth(by_name, by_stamp)


def _file_reader(file: Path, colors: Mapping[int, int] | None) -> Callable[[], UInt8Array]:
    def read() -> UInt8Array:
        try:
            return decode_label_ids(np.fromfile(file, np.uint8), str(file), colors)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error

    return read
