"""All topics of one camera: a message is built only where somebody subscribes to it and its rate cap allows it.

Made and destroyed by the executor's thread while no worker runs; in between, only the worker publishes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo as CameraInfoMessage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lmanet_core.arrays import UInt8Array
from lmanet_core.frame import FrameResult
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import LabelSet
from lmanet_core.media.sinks import safe_name
from lmanet_ros.conversions import (
    camera_info_to_message,
    color_to_jpeg_message,
    color_to_png_message,
    image_to_message,
    label_info_to_message,
    labels_to_png_message,
)
from lmanet_ros.names import OUTPUT
from lmanet_ros.parameters import Settings

if TYPE_CHECKING:
    from rclpy.node import Node


def _stream_qos() -> QoSProfile:  # a new one each time: overrides are written into it
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)


def _latched_qos() -> QoSProfile:
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RateCap:
    """Lets at most so many a second through.

    Args:
        clock: seconds, steadily growing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -math.inf

    def allows(self, rate_hz: float) -> bool:
        """Whether one may go now; 0 Hz means no cap."""
        now = self._clock()
        if rate_hz <= 0.0:
            return True
        if now < self._next:
            return False
        period = 1.0 / rate_hz
        # Counted from when it was due, so that the mean rate is right at any camera rate; after a pause, from now.
        self._next = (self._next if now - self._next < period else now) + period
        return True


class CameraPublishers:
    """Publishers of one camera.

    Args:
        node: that owns them.
        prefix: of the topics: "" or "<camera>/".
        labels: classes with colours and groups.
        output: below which the topics are.
    """

    def __init__(self, node: Node, prefix: str, labels: LabelSet, output: str = OUTPUT) -> None:
        self._node = node
        self._labels = labels
        self._base = f"{prefix}{output}/"
        self._masks = {f"mask/{safe_name(group)}": group for group in labels.groups}
        images = ("labels", "color", "overlay", "confidence", *self._masks)
        self._publishers: dict[str, Any] = {name: self._create(Image, name) for name in images}
        for name in ("labels/compressed", "color/compressed", "overlay/compressed"):
            self._publishers[name] = self._create(CompressedImage, name)
        self._publishers["camera_info"] = self._create(CameraInfoMessage, "camera_info")
        self._label_info = self._create_label_info()
        self._caps = {name: RateCap() for name in self._publishers}

    def publish_label_info(self) -> None:
        """Latch the classes; subscribers get them whenever they come."""
        if self._label_info is not None:
            self._label_info.publish(label_info_to_message(self._labels, self._node.get_clock().now().to_msg()))

    def are_heard(self) -> bool:
        """Whether somebody listens to any of them, the latched classes left out."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def due(self, max_rate_hz: Mapping[str, float]) -> frozenset[str]:
        """Topics below segmentation/ that somebody listens to and whose rate cap lets the next frame through.

        Args:
            max_rate_hz: caps by entry of `RATED_TOPICS`.
        """
        return frozenset(
            name
            for name, publisher in self._publishers.items()
            if publisher.get_subscription_count() and self._caps[name].allows(_cap_of(name, max_rate_hz))
        )

    def publish(
        self,
        due: Collection[str],
        header: Header,
        image: UInt8Array,
        result: FrameResult,
        camera_info: CameraInfo | None,
        settings: Settings,
    ) -> None:
        """Publish what is due of one frame.

        Args:
            due: topics, see `due`.
            header: of the camera's message; goes out as it came.
            image: (H, W, 3) uint8 RGB, as the camera gave it.
            result: of the segmenter.
            camera_info: calibration of the image, where known.
            settings: opacity, PNG level.
        """
        makers: dict[str, Callable[[], Any]] = {}
        if result.labels.size:
            makers |= self._label_makers(header, image, result, result.labels, settings)
        if camera_info is not None:
            makers["camera_info"] = lambda: camera_info_to_message(result.geometry.scale_camera_info(camera_info), header)
        for name, make in makers.items():
            if name in due:
                self._publishers[name].publish(make())

    def _label_makers(
        self, header: Header, image: UInt8Array, result: FrameResult, labels: UInt8Array, settings: Settings
    ) -> dict[str, Callable[[], Any]]:
        set_ = self._labels
        makers: dict[str, Callable[[], Any]] = {
            "labels": lambda: image_to_message(labels, header),
            "labels/compressed": lambda: labels_to_png_message(labels, header, settings.png_level),
            "color": lambda: image_to_message(set_.colorize(labels), header),
            "color/compressed": lambda: color_to_png_message(set_.colorize(labels), header, settings.png_level),
            "overlay": lambda: image_to_message(self._overlay(image, result, settings), header),
            "overlay/compressed": lambda: color_to_jpeg_message(
                self._overlay(image, result, settings), header, settings.jpeg_quality
            ),
        }
        for name, group in self._masks.items():
            makers[name] = partial(self._make_mask, labels, group, header)
        confidence = result.confidence
        if confidence is not None:
            makers["confidence"] = lambda: image_to_message(confidence, header)
        return makers

    def _overlay(self, image: UInt8Array, result: FrameResult, settings: Settings) -> UInt8Array:
        return self._labels.overlay(result.geometry.image_to_output(image), result.labels, settings.overlay_opacity)

    def _make_mask(self, labels: UInt8Array, group: str, header: Header) -> Image:
        return image_to_message(self._labels.mask(labels, group), header)

    def destroy(self) -> None:
        """Take all topics down."""
        for publisher in (*self._publishers.values(), self._label_info):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def _create(self, kind: Any, name: str) -> Any:
        overriding = QoSOverridingOptions.with_default_policies()
        return self._node.create_publisher(kind, self._base + name, _stream_qos(), qos_overriding_options=overriding)

    def _create_label_info(self) -> Any:
        """The latched publisher; None where its message is not installed, as where ROS came from PyPI."""
        try:
            message: Any = import_module("vision_msgs.msg").LabelInfo
        except ImportError:
            advice = "there is no package vision_msgs: sudo apt install ros-$ROS_DISTRO-vision-msgs"
            self._node.get_logger().warning(f"{self._base}label_info is not published, {advice}")
            return None
        return self._node.create_publisher(message, f"{self._base}label_info", _latched_qos())


def _cap_of(name: str, caps: Mapping[str, float]) -> float:
    if name == "labels/compressed":
        return caps["compressed"]
    return caps.get(name.split("/")[0], 0.0)
