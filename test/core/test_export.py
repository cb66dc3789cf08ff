"""Networks as files for other programs: they compute what our own step does, its memories handed in and out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import interpolate

from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError, OutputError, WeightsError
from lmanet_core.frame import Frame
from lmanet_core.geometry import Size
from lmanet_core.network import Backbone, LMANet, MemoryConfig
from lmanet_core.ops import local_attention
from lmanet_core.ops.traceable import traceable_local_attention
from lmanet_core.stream import export
from lmanet_core.stream.export import OPSET, is_exported, open_onnx, prepare_export, write_program
from lmanet_core.stream.export_check import compare_with_program
from lmanet_core.stream.label_evidence import LOST
from lmanet_core.stream.label_memory import blend
from lmanet_core.stream.planes import PLANES, blend_planes
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.adapters import wrap_module
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime

DOCS = Path(__file__).parents[2] / "docs/models.md"
SIZE, SECOND = Size(64, 128), 10**9
CONFIG = SegmenterConfig(network_size=str(SIZE), output_size="network")
CPU = RuntimeConfig("cpu", "fp32")
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
#: Operators of onnx-tensorrt's own list; OpenVINO and onnxruntime have more.
TENSORRT = {
    "Add", "And", "ArgMax", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Cos", "Div", "Equal",
    "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow",
    "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "Shape",
    "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


class Small(Backbone):
    feature_channels, stride, mean = 8, 8, (0.3, 0.4, 0.5)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 9, 8, 4), nn.ReLU())
        self.out = nn.Conv2d(8, 6, 1)  # the last is void

    def encode(self, image):
        return self.encoder(image)

    def decode(self, features):
        return 8 * interpolate(self.out(features), scale_factor=8.0, mode="bilinear")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    memory = MemoryConfig(8, 8, window=5, memory_frames=3, position_bias=5.0, motion_compensation=True)
    return wrap_module(LMANet(Small(), memory), labels=[f"c{k}" for k in range(5)])


@pytest.fixture(scope="module")
def step(model):
    return prepare_export(model, SIZE, CONFIG, CPU)


@pytest.fixture(scope="module")
def onnx_step(step, tmp_path_factory):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "step.onnx"
    write_program(step, "onnx", path)
    return path


@pytest.fixture
def drive(textured_drive):
    """Twelve frames: on and back again; one late, one after a gap."""
    images = [*textured_drive, *textured_drive[::-1]]
    stamps = [k * SECOND // 10 for k in range(12)]
    stamps[3] = stamps[1] + 1
    stamps[8:] = [stamp + 5 * SECOND for stamp in stamps[8:]]
    return [Frame(np.ascontiguousarray(image), SECOND + stamp) for image, stamp in zip(images, stamps, strict=True)]


# ---- the parts, in operators that every format has


@pytest.mark.parametrize("held", [(1, 1, 1), (0, 1, 0)])
@pytest.mark.parametrize(
    ("window", "softmax", "border"),
    [(5, "joint", "zero"), (5, "joint", "masked"), (5, "per_frame", "zero"), (21, "joint", "zero"), (None, "joint", "zero")],
)
def test_traceable_attention_reads_the_frames_that_are_held(held, window, softmax, border):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(n, c, 9, 13, generator=generator) for n, c in ((1, 4), (3, 4), (3, 6)))
    there = torch.tensor(held, dtype=torch.bool)
    expected = local_attention(query, keys[there][None], values[there][None], window, softmax=softmax, border=border)
    keys[~there] = 50.0
    got = traceable_local_attention(query, keys, values, there.float(), window, softmax=softmax, border=border)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


def test_label_memory_in_planes_is_the_label_memory():
    generator = torch.Generator().manual_seed(0)
    words, planes, differs = None, torch.zeros(PLANES, 24, 40), 0
    for number in range(12):
        logits = 2 * torch.randn(1, 7, 24, 40, generator=generator)
        logits[0, 2, 3:6, number : number + 4] = torch.nan
        evidence = 0.05 * torch.randn(3, 12, 20, generator=generator)
        evidence[2] = torch.rand(12, 20, generator=generator)
        evidence[2, 4:7, 5:9] = LOST
        if number % 5 == 0:  # a reset
            words, planes = None, torch.zeros_like(planes)
        seen = torch.zeros_like(evidence) if words is None else evidence
        alone = logits[0].argmax(0)
        labels, certain, words = blend(logits, words, seen, 0.9)
        other, probability, planes = blend_planes(logits, planes, seen, 0.9)
        assert torch.equal(labels.float(), other) and (certain.float() - probability).abs().max() <= 1
        differs += int((alone != labels).sum())
    assert differs > 500


# ---- the streamed step


def test_exported_step_gives_the_labels_of_our_own_through_resets_and_late_frames(model, step, onnx_step, drive):
    def compare(program):
        segmenter = VideoSegmenter(prepare_runtime(model, CPU), CONFIG)
        return compare_with_program(segmenter, program, step.signature, drive)

    program = open_onnx(onnx_step)
    agreement = compare(program)
    assert (agreement.frames, agreement.resets) == (12, 2) and agreement.share >= 0.9999
    for state in (("keys", "values", "held"), ("belief",), ("moved",)):
        zeros = {name: step.signature.inputs[name].numpy() for name in state}
        assert compare(lambda inputs, zeros=zeros: program({**inputs, **zeros})).share < 0.9999


def test_onnx_file_has_standard_operators_that_tensorrt_knows(onnx_step, step):
    import onnx

    network = onnx.load(onnx_step)
    assert [(one.domain, one.version) for one in network.opset_import] == [("", OPSET)] and not network.functions
    assert {node.domain for node in network.graph.node} == {""} and {node.op_type for node in network.graph.node} <= TENSORRT
    assert [one.name for one in network.graph.input] == list(step.signature.inputs)
    told = json.loads({one.key: one.value for one in network.metadata_props}["lmanet"])
    assert told["names"] == ["c0", "c1", "c2", "c3", "c4"] and told["size"] == [64, 128] and told["memory_frames"] == 3


def test_pt2_program_computes_the_step_without_this_package(step, tmp_path, drive):
    write_program(step, "pt2", tmp_path / "step.pt2")
    told = {"lmanet": ""}
    program = torch.export.load(tmp_path / "step.pt2", extra_files=told).module()
    assert json.loads(told["lmanet"])["label_memory_strength"] == 1.0
    assert not any("lmanet" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    inputs = {**step.signature.inputs, "image": torch.from_numpy(drive[0].image)}
    for one, other in zip(program(**inputs), step.module(**inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "absent"),
    [({"memory": False}, {"keys", "values", "held", "moved"}), ({"label_memory": False}, {"evidence", "belief"})],
)
def test_memory_that_is_off_is_no_input(model, step, config, absent):
    signature = prepare_export(model, SIZE, SegmenterConfig(**config), CPU).signature
    assert set(step.signature.inputs) - set(signature.inputs) == absent
    assert signature.state == tuple(name for name in step.signature.state if name not in absent)


def test_the_example_of_the_documentation_runs_with_onnxruntime_alone(onnx_step, model, drive, tmp_path):
    (example,) = [one for one in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "onnxruntime" in one]
    assert len([line for line in example.splitlines() if line.strip()]) <= 40
    (tmp_path / "stream.py").write_text(example)
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, (128, 64))
    images = [frame.image for frame in drive[:6]]
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    alone = "import runpy, sys; sys.modules |= {'torch': None, 'lmanet_core': None}; runpy.run_path(sys.argv.pop(1))"
    subprocess.run([sys.executable, "-c", alone, "stream.py", onnx_step, "drive.avi", "."], cwd=tmp_path, check=True)
    labels = [cv2.imread(str(tmp_path / f"{number:06d}.png"), cv2.IMREAD_UNCHANGED) for number in range(6)]

    def agree(config):
        segmenter = VideoSegmenter(prepare_runtime(model, CPU), config)
        own = [segmenter.step(image, SECOND + k * SECOND // 10).labels for k, image in enumerate(images)]
        return np.equal(own, labels).mean()

    alone = agree(replace(CONFIG, memory=False, label_memory=False))
    assert agree(CONFIG) > 0.95 > alone  # it measures motion more simply


# ---- single frames


def test_single_frame_file_takes_what_nav2s_node_feeds_and_counts_from_background(tmp_path, drive, capsys):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n"
        "    model = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1))\n"
        "    model.mean, model.std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)\n    return model, ('floor', 'wall', 'person')\n"
    )
    name, out = f"python:{tmp_path / 'own.py'}:make", tmp_path / "model.onnx"
    arguments = ["export", name, "--stateless", "--background", "--size", "128x64", "--out", str(out)]
    assert main(arguments) == 0
    pixels = drive[0].image.transpose(2, 0, 1).astype(np.float32)[None] / 255
    mean, std = (values.reshape(1, 3, 1, 1) for values in IMAGENET)
    (logits, *_) = runtime.InferenceSession(out).run(None, {"input": (pixels - mean) / std})
    assert logits.shape == (1, 4, 64, 128)  # background and three names: void is left out
    segmenter = VideoSegmenter.from_weights(name, SegmenterConfig(label_memory=False), device="cpu")
    assert ((logits.argmax(1)[0] - 1) == segmenter.step(drive[0].image, SECOND).labels).mean() > 0.999
    ontology = yaml.safe_load((tmp_path / "model.ontology.yaml").read_text())["ontology"]["classes"]
    colors = [tuple(one["color"][::-1]) for one in ontology]
    assert [one["name"] for one in ontology] == ["floor", "wall", "person"] and colors == list(segmenter.labels.colors)
    capsys.readouterr()
    assert main(arguments) == 5
    assert "exists; choose another --out" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    (tmp_path / "model.ontology.yaml").write_text("edited")
    assert main([*arguments, "--overwrite"]) == 5
    assert "model.ontology.yaml exists, holds something else and stays" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "model.ontology.yaml").read_text() == "edited"


@pytest.mark.parametrize(("name", "content"), [("mine.onnx", b"lmanet"), ("mine.pt2", b""), ("mine.pt2", "zip"), ("x", b"1")])
def test_an_export_replaces_nothing_but_exports(name, content, tmp_path, video_weights, capsys):
    target = tmp_path / name
    if content == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("bin/lmanet", "somebody's own")
    else:
        target.write_bytes(content)
    before = target.read_bytes()
    arguments = ["export", str(video_weights), "--size", "64x32", "--overwrite", "--out"]
    assert main([*arguments, str(target)]) == 5
    assert f"{name} was not written by lmanet export and stays; choose" in " ".join(capsys.readouterr().err.split())
    assert target.read_bytes() == before


def test_an_export_does_not_replace_the_weights_that_it_is_of(tmp_path, video_weights, capsys):
    weights = tmp_path / "w.safetensors"
    shutil.copy(video_weights, weights)
    other_name = f"{tmp_path}/../{tmp_path.name}/{weights.name}"
    assert main(["export", str(weights), "--size", "64x32", "--overwrite", "--out", other_name]) == 5
    assert "is the file to export" in capsys.readouterr().err and weights.read_bytes() == video_weights.read_bytes()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_earlier_export_is_known_by_its_content(kind, tmp_path, model):
    write_program(prepare_export(model, SIZE, CONFIG, CPU), kind, tmp_path / f"step.{kind}")
    assert is_exported(tmp_path / f"step.{kind}")


# ---- what cannot be exported


class Odd(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.stem, self.head, self.act = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1), act

    def forward(self, image):
        return self.head(self.act(self.stem(image)))


def clean(features):
    return features * 2 if features.max() > 0.1 else features


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (torch.special.bessel_j0, r"cannot be exported to ONNX: no ONNX form of \w+\.(special_)?bessel_j0.*; replace it"),
        (clean, "the network cannot be exported: its computation depends on what is in the image"),
    ],
    ids=["operator", "control flow"],
)
def test_what_cannot_be_exported_is_named(act, message, tmp_path):
    pytest.importorskip("onnxscript")
    exported = prepare_export(wrap_module(Odd(act)), SIZE, CONFIG, CPU, stateless=True)
    with pytest.raises(WeightsError, match=message):
        write_program(exported, "onnx", tmp_path / "odd.onnx")
    assert not list(tmp_path.iterdir())


def test_compiled_network_and_a_size_that_does_not_fit_are_refused(model):
    compiled = wrap_module(torch.jit.trace(Odd(torch.relu).eval(), torch.zeros(1, 3, 64, 64)))
    with pytest.raises(WeightsError, match="a compiled network cannot be exported; export the module that it was made from"):
        prepare_export(compiled, SIZE, CONFIG, CPU)
    with pytest.raises(ConfigError, match=r"network sides must be 8·n, got 128x60; nearest is"):
        prepare_export(model, Size(60, 128), CONFIG, CPU)


def test_without_onnxscript_the_error_names_the_extra(step, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"export to ONNX needs onnxscript.*the extra onnx"):
        write_program(step, "onnx", tmp_path / "step.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--background"], "--background is for --stateless"),
        (["--compile"], "--compile is for --to pt2"),
        (["--to", "pt2", "--check", "drive.mp4"], "--check compares the streamed step as ONNX"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, message, video_weights, tmp_path, capsys):
    out = tmp_path / "out.onnx"
    assert main(["export", str(video_weights), "--size", "64x32", "--out", str(out), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not out.exists()


def test_folder_that_is_not_there_is_told_without_a_temporary_name(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_trace", lambda exported: None)
    with pytest.raises(
        OutputError, match=r"no/w\.onnx: cannot be written: there is no such folder; make it, or choose"
    ) as refused:
        write_program(SimpleNamespace(metadata={}), "onnx", tmp_path / "no" / "w.onnx")
    assert ".w.onnx" not in str(refused.value)


def test_a_zip_with_other_things_in_it_is_no_exported_step(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("other/zeta", "")
    assert not is_exported(tmp_path / "other.pt")
