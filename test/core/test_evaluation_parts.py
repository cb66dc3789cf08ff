"""Parts of the evaluation by themselves: attention, the simulated queue, labels in time, long recordings, pictures, plots."""

from __future__ import annotations

import json
import re
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from lmanet_core.evaluation.attention import choose_positions
from lmanet_core.evaluation.live import ArrivalClock
from lmanet_core.evaluation.page import write_page
from lmanet_core.evaluation.pictures import Moments
from lmanet_core.evaluation.plots import Timeline, draw_timeline
from lmanet_core.evaluation.recorder import Recorder
from lmanet_core.evaluation.report import build_summary, write_summary
from lmanet_core.evaluation.session import CameraInput, Session, name_cameras
from lmanet_core.evaluation.truth import StampedLabels, StampedTruth, open_truth, with_truth
from lmanet_core.frame import Discontinuity, Frame, FrameResult
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.labels import CAMVID11
from lmanet_core.labels.mapping import LabelMapping
from lmanet_core.ops import attention_weights
from lmanet_core.stream.attention_view import attend
from lmanet_core.stream.segmenter import VideoSegmenter

SECOND = 10**9


# ---- attention -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [(32, 16), (0, 0), (63.9, 31.9), (5, 30)])
def test_attention_of_a_position_is_that_of_the_whole_map(video_weights, make_scene, position):
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    images = [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(5)]
    for number, image in enumerate(images[:4]):
        segmenter.step(image, number * SECOND // 10)
    (attention,) = attend(segmenter, images[4], [position])
    network = segmenter.runtime.network
    pixels = torch.from_numpy(images[4]).permute(2, 0, 1)[None].float() / 255
    memory = segmenter.memory.buffer.frames()
    with torch.inference_mode():
        query = network.memory.query_head(network.encode(pixels)).key
        whole = attention_weights(query, memory.keys, 5)[0, :, :, attention.row, attention.column].view(-1, 5, 5).numpy()
    inside = np.zeros((4, 8), bool)
    inside[:] = True
    seen = np.pad(inside, 2)[attention.row : attention.row + 5, attention.column : attention.column + 5]
    assert (attention.row, attention.column) == (int(position[1] // 8), int(position[0] // 8))
    assert np.allclose(attention.weights, whole * seen, atol=1e-6)
    assert sorted(attention.stamps_ns) == [SECOND // 10, 2 * SECOND // 10, 3 * SECOND // 10]


def test_attending_changes_nothing(video_weights, make_scene):
    images = [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(4)]
    maps = []
    for look in (False, True):
        segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
        for number, image in enumerate(images):
            if look:
                attend(segmenter, image, [(10, 10)])
            labels = segmenter.step(image, number * SECOND // 10).labels
        maps.append(labels)
    assert np.array_equal(*maps)


def test_nothing_to_attend_to_before_the_first_frame(video_weights, make_scene):
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    assert attend(segmenter, make_scene(), [(10, 10)]) == []


def test_positions_are_the_middles_of_small_regions():
    labels = np.zeros((40, 80), np.uint8)
    labels[10:17, 20:27] = 3
    labels[0, 0] = 4  # too small
    positions = choose_positions(labels, (80, 160))
    assert positions[0] == (2 * 23.5, 2 * 13.5)
    assert len(positions) == 2


# ---- as if live ------------------------------------------------------------------------------------------------------------


def test_arrivals_never_go_back_where_stamps_do():
    clock = ArrivalClock()
    stamps = [0, 1, 2, 100, 101, 5, 6]  # a pause too long to wait for, then a loop
    assert [clock.arrival_s(stamp * SECOND) for stamp in stamps] == [0, 1, 2, 3, 4, 5, 6]


# ---- labels in time --------------------------------------------------------------------------------------------------------


def match(frames_s, labels_s, tolerance_s=0.02):
    """Which label each frame gets."""
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), round(at * 1e9)) for at in frames_s]
    labels = [
        StampedLabels(round(at * 1e9), lambda n=number: np.full((1, 1), n, np.uint8)) for number, at in enumerate(labels_s)
    ]
    truth = StampedTruth(labels, tolerance_s)
    found = [None if ids is None else int(ids[0, 0]) for _, ids in with_truth(frames, truth)]
    return found, truth.matched, truth.unmatched


def test_sparse_labels_belong_to_their_frames_only():
    assert match([0, 0.1, 0.2, 0.3, 0.4], [0.1, 0.4]) == ([None, 0, None, None, 1], 2, 0)


def test_a_label_between_two_frames_belongs_to_the_nearer_and_to_one():
    assert match([0.00, 0.03, 0.06], [0.02], tolerance_s=0.05) == ([None, 0, None], 1, 0)


def test_labels_beyond_the_tolerance_are_unmatched():
    assert match([0, 0.1], [0.03, 0.1, 7.0]) == ([None, 1], 1, 2)


def test_labels_of_a_bag_that_loops_are_found_again():
    once = [0.1 * number for number in range(30)]
    found, matched, unmatched = match(once * 2, once * 2)
    assert found == list(range(60))
    assert (matched, unmatched) == (60, 0)


def test_a_few_nonsensical_stamps_do_not_stop_the_others():
    frames = [0.1 * number for number in range(12)]
    labels = [at + 5e3 if 4 <= number < 9 else at for number, at in enumerate(frames)]
    found, matched, unmatched = match(frames, labels)
    assert found == [0, 1, 2, 3, None, None, None, None, None, 9, 10, 11]
    assert (matched, unmatched) == (7, 5)


def test_labels_far_ahead_are_not_read_before_their_time():
    read = []

    def labels():
        for number in range(1000):
            read.append(number)
            yield StampedLabels((100 + number) * SECOND, lambda: np.zeros((1, 1), np.uint8))

    truth = StampedTruth(labels(), 0.02)
    for number in range(90):
        assert truth.find(Frame(np.zeros((1, 1, 3), np.uint8), number * SECOND), None) is None
    assert len(read) <= 16


def label_folder(folder, stems):
    folder.mkdir()
    for value, stem in enumerate(stems):
        assert cv2.imwrite(str(folder / f"{stem}.png"), np.full((1, 1), value, np.uint8))
    return str(folder)


def test_labels_named_as_the_images_are_theirs_whatever_the_stamps(tmp_path):
    names = [f"17000000000{n}0000000" for n in (10, 11, 12)]
    truth = open_truth(label_folder(tmp_path / "labels", names[1:]), tmp_path, 0.02)
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), index * SECOND, name=name) for index, name in enumerate(names)]
    assert [None if ids is None else ids.item() for _, ids in with_truth(frames, truth)] == [None, 0, 1]
    assert (truth.matched, truth.unmatched) == (2, 0)


