"""The node as a process of its own: signals, launch, exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
TOPICS = {
    "labels", "labels/compressed", "color", "overlay", "confidence", "mask/drivable", "mask/person", "mask/vehicle",
    "label_info", "camera_info",
}  # fmt: skip


def wait_until(condition, what, timeout_s=40):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"in vain: {what()}"
        time.sleep(0.05)


def start_node(start, *parameters):
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    return start(sys.executable, "-m", "lmanet_ros.segment_node", "--ros-args", *arguments)


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_signal_ends_the_node_cleanly(start, video_weights, signals):
    node = start_node(start, f"weights:={video_weights}")
    wait_until(lambda: "active, images from /image" in node.said(), node.said)
    for number in signals:
        node.send_signal(number)
        time.sleep(0.01)
    assert node.wait(10) == 0
    assert "Traceback" not in node.said()


def test_signal_while_it_starts_ends_the_node_cleanly(start, video_weights):
    node = start_node(start, f"weights:={video_weights}")
    time.sleep(0.6)  # torch is being imported
    node.send_signal(signal.SIGINT)
    assert node.wait(20) == 0
    assert "Traceback" not in node.said()


def test_wrong_parameter_ends_the_node_with_the_reason(start):
    node = start_node(start, "memory.window:=4")
    assert node.wait(20) == 2
    assert "memory.window must be odd, 0 (as trained) or -1 (global), got 4" in node.said()
    assert "Traceback" not in node.said()


def test_interpreter_without_torch_is_told_so(start, tmp_path):
    (tmp_path / "hide.py").write_text(
        "import runpy, sys\n"
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "runpy.run_module('lmanet_ros.segment_node', run_name='__main__')\n"
    )
    node = start(sys.executable, str(tmp_path / "hide.py"))
    assert node.wait(20) == 1
    assert f"{sys.executable} cannot import torch" in node.said()
    assert "python:=" in node.said()


def test_street_camera_tells_of_a_parameter_that_is_none_of_its_own_and_stops_cleanly(start):
    arguments = ["-p", "fsp:=5.0", "-p", "use_sim_time:=false", "-p", "width:=64", "-p", "height:=32"]
    camera = start(sys.executable, "-m", "lmanet_ros.street_camera", "--ros-args", *arguments)
    wait_until(lambda: "64x32 at 10 Hz on /image" in camera.said(), camera.said)
    camera.send_signal(signal.SIGINT)
    assert camera.wait(20) == 0
    assert "parameter fsp is not one of this node's and changes nothing; did you mean fps?" in camera.said()
    assert "use_sim_time" not in camera.said() and "Traceback" not in camera.said()


@pytest.mark.skipif(shutil.which("launch_test") is None, reason="no launch_test command (launch_testing)")
def test_launch_test_of_the_demo_passes(start, video_weights):
    test = start("launch_test", str(ROOT / "test/ros/launch_demo.py"), f"weights:={video_weights}", f"python:={sys.executable}")
    assert test.wait(150) == 0, test.said()
    assert test.said().count("OK") >= 2, test.said()  # while it runs, and afterwards


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_launch_with_demo_publishes_every_topic_and_stops_cleanly(start, video_weights):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from vision_msgs.msg import LabelInfo

    launch = start(
        "ros2", "launch", str(ROOT / "launch/segment.launch.py"), "demo:=true", f"weights:={video_weights}",
        f"python:={sys.executable}", "namespace:=robot",
    )  # fmt: skip
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("listener", context=context)
    types = {"labels/compressed": CompressedImage, "label_info": LabelInfo, "camera_info": CameraInfo}
    came = set()
    for topic in TOPICS:
        qos = rclpy.qos.QoSProfile(depth=1)
        if topic == "label_info":
            qos.durability = rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL
        node.create_subscription(types.get(topic, Image), f"/robot/segmentation/{topic}", lambda m, t=topic: came.add(t), qos)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spun():
        executor.spin_once(timeout_sec=0.1)
        return came == TOPICS

    wait_until(spun, lambda: f"missing {TOPICS - came}; {launch.said()}")
    node.destroy_node()
    context.try_shutdown()
    os.killpg(launch.pid, signal.SIGINT)  # as Ctrl-C does: to launch and to the nodes, which launch tells again
    assert launch.wait(20) == 0
    assert "Traceback" not in launch.said()
    assert launch.said().count("process has finished cleanly") == 2


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_launch_with_depth_makes_points_of_the_street(start, video_weights):
    import numpy as np
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import PointCloud2

    from lmanet_core.geometry.points import POINT

    launch = start(
        "ros2", "launch", str(ROOT / "launch/segment.launch.py"), "demo:=true", f"weights:={video_weights}",
        f"python:={sys.executable}", "namespace:=robot", "depth:=camera/depth/image_raw",
    )  # fmt: skip
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("listener", context=context)
    clouds = []
    node.create_subscription(PointCloud2, "/robot/segmentation/points", clouds.append, 5)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spun():
        executor.spin_once(timeout_sec=0.1)
        return len(clouds) >= 3

    wait_until(spun, lambda: f"{len(clouds)} clouds; {launch.said()}")
    node.destroy_node()
    context.try_shutdown()
    os.killpg(launch.pid, signal.SIGINT)
    assert launch.wait(20) == 0
    assert "Traceback" not in launch.said()
    assert launch.said().count("process has finished cleanly") == 3
    cloud = clouds[-1]
    assert (cloud.header.frame_id, cloud.height, cloud.width) == ("street_camera", 256, 512)
    points = np.frombuffer(bytes(cloud.data), POINT).reshape(256, 512)
    assert np.isnan(points["z"]).any(), "the sky has no depth"
    on_the_road = points[-1]  # close before the car, below the camera
    assert np.all((on_the_road["z"] > 1.0) & (on_the_road["z"] < 12.0))
    assert np.all((on_the_road["y"] > 0.3) & (on_the_road["y"] < 4.0))


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_launch_arguments_reach_the_node(start, video_weights):
    launch = start(
        "ros2", "launch", str(ROOT / "launch/segment.launch.py"), f"weights:={video_weights}", f"python:={sys.executable}",
        "cameras:=front,rear", "image:=/rig/{camera}/raw", "compressed:=true", "device:=cpu",
    )  # fmt: skip
    wait_until(lambda: "images from /rig/front/raw/compressed, /rig/rear/raw/compressed" in launch.said(), launch.said)
    os.killpg(launch.pid, signal.SIGINT)
    assert launch.wait(20) == 0


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_launch_refuses_a_pattern_without_the_camera(start):
    launch = start("ros2", "launch", str(ROOT / "launch/segment.launch.py"), "cameras:=front,rear", "image:=/raw")
    assert launch.wait(20) == 1
    assert "image:=/raw must hold {camera}" in launch.said()
