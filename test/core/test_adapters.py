"""Models of other people: what they may look like, that they give what they gave before, and what is refused in which words."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError, OutputError, WeightsError
from lmanet_core.geometry import Size
from lmanet_core.labels import CAMVID11, CITYSCAPES, read_label_set
from lmanet_core.network import ERFNet, LMANet, MemoryConfig, ModuleBackbone
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights import adapters
from lmanet_core.weights.adapters import recut, wrap_module
from lmanet_core.weights.checkpoint import ModelConfig, build_network, hash_file, load_model, save_model
from lmanet_core.weights.runtime import RuntimeConfig, prepare, prepare_runtime

DOCS = Path(__file__).parents[2] / "docs/models.md"
NAMES = ("floor", "wall", "door", "person")
SECOND = 10**9


class Net(nn.Module):
    """A network of four classes; `tail` makes what it returns of logits at half the size, `shape` the size of these."""

    def __init__(self, tail=lambda logits, image: logits):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout2d(0.5)
        self.head = nn.Conv2d(6, 4, 1)
        self.tail = tail

    def forward(self, image):
        return self.tail(self.head(self.drop(self.norm(self.stem(image)).relu())), image)


def full(logits, image, **way):
    return interpolate(logits, size=image.shape[-2:], **(way or {"mode": "bilinear", "align_corners": False}))


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (4, 64, 128, 3), np.uint8)


@pytest.fixture
def own(tmp_path):
    """Write a file of the user's, give the name of its function."""

    def write(text, function="make", file="own.py"):
        (tmp_path / file).write_text(text)
        return f"python:{tmp_path / file}:{function}"

    return write


# ---- what a model may return, and that it is given back bit for bit


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"out": logits, "aux": logits[:, :2]},
        lambda logits: {"logits": logits},
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: (logits, "more"),
        lambda logits: [{"out": logits}],
    ],
    ids=["tensor", "out", "logits", "attribute", "tuple", "list of dict"],
)
def test_logits_are_found_in_whatever_is_returned(wrap, image):
    module = Net(lambda logits, image: wrap(full(logits, image)))
    with torch.no_grad():
        expected = full(Net().eval()(image), image)
        assert torch.equal(wrap_module(module).network(image[:, None])[:, 0], expected)


@pytest.mark.parametrize(
    ("tail", "shrink"),
    [
        (lambda logits, image: logits, 2),
        (full, 1),
        (lambda logits, image: full(logits, image, mode="bilinear", align_corners=True), 1),
        (lambda logits, image: full(logits, image, mode="nearest"), 1),
    ],
    ids=["half size", "bilinear", "corners aligned", "nearest"],
)
def test_cut_is_found_before_whatever_resize_and_changes_no_bit(tail, shrink, image):
    module = Net(tail)
    backbone = ModuleBackbone(module)
    assert (backbone.cut.layer, backbone.cut.channels, backbone.cut.stride, backbone.cut.shrink) == ("head", 6, 2, shrink)
    with torch.no_grad():
        features, whole = backbone.encode(image), module(image)
        assert features.shape == (2, 6, 32, 64)
        assert torch.equal(backbone.decode(features), full(whole, image) if shrink > 1 else whole)


def test_layers_after_the_cut_do_not_run_while_encoding(image):
    backbone, calls = ModuleBackbone(Net()), []
    backbone.module.head.register_forward_hook(lambda *_: calls.append("head"))
    features = backbone.encode(image)
    assert calls == []
    backbone.decode(features)
    assert calls == ["head"]


def test_a_model_that_does_more_after_its_classifier_runs_as_a_whole(image):
    module = Net(lambda logits, image: full(logits, image).mul(2.0))
    backbone = ModuleBackbone(module)
    assert backbone.cut is None and "more than a resize follows head" in backbone.no_cut
    with torch.no_grad():
        assert torch.equal(backbone(image), module(image))


def test_auxiliary_head_that_runs_last_is_not_taken_for_the_classifier(image):
    class Two(Net):
        def __init__(self):
            super().__init__()
            self.aux = nn.Conv2d(6, 4, 1)

        def forward(self, image):
            features = self.stem(image)
            return {"out": full(self.head(features), image), "aux": full(self.aux(features), image)}

    assert ModuleBackbone(Two()).cut.layer == "head"


def test_cut_can_be_named_and_may_be_a_whole_decoder(image):
    backbone = ModuleBackbone(SmallErfnet(), "net.decoder")
    assert (backbone.cut.channels, backbone.cut.stride) == (128, 8)
    with torch.no_grad():
        assert torch.equal(backbone(image), backbone.module(image))


def test_layer_that_writes_into_its_features_does_not_spoil_them(image):
    module = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(5, 4, 1)))
    backbone = ModuleBackbone(module, "1")
    assert backbone.cut.overwrites
    with torch.no_grad():
        features = backbone.encode(image)
        kept = features.clone()
        assert torch.equal(backbone.decode(features), backbone(image)) and torch.equal(features, kept)


def test_a_memory_reads_the_features_at_the_cut(image):
    torch.manual_seed(0)
    network = LMANet(ModuleBackbone(Net()), MemoryConfig(4, 6, window=3, memory_frames=2)).eval()
    with torch.no_grad():
        features = network.encode(image)
        past = stack_memory([network.remember(features.flip(3))])
        alone, read = network.decode(features), network.decode(features, past)
        assert torch.equal(alone, full(network.backbone.module(image), image))
        assert read.shape == alone.shape and not torch.equal(read, alone)


# ---- sizes


