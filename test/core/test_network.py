"""Backbones, the memory module and LMANet: shapes, streams, options, and a third party's network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.errors import ConfigError, WeightsError
from lmanet_core.labels import LabelSet
from lmanet_core.network import Backbone, ERFNet, LMANet, MemoryConfig, PSPNet101
from lmanet_core.network.erfnet import _max_pool
from lmanet_core.network.fusion import FUSIONS, ConcatFusion, GatedFusion, ReducedGatedFusion
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.network.memory_read import MemoryFrames, MemoryModule
from lmanet_core.network.pspnet import AveragePool
from lmanet_core.ops import local_attention
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.weights import checkpoint
from lmanet_core.weights.checkpoint import ModelConfig, load_model, register_backbone, save_model

CLASSES = 5


class TheirModel(nn.Module):
    """An encoder–decoder that has never heard of this package."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16), nn.Tanh())
        self.decoder = nn.ConvTranspose2d(16, num_classes, 4, stride=4)


class Wrapped(Backbone):
    """The few lines that `Backbone` asks for."""

    feature_channels = 16
    stride = 4

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, image):
        return self.model.encoder(image)

    def decode(self, features):
        return self.model.decoder(features)


SMALL = {"key_channels": 4, "value_channels": 8, "window": 3, "memory_frames": 2}
FUSION_OPTIONS = {
    "gated": {},
    "concat": {"fusion": "concat"},
    "reduced-gated": {"fusion": "reduced-gated", "value_channels": 0},
}


def small_network(**options):
    """Float64, so that only real differences are seen."""
    torch.manual_seed(0)
    return LMANet(Wrapped(TheirModel()), MemoryConfig(**{**SMALL, **options})).double().eval()


def random_clip(frames=4, batch=1, height=20, width=24, dtype=torch.float64):
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


@torch.no_grad()
def stream(network, clip, memory):
    """Logits (B, T, classes, H, W), frame after frame as `VideoSegmenter.step` does it."""
    logits = []
    for t in range(clip.shape[1]):
        features = network.encode(clip[:, t])
        logits.append(network.decode(features, memory.frames()))
        memory.push(network.remember(features), t)
    return torch.stack(logits, 1)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# ---- backbones


def test_erfnet_gives_features_at_an_eighth_and_logits_at_full_size():
    network = ERFNet(num_classes=7).eval()
    with torch.no_grad():
        features = network.encode(torch.rand(2, 3, 40, 56))
        logits = network.decode(features)
    assert features.shape == (2, 128, 5, 7)
    assert logits.shape == (2, 7, 40, 56)


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("trained", [False, True])
def test_erfnets_pooling_is_max_pooling_in_every_layout(channels, trained):
    image = torch.rand(2, channels, 6, 10, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # many are equal
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, theirs = (image.to(memory_format=layout).requires_grad_(trained) for _ in range(2))
        pooled, wanted = _max_pool(ours), torch.nn.functional.max_pool2d(theirs, 2)
        assert torch.equal(pooled, wanted)
        if trained:
            gradients = [torch.autograd.grad(one.square().sum(), maps)[0] for one, maps in ((pooled, ours), (wanted, theirs))]
            assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("backbone", "memory", "parameters"),
    [
        # published counts, less what we drop: the encoder's own classifier (128 · 20 + 20),
        (lambda: ERFNet(20), None, 2_066_836 - 2_580),
        (lambda: ERFNet(20), MemoryConfig(), 2_692_128),
        (lambda: ERFNet(20), MemoryConfig(fusion="concat"), 2_248_992),
        # the auxiliary classifier (3 · 3 · 1024 · 256, 2 · 256, 256 · 19 + 19) and the unused convolution (2048 · 256 + 256)
        (lambda: PSPNet101(19), None, 68_072_166 - 2_359_296 - 512 - 4_883),
        (lambda: PSPNet101(19), MemoryConfig(128, 0, "reduced-gated"), 72_532_691 - 524_544),
    ],
)
def test_networks_have_as_many_parameters_as_published(backbone, memory, parameters):
    with torch.device("meta"):
        assert count(LMANet(backbone(), memory)) == parameters


