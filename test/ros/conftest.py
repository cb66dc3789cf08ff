"""A node under test and a robot around it, in one process but with participants of their own, so that DDS lies between them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

SECOND = 10**9
_numbers = itertools.count()
ROOT = Path(__file__).resolve().parents[2]

# A domain of its own, so that two runs on one machine do not hear each other.
os.environ.setdefault("ROS_DOMAIN_ID", str(43 + os.getpid() % 50))
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")  # newer distributions know it, too, and complain of it
else:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

if find_spec("rclpy") is None:
    collect_ignore_glob = [
        "test_node*.py",
        "test_conversions.py",
        "test_processes.py",
        "test_rviz.py",
        "test_semantic_points.py",
    ]


def pytest_terminal_summary(terminalreporter):
    if find_spec("rclpy") is None:
        terminalreporter.write_line("ROS tests skipped: rclpy cannot be imported, no ROS 2 is sourced")


@pytest.fixture
def start(tmp_path):
    """Starts a process in a group of its own; the output goes to a file."""
    processes = []

    def run(*command):
        log = tmp_path / f"log{len(processes)}"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd=tmp_path
        )
        processes.append(process)
        process.said = log.read_text
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def drive():
    """Images of a scene that moves a little from one to the next: (H, W, 3) uint8."""

    def make(count, seed=0, height=32, width=64):
        checks = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4 + count, 3), np.uint8)
        wide = checks.repeat(4, 0).repeat(4, 1)
        return [np.ascontiguousarray(wide[:, index : index + width]) for index in range(count)]

    return make


@pytest.fixture
def robot(video_weights):
    """Makes a `Robot`; keyword arguments `use_sim_time`, `prefixes`, `start`, and parameters with __ for their dots."""
    robots = []

    def make(parameters=None, **options):
        robots.append(Robot({"weights": str(video_weights), **(parameters or {})}, **options))
        return robots[-1]

    yield make
    for each in robots:
        each.close()


class Robot:
    """A `SegmentNode` and a camera and a listener beside it.

    Attributes:
        node: under test.
        log: (level, text) of what it said.
    """

    def __init__(self, parameters, prefixes=("",), start=True, outputs=("labels",), reliable=True, compressed=False):
        import rclpy
        from rcl_interfaces.msg import Log
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        from lmanet_ros.lifecycle_node import SegmentNode

        self._types = {"labels/compressed": CompressedImage, "camera_info": CameraInfo}
        self._image = Image
        self._contexts = [rclpy.Context(), rclpy.Context()]
        for context in self._contexts:
            context.init()
        own, other = self._contexts
        self.name = f"segment_node_{next(_numbers)}"  # ROS keeps one /rosout publisher per name and process
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = SegmentNode(
            context=own, parameter_overrides=overrides, cli_args=["--ros-args", "-r", f"__node:={self.name}"]
        )
        self.other = rclpy.create_node("robot", context=other)
        self.log = []
        self.received = {}
        self._arrived = threading.Condition()
        qos = QoSProfile(depth=50)
        self.other.create_subscription(
            Log, "/rosout", self._on_log, QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        )
        camera_qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
        kind, suffix = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self.cameras = {prefix: self.other.create_publisher(kind, prefix + suffix, camera_qos) for prefix in prefixes}
        self.infos = {prefix: self.other.create_publisher(CameraInfo, f"{prefix}camera_info", qos) for prefix in prefixes}
        self._subscriptions = {}
        for prefix in prefixes:
            for output in outputs:
                self.listen(f"{prefix}segmentation/{output}", self._types.get(output, Image))
        self._stop = threading.Event()
        self._executors = [SingleThreadedExecutor(context=context) for context in self._contexts]
        self._threads = []
        for executor, node in zip(self._executors, (self.node, self.other), strict=True):
            executor.add_node(node)
        if start:
            self.node.start()
        for executor in self._executors:
            self._threads.append(threading.Thread(target=self._spin, args=(executor,), daemon=True))
            self._threads[-1].start()
        if start:
            self.wait(lambda: all(p.get_subscription_count() for p in self.cameras.values()), "the node subscribes")
            self.wait(lambda: all(map(self.is_matched, self._subscriptions.values())), "the node publishes")
            matched = [f"{prefix}segmentation/{output}" for prefix in prefixes for output in outputs]
            self.wait(lambda: all(self.node.count_subscribers(topic) for topic in matched), "the listener is seen")

    def listen(self, topic, kind, qos=50):
        """Collect what comes on a topic."""
        self.received.setdefault(topic, [])
        self._subscriptions[topic] = self.other.create_subscription(kind, topic, lambda m: self._on_message(topic, m), qos)

    def is_matched(self, subscription):
        """Whether a subscription gets what is published from now on: its own participant knows of a publisher."""
        if hasattr(subscription, "get_publisher_count"):  # not Humble's
            return subscription.get_publisher_count() > 0
        return self.other.count_publishers(subscription.topic_name) > 0

    def image(self, pixels, stamp_ns, frame_id="camera", encoding="rgb8", **changes):
        """A message."""
        from lmanet_ros.conversions import image_to_message

        message = image_to_message(np.asarray(pixels), self.header(stamp_ns, frame_id))
        message.encoding = encoding
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    @staticmethod
    def header(stamp_ns, frame_id="camera"):
        from builtin_interfaces.msg import Time
        from std_msgs.msg import Header

        return Header(stamp=Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND), frame_id=frame_id)

    def step(self, pixels, stamp_ns, prefix="", output="labels", **options):
        """Publish one image, wait for what is made of it, and until it is counted."""
        topic = f"{prefix}segmentation/{output}"
        before, counted = len(self.received[topic]), self._counted(prefix)
        self.cameras[prefix].publish(self.image(pixels, stamp_ns, **options))
        self.wait(lambda: len(self.received[topic]) > before, f"{topic} of the image at {stamp_ns / 1e9} s")
        self.wait(lambda: self._counted(prefix) > counted, "the count")  # a moment after it went out
        return self.received[topic][-1]

    def statistics(self, prefix=""):
        return self.node._cameras[prefix.rstrip("/")].statistics.snapshot()

    def _counted(self, prefix):
        now = self.statistics(prefix)
        return now.published + now.fed

    def resets(self, prefix=""):
        return dict(self.statistics(prefix).resets)

    def said(self, words, level="any"):
        """What the node logged that holds these words."""
        return [text for severity, text in list(self.log) if words in text and level in ("any", severity)]

    def call(self, kind, name, **fields):
        """Call a service and wait for its answer."""
        client = self.other.create_client(kind, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(kind.Request(**fields))
        self.wait(future.done, f"answer of {name}")
        self.other.destroy_client(client)
        return future.result()

    def set_parameters(self, atomically=False, **values):
        """Set parameters through the node's service; __ stands for a dot. Returns the results."""
        from rcl_interfaces.srv import SetParameters, SetParametersAtomically
        from rclpy.parameter import Parameter

        messages = [Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()]
        if atomically:
            return self.call(SetParametersAtomically, f"{self.name}/set_parameters_atomically", parameters=messages).result
        return self.call(SetParameters, f"{self.name}/set_parameters", parameters=messages).results

    def transition(self, label):
        """Ask for a lifecycle transition; returns whether it was made."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        return self.call(ChangeState, f"{self.name}/change_state", transition=Transition(label=label)).success

    def state(self):
        from lifecycle_msgs.srv import GetState

        return self.call(GetState, f"{self.name}/get_state").current_state.label

    def wait(self, condition, what, timeout_s=15.0):
        """Until a condition holds; fails the test otherwise."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"waited {timeout_s} s in vain: {what}; log: {self.log}")
            with self._arrived:
                self._arrived.wait(0.02)

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for executor in self._executors:
            executor.shutdown()
        self.node.destroy_node()
        self.other.destroy_node()
        for context in self._contexts:
            context.try_shutdown()

    def _spin(self, executor):
        while not self._stop.is_set():
            executor.spin_once(timeout_sec=0.1)

    def _on_log(self, message):
        levels = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
        if message.name == self.name:
            self.log.append((levels[message.level], message.msg))

    def _on_message(self, topic, message):
        with self._arrived:
            self.received[topic].append(message)
            self._arrived.notify_all()