def unet_like(step):
    def tail(logits, image):
        assert all(side % step == 0 for side in image.shape[-2:]), "sides do not fit"
        return full(logits, image)

    return Net(tail)


@pytest.mark.parametrize("step", [8, 16, 32])
def test_what_sides_must_be_a_multiple_of_is_found(step):
    backbone = ModuleBackbone(unet_like(step))
    assert (backbone.size_multiple, backbone.fixed_size, backbone.stride) == (step, None, 2)


def fixed(size):
    def tail(logits, image):
        assert tuple(image.shape[-2:]) == size, f"wanted {size}"
        return full(logits, image)

    return Net(tail)


def test_model_of_one_size_gets_every_camera_at_that_size(frames):
    module = fixed((48, 80))
    module.input_size = (48, 80)
    segmenter = VideoSegmenter.from_model(module, device="cpu")
    assert segmenter.step(frames[0], SECOND).labels.shape == (64, 128)
    assert segmenter.plan_for(Size(64, 128)).network_size == (48, 80)
    with pytest.raises(ConfigError, match="network_size: this network takes 80x48 only, got 128x64; leave it out"):
        VideoSegmenter(segmenter.runtime, SegmenterConfig(network_size="128x64"))


def test_model_that_drops_what_its_patches_do_not_cover_gets_whole_patches():
    patches = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16), nn.LogSoftmax(1))
    backbone = ModuleBackbone(patches)
    assert backbone.cut is None and backbone.size_multiple == 16


def test_sizes_that_do_not_fit_are_refused_with_the_nearest():
    runtime = prepare(wrap_module(unet_like(32)), "cpu")
    with pytest.raises(ConfigError, match=r"network sides must be 32·n, got 72x64; nearest is 64x64"):
        VideoSegmenter(runtime, SegmenterConfig(network_size="72x64"))


# ---- streams


