"""What people write for an input: globs, patterns, folders of folders, standard input, the home folder."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media import SINK_KINDS, open_frames
from lmanet_core.media.folder import IMAGE_SUFFIXES
from lmanet_core.media.inputs import expand_inputs, read_stdin


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((4, 6, 3), value, np.uint8))
    return path


@pytest.fixture
def numbered(tmp_path):
    for number in (1, 2, 10):
        save(tmp_path / f"left_{number:04d}.png", number)
        save(tmp_path / f"right_{number:04d}.png", 100 + number)
    return tmp_path


def values(text, **options):
    return [int(frame.image[0, 0, 0]) for frame in open_frames(text, **options)]


@pytest.mark.parametrize("name", ["left_*.png", "left_%04d.png", "left_%d.png", "left_00??.png"])
def test_glob_or_pattern_of_images_is_one_stream_in_natural_order(numbered, name):
    assert expand_inputs([str(numbered / name)]) == [str(numbered / name)]
    assert values(f"{numbered}/{name}") == [1, 2, 10]


def test_pattern_wants_as_many_digits_as_it_says(numbered):
    save(numbered / "left_7.png", 7)
    assert values(f"{numbered}/left_%04d.png") == [1, 2, 10]
    assert values(f"{numbered}/left_%d.png") == [1, 2, 7, 10]


@pytest.mark.parametrize("name", ["none_*.png", "none_%04d.png"])
def test_glob_or_pattern_that_nothing_matches_is_named(numbered, name):
    with pytest.raises(InputError, match=r"no image has such a name|nothing matches"):
        open_frames(f"{numbered}/{name}")


def test_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    save(tmp_path / "[1].png", 9)
    assert values(tmp_path / "[1].png") == [9]


def test_glob_of_videos_is_one_stream_each(tmp_path, write_video):
    for name in ("b10.avi", "b9.avi", "a.avi"):
        write_video(tmp_path / name)
    assert expand_inputs([f"{tmp_path}/*.avi"]) == [f"{tmp_path}/{name}" for name in ("a.avi", "b9.avi", "b10.avi")]


def test_folder_of_folders_is_one_stream_each(tmp_path, ros2, random_image):
    save(tmp_path / "set/berlin/000.png")
    save(tmp_path / "set/aachen/left/000.png")
    save(tmp_path / "set/.hidden/000.png")
    (tmp_path / "set/words").mkdir()
    ros2.write(tmp_path / "set/drive", [("/c", 1, ros2.image(random_image()))])
    assert expand_inputs([f"{tmp_path}/set"]) == [f"{tmp_path}/set/{name}" for name in ("aachen/left", "berlin", "drive")]


def test_folder_with_images_is_one_stream_whatever_else_is_in_it(tmp_path):
    save(tmp_path / "000.png")
    save(tmp_path / "masks/000.png")
    assert expand_inputs([str(tmp_path)]) == [str(tmp_path)]


def test_input_that_is_not_there_is_found_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.mp4: wanted a video, image, bag or folder, there is no such file"):
        expand_inputs([str(tmp_path), f"{tmp_path}/nothing.mp4"])


def test_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a.png", 5)
    assert expand_inputs(["~/a.png"]) == [f"{tmp_path}/a.png"]
    assert values("~/a.png") == [5]


def test_addresses_and_camera_numbers_stay_as_they_are():
    addresses = ["rtsp://user:pass@host:554/live", "http://host/a.mjpg?x=1", "0"]
    assert expand_inputs(addresses) == addresses


def piped(monkeypatch, data, is_terminal=False):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: is_terminal))


def test_names_of_images_can_be_piped_in(numbered, monkeypatch):
    names = [numbered / f"left_{number:04d}.png" for number in (10, 1)]
    piped(monkeypatch, "\n".join(map(str, names)).encode() + b"\n\n")
    assert values("-") == [10, 1]  # in the order of the list


def test_name_in_the_list_that_is_no_image_is_told(numbered, monkeypatch):
    piped(monkeypatch, f"{numbered}/left_0001.png\n{numbered}/left_0003.png\n".encode())
    with pytest.raises(InputError, match=r"wanted names of images, one a line, got .*left_0003\.png"):
        open_frames("-")


@pytest.mark.parametrize("kind", ["video", "bag", "image"])
def test_recording_can_be_piped_in_and_leaves_no_file(tmp_path, monkeypatch, write_video, ros2, random_image, kind):
    made = {
        "video": lambda: write_video(tmp_path / "v.avi", count=3),
        "bag": lambda: ros2.write(tmp_path / "x", [("/c", n, ros2.image(random_image(), n)) for n in (1, 2, 3)]) / "x.mcap",
        "image": lambda: save(tmp_path / "a.png"),
    }[kind]()
    piped(monkeypatch, made.read_bytes())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with open_frames("-") as source:
        assert len(list(source)) == (1 if kind == "image" else 3)
        assert len(list((tmp_path / "temporary").iterdir())) == 1
    assert list((tmp_path / "temporary").iterdir()) == []


def test_nothing_piped_in_is_told(monkeypatch):
    piped(monkeypatch, b"")
    with pytest.raises(InputError, match="standard input is empty"):
        open_frames("-")
    piped(monkeypatch, b"", is_terminal=True)
    with pytest.raises(ConfigError, match="nothing is piped in"):
        open_frames("-")


def test_damaged_recording_that_was_piped_in_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    piped(monkeypatch, b"\0\1\2" * 100)
    with pytest.raises(InputError, match="wanted a video"):
        open_frames("-")
    assert list(tmp_path.iterdir()) == []


def test_list_is_told_from_a_recording_where_a_letter_is_cut_in_two(tmp_path):
    names = [save(tmp_path / f"{'ä' * 60}{number:03d}.png") for number in range(40)]
    for shift in ("", "."):  # one of both has a letter at the cut
        text = "\n".join(f"{tmp_path}/{shift}/{name.name}" for name in names)
        assert len(read_stdin(io.BytesIO(text.encode()))[0]) == 40


@pytest.fixture
def long_folder(tmp_path):
    for number in range(20):
        save(tmp_path / f"{number:03d}.png", number)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"start_s": 0.5}, list(range(5, 20))),
        ({"end_s": 0.5}, list(range(5))),
        ({"start_s": 0.5, "end_s": 1.1, "stride": 3}, [5, 8]),
        ({"stride": 7}, [0, 7, 14]),
        ({"end_s": 99.0}, list(range(20))),
    ],
)
def test_part_of_a_recording(long_folder, part, expected):
    with open_frames(long_folder) as source:
        source.select(**part)
        assert source.expected_frames == len(expected)
        frames = list(source)
    assert [int(frame.name) for frame in frames] == expected
    assert [round(frame.stamp_ns / 1e8) for frame in frames] == expected  # the times stay those of the recording


def test_part_of_what_nobody_counts_is_not_counted(long_folder):
    source = open_frames(long_folder)
    source.expected_frames = None
    source.select(start_s=0.5, stride=5)
    assert source.expected_frames is None
    assert [int(frame.name) for frame in source] == [5, 10, 15]


def test_loss_among_frames_that_are_left_out_is_not_forgotten(long_folder):
    class Lossy(type(open_frames(long_folder))):
        def _read(self):
            from dataclasses import replace

            for frame in super()._read():
                yield replace(frame, after_loss=frame.name == "004")

    source = Lossy(long_folder)
    source.select(stride=3)
    assert [frame.name for frame in source if frame.after_loss] == ["006"]


def test_part_without_frames_is_told(long_folder):
    with open_frames(long_folder) as source:
        source.select(start_s=5.0)
        with pytest.raises(InputError, match=r"no frame lies after 5 s, the last one is at 1\.90 s"):
            next(source)


@pytest.mark.parametrize("part", [{"start_s": -1.0}, {"start_s": 2.0, "end_s": 2.0}, {"stride": 0}, {"end_s": float("nan")}])
def test_part_that_cannot_be_is_refused(long_folder, part):
    with open_frames(long_folder) as source, pytest.raises(ConfigError, match="must be"):
        source.select(**part)


def test_docs_name_every_image_and_every_result():
    docs = (Path(__file__).parents[2] / "docs/inputs.md").read_text()
    named = {"jpg": "jpeg", "tif": "tiff", "heif": "heic"}
    for suffix in IMAGE_SUFFIXES:
        kind = suffix.removeprefix(".")
        assert named.get(kind, kind) in docs.lower()
    assert all(f"`{kind}`" in docs for kind in SINK_KINDS)
