"""Accuracy, IoU and the training loss, against counts and sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.training.losses import cross_entropy_sums

VOID = 255


def matrix(truth, prediction, num_classes=3):
    result = ConfusionMatrix(num_classes)
    result.update(np.array(prediction, np.uint8), np.array(truth, np.uint8))
    return result


def test_iou_and_accuracy_by_hand():
    counted = matrix(truth=[[0, 0, 0, 1], [1, 1, 2, 2]], prediction=[[0, 0, 1, 1], [1, 2, 2, 0]])
    assert counted.counts[:, :3].tolist() == [[2, 1, 0], [0, 2, 1], [1, 0, 1]]
    assert counted.iou().tolist() == [2 / 4, 2 / 4, 1 / 3]
    assert counted.mean_iou() == pytest.approx((2 / 4 + 2 / 4 + 1 / 3) / 3)
    assert counted.accuracy() == 5 / 8
    assert counted.classes_present() == 3


@pytest.mark.parametrize("void", [3, 100, 255])
def test_void_truth_does_not_count(void):
    with_void = matrix(truth=[[0, 1, void, void]], prediction=[[0, 0, 0, 2]])
    assert with_void.counts.tolist() == matrix(truth=[[0, 1]], prediction=[[0, 0]]).counts.tolist()
    assert with_void.classes_present() == 2  # class 2 is predicted on void only


@pytest.mark.parametrize("outside", [3, 19, 255])
def test_prediction_outside_the_classes_is_a_miss(outside):
    counted = matrix(truth=[[0, 0, 1, 1]], prediction=[[0, outside, 1, 1]])
    assert counted.iou()[:2].tolist() == [1 / 2, 1.0]
    assert counted.accuracy() == 3 / 4


def test_absent_class_is_nan_and_left_out_of_the_mean():
    counted = matrix(truth=[[0, 0]], prediction=[[0, 2]])
    assert counted.iou().tolist() == [1 / 2, pytest.approx(math.nan, nan_ok=True), 0.0]
    assert counted.classes_present() == 2
    assert counted.mean_iou() == 1 / 4
    assert counted.mean_iou_of_truth() == 1 / 2  # class 2 is only predicted
    assert counted.in_truth().tolist() == [True, False, False]
    assert counted.only_predicted().tolist() == [False, False, True]


def test_classes_below_a_share_of_the_pixels_are_left_out():
    counted = matrix(truth=[[0] * 6 + [1] * 2], prediction=[[0] * 5 + [2] + [1] * 2])
    assert counted.mean_iou_above(0.2) == pytest.approx((5 / 6 + 1) / 2)
    assert counted.mean_iou_above(0.125) == counted.mean_iou() == pytest.approx((5 / 6 + 1 + 0) / 3)
    assert math.isnan(counted.mean_iou_above(0.9)) and math.isnan(matrix(truth=[[VOID]], prediction=[[0]]).mean_iou_above(0.0))


def test_nothing_counted_is_nan_without_a_warning(recwarn):
    empty = matrix(truth=[[VOID]], prediction=[[0]])
    assert math.isnan(empty.accuracy())
    assert math.isnan(empty.mean_iou()) and math.isnan(empty.mean_iou_of_truth())
    assert empty.classes_present() == 0
    assert not recwarn.list


def test_several_maps_are_counted_as_one_set():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (2, 4, 6, 7), np.uint8)
    together = ConfusionMatrix(3)
    for one_prediction, one_truth in zip(prediction, truth, strict=True):
        together.update(one_prediction, one_truth)
    whole = matrix(truth.reshape(4, -1), prediction.reshape(4, -1))
    assert together.counts.tolist() == whole.counts.tolist()


@pytest.mark.parametrize("num_classes", [1, 2, 19, 255])
def test_counts_equal_those_pixel_by_pixel(num_classes):
    rng = np.random.default_rng(num_classes)
    truth, prediction = rng.integers(0, min(256, num_classes + 3), (2, 20, 30)).astype(np.uint8)
    counted = matrix(truth, prediction, num_classes)
    expected = np.zeros((num_classes, num_classes + 1), np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t < num_classes:
            expected[t, p if p < num_classes else num_classes] += 1
    assert counted.counts.tolist() == expected.tolist()
    for c in range(num_classes):
        known = truth < num_classes
        either = ((truth == c) | (prediction == c)) & known
        both = (truth == c) & (prediction == c)
        assert counted.iou()[c] == pytest.approx(both.sum() / either.sum() if either.any() else math.nan, nan_ok=True)


def test_maps_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r"one size, got \(2, 3\) and \(3, 2\)"):
        ConfusionMatrix(3).update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize("num_classes", [0, 256])
def test_number_of_classes_must_fit_a_label_map(num_classes):
    with pytest.raises(ValueError, match=f"1 to 255 classes, got {num_classes}"):
        ConfusionMatrix(num_classes)


# ---- loss


def test_loss_by_hand():
    # probabilities of the right class ¾ (weight 2), ½ (weight 3), and one void pixel
    logits = torch.tensor([[[math.log(3), 0.0, 9.0]], [[0.0, 0.0, -9.0]]])[None]  # (1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, VOID]]])
    expected = (2 * math.log(4 / 3) + 3 * math.log(2)) / (2 + 3)
    total, weight = cross_entropy_sums(logits, labels, torch.tensor([2.0, 3.0]))
    assert weight == 5.0 and float(total / weight) == pytest.approx(expected)


def test_loss_equals_its_formula_and_void_has_no_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 3, 5), generator=generator)
    labels[labels == 3] = VOID
    weights = [1.0, 2.5, 0.5, 7.0]
    loss, divisor = cross_entropy_sums(logits, labels, torch.tensor(weights, dtype=torch.float64))
    total = weight = 0.0
    for b, y, x in np.ndindex(2, 3, 5):
        label = labels[b, y, x].item()
        if label != VOID:
            scores = logits[b, :, y, x].tolist()
            total += weights[label] * (math.log(sum(map(math.exp, scores))) - scores[label])
            weight += weights[label]
    assert loss.item() == pytest.approx(total) and divisor.item() == pytest.approx(weight)
    loss.backward()
    void = (labels == VOID)[:, None].expand_as(logits)
    assert void.any() and (logits.grad[void] == 0).all() and (logits.grad[~void] != 0).all()
