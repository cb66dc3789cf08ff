"""Weights on a set of clips: the figures are those of the streamed network, and every condition is over the same places."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from lmanet_core.commands.evaluate import classes_table, scores_table
from lmanet_core.commands.main import main
from lmanet_core.data import Clip, ClipSource
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.experiments.clip_sets import ClipScorer, Condition, make_conditions
from lmanet_core.experiments.sets import evaluate_sets, evaluation_config, write_scores
from lmanet_core.geometry import Size
from lmanet_core.labels import CAMVID11, CITYSCAPES
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.network import LMANet, MemoryConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model, save_model
from lmanet_core.weights.runtime import RuntimeConfig, prepare

SIZE = Size(48, 96)
STREET = {"size": "64x32", "val_clips": 4, "val_seeds": 1}


class MovingScene(ClipSource):
    """Two clips of a scene that moves; labels are made up."""

    labels = CITYSCAPES
    size = SIZE

    def __init__(self, scene, gain=1.0):
        self.scene, self.gain, self.asked = np.tile(scene, (2, 2, 1))[: SIZE.height, : SIZE.width], gain, 0

    def __len__(self):
        return 2

    def name(self, index):
        return f"clip {index}"

    def clip(self, index, frames, stride, rng):
        self.asked += 1
        images = [np.roll(self.scene, (3 * index + 2 * back) * stride, 1) for back in range(frames - 1, -1, -1)]
        truth = np.random.default_rng(index).integers(0, 20, (frames, *SIZE)).astype(np.uint8)
        return Clip((np.stack(images) * self.gain).astype(np.uint8), truth)

    def problems(self, frames, stride, deep):
        return iter(())


class Drive(MovingScene):
    """Two clips of images that are given, whose motion can be measured."""

    size = Size(64, 128)

    def __init__(self, images):
        self.images = images

    def clip(self, index, frames, stride, rng):
        truth = np.random.default_rng(index).integers(0, 20, (frames, *self.size)).astype(np.uint8)
        return Clip(np.stack(self.images[index : index + frames]), truth)


@pytest.fixture
def source(make_scene):
    return MovingScene(make_scene())


@pytest.fixture(scope="module")
def runtime(video_weights):
    return prepare(load_model(video_weights), "cpu", "fp32")


@pytest.mark.parametrize("network_size", [None, Size(32, 64)])
def test_figures_are_those_of_the_streamed_network(source, runtime, network_size):
    check_figures(source, runtime, network_size)


def test_figures_are_those_of_the_streamed_network_that_follows_motion(following_weights, textured_drive):
    check_figures(Drive(textured_drive), prepare(load_model(following_weights), "cpu", "fp32"), Drive.size)


def test_figures_are_those_of_the_streamed_network_whose_memory_is_pooled(following_weights, textured_drive, tmp_path):
    model = load_model(following_weights)
    memory = MemoryConfig(8, 0, "residual", window=5, memory_frames=3, position_bias=20.0, motion_compensation=True, pool=2)
    config = replace(model.config, memory=memory)
    torch.manual_seed(0)
    network = LMANet(model.network.backbone, memory).eval()
    save_model(tmp_path / "pooled.safetensors", network, config)
    check_figures(Drive(textured_drive), prepare(load_model(tmp_path / "pooled.safetensors"), "cpu", "fp32"), Drive.size)


def check_figures(source, runtime, network_size):
    frames = runtime.config.memory.memory_frames
    scores = ClipScorer(runtime, network_size=network_size).score(Condition("none", source))
    config = SegmenterConfig(network_size="auto" if network_size is None else f"{network_size}", label_memory=False)
    for filled in range(frames + 1):
        matrix = ConfusionMatrix(len(CITYSCAPES.names))
        for index in range(2):
            clip = source.clip(index, frames + 2, 1, np.random.default_rng(0))
            segmenter = VideoSegmenter(runtime, config)
            for number, image in enumerate(clip.frames[-1 - filled :]):
                result = segmenter.step(image, (number + 1) * 10**8)
            matrix.update(result.labels, clip.labels[-1])
        assert result.memory_frames == filled
        np.testing.assert_array_equal(scores.full[filled].counts, matrix.counts)
    assert scores.working[0].counts.sum() < 2 * np.prod(network_size or source.size)  # some truth is void


def test_memory_changes_the_figures_and_single_frame_weights_have_none(source, runtime, single_frame_weights):
    both = ClipScorer(runtime).score(Condition("none", source)).to_dict()
    assert len(both["miou"]) == 1 + runtime.config.memory.memory_frames and len(both["flicker"]) == len(both["iou"]) == 2
    assert both["miou"][0] != both["miou"][-1] and both["flicker"][0] != both["flicker"][1]
    single = prepare(load_model(single_frame_weights), "cpu", "fp32")
    alone = ClipScorer(single).score(Condition("none", source)).to_dict()
    assert [len(alone[key]) for key in ("miou", "flicker", "consistency", "iou")] == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="no memory"):
        ClipScorer(single, memory_frames=2)
    with pytest.raises(ConfigError, match="0 or more, got -1"):
        ClipScorer(runtime, memory_frames=-1)


def test_flow_is_taken_from_the_clean_images(source, runtime, make_scene):
    dark = MovingScene(make_scene(), gain=0.0)  # every pixel looks the same wherever it went
    clean = ClipScorer(runtime).score(Condition("none", source))
    degraded = ClipScorer(runtime).score(Condition("dark", dark, clean=source))
    blind = ClipScorer(runtime).score(Condition("dark", dark))
    assert degraded.steady[0].static == clean.steady[0].static
    assert blind.steady[0].static == 2 * np.prod(SIZE) != clean.steady[0].static


def test_as_many_clips_as_asked_for(source, runtime):
    counted = []
    scores = ClipScorer(runtime).score(Condition("none", source), 1, lambda: counted.append(1))
    assert scores.clips == len(counted) == source.asked == 1


def test_weights_of_other_classes_are_refused(source, runtime):
    source.labels = CAMVID11
    with pytest.raises(InputError, match=r"the set has the classes sky, .* \(11\), the weights road, .* \(19\)"):
        ClipScorer(runtime).score(Condition("none", source))


def test_street_conditions_show_the_same_places():
    conditions = make_conditions(evaluation_config("street", **STREET), ["none", "mixed", "noise", "noise3", "blocks2"])
    places = [[c.source.name(index).rsplit(" (", 1)[0] for index in range(4)] for c in conditions]
    assert all(place == places[0] for place in places) and len(set(places[0])) == 4
    clean, mixed, *_ = conditions
    with pytest.raises(ConfigError, match=r"with or without a level behind it \(rain3\), got 'none2'"):
        make_conditions(evaluation_config("street", **STREET), ["none2"])
    assert clean.clean is None and mixed.clean.name(0) == clean.source.name(0) != mixed.source.name(0)


def test_stills_get_noise_and_lost_blocks(tmp_path, make_scene):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    import cv2

    cv2.imwrite(str(tmp_path / "images/0.png"), make_scene())
    cv2.imwrite(str(tmp_path / "labels/0.png"), np.zeros(make_scene().shape[:2], np.uint8))
    (tmp_path / "labels.yaml").write_text("names: [road]\ncolors: [[128, 64, 128]]\n")
    (tmp_path / "run.yaml").write_text(f"data: stills\nroot: {tmp_path}\nval_root: {tmp_path}\nsize: 96x48\n")
    config = evaluation_config(str(tmp_path / "run.yaml"))
    clean, noise, boxes = make_conditions(config, ["none", "noise", "blocks"])
    more = make_conditions(config, ["blocks3"])[0]
    frames = clean.source.clip(0, 2, 1, np.random.default_rng(0)).frames
    noisy = noise.degrade(frames, np.random.default_rng(0)).astype(int) - frames
    inner = noisy[(frames > 100) & (frames < 150)]
    assert clean.degrade is None and abs(inner.std() - 25) < 2 and abs(inner.mean()) < 2
    covered = boxes.degrade(frames, np.random.default_rng(0)) != frames
    assert 0.02 < covered.any(-1).mean() < 4 * (9 / 48) ** 2 * 0.5 + 0.02 and (covered[0] != covered[1]).any()
    assert (more.degrade(frames, np.random.default_rng(0)) != frames).any(-1).sum() > 1.5 * covered.any(-1).sum()
    with pytest.raises(ConfigError, match="one of none, noise, blocks, blocks2, blocks3; got 'fog'"):
        make_conditions(config, ["fog"])
    with pytest.raises(InputError, match="nothing to evaluate on; give val_root"):
        make_conditions(replace(config, val_root=None), ["none"])


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "typo.yaml").write_text("siez: 3\n")
    with pytest.raises(ConfigError, match="unknown option 'siez'; did you mean size"):
        evaluation_config(str(tmp_path / "typo.yaml"))
    with pytest.raises(ConfigError, match="cannot read config"):
        evaluation_config(str(tmp_path / "nowhere.yaml"))


def test_tables_and_files_hold_the_scores(video_weights, single_frame_weights, tmp_path):
    config = evaluation_config("street", **STREET)
    rows = evaluate_sets(
        [str(video_weights), str(single_frame_weights)], config, ["none", "noise"], max_clips=2, runtime=RuntimeConfig("cpu")
    )
    assert [(row["weights"], row["condition"]) for row in rows] == [
        (str(weights), name) for weights in (video_weights, single_frame_weights) for name in ("none", "noise")
    ]
    write_scores(tmp_path / "scores", rows, config)
    kept = json.loads((tmp_path / "scores/scores.json").read_text())
    assert kept["config"]["size"] == "64x32" and [row["clips"] for row in kept["scores"]] == [2] * 4
    with (tmp_path / "scores/scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[0]["miou_1"]) == rows[0]["miou"][1] and lines[2]["miou_1"] == lines[2]["flicker_on"] == ""
    console = Console(width=200, record=True, file=io.StringIO())
    for table in (scores_table(rows), classes_table(rows)):
        console.print(table)
    text = console.export_text()
    assert f"{100 * rows[1]['miou'][0]:.1f}" in text and "bicycle" in text


def test_the_command_evaluates_a_set_and_refuses_recordings_beside_it(video_weights, tmp_path, capsys):
    options = ("--data", "street", "--size", "64x32", "--max-clips", "1", "--weights", str(video_weights), "--device", "cpu")
    assert main(["evaluate", *options, "--out", str(tmp_path / "scores")]) == 0
    assert "bicycle" in capsys.readouterr().out and (tmp_path / "scores/scores.csv").is_file()
    assert main(["evaluate", "drive.mcap", *options]) == 2
    assert "leave drive.mcap out, or --data" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", "--weights", str(video_weights)]) == 2
    assert "wants recordings and --out" in " ".join(capsys.readouterr().err.split())


def test_a_label_set_counts_for_a_set_of_clips_and_what_does_not_is_said(video_weights, tmp_path, capsys):
    (tmp_path / "other.yaml").write_text(f"names: {[f'thing {number}' for number in range(19)]}")
    options = ["--data", "street", "--size", "64x32", "--max-clips", "1", "--weights", str(video_weights), "--device", "cpu"]
    assert main(["evaluate", *options, "--label-set", str(tmp_path / "other.yaml")]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights thing 0, thing 1, thing 2, … (19)" in said and "--label-set" in said
    assert main(["evaluate", *options, "--label-set", "cityscapes", "--upsample", "logits", "--mapping", "kitti"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "note: --data has no use for --mapping, --upsample" in said


def test_a_window_counts_for_weights_with_a_memory_alone(video_weights, single_frame_weights):
    config = evaluation_config("street", **STREET)
    both = [str(video_weights), str(single_frame_weights)]
    rows, wide = (
        evaluate_sets(both, config, ["none"], runtime=RuntimeConfig("cpu", window=window)) for window in (None, "global")
    )
    assert rows[0]["iou"][0] == wide[0]["iou"][0] and rows[0]["iou"][1] != wide[0]["iou"][1]  # without, with memory
    assert rows[1] == wide[1]
