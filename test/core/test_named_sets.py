"""Data sets by name, and exports of labelling tools: small trees of their shape, each pixel led to its class."""

from __future__ import annotations

import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from lmanet_core.data import StillsSource
from lmanet_core.data.named_sets import NAMED_SETS, NamedSet, find_pairs
from lmanet_core.errors import InputError
from lmanet_core.experiments.clip_sets import make_conditions
from lmanet_core.experiments.sets import evaluate_sets, evaluation_config
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.labels.mapping import list_mappings, load_mapping
from lmanet_core.training.config import TrainConfig

SIZE = Size(8, 16)


def put(root, name, value):
    """An image file: grey of a value, or a colour (R, G, B), or two values side by side."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*SIZE, 3) if isinstance(value, tuple) else SIZE, np.uint8)
    if isinstance(value, list):
        pixels[:, :8], pixels[:, 8:] = value
    else:
        pixels[:] = value[::-1] if isinstance(value, tuple) else value
    assert cv2.imwrite(str(path), pixels)


#: Name → split → (image, label image, what it holds, class).
TREES = {
    "kitti": {
        "train": ("training/image_2/000001_10.png", "training/semantic/000001_10.png", 26, "car"),
        "val": ("training/image_2/000000_10.png", "training/semantic/000000_10.png", 7, "road"),
    },
    "bdd100k": {
        "train": ("images/10k/train/0a-1.jpg", "labels/sem_seg/masks/train/0a-1.png", 13, "car"),
        "val": ("seg/images/val/0b-2.jpg", "seg/labels/val/0b-2_train_id.png", 0, "road"),
    },
    "idd": {
        "train": ("leftImg8bit/train/0/1_leftImg8bit.png", "gtFine/train/0/1_gtFine_labelcsTrainIds.png", 13, "car"),
        "val": ("leftImg8bit/val/201/2_leftImg8bit.jpg", "gtFine/val/201/2_gtFine_labelcsTrainIds.png", 0, "road"),
    },
    "vistas": {
        "train": ("training/images/a_b.jpg", "training/v1.2/labels/a_b.png", 55, "car"),
        "val": ("validation/images/c.jpg", "validation/labels/c.png", 24, "road"),
    },
    "a2d2": {
        "train": (
            "20180807/camera/cam_front_center/20180807_camera_frontcenter_000000091.png",
            "20180807/label/cam_front_center/20180807_label_frontcenter_000000091.png", (0x96, 0, 0), "car",
        ),
        "val": (
            "20180807/camera/cam_front_center/20180807_camera_frontcenter_000000090.png",
            "20180807/label/cam_front_center/20180807_label_frontcenter_000000090.png", (255, 0, 255), "road",
        ),
    },
    "rugd": {
        "train": ("RUGD_frames-with-annotations/trail-3/a.png", "RUGD_annotations/trail-3/a.png", (0, 102, 0), "grass"),
        "val": ("RUGD_frames-with-annotations/park-8/b.png", "RUGD_annotations/park-8/b.png", (101, 101, 11), "concrete"),
    },
    "rellis3d": {
        "train": ("00000/pylon_camera_node/f1-2.jpg", "00000/pylon_camera_node_label_id/f1-2.png", 3, "grass"),
        "val": ("00000/pylon_camera_node/f3-4.jpg", "00000/pylon_camera_node_label_id/f3-4.png", 34, "rubble"),
    },
    "vspw": {
        "train": ("data/1_a/origin/00000001.jpg", "data/1_a/mask/00000001.png", 1, "wall"),
        "val": ("data/2_b/origin/00000001.jpg", "data/2_b/mask/00000001.png", 124, "train"),
    },
}  # fmt: skip
LISTS = {
    "rellis3d": {
        "train.lst": "00000/pylon_camera_node/f1-2.jpg 00000/pylon_camera_node_label_id/f1-2.png\n",
        "val.lst": "00000/pylon_camera_node/f3-4.jpg 00000/pylon_camera_node_label_id/f3-4.png\n",
    },
    "vspw": {"train.txt": "1_a\n", "val.txt": "2_b\n"},
}


def put_palette(root, name, ids):
    """A label image with a palette, as Mapillary's are: the pixels are ids, colours stand in the file beside them."""
    palette = b"".join(bytes((index, 255 - index, 7)) for index in range(66))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.zeros(SIZE, np.uint8)
    pixels[:, :8], pixels[:, 8:] = ids
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", SIZE.width, SIZE.height, 8, 3, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


