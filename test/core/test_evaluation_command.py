"""lmanet evaluate, compare and explain as a user calls them: results, repeatability, verdicts and every kind of bad input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from lmanet_core.commands.main import main
from lmanet_core.evaluation import EvaluationConfig
from lmanet_core.evaluation import evaluate as evaluate_recordings
from lmanet_core.stream.segmenter import VideoSegmenter

SECOND = 10**9
START = 1_700_000_000 * SECOND
FRAMES = 9


@pytest.fixture
def lmanet(capsys):
    """Run a command: exit code, standard output, errors in one line each."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=" ".join(said.err.split()))

    return run


@pytest.fixture
def evaluate(lmanet, video_weights, tmp_path):
    def run(*arguments, out=tmp_path / "report", weights=video_weights):
        return lmanet("evaluate", *arguments, "--weights", weights, "--out", out, "--device", "cpu", "--precision", "fp32")

    return run


@pytest.fixture(scope="module")
def images(make_scene):
    return [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(FRAMES)]


@pytest.fixture(scope="module")
def truth(images, video_weights):
    """What the weights themselves say with the memory on, with one row wrong in each: label images."""
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    maps = []
    for index, image in enumerate(images):
        labels = segmenter.step(image, START + index * SECOND // 10, "camera").labels.copy()
        labels[0] = (labels[0] + 1) % 19
        maps.append(labels)
    return maps


def png(labels):
    return cv2.imencode(".png", labels)[1].tobytes()


def stamp(index):
    return START + index * SECOND // 10


@pytest.fixture
def bag(tmp_path, ros2, images, truth):
    """Writes a bag with labels beside the camera; `edit` may change its messages."""

    def write(name="drive", edit=lambda messages: messages, topics=("/camera",)):
        messages = [
            item
            for index, (image, labels) in enumerate(zip(images, truth, strict=True))
            for topic in topics
            for item in (
                (f"{topic}/image_raw", stamp(index), ros2.image(image, stamp(index))),
                (f"{topic}/labels/compressed", stamp(index), ros2.compressed(png(labels), stamp(index), "png")),
            )
        ]
        return ros2.write(tmp_path / name, edit(messages))

    return write


LABELS = ("--labels", "/camera/labels/compressed")


def summary_of(report):
    return json.loads((report / "summary.json").read_text())


def rows_of(report):
    return [json.loads(line) for line in (report / "frames.jsonl").read_text().splitlines()]


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_report_is_complete_and_accuracy_is_that_of_the_labels(evaluate, bag, tmp_path, truth, ros2):
    ran = evaluate(bag(), *LABELS)
    report = tmp_path / "report"
    assert ran.code == 0, ran.err
    assert {"summary.json", "frames.jsonl", "report.html", "result", "side_by_side.webm"} <= {p.name for p in report.iterdir()}
    summary = summary_of(report)
    assert summary["figures"]["accuracy"] == pytest.approx(31 / 32)  # one row of 32 is wrong
    assert summary["figures"]["frames"] == summary["figures"]["labelled_frames"] == FRAMES
    assert summary["variants"] == ["on", "off"]
    assert summary["figures"]["gain.accuracy"] == pytest.approx(
        summary["figures"]["accuracy"] - summary["figures"]["off.accuracy"]
    )
    rows = rows_of(report)
    assert [row["memory_frames"] for row in rows] == [0, 1, 2, *[3] * (FRAMES - 3)]
    assert rows[0]["reset"] == "first_frame" and rows[0]["off"]["accuracy"] == rows[0]["accuracy"]
    with Reader(report / "result") as reader:
        found = [c for c in reader.connections if c.topic == "/segmentation/labels"]
        maps = [ros2.store.deserialize_cdr(data, c.msgtype).data.reshape(32, 64) for c, _, data in reader.messages(found)]
    assert all(np.array_equal(seen[1:], labels[1:]) for seen, labels in zip(maps, truth, strict=True))
    capture = cv2.VideoCapture(str(report / "side_by_side.webm"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)


def test_the_beginning_can_be_left_out_of_each_camera_by_itself(evaluate, bag, tmp_path):
    ran = evaluate(bag(), *LABELS, "--start", "0.35", "--save", "none")
    figures = summary_of(tmp_path / "report")["figures"]
    assert ran.code == 0, ran.err
    assert figures["frames"] == figures["labelled_frames"] == FRAMES - 4
    assert [row["stamp_ns"] for row in rows_of(tmp_path / "report")] == [stamp(index) for index in range(4, FRAMES)]
    two = bag("two", topics=("/left", "/right"))
    topics = ("--topic", "/left/image_raw,/right/image_raw", "--save", "none")
    assert evaluate(two, *topics, "--start", "0.2,0.5", out=tmp_path / "both").code == 0
    cameras = summary_of(tmp_path / "both")["cameras"]
    assert {name: camera["frames"] for name, camera in cameras.items()} == {"left": FRAMES - 2, "right": FRAMES - 5}


def test_measures_over_time_go_along_the_flow_that_is_asked_for(evaluate, bag, tmp_path):
    drive = bag()
    for flow in ("dis", "farneback"):
        assert evaluate(drive, "--flow", flow, "--save", "none", out=tmp_path / flow).code == 0
    dis, farneback = (summary_of(tmp_path / flow) for flow in ("dis", "farneback"))
    assert "DIS" in dis["flow"] and "Farneback" in farneback["flow"]
    assert dis["figures"]["flicker"] != farneback["figures"]["flicker"]
    assert dis["hash"] != farneback["hash"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start", "-1"), "--start takes seconds, 0 or more, got '-1'"),
        (("--start", "a"), "--start takes seconds, 0 or more, got 'a'"),
        (("--start", "0.1,0.2"), "wanted --start once, or for each of 1 cameras, got 2"),
        (("--flow", "raft"), "--flow takes dis or farneback, got 'raft'"),
        (("--start", "99"), "no"),
    ],
)
def test_starts_and_flows_that_cannot_be_are_refused(evaluate, bag, arguments, said):
    ran = evaluate(bag(), *arguments)
    assert ran.code in (2, 3) and said in ran.err


def test_the_call_gives_what_the_command_writes(evaluate, bag, tmp_path, video_weights):
    drive, seen = bag(), []
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    thresholds = tmp_path / "thresholds.yaml"
    thresholds.write_text("miou: '>= 0.1'\nflicker: '< 0'\n")
    config = EvaluationConfig(
        (str(drive),), tmp_path / "call", segmenter=segmenter, labels=LABELS[1:], thresholds=thresholds, save=()
    )
    report = evaluate_recordings(config, lambda: seen.append(1))
    ran = evaluate(drive, *LABELS, "--save", "none")
    assert report.figures == summary_of(tmp_path / "report")["figures"] and len(seen) == FRAMES
    assert report.summary == summary_of(tmp_path / "call") and report.summary["run"]["weights"]["file"] == "none"
    assert re.search(r"classes in the truth: \d+ of 19; only predicted: \w+", ran.out)
    assert report.passed is False and [check.figure for check in report.missed] == ["flicker"]
    assert [row["name"] for row in report.frames()] == [row["name"] for row in rows_of(tmp_path / "report")]


def test_two_runs_have_one_hash_and_another_input_another(evaluate, bag, tmp_path):
    drive = bag()
    hashes = []
    for name in ("a", "b"):
        assert evaluate(drive, *LABELS, "--save", "none", out=tmp_path / name).code == 0
        hashes.append(summary_of(tmp_path / name)["hash"])
    assert hashes[0] == hashes[1]
    assert evaluate(bag("shorter", lambda m: m[:-2]), *LABELS, "--save", "none", out=tmp_path / "c").code == 0
    assert summary_of(tmp_path / "c")["hash"] != hashes[0]


def test_window_wider_than_the_map_gives_the_report_of_global_attention(evaluate, bag, tmp_path):
    path = bag(edit=lambda messages: [*messages, *(later(message) for message in messages)])  # long enough to be explained
    for window in ("10001", "global"):
        assert evaluate(path, "--window", window, "--save", "none", out=tmp_path / window).code == 0
    first, second = (summary_of(tmp_path / window) for window in ("10001", "global"))
    assert first["frames_hash"] == second["frames_hash"]


def later(message):
    topic, receive_ns, content = message
    content = replace(
        content, header=replace(content.header, stamp=replace(content.header.stamp, sec=content.header.stamp.sec + 1))
    )
    return topic, receive_ns + SECOND, content


def test_page_needs_nothing_but_itself(evaluate, bag, tmp_path):
    evaluate(bag(), *LABELS)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:|side_by_side\.webm#t=)[^"]*"', page)
    assert "@media print" in page and "prefers-color-scheme: dark" in page
    assert page.count('class="moment-card"') == 2  # the worst and the most flickering of nine frames
    assert 'href="#worst-0"' in page and 'id="worst-0"' in page
    assert "Attention" not in page  # the recording is shorter than ten frames


def test_failed_threshold_gives_1_and_names_it(evaluate, bag, tmp_path):
    thresholds = tmp_path / "wanted.yaml"
    thresholds.write_text('miou: ">= 0.999"\nflicker: "<= 1"\naccuracy: ">= 0.9"\n')
    ran = evaluate(bag(), *LABELS, "--thresholds", thresholds)
    assert ran.code == 1
    assert re.findall(r"FAILED: (\w+)", ran.out) == ["miou"]
    assert summary_of(tmp_path / "report")["verdict"]["passed"] is False
    assert "failed: 1 of 3 thresholds missed" in (tmp_path / "report" / "report.html").read_text()


def test_passed_thresholds_give_0(evaluate, bag, tmp_path):
    thresholds = tmp_path / "wanted.yaml"
    thresholds.write_text('accuracy: ">= 0.9"\nlatency_p95_ms: "<= 60000"\niou.road: ">= 0"\n')
    assert evaluate(bag(), *LABELS, "--thresholds", thresholds, "--save", "none").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mIoU: ">= 0.5"', "unknown figure 'mIoU'; did you mean miou?"),
        ("miou: 0.5", 'miou must be a comparison such as ">= 0.60" or "<= 80", got 0.5'),
        ("[]", "wanted lines such as"),
    ],
)
def test_bad_thresholds_are_refused_before_anything_runs(evaluate, bag, tmp_path, text, message):
    (tmp_path / "wanted.yaml").write_text(text)
    ran = evaluate(bag(), "--thresholds", tmp_path / "wanted.yaml")
    assert ran.code == 2 and message in ran.err
    assert not (tmp_path / "report").exists()


