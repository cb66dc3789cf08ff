"""ERFNet (Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-time Semantic Segmentation", 2018).

2.1 million parameters; features 128 channels at 1/8 of the input. Module names follow the published weight files.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.network.backbone import Backbone

_EPS = 1e-3  # of every BatchNorm, as published


class ERFNet(Backbone):
    """ERFNet as a backbone: input RGB in 0–1, sides divisible by 8.

    Args:
        num_classes: channels of the logits; published Cityscapes weights have 20 (the last is void and untrained).
    """

    feature_channels = 128
    stride = 8
    # Everything later builds on these three. In bfloat16 throughout, 2 % of the pixels of a highway video change their label;
    # with the downsamplers in float32, 0.4 % do, at about a tenth of the time. In float16 they make less than 0.05 % of the
    # pixels (benchmarks/downsampler_precision.py).
    sensitive = ("encoder.initial_block", "encoder.layers.0", "encoder.layers.6")
    sensitive_to = (torch.bfloat16,)

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = _Encoder()
        self.decoder = _Decoder(num_classes)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, 3, H, W) → features (B, 128, H/8, W/8)."""
        features: torch.Tensor = self.encoder(image)
        return features

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, 128, h, w) → logits (B, num_classes, 8h, 8w)."""
        logits: torch.Tensor = self.decoder(features)
        return logits


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.initial_block = _Downsampler(3, 16)
        self.layers = nn.Sequential(
            _Downsampler(16, 64),
            *(_NonBottleneck1D(64, dropout=0.03, dilation=1) for _ in range(5)),
            _Downsampler(64, 128),
            *(_NonBottleneck1D(128, dropout=0.3, dilation=dilation) for _ in range(2) for dilation in (2, 4, 8, 16)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(self.initial_block(x))
        return out


class _Decoder(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Upsampler(128, 64),
            *(_NonBottleneck1D(64, dropout=0.0, dilation=1) for _ in range(2)),
            _Upsampler(64, 16),
            *(_NonBottleneck1D(16, dropout=0.0, dilation=1) for _ in range(2)),
        )
        self.output_conv = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.output_conv(self.layers(x))
        return out


class _Downsampler(nn.Module):
    """Halve the map: strided convolution beside max pooling (its BatchNorm spans both, so it cannot be folded)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out - channels_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halved = torch.cat((self.conv(x), _max_pool(x)), 1)
        return F.relu_(self.bn(halved))


def _max_pool(x: torch.Tensor) -> torch.Tensor:
    """2×2 max pooling of even sides. On a CPU PyTorch's own takes ten times as long for three channels that come last."""
    if x.requires_grad or not x.is_cpu:
        return F.max_pool2d(x, 2)
    rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class _Upsampler(nn.Module):
    folds: ClassVar = (("conv", "bn"),)

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.bn(self.conv(x)))


class _NonBottleneck1D(nn.Module):
    """Residual block of two 3×3 convolutions, each factorised into 3×1 and 1×3; the second pair is dilated."""

    folds: ClassVar = (("conv1x3_1", "bn1"), ("conv1x3_2", "bn2"))

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = nn.BatchNorm2d(channels, eps=_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu_(self.conv3x1_1(x))
        out = F.relu_(self.bn1(self.conv1x3_1(out)))
        out = F.relu_(self.conv3x1_2(out))
        out = self.dropout(self.bn2(self.conv1x3_2(out)))
        return F.relu_(out + x)