@pytest.fixture(scope="module")
def pspnet():
    """LMANet on PSPNet-101 with random weights, a clip of 2 frames and its logits: seconds to make, so made once."""
    torch.manual_seed(0)
    network = LMANet(PSPNet101(), MemoryConfig(128, 0, "reduced-gated", window=5, memory_frames=3)).eval()
    clip = random_clip(2, height=41, width=49, dtype=torch.float32)
    with torch.no_grad():
        return network, clip, network(clip)


def test_pspnet_gives_features_at_an_eighth_and_logits_at_full_size(pspnet):
    network, clip, logits = pspnet
    assert logits.shape == (1, 2, 20, 41, 49)
    with torch.no_grad():
        assert network.encode(clip[:, 0]).shape == (1, 2048, 6, 7)


def test_pspnets_void_channel_is_zero_and_no_other(pspnet):
    *_, logits = pspnet
    assert (logits[:, :, 19] == 0).all()
    assert (logits[:, :, :19].abs().amax((0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(129, 257), (17, 33), (6, 6), (5, 2), (1, 9)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["nhwc", "nchw"])
def test_pooling_by_products_is_adaptive_pooling(bins, size, layout):
    x = torch.randn(2, 8, *size, dtype=torch.float64).to(memory_format=layout)
    pool = AveragePool(bins)
    torch.testing.assert_close(pool.as_products(x), F.adaptive_avg_pool2d(x, bins))
    assert torch.equal(pool(x), F.adaptive_avg_pool2d(x, bins))  # on a CPU, as ever
    assert not pool.state_dict()


def test_pspnet_streams_as_the_whole_clip(pspnet):
    network, clip, logits = pspnet
    streamed = stream(network, clip, MemoryBuffer(3))
    torch.testing.assert_close(streamed, logits, rtol=0, atol=1e-5 * logits.abs().max().item())  # float32, other order of sums


def test_pspnet_remembers_its_features_as_the_value(pspnet):
    network, clip, _ = pspnet
    with torch.no_grad():
        features = network.encode(clip[:, 0])
        kept = network.remember(features)
    assert torch.equal(kept.value, features)
    assert kept.key.shape == (1, 128, 6, 7)


# ---- streams


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("memory_frames", [1, 2, 5])
@pytest.mark.parametrize("fusion", FUSION_OPTIONS.values(), ids=FUSION_OPTIONS)
def test_streaming_equals_whole_clip(fusion, memory_frames, batch, randomize_batch_norms):
    network = randomize_batch_norms(small_network(memory_frames=memory_frames, **fusion))
    clip = random_clip(frames=4, batch=batch)
    with torch.no_grad():
        whole = network(clip)
    assert whole.shape == (batch, 4, CLASSES, 20, 24)
    torch.testing.assert_close(stream(network, clip, MemoryBuffer(memory_frames)), whole)


def test_erfnet_streams_as_the_whole_clip(randomize_batch_norms):
    torch.manual_seed(0)
    network = randomize_batch_norms(LMANet(ERFNet(), MemoryConfig(memory_frames=2))).double().eval()
    clip = random_clip(frames=4, height=32, width=40)
    with torch.no_grad():
        torch.testing.assert_close(stream(network, clip, MemoryBuffer(2)), network(clip))


def test_cleared_memory_equals_a_fresh_start():
    network, clip, memory = small_network(), random_clip(), MemoryBuffer(2)
    first = stream(network, clip, memory)
    assert not torch.equal(stream(network, clip, memory)[:, 0], first[:, 0])  # stamps 0 … 3 are old, but it reads what is there
    memory.clear()
    assert torch.equal(stream(network, clip, memory), first)


@pytest.mark.parametrize("run_time", [1, 3])
def test_memory_frames_at_run_time_may_differ_from_training(run_time):
    network, clip = small_network(memory_frames=2), random_clip(frames=5)
    with torch.no_grad():
        given, trained = network(clip, memory_frames=run_time), network(clip)
    torch.testing.assert_close(stream(network, clip, MemoryBuffer(run_time)), given)
    torch.testing.assert_close(given[:, :2], trained[:, :2])  # up to one past frame there is no difference
    assert not torch.allclose(given[:, 4], trained[:, 4])


def test_first_frame_is_the_plain_backbones():
    network, clip = small_network(), random_clip(1)
    with torch.no_grad():
        assert torch.equal(network(clip)[:, 0], network.backbone(clip[:, 0]))
        assert torch.equal(network.decode(network.encode(clip[:, 0]), MemoryBuffer(2).frames()), network.backbone(clip[:, 0]))


@pytest.mark.parametrize("frames", [1, 4])
def test_last_only_equals_the_last_of_all(frames):
    network, clip = small_network(), random_clip(frames)
    with torch.no_grad():
        last = network(clip, last_only=True)
        assert last.shape[1] == 1
        assert torch.equal(last[:, 0], network(clip)[:, -1])


def test_current_frame_is_not_in_its_own_memory():
    network, clip = small_network(), random_clip(2)
    with torch.no_grad():
        past = network.remember(network.encode(clip[:, 0]))
        expected = network.decode(network.encode(clip[:, 1]), stack_memory([past]))
        torch.testing.assert_close(network(clip)[:, 1], expected)


def test_loss_on_the_last_frame_trains_the_memory_heads():
    network = small_network()
    network(random_clip(3), last_only=True).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_modules_keep_nothing_between_calls(randomize_batch_norms):
    network, clip = randomize_batch_norms(small_network()), random_clip()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        first, second = network(clip), network(clip)
    assert torch.equal(first, second)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert {name for name, _ in network.named_buffers()} <= before.keys()


@pytest.mark.parametrize("frames", [0, -1])
def test_clip_without_room_in_the_memory_is_refused(frames):
    with pytest.raises(ValueError, match=f"memory_frames must be at least 1, got {frames}"):
        small_network()(random_clip(3), memory_frames=frames)


def test_network_without_memory_segments_single_frames_and_remembers_nothing():
    network, clip = LMANet(Wrapped(TheirModel())).double().eval(), random_clip(3)
    with torch.no_grad():
        expected = torch.stack([network.backbone(clip[:, t]) for t in range(3)], 1)
        assert torch.equal(network(clip), expected)
        assert torch.equal(network(clip, last_only=True), expected[:, 2:])
        features = network.encode(clip[:, 0])
        with pytest.raises(ValueError, match="built without a memory"):
            network.remember(features)
        with pytest.raises(ValueError, match="built without a memory"):
            network.decode(features, stack_memory([small_network().remember(features)]))


# ---- the memory module


OPTIONS = {
    "window 3": {"window": 3},
    "window 1": {"window": 1},
    "window larger than the map": {"window": 21},
    "global": {"window": None},
    "per frame": {"softmax": "per_frame"},
    "masked": {"border": "masked"},
}


def test_every_option_of_the_read_gives_another_result():
    clip = random_clip(3)
    with torch.no_grad():
        results = [small_network(**options)(clip)[:, -1] for options in OPTIONS.values()]
    for i, (name, result) in enumerate(zip(OPTIONS, results, strict=True)):
        for other, earlier in zip(OPTIONS, results[:i], strict=False):
            assert not torch.allclose(result, earlier), f"{name} = {other}"


@pytest.mark.parametrize("impl", ["reference", "blocked"])
def test_decode_reads_with_the_named_implementation(impl, monkeypatch):
    from lmanet_core.ops import api

    used = []
    original = api._implementations[impl]
    monkeypatch.setitem(api._implementations, impl, lambda *args: (used.append(impl), original(*args))[1])
    network, clip = small_network(), random_clip(1)
    with torch.no_grad():
        features = network.encode(clip[:, 0])
        network.decode(features, stack_memory([network.remember(features)]), impl=impl)
    assert used == [impl]


def test_query_key_starts_as_a_copy_that_shares_no_storage():
    memory = small_network().memory
    for ours, theirs in zip(memory.query_head.key.parameters(), memory.memory_head.key.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.untyped_storage().data_ptr() != theirs.untyped_storage().data_ptr()
    assert not torch.equal(memory.query_head.value.weight, memory.memory_head.value.weight)


def test_memory_is_made_by_the_memory_head_and_asked_by_the_query_head():
    network, clip = small_network(), random_clip(1)
    with torch.no_grad():
        features = network.encode(clip[:, 0])
        kept = network.remember(features)
        for parameter in network.memory.query_head.parameters():
            parameter.zero_()
        assert all(torch.equal(a, b) for a, b in zip(network.remember(features), kept, strict=True))
        read = network.memory.read(features, stack_memory([kept]))
        for parameter in network.memory.memory_head.parameters():
            parameter.zero_()
        assert torch.equal(network.memory.read(features, stack_memory([kept])), read)
        assert (network.remember(features).key == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_channels": 0}, "wanted key channels ≥ 1 .*got 0, 64"),
        ({"value_channels": -1}, "value channels ≥ 0, got 16, -1"),
        ({"fusion": "sum"}, "fusion must be one of gated, reduced-gated, concat.*; got 'sum'"),
        ({"window": 20}, "window must be odd and positive, .*got 20"),
        ({"window": 0}, "window must be odd and positive, .*got 0"),
        ({"window": -3}, "window must be odd and positive, .*got -3"),
        ({"memory_frames": 0}, "memory_frames must be at least 1, got 0"),
        ({"softmax": "both"}, "softmax must be joint or per_frame, got 'both'"),
        ({"border": "clamp"}, "border must be zero or masked, got 'clamp'"),
    ],
)
def test_memory_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MemoryConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "concat", "value_channels": 9}, "concat fusion wants 8 value channels, got 9"),
        ({"fusion": "concat", "value_channels": 0}, "concat fusion wants 8 value channels, got 16"),
        ({"fusion": "reduced-gated", "value_channels": 8}, "wanted 16 value channels, got 8"),
    ],
)
def test_value_width_that_the_fusion_does_not_take_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        small_network(**options)