def test_single_frame_weights_are_evaluated_without_a_memory(evaluate, bag, single_frame_weights, tmp_path):
    options = (*LABELS, "--save", "page", "--label-memory", "off")
    assert evaluate(bag(), *options, weights=single_frame_weights).code == 0
    assert summary_of(tmp_path / "report")["variants"] == ["off"]


def test_single_frame_weights_have_a_label_memory(evaluate, bag, single_frame_weights, tmp_path):
    compare = ("--compare", "off,labels,features")
    assert evaluate(bag(), *LABELS, "--save", "page", *compare, weights=single_frame_weights).code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["variants"] == ["on", "off"] and summary["run"]["label_memory"] == 1.0
    assert summary["not_remembered"] == 0  # there is no memory of features that a frame could have missed


def test_four_ways_on_the_same_frames(evaluate, bag, tmp_path):
    assert evaluate(bag(), *LABELS, "--save", "video,page", "--compare", "off,labels,features").code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["variants"] == ["on", "off", "labels", "features"]
    accuracy = {way: summary["runs"][way]["flicker"] for way in summary["variants"]}
    assert len(set(accuracy.values())) == 4
    assert summary["figures"]["gain.miou"] == pytest.approx(summary["figures"]["miou"] - summary["figures"]["off.miou"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(words in page for words in ("memory on", "memory off", "label memory only", "feature memory only"))


def test_a_way_that_does_not_exist_is_refused(evaluate, bag):
    done = evaluate(bag(), *LABELS, "--compare", "magic")
    assert done.code == 2 and "--compare takes off, labels, features or none" in done.err


def test_stills_have_no_memory_and_no_measures_over_time(evaluate, bag, tmp_path):
    drive = bag()
    assert evaluate(drive, *LABELS, "--stills", "--save", "none").code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["variants"] == ["off"] and summary["figures"]["labelled_frames"] == FRAMES
    assert summary["figures"]["accuracy"] is not None
    assert [summary["figures"][name] for name in ("tc", "flicker", "agreement", "mvc_8")] == [None] * 4
    assert summary["resets"] == {"first_frame": FRAMES} and summary["run"]["memory"] is False
    assert evaluate(drive, *LABELS, "--stills", "--live", "20", out=tmp_path / "live").code == 2


def test_comparison_with_memory_off_can_be_left_out(evaluate, bag, tmp_path):
    assert evaluate(bag(), *LABELS, "--compare", "none", "--save", "video,page").code == 0
    assert summary_of(tmp_path / "report")["variants"] == ["on"]
    assert "off" not in rows_of(tmp_path / "report")[0]


def test_labels_come_from_a_folder_by_name_or_by_stamp(evaluate, bag, tmp_path, truth):
    for name, stems in (("number", range(FRAMES)), ("stamp", map(stamp, range(FRAMES)))):
        folder = tmp_path / name
        folder.mkdir()
        for stem, labels in zip(stems, truth, strict=True):
            (folder / f"{stem:06d}.png").write_bytes(png(labels))
        (folder / "xtra.png" if name == "number" else folder / f"{START - SECOND}.png").write_bytes(png(truth[0]))
        out = tmp_path / f"report_{name}"
        assert evaluate(bag(f"bag_{name}"), "--labels", folder, "--save", "none", out=out).code == 0
        assert summary_of(out)["figures"]["accuracy"] == pytest.approx(31 / 32)
        assert summary_of(out)["figures"]["labels_unmatched"] == 1


def test_several_cameras_are_evaluated_each_with_its_own_memory(evaluate, bag, tmp_path):
    drive = bag(topics=("/front", "/rear"))
    ran = evaluate(
        drive, "--topic", "/front/image_raw,/rear/image_raw",
        "--labels", "/front/labels/compressed,/rear/labels/compressed",
    )  # fmt: skip
    report = tmp_path / "report"
    assert ran.code == 0, ran.err
    assert {"result_front", "result_rear", "side_by_side_front.webm"} <= {path.name for path in report.iterdir()}
    summary = summary_of(report)
    assert [summary["cameras"][name]["accuracy"] for name in ("front", "rear")] == pytest.approx([31 / 32] * 2)
    assert summary["resets"] == {"first_frame": 2}


# ---- as if live ------------------------------------------------------------------------------------------------------------


def test_as_if_live_drops_what_a_busy_worker_misses(evaluate, bag, tmp_path):
    # An image every 100 ms, 240 ms each: 0 from 0 to 240, 2 (1 was replaced) to 480, 4 to 720, 7 to 960, 8 to 1200.
    assert evaluate(bag(), *LABELS, "--live", "240", "--save", "none").code == 0
    rows = rows_of(tmp_path / "report")
    assert [row["name"] for row in rows if "dropped" not in row] == ["000000", "000002", "000004", "000007", "000008"]
    assert [row["latency_ms"] for row in rows if "dropped" not in row] == pytest.approx([240, 280, 320, 260, 400])
    summary = summary_of(tmp_path / "report")
    assert summary["figures"]["dropped"] == 4
    assert summary["speed"]["latency_p50_ms"] == pytest.approx(300)  # the first frame left out


def test_streaming_accuracy_compares_with_what_was_published_by_then(evaluate, bag, tmp_path, truth, images, video_weights):
    assert evaluate(bag(), *LABELS, "--live", "150", "--save", "none", "--memory", "false").code == 0
    held, known, right = None, 0, 0
    rows = {row["name"]: row for row in rows_of(tmp_path / "report")}
    published = {name: int(name) * 100 + row["latency_ms"] for name, row in rows.items() if "dropped" not in row}
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    segmenter.memory_enabled = False
    maps = {name: segmenter.step(images[int(name)], stamp(int(name))).labels for name in published}
    for index, labels in enumerate(truth):
        done = [name for name, at in published.items() if at <= index * 100 + 1e-6]
        held = maps[max(done)] if done else None
        if held is not None:
            known += labels.size
            right += int((held == labels).sum())
    assert summary_of(tmp_path / "report")["figures"]["streaming_accuracy"] == pytest.approx(right / known)


def test_fast_enough_nothing_is_dropped_and_labels_are_those_of_lock_step(evaluate, bag, tmp_path):
    drive = bag()
    assert evaluate(drive, *LABELS, "--live", "20", "--save", "none", out=tmp_path / "live").code == 0
    assert evaluate(drive, *LABELS, "--save", "none", out=tmp_path / "lock").code == 0
    live, lock = ([row["labels_hash"] for row in rows_of(tmp_path / name)] for name in ("live", "lock"))
    assert live == lock


def test_measured_times_are_the_segmenters_own(evaluate, bag, tmp_path):
    assert evaluate(bag(), *LABELS, "--live", "measured", "--save", "none").code == 0
    rows = [row for row in rows_of(tmp_path / "report") if "dropped" not in row]
    assert all(row["latency_ms"] >= row["timings_ms"]["total"] - 0.01 for row in rows)
    assert summary_of(tmp_path / "report")["run"]["mode"] == "as if live, times measured"


# ---- bad input -------------------------------------------------------------------------------------------------------------


def test_no_labels_is_said_where_it_matters(evaluate, bag, tmp_path):
    thresholds = tmp_path / "wanted.yaml"
    thresholds.write_text('miou: ">= 0.1"')
    ran = evaluate(bag(), "--thresholds", thresholds)
    assert ran.code == 1 and "FAILED: miou was not measured, wanted >= 0.1" in ran.out
    assert "No labels: accuracy is unknown" in (tmp_path / "report" / "report.html").read_text()


def test_labels_that_are_not_there_are_refused(evaluate, bag, tmp_path):
    ran = evaluate(bag(), "--labels", "/camera/label")
    assert ran.code == 3 and "no topic /camera/label; did you mean" in ran.err
    (tmp_path / "empty").mkdir()
    ran = evaluate(bag("other"), "--labels", tmp_path / "empty", out=tmp_path / "second")
    assert ran.code == 3 and "wanted label images NAME.png, there are none" in ran.err


def test_folder_of_jpeg_labels_is_refused_with_the_reason(evaluate, bag, tmp_path, truth):
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "labels" / "0.jpg"), truth[0])
    ran = evaluate(bag(), "--labels", tmp_path / "labels")
    assert ran.code == 3 and "there are none; JPEG as in 0.jpg changes class ids" in ran.err


