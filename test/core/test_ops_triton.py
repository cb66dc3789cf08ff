"""The Triton path of `local_attention`: its kernels in the interpreter, when it is chosen, and what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmanet_core.network.memory_read import KeyValue
from lmanet_core.ops import api, auto_implementation, available_implementations, local_attention, triton_attention
from lmanet_core.ops.triton_attention import why_not_triton
from lmanet_core.stream.memory import MemoryBuffer

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INPUTS = (torch.zeros(1, 8, 3, 5), torch.zeros(1, 2, 8, 3, 5), torch.zeros(1, 2, 8, 3, 5))


@pytest.mark.parametrize("where", ["interpreter", "cuda"])
def test_kernels_compute_what_the_reference_does(where):
    pytest.importorskip("triton", reason="no Triton for this platform")
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; the interpreter has run the kernels")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}  # NumPy's, of lanes beyond the map
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if where == "interpreter" else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test/core/triton_kernels.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.fixture(autouse=True)
def no_memory_of_earlier_answers():
    for cached in (why_not_triton, triton_attention._triton_version, api._warn_once):
        cached.cache_clear()
    yield
    for cached in (why_not_triton, triton_attention._triton_version, api._warn_once):
        cached.cache_clear()


@pytest.fixture
def pretend(monkeypatch):
    """A CUDA device of some capability, and a version of Triton."""

    def set_up(capability=(9, 0), version=(3, 7)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(triton_attention, "_triton_version", lambda: version)
        monkeypatch.setattr(triton_attention, "_launch", lambda: SimpleNamespace(INTERPRETED=False))

    return set_up


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_auto_takes_triton_on_cuda_and_blocked_on_a_cpu_and_for_float64(dtype, pretend):
    pretend()
    assert auto_implementation(CUDA, dtype, 16) == "triton"
    assert auto_implementation(CPU, dtype, 16) == "blocked"
    assert available_implementations(CUDA) == ("reference", "blocked", "triton")
    assert available_implementations(CPU) == ("reference", "blocked")


@pytest.mark.parametrize(
    ("device", "dtype", "key_channels", "reason"),
    [
        ({"version": None}, torch.float16, 16, "package triton 3.6 or newer, it is not installed"),
        ({"version": (3, 5)}, torch.float16, 16, "package triton 3.6 or newer, it is 3.5"),
        ({"capability": (7, 0)}, torch.float16, 16, r"wants compute capability 7.5, cuda:0 has 7.0"),
        ({"capability": (7, 5)}, torch.bfloat16, 16, r"torch.bfloat16 wants compute capability 8.0, cuda:0 has 7.5"),
        ({}, torch.float64, 16, "wanted float16, bfloat16 or float32, got torch.float64"),
        ({}, torch.float16, 257, "at most 256 key channels, got 257"),
    ],
)
def test_auto_on_cuda_without_triton_takes_blocked_and_says_so_once(device, dtype, key_channels, reason, pretend):
    pretend(**device)
    with pytest.warns(RuntimeWarning, match=f"slower blocked path: .*{reason}"):
        assert auto_implementation(CUDA, dtype, key_channels) == "blocked"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert auto_implementation(CUDA, dtype, key_channels) == "blocked"


def test_turing_runs_half_precision(pretend):
    pretend(capability=(7, 5))
    assert auto_implementation(CUDA, torch.float16, 16) == "triton"


def test_impl_triton_on_a_cpu_is_refused_and_not_replaced(pretend):
    pretend()
    with pytest.raises(ValueError, match="impl triton: wanted tensors on a CUDA device, got cpu; choose another, or auto"):
        local_attention(*INPUTS, 3, impl="triton")


@pytest.mark.filterwarnings("error")
def test_cpu_never_imports_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # an import would fail
    assert local_attention(*INPUTS, 3).shape == (1, 8, 3, 5)
    assert available_implementations("cpu") == ("reference", "blocked")


class _Recorder:
    """In the place of the kernels: keeps what they are started with."""

    def __init__(self):
        self.started = {}

    def __getattr__(self, name):
        return _Started(self, name)


class _Started:
    def __init__(self, recorder, name):
        self.recorder, self.name = recorder, name

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.recorder.started.setdefault(self.name, []).append((grid, arguments))


@pytest.fixture
def recorder(monkeypatch):
    pytest.importorskip("triton", reason="no Triton for this platform")
    from lmanet_core.ops import triton_launch

    recorded = _Recorder()
    monkeypatch.setattr(triton_launch, "kernels", recorded)
    monkeypatch.setattr(triton_launch, "INTERPRETED", True)  # starts them without measuring tiles
    return recorded


def test_kernels_get_the_memory_ring_itself(recorder):
    memory = MemoryBuffer(4)
    for stamp in range(3):
        memory.push(KeyValue(torch.rand(1, 16, 9, 20).half(), torch.rand(1, 64, 9, 20).half()), stamp)
    held = memory.frames()
    triton_attention.local_attention_op(torch.rand(1, 16, 9, 20).half(), *held, 10, False, 1.0)
    ((grid, arguments),) = recorder.started["attend"]
    assert grid == (2 * 3, 1, 1)  # tiles of 8×8 queries, all 64 channels at once
    assert [arguments[1].data_ptr(), arguments[2].data_ptr()] == [memory._keys.data_ptr(), memory._values.data_ptr()]
    for maps, strides in zip(held, (arguments[14:19], arguments[19:24]), strict=True):
        assert strides == maps.stride() and strides[2] == 1  # channels beside each other
    assert arguments[5:9] == (3, 9, 20, 10)


def test_nothing_grows_with_the_window_or_the_number_of_frames(recorder):
    for frames in (1, 4):
        maps = [torch.rand(1, 16, 9, 20), torch.rand(1, frames, 16, 9, 20), torch.rand(1, frames, 64, 9, 20)]
        out, lse = triton_attention.local_attention_op(*maps, 10, False, 1.0)
        triton_attention.local_attention_backward_op(out, *maps, out, lse, 10, 1.0)
    given = {"query": 16, "keys": 16 * 4, "values": 64 * 4, "out": 64, "lse": 1}
    largest = max(given.values()) * 9 * 20
    for starts in recorder.started.values():
        for _, arguments in starts:
            tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
            assert max(tensor.numel() for tensor in tensors) <= largest
