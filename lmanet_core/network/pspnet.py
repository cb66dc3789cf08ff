"""PSPNet-101 (Zhao et al., "Pyramid Scene Parsing Network", 2017) as a backbone.

The memory goes in between the encoder and the pyramid pooling. Module names follow the published weight files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.network.backbone import Backbone
from lmanet_core.network.resnet import DilatedResNet101

_BINS = (1, 2, 3, 6)


class PSPNet101(Backbone):
    """PSPNet-101: input normalised with ImageNet's mean and std, sides 8n + 1.

    Args:
        num_classes: classes of the classifier (19 for Cityscapes). The logits have one channel more, a constant 0 for
            "void", as the published video network appends before upsampling.
    """

    feature_channels = DilatedResNet101.out_channels
    stride = 8
    size_remainder = 1
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = DilatedResNet101()
        self.ppm = _PyramidPooling(self.feature_channels, self.feature_channels // len(_BINS))
        self.decoder = _Classifier(2 * self.feature_channels, num_classes)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, 3, 8h−7, 8w−7) → features (B, 2048, h, w)."""
        features: torch.Tensor = self.encoder(image)
        return features

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, 2048, h, w) → logits (B, num_classes + 1, 8h−7, 8w−7); the last channel is void."""
        scores = self.decoder(self.ppm(features))
        with_void = F.pad(scores, (0, 0, 0, 0, 0, 1))  # one more channel, zero
        size = tuple(self.stride * (side - 1) + 1 for side in features.shape[-2:])
        if with_void.is_cuda:  # one plane a class: few channels in channels-last take PyTorch three times as long there
            with_void = with_void.contiguous()
        return F.interpolate(with_void, size=size, mode="bilinear", align_corners=True)


class _PyramidPooling(nn.Module):
    """Averages over 1, 4, 9 and 36 regions, each reduced, spread out again and put beside the features."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                AveragePool(bins),
                nn.Conv2d(channels_in, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for bins in _BINS
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        spread = [F.interpolate(f(x), size=size, mode="bilinear", align_corners=True) for f in self.features]
        return torch.cat([x, *spread], 1)


class AveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` to a square of bins, as two products with small matrices.

    PyTorch's own kernel for channels-last maps on CUDA gives each of the few outputs to one block: 43 of the 44 ms of a decoder
    at 1025×2049 on an H200, where the products take 0.3.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self._shares: dict[tuple[int, torch.device, torch.dtype], torch.Tensor] = {}  # by side; no weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, bins, bins); by PyTorch on a CPU and where gradients are wanted."""
        if not x.is_cuda or torch.is_grad_enabled():
            return F.adaptive_avg_pool2d(x, self.bins)
        return self.as_products(x)

    def as_products(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, bins, bins)."""
        batch, channels, height, width = x.shape
        rows, columns = self._share(height, x), self._share(width, x)  # (bins, h), (bins, w)
        over_rows = rows @ x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)  # (B, bins, w * C)
        pooled = columns @ over_rows.view(batch, self.bins, width, channels)  # (B, bins, bins, C)
        return pooled.permute(0, 3, 1, 2)

    def _share(self, side: int, x: torch.Tensor) -> torch.Tensor:
        """What each position of an axis counts in each bin, (bins, side); bins may overlap by one position."""
        key = (side, x.device, x.dtype)
        if key not in self._shares:
            share = torch.zeros(self.bins, side)
            for index in range(self.bins):
                first, end = index * side // self.bins, -(-(index + 1) * side // self.bins)
                share[index, first:end] = 1.0 / (end - first)
            self._shares[key] = share.to(x.device, x.dtype)
        return self._shares[key]


class _Classifier(nn.Module):
    def __init__(self, channels_in: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Sequential(
            nn.Conv2d(channels_in, 512, 3, padding=1, bias=False),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(512, num_classes, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.cls(x)
        return scores
