"""Frames of an image topic in a ROS 1 or ROS 2 bag; needs no ROS installation.

Messages come in the order of the bag, every one of them: stamps that run backwards are delivered as they are, what they mean
is for the segmenter to decide. Damaged messages are skipped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from lmanet_core.errors import InputError, nearest_name
from lmanet_core.frame import Frame
from lmanet_core.geometry import CameraInfo
from lmanet_core.media.bag_files import BagFiles, BagTopic
from lmanet_core.media.ros_images import camera_info_from_message, image_from_compressed_message, image_from_message
from lmanet_core.media.salvage import RawMessage
from lmanet_core.media.source import FrameSource
from lmanet_core.media.stamps import StampSource, begins_at_zero

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_NOT_A_CAMERA = re.compile(r"label|mask|depth|disparity|segment|semantic|instance|confidence", re.IGNORECASE)

_LOGGER = logging.getLogger(__name__)


class BagSource(FrameSource):
    """Frames of one image topic of a bag.

    The stamp is the header's; where that is zero, the time at which the recorder got the message. `Frame.camera_info` is the
    latest CameraInfo of the topic beside the images (`/camera/image_raw` → `/camera/camera_info`), the first frames have the
    first one. Frames are named by their number in the topic.

    Args:
        path: ROS 2 bag folder, .mcap or .db3 file, or ROS 1 .bag file.
        topic: sensor_msgs/Image or CompressedImage. None: the only one, or the only one whose name does not say that it is
            something else (labels, masks, depth, …).

    Raises:
        InputError: not a bag; no images in it; several image topics and none named; no such image topic.
    """

    kind = "bag"

    def __init__(self, path: Path, topic: str | None = None) -> None:
        super().__init__(path, _LOGGER)
        self._bag = BagFiles(path, lambda why: self._skip("a part of the bag", why))
        try:
            chosen = choose_image_topic(path, list(self._bag.topics.values()), topic)
            self.topic = chosen.name
            self.expected_frames = chosen.count
            self._info_topic = _camera_info_topic(chosen, self._bag.topics)
            self._info = self._first_camera_info()
        except BaseException:
            self._bag.close()
            raise
        self._stamps = StampSource(begins_at_zero(first_stamps(self._bag, chosen.name)))
        self._warned_stamps = (False, False)

    def _read(self) -> Iterator[Frame]:
        assert self.topic is not None
        names = {self.topic} | ({self._info_topic} if self._info_topic else set())
        number = -1
        for raw in self._bag.messages(names):
            number += raw.topic == self.topic
            try:
                if raw.topic != self.topic:
                    self._info = camera_info_from_message(deserialize(raw))
                    continue
                frame = self._frame(raw, f"{number:06d}")
            except DAMAGE as error:
                which = f"message {number}" if raw.topic == self.topic else "a message"
                self._skip(f"{which} of {raw.topic}", error)
                continue
            yield frame

    def _frame(self, raw: RawMessage, name: str) -> Frame:
        message = deserialize(raw)
        image = image_from_message(message) if raw.msgtype == _IMAGE else image_from_compressed_message(message)
        stamp_ns = self._stamps.stamp_ns(header_stamp_ns(message), raw.receive_ns, image)
        self._warn_of_stamps(raw.topic)
        return Frame(image, stamp_ns, str(message.header.frame_id), self._info, name)

    def _warn_of_stamps(self, topic: str) -> None:
        found = (self._stamps.zero, self._stamps.standing)
        if found != self._warned_stamps:
            problem = "header stamps that stand still" if self._stamps.standing else "zero header stamps"
            _LOGGER.warning("%s: %s has %s; going by the times of recording", self.path, topic, problem)
            self._warned_stamps = found

    def _first_camera_info(self) -> CameraInfo | None:
        if self._info_topic is None:
            return None
        for raw in self._bag.messages({self._info_topic}):
            try:
                return camera_info_from_message(deserialize(raw))
            except DAMAGE as error:
                _LOGGER.debug("%s: %s: %s", self.path, raw.topic, error)  # counted when it comes by in its place
        return None

    def _release(self) -> None:
        self._bag.close()


def deserialize(raw: RawMessage) -> Any:  # classes that rosbags generates at run time
    """The message of an Image, CompressedImage or CameraInfo, ROS 1 or ROS 2.

    Raises:
        InputError: another type or serialisation; rosbags raises more, see `DAMAGE`.
    """
    if raw.msgtype not in (_IMAGE, _COMPRESSED, _CAMERA_INFO):
        raise InputError(f"wanted a message of {_IMAGE} or {_COMPRESSED}, got {raw.msgtype}")
    if raw.serialization not in ("cdr", "ros1"):
        raise InputError(f"messages must be serialised as cdr (ROS 2) or ros1, got {raw.serialization!r}")
    if raw.serialization == "ros1":
        return cast("Any", _typestore(Stores.ROS1_NOETIC).deserialize_ros1(raw.data, raw.msgtype))
    return cast("Any", _typestore(Stores.ROS2_HUMBLE).deserialize_cdr(raw.data, raw.msgtype))


def header_stamp_ns(message: Any) -> int:
    """Stamp of a message's header, nanoseconds."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def first_stamps(bag: BagFiles, topic: str) -> Iterator[int]:
    """Header stamps of a topic's first two messages, as far as they can be read."""
    for raw in islice(bag.messages({topic}), 2):
        with contextlib.suppress(*DAMAGE):
            yield header_stamp_ns(deserialize(raw))


