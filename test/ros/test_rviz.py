"""What starts RViz, with a stand-in for RViz itself; and whether its topics, and Foxglove's, are those that are published."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]

RVIZ = """#!/bin/sh
# Keeps what it was started with, and goes on until the file `close` appears.
cp "$2" "$SHOWN/config.rviz"
echo "$@" > "$SHOWN/arguments"
while ! [ -e "$SHOWN/close" ]; do sleep 0.1; done
exit 3
"""
MOUNT = """#!/bin/sh
echo "$@" >> "$SHOWN/mounts"
exec sleep 1000
"""


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The folder where the stand-in leaves what it was started with."""
    for package, executable, script in (
        ("rviz2", "rviz2", RVIZ),
        ("tf2_ros", "static_transform_publisher", MOUNT),
    ):
        index = tmp_path / "prefix/share/ament_index/resource_index/packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
        program = tmp_path / "prefix/lib" / package / executable
        program.parent.mkdir(parents=True)
        program.write_text(script)
        program.chmod(0o755)
    folder = tmp_path / "shown"
    folder.mkdir()
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([str(tmp_path / "prefix"), os.environ["AMENT_PREFIX_PATH"]]))
    monkeypatch.setenv("SHOWN", str(folder))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    return folder


@pytest.fixture
def config(tmp_path):
    """A copy of segment.rviz, to be rewritten."""
    return Path(shutil.copy(ROOT / "config/segment.rviz", tmp_path / "own.rviz"))


