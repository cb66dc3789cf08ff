"""Temporal measures against scenes whose motion is known, and counts made by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lmanet_core.metrics import FlowMatcher, Matches, Steadiness, VideoConsistency

HEIGHT, WIDTH, SHIFT = 96, 128, 6


@pytest.fixture(scope="module")
def scene():
    """A smooth random texture, wider than a frame."""
    noise = np.random.default_rng(3).normal(128, 60, (HEIGHT, WIDTH + 64)).astype(np.float32)
    grey = np.clip(cv2.GaussianBlur(noise, (0, 0), 2.5) * 3 - 256, 0, 255).astype(np.uint8)
    return np.dstack([grey] * 3)


def view(scene, left):
    return np.ascontiguousarray(scene[:, left : left + WIDTH])


def identity(height, width, static=True):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    everywhere = np.ones((height, width), bool)
    return Matches(columns, rows, everywhere, everywhere & static)


def test_matcher_finds_a_known_shift(scene):
    matches = FlowMatcher().match(view(scene, 0), view(scene, SHIFT))  # the camera pans right: things move left
    inner = matches.valid[10:-10, 20:-20]
    assert inner.mean() > 0.97
    columns = np.mgrid[:HEIGHT, :WIDTH][1]
    moved = (matches.columns - columns)[10:-10, 20:-20][inner]
    assert abs(float(np.median(moved)) + SHIFT) < 0.1


def test_pixels_that_leave_the_picture_do_not_count(scene):
    matches = FlowMatcher().match(view(scene, 0), view(scene, SHIFT))
    assert not matches.valid[:, : SHIFT - 1].any()


class EvenFlow:
    """As if all moved alike from the first picture to the second, and back again."""

    def __init__(self, right, down):
        self._ways = iter(((right, down), (-right, -down)))

    def calc(self, first, second, flow):
        return np.broadcast_to(np.float32(next(self._ways)), (*first.shape, 2)).copy()


def test_what_arrives_one_pixel_beyond_the_edge_does_not_count():
    grey = np.full((6, 8, 3), 90, np.uint8)
    for right, down, gone in [(1, 0, np.s_[:, -1]), (-1, 0, np.s_[:, 0]), (0, 1, np.s_[-1]), (0, -1, np.s_[0])]:
        valid = np.ones((6, 8), bool)
        valid[gone] = False
        np.testing.assert_array_equal(FlowMatcher(EvenFlow(right, down)).match(grey, grey).valid, valid)


def test_labels_from_outside_the_picture_are_unlabelled():
    matches = identity(1, 3)
    beyond = Matches(matches.columns + 1, matches.rows, matches.valid, matches.static)
    assert beyond.fetch(np.array([[4, 5, 6]], np.uint8)).tolist() == [[5, 6, 255]]


def test_labels_that_move_with_the_scene_are_consistent(scene):
    labels = (scene[..., 0] > 128).astype(np.uint8)
    pair = labels[:, :WIDTH], labels[:, SHIFT : SHIFT + WIDTH]
    matches = FlowMatcher().match(view(scene, 0), view(scene, SHIFT))
    moving, still = Steadiness(2), Steadiness(2)
    moving.update(matches, *pair)
    still.update(matches, pair[0], pair[0])  # labels that stay where they were while the scene moves
    assert moving.consistency() > 0.9
    assert still.consistency() < 0.8


def test_consistency_is_the_mean_iou_of_the_pair():
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    following = np.array([[0, 1, 1, 1]], np.uint8)
    measure = Steadiness(2)
    measure.update(identity(1, 4), labels, following)
    assert measure.consistency() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_consistency_and_agreement_are_over_all_pixels_whose_flow_is_trusted_static_or_not():
    rows, columns = np.mgrid[:1, :6].astype(np.float32)
    valid = np.array([[True, True, True, True, False, False]])
    matches = Matches(columns, rows, valid, valid & np.array([[True, False, False, False, True, True]]))
    measure = Steadiness(2)
    measure.update(matches, np.array([[0, 0, 1, 1, 0, 0]], np.uint8), np.array([[0, 1, 1, 1, 1, 1]], np.uint8))
    assert measure.consistency() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert measure.agreement() == pytest.approx(3 / 4)
    assert measure.flicker() == 0.0  # of the first pixel alone


def test_nothing_is_known_before_the_first_pair():
    measure = Steadiness(2)
    assert np.isnan([measure.consistency(), measure.agreement(), measure.flicker()]).all() and measure.pairs == 0


def test_flicker_counts_static_pixels_that_change_their_label():
    measure = Steadiness(2)
    matches = identity(1, 4, static=np.array([[True, True, True, False]]))
    pair = measure.update(matches, np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 0]], np.uint8))
    assert (measure.changed, measure.static) == (pair.changed, pair.static) == (1, 3)
    assert measure.flicker() == pytest.approx(1 / 3)
    pair = measure.update(matches, *np.zeros((2, 1, 4), np.uint8))
    assert pair.flicker() == 0.0 and measure.flicker() == pytest.approx(1 / 6) and measure.pairs == 2


def test_changed_looks_are_not_static(scene):
    brighter = np.clip(view(scene, 0).astype(int) + 40, 0, 255).astype(np.uint8)
    matches = FlowMatcher().match(view(scene, 0), brighter)
    unsaturated = (view(scene, 0)[..., 0] > 0) & (view(scene, 0)[..., 0] < 215)
    assert (matches.static & unsaturated).sum() < 0.2 * unsaturated.sum()


def test_frames_of_two_sizes_are_refused(scene):
    with pytest.raises(ValueError, match="one size"):
        FlowMatcher().match(view(scene, 0), view(scene, 0)[:-1])


def test_video_consistency_by_hand():
    # Three frames of four pixels, windows of two. Truth is constant on pixels 0–2 then 0–1 and 3; pixel 3 is void at first.
    truth = np.array([[[0, 1, 1, 9]], [[0, 1, 1, 0]], [[0, 1, 0, 0]]], np.uint8)
    prediction = np.array([[[0, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 1]]], np.uint8)
    measure = VideoConsistency(2, num_classes=2)
    for frame in range(3):
        measure.update(prediction[frame], truth[frame])
    # first window: truth constant on 0, 1, 2; prediction there constant on 0, 2. Second: truth on 0, 1, 3; prediction on 0, 1.
    assert measure.value() == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_video_consistency_needs_a_full_window():
    measure = VideoConsistency(3, num_classes=2)
    for _ in range(2):
        measure.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan(measure.value())
    measure.reset()
    measure.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan(measure.value())


def test_video_consistency_window_moves_on():
    measure = VideoConsistency(2, num_classes=2)
    zeros, ones = np.zeros((1, 2), np.uint8), np.ones((1, 2), np.uint8)
    for prediction in (zeros, zeros, ones):
        measure.update(prediction, zeros)
    assert measure.value() == pytest.approx(0.5)  # constant in the first window, changed in the second


def test_video_consistency_begins_anew_with_another_size():
    measure = VideoConsistency(2, num_classes=2)
    small, large = np.zeros((1, 2), np.uint8), np.zeros((2, 4), np.uint8)
    for truth in (small, large, small, small):
        measure.update(np.full_like(truth, truth.shape == small.shape), truth)
    assert measure.value() == 1.0  # of the last two frames, the only window


def test_window_of_one_frame_is_refused():
    with pytest.raises(ValueError, match="2 or more frames, got 1"):
        VideoConsistency(1, num_classes=2)
