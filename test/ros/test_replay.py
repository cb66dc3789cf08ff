"""replay.launch.py: a bag played into the real node, what it published recorded and scored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lmanet_core.errors import OutputError
from lmanet_core.media.bag_writer import BagWriter
from lmanet_core.stream.segmenter import VideoSegmenter

pytestmark = [pytest.mark.ros, pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")]

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000 * 10**9
FRAMES = 15


@pytest.fixture
def bag(tmp_path, drive, video_weights):
    """Images at 10 Hz and labels, which are what the weights say when no frame is missed."""
    segmenter = VideoSegmenter.from_weights(video_weights)
    writer = BagWriter(tmp_path / "drive")
    for number, image in enumerate(drive(FRAMES)):
        stamp_ns = START + number * 10**8
        labels = segmenter.step(image, stamp_ns, "camera").labels
        writer.put("/camera/image_raw", writer.image(image, stamp_ns, "camera"), stamp_ns)
        writer.put("/camera/labels/compressed", writer.compressed_image(labels, stamp_ns, "camera", "png"), stamp_ns)
    writer.close()
    return tmp_path / "drive"


def launch(tmp_path, *arguments, timeout_s=90):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = ["ros2", "launch", str(ROOT / "launch/replay.launch.py"), f"python:={sys.executable}", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        pytest.fail(f"still running after {timeout_s} s: {said}")
    return process.returncode, said


@pytest.mark.skipif(find_spec("ros2bag") is None, reason="no ros2 bag command (ros2bag)")
def test_node_says_what_the_offline_evaluation_says_pixel_for_pixel(tmp_path, bag, video_weights):
    out = tmp_path / "report"
    code, said = launch(
        tmp_path, f"bag:={bag}", f"weights:={video_weights}", "labels:=/camera/labels/compressed", f"out:={out}",
        "options:=--save page",
    )  # fmt: skip
    assert code == 0, said
    summary = json.loads((out / "report" / "summary.json").read_text())
    figures = summary["figures"]
    assert figures["reproduced"] == 1.0
    assert figures["frames"] + figures["dropped"] == FRAMES
    assert figures["frames"] >= FRAMES // 2  # the network is small: on an idle machine nothing is dropped
    assert figures["dropped"] or figures["accuracy"] == 1.0
    rows = [json.loads(line) for line in (out / "report" / "frames.jsonl").read_text().splitlines()]
    assert sum(row.get("dropped", False) for row in rows) == figures["dropped"]
    assert 0 < summary["speed"]["latency_p50_ms"] < 5000
    seen = [row["latency_ms"] for row in rows if "latency_ms" in row]  # by the recorder, from an image to its labels
    assert seen and all(0 < latency_ms < 5000 for latency_ms in seen)
    assert summary["run"]["mode"] == "live, as published by a node"


def test_recording_that_is_there_already_is_refused(tmp_path, bag, start):
    replay = start(sys.executable, "-m", "lmanet_ros.replay", str(bag), "--out", str(bag), "--image", "/camera/image_raw")
    assert replay.wait(60) == OutputError.exit_code, replay.said()
    assert "replay: " in replay.said() and "Traceback" not in replay.said()


def test_bag_without_a_camera_is_refused_before_anything_starts(tmp_path, video_weights):
    writer = BagWriter(tmp_path / "other")
    image = writer.compressed_image(np.zeros((8, 8), np.uint8), START, "camera", "png")
    writer.put("/rig/left", image, START)
    writer.put("/rig/right", image, START)
    writer.close()
    code, said = launch(tmp_path, f"bag:={tmp_path / 'other'}", f"weights:={video_weights}")
    assert code != 0
    assert "several image topics, choose one" in said
    assert "segment_node" not in said
