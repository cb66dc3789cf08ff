"""The `lmanet` command: results, exit codes, one line for every error, and files that are whole however it ends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rosbags.rosbag2 import Reader as Reader2
from safetensors import safe_open
from safetensors.torch import save_file

import lmanet_core
from lmanet_core import __version__
from lmanet_core.commands.main import main
from lmanet_core.labels import CITYSCAPES
from lmanet_core.media.folder import FolderSource
from lmanet_core.media.result_folder import MANIFEST
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model

SECOND = 10**9
HEIGHT, WIDTH = 32, 64
CHATTER = ("note: ", "LMANet safetensors on ", "segmenting ")  # what is said before an error


@pytest.fixture
def lmanet(capsys):
    """Run the command in this process: exit code, standard output, lines on standard error."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # --help, --version
            code = stopped.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err.splitlines())

    return run


@pytest.fixture
def segment(lmanet, video_weights, tmp_path):
    """`lmanet segment` with our weights and an output folder."""

    def run(source, *arguments, out=tmp_path / "out", weights=video_weights):
        arguments = ("--device", "cpu", "--precision", "fp32", *arguments)
        return lmanet("segment", source, "--weights", weights, "--out", out, *arguments)

    return run


@pytest.fixture(scope="session")
def images(make_scene):
    """Six images of one scene that moves sideways."""
    return [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(6)]


def write_folder(folder, images, suffix=".png"):
    folder.mkdir()
    for index, image in enumerate(images):
        assert cv2.imwrite(str(folder / f"{index:03d}{suffix}"), image[:, :, ::-1])
    return folder


@pytest.fixture
def folder(tmp_path, images):
    return write_folder(tmp_path / "images", images)


@pytest.fixture
def bag(tmp_path, images, ros2):
    messages = [
        ("/camera/image_raw", (100 + index) * SECOND // 10, ros2.image(image, SECOND + index * SECOND // 10 + 7))
        for index, image in enumerate(images)
    ]
    return ros2.write(tmp_path / "bag", [("/chatter", SECOND, ros2.text("hello")), *messages])


def read_labels(folder):
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.glob("*.png"))}


def read_summary(out):
    return json.loads((out / "summary.json").read_text())


def count_video_frames(path):
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def read_bag(path, store, topic="/segmentation/labels"):
    with Reader2(path) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        return [(stamp, store.deserialize_cdr(data, c.msgtype)) for c, stamp, data in reader.messages(connections)]