def test_labels_that_match_no_frame_are_an_error(evaluate, bag):
    late = bag(edit=lambda messages: [
        (topic, at, message) for topic, at, message in messages if "labels" not in topic
    ] + [(topic, at + 5 * SECOND, shifted(message)) for topic, at, message in messages if "labels" in topic])  # fmt: skip
    ran = evaluate(late, *LABELS, "--save", "none")
    assert ran.code == 3 and f"none of {FRAMES} labels in /camera/labels/compressed belongs to a frame: stamps lie" in ran.err


def shifted(message):
    message.header.stamp.sec += 5
    return message


def test_labels_of_another_size_with_another_aspect_are_refused(evaluate, bag, ros2):
    square = png(np.zeros((32, 32), np.uint8))
    drive = bag(edit=lambda messages: [
        (topic, at, ros2.compressed(square, at, "png") if "labels" in topic else message) for topic, at, message in messages
    ])  # fmt: skip
    ran = evaluate(drive, *LABELS)
    assert ran.code == 3 and "must show the same picture, got 32x32 and 64x32" in ran.err


def test_a_recording_whose_images_change_size_is_evaluated(evaluate, bag, tmp_path, ros2, images, truth):
    def edit(messages):
        half = len(messages) // 2 // 2 * 2
        large = [image.repeat(2, 0).repeat(2, 1) for image in images], [labels.repeat(2, 0).repeat(2, 1) for labels in truth]
        later = []
        for index in range(half // 2, FRAMES):
            later.append(("/camera/image_raw", stamp(index), ros2.image(large[0][index], stamp(index))))
            labels = ros2.compressed(png(large[1][index]), stamp(index), "png")
            later.append(("/camera/labels/compressed", stamp(index), labels))
        return [*messages[:half], *later]

    ran = evaluate(bag("resized", edit), *LABELS)
    assert ran.code == 0, ran.err
    summary = summary_of(tmp_path / "report")
    assert summary["figures"]["labelled_frames"] == FRAMES and summary["resets"]["size_change"] == 1
    assert summary["figures"]["mvc_8"] is None and summary["runs"]["on"]["pairs"] == FRAMES - 2


def test_unknown_label_values_are_counted_and_said(evaluate, bag, tmp_path, ros2):
    odd = np.full((32, 64), 77, np.uint8)
    drive = bag(edit=lambda messages: [
        (topic, at, ros2.compressed(png(odd), at, "png") if "labels" in topic and at == stamp(3) else message)
        for topic, at, message in messages
    ])  # fmt: skip
    assert evaluate(drive, *LABELS).code == 0
    assert summary_of(tmp_path / "report")["unknown_label_values"] == {"77": 32 * 64}
    assert "values that nothing is known of (77)" in (tmp_path / "report" / "report.html").read_text()


def test_jpeg_labels_are_refused_as_damage(evaluate, bag, ros2, truth):
    lossy = cv2.imencode(".jpg", truth[0])[1].tobytes()
    drive = bag(edit=lambda messages: [
        (topic, at, ros2.compressed(lossy, at, "jpeg") if "labels" in topic else message) for topic, at, message in messages
    ])  # fmt: skip
    ran = evaluate(drive, *LABELS, "--save", "none")
    assert ran.code == 3 and "none of the labels can be read" in ran.err and "JPEG changes class ids" in ran.err


def test_two_image_topics_want_a_choice(evaluate, bag):
    ran = evaluate(bag(topics=("/front", "/rear")))
    assert ran.code == 3
    assert "several image topics, choose one with --topic: /front/image_raw" in ran.err


def test_bag_that_ends_in_mid_message_is_evaluated_as_far_as_it_goes(evaluate, bag, tmp_path, ros2, images):
    drive = ros2.write(
        tmp_path / "long",
        [("/camera/image_raw", stamp(index), ros2.image(images[index % FRAMES], stamp(index))) for index in range(40)],
    )
    file = next(drive.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
    (drive / "metadata.yaml").unlink()
    assert evaluate(drive, "--save", "none").code == 0
    figures = summary_of(tmp_path / "report")["figures"]
    assert 0 < figures["frames"] < 40 and figures["skipped"] >= 1


def test_stamps_of_zero_take_the_times_of_recording(evaluate, bag, tmp_path):
    def without_stamps(messages):
        for _, _, message in messages:
            message.header.stamp.sec = message.header.stamp.nanosec = 0
        return messages

    assert evaluate(bag(edit=without_stamps), *LABELS, "--save", "none").code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["figures"]["accuracy"] == pytest.approx(31 / 32)
    assert summary["resets"] == {"first_frame": 1}


def test_clock_that_jumps_back_resets_and_labels_still_match(evaluate, bag, tmp_path):
    def jump(messages):
        for _, at, message in messages:
            message.header.stamp.sec -= 100 if at >= stamp(5) else 0
        return messages

    assert evaluate(bag(edit=jump), *LABELS, "--save", "page").code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["resets"] == {"first_frame": 1, "backward_stamp": 1}
    assert summary["figures"]["labelled_frames"] == FRAMES
    assert evaluate(bag("again", jump), *LABELS, "--live", "20", "--save", "none", out=tmp_path / "live").code == 0
    assert summary_of(tmp_path / "live")["figures"]["dropped"] == 0


def test_recording_shorter_than_the_memory_is_said(evaluate, bag, tmp_path):
    assert evaluate(bag(edit=lambda messages: messages[:4]), *LABELS).code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "the memory of 3 frames never was full (at most 1)" in page


def test_unwritable_output_is_an_output_error(evaluate, bag, tmp_path):
    (tmp_path / "file").write_text("")
    ran = evaluate(bag(), out=tmp_path / "file" / "report")
    assert ran.code == 5 and "a folder is needed" in ran.err


def test_report_is_not_replaced_unasked(evaluate, bag, tmp_path):
    drive = bag()
    assert evaluate(drive, "--save", "none").code == 0
    before = (tmp_path / "report" / "summary.json").read_bytes()
    ran = evaluate(drive, "--save", "none", "--max-frames", "2")
    assert ran.code == 5 and "already holds results" in ran.err
    assert (tmp_path / "report" / "summary.json").read_bytes() == before
    assert evaluate(drive, "--save", "none", "--max-frames", "2", "--overwrite").code == 0
    assert summary_of(tmp_path / "report")["figures"]["frames"] == 2


def test_figures_so_far_are_kept_when_the_run_breaks_off(evaluate, bag, tmp_path, ros2):
    wide = png(np.zeros((32, 32), np.uint8))
    drive = bag(edit=lambda messages: [
        (topic, at, ros2.compressed(wide, at, "png") if "labels" in topic and at == stamp(6) else message)
        for topic, at, message in messages
    ])  # fmt: skip
    assert evaluate(drive, *LABELS).code == 3
    summary = summary_of(tmp_path / "report")
    assert summary["complete"] is False and summary["figures"]["labelled_frames"] == 6
    assert "broken off" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--save", "pages"), "--save takes bag, video, page or none, got 'pages'"),
        (("--tolerance", "-1"), "--tolerance must be 0 seconds or more"),
        (("--live", "0"), "--live takes measured or milliseconds above 0"),
        (("--mapping", "camvid12"), "or a YAML file, cannot read camvid12"),
        (("--labels", "a,b,c"), "wanted --labels for none, one or all of 1 cameras, got 3"),
    ],
)
def test_wrong_option_says_what_was_wanted(evaluate, bag, arguments, message):
    ran = evaluate(bag(), *arguments)
    assert ran.code == 2 and message in ran.err