#: As they are published: name → image and label image; a value in label images and its class, by turns.
PUBLISHED = {
    "rugd": [
        ("RUGD_frames-with-annotations/park-8/park-8_00001.png", "RUGD_annotations/park-8/park-8_00001.png"),
        [(0, 0, 0), "void", (255, 0, 127), "container", (102, 102, 0), "rock bed", (114, 85, 47), "picnic table",
         (101, 101, 11), "concrete", (64, 64, 64), "asphalt", (108, 64, 20), "dirt", (153, 76, 0), "mulch"],
    ],
    "rellis3d": [
        ("00004/pylon_camera_node/frame000000-1581791678_408.jpg",
         "00004/pylon_camera_node_label_id/frame000000-1581791678_408.png"),
        [0, "void", 1, "dirt", 3, "grass", 27, "barrier", 29, "grass", 30, "grass", 31, "puddle", 32, "water", 34, "rubble"],
    ],
    "vspw": [
        ("data/1001_5z_ijQjUf_0/origin/00000249.jpg", "data/1001_5z_ijQjUf_0/mask/00000249.png"),
        [0, "void", 255, "void", 254, "void", 1, "wall", 61, "person",
         76, "cupboard or showcase or storage rack", 124, "train"],
    ],
    "idd": [
        ("leftImg8bit/val/119/000000_leftImg8bit.png", "gtFine/val/119/000000_gtFine_labelcsTrainIds.png"),
        [0, "road", 9, "terrain", 12, "rider", 17, "motorcycle", 255, "void"],
    ],
    "vistas": [
        ("validation/images/-0C1J9CvgFP4BTVLXNeNZA.jpg", "validation/v1.2/labels/-0C1J9CvgFP4BTVLXNeNZA.png"),
        [0, "void", 13, "road", 17, "building", 20, "rider", 30, "vegetation", 57, "motorcycle", 61, "truck", 64, "void",
         65, "void"],
    ],
}  # fmt: skip
PUBLISHED_LISTS = {
    "rellis3d": {
        "val.lst": "00004/pylon_camera_node/frame000000-1581791678_408.jpg "
        "00004/pylon_camera_node_label_id/frame000000-1581791678_408.png\n"
    },
    "vspw": {"val.txt": "1001_5z_ijQjUf_0\n"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tree_as_it_is_published_is_read_value_for_value(name, tmp_path):
    (image, labels), values = PUBLISHED[name]
    put(tmp_path, image, 100)
    for file, lines in PUBLISHED_LISTS.get(name, {}).items():
        (tmp_path / file).write_text(lines)
    read = {}
    for value in values[::2]:
        if name == "vistas":
            put_palette(tmp_path, labels, [value, value])
        else:
            put(tmp_path, labels, value)
        source = NamedSet(name, tmp_path, "val", SIZE, None)
        assert list(source.problems(1, 1, deep=True)) == []
        (number,) = np.unique(source.label_map(0))
        read[value] = "void" if number == 255 else source.labels.names[number]
    assert read == dict(zip(values[::2], values[1::2], strict=True))


@pytest.mark.parametrize(("name", "wanted"), [("idd", "--id-type csTrainId"), ("vistas", "labels of version 1.2")])
def test_a_set_without_one_label_image_says_where_they_come_from(name, wanted, tmp_path):
    images = [TREES[name][split][0] for split in ("train", "val")]
    for image in images:
        put(tmp_path, image, 100)
    first, second = NamedSet(name, tmp_path, "val", SIZE, None).problems(1, 1, deep=False)
    assert first.startswith("no label images: ") and wanted in first and second.startswith(f"missing: {tmp_path}")
    put(tmp_path, TREES[name]["val"][1], 0)
    assert list(NamedSet(name, tmp_path, "val", SIZE, None).problems(1, 1, deep=False)) == []


def test_a_set_with_files_missing_is_refused_before_it_is_scored(tmp_path, single_frame_weights):
    for number in range(3):
        put(tmp_path, f"training/image_2/{number:06d}_10.png", 100)
    config = evaluation_config("kitti", root=str(tmp_path), size="64x32")
    with pytest.raises(InputError, match=r"the data is not complete: missing: .*000000_10\.png .*--check"):
        evaluate_sets([str(single_frame_weights)], config, ["none"])


@pytest.fixture(params=NAMED_SETS)
def tree(request, tmp_path):
    for image, labels, value, _ in TREES[request.param].values():
        put(tmp_path, image, 100)
        put(tmp_path, labels, value)
        mac = (tmp_path / image).with_name(f"._{(tmp_path / image).name}")  # as macOS leaves them
        mac.write_bytes(b"no image")
    for name, lines in LISTS.get(request.param, {}).items():
        (tmp_path / name).write_text(lines)
    return request.param, tmp_path


def test_every_split_of_a_set_has_its_own_images_and_their_classes(tree):
    name, root = tree
    for split, (image, _, _, wanted) in TREES[name].items():
        source = NamedSet(name, root, split, SIZE, None)
        assert [path.relative_to(root).as_posix() for path in source._images] == [image]
        assert list(source.problems(1, 1, deep=True)) == []
        labels = source.clip(0, 1, 1, np.random.default_rng(0)).labels
        assert {source.labels.names[number] for number in np.unique(labels)} == {wanted}


def test_a_set_trains_and_is_evaluated_by_its_name(tree):
    name, root = tree
    assert TrainConfig(data=name, root=str(root), stage="backbone").data == name
    (condition,) = make_conditions(evaluation_config(name, root=str(root), size="16x8"), ["none"])
    assert len(condition.source) == 1


def test_a_missing_label_image_is_named(tree):
    name, root = tree
    (root / TREES[name]["val"][1]).unlink()
    *_, problem = NamedSet(name, root, "val", SIZE, None).problems(1, 1, deep=False)
    assert problem.startswith(f"missing: {root}") and TREES[name]["val"][1].rpartition("/")[2][:4] in problem


def test_a_folder_of_something_else_says_what_was_wanted(tree, tmp_path):
    name, _ = tree
    with pytest.raises(InputError, match=rf"{name}, val: no images in .*nothing; wanted "):
        NamedSet(name, tmp_path / "nothing", "val", SIZE, None)


def test_a_missing_list_is_named(tmp_path):
    put(tmp_path, TREES["vspw"]["val"][0], 1)
    with pytest.raises(InputError, match=r"cannot read .*val\.txt, which says what belongs to this split"):
        NamedSet("vspw", tmp_path, "val", SIZE, None)


def test_each_fifth_image_is_held_back(tmp_path):
    for number in range(12):
        put(tmp_path, f"i/{number:02d}.png", 0)
    layout = {"images": "i/*.png", "labels": "l/*.png"}
    held = [image.stem for image, _ in find_pairs(tmp_path, {**layout, "every": 5})]
    kept = [image.stem for image, _ in find_pairs(tmp_path, {**layout, "not_every": 5})]
    assert held == ["00", "05", "10"] and sorted(held + kept) == [f"{number:02d}" for number in range(12)]


def test_sets_with_cityscapes_classes_are_mappings_for_its_weights():
    assert set(NAMED_SETS) < set(list_mappings())
    for name in ("a2d2", "bdd100k", "idd", "kitti", "vistas"):
        assert load_mapping(name, CITYSCAPES).classes == CITYSCAPES


def test_cityscapes_with_the_val_split_alone_is_evaluated(tmp_path):
    put(tmp_path, "leftImg8bit/val/aachen/aachen_000000_000019_leftImg8bit.png", 100)
    put(tmp_path, "gtFine/val/aachen/aachen_000000_000019_gtFine_labelIds.png", 7)
    (condition,) = make_conditions(evaluation_config("cityscapes", root=str(tmp_path), size="16x8"), ["none"])
    assert len(condition.source) == 1 and (condition.source.label_map(0) == 0).all()


# ---- exports of labelling tools


def classes_of(root, **options):
    """(left, right) class of the first image."""
    source = StillsSource(root, SIZE, **options)
    assert list(source.problems(1, 1, deep=True)) == []
    labels = source.clip(0, 1, 1, np.random.default_rng(0)).labels[0]
    return tuple("void" if number == 255 else source.labels.names[number] for number in (labels[0, 0], labels[0, -1]))


def test_export_of_cvat_is_read_by_its_colours(tmp_path):
    put(tmp_path, "JPEGImages/a.jpg", 90)
    put(tmp_path, "SegmentationClass/a.png", (128, 64, 128))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\n")
    assert classes_of(tmp_path) == ("road", "road")


@pytest.mark.parametrize("folder", ["SegmentationClassPNG", "SegmentationClass"])
def test_export_of_labelme_is_read_by_the_order_of_its_names(tmp_path, folder):
    put(tmp_path, "JPEGImages/a.jpg", 90)
    put(tmp_path, f"{folder}/a.png", [0, 2])
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\nfloor\nwall\n")
    assert classes_of(tmp_path) == ("_background_", "wall")


def test_export_of_roboflow_is_read_by_its_table(tmp_path):
    put(tmp_path, "a_jpg.rf.12.jpg", 90)
    put(tmp_path, "a_jpg.rf.12_mask.png", [0, 3])
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, car\n")
    assert classes_of(tmp_path) == ("background", "car")


@pytest.mark.parametrize("mask", ["a.png", "a.jpg.png"])
def test_export_of_supervisely_is_read_by_its_machine_masks(tmp_path, mask):
    put(tmp_path, "ds0/img/a.jpg", 90)
    put(tmp_path, f"ds0/masks_machine/{mask}", (4, 4, 4))
    (tmp_path / "obj_class_to_machine_color.json").write_text(json.dumps({"car": [4, 4, 4]}))
    assert classes_of(tmp_path) == ("car", "car")


def brush_export(root, images="{}", image="1.jpg"):
    """What "Brush labels to PNG" and a JSON export of Label Studio leave: task 7, two annotations, overlapping regions."""
    (root / "project.json").write_text(json.dumps([{"id": 7, "data": {"image": images.format(image)}}]))
    put(root, "task-7-annotation-3-by-a@b.c-tag-old-0.png", 255)
    put(root, "task-7-annotation-12-by-a@b.c-tag-side-walk-0.png", [0, 255])
    put(root, "task-7-annotation-12-by-a@b.c-tag-road-0.png", 255)
    put(root, "task-7-annotation-12-by-a@b.c-tag-road-1.png", [100, 0])  # a brush with opacity


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/2/0a1b2c3d-{}", "0a1b2c3d-1.jpg"),
        ("/data/upload/2/0a1b2c3d-{}", "images/1.jpg"),
        ("/data/local-files/?d=drive/{}", "1.jpg"),
        ("https://store/a%20b/{}?signature=x.png", "1.jpg"),
        ("s3://bucket/{}", "1.jpg"),
    ],
)
def test_export_of_label_studio_is_put_together_from_the_masks_of_its_newest_annotation(tmp_path, address, file):
    brush_export(tmp_path, address)
    put(tmp_path, file, 90)
    assert classes_of(tmp_path) == ("road", "side-walk")
    assert StillsSource(tmp_path, SIZE).labels.names == ("background", "road", "side-walk")


