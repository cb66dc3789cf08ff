"""ResNet-101 encoder as PSPNet uses it: deep stem, stages 3 and 4 dilated instead of strided, so features are at 1/8.

He et al., "Deep Residual Learning for Image Recognition", 2016; stem and dilation as in the published PSPNet-101 weights,
whose module names are kept.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn


class DilatedResNet101(nn.Module):
    """Image (B, 3, H, W) → features (B, 2048, (H−1)/8+1, (W−1)/8+1)."""

    out_channels = 2048

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            *_conv_bn_relu(3, 64, stride=2),
            *_conv_bn_relu(64, 64),
            *_conv_bn_relu(64, 128),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.layer1 = _stage(128, 64, blocks=3)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=23, dilation=2)
        self.layer4 = _stage(1024, 512, blocks=3, dilation=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))
        return out


class _Bottleneck(nn.Module):
    expansion = 4
    folds: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, channels_in: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu_(self.bn1(self.conv1(x)))
        out = F.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu_(out + (x if self.downsample is None else self.downsample(x)))


def _conv_bn_relu(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)


def _stage(channels_in: int, channels: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = _Bottleneck(channels_in, channels, stride, dilation)
    rest = (_Bottleneck(channels * _Bottleneck.expansion, channels, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
