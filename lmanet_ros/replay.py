"""The executable `replay`: play a bag into a running node and record what it publishes, to be scored by `lmanet evaluate`.

    wait until the node listens and can be heard → ros2 bag play → record → wait until nothing comes any more → close the bag

The recording is a bag with the node's label maps. Each is stored at its stamp plus the time from the image to it, as seen here
on a clock that never jumps: time of recording minus stamp is the latency, whatever the bag's age and the rate of playing.
Everything but the player runs in one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from lmanet_core.errors import LmanetError
from lmanet_core.media.bag_writer import BagWriter
from lmanet_core.media.label_images import label_ids_from_message
from lmanet_ros.conversions import stamp_ns

_WAIT_S = 120.0  # for the node: weights may take a while to load
_QUIET_S = 2.0  # so long without a result means that none is left
_REMEMBERED = 1000  # images whose time of arrival is kept


class ReplayRecorder(Node):
    """Records label maps and how long each took.

    Args:
        out: folder of the bag.
        image: topic of the images, with `/compressed` where they are.
        labels: topic of the label maps.

    Raises:
        OutputError: the bag exists, or cannot be made.
    """

    def __init__(self, out: Path, image: str, labels: str) -> None:
        super().__init__("replay")
        self.recorded = 0
        self.last_result_s = time.monotonic()
        self._bag = BagWriter(out)
        self._labels_topic = self.resolve_topic_name(labels)
        self._image_topic = self.resolve_topic_name(image)
        self._arrivals: OrderedDict[int, float] = OrderedDict()  # stamp → when, seconds
        kind = CompressedImage if image.endswith("/compressed") else Image
        best_effort = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        # Raw: the header is all that is wanted, and a large image would be converted for it.
        self.create_subscription(kind, image, self._on_image, best_effort, raw=True)
        self.create_subscription(Image, labels, self._on_labels, QoSProfile(depth=100))

    def is_ready(self) -> bool:
        """Whether the node listens to images and publishes label maps."""
        listeners = int(self.count_subscribers(self._image_topic))  # we are one of them
        return listeners >= 2 and int(self.count_publishers(self._labels_topic)) >= 1

    def close(self) -> None:
        """Finish the bag."""
        self._bag.close()

    def _on_image(self, message: bytes) -> None:
        stamp = int.from_bytes(message[4:8], "little") * 10**9 + int.from_bytes(message[8:12], "little")  # CDR: header first
        self._arrivals.setdefault(stamp, time.monotonic())
        if len(self._arrivals) > _REMEMBERED:
            self._arrivals.popitem(last=False)

    def _on_labels(self, message: Any) -> None:
        self.last_result_s = now_s = time.monotonic()
        stamp = stamp_ns(message.header)
        arrived_s = self._arrivals.pop(stamp, None)
        taken_ns = 0 if arrived_s is None else round((now_s - arrived_s) * 1e9)
        ids = label_ids_from_message(message, self._labels_topic)
        image = self._bag.image(ids, stamp, message.header.frame_id)
        self._bag.put("/segmentation/labels", image, stamp, recorded_ns=stamp + taken_ns)
        self.recorded += 1


def main(arguments: list[str] | None = None) -> int:
    """Play and record; returns the exit code: 0 done, 1 the node never answered or the player failed."""
    options = _parse(remove_ros_args(sys.argv if arguments is None else ["replay", *arguments])[1:])
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    recorder: ReplayRecorder | None = None
    player: subprocess.Popen[bytes] | None = None
    executor = SingleThreadedExecutor()
    try:
        recorder = ReplayRecorder(options.out, options.image, options.labels)
        executor.add_node(recorder)
        if not _spin_until(executor, stopped, recorder.is_ready, _WAIT_S):
            recorder.get_logger().error(f"no node listens to {options.image} and publishes {options.labels}; is it active?")
            return 1
        command = ["ros2", "bag", "play", str(options.bag), "--clock", "100", "--rate", str(options.rate), "--delay", "3"]
        command += [
            "--disable-keyboard-controls",
            "--topics",
            options.image,
            *options.also,
            *(["--loop"] if options.loop else []),
        ]
        player = subprocess.Popen(command)
        playing = player
        _spin_until(executor, stopped, lambda: playing.poll() is not None, None)
        recorder.last_result_s = time.monotonic()
        waiting = recorder
        _spin_until(executor, stopped, lambda: time.monotonic() - waiting.last_result_s > _QUIET_S, None)
        recorder.get_logger().info(f"{recorder.recorded} results recorded in {options.out}")
        return 1 if player.poll() and not stopped else 0
    except LmanetError as error:
        print(f"replay: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if player is not None and player.poll() is None:
            player.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                player.wait(10)
        if recorder is not None:
            recorder.close()
            recorder.destroy_node()
        rclpy.try_shutdown()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="replay", description="Play a bag into a running node and record its label maps.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--image", required=True, help="image topic in the bag")
    parser.add_argument("--labels", default="segmentation/labels", help="topic of the node's label maps")
    parser.add_argument("--also", nargs="*", default=[], help="further topics to play")
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--loop", action="store_true")
    return parser.parse_args(arguments)


def _spin_until(executor: SingleThreadedExecutor, stopped: list[int], condition: Any, limit_s: float | None) -> bool:
    """Spin until a condition holds, a signal came or the time is over; returns whether it holds."""
    end = time.monotonic() + (limit_s or 0.0)
    while not stopped:
        if condition():
            return True
        if limit_s is not None and time.monotonic() > end:
            return False
        with contextlib.suppress(ExternalShutdownException):
            executor.spin_once(timeout_sec=0.05)
    return bool(condition())


if __name__ == "__main__":
    sys.exit(main())