# ---- compare ---------------------------------------------------------------------------------------------------------------


def edited(report, target, **figures):
    target.mkdir()
    summary = summary_of(report)
    summary["figures"] |= figures
    summary["hash"] = "other"
    (target / "summary.json").write_text(json.dumps(summary))
    return target


def test_compare_tells_worse_from_the_same_and_from_better(lmanet, evaluate, bag, tmp_path):
    evaluate(bag(), *LABELS, "--save", "none")
    report = tmp_path / "report"
    accuracy = summary_of(report)["figures"]["accuracy"]
    assert lmanet("compare", report, report).out == "the same, hash for hash\n"
    ran = lmanet("compare", report, edited(report, tmp_path / "worse", accuracy=accuracy - 0.02))
    assert ran.code == 1 and "worse: accuracy\n" in ran.out and "-0.0200" in ran.out
    assert lmanet("compare", report, tmp_path / "worse", "--tolerance", "0.03").code == 0
    assert lmanet("compare", report, edited(report, tmp_path / "better", accuracy=accuracy + 0.02, flicker=0.0)).code == 0
    ran = lmanet("compare", report, edited(report, tmp_path / "more flicker", flicker=0.9))
    assert ran.code == 1 and "worse: flicker\n" in ran.out
    assert lmanet("compare", report, edited(report, tmp_path / "none", accuracy=None)).code == 1