class SmallErfnet(nn.Module):
    """ERFNet as somebody else's module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = ERFNet(4)

    def forward(self, image):
        return self.net.decoder(self.net.encoder(image))


def labels_of(segmenter, frames):
    return np.stack([segmenter.step(frame, SECOND + k * SECOND // 10).labels for k, frame in enumerate(frames)])


@pytest.mark.parametrize("label_memory", [False, True])
def test_wrapped_erfnet_gives_the_labels_of_the_native_one(label_memory, frames, randomize_batch_norms):
    module = randomize_batch_norms(SmallErfnet())
    config = SegmenterConfig(label_memory=label_memory)
    native = wrap_module(module.net, labels=NAMES)
    assert type(native.network.backbone) is ERFNet
    with pytest.raises(ConfigError, match="cut head: ERFNet has its own place for the memory; leave cut out"):
        wrap_module(module.net, cut="head")
    expected = labels_of(VideoSegmenter(prepare(native, "cpu", "fp32", fold=False), config), frames)
    wrapped = VideoSegmenter.from_model(module, config, labels=NAMES, device="cpu")
    assert wrapped.runtime.network.backbone.stride == 2 and wrapped.runtime.precision == "fp32"
    assert (labels_of(wrapped, frames) == expected).mean() > 0.9999  # another layout in memory, rounded otherwise
    assert len(np.unique(expected)) > 1


def test_network_with_a_memory_of_its_own_keeps_it():
    memory = MemoryConfig(4, 6, window=3)
    model = wrap_module(LMANet(ERFNet(4), memory))
    assert model.config.memory == memory and VideoSegmenter(prepare(model, "cpu")).memory_enabled


def test_with_the_label_memory_off_labels_are_those_of_the_module(frames):
    module = Net().eval()
    segmenter = VideoSegmenter.from_model(module, SegmenterConfig(label_memory=False), device="cpu")
    with torch.no_grad():
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float().mul_(torch.tensor(1 / 255))
        expected = full(module(pixels), pixels).argmax(1).numpy()
    assert np.array_equal(labels_of(segmenter, frames), expected)


def test_nothing_is_folded_in_a_module_that_uses_its_layers_one_by_one(image):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.layers[1].running_mean.fill_(0.5)

        def forward(self, image):
            before = self.layers[0](image)
            return before + self.layers[1](before)

    module = Twice().eval()
    with torch.no_grad():
        assert torch.equal(prepare(wrap_module(module), "cpu").network.encode(image), module(image))


def test_the_given_module_stays_as_it_is():
    module = Net().half().train()
    VideoSegmenter.from_model(module, device="cpu")
    assert module.training and {parameter.dtype for parameter in module.parameters()} == {torch.float16}
    assert not module.head._forward_pre_hooks and not module.head._forward_hooks


def test_model_in_training_mode_is_put_into_eval(image):
    network = wrap_module(Net().train()).network
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        assert torch.equal(network.encode(image[:, :]), network.encode(image))


def test_a_precision_that_the_module_does_not_compute_in_is_said_at_once():
    class Offset(Net):
        def forward(self, image):
            return super().forward(image @ torch.eye(image.shape[-1]))  # float32 of its own

    model = wrap_module(Offset())
    with pytest.raises(ConfigError, match=r"does not compute in bfloat16 on cpu: .*; try --precision fp32"):
        prepare(model, "cpu", "bf16")
    assert prepare(model, "cpu").precision == "fp32"


# ---- preprocessing


def test_espnets_preprocessing_is_three_attributes(frames):
    mean, std = (110.0, 108.0, 105.0), (72.0, 72.5, 70.0)  # of BGR in 0–255, the result over 255 once more
    module = Net()
    module.bgr, module.mean, module.std = True, tuple(value / 255 for value in mean[::-1]), std[::-1]
    runtime = prepare(wrap_module(module), "cpu")
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    theirs = (pixels.flip(1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1) / 255
    with torch.no_grad():
        ours = runtime.network.encode(runtime.normalize(pixels.clone()))
        torch.testing.assert_close(ours, module.norm(module.stem(theirs)).relu())


def test_mean_and_std_given_beside_the_module_come_before_its_own():
    module = Net()
    module.mean, module.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    segmenter = VideoSegmenter.from_model(module, mean=[0.5, 0.5, 0.5], device="cpu")
    backbone = segmenter.runtime.network.backbone
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.4, 0.5, 0.6))
    with pytest.raises(ConfigError, match=r"std must be three numbers, for RGB in 0–1, got \(1, 1\)"):
        VideoSegmenter.from_model(module, std=(1, 1), device="cpu")
    with pytest.raises(ConfigError, match="mean and std: ERFNet has its own; leave them out"):
        VideoSegmenter.from_model(ERFNet(4), mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")


def test_tensor_called_mean_is_the_modules_own_matter():
    module = Net()
    module.register_buffer("mean", torch.ones(1, 3, 1, 1))
    assert wrap_module(module).network.backbone.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("mean", (0.5, 0.5), r"the model: mean must be three numbers, for RGB in 0–1, got \(0.5, 0.5\)"),
        ("std", (0.5, 0.5, 0.0), "std must be three numbers"),
        ("input_size", 512, r"input_size must be \(height, width\), got 512"),
        ("class_names", "road", "class names must be a list of texts, got 'road'"),
    ],
)
def test_attribute_of_another_kind_is_refused(attribute, value, message):
    module = Net()
    setattr(module, attribute, value)
    with pytest.raises(ConfigError, match=message):
        wrap_module(module)


# ---- classes


def test_classes_without_names_get_numbers_and_colours():
    labels = wrap_module(Net()).config.labels
    assert labels.names == ("class 0", "class 1", "class 2", "class 3") and len(set(labels.colors)) == 4


def test_an_output_beyond_the_names_is_void_and_never_wins(frames):
    module = Net()
    with torch.no_grad():
        module.head.bias[3] = 100.0  # void
    segmenter = VideoSegmenter.from_model(module, labels=NAMES[:3], device="cpu")
    assert segmenter.labels.names == NAMES[:3] and labels_of(segmenter, frames).max() < 3


@pytest.mark.parametrize("names", [NAMES[:2], (*NAMES, "shelf")])
def test_other_numbers_of_names_are_refused(names):
    with pytest.raises(
        ConfigError, match=rf"wanted a name for each of the model's 4 outputs, or one less .*; got {len(names)}: "
    ):
        wrap_module(Net(), labels=names)


def test_known_sets_of_names_bring_their_colours_and_groups():
    module = nn.Conv2d(3, 12, 1)
    module.class_names = list(CAMVID11.names)
    assert wrap_module(module).config.labels is CAMVID11


def test_known_names_bring_their_groups_however_they_are_written():
    ade = read_label_set("ade20k")
    module = nn.Conv2d(3, 150, 1)
    module.class_names = [f"{name.title()} " for name in ade.names]
    assert wrap_module(module).config.labels == ade
    assert wrap_module(Net(), labels=NAMES).config.labels.groups["drivable"] == ("floor",)


def named(module):
    module.class_names = NAMES
    return module


def test_label_set_names_the_classes_of_any_weights(tmp_path, capsys, frames, write_video):
    (tmp_path / "own.yaml").write_text("names: [floor, wall, door, person]")
    torch.save(ERFNet(12).state_dict(), tmp_path / "w.pth")
    file = str(tmp_path / "w.pth")
    assert load_model(file).config.labels.names[0] == "class 0"
    assert VideoSegmenter.from_weights(file, labels="camvid11", device="cpu").labels == CAMVID11
    assert VideoSegmenter.from_model(Net(), labels=tmp_path / "own.yaml", device="cpu").labels.names == NAMES
    assert prepare_runtime(load_model(file), RuntimeConfig("cpu", label_set="camvid11")).config.labels is CAMVID11
    (tmp_path / "palette.yaml").write_text("colors: {door: [1, 2, 3]}")
    own = VideoSegmenter.from_model(named(Net()), labels=tmp_path / "palette.yaml", device="cpu").labels
    assert own.names == NAMES and own.colors[2] == (1, 2, 3) != own.colors[1]
    video, out = str(write_video(tmp_path / "d.avi", 2)), tmp_path / "out"
    assert main(["segment", video, "--weights", file, "--out", str(out), "--labels", "camvid11", "--save", "labels"]) == 0
    assert json.loads((out / "summary.json").read_text())["classes"] == list(CAMVID11.names)
    assert main(["weights", "convert", file, "--labels", "camvid11", "--out", str(tmp_path / "c")]) == 0
    assert load_model(tmp_path / "c").config.labels == CAMVID11
    capsys.readouterr()
    assert (
        main(["segment", video, "--weights", file, "--out", str(tmp_path / "o"), "--labels", str(tmp_path / "own.yaml")]) == 2
    )
    assert "wanted a name for each of the model's 12 outputs" in " ".join(capsys.readouterr().err.split())


# ---- bad models


def test_no_classifier_is_told_where_a_memory_of_features_is_asked_for(frames):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(3, 4)

        def forward(self, image):
            return self.score(image.movedim(1, -1)).movedim(-1, 1)

    model = wrap_module(Linear(), labels=NAMES)
    assert VideoSegmenter(prepare(model, "cpu")).step(frames[0], SECOND).labels.max() < 4
    with pytest.raises(ConfigError, match=r"no convolution gives its 4 classes; name a layer as cut"):
        LMANet(model.network.backbone, MemoryConfig())


def test_two_classifiers_are_both_named():
    class Sum(Net):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(6, 4, 1)

        def forward(self, image):
            features = self.stem(image)
            return self.head(features) + self.second(features)

    with pytest.raises(ConfigError, match=r"got 2 that may be it \(head, second\), and more than a resize after each"):
        LMANet(ModuleBackbone(Sum()), MemoryConfig())


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("haed", r"cut must name a submodule; there is no 'haed', but for example head"),
        ("stem", r"cut stem cannot be one: more than a resize follows stem; name another layer"),
        ("unused", r"cut unused is not called when an image is segmented"),
    ],
)
def test_cut_that_is_none_is_refused(cut, message):
    module = Net()
    module.unused = nn.Conv2d(3, 4, 1)
    with pytest.raises(ConfigError, match=message):
        recut(wrap_module(module), cut)


def test_cut_is_a_setting_and_only_for_models_of_ones_own(video_weights):
    model = wrap_module(SmallErfnet())
    runtime = prepare_runtime(model, RuntimeConfig(device="cpu", cut="net.decoder"))
    assert runtime.network.backbone.cut.layer == "net.decoder" and model.network.backbone.cut.layer == "net.decoder.output_conv"
    with pytest.raises(ConfigError, match="cut head: erfnet has its own place for the memory; leave cut out"):
        prepare_runtime(load_model(video_weights), RuntimeConfig(device="cpu", cut="head"))


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (
            lambda logits, image: logits.argmax(1),
            r"must return logits \(B, classes, H, W\), before any argmax; got torch.int64",
        ),
        (lambda logits, image: logits[:, :1], r"logits of two classes or more, got \(1, 1, 96, 128\)"),
        (
            lambda logits, image: interpolate(logits, (500, 500)),
            "at its input's size, 256x192, or a fraction of it; got 500x500",
        ),
        (lambda logits, image: interpolate(logits, (50, 90)), "or a fraction of it; got 90x50: resize them in your function"),
        (lambda logits, image: {"masks": logits}, r"a dict with 'out' or 'logits'; got a dict of \['masks'\]"),
        (lambda logits, image: None, "must return logits .* as a tensor, in a dict or tuple; got nothing"),
        (lambda logits, image: 1 / 0, r"does not run on an image \(1, 3, 192, 256\): ZeroDivisionError: division by zero"),
    ],
    ids=["masks", "one class", "larger", "other aspect", "other keys", "nothing", "raises"],
)
def test_model_that_gives_no_logits_is_refused(tail, message):
    with pytest.raises(WeightsError, match=f"the model: .*{message}"):
        wrap_module(Net(tail))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["stem.weight", "norm.running_var"])
def test_weights_that_are_not_finite_are_named(tensor, value):
    module = Net()
    module.state_dict()[tensor].view(-1)[0] = value
    with pytest.raises(
        WeightsError, match=rf"wanted finite weights, got NaN or infinite ones in 1 tensors \({re.escape(tensor)}\)"
    ):
        wrap_module(module)


def test_weights_without_values_are_named():
    with pytest.raises(
        WeightsError, match=r"wanted weights with values, got stem\.weight on the meta device; load the weights"
    ):
        wrap_module(Net().to("meta"))


def test_model_on_several_devices_is_told_of():
    with pytest.raises(WeightsError, match=r"logits on the device of its input, cpu; got meta; keep all of it on one"):
        wrap_module(Net(lambda logits, image: logits.to("meta")))

    class Split(Net):
        def forward(self, image):
            return self.head(self.stem(image).to("cuda:7"))

    with pytest.raises(WeightsError, match=r"the model does not run on an image .*"):
        wrap_module(Split())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device beside the CPU")
def test_model_of_two_devices_is_put_onto_one(image):
    module = Net()
    expected = wrap_module(Net()).network.encode(image)
    module.head.to("cuda")
    model = wrap_module(module)
    assert {parameter.device.type for parameter in model.network.parameters()} == {"cpu"}
    assert torch.equal(model.network.encode(image), expected)


@pytest.mark.parametrize("kind", ["hub/model.safetensors", "model.onnx", "model.pt"])
def test_half_a_file_is_called_damaged(kind, tmp_path):
    if kind.startswith("hub"):
        transformers = pytest.importorskip("transformers")
        transformers.AutoModelForSemanticSegmentation.from_config(segformer(transformers)).save_pretrained(tmp_path / "hub")
    elif kind.endswith("onnx"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        torch.onnx.export(Net().eval(), (torch.zeros(1, 3, 32, 64),), tmp_path / kind, dynamo=True, verbose=False)
    else:
        torch.jit.trace(Net().eval(), torch.zeros(1, 3, 32, 64)).save(str(tmp_path / kind))
    content = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(content[: len(content) // 2])
    name = f"hf:{tmp_path / 'hub'}" if kind.startswith("hub") else str(tmp_path / kind)
    with pytest.raises(WeightsError, match=r"or damaged \(.*; (export|copy)|cannot be loaded by transformers"):
        load_model(name)


def test_files_of_ours_and_published_ones_with_nan_are_refused_too(tmp_path):
    network = LMANet(ERFNet(20))
    with torch.no_grad():
        network.backbone.decoder.output_conv.bias[3] = float("nan")
    save_model(tmp_path / "ours", network, ModelConfig("erfnet", 20, CITYSCAPES))
    torch.save(network.backbone.state_dict(), tmp_path / "published")
    for file in ("ours", "published"):
        with pytest.raises(WeightsError, match=rf"{file}: wanted finite weights, .* \(backbone\.decoder\.output_conv\.bias\)"):
            load_model(tmp_path / file)


def test_a_module_without_a_name_is_neither_written_as_weights_nor_built_anew(tmp_path):
    model = wrap_module(Net())
    with pytest.raises(
        WeightsError, match=r"a module without a name cannot be built anew; give it as python:FILE\.py:function"
    ):
        build_network(model.config)
    with pytest.raises(OutputError, match=r"this module has no name to load it by; give it as python:FILE\.py:function"):
        save_model(tmp_path / "model", model.network, model.config)


# ---- python:


FUNCTION = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1)), ("floor", "wall", "door", "person")

def explode():
    return nn.Conv2d(3, 4, 1)(make())

number = 3
"""


