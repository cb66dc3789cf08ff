"""Adaptation: which frames are chosen, what the teacher says, when statistics change, what the gate lets pass, all of it."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lmanet_core.commands.main import main
from lmanet_core.data import AugmentConfig, ClipDataset
from lmanet_core.data.recorded_clips import KINDS, ClipList, RecordedClips, Replayed, pack_soft, sure, unpack_soft
from lmanet_core.errors import ConfigError, InputError, OutputError, WeightsError
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.labels import LabelSet
from lmanet_core.network import LMANet
from lmanet_core.street import Street, StreetConfig
from lmanet_core.weights.adapters import wrap_module
from lmanet_core.weights.checkpoint import load_model, save_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

pytest.importorskip("lightning", reason="training needs lightning: pip install '.[train]'")

from lmanet_core.adaptation import AdaptConfig, decision, gains, selection, teacher
from lmanet_core.adaptation import run as run_module
from lmanet_core.adaptation.gains import STEPS, adapt_gains, train_gains
from lmanet_core.adaptation.gate import Condition, Judged, compare
from lmanet_core.adaptation.mirror import (
    MirrorAgreement,
    class_shares,
    information_of_pairs,
    measure_mirror_agreement,
    mutual_information,
)
from lmanet_core.adaptation.reduced import measure_reduced_agreement
from lmanet_core.adaptation.selection import choose, survey
from lmanet_core.adaptation.statistics import adapt_statistics
from lmanet_core.adaptation.teacher import Teacher, class_thresholds, label_clips
from lmanet_core.evaluation.session import CameraInput
from lmanet_core.training.clip_loss import ClipLoss
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.losses import cross_entropy_sums

TWO = LabelSet(("dark", "bright"), ((0, 0, 0), (255, 255, 255)))


pytestmark = pytest.mark.usefixtures("one_thread")
SECOND = 10**9


def drive(folder, count, make_scene, moving=lambda number: True):
    """Images of a scene that slides by two pixels a frame where it moves; a folder as a video of 10 Hz."""
    folder.mkdir()
    wide, at = make_scene(3, 48, 64 + 2 * count), 0
    for number in range(count):
        at += 2 * bool(moving(number))
        cv2.imwrite(str(folder / f"{number:03d}.png"), cv2.GaussianBlur(wide, (0, 0), 1.5)[:, at : at + 64])
    return folder


def look(folder, stills=False):
    return survey(CameraInput("camera", folder, fps=10.0), 100, stills, lambda count: None, lambda: None)


def numbers(moments):
    return [moment.number for moment in moments]


# -- which frames


def test_a_wait_at_a_traffic_light_counts_as_one_frame(tmp_path, make_scene):
    seen = look(drive(tmp_path / "v", 60, make_scene, lambda number: number >= 40))
    chosen = numbers(choose([seen], 100, 3, 0.0))
    assert len([number for number in chosen if number < 40]) == 1
    assert len([number for number in chosen if number >= 40]) > 10


def test_no_frame_that_is_judged_is_learned_from(tmp_path, make_scene):
    seen = look(drive(tmp_path / "v", 60, make_scene))
    chosen = choose([seen], 100, 3, 0.3)
    judged_from = seen.held_out_from_s(0.3) * 10
    assert max(moment.window[-1] for moment in chosen) < judged_from - 2  # and there is a gap
    assert max(numbers(chosen)) > 30


def test_clips_do_not_reach_over_a_cut_or_into_black_frames(tmp_path, make_scene):
    folder = drive(tmp_path / "v", 60, make_scene)
    for number in range(30, 60):  # another place
        cv2.imwrite(str(folder / f"{number:03d}.png"), make_scene(77 + number // 60, 48, 200)[:, 2 * number - 60 :][:, :64])
    for number in (10, 11, 12, 13, 14):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.zeros((48, 64, 3), np.uint8))
    windows = [moment.window for moment in choose([look(folder)], 100, 3, 0.0)]
    assert windows and not any(29 in window and 30 in window for window in windows)
    assert not any(set(window) & {10, 11, 12, 13, 14} for window in windows)


def test_at_most_so_many_frames_and_those_that_differ_most(tmp_path, make_scene):
    chosen = choose([look(drive(tmp_path / "v", 60, make_scene))], 6, 3, 0.0)
    assert len(chosen) == 6 and numbers(chosen) == sorted(numbers(chosen))
    assert min(np.diff(numbers(chosen))) > 3


def test_looks_do_not_grow_with_the_recording(tmp_path, make_scene):
    seen = survey(CameraInput("c", drive(tmp_path / "v", 60, make_scene), fps=10.0), 8, False, lambda count: None, lambda: None)
    assert 8 <= len(seen.looks) <= 17 and len(seen.stamps_ns) == 60


@pytest.mark.parametrize(("count", "moving"), [(40, lambda number: False), (4, lambda number: True)])
def test_recordings_with_too_little_in_them_are_refused(tmp_path, make_scene, count, moving):
    with pytest.raises(InputError, match=r"wanted 4 or more frames that differ, each with 3 before it"):
        choose([look(drive(tmp_path / "v", count, make_scene, moving))], 100, 3, 0.3)


def test_damaged_frames_are_left_out_of_both_passes(tmp_path, make_scene):
    folder = drive(tmp_path / "v", 40, make_scene)
    for number in (12, 13, 14, 15):
        (folder / f"{number:03d}.png").write_bytes(b"damage")
    seen = look(folder)
    assert len(seen.stamps_ns) == 36
    moments = choose([seen], 20, 3, 0.0)
    assert not any(11 in moment.window and 12 in moment.window for moment in moments)  # a gap: 11 and 16 of the folder
    plan = plan_geometry(Size(48, 64), Size(48, 64), "input")
    kept = selection.keep_clips(tmp_path / "teacher", moments, plan, TWO, lambda: None)
    last = moments[-1].number
    image = RecordedClips(tmp_path / "teacher").image(kept.clips[-1][-1]).astype(int)
    there, before = (cv2.imread(str(folder / f"{last + 4 - back:03d}.png"))[..., ::-1].astype(int) for back in (0, 1))
    assert last > 12 and np.abs(image - there).mean() < 0.3 * np.abs(image - before).mean()


def test_images_of_two_sizes_are_refused(tmp_path, make_scene):
    folder = drive(tmp_path / "v", 6, make_scene)
    cv2.imwrite(str(folder / "003.png"), np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"images of one size are wanted, got 64x48 and then 64x50"):
        look(folder)


# -- clips on disk


@pytest.fixture
def clips(tmp_path, make_scene):
    """Two clips of three frames, one frame after each; no labels yet."""
    root = tmp_path / "teacher"
    (root / "frames").mkdir(parents=True)
    for number in range(8):
        selection.write_jpeg(root / "frames" / f"c_{number}.jpg", make_scene(number, 32, 64))
    names = [f"c_{number}" for number in range(8)]
    ClipList(TWO, Size(32, 64), 0.1, (tuple(names[:3]), tuple(names[4:7])), ((names[3],), (names[7],)), (2, 6)).write(root)
    return RecordedClips(root)


def test_soft_labels_survive_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    classes, shares = rng.integers(0, 256, (2, KINDS, 5, 7), np.uint8)
    teacher.write_png(tmp_path / "soft.png", pack_soft(classes, shares))
    words = cv2.imread(str(tmp_path / "soft.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(unpack_soft(words), np.concatenate((classes, shares)))


def test_soft_labels_are_augmented_with_the_picture(clips):
    root = clips.root
    for folder in ("soft", "labels", "certain"):
        (root / folder).mkdir()
    kinds = np.zeros((KINDS, 32, 64), np.uint8)
    kinds[0, :, 32:], kinds[1, :, :32] = 1, 1
    shares = np.stack([np.full((32, 64), value, np.uint8) for value in (200, 55, 0)])
    teacher.write_png(root / "soft" / "c_2.png", pack_soft(kinds, shares))
    teacher.write_png(root / "labels" / "c_2.png", kinds[0])
    item = next(
        one
        for seed in range(20)
        if (one := ClipDataset(clips, 3, augmentation=AugmentConfig(shift=0), seed=seed)[0])["labels"][0, 0] == 1
    )
    assert item["clip"].shape == (3, 3, 32, 64) and item["soft"].shape == (2 * KINDS, 32, 64)
    assert (item["labels"] == item["soft"][0]).all() and (item["soft"][0] + item["soft"][1] == 1).all()
    assert (item["soft"][KINDS] == 200).all()


def test_soft_cross_entropy_is_that_of_the_shares():
    logits = torch.tensor([0.3, -1.2, 2.0]).view(1, 3, 1, 1)
    soft = torch.tensor([2, 0, 0, 192, 64, 0], dtype=torch.uint8).view(1, 6, 1, 1)
    total, weight = cross_entropy_sums(logits, torch.tensor([[[2]]]), torch.ones(3), soft=soft)
    log_shares = logits.flatten().log_softmax(0)
    assert float(total) == pytest.approx(float(-(0.75 * log_shares[2] + 0.25 * log_shares[0])))
    assert float(weight) == 1.0


def test_sure_soft_labels_are_plain_cross_entropy():
    labels = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
    labels[0, 0] = 255
    logits, ids = torch.randn(1, 3, 4, 5), torch.from_numpy(labels)[None].long()
    soft = torch.from_numpy(sure(labels))[None]
    plain, softly = (cross_entropy_sums(logits, ids, torch.ones(3), soft=one) for one in (None, soft))
    assert float(plain[0]) == pytest.approx(float(softly[0])) and plain[1] == softly[1]


def test_replayed_stills_come_as_often_as_their_share(clips):
    mixed = Replayed(clips, RecordedClips(clips.root), 0.5)
    assert [mixed.name(index) for index in range(len(mixed))] == ["c_2", "c_6", "c_2", "c_6"]
    own, replayed = (mixed.clip(index, 3, 1, np.random.default_rng(0)) for index in (0, 2))
    assert own.soft is None and replayed.soft is not None  # what people labelled is sure


def test_stills_with_other_classes_are_refused(clips):
    other = RecordedClips(clips.root)
    other.labels = LabelSet(("road", "sky"), ((1, 1, 1), (2, 2, 2)))
    with pytest.raises(InputError, match=r"must have the classes of the weights \(dark, bright, …\), got road, sky"):
        Replayed(clips, other, 0.2)


def test_a_damaged_list_of_clips_is_told(clips):
    (clips.root / "clips.json").write_text("{")
    with pytest.raises(InputError, match=r"clips\.json: not a list of clips as lmanet adapt writes it"):
        RecordedClips(clips.root)


def test_the_past_of_a_still_is_made_up(clips):
    ClipList(TWO, Size(32, 64), 0.0, (("c_0",), ("c_1",)), ((), ()), (0, 1)).write(clips.root)
    stills, rng = RecordedClips(clips.root), np.random.default_rng(0)
    alone = stills.clip(0, 1, 1, rng).frames
    past, before, now = stills.clip(0, 3, 1, rng).frames
    assert alone.shape == (1, 32, 64, 3) and np.array_equal(now, alone[0])
    assert not np.array_equal(before, now) and not np.array_equal(past, before)


# -- teacher


def test_of_each_class_the_surest_pixels_count():
    counts = np.zeros((3, 256), np.int64)
    counts[0, [100, 200, 250]] = 10, 10, 10  # two thirds of them: from 200 on
    counts[1, 255] = 5  # all of them are surer than is asked for
    counts[2, 40] = 3  # rare and unsure, but the surest there are
    assert class_thresholds(counts, 2 / 3, 0.9).tolist() == [200, 230, 40]


@pytest.fixture
def say(monkeypatch):
    """Let the network say what a function of the image says: the probability of the class bright."""

    def let(bright):
        def shares(runtime, image, mirrored=False):
            value = float(bright(image))
            return torch.tensor([1 - value, value]).view(1, 2, 1, 1).expand(1, 2, *image.shape[:2]).clone()

        monkeypatch.setattr(teacher, "class_shares", shares)

    return let


@pytest.fixture
def steady_clips(clips, make_scene):
    """The same clips, every frame of a clip alike, so that labels are carried from one to the next."""
    for names in (range(4), range(4, 8)):
        for number in names:
            selection.write_jpeg(clips.root / "frames" / f"c_{number}.jpg", make_scene(names[0], 32, 64))
    return clips


class Fits:
    """A runtime whose network takes every size."""

    class network:
        class backbone:
            fixed_size, size_multiple, size_remainder, stride = None, 1, 0, 1


def test_past_and_future_speak_for_an_unsure_frame(steady_clips, say):
    alone = Teacher([Fits()])
    say(lambda image: 0.55)
    _, _, unsure = alone.label(steady_clips, 0)
    sequence = iter([0.95] * 4 + [0.55] * 2 + [0.95] * 2)
    say(lambda image: next(sequence))  # every frame is looked at twice, as it is and mirrored
    kinds, _, certain = Teacher([Fits()]).label(steady_clips, 0)
    assert (kinds[0] == 1).all() and certain.mean() > unsure.mean() + 20


def test_where_past_and_future_disagree_nobody_is_sure(steady_clips, say):
    sequence = iter([0.05] * 4 + [0.5] * 2 + [0.95] * 2)
    say(lambda image: next(sequence))
    _, shares, certain = Teacher([Fits()]).label(steady_clips, 0)
    assert certain.mean() < 170 and (shares[1] > 60).mean() > 0.9


def test_frames_of_two_clips_are_looked_at_once(clips, say):
    seen = []
    say(lambda image: seen.append(1) or 0.9)
    one = Teacher([Fits()])
    one.label(clips, 0)
    before = len(seen)
    one.label(clips, 0)
    assert len(seen) == before == 8  # four frames, as they are and mirrored


def test_a_full_disk_while_labelling_is_told_and_gone_on_from(clips, say, monkeypatch):
    say(lambda image: 0.8 if image.mean() > 120 else 0.2)
    written, real = [], teacher.write_png

    def full(path, image):
        written.append(path)
        if len(written) == 3:
            raise OutputError(f"{path}: cannot be written: no space is left for it") from OSError(errno.ENOSPC, "")
        real(path, image)

    monkeypatch.setattr(teacher, "write_png", full)
    with pytest.raises(OutputError, match="no space is left"):
        label_clips(clips.root, Teacher([Fits()]), 0.6, 0.9, lambda: None)
    assert not (clips.root / teacher.THRESHOLDS).exists()
    label_clips(clips.root, Teacher([Fits()]), 0.6, 0.9, lambda: None)
    assert written.count(clips.root / "soft" / "c_2.png") == 1  # what was there stayed
    assert clips.label_map(1).shape == (32, 64) and (clips.root / teacher.THRESHOLDS).exists()


# -- statistics


class Leaning(nn.Module):
    """Tells dark from bright by brightness after BatchNorm, and leans a little on what is to the right."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.classifier = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.weight[1, :, 1, 1] = 1.0
            self.classifier.weight[1, :, 1, 2] = 0.6
            self.classifier.weight[0] = -self.classifier.weight[1]
        self.class_names = TWO.names
        self.input_size = (32, 64)

    def forward(self, image):
        return self.classifier(self.norm(image))