def test_compare_says_where_steadiness_was_measured_otherwise(lmanet, evaluate, bag, tmp_path):
    evaluate(bag())
    other = edited(tmp_path / "report", tmp_path / "other")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "flow": "of another kind"}))
    ran = lmanet("compare", tmp_path / "report", other)
    assert "differs: flow, so that measures over time cannot be compared: " in ran.out and "→ of another kind" in ran.out


def test_compare_refuses_what_is_no_report(lmanet, tmp_path):
    ran = lmanet("compare", tmp_path, tmp_path)
    assert ran.code == 3 and "wanted a report of lmanet evaluate" in ran.err


# ---- results that a node published -----------------------------------------------------------------------------------------


def published(ros2, path, maps, skip=(), late_ms=50):
    """A bag as the replay records it."""
    return ros2.write(path, [
        ("/segmentation/labels", stamp(index) + late_ms * 1_000_000, ros2.image(labels, stamp(index), "mono8"))
        for index, labels in enumerate(maps) if index not in skip
    ])  # fmt: skip


@pytest.fixture(scope="module")
def own_maps(images, video_weights):
    """What the node says when it misses image 4."""
    segmenter = VideoSegmenter.from_weights(video_weights, device="cpu", precision="fp32")
    return [None if index == 4 else segmenter.step(image, stamp(index), "camera").labels for index, image in enumerate(images)]


