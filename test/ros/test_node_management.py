"""Lifecycle, parameters and diagnostics of a running node."""

from __future__ import annotations

import sys
import time

import pytest

from lmanet_core.errors import WeightsError
from lmanet_ros import model

pytestmark = pytest.mark.ros

SECOND = 10**9
TENTH = SECOND // 10


def test_lifecycle_walk(robot, drive):
    node = robot({"autostart": False}, start=False)
    node.node.start()
    assert node.state() == "unconfigured"
    assert not node.cameras[""].get_subscription_count()
    for transition, state in (
        ("configure", "inactive"), ("activate", "active"), ("deactivate", "inactive"), ("activate", "active"),
        ("deactivate", "inactive"), ("cleanup", "unconfigured"), ("configure", "inactive"), ("activate", "active"),
    ):  # fmt: skip
        assert node.transition(transition), transition
        assert node.state() == state
        assert node.node.state == state
        if state == "unconfigured":
            node.wait(lambda: not node.other.count_publishers("segmentation/labels"), "its topics are gone")
    node.wait(node.cameras[""].get_subscription_count, "it subscribes")
    node.step(drive(1)[0], SECOND)
    assert node.transition("shutdown")
    assert node.state() == "finalized"


def test_bond_beats_while_the_node_is_active_and_says_that_it_ends(robot):
    status = pytest.importorskip("bond.msg", reason="no package bond").Status
    node = robot({"bond": True})
    node.listen("bond", status)
    heard = node.received["bond"]
    node.wait(lambda: len(heard) >= 5, "heartbeats")
    assert {(beat.id, beat.active) for beat in heard} == {(node.name, True)}
    assert len({beat.instance_id for beat in heard}) == 1
    assert node.transition("deactivate")
    node.wait(lambda: not heard[-1].active, "the last one")
    assert node.transition("activate")
    node.wait(lambda: heard[-1].active, "another bond")
    assert heard[-1].instance_id != heard[0].instance_id


def test_bond_without_its_package_says_what_to_install(robot, monkeypatch):
    monkeypatch.setitem(sys.modules, "bond.msg", None)
    node = robot({"bond": True}, start=False)
    node.node.start()
    node.wait(lambda: node.said("cannot activate: bond is true", "error"), "the advice")
    assert node.said("sudo apt install ros-$ROS_DISTRO-bond")
    assert node.state() == "inactive"


def test_impossible_transition_is_refused_and_answered(robot):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    node = robot({"autostart": False}, start=False)
    asked = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert not node.call(ChangeState, f"{node.name}/change_state", transition=asked).success
    node.wait(lambda: node.said("transition 4 "), "the reason")  # ours, or Kilted's own
    assert node.state() == "unconfigured"
    assert node.transition("configure")


def left_out():
    raise WeightsError("this build left the shipped weights out")


def test_without_weights_it_says_what_to_do_and_can_be_told_later(robot, video_weights, drive, monkeypatch):
    monkeypatch.setattr(model, "default_weights", left_out)
    node = robot({"weights": ""}, start=False)
    node.node.start()
    node.wait(lambda: node.said("set the parameter weights to a file", "error"), "the advice")
    assert node.said("no weights given, and this build left the shipped weights out", "error")
    assert node.state() == "unconfigured"
    assert node.set_parameters(weights=str(video_weights))[0].successful
    assert node.transition("configure")
    assert node.transition("activate")
    node.wait(node.cameras[""].get_subscription_count, "it subscribes")
    node.step(drive(1)[0], SECOND)


def test_shipped_weights_are_taken_where_none_are_given(robot, video_weights, drive, monkeypatch):
    monkeypatch.setattr(model, "default_weights", lambda: video_weights)
    node = robot({"weights": ""})
    node.wait(lambda: node.said(str(video_weights), "info"), "their name")
    node.step(drive(1)[0], SECOND)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"weights": "/nowhere/w.pth"}, "no such file"),
        ({"device": "cuda:77"}, "device cuda:77 is not there"),
        ({"groups": ["a=raod"]}, "did you mean road"),
        ({"network_size": "63x33"}, "network sides must be 8·n"),
    ],
)
def test_configure_fails_with_the_reason(robot, parameters, words):
    node = robot(parameters, start=False)
    node.node.start()
    node.wait(lambda: node.said(words, "error"), words)
    assert node.state() == "unconfigured"


def test_weights_of_something_else_are_refused_and_the_node_lives(robot, tmp_path, video_weights):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"not weights")
    node = robot({"weights": str(wrong)}, start=False)
    node.node.start()
    node.wait(lambda: node.said("not a weights file", "error"), "the reason")
    node.set_parameters(weights=str(video_weights))
    assert node.transition("configure")


def test_wrong_parameters_from_the_start_are_refused(robot):
    from lmanet_core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"memory\.window must be odd"):
        robot({"memory.window": 4})