def test_function_in_a_file_is_a_model(own):
    model = load_model(own(FUNCTION))
    assert model.config.labels.names == NAMES and model.source == "Sequential" and model.network.backbone.cut.layer == "1"


def test_function_in_a_module_of_the_working_folder_is_a_model(own, tmp_path, monkeypatch):
    own(FUNCTION, file="own_model_of_mine.py")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert load_model("python:own_model_of_mine:make").config.labels.names == NAMES
    assert sys.path == path


def test_what_lies_beside_the_file_can_be_imported(own):
    own("names = ['a', 'b', 'c', 'd']", file="beside_own.py")
    name = own("import beside_own\nfrom torch import nn\n\ndef make():\n    return nn.Conv2d(3, 4, 1), beside_own.names\n")
    assert load_model(name).config.labels.names == ("a", "b", "c", "d")


def saved_with_memory(name, path):
    """The model of this name with a memory, written in our format."""
    model = load_model(name)
    torch.manual_seed(1)
    network = LMANet(model.network.backbone, MemoryConfig(4, 0, "residual", window=3, memory_frames=2))
    with torch.no_grad():
        network.backbone.module[1].bias += 1.0  # as if it had been trained
    save_model(path, network, replace(model.config, memory=network.memory.config))
    return network.eval()