def assert_one_error(ran, code, message):
    """The exit code, and one line of error that says this."""
    lines = [line for line in ran.err if not line.startswith(CHATTER)]
    assert ran.code == code, ran.err
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert ran.out == ""


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_folder_gives_labels_masks_overlay_and_summary(segment, folder, tmp_path, images, video_weights):
    ran = segment(folder)
    out = tmp_path / "out"
    assert ran.code == 0 and ran.out == ""
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "labels", "masks", "overlay.webm", "summary.json"]
    labels = read_labels(out / "labels")
    assert list(labels) == [f"{index:03d}.png" for index in range(6)]
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    for index, (label_map, image) in enumerate(zip(labels.values(), images, strict=True)):
        assert label_map.dtype == np.uint8
        assert np.array_equal(label_map, segmenter.step(image, index * SECOND // 10).labels)
        for group in ("drivable", "person", "vehicle"):
            mask = cv2.imread(str(out / "masks" / group / f"{index:03d}.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(mask, CITYSCAPES.mask(label_map, group))
    assert count_video_frames(out / "overlay.webm") == 6


def test_summary_tells_what_was_done_with_what(segment, folder, tmp_path, video_weights):
    segment(folder)
    summary = read_summary(tmp_path / "out")
    timings = summary.pop("timings_ms")
    assert summary == {
        "version": __version__,
        "input": str(folder),
        "complete": True,
        "frames": 6,
        "skipped": 0,
        "resets": {"first_frame": 1},
        "blind": {},
        "not_remembered": 0,
        "weights": {
            "file": "video.safetensors",
            "sha256": hashlib.sha256(video_weights.read_bytes()).hexdigest(),
            "kind": "LMANet safetensors",
        },
        "device": "cpu",
        "precision": "fp32",
        "memory": True,
        "classes": list(CITYSCAPES.names),
    }
    assert list(timings)[-1] == "total"
    assert all(0 <= stage["p50"] <= stage["p95"] for stage in timings.values())


def test_video_gives_its_frames_and_keeps_its_rate(segment, write_video, tmp_path):
    assert segment(write_video(tmp_path / "drive.avi", count=5, fps=20.0)).code == 0
    labels = read_labels(tmp_path / "out" / "labels")
    assert [label_map.shape for label_map in labels.values()] == [(48, 64)] * 5
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlay.webm"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20.0)
    capture.release()


def test_bag_gives_a_bag_with_the_same_stamps_and_the_labels_of_the_pngs(segment, bag, tmp_path, ros2):
    assert segment(bag).code == 0
    out = tmp_path / "out"
    written = read_bag(out / "result", ros2.store)
    assert [stamp for stamp, _ in written] == [SECOND + index * SECOND // 10 + 7 for index in range(6)]
    for (_, message), label_map in zip(written, read_labels(out / "labels").values(), strict=True):
        assert (message.encoding, message.header.frame_id) == ("mono8", "camera")
        assert np.array_equal(message.data.reshape(message.height, message.width), label_map)
    stamps = [message.header.stamp.sec * SECOND + message.header.stamp.nanosec for _, message in written]
    assert stamps == [stamp for stamp, _ in written]


def test_single_image_is_an_input(segment, folder, tmp_path):
    assert segment(folder / "004.png").code == 0
    assert list(read_labels(tmp_path / "out" / "labels")) == ["004.png"]


def test_two_runs_write_the_same_bytes(segment, folder, tmp_path):
    for name in ("one", "two"):
        assert segment(folder, "--save", "[labels]", out=tmp_path / name).code == 0
    for path in sorted((tmp_path / "one" / "labels").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / "labels" / path.name).read_bytes()


def test_save_chooses_what_is_written(segment, folder, tmp_path):
    assert segment(folder, "--save", "[color,bag]").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, "color.webm", "result", "summary.json"]


def test_picture_is_two_images_wide(segment, folder, tmp_path, images):
    assert segment(folder, "--picture", 2, "--save", "[labels]").code == 0
    picture = cv2.imread(str(tmp_path / "out" / "picture.png"))
    assert picture.shape[1] == 2 * WIDTH and picture.shape[0] > HEIGHT
    assert np.array_equal(picture[:HEIGHT, :WIDTH, ::-1], images[2])


def test_picture_beyond_the_end_is_said_to_be_missing(segment, folder, tmp_path):
    ran = segment(folder, "--picture", 6, "--save", "[labels]")
    assert ran.code == 0 and not (tmp_path / "out" / "picture.png").exists()
    assert "no picture.png: frame 6 was wanted, the last one is 5" in ran.err


def test_max_frames_stops_early(segment, folder, tmp_path):
    assert segment(folder, "--max-frames", 2, "--save", "[labels]").code == 0
    assert len(read_labels(tmp_path / "out" / "labels")) == read_summary(tmp_path / "out")["frames"] == 2


def test_options_reach_the_segmenter(segment, folder, tmp_path, images, video_weights):
    options = ("--memory-frames", 1, "--memory-interval", 0.2, "--network-size", "48x24", "--output-size", "network")
    ran = segment(folder, *options, "--resize", "crop", "--window", 3, "--save", "[labels]")
    assert ran.code == 0 and "memory 1 frames, window 3" in ran.err[0]
    labels = read_labels(tmp_path / "out" / "labels")
    assert {label_map.shape for label_map in labels.values()} == {(24, 48)}
    assert read_summary(tmp_path / "out")["not_remembered"] == 3
    config = SegmenterConfig(memory_frames=1, memory_interval_s=0.2, network_size="48x24", output_size="network", resize="crop")
    other_window = VideoSegmenter.from_weights(video_weights, config, device="cpu", precision="fp32")
    results = [other_window.step(image, index * SECOND // 10).labels for index, image in enumerate(images)]
    same = [np.array_equal(one, other) for one, other in zip(results, labels.values(), strict=True)]
    assert same == [True] + [False] * 5  # the window only matters once there is a memory


def test_memory_false_segments_every_frame_by_itself(segment, tmp_path, images):
    still = write_folder(tmp_path / "still", [images[0]] * 3)
    assert segment(still, "--memory", "false", "--save", "[labels]").code == 0
    first, second, third = read_labels(tmp_path / "out" / "labels").values()
    assert np.array_equal(first, second) and np.array_equal(first, third)
    assert read_summary(tmp_path / "out")["memory"] is False


def test_stills_are_segmented_each_by_itself(segment, tmp_path, images):
    folder = write_folder(tmp_path / "same", [images[0]] * 3)
    assert segment(folder, "--stills", "--save", "labels").code == 0
    assert read_summary(tmp_path / "out")["memory"] is False


def test_gap_and_scene_cut_options_decide_what_clears_the_memory(segment, tmp_path, make_scene, images):
    cut = write_folder(tmp_path / "cut", [images[0], images[0], make_scene(1)])
    for arguments, resets in (
        ((), {"first_frame": 1, "scene_cut": 1}),
        (("--scene-cut", "false"), {"first_frame": 1}),
        (("--scene-cut", "false", "--gap", 0.05), {"first_frame": 1, "gap": 2}),
        (("--scene-cut", "false", "--fps", 0.5), {"first_frame": 1, "gap": 2}),
    ):
        assert segment(cut, "--save", "[labels]", "--overwrite", *arguments).code == 0
        assert read_summary(tmp_path / "out")["resets"] == resets


def test_folder_of_mixed_sizes_is_segmented_with_resets(segment, tmp_path, make_scene):
    sizes = [(32, 64), (32, 64), (20, 30), (40, 40)]
    mixed = write_folder(tmp_path / "mixed", [make_scene(0, *size) for size in sizes])
    assert segment(mixed).code == 0
    assert [label_map.shape for label_map in read_labels(tmp_path / "out" / "labels").values()] == sizes
    assert read_summary(tmp_path / "out")["resets"] == {"first_frame": 1, "size_change": 2}
    assert count_video_frames(tmp_path / "out" / "overlay.webm") == 4


def test_damaged_image_is_counted_and_said(segment, folder, tmp_path):
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:100])
    ran = segment(folder, "--save", "[labels]")
    assert ran.code == 0
    assert list(read_labels(tmp_path / "out" / "labels")) == ["000.png", "001.png", "002.png", "004.png", "005.png"]
    assert (read_summary(tmp_path / "out")["frames"], read_summary(tmp_path / "out")["skipped"]) == (5, 1)
    assert any(line.startswith("5 frames, 1 damaged skipped;") for line in ran.err)


def test_path_with_brackets_is_only_a_path(segment, images, tmp_path):
    (tmp_path / "[bold]").mkdir()
    folder = write_folder(tmp_path / "[bold]" / "a[", images[:1])
    ran = segment(folder, "--save", "[labels]", out=tmp_path / "[bold]" / "[" / "b]")
    assert ran.code == 0
    assert ran.err[-1].endswith(f"in {tmp_path}/[bold]/[/b]")


# ---- inputs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_cameras(tmp_path, images, ros2):
    messages = []
    for index, image in enumerate(images):
        time_ns = SECOND + index * SECOND // 10
        messages += [("/front/image_raw", time_ns, ros2.image(image, time_ns))]
        messages += [("/rear/image_raw", time_ns, ros2.image(image[:, ::-1], time_ns))]
    return ros2.write(tmp_path / "cameras", messages)


def test_several_cameras_of_a_bag_have_a_folder_and_a_memory_each(segment, two_cameras, tmp_path):
    assert segment(two_cameras, "--topic", "/front/image_raw,/rear/image_raw", "--save", "labels").code == 0
    assert segment(two_cameras, "--topic", "/rear/image_raw", "--save", "labels", out=tmp_path / "alone").code == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "front", "rear"]
    assert read_summary(out / "rear")["topic"] == "/rear/image_raw"
    assert read_summary(out / "rear")["resets"] == {"first_frame": 1}
    for name, label_map in read_labels(tmp_path / "alone" / "labels").items():
        assert np.array_equal(label_map, read_labels(out / "rear" / "labels")[name])


def test_several_inputs_and_folders_of_folders_have_a_folder_each(lmanet, images, write_video, video_weights, tmp_path):
    (tmp_path / "set").mkdir()
    for city in ("berlin", "aachen"):
        write_folder(tmp_path / "set" / city, images[:2])
    video = write_video(tmp_path / "drive.avi", count=2)
    ran = lmanet("segment", tmp_path / "set", video, "--weights", video_weights, "--save", "labels", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, "aachen", "berlin", "drive"]


def test_input_that_is_missing_is_said_before_the_first_is_segmented(lmanet, folder, video_weights, tmp_path):
    ran = lmanet("segment", folder, tmp_path / "none.mp4", "--weights", video_weights, "--out", tmp_path / "out")
    assert_one_error(ran, 3, "none.mp4: wanted a video, image, bag or folder, there is no such file")
    assert not (tmp_path / "out").exists()


def test_single_image_gives_a_picture_and_no_video(segment, folder, tmp_path):
    assert segment(folder / "004.png").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        MANIFEST,
        "labels",
        "masks",
        "overlay",
        "summary.json",
    ]
    assert cv2.imread(str(tmp_path / "out" / "overlay" / "004.png")).shape == (HEIGHT, WIDTH, 3)


def test_part_of_a_recording_keeps_its_names(segment, folder, tmp_path):
    assert segment(folder, "--start", 0.1, "--end", 0.5, "--stride", 2, "--save", "labels").code == 0
    assert list(read_labels(tmp_path / "out" / "labels")) == ["001.png", "003.png"]


def test_part_that_cannot_be_leaves_nothing(segment, folder, tmp_path):
    assert_one_error(segment(folder, "--start", 2, "--end", 1), 2, "start must be 0 s or more and before the end, got 2 to 1 s")
    assert_one_error(segment(folder, "--opacity", 2), 2, "opacity must be 0 to 1, got 2")
    assert not (tmp_path / "out").exists()


def test_damage_is_no_complete_result(segment, folder, tmp_path):
    assert segment(folder, "--save", "labels").code == 0
    assert read_summary(tmp_path / "out")["complete"] is True
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:100])
    assert segment(folder, "--save", "labels", "--overwrite").code == 0
    assert read_summary(tmp_path / "out")["complete"] is False


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_camera_that_is_mounted_turned_gets_its_own_labels(segment, tmp_path, images, degrees):
    upright = write_folder(tmp_path / "upright", images[:3])
    mounted = write_folder(tmp_path / "mounted", [np.rot90(image, degrees // 90) for image in images[:3]])
    assert segment(upright, "--save", "labels", out=tmp_path / "a").code == 0
    assert segment(mounted, "--save", "labels", "--rotate", degrees, out=tmp_path / "b").code == 0
    pairs = zip(*(read_labels(tmp_path / name / "labels").values() for name in "ab"), strict=True)
    assert all(np.array_equal(np.rot90(one, degrees // 90), other) for one, other in pairs)


def test_evaluate_wants_recordings(lmanet, tmp_path):
    ran = lmanet("evaluate", "rtsp://me:secret@host/live", "--out", tmp_path / "out")
    assert_one_error(ran, 2, "lmanet evaluate wants recordings .* got rtsp://…@host/live")


# ---- results that are already there ----------------------------------------------------------------------------------------


def test_results_are_not_replaced_unless_asked(segment, folder, tmp_path):
    out = tmp_path / "out"
    segment(folder)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert_one_error(
        segment(folder, "--max-frames", 1),
        5,
        "out already holds results .*; choose another --out, such as .*, or pass --overwrite",
    )
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_all_results(segment, folder, bag, tmp_path):
    out = tmp_path / "out"
    segment(bag, "--picture", 0, "--save", "[labels,masks,overlay,color,bag]")
    assert segment(folder, "--overwrite", "--max-frames", 1, "--save", "[labels]").code == 0
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "labels", "summary.json"]
    assert list(read_labels(out / "labels")) == ["000.png"]


@pytest.mark.parametrize("options", [("--save", "overlay"), ("--overwrite",)], ids=str)
def test_labels_made_by_hand_beside_the_images_survive(segment, tmp_path, images, options):
    data = tmp_path / "ds"
    data.mkdir()
    folder = write_folder(data / "images", images[:2])
    (data / "labels").mkdir()
    (data / "labels" / "000.png").write_bytes(b"made by hand")
    ran = segment(folder, *options, out=data)
    assert_one_error(ran, 5, "ds holds images/000.png, which lmanet did not write: choose another --out, such as .*ds_2")
    assert sorted(path.name for path in data.rglob("*") if path.is_file()) == ["000.png", "000.png", "001.png"]
    assert (data / "labels" / "000.png").read_bytes() == b"made by hand"


def test_a_failed_start_is_not_in_the_way_of_the_next(segment, folder, tmp_path):
    assert segment(folder, "--weights", tmp_path / "none.pth").code == 4
    assert segment(folder, "--network-size", "100x50").code == 2
    assert segment(folder, "--max-frames", 1).code == 0


def test_overwrite_never_deletes_the_input(segment, folder, tmp_path):
    segment(folder, "--save", "labels,overlay")
    made = tmp_path / "out" / "labels"
    for source in (made, made / "000.png", tmp_path / "out" / "overlay.webm"):
        assert_one_error(segment(source, "--overwrite"), 5, "--overwrite would delete the input .*; choose another --out")
    assert len(read_labels(made)) == 6


def test_wrong_settings_are_found_before_results_are_replaced(segment, folder, tmp_path):
    segment(folder, "--save", "[labels]")
    ran = segment(folder, "--overwrite", "--network-size", "100x50")
    assert_one_error(ran, 2, "network sides must be 8·n, got 100x50; nearest is 96x48")
    assert len(read_labels(tmp_path / "out" / "labels")) == 6


# ---- every bad input has its exit code and its line ------------------------------------------------------------------------


def test_missing_input(segment, tmp_path):
    assert_one_error(segment(tmp_path / "none.mp4"), 3, "none.mp4: wanted a video, image, bag or folder, there is no such file")
    assert not (tmp_path / "out").exists()


def test_empty_folder(segment, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_error(segment(tmp_path / "empty"), 3, "empty: wanted images .* or a bag, got an empty folder")


def test_file_that_is_no_video(segment, tmp_path):
    (tmp_path / "words.mp4").write_text("not a video")
    assert_one_error(segment(tmp_path / "words.mp4"), 3, "words.mp4: wanted a video")


def test_folder_of_damaged_images(segment, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"no png")
    assert_one_error(segment(tmp_path / "bad"), 3, "bad: no image could be read, 1 damaged; the first was 0.png")
    assert not (tmp_path / "out").exists()  # nothing that would be in the way of the next try


def test_wrong_topic(segment, bag):
    assert_one_error(
        segment(bag, "--topic", "/camera/imag_raw"), 3, "no topic /camera/imag_raw; did you mean /camera/image_raw?"
    )


def test_topic_of_something_else_than_a_bag(segment, folder):
    assert_one_error(segment(folder, "--topic", "/camera/image_raw"), 2, "only bags have topics")


def test_bag_without_images(segment, tmp_path, ros2):
    silent = ros2.write(tmp_path / "silent", [("/chatter", SECOND, ros2.text("hello"))])
    assert_one_error(segment(silent), 3, "silent: wanted a topic of sensor_msgs/msg/Image .*, the bag has /chatter")


def test_folder_instead_of_weights(segment, folder):
    assert_one_error(segment(folder, weights=folder), 4, "cannot read weights .*: a folder")


def test_missing_weights(segment, folder, tmp_path):
    assert_one_error(segment(folder, weights=tmp_path / "none.pth"), 4, "cannot read weights .*none.pth: no such file")


@pytest.mark.parametrize("length", [0, 5, 5000, -100])
def test_truncated_weights(segment, folder, video_weights, tmp_path, length):
    (tmp_path / "cut.safetensors").write_bytes(video_weights.read_bytes()[:length])
    assert_one_error(segment(folder, weights=tmp_path / "cut.safetensors"), 4, "cut.safetensors: .*damaged")
    assert not (tmp_path / "out").exists()


def test_weights_with_missing_keys(segment, folder, video_weights, tmp_path):
    with safe_open(video_weights, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "backbone.decoder.output_conv.bias"}  # noqa: SIM118
        save_file(tensors, tmp_path / "less.safetensors", file.metadata())
    ran = segment(folder, weights=tmp_path / "less.safetensors")
    assert_one_error(ran, 4, r"less.safetensors: .*1 keys missing \(backbone.decoder.output_conv.bias\)")


def test_unknown_save_kind(segment, folder):
    for given in ("[labels,lables]", "labels,lables"):
        assert_one_error(segment(folder, "--save", given), 2, "labels, masks, .*got 'lables'; did you mean labels")


def test_unknown_save_kind_is_refused_before_old_results_are_replaced(segment, folder, tmp_path):
    assert segment(folder, "--save", "labels").code == 0
    assert_one_error(segment(folder, "--save", "lables", "--overwrite"), 2, "lables")
    assert len(list((tmp_path / "out/labels").glob("*.png"))) == 6


def test_save_takes_a_list_with_and_without_brackets(segment, folder, tmp_path):
    for number, given in enumerate(("labels,masks", "[labels,masks]")):
        out = tmp_path / str(number)
        assert segment(folder, "--save", given, out=out).code == 0
        assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "labels", "masks", "summary.json"]


@pytest.mark.parametrize("option", [("--memory-frames", 2), ("--memory-interval", 0.5)])
def test_memory_options_are_refused_where_the_weights_have_no_memory(segment, folder, single_frame_weights, option):
    ran = segment(folder, *option, weights=single_frame_weights)
    assert_one_error(ran, 2, f"{option[0]} was given, but these weights have no memory")


def test_output_below_a_file(segment, folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_error(segment(folder, out=tmp_path / "file" / "out"), 5, "file/out: cannot be written: a folder is needed")


def test_output_that_is_a_file(segment, folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_error(segment(folder, out=tmp_path / "file"), 5, "file: cannot be written: a folder is needed")
    assert (tmp_path / "file").read_text() == "mine"


def test_output_with_a_name_too_long(segment, folder, tmp_path):
    assert_one_error(segment(folder, out=tmp_path / ("x" * 300)), 5, "File name too long")


def test_full_disk_keeps_what_was_written(segment, folder, tmp_path, monkeypatch):
    really_write = Path.write_bytes

    def write_bytes(self, data):
        if self.name.startswith(".003.png."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really_write(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    ran = segment(folder)
    out = tmp_path / "out"
    assert ran.code == 5
    (error,) = [line for line in ran.err if line.startswith("error: ")]
    space = r"it takes \d\.\d kB, [\d.]+ [kMG]B are free there"
    place = re.escape(f"error: {out}/labels/003.png: cannot be written: ")
    assert re.fullmatch(rf"{place}no space is left for it \({space}\); free some or choose another output", error), error
    assert list(read_labels(out / "labels")) == ["000.png", "001.png", "002.png"]
    assert count_video_frames(out / "overlay.webm") == 3
    assert (read_summary(out)["complete"], read_summary(out)["frames"]) == (False, 3)


def test_summary_that_cannot_be_written_is_an_error(segment, folder, monkeypatch):
    def write_text(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_text)
    ran = segment(folder, "--save", "[labels]")
    assert ran.code == 5
    assert "summary.json: [Errno 28] No space left on device" in ran.err[-1]


def test_window_of_weights_without_memory(segment, folder, single_frame_weights):
    ran = segment(folder, "--window", 5, weights=single_frame_weights)
    assert_one_error(ran, 2, "--window was given, but these weights have no memory")


def test_weights_without_memory_say_so_and_segment(segment, folder, tmp_path, single_frame_weights):
    ran = segment(folder, "--save", "[labels]", weights=single_frame_weights)
    assert ran.code == 0 and "memory off: these weights have none" in ran.err[0]
    assert read_summary(tmp_path / "out")["memory"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cuda:9"), "device cuda:9 is not there"),
        (("--device", "abacus"), "device must be auto, cpu, cuda or cuda:N, got 'abacus'"),
        (("--device", "meta"), "device must be auto, cpu, cuda or cuda:N, got 'meta'"),
        (("--window", 4), "memory.window must be odd, .*, got 4"),
        (("--memory-frames", -1), "memory_frames must be 0 to 64, got -1"),
        (("--memory-interval", -1), "memory_interval_s must be 0 to 60 s, got -1"),
        (("--network-size", "large"), "a size is WIDTHxHEIGHT .*got 'large'"),
        (("--output-size", "0x0"), "a size is WIDTHxHEIGHT .*got '0x0'"),
        (("--upsample", "logits", "--resize", "crop"), "upsample: logits wants resize: stretch"),
        (("--gap", -1), "gap_s must be 0 s or more, got -1"),
        (("--gap-intervals", 0.5), "gap_intervals must be 1 to 1000, got 0.5"),
        (("--fps", 0), "fps must be a positive number, got 0"),
        (("--max-frames", 0), "--max-frames must be 1 or more, got 0"),
        (("--picture", -1), "--picture must be 0 or more, got -1"),
        (("--max-frames", "many"), "max_frames.*Expected a <class 'int'>.*many"),
        (("--resize", "zoom"), "resize.*'stretch', 'letterbox', 'crop'.*Got value: zoom"),
        (("--memry", "false"), "unrecognized arguments: --memry"),
    ],
)
def test_wrong_option(segment, folder, tmp_path, arguments, message):
    assert_one_error(segment(folder, *arguments), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segment",), "required: .*input"),
        (("segment", "x.mp4"), "required: .*out"),
        (("weights",), "one of {info,convert,list,fetch}"),
        (("weights", "info"), "required: .*file"),
    ],
)
def test_incomplete_command(lmanet, arguments, message):
    assert_one_error(lmanet(*arguments), 2, message)


def test_command_that_there_is_not(lmanet, capsys):
    ran = lmanet("segmnt")
    assert (ran.code, ran.err) == (2, ["error: lmanet has no command 'segmnt'; did you mean segment?"])
    assert lmanet().code == 2


# ---- configuration file ----------------------------------------------------------------------------------------------------


def test_config_file_sets_options_and_the_command_line_overrides_it(lmanet, folder, tmp_path, video_weights):
    out, config = tmp_path / "out", tmp_path / "segment.yaml"
    config.write_text(f"weights: {video_weights}\nout: {out}\nsave: [labels]\nmax_frames: 2\nmemory: false\n")
    assert lmanet("segment", folder, "--config", config).code == 0
    assert (read_summary(out)["frames"], read_summary(out)["memory"]) == (2, False)
    assert lmanet("segment", folder, "--config", config, "--overwrite", "--max-frames", 3).code == 0
    assert (read_summary(out)["frames"], read_summary(out)["memory"]) == (3, False)
    for after in (("--config", config), (f"--config={config}",)):  # wherever the file is named
        assert lmanet("segment", folder, "--max-frames", 4, *after, "--overwrite").code == 0
        assert (read_summary(out)["frames"], read_summary(out)["memory"]) == (4, False)


def test_config_without_a_file(segment, folder):
    assert_one_error(segment(folder, "--config"), 2, "argument --config: expected one argument")


@pytest.mark.parametrize("how", [("--config", "{}"), ("--config={}",)])
def test_unknown_key_names_file_key_and_the_nearest(segment, folder, tmp_path, how):
    config = tmp_path / "typo.yaml"
    config.write_text("memory_frmes: 2\n")
    ran = segment(folder, *(argument.format(config) for argument in how))
    assert_one_error(ran, 2, "typo.yaml: unknown option 'memory_frmes'; did you mean memory_frames?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zzz: 1\n", "config.yaml: unknown option 'zzz'; known: input, weights, out,"),
        ("", "config.yaml: wanted 'option: value' lines, got NoneType"),
        ("- 1\n", "config.yaml: wanted 'option: value' lines, got list"),
        ("save: [labels\n: x", "cannot read config .*config.yaml: while parsing"),
        ("memory: perhaps\n", "memory.*on or off.*perhaps"),
    ],
)
def test_wrong_config_file(segment, folder, tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    assert_one_error(segment(folder, "--config", tmp_path / "config.yaml"), 2, message)


def test_missing_config_file(segment, folder, tmp_path):
    assert_one_error(segment(folder, "--config", tmp_path / "none.yaml"), 2, "cannot read config .*none.yaml: .*No such file")


# ---- weights and doctor ----------------------------------------------------------------------------------------------------


def test_weights_info_shows_what_a_file_holds(lmanet, video_weights):
    ran = lmanet("weights", "info", video_weights)
    assert ran.code == 0 and ran.err == []
    words = " ".join(ran.out.split())
    for what in (
        "kind LMANet safetensors",
        "architecture erfnet",
        "trained at 64x32",
        "memory 3 frames, window 5, gated fusion",
        "key, value 4, 8 channels",
        "classes 19: road, sidewalk",
        "group drivable road",
        "trained not at all",
    ):
        assert what in words


def test_weights_info_of_weights_without_memory_says_so(lmanet, single_frame_weights):
    assert "none trained; the label memory needs none" in lmanet("weights", "info", single_frame_weights).out


def test_half_weights_are_half_as_large_and_load_in_full_precision(lmanet, video_weights, tmp_path):
    half = tmp_path / "half.safetensors"
    assert lmanet("weights", "convert", video_weights, "--out", half, "--half").code == 0
    again = ("weights", "convert", video_weights, "--out", half)
    assert_one_error(lmanet(*again), 5, "half.*exists; choose another --out, such as .*half_2.safetensors, or pass --overwrite")
    assert lmanet(*again, "--half", "--overwrite").code == 0
    assert half.stat().st_size < 0.55 * Path(video_weights).stat().st_size
    exact, rounded = (load_model(path).network.state_dict() for path in (video_weights, half))
    for name, tensor in exact.items():
        torch.testing.assert_close(rounded[name], tensor, rtol=1e-3, atol=1e-6)


def test_converted_weights_give_the_same_labels(lmanet, segment, folder, video_weights, tmp_path):
    converted = tmp_path / "converted.safetensors"
    assert lmanet("weights", "convert", video_weights, "--out", converted).code == 0
    segment(folder, "--save", "[labels]", out=tmp_path / "one")
    segment(folder, "--save", "[labels]", out=tmp_path / "two", weights=converted)
    one, two = read_labels(tmp_path / "one" / "labels"), read_labels(tmp_path / "two" / "labels")
    assert len(one) == 6 and all(np.array_equal(one[name], two[name]) for name in one)
    words = " ".join(lmanet("weights", "info", converted).out.split())
    assert "converted_from video.safetensors" in words
    assert f"sha256 {hashlib.sha256(video_weights.read_bytes()).hexdigest()}" in words


def test_weights_that_cannot_be_read_or_written(lmanet, video_weights, tmp_path):
    assert_one_error(lmanet("weights", "info", tmp_path), 4, "a folder")
    ran = lmanet("weights", "convert", video_weights, "--out", tmp_path / "none" / "x.safetensors")
    assert_one_error(ran, 5, "none/x.safetensors: cannot be written: there is no such folder")


def test_converting_replaces_nothing_but_files_in_our_format(lmanet, tmp_path, video_weights):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"not weights")
    ran = lmanet("weights", "convert", video_weights, "--out", mine, "--overwrite")
    assert_one_error(ran, 5, "mine.safetensors is none of lmanet's files and stays; choose another --out")
    assert mine.read_bytes() == b"not weights"
    copy = tmp_path / "copy.safetensors"
    shutil.copy(video_weights, copy)
    before = copy.read_bytes()
    ran = lmanet("weights", "convert", copy, "--out", copy, "--overwrite")
    assert_one_error(ran, 5, "copy.safetensors is the file to convert; choose another --out")
    assert copy.read_bytes() == before


def test_doctor_is_content_here(lmanet, video_weights, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    ran = lmanet("doctor", "--weights", video_weights)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "ready"
    assert "memory of 3 frames" in " ".join(ran.out.split())


def test_doctor_with_bad_weights_has_a_problem(lmanet, tmp_path, monkeypatch):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    ran = lmanet("doctor", "--weights", tmp_path / "none.pth")
    assert ran.code == 1
    *_, problem, last = ran.out.splitlines()
    assert problem.startswith("PROBLEM: cannot read weights") and last == "1 problem"


# ---- help ------------------------------------------------------------------------------------------------------------------

SEGMENT_OPTIONS = (
    "input", "--weights", "--out", "--config", "--save", "--picture", "--overwrite", "--topic", "--fps", "--max-frames",
    "--device", "--precision", "--memory ", "--memory-frames", "--memory-interval", "--window", "--network-size",
    "--output-size", "--resize", "--upsample", "--gap", "--scene-cut",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ((), ("segment", "doctor", "weights", "--version")),
        (("segment",), SEGMENT_OPTIONS),
        (("doctor",), ("--weights",)),
        (("weights",), ("info", "convert")),
        (("weights", "info"), ("file",)),
        (("weights", "convert"), ("file", "--out")),
    ],
)
def test_help_mentions_every_option(lmanet, command, mentioned):
    ran = lmanet(*command, "--help")
    assert ran.code == 0 and ran.err == []
    assert [what for what in mentioned if what not in ran.out] == []


def test_version(lmanet):
    ran = lmanet("--version")
    assert ran.code == 0 and __version__ in ran.out


# ---- as a process ----------------------------------------------------------------------------------------------------------


STRIKE = """
import os
from pathlib import Path

def strike(*arguments, **options):
    os.kill(os.getpid(), {number})

class Lost:
    def __del__(self):
        strike()

"""
AT_A_FRAME = """
replace = Path.replace

def replace_and_strike(self, target):
    done = replace(self, target)
    if Path(target).name == "002.png" and Path(target).parent.name == "labels":
        at_a_frame()
    return done

Path.replace = replace_and_strike

def at_a_frame():
"""


def start(*arguments, path=None, ignored=False):
    """The command as a process of its own, which takes Ctrl-C even where the tests themselves run in the background.

    Modules of the folder `path` come before those that are installed. `ignored`: it is started with Ctrl-C ignored.
    """
    package_folder = str(Path(lmanet_core.__file__).parents[1])
    first = [] if path is None else [str(path)]
    path = os.pathsep.join((*first, package_folder, *filter(None, [os.environ.get("PYTHONPATH")])))
    return subprocess.Popen(
        [sys.executable, "-m", "lmanet_core.commands", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )


def test_process_ends_with_the_exit_code(tmp_path, video_weights):
    process = start("segment", tmp_path / "none", "--weights", video_weights, "--out", tmp_path / "out")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert err.splitlines() == [f"error: {tmp_path}/none: wanted a video, image, bag or folder, there is no such file"]


def test_process_segments_a_bag_without_a_warning(tmp_path, video_weights, bag):
    process = start("segment", bag, "--weights", video_weights, "--out", tmp_path / "out", "--precision", "fp32")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert [line.split()[0] for line in err.splitlines()] == ["LMANet", "segmenting", "6"]
    assert read_summary(tmp_path / "out")["complete"]


def test_process_warns_of_damage(tmp_path, video_weights, folder):
    (folder / "003.png").write_bytes(b"")
    process = start("segment", folder, "--weights", video_weights, "--out", tmp_path / "out")
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert "skipped 003.png" in " ".join(err.split())


@pytest.mark.parametrize(("number", "code", "last_words"), [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, None)])
def test_signal_leaves_whole_files(tmp_path, video_weights, images, ros2, number, code, last_words):
    folder, out = tmp_path / "long", tmp_path / "out"
    write_folder(folder, images[:2])
    for index in range(2, 900):  # so many that a busy machine has not come to their end when the signal comes
        shutil.copy(folder / f"{index % 2:03d}.png", folder / f"{index:03d}.png")
    process = start("segment", folder, "--weights", video_weights, "--out", out, "--save", "[labels,masks,overlay,color,bag]")
    deadline = time.monotonic() + 60
    while not (out / "labels" / "009.png").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err
    assert "Traceback" not in err and "error" not in err
    assert last_words is None or err.splitlines()[-1] == last_words
    summary = read_summary(out)
    assert not summary["complete"] and 9 <= summary["frames"] < 900
    labels = read_labels(out / "labels")
    assert len(labels) == summary["frames"]
    assert all(label_map is not None and label_map.shape == (HEIGHT, WIDTH) for label_map in labels.values())
    assert [path for path in out.rglob(".*") if path.is_file()] == [out / MANIFEST]
    assert count_video_frames(out / "overlay.webm") == len(labels)
    assert count_video_frames(out / "color.webm") == len(labels)
    written = read_bag(out / "result", ros2.store)
    assert len(written) == len(labels)
    for (_, message), label_map in zip(written, labels.values(), strict=True):
        assert np.array_equal(message.data.reshape(HEIGHT, WIDTH), label_map)


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "stopped\n"), (signal.SIGTERM, 143, "")])
@pytest.mark.parametrize("command", ["segment", "train", "experiment"])
def test_signal_during_the_imports_ends_without_a_traceback(command, number, code, said, tmp_path):
    (tmp_path / "torch.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start(command, "x", path=tmp_path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (code, said)


#: Where the signal strikes → what brings it there, as Python's `sitecustomize`.
STRIKES = {
    "before the command": "import logging\nlogging.basicConfig = strike",
    "while options are read": "import argparse\nargparse.ArgumentParser.__init__ = strike",
    "at the interpreter's farewell": "import atexit\natexit.register(strike)",
    "where exceptions are lost": AT_A_FRAME + "    Lost()",
    "while files are written": AT_A_FRAME + "    strike()",
}


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, None)])
@pytest.mark.parametrize("where", STRIKES)
def test_signal_stops_a_run_wherever_it_strikes(where, number, code, said, tmp_path, folder, video_weights):
    (tmp_path / "sitecustomize.py").write_text(f"{STRIKE.format(number=int(number))}{STRIKES[where]}\n")
    out = tmp_path / "out"
    arguments = ("--weights", video_weights, "--out", out, "--save", "labels,overlay,bag")
    process = start("segment", folder, *arguments, path=tmp_path)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error and "Exception" not in error
    assert (error.splitlines() or [None])[-1] == said or said is None
    if "farewell" in where:
        assert read_summary(out)["complete"]
    elif where in ("where exceptions are lost", "while files are written"):
        summary = read_summary(out)
        assert (summary["complete"], summary["frames"]) == (False, 3)
        assert len(read_labels(out / "labels")) == count_video_frames(out / "overlay.webm") == 3
        assert json.loads((out / MANIFEST).read_text())
    else:
        assert not out.exists()