@pytest.fixture
def camera():
    """Publishes images: `camera(topic, frame_id)` sends one, and another each time it is called."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header

    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("camera", context=context)
    publishers = {}

    def send(topic, frame_id):
        kind = CompressedImage if topic.endswith("/compressed") else Image
        if topic not in publishers:
            publishers[topic] = node.create_publisher(kind, topic, qos_profile_sensor_data)
        publishers[topic].publish(kind(header=Header(frame_id=frame_id)))

    yield send
    node.destroy_node()
    context.try_shutdown()


def until(condition, what, timeout_s=40):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"in vain: {what()}"
        time.sleep(0.1)


def opened(start, config, *topics):
    return start(sys.executable, "-m", "lmanet_ros.open_rviz", str(config), *topics, "--ros-args", "-p", "use_sim_time:=false")


def fixed_frame(file):
    return yaml.safe_load(file.read_text())["Visualization Manager"]["Global Options"]["Fixed Frame"]


def test_rviz_opens_in_the_frame_of_the_first_image_and_its_exit_code_is_kept(shown, config, start, camera):
    process = opened(start, config, "/front/image_raw/compressed", "/rear/image_raw")

    def sent():
        camera("/rear/image_raw", "rear_frame")
        camera("/front/image_raw/compressed", "front_frame")
        return (shown / "arguments").exists()

    until(sent, process.said)
    assert fixed_frame(shown / "config.rviz") == "front_frame"
    assert (shown / "arguments").read_text().split() == ["-d", str(config), "--ros-args", "-p", "use_sim_time:=false"]
    assert process.poll() is None
    (shown / "close").touch()
    assert process.wait(10) == 3


def test_a_silent_first_camera_does_not_keep_rviz_from_opening(shown, config, start, camera):
    process = opened(start, config, "/front/image_raw", "/rear/image_raw")

    def sent():
        camera("/rear/image_raw", "rear_frame")
        return (shown / "arguments").exists()

    until(sent, process.said)
    assert fixed_frame(shown / "config.rviz") == "rear_frame"


def test_images_without_a_frame_leave_the_one_in_the_file(shown, config, start, camera):
    process = opened(start, config, "/front/image_raw")

    def sent():
        camera("/front/image_raw", "")
        return (shown / "arguments").exists()

    until(sent, process.said)
    assert (shown / "config.rviz").read_text() == (ROOT / "config/segment.rviz").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_images_it_waits_says_so_and_stops_cleanly(shown, config, start, number):
    process = opened(start, config, "/front/image_raw", "/rear/image_raw")
    until(lambda: "RViz opens with the first image on /front/image_raw, /rear/image_raw" in process.said(), process.said)
    process.send_signal(number)
    assert process.wait(10) == 0
    assert not (shown / "arguments").exists() and "Traceback" not in process.said()


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_launch_opens_rviz_with_all_cameras_and_closing_it_leaves_the_node_running(shown, start, video_weights):
    launch = start(
        "ros2", "launch", str(ROOT / "launch/segment.launch.py"), "demo:=true", "rviz:=true", f"weights:={video_weights}",
        f"python:={sys.executable}", "cameras:=front,rear", "depth:={camera}/depth", "namespace:=robot",
    )  # fmt: skip
    until(lambda: (shown / "arguments").exists(), launch.said)
    made = yaml.safe_load((shown / "config.rviz").read_text())
    shows = {one["Name"]: one["Topic"]["Value"] for one in made["Visualization Manager"]["Displays"] if "Topic" in one}
    assert shows == {
        f"{name} {kind}": f"/robot/{name}/{topic}"
        for name in ("front", "rear")
        for kind, topic in (
            ("camera", "image_raw"), ("overlay", "segmentation/overlay"), ("labels", "segmentation/color"),
            ("confidence", "segmentation/confidence"), ("points", "segmentation/points"),
        )
    }  # fmt: skip
    assert fixed_frame(shown / "config.rviz") == "front_camera"
    until(lambda: (shown / "mounts").read_text().count("\n") == 2, launch.said)
    mounts = (shown / "mounts").read_text()
    assert all(f"--frame-id base_link --child-frame-id {name}_camera" in mounts for name in ("front", "rear"))
    until(lambda: "active, images from" in launch.said(), launch.said)

    (shown / "close").touch()
    until(lambda: re.search(r"\[python-\d+\]: process has died .* exit code 3", launch.said()), launch.said)
    time.sleep(1.0)
    assert launch.poll() is None and launch.said().count("process has") == 1

    os.killpg(launch.pid, signal.SIGINT)
    assert launch.wait(20) == 0, launch.said()
    assert "Traceback" not in launch.said()


def test_topics_of_rviz_and_foxglove_are_those_that_are_published(robot):
    pytest.importorskip("vision_msgs.msg", reason="no package vision_msgs, whose topic is looked for")
    import rclpy

    from lmanet_ros.names import of_launch
    from lmanet_ros.semantic_points import SemanticPoints

    node = robot().node
    context = rclpy.Context()
    context.init()
    points = SemanticPoints(context=context)
    deadline = time.monotonic() + 10
    published = {}
    while not {"/segmentation/labels", "/segmentation/points"} <= set(published):  # each node is discovered by itself
        assert time.monotonic() < deadline, published
        own = (points.get_publisher_names_and_types_by_node(name, "/") for name in (node.get_name(), points.get_name()))
        with contextlib.suppress(RuntimeError):  # of one that is not discovered yet
            published = {topic: kinds[0] for found in own for topic, kinds in found}
    points.destroy_node()
    context.try_shutdown()
    camera = of_launch("", [], None)[""]
    published |= {f"/{camera.image}": "sensor_msgs/msg/Image", f"/{camera.camera_info}": "sensor_msgs/msg/CameraInfo"}

    wanted = {
        "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
        "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    }
    base = yaml.safe_load((ROOT / "config/segment.rviz").read_text())
    displays = [one for one in base["Visualization Manager"]["Displays"] if "Topic" in one]
    assert len(displays) == 5
    for display in displays:
        assert published[display["Topic"]["Value"]] == wanted[display["Class"]]

    panels = json.loads((ROOT / "config/foxglove.json").read_text())["configById"]
    for name, panel in panels.items():
        kind = name.split("!")[0]
        if kind == "Image":
            assert published[panel["imageMode"]["imageTopic"]] in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
            assert published[panel["imageMode"]["calibrationTopic"]] == "sensor_msgs/msg/CameraInfo"
        elif kind == "3D":
            assert {published[topic] for topic in panel["topics"]} == {"sensor_msgs/msg/PointCloud2"}
        elif kind == "DiagnosticSummary":
            assert published[panel["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
        else:
            topic, field = panel["topicPath"].split(".")
            assert (published[topic], field) == ("vision_msgs/msg/LabelInfo", "class_map")
