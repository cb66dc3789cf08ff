"""What a single-frame network must offer to become a video network.

Any encoder–decoder joins by subclassing `Backbone` in a few lines, without touching this package:

    class Wrapped(Backbone):
        feature_channels = 256
        stride = 8

        def __init__(self, model):
            super().__init__()
            self.model = model

        def encode(self, image):          # (B, 3, H, W) → (B, 256, H/8, W/8)
            return self.model.encoder(image)

        def decode(self, features):       # (B, 256, H/8, W/8) → (B, classes, H, W)
            return self.model.decoder(features)

    network = LMANet(Wrapped(model), MemoryConfig(key_channels=32, value_channels=128))
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Backbone(nn.Module, ABC):
    """A single-frame encoder–decoder, cut where the memory goes in.

    Attributes:
        feature_channels: channels that `encode` gives and `decode` takes.
        stride: input pixels per feature position along each side.
        size_remainder: input sides are `size_multiple · n + size_remainder`.
        size_multiple: 0: the stride.
        fixed_size: (height, width) of the input where the network takes no other; None: it does.
        mean, std: normalisation of RGB in 0–1 that the weights expect, per channel.
        sensitive: names of submodules that stay in float32 when the rest runs in one of `sensitive_to`.
        sensitive_to: dtypes.
        foreign: nothing is known of what it does inside. It then runs as it is: no folding, no channels-last, no CUDA graph, in
            float32 unless somebody asks for less.
    """

    feature_channels: int
    stride: int = 8
    size_remainder: int = 0
    size_multiple: int = 0
    fixed_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sensitive: tuple[str, ...] = ()
    sensitive_to: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    foreign: bool = False

    def normalization(self, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and offset (3, 1, 1), float32, that take RGB of 0–255 to what the weights expect."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (1.0 / (255.0 * std)).to(device), (-mean / std).to(device)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """RGB (…, 3, H, W) of 0–255, uint8 or float → float32 as the weights expect it.

        For training, in the order of operations that weights were trained with; streams use `normalization`, which is faster
        and differs in the last bit.
        """
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (images.float() / 255.0 - mean) / std

    @abstractmethod
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised image (B, 3, H, W) → features (B, feature_channels, h, w)."""

    @abstractmethod
    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, feature_channels, h, w) → logits (B, classes, H, W)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment single frames: (B, 3, H, W) → logits (B, classes, H, W)."""
        return self.decode(self.encode(image))


def image_batch(image: torch.Tensor) -> torch.Tensor:
    """One image (H, W, 3) → a view (1, 3, H, W) that PyTorch takes for channels-last.

    The batch comes first: added after the channels have moved to the front, its stride of 3 makes PyTorch see the layout as
    NCHW, and the first layers then copy their maps from one layout to the other.
    """
    return image.unsqueeze(0).permute(0, 3, 1, 2)
