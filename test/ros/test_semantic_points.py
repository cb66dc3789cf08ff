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
def cloud(robot, request):
    """A robot with `semantic_points` beside its node, with the parameters that a test gives."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import Image, PointCloud2

    from lmanet_ros.semantic_points import SemanticPoints

    node = robot(outputs=("labels", "confidence"))
    context = rclpy.Context()
    context.init()
    parameters = [Parameter(name, value=value) for name, value in getattr(request, "param", {}).items()]
    points = SemanticPoints(context=context, parameter_overrides=parameters)
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
    for topic, count in {"labels": 2, "confidence": 2, "color": 1, "camera_info": 1}.items():  # the robot hears two of them
        heard = f"segmentation/{topic}"
        node.wait(lambda heard=heard, count=count: node.node.count_subscribers(heard) == count, f"{heard} is listened to")
    heard = node._subscriptions["segmentation/points"]
    node.wait(lambda: all(map(node.is_matched, (*points._inputs, heard))), "who listens knows of who publishes")
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


def send_depth(node, plane, stamp_ns, encoding, missing=0):
    """A depth image; `missing` bytes of its data, or, below 0, so many too much."""
    from sensor_msgs.msg import Image

    message = Image(header=node.header(stamp_ns), height=plane.shape[0], width=plane.shape[1], encoding=encoding)
    message.step = plane.shape[1] * plane.itemsize
    data = plane.tobytes()
    message.data.frombytes(data[: len(data) - missing] + bytes(max(0, -missing)))
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


@pytest.mark.parametrize("cloud", [{"slop_s": 0.0}], indirect=True)
def test_without_slop_the_very_same_stamp_still_makes_points(cloud, drive):
    calibrate(cloud)
    send_depth(cloud, np.full(SIZE, 2000, np.uint16), SECOND, "16UC1")
    cloud.step(drive(1)[0], SECOND)
    cloud.wait(lambda: cloud.received["segmentation/points"], "points")


def test_depth_that_is_cut_short_makes_no_points_and_the_next_one_does(cloud, drive):
    calibrate(cloud)
    images = drive(2)
    send_depth(cloud, np.full(SIZE, 2000, np.uint16), SECOND, "16UC1", missing=100)
    cloud.step(images[0], SECOND)
    send_depth(cloud, np.full(SIZE, 2000, np.uint16), 2 * SECOND, "16UC1", missing=-100)  # more than there is to read
    cloud.step(images[1], 2 * SECOND)
    cloud.wait(lambda: cloud.received["segmentation/points"], "points")
    assert [message.header.stamp.sec for message in cloud.received["segmentation/points"]] == [2]


@pytest.mark.parametrize("cloud", [{"edge_px": 2}], indirect=True)
def test_pixels_beside_a_nearer_thing_have_no_point_but_a_place(cloud, drive):
    from lmanet_core.geometry.points import POINT

    calibrate(cloud)
    plane = np.full(SIZE, 5.0, np.float32)
    plane[10:20, 30:40] = 2.0
    send_depth(cloud, plane, SECOND, "32FC1")
    cloud.step(drive(1)[0], SECOND)
    cloud.wait(lambda: cloud.received["segmentation/points"], "points")
    (message,) = cloud.received["segmentation/points"]
    points = np.frombuffer(bytes(message.data), POINT).reshape(SIZE)
    wanted = np.zeros(SIZE, bool)
    wanted[8:22, 28:42] = True
    wanted[10:20, 30:40] = False
    assert np.array_equal(np.isnan(points["z"]), wanted)


def test_what_navigation_2s_semantic_layer_asks_for_comes_together(cloud, drive):
    """Its subscriptions: classes before anything else, then labels, confidence and points of the very same stamp and size."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image, PointCloud2, PointField

    LabelInfo = pytest.importorskip("vision_msgs.msg", reason="no package vision_msgs").LabelInfo

    arrived = []
    streams = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    topics = {"labels": Image, "confidence": Image, "points": PointCloud2, "label_info": LabelInfo}
    for name, kind in topics.items():
        qos = latched if name == "label_info" else streams
        cloud.other.create_subscription(kind, f"segmentation/{name}", lambda m, n=name: arrived.append((n, m)), qos)
    cloud.wait(lambda: arrived, "the classes")
    cloud.wait(lambda: cloud.node.count_subscribers("segmentation/points") == 2, "the layer's subscription is seen")
    calibrate(cloud)
    send_depth(cloud, np.full(SIZE, 2.0, np.float32), SECOND + 3_000_000, "32FC1")
    cloud.step(drive(1)[0], SECOND)
    cloud.wait(lambda: len(arrived) == 4, "all of a frame")
    messages = dict(arrived)
    labels, confidence, points = (messages[name] for name in ("labels", "confidence", "points"))
    assert arrived[0][0] == "label_info"
    assert labels.header == confidence.header == points.header
    assert labels.encoding == confidence.encoding == "mono8"
    assert labels.width * labels.height == points.width * points.height == len(labels.data) == len(confidence.data)
    assert [field.datatype for field in points.fields if field.name in "xyz"] == [PointField.FLOAT32] * 3
    names = {one.class_id: one.class_name for one in messages["label_info"].class_map}
    assert set(bytes(labels.data)) <= {*names, 255}