def test_a_second_signal_does_not_wait_for_files(tmp_path, folder, video_weights):
    code = f"{STRIKE.format(number=int(signal.SIGTERM))}{AT_A_FRAME}    strike()\n    strike()\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    process = start(
        "segment", folder, "--weights", video_weights, "--out", tmp_path / "out", "--save", "labels,overlay", path=tmp_path
    )
    assert process.communicate(timeout=60)[1] is not None and process.returncode == 143
    assert (read_summary(tmp_path / "out")["frames"], len(read_labels(tmp_path / "out" / "labels"))) == (2, 3)


def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path, folder, video_weights):
    """Such as Ctrl-C, for what a script put into the background."""
    (tmp_path / "sitecustomize.py").write_text(f"{STRIKE.format(number=2)}{AT_A_FRAME}    strike()\n")
    process = start("segment", folder, "--weights", video_weights, "--out", tmp_path / "out", path=tmp_path, ignored=True)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "stopped" not in error and read_summary(tmp_path / "out")["complete"]


def test_without_weights_it_is_said_what_those_that_ship_know(lmanet, folder, tmp_path):
    ran = lmanet("segment", folder, "--out", tmp_path / "out", "--save", "labels", "--max-frames", "1")
    assert ran.code == 0 and "know a generated street and nothing else" in " ".join(ran.err)