# ---- fusions, by hand: fresh BatchNorm divides by √(1 + 1e-3), a gate of bias ln 3 lets ¾ through


def constant(*channels):
    return torch.tensor(channels).reshape(1, -1, 1, 1)


def fill(conv, bias):
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, bias)


@torch.no_grad()
def test_concat_fusion_by_hand():
    fused = ConcatFusion(2, 4).eval()(constant(1.0, -1.0), constant(2.0, 3.0))
    torch.testing.assert_close(fused, constant(1.0, 0.0, 2.0, 3.0) / math.sqrt(1.001))


@torch.no_grad()
def test_gated_fusion_by_hand():
    fusion = GatedFusion(2, 3).eval()
    for conv, bias in (
        (fusion.embed_query, 4.0),
        (fusion.embed_memory, 5.0),
        (fusion.attend_query, math.log(3)),
        (fusion.attend_memory, 0.0),
    ):
        fill(conv, bias)
    fused = fusion(constant(1.0, 1.0), constant(1.0, 1.0))
    torch.testing.assert_close(fused, torch.full((1, 3, 1, 1), (0.75 * 4 + 0.5 * 5) / math.sqrt(1.001)))


@torch.no_grad()
def test_reduced_gated_fusion_by_hand():
    fusion = ReducedGatedFusion(8, 8).eval()
    fill(fusion.attend_query, math.log(3))
    fill(fusion.attend_memory, 0.0)
    fused = fusion(torch.full((1, 8, 1, 1), 4.0), torch.full((1, 8, 1, 1), 6.0))
    torch.testing.assert_close(fused, torch.full((1, 8, 1, 1), (0.75 * 4 + 0.5 * 6) / math.sqrt(1.001)))


