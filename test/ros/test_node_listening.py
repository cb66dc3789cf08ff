"""What a running node listens to and when; what it says while its camera sees nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

SECOND = 10**9
TENTH = SECOND // 10


def subscribes(node, prefix=""):
    return node.cameras[prefix].get_subscription_count() > 0


def status(node):
    """The newest diagnostics of the camera."""
    for array in reversed(node.received["/diagnostics"]):
        for one in array.status:
            if one.name.endswith(": camera"):
                return one
    return None


def test_switched_off_lets_go_of_the_camera_and_on_takes_it_again(robot, drive):
    from std_srvs.srv import SetBool

    node = robot()
    images = drive(4)
    node.step(images[0], SECOND)
    assert node.call(SetBool, f"{node.name}/set_enabled", data=False).success
    node.wait(lambda: not subscribes(node), "the node unsubscribes")
    node.wait(lambda: node.said("switched off", "info"), "it says so")
    assert node.call(SetBool, f"{node.name}/set_enabled", data=True).success
    node.wait(lambda: subscribes(node), "the node subscribes again")
    node.step(images[1], 5 * SECOND)
    assert node.resets() == {"first_frame": 1, "gap": 1}


def test_the_parameter_switches_as_the_service_does(robot):
    node = robot()
    assert node.set_parameters(enabled=False)[0].successful
    node.wait(lambda: not subscribes(node), "the node unsubscribes")
    assert node.set_parameters(enabled=True)[0].successful
    node.wait(lambda: subscribes(node), "the node subscribes again")


def test_lazy_node_listens_only_while_somebody_listens_to_it(robot, drive):
    node = robot({"decode_when_unheard": False, "unheard_after_s": 0.5})
    topic = "segmentation/labels"
    node.step(drive(1)[0], SECOND)
    node.other.destroy_subscription(node._subscriptions.pop(topic))
    node.wait(lambda: not subscribes(node), "the node lets go of the camera")
    node.wait(lambda: node.said("nobody listens", "info"), "it says so")
    node.listen(topic, node._image)
    node.wait(lambda: subscribes(node), "the node listens again")
    node.step(drive(2)[1], 20 * SECOND)
    assert node.resets()["gap"] == 1


def test_unheard_node_keeps_listening_by_default(robot):
    import time

    node = robot({"unheard_after_s": 0.0}, outputs=())
    time.sleep(0.6)  # three looks
    assert subscribes(node)


def test_compressed_colours_are_exact_and_the_overlay_is_a_jpeg(robot, drive):
    from sensor_msgs.msg import CompressedImage

    node = robot({"jpeg_quality": 80}, outputs=("labels", "color"))
    for topic in ("color/compressed", "overlay/compressed"):
        node.listen(f"segmentation/{topic}", CompressedImage)
        node.wait(lambda t=topic: node.node.count_subscribers(f"segmentation/{t}"), f"{topic} is seen")
    node.step(drive(1)[0], SECOND)
    made = [node.received[f"segmentation/{topic}"] for topic in ("color", "color/compressed", "overlay/compressed")]
    node.wait(lambda: all(made), "all colours")
    color, png, jpeg = (messages[-1] for messages in made)
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(png.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert bytes(color.data) == pixels.tobytes()
    assert (png.format, jpeg.format) == ("rgb8; png compressed bgr8", "rgb8; jpeg compressed bgr8")
    assert bytes(jpeg.data[:2]) == b"\xff\xd8"
    assert png.header == jpeg.header == color.header


def test_results_are_below_the_output_prefix(robot, drive):
    from sensor_msgs.msg import Image

    node = robot({"output_prefix": "eyes/left"}, outputs=())
    node.listen("eyes/left/labels", Image)
    node.wait(lambda: node.node.count_subscribers("eyes/left/labels"), "the listener is seen")
    node.cameras[""].publish(node.image(drive(1)[0], SECOND))
    node.wait(lambda: node.received["eyes/left/labels"], "labels")


def test_quality_of_service_of_nothing_is_an_error(robot):
    node = robot({"qos_overrides./imagee.subscription.reliability": "reliable"}, start=False)
    node.node.start()
    node.wait(lambda: node.said("cannot activate", "error"), "the error")
    (said,) = node.said("cannot activate", "error")
    assert "did you mean qos_overrides./image.subscription.reliability?" in said
    assert node.node.state == "inactive"


def test_a_camera_that_sees_nothing_is_said_at_both_ends_and_warned_of(robot, drive):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    node = robot(outputs=("labels", "confidence"))
    node.listen("/diagnostics", DiagnosticArray)
    images = drive(4)
    node.step(images[0], SECOND)
    for number in (1, 2):
        black = node.step(np.zeros_like(images[0]), SECOND + number * TENTH, output="confidence")
        assert max(black.data) <= 25
    node.wait(lambda: status(node) is not None and "sees nothing" in status(node).message, "the warning")
    assert status(node).level == DiagnosticStatus.WARN and "black" in status(node).message
    node.step(images[1], SECOND + 3 * TENTH)
    node.step(images[2], SECOND + 4 * TENTH)
    assert node.resets() == {"first_frame": 1, "blind": 1}
    node.wait(lambda: node.said("the camera sees again", "info"), "the end")
    assert len(node.said("the camera sees nothing", "warn")) == len(node.said("the camera sees again", "info")) == 1
    assert node.said("the camera sees nothing from stamp 1.100 on") and node.said("the camera sees again at stamp 1.300")


def test_a_memory_that_is_cleared_all_the_time_is_warned_of_and_the_log_stays_short(robot, drive):
    from diagnostic_msgs.msg import DiagnosticArray

    node = robot({"continuity.gap_s": 0.01})
    node.listen("/diagnostics", DiagnosticArray)
    images = drive(2)
    for number in range(35):
        node.step(images[number % 2], SECOND + number * TENTH)
    node.wait(lambda: status(node) is not None and "memory is cleared at" in status(node).message, "the warning")
    assert "mostly for gaps" in status(node).message
    assert len(node.said("memory cleared: gap")) <= 5


def test_clock_that_jumps_back_behind_the_newest_image_alone_clears_the_memory(robot, drive):
    from lmanet_core.frame import Discontinuity

    node = robot()
    images = drive(4)
    segmenter = node.node._cameras[""].segmenter
    node.step(images[0], SECOND)
    segmenter.request_reset(Discontinuity.CLOCK_JUMP, SECOND)
    node.step(images[1], SECOND + TENTH)
    assert node.resets() == {"first_frame": 1}
    segmenter.request_reset(Discontinuity.CLOCK_JUMP, SECOND)
    node.step(images[2], SECOND + 2 * TENTH)
    assert node.resets() == {"first_frame": 1, "clock_jump": 1}