def leaning(mean=0.5, variance=0.08):
    module = Leaning()
    module.norm.running_mean.fill_(mean)
    module.norm.running_var.fill_(variance)
    return wrap_module(module.eval(), mean=(0, 0, 0), std=(1, 1, 1))


def pictures(make_scene, bright=1.0, count=6):
    return [(cv2.GaussianBlur(make_scene(seed, 32, 64), (0, 0), 2) * bright).astype(np.uint8) for seed in range(count)]


def as_clips(images):
    return [torch.from_numpy(image.transpose(2, 0, 1).copy())[None] for image in images]


def test_statistics_of_another_light_are_taken(make_scene):
    dark = pictures(make_scene, bright=0.15)
    adapted, information = adapt_statistics(leaning(), as_clips(dark), dark, "cpu")
    assert information[1.0] > information[0.0] + 0.1
    norm = next(module for module in adapted.network.modules() if isinstance(module, nn.BatchNorm2d))
    assert float(norm.running_mean.mean()) < 0.3


def test_statistics_that_fit_are_kept(make_scene):
    images = pictures(make_scene)
    pixels = np.stack(images) / 255.0
    model = leaning(float(pixels.mean()), float(pixels.var()))
    adapted, information = adapt_statistics(model, as_clips(images), images, "cpu")
    assert adapted is model and max(information.values()) < 1.01 * information[0.0]


