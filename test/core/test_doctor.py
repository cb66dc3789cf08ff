"""What the machine is said to be, and when something is said to be wrong with it."""

from __future__ import annotations

import importlib.metadata
import platform

import cv2
import pytest
import torch

from lmanet_core import __version__
from lmanet_core.commands import doctor
from lmanet_core.commands.doctor import examine


@pytest.fixture(autouse=True)
def no_ros(monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)


def found(rows, what):
    return dict(rows)[what]


def test_rows_name_the_versions_that_run_here():
    rows, problems = examine()
    assert problems == []
    assert found(rows, "lmanet_ros") == __version__
    assert found(rows, "python").startswith(platform.python_version())
    assert found(rows, "torch").startswith(torch.__version__)
    assert found(rows, "opencv") == cv2.__version__
    assert found(rows, "rosbags").startswith(importlib.metadata.version("rosbags"))
    if not torch.cuda.is_available():
        assert found(rows, "local attention") == "reference, blocked; blocked chosen by auto"
    assert "weights" not in dict(rows)


def test_device_and_precision_are_those_that_auto_takes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for computes, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("lmanet_core.weights.runtime.cpu_computes_bfloat16", lambda computes=computes: computes)
        rows, _ = examine()
        assert found(rows, "device").startswith("cpu (")
        assert found(rows, "precision").startswith(f"{name} chosen by auto")


def test_weights_are_loaded_and_described(video_weights, single_frame_weights):
    for weights, memory in ((video_weights, "memory of 3 frames"), (single_frame_weights, "single frame, no memory")):
        rows, problems = examine(weights)
        assert problems == []
        assert found(rows, "weights").startswith(f"{weights}: LMANet safetensors, 2.") and memory in found(rows, "weights")


def test_unusable_weights_are_a_problem_and_no_row(tmp_path):
    rows, problems = examine(tmp_path / "none.pth")
    assert len(problems) == 1 and "none.pth: no such file" in problems[0]
    assert "weights" not in dict(rows)


def test_opencv_5_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor.cv2, "__version__", "5.0.0")
    assert examine()[1] == ["OpenCV 5 breaks cv_bridge: install 'opencv-python-headless>=4.8,<5'"]


def test_sourced_ros_without_rclpy_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    rows, problems = examine()
    assert problems == [] and found(rows, "ROS").startswith("not sourced")
    monkeypatch.setenv("ROS_DISTRO", "humble")
    rows, problems = examine()
    assert found(rows, "ROS") == "humble, rclpy missing"
    assert len(problems) == 1 and "cannot import rclpy" in problems[0]


def test_sourced_ros_with_rclpy_is_fine(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    rows, problems = examine()
    assert found(rows, "ROS") == "jazzy, rclpy found" and problems == []


def test_missing_distribution_is_named_as_such(monkeypatch):
    def version(distribution):
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert found(examine()[0], "rosbags") == "not installed, rosbags-image not installed"
