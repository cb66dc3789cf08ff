"""The setting `compile`: what is compiled and when, that labels stay, and that a stream goes on where compiling fails."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lmanet_core.commands.doctor import examine
from lmanet_core.errors import ConfigError
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import Backbone, LMANet, MemoryConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights import compiling
from lmanet_core.weights.checkpoint import Model, ModelConfig
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime

SECOND = 10**9
ROOT = Path(__file__).resolve().parents[2]


class Tiny(Backbone):
    """Features at half the size, by one convolution each way."""

    feature_channels, stride = 8, 2

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 20, 2, 2)

    def encode(self, image):
        return self.down(image).relu()

    def decode(self, features):
        return self.up(features)


class Untraceable(Tiny):
    """Looks at its values while it runs."""

    def encode(self, image):
        return super().encode(image) * float(image.sum().item() >= 0 or 1.0)


MEMORY = MemoryConfig(key_channels=4, value_channels=4, window=3, memory_frames=2)


def make_model(backbone=Tiny, memory=MEMORY):
    torch.manual_seed(0)
    return Model(LMANet(backbone(), memory).eval(), ModelConfig("tiny", 20, CITYSCAPES, memory))


def make_segmenter(compile, backbone=Tiny, memory=MEMORY, **options):
    runtime = prepare_runtime(make_model(backbone, memory), RuntimeConfig("cpu", "fp32", compile=compile))
    return VideoSegmenter(runtime, SegmenterConfig(**options))


@pytest.fixture(scope="module")
def drive(make_scene):
    return [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(5)]


@pytest.fixture(autouse=True)
def code_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))


@pytest.fixture
def traced(monkeypatch):
    """Dynamo with a compiler that leaves what it gets as it is; returns what it was given."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "why_not_compile", lambda device: None)
    monkeypatch.setattr(compiling.torch, "compile", partial(torch.compile, backend=keep))
    yield graphs
    torch._dynamo.reset()