def test_a_network_without_batch_norm_stays_as_it_is(make_scene):
    images = pictures(make_scene)
    module = nn.Sequential(nn.Conv2d(3, 2, 1))
    model = wrap_module(module.eval(), labels=TWO, mean=(0, 0, 0), std=(1, 1, 1))
    assert adapt_statistics(model, as_clips(images), images, "cpu") == (model, {})


@pytest.mark.parametrize(
    ("joint", "bits"),
    [
        ([[0.25, 0, 0, 0], [0, 0.25, 0, 0], [0, 0, 0.25, 0], [0, 0, 0, 0.25]], 2.0),  # sure, alike, four classes
        ([[7.0, 0, 0], [0, 0, 0], [0, 0, 0]], 0.0),  # everything is building
        ([[1.0, 1.0], [1.0, 1.0]], 0.0),  # never sure
        ([[0.4, 0.1], [0.1, 0.4]], 0.27807),
    ],
)
def test_mutual_information_by_hand(joint, bits):
    assert mutual_information(torch.tensor(joint, dtype=torch.float64)) == pytest.approx(bits, abs=1e-5)


def test_a_network_that_knows_no_left_and_right_agrees_with_itself(make_scene):
    runtime = prepare(wrap_module(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), labels=TWO, mean=(0, 0, 0), std=(1, 1, 1)), "cpu")
    measured = measure_mirror_agreement(runtime, pictures(make_scene))
    assert measured.accuracy == 1.0 and sum(measured.shares) == pytest.approx(1.0)
    assert measure_mirror_agreement(prepare(leaning(), "cpu"), pictures(make_scene)).accuracy < 0.99


