"""semantic_points beside a running node: labels and depth in, an organised cloud out."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros

SECOND = 10**9
SIZE = (32, 64)


@pytest.fixture
def cloud(robot):
    """A robot with `semantic_points` beside its node; `clouds` are what it publishes."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image, PointCloud2

    from lmanet_ros.semantic_points import SemanticPoints

    node = robot(outputs=("labels", "confidence"))
    context = rclpy.Context()
    context.init()
    points = SemanticPoints(context=context)
    executor, stop = SingleThreadedExecutor(context=context), threading.Event()
    executor.add_node(points)

    def spin():
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    node.depth = node.other.create_publisher(Image, "depth", 10)
    node.listen("segmentation/points", PointCloud2)
    node.wait(lambda: node.depth.get_subscription_count(), "depth is listened to")
    node.wait(lambda: node.node.count_subscribers("segmentation/color"), "colours are listened to")
    node.wait(lambda: node.node.count_subscribers("segmentation/camera_info"), "calibration is listened to")
    yield node
    stop.set()
    thread.join()
    executor.shutdown()
    points.destroy_node()
    context.try_shutdown()


def calibrate(node):
    from sensor_msgs.msg import CameraInfo

    height, width = SIZE
    p = [100.0, 0.0, 32.0, 0.0, 0.0, 100.0, 16.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    node.infos[""].publish(CameraInfo(header=node.header(SECOND), width=width, height=height, p=p))
    node.wait(lambda: node.node._cameras[""].calibration is not None, "the calibration is there")


def send_depth(node, plane, stamp_ns, encoding):
    from sensor_msgs.msg import Image

    message = Image(header=node.header(stamp_ns), height=plane.shape[0], width=plane.shape[1], encoding=encoding)
    message.step = plane.shape[1] * plane.itemsize
    message.data.frombytes(plane.tobytes())
    node.depth.publish(message)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_every_pixel_is_a_point_of_its_class(cloud, drive, encoding):
    from lmanet_core.geometry.points import POINT

    calibrate(cloud)
    plane = np.full(SIZE, 2000, np.uint16) if encoding == "16UC1" else np.full(SIZE, 2.0, np.float32)
    send_depth(cloud, plane, SECOND + 5_000_000, encoding)  # 5 ms beside
    labels = cloud.step(drive(1)[0], SECOND)
    cloud.wait(lambda: cloud.received["segmentation/points"], "points")
    (message,) = cloud.received["segmentation/points"]
    assert (message.height, message.width, message.point_step) == (*SIZE, POINT.itemsize)
    assert [field.name for field in message.fields] == list(POINT.names)
    assert message.header == labels.header
    points = np.frombuffer(bytes(message.data), POINT).reshape(SIZE)
    assert bytes(points["class_id"].astype(np.uint8)) == bytes(labels.data)
    assert points["z"].min() == points["z"].max() == 2.0
    assert points["x"][0, [0, 63]].tolist() == pytest.approx([-0.64, 0.62]) and points["y"][31, 0] == pytest.approx(0.3)
    confidence = np.frombuffer(bytes(cloud.received["segmentation/confidence"][-1].data), np.uint8)
    assert points["confidence"].ravel() == pytest.approx(confidence / 255.0)


def test_depth_of_another_time_makes_no_points(cloud, drive):
    calibrate(cloud)
    send_depth(cloud, np.full(SIZE, 2000, np.uint16), SECOND + 50_000_000, "16UC1")
    cloud.step(drive(1)[0], SECOND)
    time.sleep(0.3)
    assert not cloud.received["segmentation/points"]