@pytest.mark.parametrize(("name", "drops"), [("gated", True), ("reduced-gated", False), ("concat", False)])
def test_only_the_gated_fusion_drops_channels_and_only_in_training(name, drops):
    torch.manual_seed(0)
    fusion = FUSIONS[name](16, {"gated": 16, "reduced-gated": 16, "concat": 32}[name])
    query, memory = torch.rand(2, 1, 16, 3, 3).unbind()
    assert torch.equal(fusion.train()(query, memory), fusion(query, memory)) is not drops
    fusion.eval()
    assert torch.equal(fusion(query, memory), fusion(query, memory))


# ---- a third party's network


def test_third_party_network_joins_without_memory_and_with_it():
    model = TheirModel().eval()
    network = LMANet(Wrapped(model), MemoryConfig(key_channels=4, value_channels=8)).eval()
    clip = random_clip(2, dtype=torch.float32)
    with torch.no_grad():
        logits = network(clip)
        assert torch.equal(logits[:, 0], model.decoder(model.encoder(clip[:, 0])))
    assert logits.shape == (1, 2, CLASSES, 20, 24)


def test_backbone_without_encode_or_decode_cannot_be_made():
    class Half(Backbone):
        def encode(self, image):
            return image

    with pytest.raises(TypeError, match="decode"):
        Half()


