"""Stills that become clips: the last frame is the still, labels are void where it does not reach, wrong files are named."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
import yaml

from lmanet_core.data import StillsSource
from lmanet_core.data.camera_motion import MotionConfig, move_still, past_homographies
from lmanet_core.data.class_counts import count_classes
from lmanet_core.data.files import read_label_ids
from lmanet_core.data.stills import LabelledImages
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.labels.encoding import LabelEncoding
from lmanet_core.media.label_files import LabelFiles
from lmanet_core.media.label_images import decode_label_ids, label_ids_from_message

SIZE = Size(24, 32)
STILL = MotionConfig(0, 0, 0, 0, 0, degrade_past=0)


@pytest.fixture
def folder(tmp_path):
    """Four textured stills with labels of two classes and void (2 and 255)."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.yaml").write_text(
        yaml.safe_dump({"names": ["floor", "wall"], "colors": [[1, 2, 3], [4, 5, 6]], "ignore": [2]})
    )
    for index in range(4):
        rng = np.random.default_rng(index)
        write(tmp_path / f"images/{index}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        write(tmp_path / f"labels/{index}.png", rng.choice(np.array((0, 1, 2, 255), np.uint8), SIZE))
    return tmp_path


def write(path, pixels):
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes())


def original(folder, index):
    image = cv2.imread(str(folder / f"images/{index}.png"))[..., ::-1]
    labels = cv2.imread(str(folder / f"labels/{index}.png"), cv2.IMREAD_UNCHANGED)
    return image, np.where(labels == 2, 255, labels)


