"""Published weights by name: the licence first, resumed, checked, never over another file. From a server of this test alone."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from lmanet_core.commands import weights
from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError, OutputError, WeightsError
from lmanet_core.weights import catalogue
from lmanet_core.weights.catalogue import CATALOGUE, KnownWeights, find_weights
from lmanet_core.weights.download import fetch

CONTENT = bytes(range(256)) * 4096  # 1 MB
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT; `asked` are the ranges asked for, `breaks_at` ends the first answers early."""
    state = SimpleNamespace(asked=[], breaks_at=[], content=CONTENT, ranges=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks_at.pop(0)] if state.breaks_at else body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        state.known = KnownWeights(
            "small", "nothing", "", "MIT", f"http://127.0.0.1:{httpd.server_port}/w.pth", "w.pth", BLOB, len(CONTENT)
        )
        yield state
        httpd.shutdown()


def test_file_comes_whole_and_is_told_of_while_it_comes(server, tmp_path):
    seen = []
    assert fetch(server.known, tmp_path / "w.pth", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "w.pth").read_bytes() == CONTENT and [path.name for path in tmp_path.iterdir()] == ["w.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 2


@pytest.mark.parametrize("ranges", [True, False], ids=["server resumes", "server starts again"])
def test_half_a_download_goes_on_where_it_broke_off(server, tmp_path, ranges):
    server.breaks_at, server.ranges = [300_000], ranges
    with pytest.raises(WeightsError, match="the same command goes on from there"):
        fetch(server.known, tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()
    have = (tmp_path / "w.pth.part").stat().st_size
    assert 0 < have <= 300_000
    assert fetch(server.known, tmp_path / "w.pth") and (tmp_path / "w.pth").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]


def test_part_that_was_complete_needs_nothing_more(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    assert fetch(server.known, tmp_path / "w.pth") and (tmp_path / "w.pth").read_bytes() == CONTENT


def test_wrong_content_is_thrown_away(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(WeightsError, match=rf"is not what was published \(git blob [0-9a-f]{{40}}, wanted {BLOB}\)"):
        fetch(server.known, tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())


def test_another_size_is_refused_before_anything_is_written(server, tmp_path):
    with pytest.raises(WeightsError, match="wanted 5 bytes, the server has 1048576"):
        fetch(replace(server.known, size=5), tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())


def test_file_that_is_there_is_never_overwritten(server, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is there and is not small; it stays"):
        fetch(server.known, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == b"mine" and server.asked == []
    (tmp_path / "w.pth").write_bytes(CONTENT)
    assert fetch(server.known, tmp_path / "w.pth") is False and server.asked == []


def test_without_a_network_it_says_so(tmp_path):
    known = KnownWeights("small", "", "", "", "http://127.0.0.1:9/w.pth", "w.pth", BLOB)
    with pytest.raises(WeightsError, match=r"cannot reach http://127\.0\.0\.1:9/w\.pth .*; is there a network\?"):
        fetch(known, tmp_path / "w.pth")


def test_command_shows_the_licence_and_wants_it_accepted(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "CATALOGUE", (server.known,))
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "fetch", "small"]) == 2
    said = capsys.readouterr()
    assert "licence: MIT" in said.out and "--accept-licence" in said.err and server.asked == []
    assert main(["weights", "fetch", "small", "--accept-licence"]) == 0
    assert (tmp_path / "w.pth").read_bytes() == CONTENT and "w.pth: fetched and checked" in capsys.readouterr().out
    assert main(["weights", "fetch", "small", "--accept-licence"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_list_tells_of_every_entry_what_is_known(capsys):
    assert main(["weights", "list"]) == 0
    told = capsys.readouterr().out
    for one in CATALOGUE:
        assert one.name in told and one.address in told and one.licence in told
    assert weights.CATALOGUE is CATALOGUE


def test_unknown_weights_and_those_of_the_hub_say_what_to_do(capsys):
    with pytest.raises(ConfigError, match="no known weights 'erfnet_cityscape'; did you mean erfnet_cityscapes"):
        find_weights("erfnet_cityscape")
    assert main(["weights", "fetch", "segformer_b0_ade20k", "--accept-licence"]) == 2
    assert "give --weights hf:nvidia/segformer-b0-finetuned-ade-512-512" in " ".join(capsys.readouterr().err.split())


def test_entries_are_complete_and_their_addresses_are_safe():
    for one in CATALOGUE:
        assert one.on_hub or (one.address.startswith("https://") and one.file and len(one.git_blob) == 40)
        assert one.licence and one.data_set