@pytest.fixture
def registered(monkeypatch):
    """The third party's network under the name "theirs", for one test."""
    monkeypatch.setattr(checkpoint, "_BACKBONES", dict(checkpoint._BACKBONES))
    register_backbone("theirs", lambda num_classes: Wrapped(TheirModel(num_classes)))


LABELS = LabelSet(("road", "car", "sky"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), {"drivable": ("road",)})


def test_registered_third_party_network_survives_saving_and_loading(registered, tmp_path, randomize_batch_norms):
    config = ModelConfig("theirs", 3, LABELS, MemoryConfig(**SMALL))
    network = randomize_batch_norms(LMANet(Wrapped(TheirModel(3)), config.memory)).eval()
    save_model(tmp_path / "theirs.safetensors", network, config)
    model = load_model(tmp_path / "theirs.safetensors")
    clip = random_clip(3, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(model.network(clip), network(clip))
    assert model.config == config


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["erfnet", "theirs"])
def test_name_of_a_backbone_can_be_taken_once(name):
    with pytest.raises(ConfigError, match=f"'{name}' is already registered"):
        register_backbone(name, ERFNet)


def test_unregistered_network_is_refused_by_name(tmp_path):
    config = ModelConfig("theirs", 3, LABELS, MemoryConfig(**SMALL))
    save_model(tmp_path / "theirs.safetensors", LMANet(Wrapped(TheirModel(3)), config.memory), config)
    with pytest.raises(WeightsError, match="architecture 'theirs' is not one of erfnet, pspnet101; register_backbone"):
        load_model(tmp_path / "theirs.safetensors")


def test_tied_weights_are_saved_and_loaded(tmp_path, monkeypatch):
    class Tied(TheirModel):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.again = self.decoder

    monkeypatch.setattr(checkpoint, "_BACKBONES", {"tied": lambda num_classes: Wrapped(Tied(num_classes))})
    network = LMANet(Wrapped(Tied(3)))
    save_model(tmp_path / "tied.safetensors", network, ModelConfig("tied", 3, LABELS))
    loaded = load_model(tmp_path / "tied.safetensors").network.backbone.model
    assert torch.equal(loaded.decoder.weight, network.backbone.model.decoder.weight)
    assert loaded.again is loaded.decoder


def test_whitened_keys_are_uncorrelated_and_read_what_looks_alike():
    torch.manual_seed(0)
    module = MemoryModule(24, MemoryConfig(key_channels=16, value_channels=0, fusion="residual", window=5, memory_frames=1))
    features = torch.einsum("dc,nchw->ndhw", torch.randn(24, 24), torch.randn(2, 24, 9, 12)) + 3.0
    before = torch.roll(features[:1], (1, 2), (2, 3))
    inside = (..., slice(1, -1), slice(2, -2))  # where what moved is still in the map

    def error():
        kept = module.remember(before)
        query = module.query_head(features[:1])
        read = local_attention(query.key, kept.key[:, None], kept.value[:, None], 5)
        return float((read - features[:1])[inside].square().mean() / features[:1].var())

    with torch.no_grad():
        at_random = error()
        module.whiten_keys(features)
        keys = module.remember(features).key.movedim(1, 0).flatten(1)
        torch.testing.assert_close(keys.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
        torch.testing.assert_close(keys.cov(correction=0), torch.eye(16), atol=1e-3, rtol=0)
        assert error() < 0.1 < at_random
    with pytest.raises(ValueError, match="24 feature channels cannot give 32"):
        MemoryModule(24, MemoryConfig(32, 0, "residual")).whiten_keys(features)


def test_a_backbone_normalises_images_as_its_weights_expect():
    backbone = ERFNet(5)
    backbone.mean, backbone.std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 4)
    normal = backbone.normalize(images)
    assert normal.dtype == torch.float32
    assert normal[0, :, :, 0, 0].tolist() == [[-1.0, -1.0, 0.0], [1.0, 3.0, 1.0]]
    assert torch.equal(backbone.normalize(images.float()), normal)


# ---- position bias