def png(width, rows, depth, color_type, extra=b""):
    """A PNG by hand: no encoder here writes palettes or few bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# ---- geometry


def test_last_frame_of_a_clip_is_the_still(folder):
    clip = StillsSource(folder, SIZE, motion=MotionConfig(degrade_past=1)).clip(1, 4, 1, np.random.default_rng(0))
    image, labels = original(folder, 1)
    assert clip.frames.shape == (4, *SIZE, 3) and clip.labels.shape == (4, *SIZE)
    assert np.array_equal(clip.frames[-1], image) and np.array_equal(clip.labels[-1], labels)
    assert all(not np.array_equal(frame, image) for frame in clip.frames[:-1])


def test_labels_are_void_where_the_still_does_not_reach():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    three_right = np.array(((1, 0, 3), (0, 1, 0), (0, 0, 1)), float)
    moved, moved_labels = move_still(image, labels, three_right)
    assert np.array_equal(moved[:, 3:], image[:, :5]) and np.array_equal(moved_labels[:, 3:], labels[:, :5])
    assert (moved_labels[:, :3] == 255).all()


def test_motion_is_in_shares_of_the_width_and_grows_with_the_time_back():
    config = MotionConfig(translation=0.01, zoom=0, roll_deg=0, perspective=0, unsteadiness=0)
    maps = past_homographies(100, 200, 4, 1, config, np.random.default_rng(0))
    steps = [homography[:2, 2] for homography in maps]
    assert np.array_equal(maps[-1], np.eye(3))
    assert np.allclose(steps[0], 3 * steps[2]) and np.allclose(steps[1], 2 * steps[2])
    doubled = past_homographies(100, 200, 2, 2, config, np.random.default_rng(0))[0]
    assert np.allclose(doubled[:2, 2], steps[1])  # stride 2, one frame back
    speeds = [past_homographies(100, 200, 2, 1, config, np.random.default_rng(seed))[0][0, 2] for seed in range(400)]
    assert np.std(speeds) == pytest.approx(2.0, rel=0.15)  # 1 % of 200 pixels


def test_zoom_and_roll_turn_about_the_centre():
    config = MotionConfig(translation=0, zoom=0.1, roll_deg=5, perspective=0)
    homography = past_homographies(101, 201, 2, 1, config, np.random.default_rng(1))[0]
    assert np.allclose(homography @ (100, 50, 1), (100, 50, 1))
    assert not np.allclose(homography @ (0, 0, 1), (0, 0, 1), atol=0.5)


def test_without_motion_and_damage_every_frame_is_the_still(folder):
    clip = StillsSource(folder, SIZE, motion=STILL).clip(0, 3, 1, np.random.default_rng(0))
    assert (clip.frames == clip.frames[-1]).all() and (clip.labels == clip.labels[-1]).all()


def test_damage_changes_images_and_never_labels(folder):
    motion = MotionConfig(0, 0, 0, 0, 0, degrade_past=1, degrade_last=1)
    clip = StillsSource(folder, SIZE, motion=motion).clip(0, 3, 1, np.random.default_rng(0))
    image, labels = original(folder, 0)
    assert all(not np.array_equal(frame, image) for frame in clip.frames)
    assert (clip.labels == labels).all()


def test_clips_are_a_function_of_the_generator(folder):
    source = StillsSource(folder, SIZE, motion=MotionConfig(degrade_past=1))
    one, again, other = (source.clip(0, 3, 1, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.frames, again.frames) and not np.array_equal(one.frames, other.frames)


def test_past_frames_of_a_video_are_its_own(folder):
    clip = StillsSource(folder, SIZE, motion=None).clip(3, 3, 1, np.random.default_rng(0))
    for t, index in enumerate((1, 2, 3)):
        assert np.array_equal(clip.frames[t], original(folder, index)[0])
        assert np.array_equal(clip.labels[t], original(folder, index)[1])
    early = StillsSource(folder, SIZE, motion=None).clip(1, 3, 2, np.random.default_rng(0))
    assert np.array_equal(early.frames[0], original(folder, 0)[0])  # before the start, the first frame stands still


def test_frames_are_brought_to_the_wanted_size(folder):
    source = StillsSource(folder, Size(8, 16), motion=STILL)
    clip = source.clip(0, 2, 1, np.random.default_rng(0))
    assert clip.frames.shape == (2, 8, 16, 3) and clip.labels.shape == (2, 8, 16)
    assert set(np.unique(clip.labels)) <= {0, 1, 255}  # never interpolated


def test_excluded_images_are_left_out(folder):
    source = StillsSource(folder, SIZE, exclude="^[02]")
    assert [source.name(index) for index in range(len(source))] == ["1", "3"]


# ---- label files


def test_palette_label_maps_are_read_by_index(tmp_path):
    palette = b"".join(bytes((40 * i, 7, 9)) for i in range(4))
    extra = struct.pack(">I", len(palette)) + b"PLTE" + palette + struct.pack(">I", zlib.crc32(b"PLTE" + palette))
    (tmp_path / "p.png").write_bytes(png(3, [bytes((0, 1, 2)), bytes((3, 2, 1))], 8, 3, extra))
    assert read_label_ids(tmp_path / "p.png").tolist() == [[0, 1, 2], [3, 2, 1]]
    (tmp_path / "few.png").write_bytes(png(4, [bytes((0x01, 0x23)), bytes((0xF0, 0x12))], 4, 3, extra))
    assert read_label_ids(tmp_path / "few.png").tolist() == [[0, 1, 2, 3], [15, 0, 1, 2]]


def test_label_value_outside_the_set_is_named(folder):
    write(folder / "labels/1.png", np.full(SIZE, 7, np.uint8))
    source = StillsSource(folder, SIZE)
    with pytest.raises(InputError, match=r"1\.png: label values 7 are outside the set of 0–1"):
        source.clip(1, 1, 1, np.random.default_rng(0))
    assert len(list(source.problems(1, 1, deep=True))) == 1 and not list(source.problems(1, 1, deep=False))


def test_image_and_labels_of_different_size_are_named(folder):
    write(folder / "labels/2.png", np.zeros((10, 10), np.uint8))
    source = StillsSource(folder, SIZE)
    with pytest.raises(InputError, match=r"2\.png is 32x24.*2\.png is 10x10"):
        source.clip(2, 1, 1, np.random.default_rng(0))
    assert "one size" in next(source.problems(1, 1, deep=True))


def test_missing_label_map_is_found_before_training(folder):
    (folder / "labels/3.png").unlink()
    assert ["3.png" in problem for problem in StillsSource(folder, SIZE).problems(1, 1, deep=False)] == [True]


def test_label_map_in_the_colours_of_its_classes_is_read(folder):
    write(folder / "labels/0.png", np.tile(np.array([[[1, 2, 3], [4, 5, 6], [0, 0, 0], [4, 5, 6]]], np.uint8), (24, 8, 1)))
    labels = StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0)).labels
    assert labels[0, 0, :4].tolist() == [0, 1, 255, 1]


def test_label_map_in_other_colours_is_refused_and_they_are_named(folder):
    write(folder / "labels/0.png", np.full((*SIZE, 3), (9, 8, 7), np.uint8))
    with pytest.raises(InputError, match=r"100.0 % of the pixels have a colour of no class \(#090807\)"):
        StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0))


def test_grey_label_map_in_three_channels_is_read(folder):
    write(folder / "labels/0.png", np.ones((*SIZE, 3), np.uint8))
    assert (StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0)).labels == 1).all()


def test_a_label_map_of_grey_colours_alone_is_read_by_colour(folder):
    """A street of asphalt under a black sky is no image of the ids 64 and 0."""
    (folder / "labels.yaml").write_text(yaml.safe_dump({"names": ["grass", "asphalt"], "colors": [[0, 102, 0], [64, 64, 64]]}))
    grey = np.zeros((*SIZE, 3), np.uint8)
    grey[12:] = 64
    write(folder / "labels/0.png", grey)
    labels = StillsSource(folder, SIZE).label_map(0)
    assert (labels[:12] == 255).all() and (labels[12:] == 1).all()


@pytest.mark.parametrize(("value", "label"), [(1, 1), (2, 255), (65535, 255)])
def test_label_map_of_16_bits_with_ids_below_256_is_read(folder, value, label):
    write(folder / "labels/0.png", np.full(SIZE, value, np.uint16))
    assert (StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0)).labels == label).all()


def test_label_map_of_8_bits_that_were_spread_to_16_is_read_and_that_is_said_once(folder, caplog):
    ids = np.zeros(SIZE, np.uint16)
    ids[:, 16:24], ids[:, 24:] = 1, 255
    for number in range(2):
        write(folder / f"labels/{number}.png", ids * 257)
    source = StillsSource(folder, SIZE)
    assert all((source.label_map(number) == ids).all() for number in range(2))
    (said,) = [record.getMessage() for record in caplog.records if "16 bits" in record.getMessage()]
    assert said.startswith(f"{folder}/labels: label maps of 16 bits hold multiples of 257")


def test_label_map_of_16_bits_with_wider_values_is_refused(folder):
    write(folder / "labels/0.png", np.full(SIZE, 1000, np.uint16))
    with pytest.raises(InputError, match="got values up to 1000; is this a depth image"):
        StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ({"names": {0: "floor", 2: "wall"}}, [0, 1, 255]),
        ({"names": ["floor", "wall"], "ids": {2: "floor", 0: "wall"}}, [1, 0, 255]),
        ({"names": ["floor", "wall"], "ids": {0: "floor", 255: "wall"}, "ignore": [2]}, [0, 255, 1]),
        ({"names": ["floor", "wall"], "ids": {0: "floor", 2: "floor"}}, [0, 0, 255]),
    ],
    ids=["names by id", "ids", "255 is a class", "two ids of a class"],
)
def test_labels_file_says_which_id_is_which_class(folder, lines, labels):
    (folder / "labels.yaml").write_text(yaml.safe_dump(lines))
    pixels = np.zeros(SIZE, np.uint8)
    pixels[0, :3] = 0, 2, 255
    write(folder / "labels/0.png", pixels)
    source = StillsSource(folder, SIZE)
    assert source.clip(0, 1, 1, np.random.default_rng(0)).labels[0, 0, :3].tolist() == labels
    assert source.labels.names == ("floor", "wall")


def test_several_colours_of_a_class_and_void_ones_are_read(folder):
    lines = {
        "names": ["floor", "wall"],
        "ids": {"#0a0000": "floor", "#0b0000": "floor", "#00000c": "wall"},
        "ignore": ["#ffffff"],
    }
    (folder / "labels.yaml").write_text(yaml.safe_dump(lines))
    row = np.array([[[10, 0, 0], [11, 0, 0], [0, 0, 12], [255, 255, 255]]], np.uint8)
    write(folder / "labels/0.png", np.tile(row, (24, 8, 1)))
    labels = StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0)).labels
    assert labels[0, 0, :4].tolist() == [0, 0, 1, 255]


def test_damaged_image_is_named(folder):
    (folder / "images/0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png: not an image"):
        StillsSource(folder, SIZE).clip(0, 1, 1, np.random.default_rng(0))


def test_empty_set_is_refused(folder):
    with pytest.raises(InputError, match=r"4 images in .*, 4 of them excluded"):
        StillsSource(folder, SIZE, exclude=".")
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="empty: 0 images"):
        StillsSource(folder, SIZE)


@pytest.mark.parametrize(
    "content",
    [None, "[1, 2]", "names: [a]\ncolours: [[0, 0, 0]]", "names: [a]\ncolors: [[0, 0, 0]]\nignore: [300]", "names: ["],
)
def test_unusable_labels_file_is_named(folder, content):
    path = folder / "labels.yaml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"labels\.yaml"):
        StillsSource(folder, SIZE)


def test_wrong_motion_and_pattern_are_refused(folder):
    with pytest.raises(ConfigError, match="degrade_past"):
        MotionConfig(degrade_past=1.5)
    with pytest.raises(ConfigError, match="noise"):
        MotionConfig(noise=-1)
    with pytest.raises(ConfigError, match="regular expression"):
        StillsSource(folder, SIZE, exclude="(")


# ---- what a set holds


def counted(folder, *label_maps, lines=None):
    for number, label_map in enumerate(label_maps):
        write(folder / f"labels/{number}.png", np.asarray(label_map, np.uint8) * np.ones(SIZE, np.uint8))
    (folder / "labels.yaml").write_text(yaml.safe_dump(lines or {"names": ["floor", "wall"]}))
    return count_classes(StillsSource(folder, SIZE))


def test_pixels_are_counted_by_class(folder):
    counts = counted(folder, 0, 0, 1, 255)
    assert counts.describe() == "4 label maps: floor 50 %, wall 25 %, void 25 %"
    assert list(counts.warnings()) == []


def test_a_class_that_never_occurs_is_named(folder):
    assert list(counted(folder, 1, 1, 1, 1).warnings()) == ["never seen: floor"]


def test_masks_of_0_and_255_are_found_out_and_read_once_they_are_named(folder):
    masks = [np.where(np.arange(32) < 8, 255, 0)] * 4
    first, second = counted(folder, *masks).warnings()
    assert first == "never seen: wall" and "ids: {0: floor, 255: wall}" in second
    told = counted(folder, *masks, lines={"names": ["floor", "wall"], "ids": {0: "floor", 255: "wall"}})
    assert told.describe() == "4 label maps: floor 75 %, wall 25 %, void 0 %" and list(told.warnings()) == []


def test_much_void_is_told(folder):
    assert list(counted(folder, 0, 255, 255, 255).warnings())[-1].startswith("label maps hold floor and void alone")
    lines = {"names": ["floor", "wall"], "ignore": [7]}
    assert list(counted(folder, 0, 1, 7, 7, lines=lines).warnings()) == []
    write(folder / "labels/1.png", np.full(SIZE, 7, np.uint8))
    write(folder / "labels/2.png", np.where(np.arange(32) < 8, 1, 7).astype(np.uint8) * np.ones(SIZE, np.uint8))
    assert list(count_classes(StillsSource(folder, SIZE)).warnings()) == [
        "69 % of the pixels are void; does labels.yaml name all ids of the label maps?"
    ]


def test_no_labels_yaml_is_asked_for_where_a_set_has_its_own_table(folder):
    counted(folder, 255, 255, 255, 0)
    pairs = [(path, folder / "labels" / f"{path.stem}.png") for path in sorted((folder / "images").iterdir())]
    its_own = LabelledImages(folder, pairs, LabelEncoding.identity(CITYSCAPES), SIZE)
    warnings = " ".join(count_classes(its_own).warnings())
    assert "75 % of the pixels are void" in warnings and "labels.yaml" not in warnings


def test_a_few_label_maps_stand_for_many(folder):
    counted(folder, 0, 0, 0, 1)
    assert count_classes(StillsSource(folder, SIZE), 2).describe() == "2 of 4 label maps: floor 50 %, wall 50 %, void 0 %"


def test_picture_of_samples_beside_label_images_is_passed_over(tmp_path):
    for name in ("a_vis", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    found = LabelFiles(tmp_path)
    assert (found.count, found.of("b"), found.of("a")) == (1, tmp_path / "b.png", None)


def test_label_image_of_floats_is_refused():
    data = cv2.imencode(".tiff", np.ones((2, 3), np.float32))[1].ravel()
    with pytest.raises(InputError, match="x: label maps have one channel of class ids, got 1 of float32"):
        decode_label_ids(data, "x")


def test_label_images_of_one_name_are_refused(tmp_path):
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"left/a\.png and right/a\.png have one name"):
        LabelFiles(tmp_path)


def test_label_image_of_floats_in_colour_is_refused():
    data = cv2.imencode(".tiff", np.ones((2, 3, 3), np.float32))[1].ravel()
    with pytest.raises(InputError, match="got 3 of float32"):
        decode_label_ids(data, "x")


def test_colours_with_alpha_are_colours():
    data = cv2.imencode(".png", np.full((2, 3, 4), (0, 0, 255, 255), np.uint8))[1].ravel()
    assert decode_label_ids(data, "x", {0xFF0000: 7}).tolist() == [[7] * 3] * 2


def test_share_of_unknown_colours_is_told_in_percent():
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, :, 2] = 255
    with pytest.raises(InputError, match=r"x: 50\.0 % of the pixels have a colour of no class \(#000000\)"):
        decode_label_ids(cv2.imencode(".png", image)[1].ravel(), "x", {0xFF0000: 7})


@pytest.mark.parametrize("colors", [{0xFF0000: 7}, {0x090909: 5, 0x0A0A0A: 9}])
def test_grey_in_three_channels_that_may_be_ids_is_ids(colors):
    data = cv2.imencode(".png", np.full((2, 3, 3), 9, np.uint8))[1].ravel()
    assert decode_label_ids(data, "x", colors).tolist() == [[9] * 3] * 2


def test_label_message_whose_rows_are_too_short_is_refused(ros2):
    message = ros2.image(np.zeros((2, 6), np.uint8), encoding="mono16", width=4)
    with pytest.raises(InputError, match="4x2 ids in mono16 do not fit step 6 and 12 bytes of data"):
        label_ids_from_message(message, "x")


def test_label_image_that_counts_instances_gives_their_classes():
    data = cv2.imencode(".png", np.array([[7, 999, 26001]], np.uint16))[1].ravel()
    with pytest.raises(InputError, match="got values up to 999"):
        decode_label_ids(data, "x_instanceIds.png")
    data = cv2.imencode(".png", np.array([[7, 24000, 26001]], np.uint16))[1].ravel()
    assert decode_label_ids(data, "x_instanceIds.png").tolist() == [[7, 24, 26]]