def test_published_results_are_reproduced_pixel_for_pixel_and_drops_named(evaluate, bag, tmp_path, ros2, own_maps):
    results = published(ros2, tmp_path / "recorded", own_maps, skip=(4,))
    assert evaluate(bag(), *LABELS, "--results", results).code == 0
    summary = summary_of(tmp_path / "report")
    assert summary["figures"]["reproduced"] == 1.0
    assert summary["figures"]["dropped"] == 1
    assert [row["name"] for row in rows_of(tmp_path / "report") if row.get("dropped")] == ["000004"]
    assert summary["speed"]["latency_p50_ms"] == pytest.approx(50)
    assert re.search(r"<h2>Dropped frames</h2>\s*<p class=\"soft\">000004</p>", (tmp_path / "report/report.html").read_text())


def test_published_results_that_differ_are_found_out(evaluate, bag, tmp_path, ros2, own_maps):
    own_maps = [None if labels is None else labels.copy() for labels in own_maps]
    own_maps[6][:16] = (own_maps[6][:16] + 1) % 19
    results = published(ros2, tmp_path / "recorded", own_maps, skip=(4,))
    assert evaluate(bag(), *LABELS, "--results", f"{results}:/segmentation/labels", "--save", "none").code == 0
    scores = [row.get("accuracy") for row in rows_of(tmp_path / "report")]
    assert scores[6] < 0.6 < scores[5]  # what was published is scored, not what is computed here
    assert summary_of(tmp_path / "report")["figures"]["reproduced"] == pytest.approx(1 - 0.5 / 8)