def test_saved_model_with_its_memory_is_loaded_by_the_name_that_it_had(own, tmp_path, image, monkeypatch):
    own(FUNCTION)
    monkeypatch.chdir(tmp_path)
    network = saved_with_memory("python:own.py:make", tmp_path / "saved.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    model = load_model(tmp_path / "saved.safetensors")
    assert model.config.labels.names == NAMES and model.config.memory == network.memory.config
    assert model.network.backbone.cut.layer == "1"
    for key, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], tensor)
    with torch.no_grad():
        assert torch.equal(model.network(image[:, None]), network(image[:, None]))


def test_code_that_is_gone_or_changed_is_not_run_for_a_saved_file(own, tmp_path, image):
    saved_with_memory(own(FUNCTION), tmp_path / "saved.safetensors")
    own(FUNCTION + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(
        WeightsError, match=r"saved.safetensors: the code of python:.*own\.py:make has changed since .*NAME@FILE"
    ):
        load_model(tmp_path / "saved.safetensors")
    assert not (tmp_path / "ran").exists()
    name = own(FUNCTION, file="moved.py")
    (tmp_path / "own.py").unlink()
    with pytest.raises(WeightsError, match=r"its network is not to be had: .*own\.py.*; give it as --weights NAME@FILE"):
        load_model(tmp_path / "saved.safetensors")
    moved = load_model(f"{name}@{tmp_path / 'saved.safetensors'}")
    assert moved.config.memory is not None and moved.network.backbone.module[1].bias.abs().max() > 0.5
    with pytest.raises(WeightsError, match=r"no such file .*none\.safetensors"):
        load_model(f"{name}@{tmp_path / 'none.safetensors'}")


def test_convert_writes_a_named_model_with_what_rebuilds_it(own, tmp_path, image):
    name, out = own(FUNCTION), tmp_path / "converted.safetensors"
    assert main(["weights", "convert", name, "--out", str(out)]) == 0
    with torch.no_grad():
        assert torch.equal(*(load_model(one).network(image[:, None]) for one in (name, out)))


def test_helpers_of_one_name_in_two_folders_are_two_modules(own, tmp_path):
    text = "import helper_of_mine\nfrom torch import nn\n\ndef make():\n    return nn.Conv2d(3, 2, 1), helper_of_mine.names\n"
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        own(f"names = ['{folder}', 'b']", file=f"{folder}/helper_of_mine.py")
        names.append(own(text, file=f"{folder}/own.py"))
    for _ in range(2):
        assert [load_model(name).config.labels.names[0] for name in names] == ["one", "two"]


def test_model_that_would_end_the_process_is_told_of(own, image):
    leaves = Net(lambda logits, image: sys.exit("done"))
    with pytest.raises(WeightsError, match=r"does not run on an image .* SystemExit: done"):
        wrap_module(leaves)
    module = Net()
    backbone = wrap_module(module).network.backbone
    module.stem.register_forward_hook(lambda *_: sys.exit(3))
    with pytest.raises(WeightsError, match=r"ends the process while it segments an image: sys\.exit\(3\)"):
        backbone(image)


def test_hash_of_a_model_is_that_of_its_file(own):
    name = own(FUNCTION)
    first = hash_file(Path(name))
    assert first == hash_file(Path(name)) and len(first) == 64
    own(FUNCTION + "\n")
    assert hash_file(Path(name)) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: "python:own.py", "wanted python:module:function or python:FILE.py:function"),
        (lambda name: "python::make", "wanted python:module:function"),
        (lambda name: name.replace("own.py", "other.py"), r"no such file .*other\.py; wanted"),
        (lambda name: "python:no_such_module_here:make", "no module no_such_module_here here or among the installed ones"),
        (lambda name: name.replace(":make", ":build"), "no function build there, but make, explode"),
        (lambda name: name.replace(":make", ":number"), "no function number there"),
        (lambda name: name.replace(":make", ":explode"), r"TypeError: .*\(own\.py, line 10\)"),
    ],
)
def test_function_that_gives_no_model_is_refused(own, change, message):
    with pytest.raises(WeightsError, match=f"^python:.*: {message}"):
        load_model(change(own(FUNCTION)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\n\ndef make():\n    sys.exit('no weights here')", r"SystemExit: no weights here \(own\.py, line 4\)"),
        ("def make(:", r"SyntaxError: [^(]*\(own\.py, line 1\)"),
        ("def make(size):\n    return size", r"TypeError: make\(\) missing 1 required positional argument: 'size'"),
    ],
    ids=["exits", "does not parse", "wants arguments"],
)
def test_whatever_the_users_code_does_is_told_with_a_line_of_the_user(text, message, own, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=f"^python:.*:make: {message}$"):
        load_model(own(text))


