"""Class names, colours, groups, and what is drawn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmanet_core.errors import ConfigError
from lmanet_core.labels import CAMVID11, CITYSCAPES, UNLABELLED, LabelSet, list_label_sets, read_label_set
from lmanet_core.labels.groups import USUAL_GROUPS

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
    assert set(label_set.groups) == set(USUAL_GROUPS)


def test_ids_of_built_in_sets_are_the_published_ones():
    assert [CITYSCAPES.names.index(name) for name in ("road", "sky", "person", "car", "bicycle")] == [0, 10, 11, 13, 18]
    assert CITYSCAPES.colors[0] == (128, 64, 128) and CITYSCAPES.colors[13] == (0, 0, 142)
    assert [CAMVID11.names.index(name) for name in ("sky", "road", "car")] == [0, 3, 8]
    assert CAMVID11.colors[3] == (128, 64, 128) and CAMVID11.colors[10] == (0, 128, 192)


# ---- label sets by name and as files


@pytest.mark.parametrize(("name", "count"), [("cityscapes", 19), ("camvid11", 11), ("ade20k", 150), ("mapillary", 65)])
def test_every_set_that_ships_has_all_the_usual_groups(name, count):
    label_set = read_label_set(name)
    assert name in list_label_sets() and len(label_set.names) == count
    assert set(label_set.groups) == set(USUAL_GROUPS) == {"drivable", "walkable", "person", "vehicle", "vegetation", "sky"}


def test_every_class_of_a_usual_group_is_one_of_a_set_that_ships():
    known = {name.lower() for one in list_label_sets() for name in read_label_set(one).names}
    assert {member for members in USUAL_GROUPS.values() for member in members} <= known


def test_ids_of_the_sets_in_files_are_the_published_ones():
    ade, mapillary = read_label_set("ade20k"), read_label_set("mapillary")
    assert [ade.names.index(name) for name in ("wall", "floor", "person", "traffic light", "flag")] == [0, 3, 12, 136, 149]
    assert ade.colors[0] == (120, 120, 120) and ade.colors[149] == (92, 0, 255)
    assert [mapillary.names.index(name) for name in ("Bird", "Road", "Sky", "Ego Vehicle")] == [0, 13, 27, 64]
    assert ade.groups["drivable"] == ("floor", "road", "rug", "path", "runway", "dirt track")
    assert mapillary.groups["person"] == ("Person", "Bicyclist", "Motorcyclist", "Other Rider")


@pytest.fixture
def label_file(tmp_path):
    def write(text):
        (tmp_path / "own.yaml").write_text(text)
        return tmp_path / "own.yaml"

    return write


def test_file_of_names_alone_gets_colours_and_the_groups_of_known_names(label_file):
    label_set = read_label_set(label_file("names: [floor, shelf, Person]"))
    assert label_set.names == ("floor", "shelf", "Person") and len(set(label_set.colors)) == 3
    assert label_set.groups == {"drivable": ("floor",), "walkable": ("floor",), "person": ("Person",)}


def test_file_may_give_some_colours_by_name_and_groups_of_its_own(label_file):
    label_set = read_label_set(label_file("names: camvid11\ncolors: {sky: [1, 2, 3]}\ngroups: {up: [sky]}\nids: {21: sky}"))
    assert label_set == LabelSet(CAMVID11.names, ((1, 2, 3), *CAMVID11.colors[1:]), {"up": ("sky",)})
    assert read_label_set(label_file("names: [a, b]\ncolors: [[1, 2, 3], [4, 5, 6]]\ngroups: {}")) == LabelSet(
        ("a", "b"), ((1, 2, 3), (4, 5, 6))
    )


def test_file_of_colours_alone_is_a_palette_for_the_classes_there_are(label_file):
    own = LabelSet(("a", "b"), ((1, 1, 1), (2, 2, 2)), {"up": ("b",)})
    assert read_label_set(label_file("colors: {b: [9, 9, 9]}"), own) == LabelSet(own.names, ((1, 1, 1), (9, 9, 9)), own.groups)
    assert read_label_set(label_file("colors: [[7, 7, 7], [8, 8, 8]]"), own).colors == ((7, 7, 7), (8, 8, 8))
    assert read_label_set(label_file("names: [c]\ncolors: [[7, 7, 7]]"), own) == LabelSet(("c",), ((7, 7, 7),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [road]", r"own\.yaml: unknown option 'name'; did you mean names\?"),
        ("colors: []", r"own\.yaml: names must be a list in the order of the ids, or one of cityscapes, camvid11, "),
        ("names: [a, a]", r"own\.yaml: class names must differ"),
        ("names: [a]\ncolors: {b: [1, 2, 3]}", r"own\.yaml: colors names an unknown class 'b'; classes are a"),
        ("names: [a]\ncolors: [[1, 2]]", r"own\.yaml: a label set has"),
        ("names: [road]\ngroups: {x: [rood]}", r"own\.yaml: group x names an unknown class rood; did you mean road"),
        ("names: citiscapes", r"own\.yaml: a label set is cityscapes, .*, got 'citiscapes'; did you mean cityscapes\?"),
        ("[a, b]", r"own\.yaml: wanted 'option: value' lines"),
    ],
)
def test_file_that_is_no_label_set_says_what_is_wrong(text, message, label_file):
    with pytest.raises(ConfigError, match=message):
        read_label_set(label_file(text))


def test_name_that_is_neither_a_set_nor_a_file_names_the_sets():
    with pytest.raises(ConfigError, match=r"a label set is cityscapes, camvid11, ade20k, mapillary or a YAML file, .* no such"):
        read_label_set("none/such.yaml")
