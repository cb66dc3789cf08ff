"""Which tiles a device gets: those measured on it, those of the nearest device where they fit, or those that fit everywhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="no Triton for this platform")

from lmanet_core.commands.main import main  # noqa: E402
from lmanet_core.errors import OutputError  # noqa: E402
from lmanet_core.experiments import tune_tiles  # noqa: E402
from lmanet_core.experiments.benchmark import OperatorSize  # noqa: E402
from lmanet_core.ops import triton_launch  # noqa: E402
from lmanet_core.ops.triton_launch import TILES, TUNED, every_candidate, tiles_for  # noqa: E402
from lmanet_core.weights import tiles as kept  # noqa: E402

H200 = TUNED[9, 0]
CARD = torch.device("cuda", 0)
CHOSEN = {"attend": {"narrow": TILES["attend"]["narrow"][1]}, "score_gradients": {"wide": TILES["score_gradients"]["wide"][0]}}


@pytest.fixture(autouse=True)
def a_card(tmp_path, monkeypatch):
    """A device that is not there, and a cache of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    monkeypatch.setattr(triton_launch, "_measured", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LMANET_TUNE", raising=False)
    return tmp_path / "cache" / "lmanet" / "tiles.json"


# ---- without a measurement


@pytest.mark.parametrize("capability", [(8, 0), (8, 7), (9, 0), (10, 0), (11, 0)])
@pytest.mark.parametrize("kernel", TILES)
def test_device_with_as_much_shared_memory_takes_the_tiles_of_the_nearest(kernel, capability):
    assert tiles_for(kernel, 128, 2048, True, capability) == H200[kernel]["wide"]
    assert tiles_for(kernel, 16, 128, True, capability) == H200[kernel]["narrow"]


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0), (13, 7)])  # the last is none that is known
def test_device_with_less_takes_those_that_fit(capability):
    first = {name: kinds["wide"][0] for name, kinds in TILES.items()}
    got = {name: tiles_for(name, 128, 2048, True, capability) for name in TILES}
    assert got == {**first, "score_gradients": H200["score_gradients"]["wide"]}
    assert tiles_for("attend", 16, 64, True, capability) == H200["attend"]["narrow"]._replace(channels=64)
    assert tiles_for("attend", 16, 128, True, capability) == TILES["attend"]["narrow"][0]


def test_tiles_that_do_not_fit_after_all_give_way_to_those_that_fit_everywhere(monkeypatch):
    started = []

    class Kernel:
        def __getitem__(self, grid):
            return self

        def __call__(self, *arguments, **constants):
            started.append(constants["CHANNELS"])
            if len(started) == 1:
                raise triton_launch.OutOfResources(120_000, 101_376, "shared memory")

    monkeypatch.setattr(triton_launch, "INTERPRETED", False)
    monkeypatch.setattr(triton_launch.kernels, "attend", Kernel())
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    constants = {"DK": 16, "DV": 2048}
    triton_launch._start("attend", lambda tiles: (1,), (torch.zeros(1, dtype=torch.float16),), constants)
    assert started == [H200["attend"]["wide"].channels, TILES["attend"]["wide"][0].channels]


def test_wider_keys_than_were_measured_and_ordinary_units_take_those_that_fit_everywhere():
    for name in TILES:
        assert tiles_for(name, 256, 2048, True, (9, 0)) == TILES[name]["wide"][0]
        assert tiles_for(name, 16, 64, False, (9, 0)) == triton_launch.candidates(name, 64, False)[0]


# ---- what was measured here


def test_what_was_measured_is_used_with_this_card_and_this_triton_only(a_card, monkeypatch):
    assert kept.use_measured_tiles(CARD) is False  # nothing was
    assert kept.write_tiles(CARD, CHOSEN) == a_card
    assert list(json.loads(a_card.read_text())) == [f"a card, 8.9, Triton {triton.__version__}"]
    assert kept.use_measured_tiles(torch.device("cpu")) is False
    assert kept.use_measured_tiles(CARD) is True
    assert tiles_for("attend", 16, 128, True, (8, 9), "a card") == CHOSEN["attend"]["narrow"]
    assert tiles_for("score_gradients", 128, 2048, True, (8, 9), "a card") == CHOSEN["score_gradients"]["wide"]
    assert tiles_for("value_gradients", 16, 64, True, (8, 9), "a card") == H200["value_gradients"]["narrow"]._replace(
        channels=64
    )
    assert tiles_for("attend", 16, 128, True, (8, 9), "another") == TILES["attend"]["narrow"][0]
    for name, value in (("get_device_name", "another"), ("get_device_capability", (8, 6))):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, name, lambda device=None, value=value: value)
            assert kept.use_measured_tiles(CARD) is False
    monkeypatch.setattr(triton, "__version__", "9.9")
    assert kept.use_measured_tiles(CARD) is False


def test_measured_tiles_that_do_not_fit_these_maps_are_not_taken():
    triton_launch.use_tiles("a card", {"attend": {"narrow": H200["attend"]["narrow"]}})
    assert tiles_for("attend", 16, 64, True, (8, 9), "a card") == H200["attend"]["narrow"]._replace(channels=64)
    assert tiles_for("attend", 128, 128, True, (8, 9), "a card") == TILES["attend"]["narrow"][0]