def make_long(folder, images, count=60):
    """A folder of so many images."""
    write_folder(folder, images)
    for index in range(6, count):
        shutil.copy(folder / f"{index % 6:03d}.png", folder / f"{index:03d}.png")
    return folder


def kill_after(out, name, *given):
    """Start a run, and kill it as soon as it has written this label image."""
    process = start(*given, "--out", out)
    deadline = time.monotonic() + 60
    while not (out / "labels" / name).exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)


def read_pictures(video):
    capture, pictures = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        pictures.append(read[1])
    capture.release()
    return np.stack(pictures).astype(int)


def read_messages(bag):
    """Topic, time and bytes of each message."""
    with Reader2(bag) as reader:
        messages = sorted((connection.topic, stamp, bytes(data)) for connection, stamp, data in reader.messages())
    topics = {topic for topic, _, _ in messages}
    assert {f"/segmentation/{name}" for name in ("labels", "confidence", "label_info")} <= topics
    return messages


def assert_same_results(one, other):
    """PNGs, videos, and every message of the bag."""
    for kind in ("labels", "masks/person", "color"):
        of_one, of_other = read_labels(one / kind), read_labels(other / kind)
        assert of_one.keys() == of_other.keys() and all((of_one[name] == of_other[name]).all() for name in of_other)
    of_one, of_other = read_pictures(one / "overlay.webm"), read_pictures(other / "overlay.webm")
    assert of_one.shape == of_other.shape and abs(of_one - of_other).mean() < 1.0
    assert read_messages(one / "result") == read_messages(other / "result")


