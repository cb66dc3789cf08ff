"""Videos that every browser plays, with true times, whole however a run ends; by both encoders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.media import open_frames
from lmanet_core.media.video_file import VideoFile

SECOND = 10**9


@pytest.fixture(params=["av", "OpenCV"])
def encoder(request, monkeypatch):
    if request.param == "av":
        pytest.importorskip("av")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


def grey(value, size=(48, 64)):
    return np.full((*size, 3), value, np.uint8)


def write(path, stamps, fps=None, values=None):
    video = VideoFile(path, fps)
    for index, stamp in enumerate(stamps):
        video.write(grey(values[index] if values else 20 + 10 * index), stamp)
    video.close()


def times(path):
    """When each picture of a video begins to be seen, milliseconds; repeated ones are one."""
    frames = list(open_frames(path))
    new = [0] + [n for n in range(1, len(frames)) if abs(frames[n].image.mean() - frames[n - 1].image.mean()) > 4]
    return [round(frames[n].stamp_ns / 1e6) for n in new]


def test_codec_and_container_are_those_that_browsers_play(tmp_path, encoder):
    write(tmp_path / "v.webm", [0, SECOND // 10, SECOND // 5])
    capture = cv2.VideoCapture(str(tmp_path / "v.webm"))
    fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert fourcc == {"av": b"VP90", "OpenCV": b"VP80"}[encoder]
    assert (tmp_path / "v.webm").read_bytes()[:64].find(b"webm") > 0
    pixels = int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)).to_bytes(4, "little")
    assert pixels == b"I420"  # no browser plays 4:4:4


def test_every_picture_is_in_the_video_in_its_colours(tmp_path, encoder):
    video = VideoFile(tmp_path / "v.webm", 10.0)
    for colour in ((200, 30, 60), (20, 180, 40), (70, 130, 180)):
        video.write(np.full((48, 64, 3), colour, np.uint8))
    video.close()
    frames = [frame.image[10:-10, 10:-10].mean(axis=(0, 1)) for frame in open_frames(tmp_path / "v.webm")]
    assert np.abs(np.array(frames) - [(200, 30, 60), (20, 180, 40), (70, 130, 180)]).max() < 12


def test_times_of_a_changing_rate_are_kept(tmp_path, encoder):
    stamps = [0, 40, 80, 120, 160, 660, 1160, 1660]
    write(tmp_path / "v.webm", [10**18 + stamp * 10**6 for stamp in stamps])
    tolerance = 1 if encoder == "av" else 20  # half a period of the first two
    assert np.abs(np.array(times(tmp_path / "v.webm")) - stamps).max() <= tolerance


def test_stamps_that_run_backwards_go_on_and_long_pauses_are_shortened(tmp_path, encoder):
    stamps = [5.0, 5.5, 1.0, 1.5, 1.5, 5000.0, 5000.5]
    write(tmp_path / "v.webm", [round(stamp * SECOND) for stamp in stamps])
    assert np.abs(np.array(times(tmp_path / "v.webm")) - [0, 500, 1000, 1500, 2000, 12000, 12500]).max() <= 1


def test_sides_that_are_odd_get_a_black_line_and_the_picture_keeps_its_size(tmp_path, encoder):
    video = VideoFile(tmp_path / "v.webm", 10.0)
    for _ in range(3):
        video.write(grey(255, (47, 63)))
    video.close()
    image = list(open_frames(tmp_path / "v.webm"))[-1].image
    assert image.shape == (48, 64, 3)
    assert image[:47, :63].mean() > 200 and image[47].mean() < 100 and image[:, 63].mean() < 100


def test_a_player_can_jump_to_every_second_second(tmp_path):
    av = pytest.importorskip("av")
    write(tmp_path / "v.webm", [n * SECOND // 10 for n in range(50)], values=range(50))
    with av.open(str(tmp_path / "v.webm")) as container:
        keys = [
            float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.is_keyframe and packet.size
        ]
    assert keys == [0.0, 2.0, 4.0]


def test_one_picture_is_a_video(tmp_path, encoder):
    write(tmp_path / "v.webm", [7])
    assert len(list(open_frames(tmp_path / "v.webm"))) == 1


def test_video_without_pictures_is_no_file(tmp_path, encoder):
    video = VideoFile(tmp_path / "v.webm")
    video.close()
    video.close()
    assert not (tmp_path / "v.webm").exists()


WRITER = """
import sys, time
import numpy as np
path, encoder = sys.argv[1:]
if encoder == "OpenCV":
    sys.modules["av"] = None
from lmanet_core.media.video_file import VideoFile
noise = np.random.default_rng(0).integers(0, 256, (120, 1000, 3), np.uint8)
video = VideoFile(path, 10.0)
for index in range(400):
    video.write(np.ascontiguousarray(noise[:, index : index + 160]))
    if index == 80:
        print("ready", flush=True)
    time.sleep(0.0 if index < 80 else 0.1)
"""


def test_killed_process_leaves_a_video_that_plays(tmp_path, encoder):
    # a new interpreter: a fork would inherit the locks of OpenCV's threads and hang on them
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "v.webm", encoder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    capture, count = cv2.VideoCapture(str(tmp_path / "v.webm")), 0
    while capture.read()[0]:
        count += 1
    assert count > 50


def test_full_disk_is_an_output_error(tmp_path, encoder):
    if encoder == "av" and Path("/dev/full").exists():
        (tmp_path / "v.webm").symlink_to("/dev/full")
        with pytest.raises(OutputError, match=r"v\.webm: cannot be written: No space left on device"):
            write(tmp_path / "v.webm", [n * SECOND // 10 for n in range(200)])
        return
    video = VideoFile(tmp_path / "v.webm", 10.0)
    for value in (10, 20, 30):
        video.write(grey(value))
    video._encoder._written += 5  # what OpenCV lost without a word
    with pytest.raises(OutputError, match="8 frames were written, 3 can be read back"):
        video.close()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_rate_that_is_none_is_refused(tmp_path, fps):
    with pytest.raises(ConfigError, match="fps must be a positive number"):
        VideoFile(tmp_path / "v.webm", fps)


def test_opencvs_remarks_are_kept_from_the_terminal(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "av", None)
    write(tmp_path / "v.webm", [0, SECOND])
    os.write(2, b"what others say afterwards")
    assert capfd.readouterr().err == "what others say afterwards"