# -- gains


class Thresholds(nn.Module):
    """Tells dark from bright, each by a BatchNorm and a layer of its own, sharply."""

    def __init__(self, layers=6, bias=0.0):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3, affine=True) for _ in range(layers))
        self.classifier = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.classifier.weight[1], self.classifier.weight[0] = 0.3, -0.3
            for norm in self.norms:
                norm.running_mean.fill_(0.0)
            self.norms[0].running_mean.fill_(0.5)
            self.norms[0].running_var.fill_(0.08)
            self.norms[0].bias.fill_(bias)
        self.class_names = TWO.names
        self.input_size = (32, 64)

    def forward(self, image):
        for norm in self.norms:
            image = norm(image)
        return self.classifier(image)


def thresholds(**options):
    return wrap_module(Thresholds(**options).eval(), mean=(0, 0, 0), std=(1, 1, 1))


def parameters_of(model):
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def test_gains_and_biases_of_the_first_layers_alone_are_trained(make_scene, monkeypatch):
    monkeypatch.setattr(gains, "_LEARNING_RATE", 0.02)
    model, seen = thresholds(layers=10, bias=-0.5), []
    before = parameters_of(model)
    adapted, gained = adapt_gains(model, pictures(make_scene, count=12), "cpu", advance=lambda: seen.append(1))
    assert len(seen) == STEPS and gained.after > 1.01 * gained.before and adapted is not model
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(model).items())
    changed = {name for name, value in parameters_of(adapted).items() if not torch.equal(value, before[name])}
    assert changed == {
        name for name in before if name.endswith(("norms.0.weight", "norms.0.bias", "norms.1.weight", "norms.1.bias"))
    }
    assert all(parameter.requires_grad for parameter in adapted.network.parameters())


def test_gains_are_trained_on_windows_of_two_sizes(make_scene, monkeypatch):
    seen, crops = [], gains._crops
    monkeypatch.setattr(gains, "_crops", lambda *given: seen.append(crops(*given)) or seen[-1])
    train_gains(thresholds(), pictures(make_scene, count=8), "cpu", steps=3)
    assert [windows.shape[1:3] for windows in seen] == [(16, 32), (24, 48), (16, 32)]


def test_gains_that_tell_no_more_stay(make_scene, monkeypatch):
    monkeypatch.setattr(gains, "_LEARNING_RATE", 1e-7)
    model = thresholds()
    adapted, gained = adapt_gains(model, pictures(make_scene, count=8), "cpu")
    assert adapted is model and gained.after == pytest.approx(gained.before, rel=1e-3) and gained.before > 0.0