def test_a_killed_run_leaves_whole_pngs_and_goes_on(tmp_path, lmanet, video_weights, images):
    folder, out = make_long(tmp_path / "long", images), tmp_path / "out"
    given = ("segment", folder, "--weights", video_weights, "--device", "cpu", "--precision", "fp32")
    given += ("--save", "labels,masks,color_images,overlay,bag")
    kill_after(out, "009.png", *given)
    left = {path: path.stat().st_mtime_ns for path in (out / "labels").glob("*.png")}
    assert 10 <= len(left) < 60 and all(label_map is not None for label_map in read_labels(out / "labels").values())
    assert lmanet(*given, "--out", out).code == 5  # not without being asked
    assert lmanet(*given, "--out", out, "--resume", "--network-size", "32x32").code == 2
    assert lmanet(*given, "--out", out, "--resume").code == 0
    summary = read_summary(out)
    assert summary["complete"] and summary["resumed"] and summary["kept"] + summary["frames"] == 60
    assert len([path for path, time_ns in left.items() if path.stat().st_mtime_ns == time_ns]) == summary["kept"]
    assert lmanet(*given, "--out", tmp_path / "whole").code == 0
    assert_same_results(out, tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert lmanet(*given, "--out", out, "--overwrite").code == 0  # all of it is known to be ours


def test_a_run_that_is_killed_twice_loses_nothing(tmp_path, lmanet, video_weights, images):
    folder, out = make_long(tmp_path / "long", images), tmp_path / "out"
    given = ("segment", folder, "--weights", video_weights, "--device", "cpu", "--precision", "fp32")
    given += ("--save", "labels,masks,color_images,overlay,bag")
    assert lmanet(*given, "--out", tmp_path / "whole").code == 0
    assert lmanet(*given, "--out", out, "--max-frames", "40").code == 0
    kill_after(out, "045.png", *given, "--resume")
    bags = [sum(file.stat().st_size for file in (out / name).iterdir()) for name in ("earlier_result", "result")]
    assert bags[0] > 0
    assert lmanet(*given, "--out", out, "--resume").code == 0
    assert read_summary(out)["kept"] >= 40 and not (out / "earlier_result").exists()
    assert_same_results(out, tmp_path / "whole")


def test_what_is_missing_of_a_frame_is_made_anew_with_all_that_follows(segment, folder, tmp_path):
    out, given = tmp_path / "out", ("--save", "labels,masks,color_images")
    assert segment(folder, *given).code == 0
    whole = {kind: read_labels(out / kind) for kind in ("labels", "masks/person", "color")}
    for number, lost in ((3, "color/003.png"), (2, "masks/person/002.png"), (1, "labels/001.png")):
        (out / lost).unlink()
        assert segment(folder, *given, "--resume").code == 0
        assert read_summary(out)["kept"] == number
    for kind, before in whole.items():
        assert all((image == before[name]).all() for name, image in read_labels(out / kind).items()), kind


def test_a_run_goes_on_with_more_results_and_a_picture_of_a_frame_that_was_done(segment, folder, tmp_path, ros2):
    out = tmp_path / "out"
    assert segment(folder, "--save", "labels", "--max-frames", "4").code == 0
    assert segment(folder, "--save", "labels,color", "--resume", "--picture", "2").code == 0
    assert read_summary(out)["kept"] == 4 and (out / "picture.png").is_file() and count_video_frames(out / "color.webm") == 6
    assert segment(folder, "--save", "labels,bag", "--resume").code == 0
    assert read_summary(out)["kept"] == 0 and len(read_bag(out / "result", ros2.store)) == 6  # no confidence was there
    assert segment(folder, "--save", "labels,color,bag", "--overwrite").code == 0


def test_several_cameras_go_on_each_where_it_was(lmanet, video_weights, folder, tmp_path, images):
    other = write_folder(tmp_path / "other", images[:5])
    given = ("segment", folder, other, "--weights", video_weights, "--out", tmp_path / "out", "--save", "labels,overlay")
    assert lmanet(*given).code == 0
    for lost in ("images/labels/004.png", "other/labels/001.png"):
        (tmp_path / "out" / lost).unlink()
    assert lmanet(*given, "--resume").code == 0
    assert [read_summary(tmp_path / "out" / name)["kept"] for name in ("images", "other")] == [4, 1]
    assert [count_video_frames(tmp_path / "out" / name / "overlay.webm") for name in ("images", "other")] == [6, 5]


def test_a_file_of_the_users_in_the_earlier_bag_is_kept(segment, folder, tmp_path):
    out, given = tmp_path / "out", ("--save", "labels,bag")
    assert segment(folder, *given).code == 0
    (out / "result" / "notes.txt").write_text("mine")
    assert_one_error(segment(folder, *given, "--resume"), 5, r"earlier_result holds notes\.txt, which lmanet did not write")
    assert (out / "earlier_result" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("given", "what"), [(["--save", "overlay,bag"], "--save overlay,bag"), ([], "a live stream")])
def test_what_cannot_be_gone_on_with_says_why(segment, folder, monkeypatch, given, what):
    if not given:
        monkeypatch.setattr(FolderSource, "kind", "live")
    said = f"--resume goes on with a recording whose labels were saved, got {what}; leave it out"
    assert_one_error(segment(folder, "--resume", *given), 2, said)


def test_a_run_that_was_done_has_nothing_to_resume(segment, folder, tmp_path):
    for again in ((), ("--resume",), ("--resume", "--max-frames", "3")):
        assert segment(folder, "--save", "labels", *again).code == 0
    assert len(read_labels(tmp_path / "out" / "labels")) == 6 and read_summary(tmp_path / "out")["frames"] == 0


def test_run_that_goes_on_and_cleared_nothing_says_none(segment, folder):
    segment(folder, "--save", "labels", "--max-frames", 2)
    ran = segment(folder, "--save", "labels", "--resume")
    assert ran.code == 0 and any("; resets: none; in " in line for line in ran.err)
