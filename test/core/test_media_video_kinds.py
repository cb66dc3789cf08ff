"""Videos that are damaged, interlaced, squeezed or of changing rate."""

from __future__ import annotations

import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from lmanet_core.errors import InputError
from lmanet_core.geometry import Size
from lmanet_core.media import open_frames
from lmanet_core.media.interlaced import InterlacedSource
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter

_CAPTURE = cv2.VideoCapture


class OtherCapture:
    """A capture that a test changes in one way."""

    def __init__(self, *arguments):
        self._capture = _CAPTURE(*arguments)

    def __getattr__(self, name):
        return getattr(self._capture, name)


@pytest.fixture
def encode(tmp_path):
    """A video of RGB frames in H.264, written by PyAV; None among the frames leaves their time out."""
    av = pytest.importorskip("av")

    def write(frames, *, aspect=None, interlaced=False, name="v.mp4", title=""):
        height, width = next(picture for picture in frames if picture is not None).shape[:2]
        with av.open(str(tmp_path / name), "w") as container:
            options = {"crf": "1", "g": "8"} | ({"flags": "+ilme+ildct", "x264-params": "tff=1"} if interlaced else {})
            container.metadata["title"] = title
            stream = container.add_stream("libx264", rate=10, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            for index, picture in enumerate(frames):
                if picture is not None:
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = index, Fraction(1, 10)
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return tmp_path / name

    return write


def test_reading_goes_on_behind_damage_and_the_frame_after_says_so(tmp_path, write_video, monkeypatch, caplog):
    class Damaged(OtherCapture):
        reads = 0

        def read(self):
            self.reads += 1
            ok, image = self._capture.read()
            return (False, None) if self.reads in (6, 7, 9) else (ok, image)

    path = write_video(tmp_path / "v.avi", count=12)
    monkeypatch.setattr(cv2, "VideoCapture", Damaged)
    with open_frames(path) as source:
        frames = list(source)
    assert [round(frame.stamp_ns / 1e8) for frame in frames] == [0, 1, 2, 3, 4, 7, 9, 10, 11]
    assert [frame.after_loss for frame in frames] == [False] * 5 + [True, True, False, False]
    assert source.skipped == 3
    assert "skipped 2 frames before 0.70 s" in caplog.text


def test_damage_among_the_first_frames_is_told_where_it_is(tmp_path, write_video, monkeypatch):
    class Damaged(OtherCapture):
        reads = 0

        def read(self):
            self.reads += 1
            ok, image = self._capture.read()
            return (False, None) if self.reads == 2 else (ok, image)

    path = write_video(tmp_path / "v.avi", count=6)
    monkeypatch.setattr(cv2, "VideoCapture", Damaged)
    with open_frames(path) as source:
        assert [frame.after_loss for frame in source] == [False, True, False, False, False]
    assert source.skipped == 1


def test_bytes_damaged_in_the_middle_cost_the_frames_there(encode, make_scene):
    path = encode([make_scene(index, 64, 96) for index in range(32)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    with open_frames(path) as source:
        frames = list(source)
    assert 20 < len(frames) <= 32
    assert frames[-1].stamp_ns == 3_100_000_000
    assert len(frames) + source.skipped == 32


def test_frame_after_a_loss_clears_the_memory(video_weights, make_scene):
    segmenter = VideoSegmenter.from_weights(video_weights, SegmenterConfig(network_size="64x32"))
    image = make_scene()
    found = [segmenter.step(image, n * 10**8, after_loss=n == 2).discontinuity for n in range(4)]
    assert [each and each.value for each in found] == ["first_frame", None, "gap", None]


def test_interlaced_video_gives_whole_pictures(encode):
    frames = []
    for index in range(10):
        picture = np.full((64, 96, 3), 60, np.uint8)
        for field in (0, 1):  # a bar that has moved on between the half pictures of a frame
            left = 8 * index + 4 * field
            picture[field::2, left : left + 8] = 220
        frames.append(picture)
    with open_frames(encode(frames, interlaced=True)) as source:
        read = list(source)
    assert [frame.stamp_ns for frame in read] == [n * 10**8 for n in range(10)]
    assert not any(frame.after_loss for frame in read)
    for index, frame in list(enumerate(read))[1:-1]:
        grey = frame.image.mean(axis=2)[8:-8]
        bar = np.flatnonzero(grey.mean(axis=0) > 180)
        assert set(bar) <= set(range(8 * index, 8 * index + 12)) and 6 <= len(bar) <= 9  # of one half picture, on all lines
        assert np.abs(grey[::2] - grey[1::2]).mean() < 8  # no combs


def test_interlaced_video_that_begins_late_begins_at_zero(encode, make_scene):
    frames = [make_scene(index, 64, 96) if index >= 7 else None for index in range(12)]
    with open_frames(encode(frames, interlaced=True, name="v.mkv")) as source:
        assert isinstance(source, InterlacedSource)
        assert [frame.stamp_ns for frame in source] == [n * 10**8 for n in range(5)]


def test_pictures_that_cannot_be_converted_are_refused(encode, make_scene, monkeypatch):
    class Stuck(OtherCapture):
        first = None

        def read(self):
            ok, image = self._capture.read()
            if self._capture.get(cv2.CAP_PROP_FORMAT) == -1:
                return ok, image
            self.first = image if self.first is None else self.first
            return ok, self.first.copy() if ok else None

    path = encode([make_scene(index, 64, 96) for index in range(6)])
    monkeypatch.setattr(cv2, "VideoCapture", Stuck)
    with pytest.raises(InputError, match=r"interlaced.*pip install av, the extra video"):
        open_frames(path)


@pytest.mark.parametrize("codec", ["mp4v", "MJPG"])
def test_video_that_stands_still_is_a_video(tmp_path, codec):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*codec), 10.0, (320, 240))
    for _ in range(6):
        writer.write(np.full((240, 320, 3), 90, np.uint8))
    writer.release()
    assert len(list(open_frames(tmp_path / "v.avi"))) == 6


def test_video_needs_no_pyav(tmp_path, write_video, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(list(open_frames(write_video(tmp_path / "v.avi", count=5)))) == 5


def test_times_of_a_changing_rate_are_kept_and_nothing_is_missed(encode, make_scene, caplog):
    frames = [make_scene(index, 64, 96) if index < 5 or index % 5 == 0 else None for index in range(21)]
    with open_frames(encode(frames)) as source:
        stamps = [frame.stamp_ns // 10**8 for frame in source]
    assert stamps == [0, 1, 2, 3, 4, 5, 10, 15, 20]
    assert source.skipped == 0 and not caplog.text


def test_video_that_counts_no_frames_lacks_none(tmp_path, write_video, monkeypatch):
    class Uncounted(OtherCapture):
        def get(self, key):
            return 0.0 if key == cv2.CAP_PROP_FRAME_COUNT else self._capture.get(key)

    path = write_video(tmp_path / "v.avi", count=5)
    monkeypatch.setattr(cv2, "VideoCapture", Uncounted)
    with open_frames(path) as source:
        assert (source.expected_frames, len(list(source)), source.skipped) == (None, 5, 0)


def test_one_frame_too_many_in_an_estimated_count_is_not_missed(encode, make_scene, monkeypatch):
    class Estimating(OtherCapture):
        def get(self, key):
            return self._capture.get(key) + (key == cv2.CAP_PROP_FRAME_COUNT)

    path = encode([make_scene(index, 64, 96) if index < 5 or index % 5 == 0 else None for index in range(21)], name="v.mkv")
    monkeypatch.setattr(cv2, "VideoCapture", Estimating)
    with open_frames(path) as source:
        assert (source.expected_frames, len(list(source)), source.skipped) == (22, 9, 0)


@pytest.mark.skipif(not hasattr(cv2, "CAP_PROP_PTS"), reason="this OpenCV does not tell where a video begins")
@pytest.mark.parametrize("cut", [False, True])
def test_matroska_that_begins_late_lacks_nothing_but_what_is_cut_off(encode, make_scene, cut):
    path = encode([make_scene(index, 64, 96) if index >= 99 else None for index in range(120)], name="v.mkv")
    if cut:
        path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    with open_frames(path) as source:
        frames = list(source)
    assert source.expected_frames == 21
    assert len(frames) + source.skipped == 21 and (source.skipped > 0) == cut
    assert frames[0].stamp_ns == 0


@pytest.mark.parametrize("aspect", [Fraction(2, 1), Fraction(1, 2)])
def test_network_sees_square_pixels_and_labels_keep_the_grid(encode, make_scene, video_weights, aspect):
    (frame, *_) = open_frames(encode([make_scene(0, 64, 64)] * 2, aspect=aspect))
    assert frame.pixel_aspect == float(aspect)
    result = VideoSegmenter.from_weights(video_weights).step_frame(frame)
    network = result.geometry.network_size
    assert network.width / network.height == pytest.approx(float(aspect), rel=0.1)
    assert result.labels.shape == (64, 64)


@pytest.mark.parametrize(
    ("numbers", "turned", "aspect"),
    [
        ((2, 1), 0, 2.0),
        ((2, 1), 90, 0.5),
        ((2, 1), 180, 2.0),
        ((2, 1), 270, 0.5),
        ((4320, 4739), 0, 4320 / 4739),
        ((0, 0), 0, 1.0),  # nothing is said
        ((0, 1), 0, 1.0),
        ((1, 0), 0, 1.0),
        ((-1, -1), 0, 1.0),
        ((1, -1), 0, 1.0),
    ],
)
def test_shape_of_pixels_is_that_of_the_picture_as_it_comes_out(tmp_path, write_video, monkeypatch, numbers, turned, aspect):
    about = {
        cv2.CAP_PROP_SAR_NUM: numbers[0],
        cv2.CAP_PROP_SAR_DEN: numbers[1],
        cv2.CAP_PROP_ORIENTATION_AUTO: 1.0,
        cv2.CAP_PROP_ORIENTATION_META: turned,
    }

    class Turning(OtherCapture):
        def get(self, key):
            return about[key] if key in about else self._capture.get(key)

    path = write_video(tmp_path / "v.avi", count=2)
    monkeypatch.setattr(cv2, "VideoCapture", Turning)
    assert [frame.pixel_aspect for frame in open_frames(path)] == [aspect] * 2
    about[cv2.CAP_PROP_ORIENTATION_AUTO] = 0.0  # pictures come out as they are stored
    upright = aspect if turned % 180 == 0 else 1 / aspect
    assert [frame.pixel_aspect for frame in open_frames(path)] == [upright] * 2


def test_plan_of_a_stream_is_asked_for_without_its_pixels(make_scene, video_weights):
    segmenter = VideoSegmenter.from_weights(video_weights)
    result = segmenter.step(make_scene(0, 64, 64), 0, pixel_aspect=2.0)
    assert segmenter.plan_for(Size(64, 64)) is result.geometry


def test_pixels_that_are_nearly_square_are_square(video_weights):
    segmenter = VideoSegmenter.from_weights(video_weights)
    assert segmenter.plan_for(Size(64, 96), 136 / 135).network_size == segmenter.plan_for(Size(64, 96)).network_size


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_title_that_is_no_utf8_is_no_obstacle(encode, interlaced):
    path = encode([np.full((64, 96, 3), grey, np.uint8) for grey in (60, 90, 120)], interlaced=interlaced, title="titlX")
    content = path.read_bytes()
    assert b"titlX" in content
    path.write_bytes(content.replace(b"titlX", b"titl\xe9"))
    with open_frames(path) as read:
        assert len(list(read)) == 3