def test_wrapped_erfnet_of_a_function_gives_the_logits_of_the_native_one(own, image):
    name = own(
        """
import torch
from torch import nn
from lmanet_core.network import ERFNet

def native():
    torch.manual_seed(0)
    return ERFNet(4)

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = native()

    def forward(self, image):
        return self.net(image)

def wrapped():
    return Wrapped()
""",
        "native",
    )
    native, wrapped = (load_model(one).network.backbone for one in (name, name.replace(":native", ":wrapped")))
    assert type(native) is ERFNet and wrapped.cut.layer == "net.decoder.output_conv"
    with torch.no_grad():
        assert torch.equal(wrapped(image), native(image))


def test_function_that_returns_something_else_is_refused(own):
    with pytest.raises(WeightsError, match=r"wanted a torch\.nn\.Module, or \(module, class names\), got dict"):
        load_model(own("def make():\n    return {}"))


def test_a_bad_model_is_one_line_for_people(own, capsys):
    assert main(["weights", "info", own(FUNCTION, "explode")]) == 4
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: python:")


def test_segment_and_info_take_a_name(own, frames, tmp_path, capsys):
    import cv2

    name = own(FUNCTION)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/0.png"), frames[0])
    assert main(["segment", str(tmp_path / "in"), "--weights", name, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["classes"] == list(NAMES) and summary["weights"]["sha256"] == hash_file(Path(name))
    capsys.readouterr()
    assert main(["weights", "info", name]) == 0
    told = capsys.readouterr().out
    assert "before 1: 5 channels at stride 2" in told and "multiples of 8" in told and "4: floor, wall, door, person" in told


# ---- compiled models


@pytest.fixture
def compiled(tmp_path):
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1)).eval()), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("frozen", [False, True])
def test_torchscript_is_recognised_by_content_and_has_logits_only(frozen, compiled, frames, image):
    program = torch.jit.load(compiled)
    if frozen:
        torch.jit.save(torch.jit.freeze(program), compiled)
    model = load_model(compiled)
    assert model.source == "TorchScript" and model.network.backbone.cut is None
    with pytest.raises(ConfigError, match="got a compiled network, which gives logits only"):
        LMANet(model.network.backbone, MemoryConfig())
    with torch.no_grad():
        assert torch.equal(model.network.backbone(image), full(program(image), image))
    assert VideoSegmenter(prepare(model, "cpu")).step(frames[0], SECOND).labels.shape == (64, 128)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_nan_in_a_frozen_program_shows_in_its_logits(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1)).eval()
    torch.nn.init.constant_(module[1].bias, float("nan"))
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), tmp_path / "m")
    with pytest.raises(WeightsError, match="m: the model must return numbers, got logits that are NaN"):
        load_model(tmp_path / "m")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_damaged_torchscript_is_refused(compiled):
    compiled.write_bytes(compiled.read_bytes().replace(b"Conv2d", b"Conv9d"))
    with pytest.raises(WeightsError, match="m: damaged TorchScript file"):
        load_model(compiled)


def test_exported_program_is_refused_as_a_file_and_taken_from_a_function(own, tmp_path, image):
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(Net().eval(), (image[:1],), dynamic_shapes=(sides,)), tmp_path / "m.pt2")
    with pytest.raises(WeightsError, match=r"m\.pt2: a torch\.export file; PyTorch would run code named in it"):
        load_model(tmp_path / "m.pt2")
    model = load_model(own(f"import torch\ndef make():\n    return torch.export.load({str(tmp_path / 'm.pt2')!r}).module()"))
    with torch.no_grad():
        assert torch.equal(model.network.backbone(image[:1]), full(Net().eval()(image[:1]), image))


