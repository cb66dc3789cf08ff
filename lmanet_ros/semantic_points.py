"""The executable `semantic_points`: labels and a registered depth image become points with class, colour, confidence.

    labels, confidence, color, camera_info (of segment_node) + depth (of the camera) → points

Inputs are matched by their stamps and taken only while somebody listens. Needs no PyTorch. One thread.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from lmanet_core.errors import InputError
from lmanet_core.geometry.points import POINT, Points, depth_in_metres, drop_depth_edges, semantic_points
from lmanet_ros.conversions import camera_info_from_ros, fill, stamp_ns
from lmanet_ros.names import OUTPUT
from lmanet_ros.running import run_node

_KEPT = 30  # messages of each topic that wait for their partners
_WARN_EVERY_S = 5.0
_LOOK_EVERY_S = 0.2  # whether somebody listens
_KINDS = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}
_EDGE_PX = ParameterDescriptor(
    description="So many pixels beside a nearer thing have no point; 0: every pixel has one.",
    integer_range=[IntegerRange(from_value=0, to_value=32, step=1)],
    read_only=True,
)
_DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


class SemanticPoints(Node):
    """See the module.

    Parameters: `output_prefix`, as of segment_node; `slop_s`, how far the stamps of depth and labels may lie apart; `edge_px`,
    how many pixels beside a nearer thing have no point (`drop_depth_edges`).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("semantic_points", **options)
        output = str(self.declare_parameter("output_prefix", OUTPUT).value)
        self._slop_ns = round(float(self.declare_parameter("slop_s", 0.02).value) * 1e9)
        self._edge_px = int(self.declare_parameter("edge_px", 0, _EDGE_PX).value)
        self._topics: dict[str, tuple[Any, str]] = {
            "depth": (Image, "depth"),
            **{name: (Image, f"{output}/{name}") for name in ("labels", "confidence", "color")},
            "camera_info": (CameraInfo, f"{output}/camera_info"),
        }
        self._waiting: dict[str, OrderedDict[int, Any]] = {name: OrderedDict() for name in self._topics}
        self._inputs: list[Any] = []
        self._last_warned_s = -_WARN_EVERY_S
        self._points = self.create_publisher(PointCloud2, f"{output}/points", QoSProfile(depth=5))
        self.create_timer(_LOOK_EVERY_S, self._listen_as_wanted, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen_as_wanted(self) -> None:
        heard = self._points.get_subscription_count() > 0
        if heard and not self._inputs:
            qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._inputs = [
                self.create_subscription(kind, topic, partial(self._on_message, name), qos)
                for name, (kind, topic) in self._topics.items()
            ]
        elif not heard and self._inputs:
            for subscription in self._inputs:
                self.destroy_subscription(subscription)
            self._inputs = []
            for messages in self._waiting.values():
                messages.clear()

    def _on_message(self, name: str, message: Any) -> None:
        waiting = self._waiting[name]
        waiting[stamp_ns(message.header)] = message
        if len(waiting) > _KEPT:
            waiting.popitem(last=False)
        for stamp in [stamp for stamp in self._waiting["labels"] if self._is_complete(stamp)]:
            self._publish(stamp)

    def _is_complete(self, stamp: int) -> bool:
        ours = all(stamp in self._waiting[name] for name in ("labels", "confidence", "color", "camera_info"))
        return ours and self._depth_near(stamp) is not None

    def _depth_near(self, stamp: int) -> int | None:
        nearest = min(self._waiting["depth"], key=lambda other: abs(other - stamp), default=None)
        return nearest if nearest is not None and abs(nearest - stamp) <= self._slop_ns else None

    def _publish(self, stamp: int) -> None:
        near = self._depth_near(stamp)
        assert near is not None
        depth = self._waiting["depth"][near]
        labels, confidence, color, info = (
            self._waiting[name].pop(stamp) for name in ("labels", "confidence", "color", "camera_info")
        )
        try:
            points = semantic_points(
                _plane(labels, "u1"),
                drop_depth_edges(depth_in_metres(_depth(depth)), self._edge_px),
                camera_info_from_ros(info),
                _plane(color, "u1", 3),
                _plane(confidence, "u1"),
            )
        except InputError as error:
            now = time.monotonic()
            if now - self._last_warned_s >= _WARN_EVERY_S:
                self._last_warned_s = now
                self.get_logger().warning(f"no points: {error}")
            return
        self._points.publish(points_to_message(points, labels.header))


def points_to_message(points: Points, header: Header) -> PointCloud2:
    """(H, W) of `POINT` → an organised cloud; not dense, for points without a depth are NaN."""
    height, width = points.shape
    fields = []
    for name in POINT.names or ():
        kind, offset = POINT.fields[name][:2]  # type: ignore[index]  # it has fields
        # RViz and PCL read a colour from the bytes of a float.
        datatype = PointField.FLOAT32 if name == "rgb" else _KINDS[kind.str]
        fields.append(PointField(name=name, offset=offset, datatype=datatype, count=1))
    step = POINT.itemsize
    cloud = PointCloud2(
        header=header, height=height, width=width, fields=fields, is_bigendian=False, point_step=step, row_step=step * width,
        is_dense=False,
    )  # fmt: skip
    return fill(cloud, points.view(np.uint8))


def _depth(message: Image) -> npt.NDArray[Any]:
    kind = _DEPTHS.get(message.encoding)
    if kind is None:
        raise InputError(f"a depth image must be {', '.join(_DEPTHS)}, got {message.encoding}")
    plane = _plane(message, f"{'>' if message.is_bigendian else '<'}{kind}")
    return plane.astype(plane.dtype.newbyteorder("="))


def _plane(message: Image, kind: str, channels: int = 1) -> npt.NDArray[Any]:
    """(H, W) or (H, W, C) of a message, whose rows may be padded."""
    size = np.dtype(kind).itemsize
    needed = message.width * channels * size
    if message.step < needed or len(message.data) < message.step * message.height:
        raise InputError(f"an image of {message.width}x{message.height} in {message.encoding} is incomplete")
    rows = np.frombuffer(message.data, np.uint8)[: message.step * message.height].reshape(message.height, message.step)
    plane = np.ascontiguousarray(rows[:, :needed]).view(kind)
    return plane if channels == 1 else plane.reshape(message.height, message.width, channels)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    return run_node("semantic_points", SemanticPoints, arguments)


if __name__ == "__main__":
    sys.exit(main())
