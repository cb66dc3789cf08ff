"""Cameras and network streams, against a small server of our own."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media import open_frames
from lmanet_core.media.live import LiveSource, hide_password, is_stream, open_stream


class Camera(ThreadingHTTPServer):
    """Sends JPEGs that brighten, `burst` of them `pause_s` apart in each connection, then hangs up."""

    daemon_threads = True

    def __init__(self, burst, pause_s, connections):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.burst, self.pause_s, self.connections = burst, pause_s, connections
        self.served = self.sent = 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}/live"
        self.file = b""

    def handle_error(self, request, client_address):
        """A client that has gone is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if self.path.endswith(".avi"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.file)))
            self.end_headers()
            self.wfile.write(server.file)
            return
        server.served += 1
        if server.served > server.connections:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(server.burst):
            picture = np.full((48, 64, 3), 2 * (server.sent % 120), np.uint8)
            server.sent += 1
            data = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            self.wfile.write(head + data + b"\r\n")
            time.sleep(server.pause_s)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(burst=100, pause_s=0.02, connections=1):
        server = Camera(burst, pause_s, connections)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_stream_gives_frames_with_the_time_they_came(serve):
    server = serve()
    before = time.time_ns()
    with open_frames(server.address) as source:
        frames = [next(source) for _ in range(5)]
    assert source.kind == "live" and source.expected_frames is None and source.topic is None
    stamps = [frame.stamp_ns for frame in frames]
    assert sorted(set(stamps)) == stamps and before < stamps[0] < stamps[-1] <= time.time_ns()
    assert [frame.name for frame in frames] == [f"00000{n}" for n in range(5)]
    assert frames[0].image.shape == (48, 64, 3) and not any(frame.after_loss for frame in frames)


def test_newest_frame_wins_while_the_reader_is_busy(serve):
    with open_frames(serve().address) as source:
        first = next(source)
        time.sleep(0.6)
        late = next(source)
    assert (late.stamp_ns - first.stamp_ns) > 0.4e9
    assert late.image.mean() - first.image.mean() > 10  # two grey levels a frame
    assert source.dropped > 5


def test_lost_connection_is_made_anew_and_the_frame_after_says_so(serve, caplog):
    server = serve(burst=6, connections=2)
    with open_stream(server.address, give_up_s=1.0) as source:
        frames = list(source)
    assert 3 <= server.served <= 8  # the third was refused, and there are pauses before the others
    losses = [index for index, frame in enumerate(frames) if frame.after_loss]
    assert len(losses) == 1 and 0 < losses[0] < len(frames)
    assert caplog.text.count("connecting anew") == 2 and "the stream is over" in caplog.text


class Capture:
    """So many images of a camera that tells a rate, then the connection is lost."""

    def __init__(self, count, fps=30.0):
        self._left, self._fps = count, fps

    def read(self):
        self._left -= 1
        time.sleep(0.002)
        return self._left >= 0, np.zeros((4, 6, 3), np.uint8)

    def get(self, key):
        return self._fps

    def isOpened(self):
        return True

    def release(self):
        """Nothing is held."""


def test_loss_is_told_to_a_reader_that_missed_the_first_images_after_it():
    with LiveSource("camera", Capture(1), lambda: Capture(10_000)) as source:
        flags = [next(source).after_loss]
        while source.dropped < 5:
            time.sleep(0.01)
        flags += [next(source).after_loss for _ in range(3)]
    assert flags == [False, True, False, False]


def test_video_at_an_address_gives_every_frame_once(serve, tmp_path, write_video):
    server = serve()
    server.file = write_video(tmp_path / "v.avi", count=12).read_bytes()
    with open_frames(server.address + ".avi") as source:
        assert len(list(source)) == source.expected_frames == 12
    assert source.kind == "video"


def test_nothing_at_an_address_is_an_input_error_without_the_password(serve):
    address = serve(connections=0).address.replace("http://", "http://me:secret@")
    with pytest.raises(InputError, match="wanted a camera or stream, but no image comes") as error:
        open_frames(address)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("told", "fps"), [(30.0, 30.0), (240.0, 240.0), (0.0, None), (float("nan"), None), (1000.0, None)])
def test_rate_of_a_camera_is_one_that_can_be(told, fps):
    with LiveSource("camera", Capture(10_000, told), lambda: Capture(10_000, told)) as source:
        assert source.fps == fps


def test_camera_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="97: wanted a camera or stream"):
        open_frames("97")


def test_topic_of_a_stream_is_refused():
    with pytest.raises(ConfigError, match="only bags have topics"):
        open_frames("rtsp://host/live", topic="/camera")


def test_closing_ends_the_thread(serve):
    source = open_frames(serve().address)
    next(source)
    source.close()
    source.close()
    assert list(source) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "stream" and thread.is_alive()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("rtsp://host:554/live", True), ("0", True), ("udp://@:5000", True), ("drive.mp4", False), ("C:/a.mp4", False)],
)
def test_what_is_a_stream(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_stream(text) == expected


def test_file_named_like_a_camera_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    assert not is_stream("0")


def test_password_is_hidden():
    assert hide_password("rtsp://user:pass@host/live") == "rtsp://…@host/live"
    assert hide_password("http://host/a@b.mp4") == "http://host/a@b.mp4"
