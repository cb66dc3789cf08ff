"""Results as a ROS 2 bag (MCAP) with the topics that the node publishes; needs no ROS installation.

Header and time of every message are the frame's own: stamp and frame_id untouched, recorded at the stamp. The metadata have
version 8, the newest that Humble reads, and every type its definition, so that tools without vision_msgs open it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.frame import Frame, FrameResult, UInt8Array
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import LabelSet
from lmanet_core.media.sinks import ClosingSink, make_folder, output_errors, safe_name

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

BAG_TOPICS = ("labels", "color", "overlay", "confidence", "masks", "label_info", "camera_info")
DEFAULT_BAG_TOPICS = ("labels", "color", "confidence", "masks", "label_info", "camera_info")

# vision_msgs of Humble, Jazzy and Rolling (the same in all three).
_VISION_CLASS = "uint16 class_id\nstring class_name\n"
_LABEL_INFO = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"

_FOREVER = QosTime(9223372036, 854775807)  # what Humble stores for "no limit": 2^63 − 1 ns


def _qos(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


_STREAM_QOS = _qos(10, QosDurability.VOLATILE)
_LATCHED_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)


class ResultBagSink(ClosingSink):
    """A ROS 2 bag of results: a new folder with one MCAP file (zstd chunks) and metadata.yaml.

    Args:
        path: the bag's folder; must not exist, a bag is never overwritten.
        label_set: class names for label_info, colours, groups.
        topics: which of `BAG_TOPICS` to write. Confidence and camera_info are left out where a result has none.
        prefix: what goes before `segmentation/…`, for instance "/front/".

    Raises:
        ConfigError: an unknown topic.
        OutputError: the path exists or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        label_set: LabelSet,
        topics: Collection[str] = DEFAULT_BAG_TOPICS,
        prefix: str = "/",
    ) -> None:
        for topic in topics:
            if topic not in BAG_TOPICS:
                near = get_close_matches(topic, BAG_TOPICS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"topics of a result bag are {', '.join(BAG_TOPICS)}, got {topic!r}{hint}")
        self.path = Path(path)
        self._label_set = label_set
        self._topics = frozenset(topics)
        self._prefix = f"{prefix.rstrip('/')}/segmentation/"
        self._store = _result_typestore()
        self._types: Mapping[str, Any] = self._store.types  # classes that rosbags generates at run time
        self._connections: dict[str, Connection] = {}
        self._writer: Writer | None = None
        make_folder(self.path.parent)
        try:
            writer = Writer(self.path, version=8, storage_plugin=StoragePlugin.MCAP)
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            with output_errors(self.path):
                writer.open()
        except WriterError as error:
            raise OutputError(f"{self.path}: exists already; delete it or choose another output") from error
        self._writer = writer

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`. label_info goes in once, before the first labels."""
        if self._writer is None:
            raise OutputError(f"{self.path}: the bag is closed, nothing more can be written")
        if "label_info" in self._topics and "label_info" not in self._connections:
            self._put("label_info", self._label_info(result), result, _LATCHED_QOS)
        if "labels" in self._topics:
            self._put("labels", self._image(result.labels, result), result)
        if "color" in self._topics:
            self._put("color", self._image(self._label_set.colorize(result.labels), result), result)
        if "overlay" in self._topics:
            image = result.geometry.image_to_output(frame.image)
            self._put("overlay", self._image(self._label_set.overlay(image, result.labels), result), result)
        if "confidence" in self._topics and result.confidence is not None:
            self._put("confidence", self._image(result.confidence, result), result)
        if "masks" in self._topics:
            for group in self._label_set.groups:
                mask = self._label_set.mask(result.labels, group)
                self._put(f"mask/{safe_name(group)}", self._image(mask, result), result)
        if "camera_info" in self._topics and frame.camera_info is not None:
            info = result.geometry.scale_camera_info(frame.camera_info)
            self._put("camera_info", self._camera_info(info, result), result)

    def close(self) -> None:
        """See `ResultSink`; writes the index and metadata.yaml."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            with output_errors(self.path):
                writer.close()
        except BaseException:
            _abort(writer)
            raise

    def _put(self, name: str, message: Any, result: FrameResult, qos: Qos = _STREAM_QOS) -> None:
        assert self._writer is not None
        msgtype: str = message.__msgtype__
        data = self._store.serialize_cdr(message, msgtype)
        try:
            with output_errors(self.path):
                if name not in self._connections:
                    self._connections[name] = self._writer.add_connection(
                        self._prefix + name, msgtype, typestore=self._store, offered_qos_profiles=[qos]
                    )
                self._writer.write(self._connections[name], max(0, result.stamp_ns), data)
        except OutputError as error:
            writer, self._writer = self._writer, None
            _abort(writer)
            raise OutputError(f"{error} (the results so far have no index now, `open_frames` reads them)") from error

    def _header(self, result: FrameResult) -> Any:
        seconds, nanoseconds = divmod(result.stamp_ns, 10**9)
        if not -(2**31) <= seconds < 2**31:
            raise OutputError(f"{self.path}: a ROS stamp has 32 bits of seconds, got {seconds} s; are stamps in nanoseconds?")
        stamp = self._types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=result.frame_id)

    def _image(self, pixels: UInt8Array, result: FrameResult) -> Any:
        height, width = pixels.shape[:2]
        return self._types["sensor_msgs/msg/Image"](
            header=self._header(result),
            height=height,
            width=width,
            encoding="mono8" if pixels.ndim == 2 else "rgb8",
            is_bigendian=0,
            step=width * (1 if pixels.ndim == 2 else 3),
            data=np.ascontiguousarray(pixels).reshape(-1),
        )

    def _label_info(self, result: FrameResult) -> Any:
        vision_class = self._types["vision_msgs/msg/VisionClass"]
        return self._types["vision_msgs/msg/LabelInfo"](
            header=self._header(result),
            class_map=[vision_class(class_id=index, class_name=name) for index, name in enumerate(self._label_set.names)],
            threshold=0.0,
        )

    def _camera_info(self, info: CameraInfo, result: FrameResult) -> Any:
        x_offset, y_offset, height, width, do_rectify = info.roi
        return self._types["sensor_msgs/msg/CameraInfo"](
            header=self._header(result),
            height=info.height,
            width=info.width,
            distortion_model=info.distortion_model,
            d=np.array(info.d, np.float64),
            k=np.array(info.k, np.float64),
            r=np.array(info.r, np.float64),
            p=np.array(info.p, np.float64),
            binning_x=info.binning_x,
            binning_y=info.binning_y,
            roi=self._types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=do_rectify
            ),
        )


def _result_typestore() -> Typestore:
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(
        {
            **get_types_from_msg(_VISION_CLASS, "vision_msgs/msg/VisionClass"),
            **get_types_from_msg(_LABEL_INFO, "vision_msgs/msg/LabelInfo"),
        }
    )
    return store


def _abort(writer: Writer) -> None:
    """Let go of the file after an error; flushing the rest may fail as well, which is known by then."""
    try:
        writer.abort()
    except OSError:
        return