def test_refused_change_says_why_and_changes_nothing(robot):
    node = robot()

    names = ("memory.enabled", "overlay_opacity", "diagnostics.age_warn_s")

    def values():
        return {name: node.node.get_parameter(name).value for name in names}

    before = values()
    assert "0.0, Max: 1.0" in node.set_parameters(overlay_opacity=2.0)[0].reason
    assert "true or false, got 'off'" in node.set_parameters(memory__enabled="off")[0].reason
    assert "cannot change while the node is configured" in node.set_parameters(device="cpu")[0].reason
    assert "read-only" in node.set_parameters(autostart=False)[0].reason
    together = node.set_parameters(atomically=True, memory__enabled=False, diagnostics__age_warn_s=99.0)
    assert not together.successful
    assert "must not be above diagnostics.age_error_s" in together.reason
    assert values() == before
    assert node.node._settings.segmenter.memory


def test_live_change_is_taken_as_a_whole(robot):
    node = robot()
    result = node.set_parameters(atomically=True, diagnostics__age_warn_s=20.0, diagnostics__age_error_s=30)
    assert result.successful, result.reason
    assert (node.node._settings.age_warn_s, node.node._settings.age_error_s) == (20.0, 30.0)


def test_unknown_parameter_of_a_file_is_said_with_the_nearest_known(robot):
    node = robot({"memory.enabeld": True})
    node.wait(lambda: node.said("did you mean memory.enabled?", "warn"), "the warning")


def test_every_parameter_is_described(robot):
    from rcl_interfaces.srv import DescribeParameters

    from lmanet_ros.parameters import TABLE

    node = robot(start=False)
    names = [parameter.name for parameter in TABLE]
    descriptors = node.call(DescribeParameters, f"{node.name}/describe_parameters", names=names).descriptors
    for parameter, descriptor in zip(TABLE, descriptors, strict=True):
        assert descriptor.description.startswith(parameter.description)
        assert parameter.when in descriptor.description
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        if ranges:
            assert (ranges[0].from_value, ranges[0].to_value) == (parameter.low, min(parameter.high, sys.float_info.max))


def test_diagnostics_say_how_it_goes(robot, drive):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    node = robot({"no_image_warn_s": 2.0, "diagnostics.age_warn_s": 60.0, "diagnostics.age_error_s": 60.0})
    node.listen("/diagnostics", DiagnosticArray)
    start = time.time_ns()
    images = drive(4)
    for index, image in enumerate(images):
        node.step(image, start + index * TENTH // 100)
    arrays = node.received["/diagnostics"]
    node.wait(lambda: arrays and value(arrays[-1].status[-1], "frames published") == "4", "a full status")
    own, camera = arrays[-1].status
    assert (own.level, own.message) == (DiagnosticStatus.OK, "active")
    assert value(own, "device") == "cpu"
    assert value(own, "memory") == "memory 3 frames, window 5"
    assert float(value(own, "resident memory (MB)")) > 50
    assert camera.level == DiagnosticStatus.OK
    assert value(camera, "topic") == "/image"
    assert value(camera, "memory") == "3 of 3 frames"
    assert value(camera, "resets: first_frame") == "1"
    assert value(camera, "dropped for a newer image") == "0"
    for stage in ("wait", "convert", "encode", "decode", "segment", "publish", "stamp_to_publish"):
        p50, p95, p99 = (float(number) for number in value(camera, f"{stage} p50/p95/p99 (ms)").split(" / "))
        assert 0 <= p50 <= p95 <= p99
    whole, part = (float(value(camera, f"{name} p50/p95/p99 (ms)").split()[0]) for name in ("receive_to_publish", "segment"))
    assert whole >= part
    node.wait(lambda: arrays[-1].status[1].level == DiagnosticStatus.ERROR, "silence becomes an error")
    assert "no image on /image" in arrays[-1].status[1].message


def test_old_images_turn_the_diagnostics(robot, drive):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    node = robot({"diagnostics.age_warn_s": 1.0, "diagnostics.age_error_s": 50.0})
    node.listen("/diagnostics", DiagnosticArray)
    arrays = node.received["/diagnostics"]

    def last():
        return (arrays[-1].status[1].level, arrays[-1].status[1].message) if arrays else (None, "")

    now = time.time_ns()
    images = drive(3)
    for age_s, level, words in (
        (20, DiagnosticStatus.WARN, "s old when published"),
        (100, DiagnosticStatus.ERROR, "s old when published"),
        (10**7, DiagnosticStatus.WARN, "another clock"),
    ):
        node.step(images.pop(), now - age_s * SECOND)
        node.wait(lambda: last()[0] == level and words in last()[1], words)  # noqa: B023


def test_diagnostics_tell_the_memory_of_a_gpu_in_megabytes(monkeypatch):
    import torch

    from lmanet_ros.diagnostics import used_memory

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 250 * 10**6)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300 * 10**6)
    values = used_memory(torch.device("cuda"))
    assert [values[f"device memory {kind} (MB)"] for kind in ("allocated", "reserved")] == ["250", "300"]


def test_diagnostics_of_a_node_that_could_not_start(robot):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    node = robot({"weights": "/nowhere"}, start=False)
    node.listen("/diagnostics", DiagnosticArray)
    node.node.start()
    node.wait(lambda: node.received["/diagnostics"], "diagnostics")
    status = node.received["/diagnostics"][-1].status[0]
    assert status.level == DiagnosticStatus.ERROR
    assert "/nowhere: no such file" in status.message


def value(status, key):
    return next((pair.value for pair in status.values if pair.key == key), None)
