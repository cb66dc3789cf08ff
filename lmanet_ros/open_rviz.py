"""The executable `open_rviz`: wait for a camera's first image, then become RViz, with that image's frame as the fixed frame.

    open_rviz CONFIG TOPIC [TOPIC …] [--ros-args …]

CONFIG is a file for RViz; the frame is written into it. Topics that end in /compressed are CompressedImage. The first of them
counts; the others do where it stays silent for some seconds. Needs no PyTorch. One thread.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from lmanet_ros.names import COMPRESSED
from lmanet_ros.rviz import with_fixed_frame

_OTHERS_AFTER_S = 3.0  # the first camera is waited for so long, where another has sent
_TELL_AFTER_S = 3.0


class FirstFrame(Node):
    """Listens to cameras until it knows a frame.

    Args:
        topics: of images.

    Attributes:
        frames: topic → frame_id of its first image.
    """

    def __init__(self, topics: list[str]) -> None:
        super().__init__("open_rviz")
        self.frames: dict[str, str] = {}
        self._topics = topics
        self._heard_s = 0.0
        for topic in topics:
            kind = CompressedImage if topic.endswith(COMPRESSED) else Image
            self.create_subscription(kind, topic, partial(self._on_image, topic), qos_profile_sensor_data)

    def _on_image(self, topic: str, message: Any) -> None:
        self._heard_s = self._heard_s or time.monotonic()
        self.frames.setdefault(topic, message.header.frame_id)

    def frame(self) -> str | None:
        """The frame to use; None: not known yet."""
        if self._topics[0] in self.frames:
            return self.frames[self._topics[0]]
        if self.frames and time.monotonic() - self._heard_s > _OTHERS_AFTER_S:
            return next(iter(self.frames.values()))
        return None


def wait_for_frame(topics: list[str], ros_arguments: list[str]) -> str | None:
    """The frame_id of a camera's first image; None: SIGINT or SIGTERM came first."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = FirstFrame(topics)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    started_s, told = time.monotonic(), False
    while (frame := node.frame()) is None and not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
        if not told and time.monotonic() - started_s > _TELL_AFTER_S:
            told = True
            node.get_logger().info(f"RViz opens with the first image on {', '.join(topics)}")
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return None if stop.is_set() else frame


def main(arguments: list[str] | None = None) -> int:
    """Become RViz; an exit code comes back only where that does not happen."""
    given = sys.argv[1:] if arguments is None else arguments
    own = remove_ros_args(["open_rviz", *given])[1:]
    ros_arguments = given[given.index("--ros-args") :] if "--ros-args" in given else []
    parser = argparse.ArgumentParser(prog="open_rviz", description="Open RViz in the frame of a camera's images.")
    parser.add_argument("config", type=Path)
    parser.add_argument("topics", nargs="+")
    chosen = parser.parse_args(own)
    try:
        rviz = Path(get_package_prefix("rviz2"), "lib", "rviz2", "rviz2")
    except PackageNotFoundError:
        print("open_rviz: rviz2 is not installed: sudo apt install ros-$ROS_DISTRO-rviz2", file=sys.stderr)
        return 1
    frame = wait_for_frame(chosen.topics, ["open_rviz", *ros_arguments])
    if frame is None:
        return 0
    if frame:
        config = yaml.safe_load(chosen.config.read_text(encoding="utf-8"))
        chosen.config.write_text(yaml.safe_dump(with_fixed_frame(config, frame), sort_keys=False), encoding="utf-8")
    # The same process, so that whoever started it has RViz's own exit code, and its signals arrive.
    return os.execv(rviz, [str(rviz), "-d", str(chosen.config), *ros_arguments])


if __name__ == "__main__":
    sys.exit(main())
