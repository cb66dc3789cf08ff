"""Class names, colours, groups, and what is drawn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmanet_core.errors import ConfigError
from lmanet_core.labels import CAMVID11, CITYSCAPES, UNLABELLED, LabelSet

RED, BLUE = (200, 0, 0), (0, 0, 100)
TWO = LabelSet(("road", "car"), (RED, BLUE), {"drivable": ("road",), "all": ("road", "car")})
LABELS = np.array([[0, 1, UNLABELLED], [1, 7, 0]], np.uint8)  # 7 is no class


def test_colorize_gives_the_exact_palette_colours():
    black = (0, 0, 0)
    assert TWO.colorize(LABELS).tolist() == [[[*c] for c in row] for row in ((RED, BLUE, black), (BLUE, black, RED))]
    assert TWO.colorize(LABELS).dtype == np.uint8


@pytest.mark.parametrize("label_set", [TWO, CITYSCAPES, CAMVID11])
def test_255_is_black(label_set):
    assert label_set.palette.shape == (256, 3)
    assert label_set.palette[UNLABELLED].tolist() == [0, 0, 0]


def test_mask_is_255_in_the_group_and_0_elsewhere():
    assert TWO.mask(LABELS, "drivable").tolist() == [[255, 0, 0], [0, 0, 255]]
    assert TWO.mask(LABELS, "all").tolist() == [[255, 255, 0], [255, 0, 255]]
    assert TWO.mask(LABELS, "all").dtype == np.uint8


def test_unknown_group_names_the_known_ones():
    with pytest.raises(ConfigError, match="no class group sky; known groups: drivable, all"):
        TWO.mask(LABELS, "sky")
    with pytest.raises(ConfigError, match="known groups: none"):
        LabelSet(("road",), (RED,)).mask(LABELS, "sky")


def test_overlay_blends_by_opacity():
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1]], np.uint8)
    assert TWO.overlay(image, labels, 0.25).tolist() == [[[125, 75, 75], [75, 75, 100]]]
    assert np.array_equal(TWO.overlay(image, labels, 0.0), image)
    assert np.array_equal(TWO.overlay(image, labels, 1.0), TWO.colorize(labels))


def test_overlay_keeps_unlabelled_pixels_and_the_image(random_image):
    image = random_image(2, 3)
    before = image.copy()
    drawn = TWO.overlay(image, LABELS)
    assert drawn[0, 2].tolist() == image[0, 2].tolist()
    assert drawn[0, 0].tolist() != image[0, 0].tolist()
    assert np.array_equal(image, before)


def test_overlay_of_another_size_is_refused(random_image):
    with pytest.raises(ValueError, match=r"one size, got \(4, 6\) and \(2, 3\)"):
        TWO.overlay(random_image(4, 6), LABELS)


@pytest.mark.parametrize("label_set", [TWO, CITYSCAPES, CAMVID11, LabelSet(("only",), (RED,))])
def test_dict_and_json_bring_the_label_set_back(label_set):
    assert LabelSet.from_dict(json.loads(json.dumps(label_set.to_dict()))) == label_set


def test_groups_are_optional_in_a_dict():
    assert LabelSet.from_dict({"names": ["road"], "colors": [[1, 2, 3]]}) == LabelSet(("road",), ((1, 2, 3),))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"names": ["road"]},
        {"names": ["road"], "colors": [1, 2, 3]},
        {"names": ["road"], "colors": [[1, 2]]},
        {"names": ["road"], "colors": [["red", "green", "blue"]]},
        {"names": None, "colors": []},
        {"names": "ab", "colors": [[1, 2, 3], [4, 5, 6]]},
        {"names": ["road"], "colors": [[1, 2, 3]], "groups": ["road"]},
        {"names": ["road"], "colors": [[1, 2, 3]], "groups": {"drivable": None}},
        [],
    ],
)
def test_anything_but_a_label_set_is_refused(data):
    with pytest.raises(ConfigError, match="a label set has 'names', 'colors' and optional 'groups', got"):
        LabelSet.from_dict(data)


@pytest.mark.parametrize(
    ("names", "colors", "groups", "message"),
    [
        ((), (), {}, "a label set has 1 to 255 classes, got 0"),
        (tuple(map(str, range(256))), (RED,) * 256, {}, "a label set has 1 to 255 classes, got 256"),
        (("b", "a", "b", "a"), (RED,) * 4, {}, "class names must differ, got a, b more than once"),
        (("road", "car"), (RED,), {}, "wanted one colour for each of 2 classes, got 1"),
        (("road",), ((0, 0, 256),), {}, r"the colour of road must be three numbers of 0–255, got \(0, 0, 256\)"),
        (("road",), ((-1, 0, 0),), {}, "the colour of road must be three numbers of 0–255"),
        (("road",), ((0, 0),), {}, "the colour of road must be three numbers of 0–255"),
        (("road",), (RED,), {"drivable": ("rood",)}, "group drivable names an unknown class rood; did you mean road?"),
        (("road", "car"), (RED, BLUE), {"x": ("sky",)}, "group x names an unknown class sky; classes are road, car"),
    ],
)
def test_wrong_label_set_says_what_is_wrong(names, colors, groups, message):
    with pytest.raises(ConfigError, match=message):
        LabelSet(names, colors, groups)


def test_255_classes_fit():
    names = tuple(map(str, range(255)))
    label_set = LabelSet(names, (RED,) * 255, {"last": ("254",)})
    assert label_set.mask(np.array([[254, 255]], np.uint8), "last").tolist() == [[255, 0]]


@pytest.mark.parametrize(("label_set", "count"), [(CITYSCAPES, 19), (CAMVID11, 11)])
def test_built_in_sets_have_their_classes_in_colours_of_their_own(label_set, count):
    assert len(label_set.names) == len(set(label_set.colors)) == count
    assert (0, 0, 0) not in label_set.colors
    assert set(label_set.groups) == {"drivable", "person", "vehicle"}


def test_ids_of_built_in_sets_are_the_published_ones():
    assert [CITYSCAPES.names.index(name) for name in ("road", "sky", "person", "car", "bicycle")] == [0, 10, 11, 13, 18]
    assert CITYSCAPES.colors[0] == (128, 64, 128) and CITYSCAPES.colors[13] == (0, 0, 142)
    assert [CAMVID11.names.index(name) for name in ("sky", "road", "car")] == [0, 3, 8]
    assert CAMVID11.colors[3] == (128, 64, 128) and CAMVID11.colors[10] == (0, 128, 192)