@pytest.mark.parametrize(("agreed", "taken"), [(0.7, True), (0.5951, True), (0.5949, False), (math.nan, False)])
def test_gains_by_which_labels_agree_less_with_reduced_pictures_stay(make_scene, monkeypatch, agreed, taken):
    monkeypatch.setattr(gains, "_LEARNING_RATE", 0.02)
    told = iter((0.6, agreed))
    monkeypatch.setattr(gains, "measure_reduced_agreement", lambda runtime, held: next(told))
    model = thresholds(bias=-0.5)
    adapted, gained = adapt_gains(model, pictures(make_scene, count=12), "cpu")
    assert gained.after > 1.01 * gained.before
    assert (gained.agreed_before, gained.agreed_after) == pytest.approx((0.6, agreed), nan_ok=True)
    assert (adapted is not model) is gained.enough is taken


def test_gains_move_by_shares_of_themselves(make_scene, monkeypatch):
    monkeypatch.setattr(gains, "_LEARNING_RATE", 0.02)
    images, saw = pictures(make_scene, count=12), []
    for size in (1.0, 0.1):
        model = thresholds(bias=-0.5)
        first, second = model.network.backbone.module.norms[:2]
        with torch.no_grad():  # the same function, with smaller gains
            for value in (first.weight, first.bias, second.running_mean):
                value *= size
            second.running_var.fill_((1.0 + second.eps) * size**2 - second.eps)
        before = copy.deepcopy(model)
        adapted, _ = adapt_gains(model, images, "cpu")
        assert adapted is not model
        saw.append([class_shares(prepare(one, "cpu"), images[0]) for one in (before, adapted)])
    assert torch.allclose(saw[0][0], saw[1][0], atol=1e-4) and not torch.allclose(saw[0][0], saw[0][1], atol=1e-2)
    assert torch.allclose(saw[0][1], saw[1][1], atol=1e-3)


def test_reduced_pictures_are_labelled_as_the_whole_ones_by_what_does_not_hang_on_size(make_scene):
    assert measure_reduced_agreement(prepare(thresholds(), "cpu"), pictures(make_scene)) > 0.85
    assert math.isnan(measure_reduced_agreement(prepare(thresholds(), "cpu"), []))


def test_each_class_counts_the_same_in_reduced_pictures():
    picture = np.full((32, 64, 3), 255, np.uint8)
    picture[:, 30] = 0  # a pole, 1/64 of the picture, grey in the reduced one
    agreement = measure_reduced_agreement(prepare(thresholds(bias=1.0), "cpu"), [picture])
    assert 0.4 < agreement < 0.6


def test_what_is_judged_is_not_learned_from(make_scene, monkeypatch):
    looked, images = [], pictures(make_scene, count=8)
    crops = gains._crops
    monkeypatch.setattr(gains, "_crops", lambda model, some, *given: (looked.extend(some), crops(model, some, *given))[1])
    judged = []
    measure = gains.measure_mirror_agreement
    monkeypatch.setattr(
        gains, "measure_mirror_agreement", lambda runtime, some: (judged.extend(some), measure(runtime, some))[1]
    )
    agreed = gains.measure_reduced_agreement
    monkeypatch.setattr(
        gains, "measure_reduced_agreement", lambda runtime, some: (judged.extend(some), agreed(runtime, some))[1]
    )
    adapt_gains(thresholds(), images, "cpu")
    assert len(judged) == 8 and {id(image) for image in judged} == {id(image) for image in images[6:]}
    assert {id(image) for image in looked} == {id(image) for image in images[:6]}


@pytest.mark.parametrize(
    "model", [leaning(), wrap_module(nn.Conv2d(3, 2, 1).eval(), labels=TWO, mean=(0, 0, 0), std=(1, 1, 1))]
)
def test_networks_without_gains_stay_as_they_are(model, make_scene):
    assert adapt_gains(model, pictures(make_scene), "cpu") == (model, None)


def test_a_measure_that_is_not_finite_changes_nothing(make_scene, monkeypatch):
    monkeypatch.setattr(gains, "_LEARNING_RATE", 1e38)
    model = thresholds(bias=-1.5)
    adapted, gained = adapt_gains(model, pictures(make_scene, count=8), "cpu")
    assert adapted is model and not gained.after > gained.before


def test_information_has_the_gradients_of_its_definition():
    joint = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(information_of_pairs, (joint,))


# -- gate


def judged(**changed):
    mirror = MirrorAgreement(1.0, 0.9, 0.9, (0.5, 0.5))
    return replace(Judged(mirror, 0.02, 0.8, 0.04, 0.7), **changed)


def passes(before, after):
    return all(condition.passed for condition in compare(before, after, TWO.names))


def mirrored(**changed):
    return replace(judged().mirror, **changed)


