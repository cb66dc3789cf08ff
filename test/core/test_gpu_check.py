"""`lmanet bench --gpu`: its parts compute here what they compute on a GPU, on tiny sizes; the record grows part by part."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmanet_core.commands import bench
from lmanet_core.commands.main import main
from lmanet_core.errors import OutputError
from lmanet_core.experiments import gpu_agreement, gpu_check, gpu_timing
from lmanet_core.experiments.benchmark import OperatorSize
from lmanet_core.experiments.gpu_check import LIMIT_S, CheckSizes, make_parts, run_gpu_check
from lmanet_core.experiments.timed_parts import Part
from lmanet_core.geometry import Size

READ = OperatorSize("tiny", 1, 16, 24, 3, 9)
TINY = CheckSizes(Size(64, 96), 6, (READ,), (READ,), 5, 32, Size(32, 64), Size(64, 96), Size(33, 65), 4)


def test_every_part_comes_to_its_end_on_a_cpu(tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="no Triton for this platform")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as on a GPU, the kernels are Triton's
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = [
        replace(part, limit_s=900.0) for part in make_parts("cpu", str(tmp_path), TINY)
    ]  # others may use this machine, too
    monkeypatch.setattr(gpu_check, "make_parts", lambda *_: whole)
    path, seen = tmp_path / "gpu.json", []

    def on_part(name, outcome):
        assert list(json.loads(path.read_text())["parts"]) == [*seen, name]
        seen.append(name)

    run_gpu_check(path, ["bench", "--gpu"], on_part, "cpu", TINY, limit_s=3000)
    record = json.loads(path.read_text())
    assert record["run"]["command"] == "lmanet bench --gpu" and {"commit", "torch", "triton"} <= set(record["run"])
    parts = record["parts"]
    assert {name: (part["status"], part["said"]) for name, part in parts.items()} == dict.fromkeys(parts, ("done", ""))
    assert list(parts) == [part.name for part in whole]

    rows = parts["labels against the CPU"]["rows"]
    assert [row["what"] for row in rows] == ["both memories, motion on the host", "both memories", "no memory"]
    for row in rows:
        cells = row["cells"]
        assert cells["frames"] == 6 and cells["resets"] == 2  # the first, and after the gap
        assert cells["labels equal to the CPU's"] > 0.95  # of bfloat16, where the CPU multiplies it
        assert {cells[name] for name in cells if name.startswith("frames ")} == {0}
    for row, dtype in zip(parts["kernels against the definition"]["rows"], ("float16", "float32"), strict=True):
        assert row["what"] == f"tiny, R=5, 3x9, {dtype}" and row["agrees"] is True
        assert row["cells"]["same bits again"] == "yes" and 0 < row["cells"]["gradient of query"] < row["cells"]["tolerance"]
    (read,) = parts["memory read"]["rows"]
    assert read["cells"]["share of the floor"] == read["cells"]["floor ms"] / read["cells"]["forward ms"]
    assert read["cells"]["backward ms"] > 0
    for name, size in (
        ("ERFNet", "32x64"),
        ("weights that ship", "64x96"),
        ("ERFNet, large", "64x96"),
        ("PSPNet-101", "33x65"),
    ):
        rows = parts[f"frame, {name}"]["rows"]
        assert [row["what"].split(", ")[1::2] for row in rows] == [
            [size, "both memories"], [size, "label memory"], [size, "no memory"],
        ]  # fmt: skip
        assert all(0 < row["cells"]["p50 ms"] <= row["cells"]["p95 ms"] for row in rows)
        assert "motion ms" in rows[0]["cells"]
    whole, *kernels = parts["kernels of a frame"]["rows"]
    assert whole["cells"]["calls"] > 100 and whole["cells"]["MB to the device"] == 0  # a CPU copies nothing
    assert len(kernels) == 15 and kernels[0]["cells"]["ms"] >= kernels[-1]["cells"]["ms"] > 0


def test_no_part_alone_takes_more_than_a_quarter_of_the_five_minutes():
    assert LIMIT_S == 300 and max(part.limit_s for part in make_parts("cuda", "", CheckSizes())) <= LIMIT_S / 4


def test_definition_in_slices_of_channels_is_the_definition():
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 8, 5, 9), (1, 2, 8, 5, 9), (1, 2, 24, 5, 9))
    inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
    grad_out = torch.randn(1, 24, 5, 9, generator=generator)
    whole = gpu_agreement._read(inputs, grad_out, 3, "reference")
    sliced = gpu_agreement._read_by_definition(inputs, grad_out, 3, range(0, 24, 10))
    for one, other in zip(sliced, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_kernels_that_compute_something_else_do_not_agree(monkeypatch):
    read = gpu_agreement.local_attention
    monkeypatch.setattr(
        gpu_agreement, "local_attention",
        lambda *maps, impl: read(*maps, impl="reference") * (1.0 if impl == "reference" else 1.01),
    )  # fmt: skip
    rows = list(gpu_agreement.kernels("cpu", [(READ.name, 1, 16, 24, 3, 9)], 5))
    assert [row["agrees"] for row in rows] == [False, False]


def test_labels_that_differ_do_not_agree(tmp_path, monkeypatch):
    stream = gpu_agreement._stream

    def off_by_one(runtime, images, memory, graph, host_motion):
        results = stream(runtime, images, memory, graph, host_motion)
        if not graph:
            results[-1].labels[0, 0] += 1
        return results

    monkeypatch.setattr(gpu_agreement, "_stream", off_by_one)
    row = next(gpu_agreement.labels("cpu", str(tmp_path), (64, 96), 6))
    assert row["cells"]["frames that differ without a graph"] == 1 and row["agrees"] is False


def test_street_is_drawn_once(tmp_path, monkeypatch):
    drawn = gpu_agreement.street_frames(str(tmp_path), (64, 96), 2)
    monkeypatch.setattr(gpu_agreement, "Street", None)
    again = gpu_agreement.street_frames(str(tmp_path), (64, 96), 2)
    assert np.array_equal(drawn, again) and drawn[0].shape == (64, 96, 3) and not np.array_equal(*drawn)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_trace_says_calls_time_and_bytes_of_a_frame():
    copies = [
        {"cat": "gpu_memcpy", "name": f"Memcpy {way}", "dur": 1.0, "args": {"bytes": size}}
        for way, size in (("HtoD (Pinned -> Device)", 3_000_000), ("DtoH (Device -> Pinned)", 1_000_000), ("DtoD", 500_000))
    ]
    kernels = [
        {"cat": "kernel", "name": name, "dur": dur} for name, dur in (("short", 500.0), ("long", 1000.0), ("long", 2500.0))
    ]
    others = [{"cat": "cpu_op", "name": "aten::add", "dur": 9.0}, {"ph": "M", "name": "process_name"}]
    whole, *rows = gpu_timing.describe_trace([*copies, *others, *kernels], rounds=2)
    assert whole["cells"] == {
        "calls": 1.5, "ms": 2.0, "share": 1.0, "MB to the device": 1.5, "MB to the host": 0.5, "MB within the device": 0.25,
    }  # fmt: skip
    assert rows == [
        {"what": "long", "cells": {"calls": 1.0, "ms": 1.75, "share": 0.875}},
        {"what": "short", "cells": {"calls": 0.5, "ms": 0.25, "share": 0.125}},
    ]


# ---- the command


def test_without_a_gpu_the_command_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "gpu.json"
    assert main(["bench", "--gpu", "--json", str(path)]) == 2
    assert "error: bench --gpu wants a CUDA device" in " ".join(capsys.readouterr().err.split())
    assert not path.exists()


@pytest.fixture
def on_cpu(monkeypatch):
    """`bench --gpu` with parts of one's own."""
    monkeypatch.setattr(gpu_check, "require_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "_describe", lambda device, arguments: {"command": " ".join(arguments)})

    def use(*parts):
        monkeypatch.setattr(gpu_check, "make_parts", lambda *_: list(parts))

    return use


def parts_of(tmp_path, monkeypatch, rows):
    (tmp_path / "own_parts.py").write_text(f"def give():\n    yield from {rows!r}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Part("own", "own_parts:give", {}, 30.0)


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 1)])
def test_exit_code_and_tables_say_what_was_found(agrees, code, on_cpu, tmp_path, monkeypatch, capsys):
    on_cpu(parts_of(tmp_path, monkeypatch, [{"what": "labels", "cells": {"equal": 0.99951}, "agrees": agrees}]))
    path = tmp_path / "gpu.json"
    assert main(["bench", "--gpu", "--json", str(path)]) == code
    shown = capsys.readouterr().out
    assert "own: done" in shown and "0.99951" in shown and ("does not agree" in shown) is not agrees
    record = json.loads(path.read_text())
    assert record["run"]["command"] == f"bench --gpu --json {path}" and record["parts"]["own"]["rows"][0]["agrees"] is agrees


def test_part_that_fails_is_said_with_its_last_words(on_cpu, monkeypatch, capsys):
    on_cpu(Part("none", "lmanet_core.no_such_module:give", {}, 30.0))
    assert main(["bench", "--gpu"]) == 1
    shown = capsys.readouterr().out
    assert "none: failed: ModuleNotFoundError" in shown and "Traceback" in shown


def test_record_that_cannot_be_written_is_an_error_before_anything_is_measured(on_cpu, tmp_path):
    on_cpu(Part("none", "lmanet_core.no_such_module:give", {}, 30.0))
    options = bench.make_parser().parse_args(["--gpu", "--json", str(tmp_path / "none" / "gpu.json")])
    with pytest.raises(OutputError, match="no such folder"):
        bench.run(options)


@pytest.mark.parametrize("both", [["--gpu", "--quick"], ["--gpu", "--tune"], ["--tune", "--quick"]])
def test_one_thing_at_a_time_is_measured(both, capsys):
    assert main(["bench", *both]) == 2
    assert "one of --quick, --gpu and --tune" in " ".join(capsys.readouterr().err.split())
