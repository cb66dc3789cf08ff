"""Frames of an image topic in a ROS 1 or ROS 2 bag; needs no ROS installation.

Messages come in the order of the bag, every one of them: stamps that run backwards are delivered as they are, what they mean
is for the segmenter to decide. Damaged messages are skipped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError, nearest_name
from lmanet_core.frame import Frame
from lmanet_core.geometry import CameraInfo
from lmanet_core.media import foreign_messages
from lmanet_core.media.bag_files import BagFiles, BagTopic
from lmanet_core.media.packets import Packet, PacketDecoder, codec_of
from lmanet_core.media.pixels import SampleDepth
from lmanet_core.media.ros_images import camera_info_from_message, image_from_compressed_message, image_from_message
from lmanet_core.media.salvage import RawMessage
from lmanet_core.media.source import FrameSource
from lmanet_core.media.stamps import StampSource, begins_at_zero

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_RAW_TYPES = (_IMAGE, *foreign_messages.RAW_TYPES)
_IMAGE_TYPES = (_IMAGE, _COMPRESSED, *foreign_messages.TYPES)
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_NOT_A_CAMERA = re.compile(r"label|mask|depth|disparity|segment|semantic|instance|confidence", re.IGNORECASE)
#: What image_transport and its plugins append to a camera's topic.
_TRANSPORTS = ("compressed", "zstd", "ffmpeg", "h264", "h265", "hevc", "av1", "foxglove", "theora")
_LOOKAHEAD = 16  # messages looked at for one that is whole, before the first frame

_LOGGER = logging.getLogger(__name__)


class BagSource(FrameSource):
    """Frames of one image topic of a bag.

    The stamp is the header's; where that is missing, see `StampSource`. `Frame.camera_info` is the latest CameraInfo of the
    topic beside the images (`/camera/image_raw` → `/camera/camera_info`), the first frames have the first one. Frames are named
    by their number in the topic.

    Args:
        path: ROS 2 bag folder, .mcap or .db3 file, or ROS 1 .bag file.
        topic: sensor_msgs/Image or CompressedImage, or a type of `foreign_messages`. None: the only camera; topics whose names
            say that they are something else (labels, masks, depth, …) are no camera, and a raw topic and its compressed ones
            are one.
        bits: of images with 16, see `SampleDepth`.

    Raises:
        InputError: not a bag; no images in it; several cameras and none named; no such image topic; compressed video, and no
            decoder for it.
    """

    kind = "bag"

    def __init__(self, path: Path, topic: str | None = None, bits: int = 16) -> None:
        super().__init__(path, _LOGGER, bits)
        self._bag = BagFiles(path, lambda why: self._skip("a part of the bag", why))
        try:
            chosen = choose_image_topic(path, list(self._bag.topics.values()), topic)
            self.topic = chosen.name
            self.expected_frames = chosen.count
            self._info_topic = _camera_info_topic(chosen, self._bag.topics)
            self._info = self._first_camera_info()
            self._decoder = self._find_decoder()
        except BaseException:
            self._bag.close()
            raise
        self._stamps = StampSource(begins_at_zero(first_stamps(self._bag, chosen.name)))
        self._warned_stamps = (False, False)

    def _read(self) -> Iterator[Frame]:
        assert self.topic is not None
        names = {self.topic} | ({self._info_topic} if self._info_topic else set())
        number, lost = -1, False
        for raw in self._bag.messages(names):
            number += raw.topic == self.topic
            lost |= raw.after_loss
            try:
                if raw.topic != self.topic:
                    self._info = camera_info_from_message(deserialize(raw))
                    continue
                frames = list(self._frames_of(raw, f"{number:06d}"))
            except DAMAGE as error:
                lost |= self._decoder is not None  # the next packets build on this one
                which = f"message {number}" if raw.topic == self.topic else "a message"
                self._skip(f"{which} of {raw.topic}", error)
                continue
            for frame in frames:
                yield replace(frame, after_loss=True) if lost else frame
                lost = False
        if self._decoder is not None:
            yield from (self._finished(*each) for each in self._decoder.flush())
            if self._decoder.too_early:
                first = f"the first {self._decoder.too_early} messages of {self.topic}"
                self._skip(first, "they build on a key frame that was not recorded", self._decoder.too_early)

    def _frames_of(self, raw: RawMessage, name: str) -> Iterator[Frame]:
        """The frame of a message; of packets of video those that are whole by now."""
        message = deserialize(raw)
        read = read_image(message, self.depth)
        about = _About(header_stamp_ns(message), raw.receive_ns, str(message.header.frame_id), name, self._info)
        if not isinstance(read, Packet):
            yield self._finished(about, read)
            return
        if self._decoder is None:
            self._decoder = PacketDecoder(read.codec, f"{self.path}: {self.topic}")
        yield from (self._finished(*each) for each in self._decoder.decode(read, about))

    def _finished(self, about: _About | None, image: UInt8Array) -> Frame:
        if about is None:
            raise InputError("a picture of a packet that nobody waits for any more")
        stamp_ns = self._stamps.stamp_ns(about.given_ns, about.receive_ns, image)
        self._warn_of_stamps()
        return Frame(image, stamp_ns, about.frame_id, about.info, about.name)

    def _warn_of_stamps(self) -> None:
        found = (self._stamps.zero, self._stamps.standing)
        if found != self._warned_stamps:
            problem = "stand still" if self._stamps.standing else "are zero"
            _LOGGER.warning(
                "%s: %s has header stamps that %s; what they should be is told by the times of recording",
                self.path,
                self.topic,
                problem,
            )
            self._warned_stamps = found

    def _find_decoder(self) -> PacketDecoder | None:
        """For the packets of video that the first messages hold; None where they hold pictures."""
        assert self.topic is not None
        for raw in islice(self._bag.messages({self.topic}), _LOOKAHEAD):
            try:
                codec = _codec_of(deserialize(raw))
            except DAMAGE:
                continue  # counted when it comes by in its place
            return PacketDecoder(codec, f"{self.path}: {self.topic}") if codec is not None else None
        return None

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


class _About(NamedTuple):
    """What is known of a picture while its packet is decoded."""

    given_ns: int
    receive_ns: int
    frame_id: str
    name: str
    info: CameraInfo | None


def deserialize(raw: RawMessage) -> Any:  # classes that rosbags generates at run time
    """The message of an image or CameraInfo, ROS 1 or ROS 2, or one of `foreign_messages` in the form of sensor_msgs.

    Raises:
        InputError: another type or serialisation; rosbags raises more, see `DAMAGE`.
    """
    if raw.msgtype not in (*_IMAGE_TYPES, _CAMERA_INFO):
        raise InputError(f"wanted a message of {_IMAGE} or {_COMPRESSED}, got {raw.msgtype}")
    if raw.serialization == "protobuf":
        return foreign_messages.read_protobuf(raw.data, raw.msgtype)
    if raw.serialization not in ("cdr", "ros1"):
        raise InputError(f"messages must be serialised as cdr (ROS 2), ros1 or protobuf, got {raw.serialization!r}")
    if raw.serialization == "ros1":
        message = _typestore(Stores.ROS1_NOETIC).deserialize_ros1(raw.data, raw.msgtype)
    else:
        message = _typestore(Stores.ROS2_HUMBLE).deserialize_cdr(raw.data, raw.msgtype)
    if raw.msgtype == _COMPRESSED:
        return foreign_messages.unpack_zstd(message)
    return foreign_messages.as_sensor_message(message) if raw.msgtype in foreign_messages.DEFINITIONS else message


def read_image(message: Any, depth: SampleDepth) -> UInt8Array | Packet:
    """The picture (H, W, 3) RGB in a deserialised message, or the packet of video that it holds; raises InputError."""
    codec = _codec_of(message)
    if codec is not None:
        return Packet(codec, bytes(message.data))
    return image_from_compressed_message(message, depth) if hasattr(message, "format") else image_from_message(message, depth)


def _codec_of(message: Any) -> str | None:
    return codec_of(str(message.format), bytes(message.data[:5])) if hasattr(message, "format") else None


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
    store = get_typestore(kind)
    for name, definition in foreign_messages.DEFINITIONS.items():
        store.register(get_types_from_msg(definition, name))
    return store


# What a message of random bytes can cause on its way through rosbags and OpenCV; anything else is a bug and ends the run.
DAMAGE = (InputError, SerdeError, ValueError, IndexError, OverflowError, MemoryError)


def choose_image_topic(path: Path, topics: Sequence[BagTopic], wanted: str | None) -> BagTopic:
    """The topic of this name, or the one camera where none is named; raises InputError that lists what there is."""
    images = [topic for topic in topics if topic.msgtype in _IMAGE_TYPES]
    if wanted is not None:
        return _named_topic(path, topics, images, wanted)
    if not images:
        raise InputError(f"{path}: wanted a topic of {_IMAGE} or {_COMPRESSED}, the bag has {_listed(topics)}")
    filled = [topic for topic in images if topic.count]
    cameras = _by_camera(topic for topic in filled if not _NOT_A_CAMERA.search(topic.name))
    if len(filled) == 1 or len(cameras) == 1:
        of_one = filled if len(filled) == 1 else next(iter(cameras.values()))
        chosen = min(of_one, key=lambda topic: topic.msgtype not in _RAW_TYPES)  # of several the first raw one
        _LOGGER.info("%s: reading %s (%s, %d messages)", path, chosen.name, chosen.msgtype, chosen.count)
        if len(of_one) > 1:
            others = ", ".join(topic.name for topic in of_one if topic is not chosen)
            _LOGGER.warning("%s: reading %s; the same camera is on %s too (choose with --topic)", path, chosen.name, others)
        return chosen
    if not filled:
        raise InputError(f"{path}: no images were recorded on {_listed(images)}")
    raise InputError(f"{path}: several image topics, choose one with --topic: {_listed(images)}")


def _by_camera(topics: Iterable[BagTopic]) -> dict[str, list[BagTopic]]:
    """Topics by the camera they are of: a transport such as `/compressed` hangs below the topic it belongs to."""
    cameras: dict[str, list[BagTopic]] = {}
    for topic in topics:
        parent, _, last = topic.name.rpartition("/")
        is_transport = topic.msgtype not in _RAW_TYPES and last in _TRANSPORTS
        cameras.setdefault(parent if is_transport else topic.name, []).append(topic)
    return cameras


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
    if image.msgtype not in _RAW_TYPES:
        parents.insert(0, parents[0].rpartition("/")[0])
    for parent in parents:
        found = topics.get(f"{parent}/camera_info")
        if found is not None and found.msgtype == _CAMERA_INFO:
            return found.name
    return None