@pytest.mark.parametrize(
    ("changed", "adopted"),
    [
        ({}, False),  # nothing has become better
        ({"flicker": 0.015}, True),
        ({"tc": 0.82}, True),
        ({"mirror": mirrored(information=1.1)}, True),
        ({"mirror": mirrored(information=1.1), "flicker": 0.03}, False),
        ({"mirror": mirrored(information=1.1), "flicker": 0.03, "tc": 0.85}, True),  # more classes, more borders
        ({"mirror": mirrored(information=1.1), "tc": 0.75}, False),
        ({"mirror": mirrored(information=0.99), "flicker": 0.01}, False),
        ({"flicker": 0.015, "mirror": mirrored(confidence=0.99)}, False),
        ({"flicker": 0.0, "tc": 1.0, "mirror": mirrored(information=1.5, shares=(0.95, 0.05))}, False),  # a class vanished
    ],
)
def test_only_weights_that_are_better_and_in_nothing_worse_pass(changed, adopted):
    assert passes(judged(), judged(**changed)) is adopted


def test_labels_decide_where_there_are_some():
    before = judged(miou=0.5)
    assert passes(before, judged(miou=0.6, mirror=mirrored(information=0.5)))
    assert not passes(before, judged(miou=0.49, flicker=0.01, mirror=mirrored(information=1.8)))


# -- the whole


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A generated street as another camera sees it, darker and with a cast, in the shipped weights' classes; and its labels."""
    folder = tmp_path_factory.mktemp("night")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    street = Street(StreetConfig(width=256, height=128, seed=2_000_003))
    for number, frame in enumerate(street.frames(0, 30)):
        image = (frame.image * (0.35, 0.45, 0.7) + (5, 15, 60)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number:03d}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "labels" / f"{number:03d}.png"), frame.labels)
    return folder


@pytest.fixture
def adapt(night, tmp_path, capsys):
    """`lmanet adapt` on the drive, small and without a student unless told; code, and what was printed."""

    def command(out, *arguments, sources=(night / "images",)):
        usual = ["--network-size=256x128", "--moments=12", "--steps=0", "--workers=0", "--precision=32", "--fps=10"]
        usual += [] if any("--gains" in str(one) for one in arguments) else ["--gains=off"]
        return ["adapt", *map(str, sources), "--out", str(out), *usual, *map(str, arguments)]

    def run(*arguments, out=tmp_path / "out", sources=(night / "images",)):
        capsys.readouterr()
        code = main(command(out, *arguments, sources=sources))
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    run.command = command
    return run


def summary(out):
    return json.loads((Path(out) / "summary.json").read_text())


def test_adapted_weights_are_better_on_frames_they_have_not_seen(adapt, night, tmp_path):
    code, said, _ = adapt("--labels", night / "labels", "--moments=8", "--judged-frames=8")
    found = summary(tmp_path / "out")
    assert code == 0 and found["adopted"] is True, said
    assert found["after"]["miou"] > found["before"]["miou"] + 0.01
    assert f"adopted: {tmp_path / 'out' / 'adapted.safetensors'}" in said
    adapted = load_model(tmp_path / "out" / "adapted.safetensors")
    assert "adapted to" in adapted.config.provenance["statistics"]
    assert (tmp_path / "out" / "before" / "report.html").is_file()
    out = tmp_path / "segmented"
    arguments = ["--weights", tmp_path / "out" / "adapted.safetensors", "--out", out, "--max-frames", 3]
    assert main(["segment", str(night / "images"), *map(str, arguments)]) == 0


def test_gains_are_trained_behind_the_statistics_kept_and_gone_on_from(adapt, tmp_path, monkeypatch):
    small = ("--judged-frames=3", "--gains=auto")
    code, said, error = adapt(*small)
    assert code in (0, 1) and "gains and biases of the first layers: " in said + error
    out = tmp_path / "out"
    told = gains.Gained(**json.loads((out / "gains.json").read_text()))
    assert (out / "gains.safetensors").is_file() is told.enough is True
    provenance = load_model(out / "gains.safetensors").config.provenance
    assert "trained on" in provenance["gains"] and "adapted to" in provenance["statistics"]
    (out / "summary.json").unlink()
    monkeypatch.setattr(run_module, "adapt_gains", lambda *given: 1 / 0)  # not again
    again, said, error = adapt(*small, "--resume")
    assert again == code and "they are taken" in said + error


@pytest.mark.parametrize(
    ("student", "statistics", "adopted"), [(0.5, 0.52, "after_statistics"), (0.5, 0.505, "after"), (0.6, 0.5, "after")]
)
def test_with_labels_the_student_is_adopted_unless_the_statistics_alone_are_clearly_better(
    adapt, night, tmp_path, monkeypatch, student, statistics, adopted
):
    mious = iter((0.4, student, statistics))
    judge = decision.judge_weights
    monkeypatch.setattr(decision, "judge_weights", lambda *given: replace(judge(*given), miou=next(mious)))
    monkeypatch.setattr(decision, "compare", lambda before, after, classes: [Condition("of this test", None, None, True)])
    code, said, _ = adapt("--labels", night / "labels", "--steps=1", "--batch-size=1", "--moments=8", "--judged-frames=2")
    assert code == 0 and f"the report is {tmp_path / 'out' / adopted}" in said
    assert summary(tmp_path / "out")["report"] == adopted
    source = {"after": "training/last.safetensors", "after_statistics": "statistics.safetensors"}[adopted]
    assert (tmp_path / "out" / "adapted.safetensors").read_bytes() == (tmp_path / "out" / source).read_bytes()