def test_results_of_another_recording_are_refused(evaluate, bag, tmp_path, ros2, own_maps):
    results = ros2.write(tmp_path / "recorded", [("/segmentation/labels", 1, ros2.image(own_maps[0], 7 * SECOND, "mono8"))])
    ran = evaluate(bag(), "--results", results, "--save", "none")
    assert ran.code == 3 and "none of 1 results has the stamp of an image" in ran.err


# ---- explain ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def explain(lmanet, video_weights, tmp_path):
    def run(source, *arguments, weights=video_weights):
        options = ("--weights", weights, "--out", tmp_path / "seen.png", "--device", "cpu", "--precision", "fp32")
        return lmanet("explain", source, *arguments, *options)

    return run


def test_explain_draws_the_frame_and_each_memory_frame(explain, bag, tmp_path):
    ran = explain(bag(), "--at", "30,10", "60,30", "--frame", "5")
    assert ran.code == 0, ran.err
    assert cv2.imread(str(tmp_path / "seen.png")).shape == (3 * (32 + 22), 5 * 64, 3)  # the label memory first
    lines = ran.out.splitlines()[1:]
    assert len(lines) == 2 and lines[0].startswith("Frame 000005, feature position 3,1: ")
    shares = [float(text) for text in re.findall(r"([\d.]+) %", lines[0])]
    assert shares[0] == pytest.approx(sum(shares[1:]), abs=0.2)
    assert 70 < shares[0] < 90  # one of the window's five rows lies above the picture


