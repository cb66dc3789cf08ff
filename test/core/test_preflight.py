"""What is looked at before an evaluation: labels that cannot be used are refused, those that look wrong are told at once."""

from __future__ import annotations

import logging
import shutil

import cv2
import numpy as np
import pytest

from lmanet_core.errors import InputError
from lmanet_core.evaluation import preflight
from lmanet_core.evaluation.preflight import check_inputs
from lmanet_core.evaluation.session import CameraInput
from lmanet_core.labels import CITYSCAPES
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.stream.segmenter import VideoSegmenter

#: labelIds by trainId.
IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], np.uint8)


@pytest.fixture(scope="module")
def segmenter(video_weights):
    return VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def own_labels(segmenter, make_scene):
    """What the weights say of a scene (H, W): labels that are right."""
    single = VideoSegmenter(segmenter.runtime)
    return single.step(make_scene(), 1).labels


@pytest.fixture
def check(tmp_path, segmenter, make_scene, caplog):
    """Looks at label images beside five images of one scene; gives what is said."""

    def run(labels, mapping=None, names="{:03d}.png", **options):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        for number in range(5):
            cv2.imwrite(str(tmp_path / f"images/{number:03d}.png"), make_scene()[..., ::-1])
        for number, one in enumerate(labels):
            if one is not None:
                cv2.imwrite(str(tmp_path / "labels" / names.format(number)), one)
        camera = CameraInput("camera", tmp_path / "images", labels=str(tmp_path / "labels"))
        meaning = LabelMapping.identity(CITYSCAPES) if mapping is None else load_mapping(mapping, CITYSCAPES)
        with caplog.at_level(logging.WARNING):
            check_inputs([camera], segmenter, meaning, **options)
        return caplog.text

    return run


def test_right_labels_are_passed_over_in_silence(check, own_labels):
    assert check([own_labels] * 5) == ""


def test_label_ids_that_are_taken_for_train_ids_are_told_with_the_mapping_that_knows_them(check, own_labels):
    said = check([IDS[own_labels]] * 5)
    assert (
        "hold values that the weights' own ids does not know" in said
        and "--mapping cityscapes_ids or kitti or vistas knows them all" in said
        and "they count as void" in said
    )


def test_train_ids_that_are_taken_for_label_ids_are_told_by_what_the_weights_see(check, own_labels):
    said = check([own_labels] * 5, "cityscapes_ids")
    assert "agree on 0.0 % of the pixels" in said and "on 100.0 % with --mapping cityscapes;" in said


def test_labels_that_agree_with_nothing_are_told(check, own_labels):
    said = check([(own_labels + 1) % 19] * 5)
    assert "labels and weights agree on 0.0 % of the pixels" in said and "do these weights know such pictures" in said


def test_labels_that_are_all_void_are_told(check, own_labels):
    assert "no pixel of the first labels is of a class (255)" in check([np.full_like(own_labels, 255)] * 5)


def test_masks_of_0_and_255_are_told_unless_a_mapping_gives_both_a_class(check, own_labels, tmp_path, caplog):
    masks = [np.where(own_labels == own_labels[0, 0], 0, 255).astype(np.uint8)] * 5
    mapping = tmp_path / "masks.yaml"
    mapping.write_text("classes: cityscapes\nids: {0: road, 255: sky}\n")
    assert "hold 0 and 255 alone" not in check(masks, str(mapping))
    caplog.clear()
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "labels")
    assert "the first labels hold 0 and 255 alone, and 255 counts as void by the weights' own ids" in check(masks)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda labels: labels.astype(np.uint16) + 1000, "got values up to 10"),
        (lambda labels: np.full((*labels.shape, 3), (1, 2, 3), np.uint8), "have a colour of no class (#030201)"),
    ],
    ids=["16 bit", "RGB"],
)
def test_labels_that_cannot_be_read_are_refused_with_the_reason(check, own_labels, make, why):
    with pytest.raises(InputError, match="none of the labels can be read") as refused:
        check([make(own_labels)] * 5)
    assert why in str(refused.value)


def test_labels_of_other_names_are_refused_with_the_names_of_both(check, own_labels):
    with pytest.raises(InputError, match=r"none of 5 labels .* images are called 000, 001, …, label images x0\.png, x1\.png"):
        check([own_labels] * 5, names="x{}.png")


def test_max_frames_before_the_first_label_says_so(check, own_labels):
    with pytest.raises(InputError, match=r"none of 1 labels .* to one of the first 2 frames \(--max-frames\)"):
        check([None] * 4 + [own_labels], max_frames=2)


def test_labels_of_another_picture_are_refused(check):
    with pytest.raises(InputError, match="must show the same picture, got 32x32 and 64x32"):
        check([np.zeros((32, 32), np.uint8)] * 5)


def test_frames_are_read_no_farther_than_to_the_first_labels(check, own_labels, monkeypatch):
    read = []
    following = preflight.with_truth
    monkeypatch.setattr(preflight, "with_truth", lambda *given: (read.append(pair) or pair for pair in following(*given)))
    check([own_labels] * 5)
    assert len(read) == 3


def test_labels_are_found_by_what_data_sets_put_behind_their_names(check, own_labels):
    assert check([own_labels] * 5, names="{:03d}_gtFine_labelTrainIds.png") == ""


def test_every_recording_is_opened_before_the_first_is_segmented(segmenter, tmp_path):
    cameras = [CameraInput("front", tmp_path / "none.mp4")]
    with pytest.raises(InputError, match=r"none\.mp4: wanted a video, image, bag or folder, there is no such file"):
        check_inputs(cameras, segmenter, LabelMapping.identity(CITYSCAPES))
