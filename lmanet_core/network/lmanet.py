"""LMANet: a backbone with a local attention memory between its encoder and its decoder."""

from __future__ import annotations

import torch
from torch import nn

from lmanet_core.network.backbone import Backbone
from lmanet_core.network.memory_read import KeyValue, MemoryConfig, MemoryFrames, MemoryModule


class LMANet(nn.Module):
    """A video segmentation network, or a single-frame one where `memory` is None.

    A stream is segmented by `encode`, `decode` with what is remembered so far, then `remember`. The module keeps nothing
    between calls.

    Args:
        backbone: any `Backbone`.
        memory: how to remember; None leaves the backbone alone.
    """

    def __init__(self, backbone: Backbone, memory: MemoryConfig | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.memory: MemoryModule | None = None
        if memory is not None:
            self.memory = MemoryModule(backbone.feature_channels, memory)

    @property
    def memory_stride(self) -> int:
        """Input pixels per position of what is remembered; of the features where there is no memory."""
        return self.backbone.stride * (1 if self.memory is None else self.memory.config.pool)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised image (B, 3, H, W) → features (B, C, h, w)."""
        return self.backbone.encode(image)

    def decode(
        self,
        features: torch.Tensor,
        memory: MemoryFrames | None = None,
        impl: str = "auto",
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features → logits (B, classes, H, W); without memory frames exactly the backbone's own.

        Args:
            features: (B, C, h, w) of the current frame.
            memory: past frames, None while there are none.
            impl: implementation of `local_attention`.
            positions: (B, T, 2, h, w), where the remembered positions are in this frame, for a motion-compensated memory;
                None: where they were.
        """
        if memory is not None:
            features = self._memory_module().read(features, memory, impl, positions)
        return self.backbone.decode(features)

    def remember(self, features: torch.Tensor) -> KeyValue:
        """What to keep of the current frame; call it after `decode`, with the same features."""
        return self._memory_module().remember(features)

    def forward(self, clip: torch.Tensor, memory_frames: int | None = None, last_only: bool = False) -> torch.Tensor:
        """Segment a whole clip, the memory empty at its start; equal to streaming it, but for a motion-compensated memory.

        Args:
            clip: (B, T, 3, H, W), normalised.
            memory_frames: S; the configuration's when None.
            last_only: decode the last frame only (training: the loss is on it alone).

        Returns:
            Logits (B, T, classes, H, W), or (B, 1, classes, H, W) of the last frame.

        Raises:
            ValueError: memory_frames below 1.
        """
        frames = clip.shape[1]
        if self.memory is None:
            start = frames - 1 if last_only else 0
            return torch.stack([self.decode(self.encode(clip[:, t])) for t in range(start, frames)], 1)
        keep = self.memory.config.memory_frames if memory_frames is None else memory_frames
        if keep < 1:
            raise ValueError(f"memory_frames must be at least 1, got {keep}")
        past: list[KeyValue] = []
        logits = []
        for t in range(frames):
            features = self.encode(clip[:, t])
            if not last_only or t == frames - 1:
                logits.append(self.decode(features, stack_memory(past)))
            if t < frames - 1:
                past = [*past, self.remember(features)][-keep:]
        return torch.stack(logits, 1)

    def _memory_module(self) -> MemoryModule:
        if self.memory is None:
            raise ValueError("this network was built without a memory: decode without memory frames, or build it with one")
        return self.memory


def stack_memory(past: list[KeyValue]) -> MemoryFrames | None:
    """Frames of a clip as the read wants them; None while there are none. Streams use `MemoryBuffer`, which copies nothing."""
    if not past:
        return None
    return MemoryFrames(torch.stack([kept.key for kept in past], 1), torch.stack([kept.value for kept in past], 1))
