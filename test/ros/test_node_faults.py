"""What goes wrong on robots; the node says it, counts it and lives on."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

SECOND = 10**9
TENTH = SECOND // 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0, "width": 0, "step": 0, "data": b""}, "at least one pixel, got 0x0"),
        ({"data": b""}, "bytes of data, got 0"),
        ({"data": b"123"}, "bytes of data, got 3"),
        ({"encoding": "32FC1"}, "got '32FC1'"),
        ({"encoding": ""}, "got ''"),
        ({"step": 1}, "step must be at least"),
    ],
)
def test_unusable_image_is_said_and_counted_and_costs_no_memory(robot, drive, changes, words):
    node = robot()
    images = drive(3)
    node.step(images[0], SECOND)
    for _ in range(3):
        node.cameras[""].publish(node.image(images[1], SECOND + TENTH, **changes))
        time.sleep(0.02)
    node.step(images[2], SECOND + 2 * TENTH)
    node.wait(lambda: node.said(words, "warn"), words)
    statistics = node.statistics()
    assert statistics.bad >= 1
    assert len(node.said("image not usable")) == 1  # throttled
    node.wait(lambda: node.statistics().memory_frames == 1, "the second frame is counted")
    assert statistics.resets == {"first_frame": 1}


def test_corrupt_compressed_image_is_said_and_the_next_one_goes_on(robot, drive):
    from sensor_msgs.msg import CompressedImage

    node = robot({"transport": "compressed"}, compressed=True)
    jpeg = cv2.imencode(".jpg", drive(1)[0])[1].tobytes()
    for data in (jpeg[: len(jpeg) // 2], b"", b"no image at all"):
        node.cameras[""].publish(CompressedImage(header=node.header(SECOND), format="jpeg", data=data))
        before = node.statistics().bad
        node.wait(lambda: node.statistics().bad > before, "the damage is counted")  # noqa: B023
    node.cameras[""].publish(CompressedImage(header=node.header(SECOND), format="jpeg", data=jpeg))
    node.wait(lambda: node.received["segmentation/labels"], "labels")
    assert node.statistics().bad == 3


def test_burst_of_200_images_leaves_the_newest_and_no_backlog(robot, drive):
    node = robot()
    images = drive(200)
    for index, image in enumerate(images):
        node.cameras[""].publish(node.image(image, SECOND + index * TENTH))
    last = SECOND + 199 * TENTH
    labels = node.received["segmentation/labels"]
    node.wait(lambda: labels and labels[-1].header.stamp.nanosec + labels[-1].header.stamp.sec * SECOND == last, "the newest")
    stamps = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in labels]
    assert stamps == sorted(stamps)
    statistics = node.statistics()
    assert statistics.received == statistics.published + node.node._mailbox.dropped[""]
    time.sleep(0.3)
    assert node.statistics().published == statistics.published


def test_subscriber_that_never_reads_holds_nobody_up(robot, drive):
    import rclpy
    from sensor_msgs.msg import Image

    node = robot()
    context = rclpy.Context()
    context.init()
    sleeper = rclpy.create_node("sleeper", context=context)
    sleeper.create_subscription(Image, "segmentation/labels", lambda message: None, 1)
    node.wait(lambda: node.node.count_subscribers("segmentation/labels") == 2, "the sleeper is seen")
    start = time.monotonic()
    for index, image in enumerate(drive(60)):
        node.step(image, SECOND + index * TENTH)
    assert time.monotonic() - start < 20
    sleeper.destroy_node()
    context.try_shutdown()


def test_8k_image_is_segmented(robot):
    node = robot()
    image = np.zeros((4320, 7680, 3), np.uint8)
    image[:, 3000:] = 200
    labels = node.step(image, SECOND)
    assert (labels.width, labels.height, len(labels.data)) == (7680, 4320, 7680 * 4320)


def test_device_out_of_memory_loses_one_frame_and_says_what_to_do(robot, drive):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    node = robot()
    node.listen("/diagnostics", DiagnosticArray)
    images = drive(6)
    for index in range(2):
        node.step(images[index], SECOND + index * TENTH)
    node.wait(lambda: any(len(one.status) == 2 for one in node.received["/diagnostics"]), "a status of before")
    network = node.node._cameras[""].segmenter.runtime.network
    decode = network.decode

    def fail(*arguments):
        network.decode = decode
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    network.decode = fail
    node.cameras[""].publish(node.image(images[2], SECOND + 2 * TENTH))
    node.wait(lambda: node.statistics().failed == 1, "the loss is counted")
    for index in (3, 4):
        node.step(images[index], SECOND + index * TENTH)
    node.wait(lambda: node.said("smaller network_size", "error"), "the advice")
    assert node.statistics().memory_frames == 1
    assert node.state() == "active"

    def told():
        cameras = [array.status[1] for array in node.received["/diagnostics"] if len(array.status) == 2]
        return [one.level for one in cameras if "1 frames lost to errors, see the log" in one.message]

    node.wait(told, "the diagnostics tell of it")
    assert told() == [DiagnosticStatus.ERROR]


def test_silence_names_topic_and_who_publishes_elsewhere(robot):
    from sensor_msgs.msg import Image

    node = robot({"no_image_warn_s": 0.5})
    other = node.other.create_publisher(Image, "/elsewhere/image_raw", 1)
    node.other.destroy_publisher(node.cameras.pop(""))
    node.wait(lambda: node.said("no image on /image", "warn"), "the warning")
    assert "nobody publishes there, this node asks for best_effort, volatile" in node.said("no image on /image")[0]
    assert "images are published on /elsewhere/image_raw" in node.said("no image on /image")[0]
    node.other.destroy_publisher(other)


def test_camera_unplugged_and_back_is_said_both_times_and_begins_anew(robot, drive):
    node = robot({"no_image_warn_s": 0.6})
    images = drive(4)
    node.step(images[0], SECOND)
    node.wait(lambda: node.said("no image on /image", "warn"), "the warning")
    (said,) = node.said("no image on /image")
    assert "the publisher is there, but nothing arrives (large images: see docs/ros.md" in said
    assert "or set qos_overrides./image.subscription.reliability to reliable)" in said
    node.step(images[1], 10 * SECOND)
    node.wait(lambda: node.said("images on /image again", "info"), "they are back")
    assert node.resets() == {"first_frame": 1, "gap": 1}


def test_quality_of_service_that_does_not_match_is_explained(robot):
    override = {"qos_overrides./image.subscription.reliability": "reliable"}
    node = robot({**override, "no_image_warn_s": 0.5}, start=False, reliable=False)
    node.node.start()
    node.wait(lambda: node.said("a publisher offers another reliability than this node asks for", "warn"), "the event")
    said = node.said("a publisher offers another reliability")[0]
    assert "/robot offers best_effort, volatile; this node asks for reliable, volatile" in said
    assert "set qos_overrides./image.subscription.reliability to best_effort" in said


def test_wrong_transport_is_explained(robot, drive):
    from sensor_msgs.msg import CompressedImage

    node = robot({"no_image_warn_s": 0.5}, prefixes=(), start=False)  # Fast-DDS has one type for a topic in a process
    wrong = node.other.create_publisher(CompressedImage, "image", 1)
    node.node.start()
    node.wait(lambda: node.said("offers sensor_msgs/msg/CompressedImage", "warn"), "the explanation")
    assert "see the parameter transport" in node.said("offers sensor_msgs/msg/CompressedImage")[0]
    node.other.destroy_publisher(wrong)


def test_images_that_are_too_old_are_dropped_unseen(robot, drive):
    node = robot({"max_input_age_s": 5.0})
    images = drive(2)
    now = time.time_ns()
    node.cameras[""].publish(node.image(images[0], now - 60 * SECOND))
    node.wait(lambda: node.statistics().too_old == 1, "the drop is counted")
    node.step(images[1], now)
    assert node.statistics().published == 1
