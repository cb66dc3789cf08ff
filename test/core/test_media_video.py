from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media import open_frames


class SilentCapture:
    """A backend that reads the video but knows neither its rate nor any time."""

    def __init__(self, path):
        self._capture = _CAPTURE(path)

    def get(self, key):
        return 0.0 if key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_POS_MSEC) else self._capture.get(key)

    def __getattr__(self, name):
        return getattr(self._capture, name)


_CAPTURE = cv2.VideoCapture


def test_video_gives_every_frame_with_its_time(tmp_path, write_video):
    with open_frames(write_video(tmp_path / "v.avi", count=10, fps=20.0)) as source:
        frames = list(source)
    assert (source.kind, source.expected_frames, source.fps, source.topic) == ("video", 10, 20.0, None)
    assert (source.skipped, source.dropped) == (0, 0)
    assert [frame.stamp_ns for frame in frames] == [index * 50_000_000 for index in range(10)]
    assert [frame.name for frame in frames[:2]] == ["000000", "000001"]
    assert all(abs(frame.image.mean() - 5 * index) < 2 for index, frame in enumerate(frames))  # JPEG


def test_video_frames_are_rgb(tmp_path):
    path = str(tmp_path / "red.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 32))
    writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))  # OpenCV's red
    writer.release()
    red, green, blue = next(open_frames(path)).image.mean(axis=(0, 1))
    assert red > 240 and green < 15 and blue < 15


def test_video_without_rate_or_times_has_increasing_stamps(tmp_path, write_video, monkeypatch, caplog):
    path = write_video(tmp_path / "v.avi", count=4)
    monkeypatch.setattr(cv2, "VideoCapture", SilentCapture)
    source = open_frames(path)
    assert [frame.stamp_ns for frame in source] == [0, 40_000_000, 80_000_000, 120_000_000]
    assert (source.fps, source.expected_frames) == (None, 4)
    assert "no frame rate" in caplog.text


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.mp4: wanted a video, image, bag or folder, there is no such file"):
        open_frames(tmp_path / "nothing.mp4")


@pytest.mark.parametrize("content", [b"", b"This is a text.\n" * 100])
def test_file_that_is_no_video_is_an_input_error(tmp_path, content):
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(InputError, match="wanted a video, got a file of"):
        open_frames(tmp_path / "v.mp4")


def test_video_cut_before_its_index_is_an_input_error(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", codec="mp4v")
    path.write_bytes(path.read_bytes()[:-200])  # the index stands at the end
    with pytest.raises(InputError, match="cut off"):
        open_frames(path)


def test_video_that_breaks_off_gives_the_frames_so_far_and_counts_the_rest(tmp_path, write_video, caplog):
    path = write_video(tmp_path / "v.avi", count=30)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with caplog.at_level(logging.WARNING), open_frames(path) as source:
        frames = list(source)
    assert 5 < len(frames) < 25
    assert source.skipped == 30 - len(frames)
    assert f"breaks off after {len(frames)} of 30" in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_video_of_few_frames_is_whole(tmp_path, write_video, count):
    with open_frames(write_video(tmp_path / "v.avi", count=count)) as source:
        assert [frame.after_loss for frame in source] == [False] * count
    assert source.skipped == 0


def test_topic_of_a_video_is_refused(tmp_path, write_video):
    with pytest.raises(ConfigError, match="only bags have topics"):
        open_frames(write_video(tmp_path / "v.avi"), topic="/camera")


def test_closed_source_ends(tmp_path, write_video):
    source = open_frames(write_video(tmp_path / "v.avi"))
    next(source)
    source.close()
    source.close()
    assert list(source) == []


def test_real_video(shared_data):
    with open_frames(shared_data / "video/solidWhiteRight.mp4") as source:
        first, second = next(source), next(source)
    assert (source.expected_frames, source.fps) == (221, 25.0)
    assert (first.image.shape, second.stamp_ns - first.stamp_ns) == ((540, 960, 3), 40_000_000)
