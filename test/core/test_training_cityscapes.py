"""Cityscapes as published, on a tiny folder of the same shape: what is read, what is missing, and training in both stages."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lmanet_core.commands.main import main
from lmanet_core.data import CityscapesSource
from lmanet_core.errors import InputError
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import ModelConfig, build_network, load_model, save_model

SIZE = Size(32, 64)
LABELLED = 19  # the 20th frame


@pytest.fixture
def cityscapes(tmp_path):
    """Two labelled frames to train on and one to validate on, each with its 19 past frames; frame n has brightness 10·n."""
    root = tmp_path / "cityscapes"
    for split, places in (("train", (("aachen", "000000"), ("zurich", "000007"))), ("val", (("ulm", "000001"),))):
        for number, (city, sequence) in enumerate(places):
            for kind in ("leftImg8bit", "leftImg8bit_sequence", "gtFine"):
                (root / kind / split / city).mkdir(parents=True)
            for frame in range(LABELLED + 1):
                image = np.full((*SIZE, 3), 10 * frame, np.uint8)
                kinds = ("leftImg8bit_sequence", "leftImg8bit") if frame == LABELLED else ("leftImg8bit_sequence",)
                for kind in kinds:
                    cv2.imwrite(str(root / kind / split / city / f"{city}_{sequence}_{frame:06d}_leftImg8bit.png"), image)
            ids = np.random.default_rng(number).integers(0, 34, (4, 8), np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / "gtFine" / split / city / f"{city}_{sequence}_{LABELLED:06d}_gtFine_labelIds.png"), ids)
    return root


def frame_path(root, frame, kind="leftImg8bit_sequence"):
    return root / kind / "train/aachen" / f"aachen_000000_{frame:06d}_leftImg8bit.png"


def label_path(root):
    return root / "gtFine/train/aachen" / f"aachen_000000_{LABELLED:06d}_gtFine_labelIds.png"


def rng():
    return np.random.default_rng(0)


# ---- reading


def test_a_clip_is_the_frames_before_the_labelled_one_with_the_wanted_stride(cityscapes):
    source = CityscapesSource(cityscapes, "train", SIZE)
    assert [source.name(index) for index in range(len(source))] == ["aachen_000000_000019", "zurich_000007_000019"]
    clip = source.clip(0, 4, 3, rng())
    assert clip.frames[:, 0, 0, 0].tolist() == [100, 130, 160, 190]  # frames 10, 13, 16, 19
    assert (clip.labels[:-1] == 255).all() and (clip.labels[-1] != 255).any()


def test_what_macos_puts_beside_the_files_is_no_label(cityscapes):
    beside = label_path(cityscapes)
    beside.with_name(f"._{beside.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    source = CityscapesSource(cityscapes, "train", SIZE)
    assert [source.name(index) for index in range(len(source))] == ["aachen_000000_000019", "zurich_000007_000019"]


def test_label_ids_become_train_ids(cityscapes):
    # name → labelId of cityscapesScripts, written from its documentation and not from our table
    ids = {"road": 7, "sidewalk": 8, "building": 11, "pole": 17, "traffic sign": 20, "sky": 23}
    ids |= {"person": 24, "car": 26, "bus": 28, "train": 31, "bicycle": 33}
    void = (0, 1, 3, 6, 9, 14, 18, 29, 30, 255)  # unlabeled, ego vehicle, out of roi, ground, parking, …
    image = np.zeros(SIZE, np.uint8)
    image[0, : len(ids)] = list(ids.values())
    image[1, : len(void)] = void
    cv2.imwrite(str(label_path(cityscapes)), image)
    labels = CityscapesSource(cityscapes, "train", SIZE).clip(0, 1, 1, rng()).labels[0]
    assert [CITYSCAPES.names[label] for label in labels[0, : len(ids)]] == list(ids)
    assert (labels[1] == 255).all()


def test_single_frames_need_no_sequences(cityscapes):
    for path in (cityscapes / "leftImg8bit_sequence").rglob("*.png"):
        path.unlink()
    source = CityscapesSource(cityscapes, "train", SIZE)
    assert source.clip(0, 1, 1, rng()).frames.shape == (1, *SIZE, 3)
    assert not list(source.problems(1, 1, deep=True))


def test_unlabelled_clips_end_before_the_labelled_frame_and_are_void(cityscapes):
    source = CityscapesSource(cityscapes, "train", SIZE, unlabelled=1.0)
    ends = set()
    for seed in range(30):
        clip = source.clip(0, 2, 1, np.random.default_rng(seed))
        end = int(clip.frames[-1, 0, 0, 0]) // 10
        ends.add(end)
        assert int(clip.frames[0, 0, 0, 0]) // 10 == end - 1
        assert (clip.labels == 255).all() == (end != LABELLED)
    assert len(ends) > 10


# ---- bad input


def test_missing_sequence_frames_are_named(cityscapes):
    frame_path(cityscapes, 18).unlink()
    source = CityscapesSource(cityscapes, "train", SIZE)
    with pytest.raises(InputError, match=r"missing frame .*aachen_000000_000018_leftImg8bit.png.*--check"):
        source.clip(0, 2, 1, rng())
    assert [line.endswith("aachen_000000_000018_leftImg8bit.png") for line in source.problems(3, 1, False)] == [True]
    assert not list(source.problems(1, 1, False))


def test_frames_beyond_the_start_of_the_sequence_are_a_problem(cityscapes):
    source = CityscapesSource(cityscapes, "train", SIZE)
    assert not list(source.problems(20, 1, False))
    assert "reach 20 frames back" in next(source.problems(5, 5, False))


def test_empty_split_is_refused(cityscapes):
    with pytest.raises(InputError, match="split test is empty: no such folder"):
        CityscapesSource(cityscapes, "test", SIZE)
    label_path(cityscapes).unlink()
    (cityscapes / "gtFine/train/zurich/zurich_000007_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(InputError, match="split train is empty: no label maps"):
        CityscapesSource(cityscapes, "train", SIZE)


def test_label_ids_outside_the_set_and_other_sizes_are_named(cityscapes):
    source = CityscapesSource(cityscapes, "train", SIZE)
    cv2.imwrite(str(label_path(cityscapes)), np.full(SIZE, 99, np.uint8))
    with pytest.raises(InputError, match=r"labelIds\.png: labelIds are 0–33 \(or 255\), got 99"):
        source.clip(0, 1, 1, rng())
    cv2.imwrite(str(label_path(cityscapes)), np.zeros((16, 16), np.uint8))
    with pytest.raises(InputError, match=r"one size: .* is 64x32, .* is 16x16"):
        source.clip(0, 1, 1, rng())
    assert "one size" in next(source.problems(1, 1, deep=True)) and not list(source.problems(1, 1, deep=False))


def test_check_lists_every_missing_file_and_fails(cityscapes, single_frame_weights, capsys):
    arguments = [
        "train",
        "--data",
        "cityscapes",
        "--root",
        str(cityscapes),
        "--weights",
        str(single_frame_weights),
        "--check",
        "true",
    ]
    assert main(arguments) == 0
    assert "complete" in capsys.readouterr().out
    for frame in (15, 16):
        frame_path(cityscapes, frame).unlink()
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "000015" in printed and "000016" in printed and "2 problems" in printed


# ---- training


def run_stage(config, root, weights, out, *options):
    """The command as the README says, with the sizes of this folder."""
    given = ["--root", str(root), "--weights", str(weights), "--out", str(out), "--epochs", "1", "--workers", "0"]
    path = Path(__file__).resolve().parents[2] / "config/train" / f"{config}.yaml"
    return main(["train", "--config", str(path), *given, "--accelerator", "cpu", "--progress", "false", *options])


def test_erfnet_trains_in_both_stages_and_the_result_segments(cityscapes, single_frame_weights, tmp_path, make_scene):
    pytest.importorskip("lightning")
    small = ("--size", "64x32", "--batch-size", "1")
    assert run_stage("cityscapes_erfnet_stage1", cityscapes, single_frame_weights, tmp_path / "one", *small) == 0
    assert run_stage("cityscapes_erfnet_stage2", cityscapes, tmp_path / "one/best.safetensors", tmp_path / "two", *small) == 0
    model = load_model(tmp_path / "two/best.safetensors")
    assert model.config.memory.fusion == "gated" and model.config.memory.window == 21 and model.config.memory.memory_frames == 4
    assert model.config.provenance["steps"] == "2" and model.config.provenance["stage"] == "joint"
    segmenter = VideoSegmenter.from_weights(tmp_path / "two/best.safetensors", device="cpu")
    results = [segmenter.step(make_scene(), index * 10**8) for index in range(2)]
    assert results[1].memory_frames == 1 and results[1].labels.max() < 19


def test_pspnet_trains_in_both_stages_and_the_result_loads(cityscapes, tmp_path):
    """One step each, of the smallest map that pyramid pooling takes; 65 million parameters make it slow enough."""
    pytest.importorskip("lightning")
    config = ModelConfig("pspnet101", 19, CITYSCAPES, None, Size(33, 65))
    save_model(tmp_path / "psp.safetensors", build_network(config), config)
    small = ("--size", "65x33", "--window", "3", "--memory-frames", "1", "--max-steps", "1", "--batch-size", "2")
    small = (*small, "--accumulate", "1")
    assert run_stage("cityscapes_pspnet_stage1", cityscapes, tmp_path / "psp.safetensors", tmp_path / "one", *small) == 0
    assert run_stage("cityscapes_pspnet_stage2", cityscapes, tmp_path / "one/last.safetensors", tmp_path / "two", *small) == 0
    paths = (tmp_path / "psp.safetensors", tmp_path / "one/last.safetensors", tmp_path / "two/last.safetensors")
    before, one, two = (load_model(path).network.state_dict() for path in paths)
    frozen_in_two = [name for name in before if name.startswith("backbone.encoder.")]
    assert all(before[name].equal(one[name]) for name in before)
    assert all(one[name].equal(two[name]) for name in frozen_in_two)
    for name in ("backbone.ppm.features.0.1.weight", "backbone.decoder.cls.0.weight", "memory.fusion.reduce.weight"):
        assert not one[name].equal(two[name])
    assert load_model(tmp_path / "two/last.safetensors").config.memory.fusion == "reduced-gated"
