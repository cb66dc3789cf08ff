"""`lmanet bench`: what it compares with, what it counts, and that it says where nothing was measured."""

from __future__ import annotations

import json

import pytest
import torch

from lmanet_core.commands import bench
from lmanet_core.commands.main import main
from lmanet_core.errors import OutputError
from lmanet_core.experiments import baselines, benchmark
from lmanet_core.experiments.benchmark import NOT_MEASURED, FrameCase, OperatorSize
from lmanet_core.geometry import Size
from lmanet_core.network import MemoryConfig, MemoryFrames, MemoryModule
from lmanet_core.ops import local_attention

TINY = OperatorSize("tiny", 2, 8, 16, 5, 9)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", (TINY,))
    case = FrameCase("tiny", "erfnet", Size(32, 64))
    monkeypatch.setattr(benchmark, "FRAMES", (case,))
    monkeypatch.setattr(benchmark, "CPU_FRAMES", (case,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_figures_are_printed_and_recorded_with_machine_versions_commit_and_command(tiny, tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["run"]["command"] == f"lmanet bench --quick --json {path}"
    assert {"commit", "uncommitted_changes", "python", "torch", "device", "precision"} <= set(record["run"])
    assert record["run"]["torch"].startswith(torch.__version__)
    shown = capsys.readouterr().out
    for title, rows in record["tables"].items():
        assert title in shown and rows
        for row in rows:
            assert row["what"] in shown and row["cells"]
            for figure in row["cells"].values():
                assert figure == NOT_MEASURED if "GPU" in title else isinstance(figure, float) and figure >= 0
    (read,) = record["tables"]["memory read on the CPU, float32"]
    assert read["cells"]["times faster"] == read["cells"]["shift-and-multiply"] / read["cells"]["forward"]


def test_record_that_cannot_be_written_is_an_error_after_the_table(tiny, tmp_path, capsys):
    with pytest.raises(OutputError, match="cannot write"):
        bench.run(bench.make_parser().parse_args(["--quick", "--json", str(tmp_path / "none" / "bench.json")]))
    assert "memory read on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("window", [3, 5, 21, None])
def test_pairs_are_those_inside_the_map(window):
    half = 99 if window is None else window // 2
    counted = sum(
        abs(y - other_y) <= half and abs(x - other_x) <= half
        for y in range(5)
        for x in range(9)
        for other_y in range(5)
        for other_x in range(9)
    )
    assert TINY.pairs(window) == 2 * counted


def test_work_and_bytes_are_those_of_the_two_networks():
    erfnet, pspnet = benchmark.SIZES
    assert (round(erfnet.gflop(21), 2), round(pspnet.gflop(21))) == (
        2.04,
        179,
    )  # 2.31 and 191 with those outside the map
    assert (round(erfnet.megabytes(2), 1), round(pspnet.megabytes(2))) == (6.6, 577)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [5, None])
def test_flex_attention_computes_the_same_read_with_the_zero_logit_border(window):
    inputs = benchmark.make_inputs(OperatorSize("", 2, 16, 24, 9, 20), torch.float32, "cpu")
    read = baselines.flex_attention(*inputs, window)
    expected = local_attention(*inputs, window, impl="reference").flatten(2)[:, :, read.order].transpose(1, 2)
    torch.testing.assert_close(read()[:, 0], expected, rtol=0, atol=1e-5)  # rounding 6e-8 times logits up to 20


def test_comparison_that_fails_says_why_in_its_cell():
    def fail():
        raise ValueError("no windows of this size\nand more")

    assert benchmark._or_words(fail) == "ValueError: no windows of this size"
    assert benchmark._or_words(lambda: __import__("no_such_module")) == "not installed: no_such_module"


def test_the_published_scheme_in_a_frame_joins_what_it_read_as_the_network_does(monkeypatch):
    monkeypatch.setitem(baselines.BASELINES, "published scheme", baselines.shift_and_multiply)  # the kernels need a GPU
    module = MemoryModule(16, MemoryConfig(key_channels=8, value_channels=16, window=5)).eval()
    features, past = torch.randn(1, 16, 6, 9), torch.randn(3, 16, 6, 9)
    kept = module.remember(past)
    memory = MemoryFrames(kept.key[None], kept.value[None])
    with torch.inference_mode():
        torch.testing.assert_close(benchmark._PublishedRead(module)(features, memory), module.read(features, memory))