def test_weights_that_became_worse_are_refused_and_the_old_ones_stay(adapt, night, tmp_path):
    weights = tmp_path / "mine.safetensors"
    shutil.copy(default_weights(), weights)
    before = weights.read_bytes()
    code, said, _ = adapt(
        "--steps=2", "--learning-rate=3", "--anchor=0", "--statistics=off", "--judged-frames=6", "--weights", weights
    )
    found = summary(tmp_path / "out")
    assert code == 1 and found["adopted"] is False and not (tmp_path / "out" / "adapted.safetensors").exists()
    assert "no better: keep the weights as they are" in said and ": refused" in said and "a student" not in said
    assert weights.read_bytes() == before


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(adapt, night, tmp_path):
    usual = ("--network-size=128x64", "--statistics=off", "--steps=2", "--batch-size=1", "--moments=4", "--judged-frames=3")
    adapt(*usual, out=tmp_path / "whole")
    out = tmp_path / "out"
    kill_when(out / "training" / "config.yaml", adapt.command(out, *usual))
    labelled = {path: path.stat().st_mtime_ns for path in (out / "teacher").rglob("*.png")}
    assert labelled and not (out / "training" / "resume.ckpt").exists()
    kill_when(out / "before" / "frames.jsonl", adapt.command(out, *usual, "--resume"))
    code, said, error = adapt(*usual, "--resume")
    assert code in (0, 1), error
    assert "trained 2 steps before" in said + error  # not again
    assert labelled == {path: path.stat().st_mtime_ns for path in labelled}
    one, two = (load_model(tmp_path / name / "training" / "last.safetensors").network for name in ("whole", "out"))
    for ours, theirs in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert summary(tmp_path / "whole")["after"] == summary(out)["after"]


