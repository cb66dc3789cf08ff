"""A model made ready to run: device, precision, folding and memory options, and the model itself untouched."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lmanet_core.errors import ConfigError
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import Backbone, ERFNet, LMANet, MemoryConfig
from lmanet_core.weights import runtime
from lmanet_core.weights.checkpoint import Model, ModelConfig
from lmanet_core.weights.runtime import RuntimeConfig, choose_device, choose_precision, prepare

CPU = torch.device("cpu")
TRAINED = MemoryConfig(key_channels=8, value_channels=16, window=3, memory_frames=2)


@pytest.fixture
def model(randomize_batch_norms):
    torch.manual_seed(0)
    network = randomize_batch_norms(LMANet(ERFNet(), TRAINED)).eval()
    return Model(network, ModelConfig("erfnet", 20, CITYSCAPES, TRAINED))


@pytest.fixture
def clip():
    return torch.rand(1, 3, 3, 32, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(network, clip):
    return network(clip).float()


def relative_error(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


# ---- choices


def test_auto_device_is_the_cpu_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "mps", "vulkan"])
def test_unknown_device_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"device must be auto, cpu, cuda or cuda:N, got '{name}'"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "count", "there"), [("cuda", 0, False), ("cuda", 1, True), ("cuda:1", 2, True), ("cuda:1", 1, False)]
)
def test_absent_cuda_device_is_refused(name, count, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if there:
        assert choose_device(name) == torch.device(name)
    else:
        with pytest.raises(ConfigError, match=f"device {name} is not there: .* sees {count} CUDA devices; try auto"):
            choose_device(name)


@pytest.mark.parametrize(("computes", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_on_a_cpu_is_bf16_where_it_is_computed(computes, expected, monkeypatch):
    monkeypatch.setattr(runtime, "cpu_computes_bfloat16", lambda: computes)
    assert choose_precision("auto", CPU) == expected


def test_auto_precision_on_cuda_is_fp16():
    assert choose_precision("auto", torch.device("cuda")) == torch.float16


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_named_precision_is_taken(name, dtype):
    assert choose_precision(name, CPU) == dtype


def test_unknown_precision_is_refused_by_name(model):
    with pytest.raises(ConfigError, match="precision must be auto, fp32, bf16, fp16; got 'int8'"):
        prepare(model, "cpu", "int8")


# ---- what becomes of the model


@pytest.mark.parametrize("fold", [True, False])
def test_fp32_runtime_computes_what_the_model_does(model, clip, fold):
    ready = prepare(model, "cpu", "fp32", fold=fold)
    assert relative_error(run(ready.network, clip), run(model.network, clip)) < 1e-5  # float32 through some 60 layers


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.005)])
def test_half_precision_runtime_stays_near_the_model(model, clip, precision, tolerance):
    # 2⁻⁹ (2⁻¹² for fp16) for each of some 60 layers, added up as random errors are: √60 · 2⁻⁹ = 0.015, with a margin of 2
    ready = prepare(model, "cpu", precision)
    assert ready.precision == precision
    assert 1e-5 < relative_error(run(ready.network, clip.to(ready.input_dtype)), run(model.network, clip)) < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_stays_as_it_is(model, clip, precision):
    before = copy.deepcopy(model.network.state_dict())
    ready = prepare(model, "cpu", precision, replace(TRAINED, window=5))
    run(ready.network, clip)
    after = model.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) and after[key].dtype == tensor.dtype for key, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    assert model.network.memory.config == model.config.memory == TRAINED


def test_runtimes_of_one_model_do_not_disturb_each_other(model, clip):
    first = prepare(model, "cpu", "fp32")
    expected = run(first.network, clip)
    others = [prepare(model, "cpu", "bf16"), prepare(model, "cpu", "fp32", replace(TRAINED, window=1))]
    for other in others:
        run(other.network, clip)
        for parameter in other.network.parameters():
            parameter.zero_()
    assert torch.equal(run(first.network, clip), expected)


def test_training_model_is_prepared_in_eval_mode_without_gradients(model):
    model.network.train()
    ready = prepare(model, "cpu", "bf16")
    differing = (nn.BatchNorm2d, nn.Dropout2d)  # between training and use
    assert not any(module.training for module in ready.network.modules() if isinstance(module, differing))
    assert not any(parameter.requires_grad for parameter in ready.network.parameters())
    assert model.network.training


def test_batch_norms_are_folded_unless_told_otherwise(model):
    def count(ready):
        return sum(isinstance(module, nn.BatchNorm2d) for module in ready.network.modules())

    kept = count(prepare(model, "cpu", "fp32", fold=False))
    assert kept == 36 + 3 + 3  # to fold, downsamplers, fusion
    assert count(prepare(model, "cpu", "fp32")) == count(prepare(model, "cpu", "bf16")) == 3 + 3


def test_weights_are_laid_out_channels_last(model):
    conv = prepare(model, "cpu", "fp32").network.backbone.encoder.layers[1].conv3x1_1
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


# ---- precision of the parts


def dtypes(module):
    return {parameter.dtype for parameter in module.parameters()}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sensitive_modules_stay_in_float32(model, clip, precision):
    model.network.backbone.sensitive_to = (torch.bfloat16, torch.float16)
    ready = prepare(model, "cpu", precision)
    encoder = ready.network.backbone.encoder
    assert dtypes(encoder.initial_block) == dtypes(encoder.layers[0]) == dtypes(encoder.layers[6]) == {torch.float32}
    others = [*encoder.layers[1:6], *encoder.layers[7:], ready.network.backbone.decoder, ready.network.memory]
    assert set().union(*map(dtypes, others)) == {ready.dtype}
    assert ready.input_dtype == torch.float32
    assert ready.network.encode(clip[:, 0]).dtype == ready.dtype


def test_erfnet_keeps_its_downsamplers_in_float32_in_bfloat16_alone(model, clip):
    def kept(precision):
        return dtypes(prepare(model, "cpu", precision).network.backbone.encoder.initial_block)

    assert kept("bf16") == {torch.float32}
    assert kept("fp16") == {torch.float16}
    assert prepare(model, "cpu", "fp16").input_dtype == torch.float16


def test_nothing_is_float32_in_half_precision_unless_sensitive():
    class Plain(Backbone):
        feature_channels = 4

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def encode(self, image):
            return self.conv(image)

        def decode(self, features):
            return features

    config = ModelConfig("plain", 4, CITYSCAPES)
    ready = prepare(Model(LMANet(Plain()), config), "cpu", "bf16")
    assert ready.input_dtype == torch.bfloat16
    assert dtypes(ready.network) == {torch.bfloat16}


def test_sensitive_modules_compute_from_the_original_weights(model):
    image = torch.rand(1, 3, 16, 16)
    kept = prepare(model, "cpu", "bf16").network.backbone.encoder.initial_block
    with torch.no_grad():
        expected = model.network.backbone.encoder.initial_block(image)
    torch.testing.assert_close(kept(image), expected.bfloat16())


# ---- memory options


def test_memory_options_are_used(model, clip):
    wider = replace(TRAINED, window=5, memory_frames=1)
    ready = prepare(model, "cpu", "fp32", wider)
    assert ready.config.memory == wider
    assert ready.network.memory.config == wider
    expected = copy.deepcopy(model.network)
    expected.memory.config = wider
    assert relative_error(run(ready.network, clip), run(expected, clip)) < 1e-5
    assert relative_error(run(ready.network, clip), run(model.network, clip)) > 1e-3


def test_without_memory_options_the_trained_ones_are_used(model):
    assert prepare(model, "cpu", "fp32").config == model.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_channels": 16}, "key_channels is 8 in these weights and cannot be 16"),
        ({"value_channels": 0}, "value_channels is 16 in these weights and cannot be 0"),
        ({"fusion": "concat"}, "fusion is gated in these weights and cannot be concat"),
        ({"position_bias": 2.0}, "position_bias is 0 in these weights and cannot be 2: it may change, but not come or go"),
    ],
)
def test_widths_and_fusion_belong_to_the_weights(model, change, message):
    with pytest.raises(ConfigError, match=message):
        prepare(model, "cpu", "fp32", replace(TRAINED, **change))


def test_memory_options_for_weights_without_memory_are_refused():
    model = Model(LMANet(ERFNet()).eval(), ModelConfig("erfnet", 20, CITYSCAPES))
    with pytest.raises(ConfigError, match="these weights have no memory"):
        prepare(model, "cpu", "fp32", TRAINED)
    assert prepare(model, "cpu", "fp32").config.memory is None


def test_attention_that_auto_takes_is_named(model):
    assert prepare(model, "cpu", "fp32").attention() == "blocked"
    assert prepare(model, "cpu", "fp32").attention("reference") == "reference"
    without = Model(LMANet(ERFNet(20)), ModelConfig("erfnet", 20, CITYSCAPES))
    assert prepare(without, "cpu", "fp32").attention() == "none"


def test_window_wider_than_any_map_is_global_attention():
    assert RuntimeConfig(window=10_001).window == RuntimeConfig(window="global").window == "global"