def test_with_position_bias_logits_gain_the_cosines_of_the_way():
    torch.manual_seed(0)
    config = MemoryConfig(key_channels=12, value_channels=16, window=5, position_bias=3.0)
    module = MemoryModule(16, config).eval()
    assert module.memory_head.key.out_channels == config.content_channels == 8
    features = torch.randn(2, 16, 6, 9)
    with torch.inference_mode():
        asked, kept = module.project_query(features), module.remember(features)
        plain = module.query_head(features).key, module.memory_head(features).key
    assert asked.key.shape == kept.key.shape == (2, 12, 6, 9)
    logits = torch.einsum("bcyx,bcvu->byxvu", asked.key, kept.key) - torch.einsum("bcyx,bcvu->byxvu", *plain)
    y, x = torch.arange(6.0), torch.arange(9.0)
    turn = 2 * math.pi / 6  # half a turn at 3, the first position outside
    rows, columns = ((at[:, None] - at[None]).mul(turn).cos() for at in (y, x))
    expected = 3.0 * (rows[:, None, :, None] + columns[None, :, None, :])
    torch.testing.assert_close(logits, expected.expand_as(logits), rtol=0, atol=1e-5)


def test_what_cannot_be_recognised_reads_what_was_in_its_place():
    def read_in_a_corner(position_bias):
        config = MemoryConfig(key_channels=8, value_channels=0, fusion="residual", window=5, position_bias=position_bias)
        module = MemoryModule(4, config)
        for head in (module.query_head, module.memory_head):
            torch.nn.init.zeros_(head.key.weight)  # nothing looks like anything
            torch.nn.init.zeros_(head.key.bias)
        past = torch.arange(4 * 9 * 9.0).view(1, 4, 9, 9)
        kept = module.remember(past)
        read = local_attention(module.project_query(past).key, kept.key[:, None], kept.value[:, None], config.window)
        return read[0, :, 0, 0] - past[0, :, 0, 0]  # in a corner, whose window's mean lies elsewhere

    far, near = (read_in_a_corner(position_bias).abs().max() for position_bias in (0.0, 20.0))
    assert near < 1.0 < far


def test_whitened_keys_leave_room_for_the_place():
    torch.manual_seed(0)
    module = MemoryModule(16, MemoryConfig(key_channels=12, value_channels=16, window=5, position_bias=3.0))
    features = torch.randn(4, 16, 8, 8) * torch.linspace(1, 4, 16).view(1, 16, 1, 1)
    module.whiten_keys(features)
    content = module.remember(features).key[:, :8].movedim(1, -1).reshape(-1, 8)
    torch.testing.assert_close(content.T.cov(correction=0), 0.25 * torch.eye(8), rtol=0, atol=1e-4)


def following_module(position_bias=20.0, window=5):
    """Nothing looks like anything: only the place counts."""
    config = MemoryConfig(8, 0, "residual", window=window, position_bias=position_bias, motion_compensation=True)
    module = MemoryModule(4, config)
    for head in (module.query_head, module.memory_head):
        torch.nn.init.zeros_(head.key.weight)
        torch.nn.init.zeros_(head.key.bias)
    return module


def test_what_moved_is_read_where_it_has_moved_to():
    module = following_module(position_bias=80.0)
    past = torch.rand(1, 4, 9, 9)
    memory = MemoryFrames(*(maps[:, None] for maps in module.remember(past)))
    positions = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij"))[None, None].clone()
    positions[:, :, 0] += 1  # everything has moved down by one and left by two
    positions[:, :, 1] -= 2
    moved = module.compensate_motion(memory, positions)
    read = local_attention(module.project_query(past).key, moved.keys, moved.values, module.config.window)
    inside = read[:, :, 3:7, 2:5]
    torch.testing.assert_close(inside, past[:, :, 2:6, 4:7], rtol=0, atol=1e-3)
    assert (inside - past[:, :, 3:7, 2:5]).abs().max() > 0.1
    with torch.no_grad():
        torch.nn.init.ones_(module.fusion.blend.bias)  # what was read is what comes out
        torch.testing.assert_close(module.read(past, memory, positions=positions), read)