def test_explain_replaces_no_picture(explain, bag, tmp_path):
    (tmp_path / "seen.png").write_bytes(b"mine")
    ran = explain(bag(), "--frame", "5")
    assert ran.code == 5 and "seen.png exists and stays; choose another --out, such as" in ran.err and "seen_2.png" in ran.err
    assert (tmp_path / "seen.png").read_bytes() == b"mine"


def test_explain_shows_which_past_labels_hold_with_any_weights(explain, bag, single_frame_weights, tmp_path):
    ran = explain(bag(), "--frame", "5", weights=single_frame_weights)
    assert ran.code == 0, ran.err
    assert cv2.imread(str(tmp_path / "seen.png")).shape == (32 + 22, 5 * 64, 3)
    shares = [float(text) for text in re.findall(r"([\d.]+) %", ran.out)]
    assert ran.out.startswith("Frame 000005: ") and len(shares) == 3
    assert 0 < shares[0] <= 100 and shares[1] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--frame", "0"), 3, "frame 0 did not use past labels: they were cleared (first_frame)"),
        (("--frame", "5", "--label-memory", "off"), 2, "nothing to explain: the label memory is switched off"),
        (("--at", "30;10", "--frame", "5"), 2, "--at wants X,Y in pixels, such as 320,180, got '30;10'"),
        (("--at", "64,10", "--frame", "5"), 2, "a position must lie in the image of 64x32, got 64,10"),
        (("--at", "30,10", "--frame", "0"), 3, r"frame 0 did not read the memory: it was cleared (first_frame)"),
        (("--at", "30,10", "--frame", "99"), 3, "there is no frame 99"),
        (("--at", "30,10", "--frame", "5", "--memory", "false"), 2, "--at shows the memory of features"),
        (("--at", "30,10", "--frame", "5", "--window", "global"), 2, "only attention within a window can be shown"),
    ],
)
def test_explain_says_why_it_cannot(explain, bag, arguments, code, message):
    ran = explain(bag(), *arguments)
    assert ran.code == code and message in ran.err


def test_labels_of_8_bits_spread_to_16_are_judged_and_told_of(evaluate, images, truth, tmp_path, caplog):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for index, (image, labels) in enumerate(zip(images[:3], truth[:3], strict=True)):
        assert cv2.imwrite(str(tmp_path / f"images/{index}.png"), image[:, :, ::-1])
        assert cv2.imwrite(str(tmp_path / f"labels/{index}.png"), labels.astype(np.uint16) * 257)
    ran = evaluate(tmp_path / "images", "--labels", tmp_path / "labels", "--save", "none")
    assert ran.code == 0, ran.err
    assert sum("label maps of 16 bits hold multiples of 257" in record.getMessage() for record in caplog.records) == 1
    figures = json.loads((tmp_path / "report" / "summary.json").read_text())["figures"]
    assert figures["labelled_frames"] == 3 and figures["accuracy"] > 0.9
