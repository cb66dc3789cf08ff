"""PNGs, videos, and several sinks as one."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.labels import CAMVID11, LabelSet
from lmanet_core.media import (
    SINK_KINDS,
    CompositeSink,
    LabelPngSink,
    MaskPngSink,
    ResultBagSink,
    VideoSink,
    open_frames,
    open_sinks,
)
from lmanet_core.media.kept_results import KeptResults

ROAD, CAR = 3, 8
LABELS = np.array([[ROAD, CAR, 255], [0, ROAD, CAR]], np.uint8)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_video(path):
    with open_frames(path) as source:
        return [frame.image for frame in source]


def fill_the_disk(monkeypatch):
    def write_bytes(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


# PNGs


def test_label_png_holds_the_ids(tmp_path, make_result):
    made = make_result(LABELS, name="left_007")
    with LabelPngSink(tmp_path / "deep" / "labels") as sink:
        sink.write(made.frame, made.result)
    assert files_below(tmp_path) == ["deep/labels/left_007.png"]
    read = cv2.imread(str(tmp_path / "deep/labels/left_007.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint8 and read.tolist() == LABELS.tolist()


def test_mask_pngs_hold_0_and_255_by_group(tmp_path, make_result):
    made = make_result(LABELS)
    with MaskPngSink(tmp_path, CAMVID11) as sink:
        sink.write(made.frame, made.result)
    assert files_below(tmp_path) == sorted(f"{group}/000000.png" for group in CAMVID11.groups)
    read = cv2.imread(str(tmp_path / "drivable/000000.png"), cv2.IMREAD_UNCHANGED)
    assert read.tolist() == [[255, 0, 0], [0, 255, 0]]


def test_group_and_frame_names_cannot_leave_the_folder(tmp_path, make_result):
    label_set = LabelSet(("a",), ((0, 0, 0),), {"../up": ("a",)})
    made = make_result([[0]], name="../../x")
    with MaskPngSink(tmp_path / "masks", label_set) as sink:
        sink.write(made.frame, made.result)
    assert files_below(tmp_path) == ["masks/___up/.._.._x.png"]


def test_frame_without_a_name_is_named_after_its_stamp(tmp_path, make_result):
    made = make_result(LABELS, name="", stamp_ns=42)
    LabelPngSink(tmp_path).write(made.frame, made.result)
    assert files_below(tmp_path) == ["42.png"]


def test_full_disk_is_an_output_error_and_leaves_the_pngs_before(tmp_path, make_result, monkeypatch):
    first, second = make_result(LABELS, name="1"), make_result(LABELS, name="2")
    sink = LabelPngSink(tmp_path)
    sink.write(first.frame, first.result)
    fill_the_disk(monkeypatch)
    with pytest.raises(OutputError, match=r"2\.png: cannot be written: no space is left"):
        sink.write(second.frame, second.result)
    assert files_below(tmp_path) == ["1.png"]


def test_interrupted_png_leaves_nothing_behind(tmp_path, make_result, monkeypatch):
    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    made = make_result(LABELS)
    with pytest.raises(KeyboardInterrupt):
        LabelPngSink(tmp_path).write(made.frame, made.result)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("make", [
    lambda path: LabelPngSink(path),
    lambda path: MaskPngSink(path, CAMVID11),
    lambda path: VideoSink(path / "v.webm", CAMVID11),
    lambda path: open_sinks(path, CAMVID11),
], ids=["labels", "masks", "video", "all"])  # fmt: skip
@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_output_at_or_below_a_file_is_an_output_error(tmp_path, make, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="there is a file of that name"):
        make(tmp_path / below)


def test_forbidden_folder_is_an_output_error(tmp_path, make_result, monkeypatch):
    def forbid(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "write_bytes", forbid)
    made = make_result(LABELS)
    with pytest.raises(OutputError, match="not permitted; choose another output or change the permissions"):
        LabelPngSink(tmp_path).write(made.frame, made.result)


# Videos


def test_color_video_shows_the_palette(tmp_path, make_result):
    labels = np.full((32, 48), ROAD, np.uint8)
    labels[:, 24:] = CAR
    made = make_result(labels)
    with VideoSink(tmp_path / "v.webm", CAMVID11, "color", fps=5.0) as sink:
        for _ in range(3):
            sink.write(made.frame, made.result)
    source = open_frames(tmp_path / "v.webm")
    images = [frame.image for frame in source]
    assert (len(images), images[0].shape, source.fps) == (3, (32, 48, 3), 5.0)
    assert np.abs(images[0][16, 8].astype(int) - CAMVID11.colors[ROAD]).max() < 12  # the codec's loss
    assert np.abs(images[0][16, 40].astype(int) - CAMVID11.colors[CAR]).max() < 12


def test_overlay_video_shows_the_image_at_output_size(tmp_path, make_result):
    made = make_result(np.full((32, 48), 255, np.uint8), image=np.full((64, 96, 3), 200, np.uint8), output="48x32")
    with VideoSink(tmp_path / "v.webm", CAMVID11, "overlay") as sink:
        sink.write(made.frame, made.result)
    (image,) = read_video(tmp_path / "v.webm")
    assert image.shape == (32, 48, 3)
    assert abs(image.mean() - 200) < 4  # nothing labelled: the image itself


@pytest.mark.parametrize("size, canvas", [((1, 1), (16, 16)), ((31, 47), (32, 48)), ((32, 48), (32, 48))])
def test_odd_and_tiny_sizes_are_padded_to_what_the_codec_takes(tmp_path, make_result, size, canvas):
    made = make_result(np.full(size, ROAD, np.uint8))
    with VideoSink(tmp_path / "v.webm", CAMVID11, "color") as sink:
        sink.write(made.frame, made.result)
    (image,) = read_video(tmp_path / "v.webm")
    assert image.shape[:2] == canvas


def test_frames_of_another_size_are_letterboxed_into_the_first(tmp_path, make_result):
    first, wide = make_result(np.full((64, 64), ROAD, np.uint8)), make_result(np.full((64, 128), ROAD, np.uint8))
    with VideoSink(tmp_path / "v.webm", CAMVID11, "color") as sink:
        sink.write(first.frame, first.result)
        sink.write(wide.frame, wide.result)
    image = read_video(tmp_path / "v.webm")[1].astype(int)
    assert image.shape == (64, 64, 3)
    assert image[:12].max() < 20 and image[-12:].max() < 20  # black bars of 16 rows
    assert np.abs(image[20:44] - CAMVID11.colors[ROAD]).mean() < 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_video_can_be_played_after_an_exception(tmp_path, make_result, error):
    made = make_result(np.zeros((32, 32)))
    with pytest.raises(error), VideoSink(tmp_path / "v.webm", CAMVID11) as sink:
        for _ in range(4):
            sink.write(made.frame, made.result)
        raise error
    assert len(read_video(tmp_path / "v.webm")) == 4


def test_video_on_a_full_disk_is_an_output_error_and_can_be_played(tmp_path, make_result, monkeypatch):
    made = make_result(np.zeros((32, 32)))
    with (
        pytest.raises(OutputError, match="only 1000 bytes of space are left"),
        VideoSink(tmp_path / "v.webm", CAMVID11) as sink,
    ):
        sink.write(made.frame, made.result)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        sink.write(made.frame, made.result)
    assert len(read_video(tmp_path / "v.webm")) == 1


def test_video_in_place_of_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "v.webm").mkdir()
    with pytest.raises(OutputError, match="there is a folder of that name"):
        VideoSink(tmp_path / "v.webm", CAMVID11)


@pytest.mark.parametrize("kind, fps, message", [
    ("labels", 10.0, "color or overlay"), ("color", 0.0, "fps must be"), ("color", float("nan"), "fps must be"),
])  # fmt: skip
def test_wrong_video_settings_are_refused(tmp_path, kind, fps, message):
    with pytest.raises(ConfigError, match=message):
        VideoSink(tmp_path / "v.webm", CAMVID11, kind, fps)


# Pictures


def test_pictures_of_colours_and_of_colours_over_the_image(tmp_path, make_result):
    made = make_result(np.full((4, 6), ROAD, np.uint8), image=np.full((4, 6, 3), 200, np.uint8), name="left/7")
    with open_sinks(tmp_path, CAMVID11, kinds=("overlay_images", "color_images"), opacity=0.25) as sink:
        sink.write(made.frame, made.result)
    color, overlay = (cv2.imread(str(tmp_path / kind / "left_7.png"))[:, :, ::-1] for kind in ("color", "overlay"))
    assert (color == CAMVID11.colors[ROAD]).all()
    assert np.abs(overlay - (0.75 * 200 + 0.25 * np.array(CAMVID11.colors[ROAD]))).max() <= 1


@pytest.mark.parametrize(("aspect", "width"), [(2.0, 400), (0.5, 100), (136 / 135, 200)])  # nearly square is square
def test_pictures_of_squeezed_pixels_are_shown_square(tmp_path, make_result, aspect, width):
    made = make_result(np.full((4, 200), ROAD, np.uint8))
    with open_sinks(tmp_path, CAMVID11, kinds=("color_images", "labels")) as sink:
        sink.write(replace(made.frame, pixel_aspect=aspect), made.result)
    assert cv2.imread(str(tmp_path / "color/000000.png")).shape == (4, width, 3)
    assert cv2.imread(str(tmp_path / "labels/000000.png"), cv2.IMREAD_UNCHANGED).shape == (4, 200)


def test_what_has_files_for_each_frame_need_not_begin_anew(tmp_path):
    with open_sinks(tmp_path, CAMVID11, kinds=SINK_KINDS) as sink:
        anew = [type(one) for one in sink.anew().sinks]
    assert anew == [VideoSink, VideoSink, ResultBagSink]


@pytest.mark.parametrize("later_ns", [-1, 0, 1])
def test_earlier_result_is_that_of_the_frame_of_its_time(tmp_path, make_result, later_ns):
    made = make_result(np.full((4, 6), ROAD, np.uint8))
    with open_sinks(tmp_path, CAMVID11, kinds=("labels", "bag")) as sink:
        sink.write(made.frame, made.result)
    frame = replace(made.frame, stamp_ns=made.frame.stamp_ns + later_ns)
    kept = KeptResults(tmp_path, ("labels", "bag"), CAMVID11).of(frame, made.result.geometry)
    assert (kept is None) == (later_ns != 0)


def test_opacity_outside_its_range_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"opacity must be 0 to 1, got 1\.5"):
        open_sinks(tmp_path, CAMVID11, kinds=("overlay_images",), opacity=1.5)


# Several


def test_open_sinks_lays_out_the_result_folder(tmp_path, make_result):
    made = make_result(np.zeros((16, 16)))
    with open_sinks(tmp_path / "out", CAMVID11, kinds=("labels", "masks", "overlay", "color", "bag")) as sink:
        sink.write(made.frame, made.result)
    assert files_below(tmp_path / "out") == [
        "color.webm", "labels/000000.png", *sorted(f"masks/{group}/000000.png" for group in CAMVID11.groups),
        "overlay.webm", "result/metadata.yaml", "result/result.mcap",
    ]  # fmt: skip


def test_open_sinks_makes_only_what_is_asked_for(tmp_path, make_result):
    made = make_result(LABELS)
    with open_sinks(tmp_path, CAMVID11, kinds=("labels",)) as sink:
        sink.write(made.frame, made.result)
    assert files_below(tmp_path) == ["labels/000000.png"]


@pytest.mark.parametrize("groups, says_so", [({}, True), ({"all": ("a",)}, False)])
def test_masks_without_groups_are_said_to_be_missing(tmp_path, groups, says_so, caplog):
    caplog.set_level("INFO")
    open_sinks(tmp_path, LabelSet(("a",), ((0, 0, 0),), groups), kinds=("masks",)).close()
    assert ("no masks are written" in caplog.text) is says_so


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'label'; did you mean labels\?"):
        open_sinks(tmp_path / "out", CAMVID11, kinds=("label",))
    assert not (tmp_path / "out").exists()


def test_failing_sink_raises_after_the_others_were_closed(tmp_path, make_result, monkeypatch):
    made = make_result(np.zeros((32, 32)))
    sink = open_sinks(tmp_path, CAMVID11, kinds=("labels", "color", "bag"))
    sink.write(made.frame, made.result)
    fill_the_disk(monkeypatch)
    with pytest.raises(OutputError, match="no space is left"):
        sink.write(made.frame, made.result)
    assert len(read_video(tmp_path / "color.webm")) == 1
    assert len(list(open_frames(tmp_path / "result", topic="/segmentation/labels"))) == 1


def test_close_reaches_every_sink_and_raises_the_first_error():
    class Sink(LabelPngSink):
        def __init__(self, error):
            self.error, self.closed = error, 0

        def close(self):
            self.closed += 1
            if self.error:
                raise OutputError(self.error)

    sinks = [Sink(""), Sink("first"), Sink("second"), Sink("")]
    with pytest.raises(OutputError, match="first"):
        CompositeSink(sinks).close()
    assert [sink.closed for sink in sinks] == [1, 1, 1, 1]


def test_second_run_into_the_same_folder_says_what_is_in_the_way(tmp_path, make_result):
    made = make_result(np.zeros((16, 16)))
    for kinds in (("labels", "color"), ("labels", "color", "bag")):
        with open_sinks(tmp_path, CAMVID11, kinds=kinds) as sink:
            sink.write(made.frame, made.result)
    with pytest.raises(OutputError, match="result: exists already; delete it or choose another output"):
        open_sinks(tmp_path, CAMVID11, kinds=("bag",))