@pytest.mark.parametrize("window", [5, None])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("way", [2, 3, 4, 6, 7, 100, -3, -100])
def test_what_moved_out_of_its_window_is_nearest_where_it_left(window, way, axis):
    module = following_module(window=window)
    memory = MemoryFrames(*(maps[:, None] for maps in module.remember(torch.rand(1, 4, 9, 9))))
    positions = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij"))[None, None].clone()
    positions[:, :, axis] += way
    asked = module.project_query(torch.rand(1, 4, 9, 9)).key[0].select(1 + (1 - axis), 4)  # of the middle column, or row
    kept = module.compensate_motion(memory, positions).keys[0, 0, :, 4, 4]  # what was in the middle
    near = (asked * kept[:, None]).sum(0).detach()
    reach = 2 if window else 4  # of those that see it
    left = 4 + max(-reach, min(reach, way))
    assert int(near[4 - reach : 5 + reach].argmax()) + 4 - reach == left
    assert window is None or near[left] == pytest.approx(40.0, rel=1e-5)  # outside of the map it is less


def test_what_stayed_in_its_place_and_a_memory_that_follows_nothing_are_as_they_were():
    module = following_module()
    memory = MemoryFrames(*(maps[:, None] for maps in module.remember(torch.rand(2, 4, 6, 9))))
    home = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")).expand(2, 1, 2, 6, 9)
    torch.testing.assert_close(module.compensate_motion(memory, home).keys, memory.keys, rtol=0, atol=1e-5)
    assert module.compensate_motion(memory, home).keys.stride(2) == 1  # as a ring has them
    assert module.compensate_motion(memory, None) is memory
    still = MemoryModule(4, replace(module.config, motion_compensation=False))
    assert still.compensate_motion(memory, home + 1) is memory


@pytest.mark.parametrize(("wrong", "message"), [
    ({"motion_compensation": True}, "motion_compensation moves what position_bias counts from; wanted position_bias above 0"),
    ({"position_bias": -1.0}, "position_bias must be 0 to 100, got -1"),
    ({"position_bias": float("nan")}, "position_bias must be 0 to 100, got nan"),
    ({"position_bias": 1.0, "key_channels": 4}, "position_bias takes 4 key channels; wanted more in all, got 4"),
])  # fmt: skip
def test_position_bias_out_of_range_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MemoryConfig(**wrong)


# ---- pooled reads


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pool", [2, 3])
def test_pooled_memory_of_residual_fusion_starts_as_the_identity_and_changes_what_it_reads(pool, layout):
    torch.manual_seed(0)
    features = torch.randn(1, 6, 12, 20).contiguous(memory_format=layout)
    module = MemoryModule(6, MemoryConfig(4, 0, "residual", window=5, pool=pool)).eval()
    with torch.no_grad():
        kept = module.remember(features.flip(3))
        assert kept.key.shape == (1, 4, 12 // pool, -(-20 // pool)) and kept.value.shape[1] == 6
        past = stack_memory([kept])
        assert torch.equal(module.read(features, past), features)
        module.fusion.blend.bias.fill_(1.0)  # what was read takes the place of what is seen
        read = module.read(features, past)
        assert read.is_contiguous(memory_format=layout)  # as the decoder of somebody else's model had it
        changed = read - features
        plain = nn.functional.avg_pool2d(features, pool, ceil_mode=True, count_include_pad=False)
        expected = local_attention(module.project_query(features).key, past.keys, past.values, 5) - plain
        spread = nn.functional.interpolate(expected, scale_factor=float(pool), mode="bilinear")[..., :12, :20]
        torch.testing.assert_close(changed, spread, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["residual", "gated"])
def test_pooled_memory_learns(fusion):
    torch.manual_seed(0)
    features = torch.randn(1, 6, 8, 12, requires_grad=True)
    module = MemoryModule(6, MemoryConfig(4, 0 if fusion == "residual" else 3, fusion, window=3, pool=2))
    module.read(features, stack_memory([module.remember(features.flip(3))])).square().sum().backward()
    assert features.grad.abs().min() > 0 and all(
        parameter.grad.isfinite().all() for parameter in module.fusion.parameters() if parameter.grad is not None
    )


def test_pool_is_a_matter_of_the_weights_and_within_its_range():
    with pytest.raises(ConfigError, match="pool must be 1 to 8 positions, got 9"):
        MemoryConfig(pool=9)
    with pytest.raises(ConfigError, match="pool is 1 in these weights and cannot be 2"):
        MemoryConfig(pool=2).require_weights_of(MemoryConfig())
