"""Measures against counts made by hand and against independent libraries."""

from __future__ import annotations

import itertools
import tempfile

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.evaluation import Measures, PairMatcher
from lmanet_core.evaluation.measures import MVC_FRAMES, near_boundary
from lmanet_core.frame import Discontinuity, FrameResult
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.labels import CAMVID11, CITYSCAPES, LabelSet
from lmanet_core.labels.mapping import LabelMapping, load_mapping

THREE = LabelSet(("a", "b", "c"), ((1, 0, 0), (2, 0, 0), (3, 0, 0)))
EXACT = 1e-6


def result(labels, discontinuity=None):
    labels = np.asarray(labels, np.uint8)
    size = Size(*labels.shape)
    return FrameResult(labels, None, 0, "", discontinuity, 0, True, plan_geometry(size, size))


def clip(frames=12, height=24, width=36, seed=0):
    """Predictions and truth with void in it, for three classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (frames, height // 4, width // 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    truth[1:] = np.where(rng.random(truth[1:].shape) < 0.97, truth[0], truth[1:])
    prediction = np.where(rng.random(truth.shape) < 0.9, truth, rng.integers(0, 3, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    return prediction, truth


def measure(prediction, truth):
    measures = Measures(THREE)
    for labels, ids in zip(prediction, truth, strict=True):
        measures.add(result(labels), ids)
    return measures


def test_accuracy_and_miou_equal_torchmetrics():
    prediction, truth = clip()
    summary = measure(prediction, truth).summary()
    pair = torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()
    miou = MulticlassJaccardIndex(3, ignore_index=255)(*pair)
    per_class = MulticlassJaccardIndex(3, average="none", ignore_index=255)(*pair)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=255)(*pair)
    assert summary["miou"] == pytest.approx(float(miou), abs=EXACT)
    assert summary["accuracy"] == pytest.approx(float(accuracy), abs=EXACT)
    assert list(summary["iou"].values()) == pytest.approx(per_class.tolist(), abs=EXACT)


def test_a_class_that_is_only_predicted_is_named_and_counts_in_one_of_the_means():
    measures = Measures(THREE)
    measures.add(result([[0, 0, 2, 1]]), np.array([[0, 0, 0, 255]], np.uint8))
    summary = measures.summary()
    assert summary["miou"] == pytest.approx(2 / 3) and summary["miou_union"] == pytest.approx(1 / 3)
    assert summary["classes_in_truth"] == 1 and summary["classes_present"] == 2 and summary["only_predicted"] == ["c"]


def test_confusion_equals_scikit_learn():
    prediction, truth = clip(seed=1)
    known = truth != 255
    expected = confusion_matrix(truth[known], prediction[known], labels=[0, 1, 2])
    assert np.array_equal(np.array(measure(prediction, truth).summary()["confusion"])[:, :3], expected)


def test_mvc_equals_a_count_window_by_window():
    prediction, truth = clip(frames=MVC_FRAMES + 5, seed=2)
    shares = []
    for start in range(len(truth) - MVC_FRAMES + 1):
        window = slice(start, start + MVC_FRAMES)
        constant = (np.ptp(truth[window].astype(int), axis=0) == 0) & (truth[start] != 255)
        same = np.ptp(prediction[window].astype(int), axis=0) == 0
        shares.append((constant & same).sum() / constant.sum())
    assert measure(prediction, truth).summary()[f"mvc_{MVC_FRAMES}"] == pytest.approx(np.mean(shares), abs=EXACT)


def test_mvc_wants_labels_on_every_frame():
    prediction, truth = clip(frames=MVC_FRAMES + 1, seed=2)
    measures = Measures(THREE)
    for number, (labels, ids) in enumerate(zip(prediction, truth, strict=True)):
        measures.add(result(labels), None if number == 4 else ids)
    assert measures.summary()[f"mvc_{MVC_FRAMES}"] is None


@pytest.mark.parametrize("cause", ["scene_cut", "gap", "size_change", "manual"])
def test_no_window_of_mvc_reaches_over_another_picture(cause):
    labels = np.zeros((4, 4), np.uint8)
    measures = Measures(THREE)
    for number in range(MVC_FRAMES + 3):
        measures.add(result(labels, Discontinuity(cause) if number == 4 else None), labels)
    assert (measures.summary()[f"mvc_{MVC_FRAMES}"] is not None) is (cause == "manual")
    for _ in range(MVC_FRAMES - 7):
        measures.add(result(labels), labels)
    assert measures.summary()[f"mvc_{MVC_FRAMES}"] == 1.0


def test_labels_may_change_their_size_within_a_window():
    measures = Measures(THREE)
    for number in range(MVC_FRAMES + 2):
        size = (4, 4) if number < 5 else (8, 8)
        measures.add(result(np.zeros(size)), np.zeros(size, np.uint8))
    assert measures.summary()["accuracy"] == 1.0
    assert measures.summary()[f"mvc_{MVC_FRAMES}"] is None


def moving_scene(frames, height=96, width=128):
    noise = np.random.default_rng(3).normal(128, 60, (height, width + 64)).astype(np.float32)
    grey = np.clip(cv2.GaussianBlur(noise, (0, 0), 2.5) * 3 - 256, 0, 255).astype(np.uint8)
    return [np.dstack([grey[:, 3 * index : 3 * index + width]] * 3) for index in range(frames)]


def test_consistency_and_flicker_equal_an_independent_count():
    images = moving_scene(4)
    rng = np.random.default_rng(0)
    maps = [np.where(rng.random(image.shape[:2]) < 0.95, image[..., 0] // 86, 1).astype(np.uint8) for image in images]
    measures, pairs = Measures(THREE), PairMatcher()
    for image, labels in zip(images, maps, strict=True):
        measures.add(result(labels), None, pairs.next(image))
    summary = measures.summary()

    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pairs_before, pairs_after, changed, static = [], [], 0, 0
    for (image, following), (labels, next_labels) in zip(itertools.pairwise(images), itertools.pairwise(maps), strict=True):
        now, then = (np.ascontiguousarray(each[..., 0]) for each in (image, following))
        forth, back = dis.calc(now, then, None), dis.calc(then, now, None)
        for y, x in np.ndindex(now.shape):
            to_x, to_y = np.float32(x) + forth[y, x, 0], np.float32(y) + forth[y, x, 1]
            if not (0 <= to_x <= now.shape[1] - 1 and 0 <= to_y <= now.shape[0] - 1):
                continue
            sample = [
                cv2.remap(plane, np.float32([[to_x]]), np.float32([[to_y]]), cv2.INTER_LINEAR)[0, 0] for plane in (back, then)
            ]
            if np.hypot(*(forth[y, x] + sample[0])) > 1.0:
                continue
            fetched = int(cv2.remap(next_labels, np.float32([[to_x]]), np.float32([[to_y]]), cv2.INTER_NEAREST)[0, 0])
            pairs_before.append(int(labels[y, x]))
            pairs_after.append(fetched)
            if abs(int(sample[1]) - int(now[y, x])) <= 10:
                static += 1
                changed += fetched != labels[y, x]
    matrix = confusion_matrix(pairs_before, pairs_after, labels=[0, 1, 2])
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert summary["tc"] == pytest.approx(iou.mean(), abs=EXACT)
    assert summary["flicker"] == pytest.approx(changed / static, abs=EXACT)
    assert summary["agreement"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=EXACT)


@pytest.mark.parametrize("cause", Discontinuity)
def test_pairs_across_another_picture_do_not_count_but_those_over_a_reset_from_outside_do(cause):
    images = moving_scene(3)
    labels = np.zeros(images[0].shape[:2])
    measures, pairs = Measures(THREE), PairMatcher()
    for number, image in enumerate(images):
        measures.add(result(labels, cause if number == 1 else None), None, pairs.next(image))
    same_picture = cause in (Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP)
    assert measures.summary()["pairs"] == (2 if same_picture else 1)


def test_boundary_counts_only_pixels_near_a_border_of_the_truth():
    truth = np.zeros((5, 9), np.uint8)
    truth[:, 4:] = 1
    assert np.flatnonzero(near_boundary(truth, 1)[2]).tolist() == [3, 4]
    assert np.flatnonzero(near_boundary(truth, 2)[2]).tolist() == [2, 3, 4, 5]
    far_off = truth.copy()
    far_off[:, 0] = 1  # wrong, but far from the border
    measures = Measures(THREE)
    measures.add(result(far_off), truth)
    summary = measures.summary()
    assert summary["boundary_px"] == 1
    assert summary["boundary_miou"] == 1.0
    assert summary["miou"] < 1.0


@pytest.mark.parametrize(("away", "counts"), [(14, True), (15, False)])
def test_the_band_at_a_border_is_three_quarters_of_a_percent_of_the_diagonal_wide(away, counts):
    truth = np.zeros((1200, 1600), np.uint8)  # a diagonal of 2000 pixels: 15 on either side
    truth[:, 800:] = 1
    labels = truth.copy()
    labels[:, 800 + away] = 0
    measures = Measures(THREE)
    measures.add(result(labels), truth)
    summary = measures.summary()
    assert summary["boundary_px"] == 15 and measures.boundary.counts.sum() == 2 * 15 * 1200
    assert (summary["boundary_miou"] < 1.0) is counts


def test_accuracy_is_told_by_frames_since_the_reset():
    measures = Measures(THREE)
    right, wrong = np.zeros((4, 4)), np.ones((4, 4))
    for labels, cause in ((wrong, Discontinuity.FIRST_FRAME), (right, None), (wrong, Discontinuity.GAP), (right, None)):
        measures.add(result(labels, cause), right.astype(np.uint8))
    groups = {entry["from"]: entry["accuracy"] for entry in measures.summary()["since_reset"]}
    assert groups[0] == 0.0
    assert groups[1] == 1.0
    assert groups[2] is None


def test_two_streams_count_together_and_nothing_across():
    prediction, truth = clip(frames=10)
    whole = measure(prediction, truth).summary()
    total = Measures(THREE)
    for part in (slice(0, 4), slice(4, 10)):
        total.absorb(measure(prediction[part], truth[part]))
    together = total.summary()
    assert together["confusion"] == whole["confusion"]
    assert together["boundary_miou"] == whole["boundary_miou"]
    assert whole["mvc_8"] is not None
    assert together["mvc_8"] is None  # neither part holds a window of 8


def test_labels_of_another_size_and_the_same_aspect_are_compared_at_their_own_size():
    truth = np.arange(3, dtype=np.uint8).repeat(4)[None].repeat(6, 0)  # (6, 12)
    measures = Measures(THREE)
    measures.add(result(truth[::2, ::2]), truth)
    assert measures.summary()["accuracy"] == 1.0
    assert np.sum(measures.summary()["confusion"]) == truth.size


def test_labels_of_another_aspect_are_refused():
    with pytest.raises(InputError, match="same picture, got 12x6 and 12x12"):
        Measures(THREE).add(result(np.zeros((12, 12))), np.zeros((6, 12), np.uint8))


def test_unknown_label_values_are_void_and_counted():
    measures = Measures(THREE)
    measures.add(result(np.zeros((2, 2))), np.array([[0, 0], [9, 255]], np.uint8))
    assert dict(measures.unknown_values) == {9: 1}
    assert measures.summary()["accuracy"] == 1.0


def test_truth_and_prediction_meet_in_the_classes_of_the_mapping():
    own = LabelSet(("grass", "street", "other"), ((1, 0, 0), (2, 0, 0), (3, 0, 0)))
    measures = Measures(own, mapping_of("classes: [road, green]\ntruth: {7: road, 3: green}\nignore: [5]\n"
                                        "prediction: {grass: green, street: road, other: null}", own))  # fmt: skip
    measures.add(result([[1, 0, 2, 0]]), np.array([[7, 3, 7, 5]], np.uint8))
    assert measures.summary()["accuracy"] == pytest.approx(2 / 3)  # "other" is a miss, the last pixel void
    assert measures.summary()["confusion"] == [[1, 0, 1], [0, 1, 0]]
    assert not measures.unknown_values


def test_what_is_predicted_as_void_is_not_judged_and_its_share_is_told():
    own = LabelSet(("grass", "street", "train"), ((1, 0, 0), (2, 0, 0), (3, 0, 0)))
    mapping = mapping_of("classes: [road, green]\nignore: [5]\nprediction: {grass: green, street: road, train: void}", own)
    measures, judged = Measures(own, mapping), Measures(own, mapping)
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4:], truth[7] = 1, 5
    labels = np.where(truth == 0, 1, 0)
    labels[0, :4], labels[3, 5] = 0, 1  # four misses in the first row and one beside them
    expected = result(labels)
    measures.add(expected, truth)
    assert measures.summary()["unjudged"] == 0.0
    degraded = labels.copy()
    degraded[5, 2:6] = degraded[7] = 2  # across the border; the last row is void anyway
    judged.add(result(degraded), truth)
    summary = judged.summary()
    assert summary["unjudged"] == pytest.approx(4 / 56)
    assert summary["accuracy"] == pytest.approx(1 - 5 / 52)
    assert summary["confusion"] == [[22, 4, 0], [1, 25, 0]]
    # Predictions move no border of the truth: all that is missing are the pixels left out.
    assert measures.boundary.counts.sum() - judged.boundary.counts.sum() == 2
    total = Measures(own, mapping)
    total.absorb(judged)
    total.absorb(measures)
    assert total.summary()["unjudged"] == pytest.approx(4 / 112)
    assert Measures(own).summary()["unjudged"] is None  # nothing leads to void


def test_a_class_may_be_named_void():
    own = LabelSet(("a", "b"), ((1, 0, 0), (2, 0, 0)))
    mapping = mapping_of("classes: [a, void]\nprediction: {b: void}", own)
    assert mapping.prediction_table[:2].tolist() == [0, 1] and mapping.void_predictions == ()


def mapping_of(text, labels):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_mapping(file.name, labels)


def test_large_label_maps_are_compared_at_a_bounded_size(make_scene):
    pairs = PairMatcher()
    image = make_scene(0, 960, 1280)
    assert pairs.next(image) is None
    assert pairs.next(image).valid.shape == (480, 640)
    assert pairs.next(image[:90, :120]) is None  # another size
    assert pairs.next(image[:90, :120]).valid.shape == (90, 120)


def test_borders_that_move_with_the_picture_do_not_flicker():
    """Labels that are exactly those of the scene, thin and at twice the size that flow is computed at."""
    images = moving_scene(4, 360, 640)
    measures, pairs = Measures(THREE), PairMatcher()
    for image in images:
        measures.add(result(image[..., 0] // 86), matches=pairs.next(image))
    assert measures.summary()["flicker"] < 0.01
    assert measures.summary()["tc"] > 0.95


def test_nothing_measured_is_none():
    summary = Measures(THREE).summary()
    assert summary["miou"] is summary["tc"] is summary["flicker"] is summary["agreement"] is None


# ---- mappings --------------------------------------------------------------------------------------------------------------


def test_shipped_camvid_mapping_leads_from_cityscapes_to_camvid():
    mapping = load_mapping("camvid11", CITYSCAPES)
    lead = {name: int(mapping.prediction_table[index]) for index, name in enumerate(CITYSCAPES.names)}
    assert lead["sidewalk"] == CAMVID11.names.index("pavement")
    assert lead["road"] == CAMVID11.names.index("road")
    assert lead["train"] == 255 and mapping.void_predictions == (CITYSCAPES.names.index("train"),)
    assert mapping.map_truth(np.array([[3, 11, 255]], np.uint8)).tolist() == [[3, 255, 255]]
    assert mapping.known[11] and not mapping.known[12]


def test_shipped_camvid_mapping_takes_camvid_weights_too():
    assert load_mapping("camvid11", CAMVID11).prediction_table[:11].tolist() == list(range(11))


def test_a_line_of_a_mapping_counts_also_where_the_class_has_its_name():
    mapping = mapping_of("classes: [a, b, c]\nprediction: {a: b, c: null}", THREE)
    assert mapping.prediction_table[:3].tolist() == [1, 1, 255]
    mapping = mapping_of("classes: [a, b, c]\nprediction: {b: void}", THREE)
    assert mapping.prediction_table[:3].tolist() == [0, 255, 2] and mapping.void_predictions == (1,)


def test_cityscapes_ids_become_train_ids():
    mapping = load_mapping("cityscapes_ids", CITYSCAPES)
    assert mapping.map_truth(np.array([[7, 33, 4, 255]], np.uint8)).tolist() == [[0, 18, 255, 255]]
    assert int(mapping.known.sum()) == 35


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "classes: camvid12",
            "classes must be cityscapes, camvid11, ade20k, mapillary, a list of names, or .*, got 'camvid12'",
        ),
        ("class: camvid11", "unknown key 'class'; did you mean classes?"),
        ("classes: [a, b]", "class 'road' of the weights leads nowhere"),
        ("classes: cityscapes\ntruth: {7: rode}", "no class 'rode'; did you mean road?"),
        ("classes: cityscapes\ntruth: {7: road}\nignore: [7]", r"id 7 is a class \(road\) and void at once"),
        ("classes: cityscapes\ntruth: {700: road}", "ids of label images are 0–255, .*, got 700"),
        ("[1, 2]", "wanted 'key: value' lines, got list"),
        ("a: [", "cannot read"),
    ],
)
def test_bad_mapping_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "mapping.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_mapping(str(file), CITYSCAPES)


def test_own_classes_need_no_colours(tmp_path):
    file = tmp_path / "mapping.yaml"
    file.write_text("classes: [free, rest]\ntruth: {0: free, 1: rest}\nprediction: {a: free, b: rest, c: null}")
    mapping = load_mapping(str(file), THREE)
    assert mapping.prediction_table[:3].tolist() == [0, 1, 255]
    assert len(set(mapping.classes.colors)) == 2


def test_identity_takes_the_weights_ids():
    mapping = LabelMapping.identity(THREE)
    assert mapping.map_truth(np.array([[0, 2, 3]], np.uint8)).tolist() == [[0, 2, 255]]
