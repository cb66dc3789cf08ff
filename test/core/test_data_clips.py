"""Clips: augmentation moves frames and labels alike, batches are a function of their number, the street gives true clips."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from lmanet_core.data import AugmentConfig, Clip, ClipDataset, ClipSource, StreetSource
from lmanet_core.data import street_clips as street_module
from lmanet_core.data.augment import MAX_BLOCKS, augment, shifted
from lmanet_core.data.flow import backward_flow
from lmanet_core.data.sampler import BatchStream
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import Street, StreetConfig


class Pattern(ClipSource):
    """Frames whose red channel is the label (+ 100 · how long ago), so that the two can be compared after anything."""

    labels = CITYSCAPES

    def __init__(self, size=(12, 16), count=5):
        self.size, self.count, self.strides = Size(*size), count, []

    def __len__(self):
        return self.count

    def name(self, index):
        return str(index)

    def clip(self, index, frames, stride, rng):
        self.strides.append(stride)
        labels = np.random.default_rng(index).integers(0, 19, self.size, np.uint8)
        shown = np.stack([np.stack([labels + 100 * back] * 3, -1) for back in range(frames - 1, -1, -1)])
        return Clip(shown, np.stack([labels] * frames))

    def problems(self, frames, stride, deep):
        return iter(())


def same_everywhere(frames, labels, ago=0):
    known = labels != 255
    return (frames[known] == labels[known, None] + 100 * ago).all() and (frames[~known] == 0).all()


# ---- augmentation


def test_flip_and_shift_are_equal_for_every_frame_and_the_labels():
    pattern = Pattern()
    seen = set()
    for seed in range(30):
        clip = pattern.clip(0, 3, 1, None)
        frames, (labels,) = augment(clip.frames, clip.labels[-1:], AugmentConfig(), np.random.default_rng(seed))
        assert all(same_everywhere(frames[t], labels, 2 - t) for t in range(3))
        void = labels == 255
        seen.add((labels[5, 5] == clip.labels[-1][5, 5], int(void.all(0).sum()), int(void.all(1).sum())))
    assert {columns for _, columns, _ in seen} == {rows for _, _, rows in seen} == {0, 1, 2}  # all shifts occur


def test_flip_mirrors_left_and_right():
    clip = Pattern().clip(0, 1, 1, None)
    results = [augment(clip.frames, clip.labels[:1], AugmentConfig(shift=0), np.random.default_rng(s))[1][0] for s in range(20)]
    flipped = [np.array_equal(labels, clip.labels[0][:, ::-1]) for labels in results]
    assert any(flipped) and not all(flipped)
    assert all(np.array_equal(labels, clip.labels[0]) for labels, f in zip(results, flipped, strict=True) if not f)


def test_shift_fills_what_comes_in():
    maps = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert shifted(maps, 1, -1, (0, 1), 255).tolist() == [[255, 255, 255], [1, 2, 255], [4, 5, 255]]


def test_crop_cuts_the_same_window_out_of_every_frame_and_the_labels():
    clip = Pattern(Size(20, 30)).clip(0, 2, 1, None)
    config = AugmentConfig(flip=False, shift=0, crop=Size(8, 8))
    frames, (labels,) = augment(clip.frames, clip.labels[-1:], config, np.random.default_rng(3))
    assert frames.shape == (2, 8, 8, 3) and labels.shape == (8, 8)
    assert same_everywhere(frames[1], labels) and same_everywhere(frames[0], labels, 1)


def test_scale_enlarges_what_the_window_shows():
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 1
    config = AugmentConfig(flip=False, shift=0, crop=Size(16, 16), scale_min=2.0, scale_max=2.0)
    for seed in range(20):
        frames, (cut,) = augment(np.stack([labels] * 3, -1)[None] * 100, labels[None], config, np.random.default_rng(seed))
        assert ((frames[0, ..., 0] > 50) == cut).mean() > 0.9  # nearest and bilinear differ beside the border
        changes = np.flatnonzero(np.diff(cut[0].astype(int)))
        assert len(changes) <= 1 and (changes % 2 == 1).all()  # each pixel became two


def test_color_changes_every_frame_alike():
    frames = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8).repeat(2, 0)
    config = AugmentConfig(flip=False, shift=0, color=0.4)
    changed, _ = augment(frames, frames[:1, ..., 0], config, np.random.default_rng(1))
    assert np.array_equal(changed[0], changed[1]) and not np.array_equal(changed, frames)


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"scale_min": 0.0}, {"scale_min": 2.0}, {"scale_max": 2.0}, {"color": 1.0}])
def test_wrong_augmentation_is_refused(wrong):
    with pytest.raises(ConfigError):
        AugmentConfig(**wrong)


# ---- dataset and batches


def test_a_key_gives_the_same_item_whenever_it_is_asked_for():
    dataset = ClipDataset(Pattern(), 2, augmentation=AugmentConfig(), seed=7)
    first = dataset[(1, 3)]
    dataset[(0, 0)]
    again = ClipDataset(Pattern(), 2, augmentation=AugmentConfig(), seed=7)[(1, 3)]
    assert all(torch.equal(first[name], again[name]) for name in first)
    others = [ClipDataset(Pattern(), 2, augmentation=AugmentConfig(), seed=7)[(turn, 3)]["labels"] for turn in range(8)]
    assert any(not torch.equal(other, first["labels"]) for other in others)  # other rounds, other augmentation


def test_items_are_channels_first_and_end_with_the_labelled_frame():
    item = ClipDataset(Pattern(), 3)[2]
    assert item["clip"].shape == (3, 3, 12, 16) and item["clip"].dtype == torch.uint8
    assert torch.equal(item["clip"][-1, 0], item["labels"]) and torch.equal(item["clip"][0, 1], item["labels"] + 200)


def test_stride_is_drawn_from_its_range():
    source = Pattern()
    dataset = ClipDataset(source, 2, stride=2, max_stride=4)
    for turn in range(40):
        dataset[(turn, 0)]
    assert set(source.strides) == {2, 3, 4}


def test_two_processes_make_up_the_batch_of_one():
    whole = list(BatchStream(7, 4, 0, 0, 6))
    shares = [list(BatchStream(7, 4, 0, 0, 6, process, 2)) for process in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(parts[0] + parts[1]) and all(len(part) == 2 for part in parts)


def test_the_stream_of_batches_goes_on_where_it_was_cut():
    assert list(BatchStream(7, 3, 1, 4, 10)) == list(BatchStream(7, 3, 1, 0, 10))[4:]


def test_every_round_holds_every_clip_once_in_an_order_of_its_own():
    keys = [key for batch in BatchStream(6, 4, 0, 0, 6) for key in batch]
    rounds = [[index for turn, index in keys if turn == number] for number in range(4)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_flow_says_where_a_pixel_was():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    before = cv2.GaussianBlur(cv2.resize(noise, (120, 80)), (0, 0), 2)
    after = np.roll(before, (2, 3), (0, 1))
    flow = backward_flow(before, after)
    inner = flow[:, 20:-20, 20:-20]
    assert np.nanmedian(inner[0]) == pytest.approx(-3, abs=0.3) and np.nanmedian(inner[1]) == pytest.approx(-2, abs=0.3)
    assert np.isnan(flow[:, :, 0]).all()  # it came from outside


# ---- street


def test_street_clips_are_frames_of_the_drive_with_their_labels():
    source = StreetSource(Size(32, 64), count=3, seeds=2, first_seed=5)
    clip = source.clip(1, 2, 3, None)
    seed, last = (int(word) for word in source.name(1).split()[1:4:2])
    assert seed == 5
    street = Street(StreetConfig(64, 32, seed=seed))
    for shown, labels, number in zip(clip.frames, clip.labels, (last - 3, last), strict=True):
        frame = street.frame(max(0, number))
        assert np.array_equal(shown, frame.image) and np.array_equal(labels, frame.labels)


def test_cached_street_frames_are_rendered_once(tmp_path, monkeypatch):
    source = StreetSource(Size(32, 64), count=1, cache=tmp_path)
    source.prepare(0, 2, 1)
    rendered = StreetSource(Size(32, 64), count=1).clip(0, 2, 1, None)
    monkeypatch.setattr(street_module, "_render", None)
    again = source.clip(0, 2, 1, None)
    assert np.array_equal(rendered.frames, again.frames) and np.array_equal(rendered.labels, again.labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"degradations": ("snow",)},
        {"degradations": ("fog", "rain9")},
        {"degradations": ("none1",)},
        {"max_level": 9},
        {"max_level": 0},
    ],
)
def test_wrong_street_set_is_refused(wrong):
    with pytest.raises(ConfigError):
        StreetSource(Size(32, 64), **{"count": 1, **wrong})


def test_a_street_degradation_may_name_its_level():
    fixed, drawn = (StreetSource(Size(32, 64), 12, 2, degradations=(kind,)) for kind in ("fog3", "fog"))
    for index in range(12):
        assert fixed._place(index)[0] == replace(drawn._place(index)[0], level=3)
        assert fixed._place(index)[1] == drawn._place(index)[1]
    assert {drawn._place(index)[0].level for index in range(12)} == {1, 2, 3}


def test_street_clips_are_in_the_order_of_the_drives():
    source = StreetSource(Size(32, 64), count=20, seeds=3)
    places = [source.name(index).split() for index in range(20)]
    order = [(int(seed), int(frame)) for _, seed, _, frame, _ in places]
    assert order == sorted(order) and {seed for seed, _ in order} == {0, 1, 2} and len(set(order)) == 20


def test_lost_blocks_are_elsewhere_in_each_frame_and_leave_the_labels():
    frames = np.full((3, 90, 160, 3), 50, np.uint8)
    labels = np.arange(90 * 160, dtype=np.uint8).reshape(90, 160)
    config = AugmentConfig(flip=False, shift=0, lost_blocks=1.0)
    degraded, (kept,) = augment(frames, labels[None], config, np.random.default_rng(0))
    lost = (degraded != 50).any(-1)
    shares = lost.mean((1, 2))
    assert (shares > 0).all() and (shares <= MAX_BLOCKS * 16 * 16 / (90 * 160)).all()
    assert (lost[0] != lost[1]).any() and (lost[1] != lost[2]).any()
    np.testing.assert_array_equal(kept, labels)
    assert (frames == 50).all()


def test_lost_blocks_are_as_large_as_the_frame_has_them_not_the_crop():
    frames, labels = np.full((2, 90, 160, 3), 50, np.uint8), np.zeros((90, 160), np.uint8)
    config = AugmentConfig(flip=False, shift=0, crop=Size(45, 80), lost_blocks=1.0)
    degraded, _ = augment(frames, labels[None], config, np.random.default_rng(0))
    lost = (degraded != 50).any(-1).astype(np.uint8)
    whole = [cv2.morphologyEx(frame, cv2.MORPH_OPEN, np.ones((16, 16), np.uint8)) for frame in lost]  # 64 / 360 of 90 rows
    assert any(frame.any() for frame in whole)


def test_a_probability_of_lost_blocks_above_one_is_refused():
    with pytest.raises(ConfigError, match="lost_blocks is a probability"):
        AugmentConfig(lost_blocks=2.0)