def test_export_of_label_studio_has_background_where_nobody_painted(tmp_path):
    put(tmp_path, "1.jpg", 90)
    put(tmp_path, "task-7-annotation-3-by-1-tag-car-0.png", [0, 255])
    (tmp_path / "min.json").write_text(json.dumps([{"id": 7, "image": "/data/upload/1.jpg", "annotator": 1}]))  # JSON_MIN
    assert classes_of(tmp_path) == ("background", "car")


def test_export_of_label_studio_says_what_it_lacks(tmp_path):
    brush_export(tmp_path)
    with pytest.raises(InputError, match=r"there is no 1\.jpg, the image of task-7-.*png; put the images into this folder"):
        StillsSource(tmp_path, SIZE)
    (tmp_path / "project.json").write_text("[]")
    with pytest.raises(InputError, match=r"no JSON file tells the image of task-7-.*png; export these tasks as JSON, too"):
        StillsSource(tmp_path, SIZE)
    (tmp_path / "project.json").write_text("[1]")
    with pytest.raises(InputError, match=r"task-7-.*png: cannot be understood .*; write labels\.yaml"):
        StillsSource(tmp_path, SIZE)


def test_labels_yaml_says_more_than_an_export(tmp_path):
    put(tmp_path, "a.jpg", 90)
    put(tmp_path, "a_mask.png", [0, 3])
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, car\n")
    (tmp_path / "labels.yaml").write_text("names: {3: vehicle}\nignore: [0]")
    assert classes_of(tmp_path) == ("void", "vehicle")


def test_export_that_cannot_be_understood_says_what_to_write(tmp_path):
    put(tmp_path, "a.jpg", 90)
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\nnothing\n")
    with pytest.raises(InputError, match=r"_classes\.csv: cannot be understood .*; write labels\.yaml"):
        StillsSource(tmp_path, SIZE)
