"""ROS 2 bags (MCAP) written without a ROS installation: messages from arrays, topics as they come, a file closed properly.

The metadata have version 8, the newest that Humble reads, and every type its definition, so that tools without vision_msgs open
the bag too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import OutputError
from lmanet_core.files import output_errors
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import LabelSet
from lmanet_core.media.sinks import make_folder

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

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


STREAM_QOS = _qos(10, QosDurability.VOLATILE)
LATCHED_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)


class BagWriter:
    """A new ROS 2 bag: a folder with one MCAP file (zstd chunks) and metadata.yaml.

    Every message carries a header with the frame's own stamp and frame_id, and is recorded at that stamp.

    Args:
        path: the bag's folder; must not exist, a bag is never overwritten.

    Raises:
        OutputError: the path exists or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = _typestore()
        self._types: Mapping[str, Any] = self._store.types  # classes that rosbags generates at run time
        self._connections: dict[str, Connection] = {}
        self._writer: Writer | None = None
        make_folder(path.parent)
        try:
            writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            with output_errors(path):
                writer.open()
        except WriterError as error:
            raise OutputError(f"{path}: exists already; delete it or choose another output") from error
        self._writer = writer

    def has(self, topic: str) -> bool:
        """Whether something was written on this topic."""
        return topic in self._connections

    def put(self, topic: str, message: Any, stamp_ns: int, qos: Qos = STREAM_QOS, recorded_ns: int | None = None) -> None:
        """Write a message at a time.

        Args:
            topic, message: what to write.
            stamp_ns: its time.
            qos: that the topic offers.
            recorded_ns: when it was recorded, where that is not the same.

        Raises:
            OutputError: the bag is closed, or it cannot be written; the bag is then closed.
        """
        if self._writer is None:
            raise OutputError(f"{self.path}: the bag is closed, nothing more can be written")
        msgtype: str = message.__msgtype__
        data = self._store.serialize_cdr(message, msgtype)
        try:
            with output_errors(self.path):
                if topic not in self._connections:
                    self._connections[topic] = self._writer.add_connection(
                        topic, msgtype, typestore=self._store, offered_qos_profiles=[qos]
                    )
                self._writer.write(self._connections[topic], max(0, stamp_ns if recorded_ns is None else recorded_ns), data)
        except OutputError as error:
            writer, self._writer = self._writer, None
            _abort(writer)
            raise OutputError(f"{error} (the results so far have no index now, `open_frames` reads them)") from error

    def close(self) -> None:
        """Write index and metadata.yaml; harmless when repeated.

        Raises:
            OutputError: they cannot be written.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            with output_errors(self.path):
                writer.close()
        except BaseException:
            _abort(writer)
            raise

    def image(self, pixels: UInt8Array, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/Image: mono8 of (H, W), rgb8 of (H, W, 3), rows packed."""
        height, width = pixels.shape[:2]
        return self._types["sensor_msgs/msg/Image"](
            header=self._header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding="mono8" if pixels.ndim == 2 else "rgb8",
            is_bigendian=0,
            step=width * (1 if pixels.ndim == 2 else 3),
            data=np.ascontiguousarray(pixels).reshape(-1),
        )

    def compressed_image(self, pixels: UInt8Array, stamp_ns: int, frame_id: str, encoding: Literal["jpeg", "png"]) -> Any:
        """sensor_msgs/CompressedImage of (H, W) or RGB (H, W, 3); JPEG in quality 95, PNG for what must not change."""
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if encoding == "jpeg" else []
        _, data = cv2.imencode(f".{encoding}", pixels if pixels.ndim == 2 else pixels[:, :, ::-1], options)
        return self._types["sensor_msgs/msg/CompressedImage"](
            header=self._header(stamp_ns, frame_id), format=encoding, data=np.asarray(data, np.uint8).reshape(-1)
        )

    def label_info(self, label_set: LabelSet, stamp_ns: int, frame_id: str) -> Any:
        """vision_msgs/LabelInfo: the ids and names of the classes."""
        vision_class = self._types["vision_msgs/msg/VisionClass"]
        return self._types["vision_msgs/msg/LabelInfo"](
            header=self._header(stamp_ns, frame_id),
            class_map=[vision_class(class_id=index, class_name=name) for index, name in enumerate(label_set.names)],
            threshold=0.0,
        )

    def camera_info(self, info: CameraInfo, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/CameraInfo."""
        x_offset, y_offset, height, width, do_rectify = info.roi
        return self._types["sensor_msgs/msg/CameraInfo"](
            header=self._header(stamp_ns, frame_id),
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

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        if not -(2**31) <= seconds < 2**31:
            raise OutputError(f"{self.path}: a ROS stamp has 32 bits of seconds, got {seconds} s; are stamps in nanoseconds?")
        stamp = self._types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def _typestore() -> Typestore:
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