def test_other_cards_stay_in_the_file(a_card, monkeypatch):
    kept.write_tiles(CARD, CHOSEN)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "another")
    kept.write_tiles(CARD, CHOSEN)
    assert [key.split(",")[0] for key in json.loads(a_card.read_text())] == ["a card", "another"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{{{", '{KEY: 3}', '{KEY: {"attend": {"narrow": [8, 8]}}}',
     '{KEY: {"attend": {"narrow": [3, 8, 2, 32, 128, 4, 2]}}}', '{KEY: {"attend": {"plain": [4, 8, 1, 16, 64, 8, 1]}}}',
     '{KEY: {"none": {"narrow": [8, 8, 2, 32, 128, 4, 2]}}}', '{KEY: {"attend": 3}}', "\xff"],
)  # fmt: skip
def test_damaged_file_is_said_and_passed_over(content, a_card, caplog):
    a_card.parent.mkdir(parents=True)
    key = json.dumps(f"a card, 8.9, Triton {triton.__version__}")
    a_card.write_bytes(content.replace("KEY", key).encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert kept.use_measured_tiles(CARD) is False
    assert "lmanet bench --tune" in caplog.text and triton_launch._measured == {}
    kept.write_tiles(CARD, CHOSEN)  # and made whole by the next measurement
    assert kept.use_measured_tiles(CARD) is True


def test_file_is_below_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for told in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", told)
        assert kept.tiles_file() == tmp_path / ".cache" / "lmanet" / "tiles.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert kept.tiles_file() is None and kept.use_measured_tiles(CARD) is False
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        kept.write_tiles(CARD, CHOSEN)


def test_cache_that_cannot_be_written_is_an_error(a_card):
    a_card.parent.parent.write_text("a file")
    with pytest.raises(OutputError, match=r"tiles\.json: cannot be written"):
        kept.write_tiles(CARD, CHOSEN)


# ---- measuring


SIZES = (OperatorSize("a narrow one", 1, 16, 64, 4, 4), OperatorSize("a wide one", 1, 128, 2048, 4, 4))


def tune(times, capability=(9, 0)):
    """Times by (kernel, tiles in use); those that are not there raise. Returns the fastest and what was tried."""
    rows = []

    def make_timer(size):
        def timer(name):
            tiles = tiles_for(name, size.key_channels, size.value_channels, True, capability, "a card")
            return times[name, size.value_channels, tiles]

        return timer

    return tune_tiles.tune("a card", capability, rows.append, make_timer, SIZES), rows


def all_times(best):
    """Of every candidate: 2 ms, but 1 ms of the candidate of this number of each kernel and kind."""
    return {
        (name, value_channels, triton_launch._cut(tiles, value_channels)): 1.0 if number == best else 2.0
        for name in TILES
        for value_channels, kind in ((64, "narrow"), (2048, "wide"))
        for number, tiles in enumerate(every_candidate(name, kind))
    }


@pytest.mark.parametrize("best", [0, 2])
def test_the_fastest_of_the_candidates_is_taken_for_each_kernel_and_kind(best):
    fastest, rows = tune(all_times(best))
    assert fastest == {name: {kind: every_candidate(name, kind)[best] for kind in ("narrow", "wide")} for name in TILES}
    assert len(rows) == sum(len(every_candidate(name, kind)) for name in TILES for kind in ("narrow", "wide"))
    assert {row["found"] for row in rows} == {1.0, 2.0}
    assert triton_launch._measured["a card"] == fastest


def test_candidate_that_fails_is_said_and_another_is_taken():
    times = all_times(0)
    for name, value_channels, tiles in list(times):
        if times[name, value_channels, tiles] == 1.0:
            del times[name, value_channels, tiles]
    fastest, rows = tune(times)
    assert fastest["attend"]["narrow"] == every_candidate("attend", "narrow")[1]
    assert len([row for row in rows if str(row["found"]).startswith("KeyError")]) == 6


def test_candidate_too_large_for_the_device_is_not_tried():
    _, rows = tune(all_times(0), (8, 9))
    tried = {tuple(row["tiles"]) for row in rows if (row["kernel"], row["kind"]) == ("attend", "wide")}
    assert tuple(H200["attend"]["wide"]) not in tried and tuple(TILES["attend"]["wide"][0]) in tried


def test_command_measures_keeps_and_records(a_card, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tune_tiles, "make_timer", lambda device, size: lambda name: 1.5)
    monkeypatch.setattr(tune_tiles, "describe_run", lambda command: {"command": command})
    record = tmp_path / "tiles.json"
    assert main(["bench", "--tune", "--json", str(record)]) == 0
    said = capsys.readouterr()
    assert f"{a_card}: used from now on" in said.out and "attend, narrow, [8, 8, 2, 32, 128, 4, 2]: 1.5" in said.err
    written = json.loads(record.read_text())
    assert written["run"] == {"command": f"lmanet bench --tune --json {record}"} and len(written["rows"]) > 20
    triton_launch._measured.clear()
    assert kept.use_measured_tiles(CARD) is True
    assert triton_launch._measured["a card"]["attend"]["wide"] == TILES["attend"]["wide"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_available": lambda: False}, "wants a CUDA device"),
        ({"get_device_capability": lambda device=None: (7, 5)}, "wants compute capability 8.0 or newer, a card has 7.5"),
        ({}, "LMANET_TUNE=1 has every launch do so; unset it"),
    ],
)
def test_where_there_is_nothing_to_measure_the_command_says_so(change, said, monkeypatch, capsys):
    for name, value in change.items():
        monkeypatch.setattr(torch.cuda, name, value)
    if not change:
        monkeypatch.setitem(os.environ, "LMANET_TUNE", "1")
    assert main(["bench", "--tune"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