def test_onnx_without_its_extra_says_which(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"\x08\x08\x12\x07pytorch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ConfigError, match="m needs onnxruntime, which is not installed: pip install onnxruntime, the extra onnx"
    ):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ([1, 3, 48, 80], "tensor(float)", None),
        (
            [1, 48, 80, 3],
            "tensor(float)",
            r"m: wanted one input \(1, 3, H, W\) of float32, got x \[1, 48, 80, 3\] tensor\(float\)",
        ),
        ([1, 3, 48, 80], "tensor(uint8)", r"wanted one input .* got x \[1, 3, 48, 80\] tensor\(uint8\)"),
    ],
)
def test_onnx_takes_images_and_the_size_it_was_made_for(shape, kind, message, tmp_path, frames, monkeypatch):
    class Session:
        def __init__(self, *_, **__):
            pass

        def get_inputs(self):
            return [SimpleNamespace(name="x", shape=shape, type=kind)]

        def run(self, _, feed):
            assert feed["x"].shape == tuple(shape), "another size"
            return [np.concatenate([feed["x"], feed["x"][:, :1]], 1)]

    runtime = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "m").write_bytes(b"\x08\x08\x12\x07pytorch")
    if message is not None:
        with pytest.raises(WeightsError, match=message):
            load_model(tmp_path / "m")
        return
    model = load_model(tmp_path / "m")
    assert model.network.backbone.fixed_size == model.config.input_size == (48, 80)
    segmenter = VideoSegmenter(prepare(model, "cpu"), SegmenterConfig(label_memory=False, output_size="network"))
    pixels = segmenter.plan_for(Size(64, 128)).to_network(frames[0])
    assert np.array_equal(segmenter.step(frames[0], SECOND).labels, pixels.argmax(2))


def test_onnx_has_logits_only(tmp_path, image):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    module = nn.Conv2d(3, 4, 3, padding=1)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4, "h", "w"])],
        [
            onnx.numpy_helper.from_array(tensor.detach().numpy(), name)
            for name, tensor in (("w", module.weight), ("b", module.bias))
        ],
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert model.source == "ONNX" and model.network.backbone.cut is None
    with torch.no_grad():
        torch.testing.assert_close(prepare(model, "cpu").network.encode(image[:1]), module(image[:1]))


# ---- Hugging Face


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


CLASSES = {0: "floor", 1: "wall", 2: "door", 3: "person"}


def segformer(transformers, **more):
    return transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16, **more
    )  # fmt: skip


def mobilenet_v2(transformers, **more):
    return transformers.MobileNetV2Config(depth_multiplier=0.25, **more)


def upernet(transformers, **more):
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    backbone = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=stages)
    return transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, pool_scales=[1, 2], auxiliary_in_channels=16, auxiliary_channels=8, **more
    )  # fmt: skip


def dpt(transformers, **more):
    return transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, **more,
    )  # fmt: skip


FAMILIES = {
    segformer: ("decode_head.classifier", 4, 8),
    mobilenet_v2: ("segmentation_head.classifier.convolution", 32, 32),
    upernet: ("decode_head.classifier", 4, 8),
    dpt: ("head.head.4", 2, 1),
}


@pytest.fixture
def saved(transformers, tmp_path):
    """A folder as save_pretrained makes it, with random weights."""

    def make(family=segformer, kind="AutoModelForSemanticSegmentation", processor=None, **more):
        torch.manual_seed(0)
        config = family(transformers, id2label=CLASSES, label2id={name: index for index, name in CLASSES.items()}, **more)
        network = getattr(transformers, kind).from_config(config).eval()
        network.save_pretrained(tmp_path / "hf")
        if processor is not None:
            (tmp_path / "hf/preprocessor_config.json").write_text(json.dumps(processor))
        return tmp_path / "hf", network

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_families_give_their_own_logits_bit_for_bit(family, saved):
    folder, network = saved(family)
    model = load_model(f"hf:{folder}")
    backbone = model.network.backbone
    assert (backbone.cut.layer, backbone.cut.stride, backbone.size_multiple) == FAMILIES[family]
    assert model.config.labels.names == NAMES and not model.network.training
    image = torch.rand(1, 3, *(backbone.fixed_size or (96, 160)))
    with torch.no_grad():
        logits = network(image).logits
        expected = logits if logits.shape[-2:] == image.shape[-2:] else full(logits, image)
        assert torch.equal(backbone(image), expected)


