"""`lmanet experiment memory-gain`: every contender sees the same frames, and what each gains is counted."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError
from lmanet_core.experiments import memory_gain
from lmanet_core.experiments.contenders import Averaged, SelfMemory
from lmanet_core.experiments.memory_gain import CONDITIONS, CONTENDERS, GainConfig, measure_gain
from lmanet_core.frame import Frame
from lmanet_core.labels import LabelSet
from lmanet_core.labels.mapping import LabelMapping
from lmanet_core.metrics import Matches
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.street import StreetConfig
from lmanet_core.street.recording import LABEL_TOPIC, record_street
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

FRAMES = 10


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    bag = tmp_path_factory.mktemp("street") / "drive.mcap"
    record_street(bag, StreetConfig(width=64, height=32, seed=3), FRAMES, lambda: None)
    return bag


def test_all_contenders_under_all_conditions(street, tmp_path, video_weights, single_frame_weights, capsys):
    out = tmp_path / "gain"
    code = main(
        ["experiment", "memory-gain", "--recording", str(street), "--labels", LABEL_TOPIC, "--weights", str(video_weights),
         "--control", str(single_frame_weights), "--network-size", "64x32", "--seeds", "2", "--out", str(out),
         "--device", "cpu"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    with (out / "memory-gain.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["condition", "contender", "mIoU, %", "flicker, %"]
    assert [(row[0], row[1].partition(" ±")[0]) for row in rows] == [(kind, name) for kind in CONDITIONS for name in CONTENDERS]
    assert all("±" in row[1] for row in rows if row[0] in ("noise", "blocks"))
    record = json.loads((out / "memory-gain.json").read_text())
    assert len(record["blocks"]) == 2 and len(record["clean"]) == 1
    counts = {part: record["clean"][0]["both"][part]["frames"] for part in memory_gain.PARTS}
    assert counts == {"all": FRAMES, "first half": FRAMES // 2, "second half": FRAMES - FRAMES // 2}
    assert record["every second"][0]["single"]["all"]["frames"] == FRAMES // 2
    assert record["5 Hz"][0]["single"]["all"]["frames"] == FRAMES // 2  # the street has 10 Hz
    assert (out / "memory-gain.svg").stat().st_size
    assert len({scores["all"]["flicker"] for scores in record["clean"][0].values()}) == len(CONTENDERS)


def test_single_frames_have_no_past_and_memories_do(street, tmp_path, video_weights):
    config = GainConfig(str(street), LABEL_TOPIC, str(video_weights), tmp_path, network_size="64x32", device="cpu",
                        conditions=("clean",), contenders=("single", "feature memory", "label memory"))  # fmt: skip
    expected, done = [], []
    result = measure_gain(config, lambda text: None, expected.append, lambda: done.append(True))
    assert expected == [len(done)]
    rows = {row[1]: row[2:] for row in result.rows}
    assert list(rows) == ["single", "feature memory", "label memory"]
    assert len({row[1] for row in rows.values()}) == 3  # flicker


def test_the_average_along_the_flow_moves_with_the_picture(single_frame_weights):
    averaged = Averaged(prepare(load_model(single_frame_weights), "cpu", "fp32"), "64x32", along_flow=True)
    noise = np.random.default_rng(1).integers(0, 256, (24, 40), dtype=np.uint8)
    before = cv2.resize(noise, (160, 96), interpolation=cv2.INTER_CUBIC)
    past = (before > 128).astype(np.float32)[None]
    moved = averaged._moved(np.roll(before, 6, 1), before, past)
    inner = (slice(16, -16), slice(16, -16))
    assert (
        np.abs(moved[0] - np.roll(past[0], 6, 1))[inner].mean() < 0.05 < np.abs(past[0] - np.roll(past[0], 6, 1))[inner].mean()
    )


def test_self_memory_reads_the_present_frame(video_weights, make_scene):
    runtime = prepare(load_model(video_weights), "cpu", "fp32")
    image, frames = make_scene(), runtime.config.memory.memory_frames
    found = SelfMemory(runtime, "64x32").step(Frame(image, 0)).labels
    with torch.inference_mode():
        features = runtime.network.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        memory = stack_memory([runtime.network.remember(features)] * frames)
        logits = runtime.network.decode(features, memory)[0, : len(runtime.config.labels.names)]
    assert np.mean(found != logits.argmax(0).numpy()) < 0.002


def test_pixels_whose_truth_changed_along_the_motion():
    """A pixel that moves one to the right and is another class there."""
    labels = LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    rows, columns = np.mgrid[:1, :4].astype(np.float32)
    known = np.ones((1, 4), bool)
    back = Matches(columns - 1, rows, known & (columns >= 1), known)
    truth, before = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 255]], np.uint8)
    found = memory_gain._changed(LabelMapping.identity(labels), truth, before, back)
    assert found.tolist() == [[False, False, False, False]]
    truth[0, 1] = 1
    assert memory_gain._changed(LabelMapping.identity(labels), truth, before, back).tolist() == [[False, True, False, False]]
    assert memory_gain._changed(LabelMapping.identity(labels), truth, None, back) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": ("foggy",)}, "condition is one of clean"),
        ({"contenders": ("magic",)}, "contender is one of single"),
        ({"contenders": ("control",)}, "wants control"),
        ({"seeds": 0}, "seeds must be 1 or more"),
    ],
)
def test_what_cannot_be_compared(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        GainConfig("drive.mcap", LABEL_TOPIC, "w.safetensors", tmp_path, **options)


def test_the_command_says_what_is_missing(capsys):
    assert main(["experiment", "memory-gain", "--out", "nowhere"]) == 2
    assert "--recording and --labels" in capsys.readouterr().err
    assert main(["experiment", "window", "--out", "nowhere"]) == 2
    assert "--data" in capsys.readouterr().err
