"""BatchNorm folded into convolutions computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lmanet_core.network import ERFNet, LMANet, MemoryConfig
from lmanet_core.network.erfnet import _NonBottleneck1D, _Upsampler
from lmanet_core.network.folding import fold_batch_norm
from lmanet_core.network.pspnet import _Classifier, _PyramidPooling
from lmanet_core.network.resnet import _Bottleneck, _conv_bn_relu


def batch_norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def random_maps(channels, seed=0):
    return torch.randn(2, channels, 7, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


#: module, channels in, pairs to fold, BatchNorms that remain
CASES = {
    # encoder 13 and decoder 4 residual blocks with 2 pairs, 2 upsamplers; 3 downsamplers remain
    "ERFNet": (lambda: ERFNet(4), 3, 17 * 2 + 2, 3),
    "ERFNet residual block": (lambda: _NonBottleneck1D(4, dropout=0.3, dilation=2), 4, 2, 0),
    "ERFNet upsampler": (lambda: _Upsampler(4, 3), 4, 1, 0),
    "ResNet stem": (lambda: nn.Sequential(*_conv_bn_relu(3, 4, stride=2), *_conv_bn_relu(4, 5)), 3, 2, 0),
    "ResNet block": (lambda: _Bottleneck(16, 4, stride=1, dilation=2), 16, 3, 0),
    "ResNet block with projection": (lambda: _Bottleneck(8, 4, stride=2, dilation=1), 8, 4, 0),
    "pyramid pooling": (lambda: _PyramidPooling(8, 2), 8, 4, 0),
    "classifier": (lambda: _Classifier(4, 3), 4, 1, 0),
}


@pytest.mark.parametrize(("build", "channels", "pairs", "remaining"), CASES.values(), ids=CASES)
def test_folded_equals_unfolded(build, channels, pairs, remaining, randomize_batch_norms):
    torch.manual_seed(0)
    network = randomize_batch_norms(build()).double().eval()
    maps = random_maps(channels) if channels != 3 else torch.rand(1, 3, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = network(maps)
        assert fold_batch_norm(network) == pairs
        assert len(batch_norms(network)) == remaining
        torch.testing.assert_close(network(maps), expected)


def test_folding_reaches_the_backbone_inside_lmanet_and_leaves_the_fusion(randomize_batch_norms):
    torch.manual_seed(0)
    network = randomize_batch_norms(LMANet(ERFNet(4), MemoryConfig(window=3))).double().eval()
    clip = torch.rand(1, 3, 3, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = network(clip)
        assert fold_batch_norm(network) == 36
        assert len(batch_norms(network.memory)) == 3  # before ReLU and after a sum: no convolution in front of them
        torch.testing.assert_close(network(clip), expected)


def test_folding_in_float32_costs_no_more_than_its_rounding(randomize_batch_norms):
    torch.manual_seed(0)
    network = randomize_batch_norms(ERFNet(4)).eval()
    image = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        expected = network(image)
        fold_batch_norm(network)
        # 6e-8 per operation through some 60 layers
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_training_mode_is_refused_and_nothing_is_folded():
    network = ERFNet(4).train()
    with pytest.raises(ValueError, match="eval mode only"):
        fold_batch_norm(network)
    assert len(batch_norms(network)) == 36 + 3


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(lambda: (nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4)), id="grouped transposed convolution"),
        pytest.param(lambda: (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), id="statistics of the batch"),
        pytest.param(lambda: (nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), id="BatchNorm first"),
        pytest.param(lambda: (nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), id="something in between"),
    ],
)
def test_what_cannot_be_folded_is_left_alone(pair):
    network = nn.Sequential(*pair()).double().eval()
    before = copy.deepcopy(network)
    assert fold_batch_norm(network) == 0
    assert torch.equal(network(random_maps(4)), before(random_maps(4)))


def test_grouped_convolution_without_bias_and_affine_part_is_folded():
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    network = nn.Sequential(conv, nn.BatchNorm2d(6, affine=False)).double().eval()
    network[1].running_mean.uniform_(-1, 1)
    network[1].running_var.uniform_(0.5, 2)
    expected = network(random_maps(4))
    assert fold_batch_norm(network) == 1
    torch.testing.assert_close(network(random_maps(4)), expected)