def kill_when(path, command):
    """Start a command, and kill it as soon as a file is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lmanet_core.commands", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as in this process: other numbers of threads give other last digits
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_a_loss_that_is_not_finite_ends_it_and_the_weights_stay(adapt, tmp_path):
    weights = tmp_path / "mine.safetensors"
    shutil.copy(default_weights(), weights)
    small = ("--statistics=off", "--moments=4", "--judged-frames=2", "--network-size=128x64", "--weights", weights)
    code, _, error = adapt("--steps=20", "--learning-rate=1e30", "--anchor=0", *small)
    assert code == 1 and "in batch" in error and ("the loss is" in error or "a gradient is" in error)
    assert weights.read_bytes() == default_weights().read_bytes() and not (tmp_path / "out" / "adapted.safetensors").exists()


def test_other_settings_do_not_go_on_with_a_run(adapt):
    adapt("--moments=6", "--judged-frames=3", "--statistics=off")
    code, _, error = adapt("--moments=7", "--judged-frames=3", "--statistics=off", "--resume")
    assert code == 2 and "cannot go on with other settings: moments: was 6, now 7" in error


def test_recordings_of_two_cameras_are_refused(adapt, night, tmp_path, make_scene):
    other = drive(tmp_path / "other", 8, make_scene)
    code, _, error = adapt(sources=(night / "images", other))
    assert code == 3 and "recordings of one camera are wanted: images is 256x128, other is 64x48" in error
    assert not (tmp_path / "out").exists()


def test_labels_that_cannot_be_used_are_found_before_anything_is_done(adapt, tmp_path):
    code, _, error = adapt("--labels", tmp_path / "none")
    assert code == 3 and "no such folder" in error and not (tmp_path / "out").exists()


def test_labels_of_other_classes_are_told_and_do_not_count(adapt, night, tmp_path, caplog):
    (tmp_path / "others").mkdir()
    for path in (night / "labels").glob("*.png"):
        cv2.imwrite(str(tmp_path / "others" / path.name), np.full((128, 256), 254, np.uint8))
    adapt("--labels", tmp_path / "others", "--moments=6", "--judged-frames=3")
    found = summary(tmp_path / "out")
    assert "100 % of the label pixels hold values that the weights' own ids does not know (254)" in caplog.text
    assert found["before"]["miou"] is None and "mIoU" not in {one["what"] for one in found["conditions"]}


def test_a_bag_without_images_is_refused(adapt, tmp_path, ros2):
    info = ros2.store.types["std_msgs/msg/String"](data="no camera")
    code, _, error = adapt(sources=(ros2.write(tmp_path / "bag", [("/words", SECOND, info)]),))
    assert code == 3 and "wanted a topic of sensor_msgs/msg/Image" in error and not (tmp_path / "out").exists()


def test_a_teacher_with_other_classes_is_refused(adapt, tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 2, 1)), ('dark', 'bright')\n"
    )
    code, _, error = adapt("--teacher", f"python:{tmp_path}/own.py:make", "--statistics=off", "--steps=1")
    assert code == WeightsError.exit_code and "has other classes (dark, bright, …) than the weights (road, sidewalk" in error


def test_what_is_guarded_must_not_be_forgotten(adapt, night, tmp_path):
    day = tmp_path / "day"
    day.mkdir()
    for number, frame in enumerate(Street(StreetConfig(width=256, height=128, seed=2_000_003)).frames(0, 3)):
        cv2.imwrite(str(day / f"{number}.png"), frame.image[..., ::-1])
    code, said, _ = adapt("--guard", day, "--labels", night / "labels", "--moments=8", "--judged-frames=8")
    assert code == 1 and "day: what labels tell of mirrored pictures" in said and "mIoU" in said
    refused = [condition for condition in summary(tmp_path / "out")["conditions"] if not condition["passed"]]
    assert [condition["what"].partition(":")[0] for condition in refused] == ["day"]


def test_where_nothing_is_adapted_a_student_is_named(adapt):
    code, said, _ = adapt("--statistics=off", "--moments=4", "--judged-frames=2")
    assert code == 1 and "a student may be steadier: --steps 300 trains one" in said


@pytest.mark.parametrize("given", [("--teacher=hf:b0",), ("--replay=stills",), ("--all",), ("--all", "--replay=stills")])
def test_what_is_for_a_student_wants_steps(adapt, tmp_path, given):
    code, _, error = adapt(*given)
    names = " and ".join(one.removeprefix("--").partition("=")[0] for one in reversed(given))
    assert code == 2 and f"{names} are for a student" in error and "such as 300" in error and not (tmp_path / "out").exists()


def test_what_a_student_has_a_default_of_wants_no_steps(adapt):
    assert adapt("--batch-size=2", "--statistics=off", "--moments=4", "--judged-frames=2")[0] == 1


@pytest.mark.parametrize(("more", "remembers"), [(("--all", "--scales=0.5,1"), True), (("--memory=false",), False)])
def test_students_of_every_kind_with_a_second_teacher_and_replay(night, tmp_path, more, remembers):
    single = load_model(default_weights())
    weights = tmp_path / "single.safetensors"
    save_model(weights, LMANet(single.network.backbone), replace(single.config, memory=None))
    stills = tmp_path / "stills"
    shutil.copytree(night, stills)
    labels = {name: value for name, value in single.config.labels.to_dict().items() if name != "groups"}
    (stills / "labels.yaml").write_text(json.dumps(labels))
    small = (
        "--network-size=128x64",
        "--statistics=off",
        "--gains=off",
        "--moments=4",
        "--judged-frames=2",
        "--steps=2",
        "--batch-size=2",
    )
    given = (
        "--out",
        tmp_path / "out",
        "--weights",
        weights,
        "--teacher",
        weights,
        "--replay",
        stills,
        "--fps=10",
        "--workers=0",
    )
    assert main(["adapt", str(night / "images"), *map(str, (*given, *small, *more))]) in (0, 1)
    trained = load_model(tmp_path / "out" / "training" / "last.safetensors").network
    assert (trained.memory is not None) is remembers
    changed = any(
        not torch.equal(ours, theirs)
        for ours, theirs in zip(
            trained.backbone.encoder.parameters(), single.network.backbone.encoder.parameters(), strict=True
        )
    )
    assert changed is ("--all" in more)
    decoders = (one.backbone.decoder.parameters() for one in (trained, single.network))
    assert any(not torch.equal(ours, theirs) for ours, theirs in zip(*decoders, strict=True))


def test_an_anchor_costs_the_distance_from_the_start():
    network = load_model(default_weights()).network
    config = TrainConfig(stage="all", weights="any", data="street", anchor=2.0)
    loss = ClipLoss(network, [], config, torch.ones(19))
    assert loss._distance().item() == 0.0
    with torch.no_grad():
        next(network.parameters())[0, 0, 0] += 0.5  # three weights
    assert loss._distance().item() == pytest.approx(0.75, abs=1e-4)


def test_a_network_of_few_features_gets_a_memory_that_fits(night, tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())\n"
        "    return nn.Sequential(features, nn.Conv2d(6, 3, 1)), ('a', 'b', 'c')\n"
    )
    arguments = [
        "--out",
        tmp_path / "out",
        "--weights",
        f"python:{tmp_path}/own.py:make",
        "--steps=1",
        "--moments=4",
        "--fps=10",
    ]
    small = ["--judged-frames=2", "--workers=0", "--batch-size=1", "--network-size=64x32"]
    assert main(["adapt", str(night / "images"), *map(str, arguments), *small]) in (0, 1)
    adapted = load_model(tmp_path / "out" / "training" / "last.safetensors").network
    assert adapted.memory is not None and adapted.memory.config.key_channels == 6


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recordings": ()}, "wants recordings"),
        ({"out": ""}, "out is missing"),
        ({"stills": True}, "give judge"),
        ({"mapping": "camvid11"}, "give labels"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"scales": "1,x"}, "scales are shares"),
        ({"held_out": 0.0}, "held_out must be 0.05 to 0.9"),
        ({"moments": 3}, "moments must be 4 to 100000"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        AdaptConfig(**{"recordings": ("a",), "out": "b", **changed})


def test_stills_are_learned_from_and_a_drive_is_judged(adapt, night, tmp_path):
    code, said, error = adapt(
        "--stills", "--judge", night / "images", "--moments=5", "--steps=1", "--batch-size=1", "--judged-frames=4"
    )
    assert code in (0, 1), error
    assert len(RecordedClips(tmp_path / "out" / "teacher")) == 5
    assert "flicker" in said and (tmp_path / "out" / "training" / "last.safetensors").is_file()
    assert {"labels", "soft", "overlay.webm", "result", "thresholds.json"} <= {
        path.name for path in (tmp_path / "out" / "teacher").iterdir()
    }
