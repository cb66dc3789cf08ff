"""What any rclpy node pays that makes two images out of one: copy, publish one byte and three bytes a pixel. Nothing else.

Run by `ros_node.py` beside the real node. Says on /diagnostics, once a second, what its callbacks cost, and at the end the same
line of JSON as `measured_node.py`. With --keep-memory it runs with the allocator settings of the real node, else as rclpy
nodes are usually run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from lmanet_core.process import keep_freed_memory
from lmanet_ros.conversions import image_to_message, stamp_ns
from lmanet_ros.diagnostics import OK, make_status
from lmanet_ros.statistics import Statistics


class BareNode(Node):
    def __init__(self) -> None:
        super().__init__("bare")
        self._statistics = Statistics()
        self._callback_cpu_s = 0.0
        self.publish_cpu_ms: list[float] = []
        self._labels = self.create_publisher(Image, "segmentation/labels", QoSProfile(depth=5))
        self._color = self.create_publisher(Image, "segmentation/color", QoSProfile(depth=5))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(Image, "image", self._on_image, qos_profile_sensor_data)
        self.create_timer(1.0, self._on_second)

    def _on_image(self, message: Image) -> None:
        start, cpu = time.perf_counter(), time.thread_time()
        self._statistics.count_received()
        color = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        labels = color.reshape(-1)[: message.height * message.width].reshape(message.height, message.width)
        self._labels.publish(image_to_message(labels, message.header))
        self._color.publish(image_to_message(color, message.header))
        end = time.perf_counter()
        self.publish_cpu_ms.append(1e3 * (time.thread_time() - cpu))
        age_s = (self.get_clock().now().nanoseconds - stamp_ns(message.header)) / 1e9
        stages = {"publish": (end - start) * 1e3, "stamp_to_publish": age_s * 1e3}
        self._statistics.count_done(stages, age_s, memory_frames=0, reset=None, remembered=True, fed=False)
        self._callback_cpu_s += time.thread_time() - cpu

    def _on_second(self) -> None:
        now = self._statistics.snapshot()
        values = {"images received": now.received, "callback cpu (s)": self._callback_cpu_s, "dropped for a newer image": 0}
        for stage, percentiles in now.latency_ms.items():
            values[f"{stage} p50/p95/p99 (ms)"] = " / ".join(f"{value:.2f}" for value in percentiles)
        self._diagnostics.publish(DiagnosticArray(status=[make_status("bare: camera", OK, "", values)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep-memory", action="store_true")
    if parser.parse_args().keep_memory:
        keep_freed_memory()
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())  # a KeyboardInterrupt may hit rclpy in the middle of taking a message
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = BareNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    print(json.dumps({"publish_cpu_ms": node.publish_cpu_ms}))


if __name__ == "__main__":
    main()