def stream(segmenter, images, start=1):
    return [segmenter.step(image, (start + number) * SECOND // 10).labels for number, image in enumerate(images)]


def calls(segmenter, kind):
    return [part.calls[kind] for part in segmenter.runtime.compiler.parts]


# ---- what is compiled, and when


def test_auto_and_false_compile_nothing_and_true_does():
    compilers = [make_segmenter(compile).runtime.compiler for compile in ("auto", "false", "true", True, False)]
    assert [compiler is not None for compiler in compilers] == [False, False, True, True, False]
    with pytest.raises(ConfigError, match="compile must be auto or true or false, got 'yes'"):
        RuntimeConfig(compile="yes")


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_all_parts_are_compiled_at_the_first_image_and_labels_stay(traced, drive, on_device):
    segmenter, plain = make_segmenter("true"), make_segmenter("false")
    segmenter._on_device = plain._on_device = on_device
    first = stream(segmenter, drive[:1])
    made = len(traced)
    assert made >= 5
    later = stream(segmenter, drive[1:], start=2)
    assert len(traced) == made and segmenter.memory_stamps_ns
    assert all(calls(segmenter, "compiled")) and not any(calls(segmenter, "plain"))
    for ours, expected in zip([*first, *later], stream(plain, drive), strict=True):
        assert np.array_equal(ours, expected)


def test_another_size_is_told_and_compiled_up_to_a_number(traced, drive, caplog, monkeypatch):
    monkeypatch.setattr(compiling, "MOST_SIZES", 2)
    segmenter, plain = make_segmenter("true"), make_segmenter("false")
    sizes = [drive[0], drive[0][:, :48], drive[0], drive[0][:, :32], drive[0][:, :32], drive[0][:, :40]]
    with caplog.at_level(logging.WARNING, "lmanet_core"):
        ours = stream(segmenter, sizes)
    assert [record.getMessage() for record in caplog.records] == [
        "images have another size: the network is compiled for 48x32, too, which takes a while",
        "the network is compiled for 2 image sizes already: 32x32 and others run without, more slowly",
    ]
    assert calls(segmenter, "plain")[0] == 3
    assert all(np.array_equal(one, other) for one, other in zip(ours, stream(plain, sizes), strict=True))


# ---- where it fails


def fails_once(segmenter, drive, caplog, reason):
    """Streams; the labels are those without compiling, and one warning gives the reason."""
    with caplog.at_level(logging.WARNING, "lmanet_core"):
        ours = stream(segmenter, [*drive, drive[0][:, :48]])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and said[0].startswith("the network cannot be compiled (") and reason in said[0]
    plain = make_segmenter("false", type(segmenter.runtime.network.backbone))
    expected = stream(plain, [*drive, drive[0][:, :48]])
    assert all(np.array_equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_without_a_compiler_it_runs_as_it_is(drive, caplog, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    fails_once(make_segmenter("true"), drive, caplog, "wanted a C++ compiler (CXX or g++), found none")


def test_a_network_that_cannot_be_traced_runs_as_it_is(traced, drive, caplog):
    fails_once(make_segmenter("true", Untraceable), drive, caplog, "UserError: ")


def test_a_compiler_that_fails_leaves_the_network_as_it_is(traced, drive, caplog, monkeypatch):
    def fail(graph, inputs):
        raise OSError("no space left")

    monkeypatch.setattr(compiling.torch, "compile", partial(torch.compile, backend=fail))
    fails_once(make_segmenter("true"), drive, caplog, "(OSError: no space left)")


def test_code_that_fails_later_is_given_up(traced, drive, caplog):
    segmenter, plain = make_segmenter("true"), make_segmenter("false")
    first = stream(segmenter, drive[:2])

    def fail(*tensors):
        raise RuntimeError("gone")

    segmenter.runtime.compiler.parts[0]._fast = fail
    with caplog.at_level(logging.WARNING, "lmanet_core"):
        later = stream(segmenter, drive[2:], start=3)
    assert [record.getMessage() for record in caplog.records] == [
        "compiled code failed (RuntimeError: gone); this part of the network runs without from now on"
    ]
    assert all(np.array_equal(one, other) for one, other in zip([*first, *later], stream(plain, drive), strict=True))


def test_too_little_memory_is_told_to_the_caller_and_tried_again(traced, drive, caplog):
    segmenter = make_segmenter("true")
    part = segmenter.runtime.compiler.parts[1]
    fast = part._fast

    def run_out(*tensors):
        part._fast = fast
        raise torch.OutOfMemoryError("out of memory")

    part._fast = run_out
    with pytest.raises(torch.OutOfMemoryError):
        stream(segmenter, drive[:1])
    stream(segmenter, drive[:1])
    assert all(calls(segmenter, "compiled")) and not any(calls(segmenter, "plain")) and not caplog.records


# ---- the machine


def test_python_headers_and_triton_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "find_compiler", lambda *names: "/usr/bin/some")
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "wanted Python.h" in compiling.why_not_compile(torch.device("cpu"))
    (tmp_path / "Python.h").touch()
    assert compiling.why_not_compile(torch.device("cpu")) is None
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert "wanted the package triton" in compiling.why_not_compile(torch.device("cuda"))


def test_code_is_kept_where_the_user_says_or_among_the_users_caches(monkeypatch):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/robot")
    assert compiling.disk_cache() == Path("/home/robot/.cache/lmanet/inductor")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert compiling.disk_cache() == Path("/var/cache/lmanet/inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/data/code")
    assert compiling.disk_cache() == Path("/data/code")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_robot")  # Inductor's own default
    assert compiling.disk_cache() == Path("/var/cache/lmanet/inductor")


def test_the_doctor_says_whether_compiling_can_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("lmanet_core.commands.doctor.why_not_compile", lambda device: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/data/code")
    assert dict(examine()[0])["compile"] == "off chosen by auto; can be switched on, code is kept in /data/code"
    monkeypatch.setattr("lmanet_core.commands.doctor.why_not_compile", compiling.why_not_compile)
    monkeypatch.setenv("CXX", "no-such-compiler")
    rows, problems = examine()
    assert problems == [] and "not possible: wanted a C++ compiler (CXX or g++), found none" in dict(rows)["compile"]


SECOND_START = """
import json, sys
import numpy as np
from torch._dynamo.utils import counters
from test_compiling import make_segmenter, stream
images = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)
segmenter = make_segmenter("true", memory=None, label_memory=False)
labels = stream(segmenter, images)
print(json.dumps([counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"],
                  [part.calls["plain"] for part in segmenter.runtime.compiler.parts], np.stack(labels).tolist()]))
"""


@pytest.mark.skipif(
    compiling.why_not_compile(torch.device("cpu")) is not None,
    reason=f"torch.compile: {compiling.why_not_compile(torch.device('cpu'))}",
)
def test_a_second_process_takes_the_code_from_disk(tmp_path):
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)

    def start():
        done = subprocess.run(
            [sys.executable, "-c", SECOND_START], env=environment, capture_output=True, text=True, timeout=900, check=True
        )
        return json.loads(done.stdout)

    (_, made, plain, labels), (from_disk, made_again, _, same) = start(), start()
    assert made > 0 and plain == [0, 0]
    assert from_disk > 0 and made_again == 0 and same == labels
    assert (tmp_path / "lmanet/inductor").is_dir()