def test_hugging_face_folder_is_segmented_offline_with_its_names(saved, frames, tmp_path, monkeypatch, write_video):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, _ = saved(processor={"size": {"height": 64, "width": 128}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    out = tmp_path / "out"
    assert main(["segment", str(write_video(tmp_path / "drive.avi")), "--weights", f"hf:{folder}", "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["classes"] == list(NAMES)


@pytest.mark.parametrize(
    ("processor", "mean", "std", "bgr"),
    [
        (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), False),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False),
        ({"do_flip_channel_order": True, "do_rescale": True, "rescale_factor": 1 / 255}, (0.0,) * 3, (1.0,) * 3, True),
        ({"do_rescale": False, "image_mean": [51.0] * 3, "image_std": [102.0] * 3}, (0.2,) * 3, (0.4,) * 3, False),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, (0.5,) * 3, (0.5,) * 3, False),
        (
            {"do_flip_channel_order": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
            (0.3, 0.2, 0.1),
            (0.6, 0.5, 0.4),
            True,
        ),
    ],
    ids=["no file", "as it says", "none", "BGR", "of 0–255", "of 0–2", "in the order of BGR"],
)
def test_preprocessing_is_read_from_the_folder(processor, mean, std, bgr, saved):
    backbone = load_model(f"hf:{saved(processor=processor)[0]}").network.backbone
    assert backbone.mean == pytest.approx(mean) and backbone.std == pytest.approx(std) and backbone.bgr is bgr


def test_what_else_the_folder_says_is_told(saved, capsys):
    folder, _ = saved(processor={"do_reduce_labels": True, "size": 512, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    model = load_model(f"hf:{folder}")
    assert model.config.input_size == (512, 512) and len(hash_file(Path(f"hf:{folder}"))) == 64
    assert main(["weights", "info", f"hf:{folder}"]) == 0
    told = capsys.readouterr().out
    assert main(["weights", "convert", f"hf:{folder}", "--out", str(folder / "ours")]) == 0
    kept = load_model(folder / "ours")
    assert kept.config.provenance["hugging_face"] == str(folder) and kept.config.cut == "decode_head.classifier"
    for part in ("Hugging Face segformer", "before decode_head.classifier: 16 channels at stride 4", "do_reduce_labels"):
        assert part in told


def mask_classifier(transformers, family):
    names = dict(enumerate(NAMES))
    if family == "EoMT":
        config = transformers.EomtConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16, num_blocks=1,
            num_queries=6, num_upscale_blocks=1, id2label=names,
        )  # fmt: skip
        return transformers.EomtForUniversalSegmentation(config)
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    if family == "Mask2Former":
        config = transformers.Mask2FormerConfig(
            backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
            encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, id2label=names,
        )  # fmt: skip
        return transformers.Mask2FormerForUniversalSegmentation(config)
    detr = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=16, backbone_config=swin, decoder_config=detr, id2label=names
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


@pytest.mark.parametrize("family", ["MaskFormer", "Mask2Former", "EoMT"])
def test_mask_classifier_gives_the_classes_of_its_own_postprocessing(family, transformers, tmp_path, frames):
    torch.manual_seed(0)
    network = mask_classifier(transformers, family).eval()
    network.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert model.config.labels.names == NAMES and model.network.backbone.cut is None
    image = torch.rand(1, 3, 64, 64 if family == "EoMT" else 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        made, logits = network(pixel_values=image), model.network.backbone.module(image)
    shares = torch.zeros(4, *made.masks_queries_logits.shape[-2:])
    for kinds, mask in zip(made.class_queries_logits[0].softmax(-1), made.masks_queries_logits[0].sigmoid(), strict=True):
        shares += kinds[:4, None, None] * mask
    torch.testing.assert_close(logits[0].exp(), shares, rtol=1e-4, atol=1e-5)
    assert VideoSegmenter(prepare(model, "cpu")).step(frames[0], SECOND).labels.max() < 4


def test_repeated_class_names_get_their_number(saved, tmp_path):
    folder, _ = saved()
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["1"] = "floor"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(f"hf:{folder}").config.labels.names == ("floor (0)", "floor (1)", "door", "person")


def test_encoder_without_its_head_is_refused_with_what_is_missing(saved):
    folder, _ = saved(kind="AutoModel")
    with pytest.raises(WeightsError, match=r"\d+ weights are missing \(decode_head\..*\); is it trained for segmentation"):
        load_model(f"hf:{folder}")


def test_pickled_weights_are_read_but_run_no_code(saved, tmp_path):
    folder, network = saved()
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert load_model(f"hf:{folder}").config.labels.names == NAMES
    created = tmp_path / "created"

    class Payload:
        def __reduce__(self):
            return Path.touch, (created,)

    torch.save({**network.state_dict(), "x": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be loaded by transformers"):
        load_model(f"hf:{folder}")
    assert not created.exists()


def test_model_of_another_kind_and_one_with_code_are_refused(saved, tmp_path):
    folder, _ = saved()
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(WeightsError, match="wanted a model for semantic segmentation, got ViT; for others, OneFormer too"):
        load_model(f"hf:{folder}")
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C", "AutoModelForSemanticSegmentation": "m.M"}}
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "c.py").write_text(f"open({str(tmp_path / 'created')!r}, 'w')")
    with pytest.raises(WeightsError, match="this model brings code of its own, which is never run"):
        load_model(f"hf:{folder}")
    assert not (tmp_path / "created").exists()


def test_folder_that_is_none_is_refused(transformers, tmp_path):
    for name, message in ((tmp_path, "no config.json in this folder"), (tmp_path / "none", "no such folder; wanted hf:FOLDER")):
        with pytest.raises(WeightsError, match=message):
            load_model(f"hf:{name}")


def test_hub_name_without_a_network_is_one_clear_sentence(transformers, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to the hub. Check your internet connection.\nMore.")

    monkeypatch.setattr(transformers.AutoModelForSemanticSegmentation, "from_pretrained", unreachable)
    with pytest.raises(WeightsError) as caught:
        load_model("hf:nobody/nothing")
    assert re.fullmatch(
        r"hf:nobody/nothing: no folder of this name, and not to be had from the hub: is there a network, and does the model "
        r"exist\? Without a network give a folder that save_pretrained made \(We couldn't connect to the hub\)",
        str(caught.value),
    )


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"hf: needs transformers, which is not installed .*the extra hf"):
        load_model("hf:owner/name")


# ---- docs/models.md


def test_the_examples_of_the_documentation_run(own, frames):
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    function, from_model = (next(one for one in examples if words in one) for words in ("# own.py", "from_model"))
    model = load_model(own(function))
    assert model.config.labels.names == ("floor", "wall", "person", "shelf")
    assert model.network.backbone.mean == (0.485, 0.456, 0.406) and model.network.backbone.cut.layer == "2"
    names = {"model": model.network.backbone.module}
    exec(from_model, names)
    assert names["segmenter"].labels.names == ("floor", "wall", "person", "shelf")
    assert names["segmenter"].step(frames[0], SECOND).labels.max() < 4


def test_every_attribute_of_the_documentation_is_one(own):
    section = next(one for one in DOCS.read_text().split("\n## ") if one.startswith("`python:`"))
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))
    assert documented == {"mean", "std", "bgr", "class_names", "input_size"}
    assert all(f"    {name}" in adapters.__doc__ or f", {name} " in adapters.__doc__ for name in documented)