@lru_cache(maxsize=2)
def _typestore(kind: Stores) -> Typestore:
    return get_typestore(kind)


# What a message of random bytes can cause on its way through rosbags and OpenCV; anything else is a bug and ends the run.
DAMAGE = (InputError, SerdeError, ValueError, IndexError, OverflowError, MemoryError)


def choose_image_topic(path: Path, topics: Sequence[BagTopic], wanted: str | None) -> BagTopic:
    """The topic of this name, or the one camera where none is named; raises InputError that lists what there is."""
    images = [topic for topic in topics if topic.msgtype in (_IMAGE, _COMPRESSED)]
    if wanted is not None:
        return _named_topic(path, topics, images, wanted)
    if not images:
        raise InputError(f"{path}: wanted a topic of {_IMAGE} or {_COMPRESSED}, the bag has {_listed(topics)}")
    filled = [topic for topic in images if topic.count]
    cameras = [topic for topic in filled if not _NOT_A_CAMERA.search(topic.name)]
    if len(filled) == 1 or len(cameras) == 1:
        chosen = (filled if len(filled) == 1 else cameras)[0]
        _LOGGER.info("%s: reading %s (%s, %d messages)", path, chosen.name, chosen.msgtype, chosen.count)
        return chosen
    if not filled:
        raise InputError(f"{path}: no images were recorded on {_listed(images)}")
    raise InputError(f"{path}: several image topics, choose one with --topic: {_listed(images)}")


def _named_topic(path: Path, topics: Sequence[BagTopic], images: Sequence[BagTopic], wanted: str) -> BagTopic:
    for topic in images:
        if topic.name.strip("/") == wanted.strip("/"):
            if not topic.count:
                raise InputError(f"{path}: no images were recorded on {_listed([topic])}")
            return topic
    others = [topic for topic in topics if topic.name.strip("/") == wanted.strip("/")]
    problem = f"topic {wanted} is {others[0].msgtype}, not an image" if others else f"no topic {wanted}"
    near = nearest_name(wanted, (topic.name for topic in images), alike=0.5)
    hint = f"; did you mean {near}?" if near else ""
    raise InputError(f"{path}: {problem}{hint}; image topics: {_listed(images)}")


def _listed(topics: Sequence[BagTopic]) -> str:
    return ", ".join(f"{topic.name} ({topic.msgtype}, {topic.count} messages)" for topic in topics) or "none"


def _camera_info_topic(image: BagTopic, topics: dict[str, BagTopic]) -> str | None:
    """The CameraInfo beside an image topic; a transport such as `/compressed` hangs below the topic it belongs to."""
    parents = [image.name.rpartition("/")[0]]
    if image.msgtype == _COMPRESSED:
        parents.insert(0, parents[0].rpartition("/")[0])
    for parent in parents:
        found = topics.get(f"{parent}/camera_info")
        if found is not None and found.msgtype == _CAMERA_INFO:
            return found.name
    return None