def test_labels_named_by_time_belong_to_the_nearest_stamp_where_no_image_has_their_name(tmp_path):
    truth = open_truth(label_folder(tmp_path / "labels", ["1700000000.100000", "1700000000.300000"]), tmp_path, 0.02)
    stamps = [1_700_000_000 * SECOND + tenth * SECOND // 10 for tenth in range(4)]
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), stamp, name=f"{index:06d}") for index, stamp in enumerate(stamps)]
    assert [None if ids is None else ids.item() for _, ids in with_truth(frames, truth)] == [None, 0, None, 1]
    assert (truth.matched, truth.unmatched) == (2, 0)


def test_labels_that_begin_long_before_the_frames_are_skipped():
    assert match([5.0, 5.1], [0.1 * number for number in range(60)]) == ([50, 51], 2, 58)


# ---- long recordings -------------------------------------------------------------------------------------------------------


def record(folder, frames, size=(24, 32)):
    """A made-up evaluation of a long recording, without a network; returns traced memory in the middle and at the end."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (size[0], size[1] + 64, 3), np.uint8)
    plan = plan_geometry(Size(*size), Size(*size))
    recorder = Recorder(folder, CAMVID11, LabelMapping.identity(CAMVID11), ["camera"], ("on", "off"), ("page",), True)
    tracemalloc.start()
    sizes = []
    for number in range(frames):
        image = np.ascontiguousarray(texture[:, number % 64 : number % 64 + size[1]])
        maps = [rng.integers(0, 11, size, np.uint8) for _ in range(2)]
        cause = Discontinuity.FIRST_FRAME if number == 0 else Discontinuity.GAP if number % 500 == 0 else None
        results = {
            name: FrameResult(labels, None, number * SECOND // 15, "", cause, 3, True, plan, {"encode": 1.0, "total": 2.0})
            for name, labels in zip(("on", "off"), maps, strict=True)
        }
        recorder.add("camera", Frame(image, number * SECOND // 15, name=f"{number:06d}"), maps[1], results)
        if number in (frames // 2, frames - 1):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    recorder.close()
    run = {"mode": "made up", "weights": {"file": "none", "sha256": "", "kind": "none"}, "inputs": [], "device": "cpu",
           "precision": "fp32", "settings": {}}  # fmt: skip
    session = Session([CameraInput("camera", folder)], dict, recorder)
    pictures = recorder.save_pictures()
    write_summary(folder / "summary.json", build_summary(session, (), run, 1.0, True, pictures=pictures))
    return sizes


def test_thousands_of_frames_keep_memory_flat_and_the_report_below_10_mb(tmp_path):
    half, whole = record(tmp_path, 2000)
    assert (whole - half) / 1000 < 400  # bytes a frame: a few times and counts, no image, no label map (768 bytes)
    page = write_page(tmp_path)
    total = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert total < 10e6
    assert page.stat().st_size < 1e6
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 2000
    paths = re.findall(r'<path class="curve on" d="([^"]*)"', page.read_text())
    assert paths and all(path.count("L") <= 400 for path in paths)


# ---- pictures and plots ----------------------------------------------------------------------------------------------------


def test_moments_are_the_worst_and_lie_apart(tmp_path):
    moments = Moments(count=2, apart=5)
    picture = np.zeros((4, 4, 3), np.uint8)
    for number, badness in enumerate([0.1, 0.9, 0.8, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0.7, 0.6]):
        if moments.wants(badness, number):
            moments.keep(badness, number, {"number": number}, {"camera": picture})
    kept = moments.save(tmp_path / "pictures", "worst")
    assert [moment["frame"]["number"] for moment in kept] == [1, 13]
    assert (tmp_path / kept[0]["panels"][0]["file"]).is_file()


def test_a_curve_is_broken_where_nothing_was_measured():
    svg = draw_timeline(Timeline([0, 1, 2, 3], {"on": [0.5, None, 0.7, 0.6]}), "accuracy")
    path = re.search(r'class="curve on" d="([^"]*)"', svg)[1]
    assert [part[0] for part in path.split() if part[0] in "ML"] == ["M", "M", "L"]


def test_a_flat_curve_and_one_frame_can_be_drawn():
    assert "NaN" not in draw_timeline(Timeline([0.0], {"on": [1.0]}), "accuracy")
    assert draw_timeline(Timeline([0.0], {"on": [None]}), "accuracy") == ""


def test_text_from_outside_is_escaped(tmp_path):
    record(tmp_path, 3)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["paths"]["inputs"] = ["<script>alert(1)</script>"]
    summary["run"]["weights"]["file"] = "<b>"
    write_summary(tmp_path / "summary.json", summary)
    page = write_page(tmp_path).read_text()
    assert "<script" not in page and "<b>" not in page.replace('<div class="tile"><b>', "")


@pytest.mark.parametrize(
    ("recordings", "topics", "names"),
    [
        (["drive.mcap"], [], ["camera"]),
        (["drive.mcap"], ["/front/image_raw", "/rear/image_raw/compressed"], ["front", "rear"]),
        (["a.mcap", "b.mcap"], [], ["a", "b"]),
        (["x/a.mcap", "y/a.mcap"], [], ["a", "a_2"]),
        (["drive.mcap"], ["/rig/left/image", "/rig/right/image"], ["rig_left", "rig_right"]),
    ],
)
def test_cameras_get_names_that_differ(recordings, topics, names):
    assert [camera.name for camera in name_cameras(recordings, topics, [], None)] == names
