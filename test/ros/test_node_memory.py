"""Every way the memory of a running node is cleared, and what never enters it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytestmark = pytest.mark.ros

SECOND = 10**9
TENTH = SECOND // 10


def stream(node, images, start=SECOND, step=TENTH, **options):
    return [bytes(node.step(image, start + index * step, **options).data) for index, image in enumerate(images)]


def clock_of(node):
    """Tells a node what time it is, in seconds of simulated time."""
    from rosgraph_msgs.msg import Clock

    clock = node.other.create_publisher(Clock, "/clock", 10)
    node.wait(clock.get_subscription_count, "the node listens to /clock")

    def tell(seconds):
        clock.publish(Clock(clock=node.header(round(seconds * SECOND)).stamp))
        node.wait(lambda: node.node.get_clock().now().nanoseconds == round(seconds * SECOND), "the clock")

    return tell


def test_looped_input_clears_the_memory_and_repeats_its_labels(robot, drive):
    node = robot()
    images = drive(5)
    first = stream(node, images)
    assert stream(node, images) == first
    assert node.resets() == {"first_frame": 1, "backward_stamp": 1}
    assert len(node.said("memory cleared: backward_stamp", "info")) == 1


def test_gap_clears_the_memory(robot, drive):
    node = robot({"continuity.gap_s": 0.5})
    images = drive(4)
    stream(node, images[:2])
    node.step(images[2], SECOND + 7 * TENTH)
    assert node.statistics().memory_frames == 0
    assert node.resets()["gap"] == 1


def test_change_of_size_and_frame_id_clears_the_memory(robot, drive):
    node = robot()
    stream(node, drive(2))
    larger = node.step(drive(1, height=40, width=80)[0], 2 * SECOND)
    assert (larger.width, larger.height) == (80, 40)
    node.step(drive(1, height=40, width=80)[0], 2 * SECOND + TENTH, frame_id="other")
    assert node.resets() == {"first_frame": 1, "size_change": 1, "frame_id_change": 1}


def test_scene_cut_clears_the_memory(robot):
    def textured(seed):
        random = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
        return random.repeat(8, 0).repeat(8, 1)

    node = robot()
    for index, seed in enumerate((1, 1, 1, 2)):
        node.step(textured(seed), SECOND + index * TENTH)
    assert node.resets() == {"first_frame": 1, "scene_cut": 1}


def test_service_clears_the_memory_once(robot, drive):
    from std_srvs.srv import Trigger

    node = robot()
    images = drive(5)
    stream(node, images[:3])
    response = node.call(Trigger, f"{node.name}/reset_memory")
    assert response.success and response.message == "cleared before the next image of 1 camera"
    stream(node, images[3:], start=SECOND + 3 * TENTH)
    assert node.resets() == {"first_frame": 1, "manual": 1}
    assert len(node.said("memory cleared: manual", "info")) == 1
    assert node.statistics().memory_frames == 1


def test_deactivate_and_activate_forget_the_stream(robot, drive):
    from std_srvs.srv import Trigger

    node = robot()
    images = drive(4)
    first = stream(node, images[:2])
    assert node.transition("deactivate")
    assert not node.call(Trigger, f"{node.name}/reset_memory").success
    assert node.transition("activate")
    node.wait(node.cameras[""].get_subscription_count, "subscribed again")
    assert stream(node, images[:2], start=SECOND + 3 * TENTH) == first
    assert node.resets() == {"first_frame": 2}


def test_clock_that_jumps_back_clears_the_memory(robot, drive):
    node = robot({"use_sim_time": True})
    tell = clock_of(node)
    images = drive(5)
    tell(100.0)
    for index in range(3):
        tell(100.0 + index / 10)
        node.step(images[index], 100 * SECOND + index * TENTH)
    assert node.resets() == {"first_frame": 1}
    tell(50.0)
    node.step(images[3], 100 * SECOND + 3 * TENTH)  # even though its stamps go on
    assert node.resets() == {"first_frame": 1, "clock_jump": 1}


def test_an_image_that_waits_when_the_clock_jumps_back_is_never_segmented(robot, drive, monkeypatch):
    node = robot({"use_sim_time": True})
    tell = clock_of(node)
    tell(100.0)
    segmenter = node.node._cameras[""].segmenter
    step, entered, go_on = segmenter.step, threading.Event(), threading.Event()

    def wait_and_step(*arguments, **options):
        entered.set()
        assert go_on.wait(60)
        return step(*arguments, **options)

    monkeypatch.setattr(segmenter, "step", wait_and_step)
    images = drive(3)
    camera = node.cameras[""]
    camera.publish(node.image(images[0], 100 * SECOND))
    assert entered.wait(60)
    camera.publish(node.image(images[1], 100 * SECOND + TENTH))
    node.wait(lambda: node.statistics().received == 2, "the image waits")
    tell(50.0)
    node.wait(lambda: node.node._mailbox.dropped[""] == 1, "the image that waits is thrown away")
    go_on.set()
    node.wait(lambda: node.received["segmentation/labels"], "labels of the image that was being segmented")
    node.step(images[2], 50 * SECOND)
    stamps = [message.header.stamp.sec for message in node.received["segmentation/labels"]]
    assert stamps == [100, 50]


def test_queues_of_a_camera_hold_the_newest_message_only(robot):
    node = robot()
    assert [one.qos_profile.depth for one in node.node._listening._subscriptions] == [1, 1]


def test_repeated_and_late_images_are_segmented_but_never_remembered(robot, drive):
    node = robot()
    images = drive(6)
    stream(node, images[:2])
    node.step(images[2], SECOND + TENTH)  # repeated
    node.step(images[3], SECOND + TENTH // 2)  # late
    assert node.node._cameras[""].segmenter.memory_stamps_ns == (SECOND, SECOND + TENTH)
    assert node.statistics().not_remembered == 2
    assert node.resets() == {"first_frame": 1}


def test_images_without_stamp_are_remembered_by_their_arrival_and_said_once(robot, drive):
    node = robot()
    for image in drive(4):
        message = node.step(image, 0)
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
    assert node.statistics().memory_frames == 3
    assert node.resets() == {"first_frame": 1}
    node.wait(lambda: node.said("images have no stamp", "warn"), "the warning")
    assert len(node.said("images have no stamp")) == 1


def test_clock_that_stands_still_is_replaced_by_the_time_of_receiving_and_said_once(robot, drive):
    node = robot()
    images = drive(10)
    for image in images[:8]:
        message = node.step(image, SECOND)
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 0)
    assert node.statistics().memory_frames == 3
    assert node.resets() == {"first_frame": 1}
    node.wait(lambda: node.said("stamps stand still while the images change", "warn"), "the warning")
    assert len(node.said("stamps stand still")) == 1
    node.step(images[8], SECOND + 600 * SECOND)  # it goes again
    assert node.resets() == {"first_frame": 1, "gap": 1}


def test_frozen_camera_that_repeats_its_image_is_no_standing_clock(robot, drive):
    node = robot()
    image = drive(1)[0]
    for _ in range(8):
        node.step(image, SECOND)
    assert node.statistics().memory_frames == 1
    assert node.statistics().not_remembered == 7
    assert not node.said("stamps stand still")


def test_memory_switches_off_and_on_between_frames(robot, drive):
    node = robot()
    images = drive(6)
    stream(node, images[:3])
    assert node.statistics().memory_frames == 2
    assert node.set_parameters(memory__enabled=False)[0].successful
    node.step(images[3], SECOND + 3 * TENTH)
    assert node.statistics().memory_frames == 0
    assert node.set_parameters(memory__enabled=True)[0].successful
    stream(node, images[4:], start=SECOND + 4 * TENTH)
    assert node.statistics().memory_frames == 1
    assert node.resets() == {"first_frame": 1}
    assert node.statistics().not_remembered == 0


def test_weights_without_memory_work_and_refuse_to_remember(robot, drive, single_frame_weights):
    node = robot({"weights": str(single_frame_weights)})
    stream(node, drive(2))
    refusal = node.set_parameters(memory__enabled=True)[0]
    assert not refusal.successful
    assert "no memory" in refusal.reason
