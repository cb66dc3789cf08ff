"""The module that turns a single-frame network into a video network: keys, values, memory read and fusion (paper, III).

It holds weights and nothing else. The frames it remembers belong to whoever calls it (`stream.memory`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.errors import ConfigError
from lmanet_core.network.fusion import FUSIONS
from lmanet_core.ops import Border, SoftmaxScope, local_attention

#: Key channels that hold the position.
POSITION_CHANNELS = 4
_MAX_POSITION_BIAS = 100.0
LARGEST_POOL = 8
# Of each channel of whitened keys beside the position: the read is then nearest to the truth on streets with lost blocks.
_VARIANCE_WITH_POSITION_BIAS = 0.25


class KeyValue(NamedTuple):
    """What one frame leaves in the memory: key (B, Dk, h, w), value (B, Dv, h, w)."""

    key: torch.Tensor
    value: torch.Tensor


class MemoryFrames(NamedTuple):
    """What is read from: keys (B, T, Dk, h, w), values (B, T, Dv, h, w). The order of frames does not matter."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class MemoryConfig:
    """How a network remembers and reads. Defaults are those of the published ERFNet weights.

    Attributes:
        key_channels: Dk, those that hold the position (`position_bias`) among them.
        value_channels: Dv; 0 means that the encoder's features are the value, with no convolution of their own (PSPNet).
        fusion: a name of `FUSIONS`.
        window: side R of the window in feature positions, odd; None reads everywhere.
        memory_frames: S, past frames kept; may differ between training and use.
        softmax: "joint" over all frames or "per_frame".
        border: "zero" or "masked" (see `local_attention`).
        position_bias: strength of a bias on the logit by relative position: this times cos Δx + cos Δy, Δ the way to the other
            position, half a turn just outside the window. 0 as published: a position reads what looks like it, near or far in
            its window. Above 0, what cannot be recognised (lost, occluded) reads what was there before. Takes 4 key channels.
            Not in the paper.
        motion_compensation: the bias counts from where the motion of the picture has taken a remembered position
            (`lmanet_core.stream.motion`), instead of from where it was. Needs a position bias. Not in the paper.
        frame_interval_s: between the frames of the clips that it was trained on, seconds; None where nobody knows.
        pool: features are averaged over squares of this side before they are remembered and read, and what the read changes is
            spread out again and added to them. For fine feature maps: at stride 4 a read costs a sixteenth with 2, for the same
            window in pixels. 1 as published. Not in the paper.

    Raises:
        ConfigError: a value outside its range.
    """

    key_channels: int = 16
    value_channels: int = 64
    fusion: str = "gated"
    window: int | None = 21
    memory_frames: int = 4
    softmax: SoftmaxScope = "joint"
    border: Border = "zero"
    position_bias: float = 0.0
    motion_compensation: bool = False
    frame_interval_s: float | None = None
    pool: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= LARGEST_POOL:
            raise ConfigError(f"pool must be 1 to {LARGEST_POOL} positions, got {self.pool}")
        if self.frame_interval_s is not None and not 0.0 < self.frame_interval_s < math.inf:
            raise ConfigError(f"frame_interval_s must be above 0 s, or null where it is not known; got {self.frame_interval_s}")
        if self.key_channels < 1 or self.value_channels < 0:
            raise ConfigError(f"wanted key channels ≥ 1 and value channels ≥ 0, got {self.key_channels}, {self.value_channels}")
        if not 0.0 <= self.position_bias <= _MAX_POSITION_BIAS:
            raise ConfigError(f"position_bias must be 0 to {_MAX_POSITION_BIAS:g}, got {self.position_bias}")
        if self.position_bias and self.key_channels <= POSITION_CHANNELS:
            raise ConfigError(
                f"position_bias takes {POSITION_CHANNELS} key channels; wanted more in all, got {self.key_channels}"
            )
        if self.motion_compensation and not self.position_bias:
            raise ConfigError("motion_compensation moves what position_bias counts from; wanted position_bias above 0, got 0")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"fusion must be one of {', '.join(FUSIONS)}; got {self.fusion!r}")
        if self.window is not None and (self.window < 1 or self.window % 2 == 0):
            raise ConfigError(f"window must be odd and positive, or null for global attention; got {self.window}")
        if self.memory_frames < 1:
            raise ConfigError(f"memory_frames must be at least 1, got {self.memory_frames}; to switch memory off, say so")
        if self.softmax not in ("joint", "per_frame"):
            raise ConfigError(f"softmax must be joint or per_frame, got {self.softmax!r}")
        if self.border not in ("zero", "masked"):
            raise ConfigError(f"border must be zero or masked, got {self.border!r}")

    def require_weights_of(self, trained: MemoryConfig) -> None:
        """Raises ConfigError where weights trained with another configuration do not fit this one."""
        for name in ("fusion", "key_channels", "value_channels", "pool"):
            if getattr(self, name) != getattr(trained, name):
                raise ConfigError(f"{name} is {getattr(trained, name)} in these weights and cannot be {getattr(self, name)}")
        if self.content_channels != trained.content_channels:
            raise ConfigError(
                f"position_bias is {trained.position_bias:g} in these weights and cannot be {self.position_bias:g}: it may "
                "change, but not come or go, for the position takes key channels"
            )

    @property
    def content_channels(self) -> int:
        """Key channels that are computed from the features."""
        return self.key_channels - (POSITION_CHANNELS if self.position_bias else 0)


class MemoryModule(nn.Module):
    """Heads that make keys and values, the read through the window, and the fusion.

    Args:
        feature_channels: channels of the encoder's features.
        config: see `MemoryConfig`.

    Raises:
        ConfigError: a value width that the fusion does not take.
    """

    def __init__(self, feature_channels: int, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        self.memory_head = _KeyValueHead(feature_channels, config)
        self.query_head = _KeyValueHead(feature_channels, config)
        # Training starts from equal keys, so that a frame matches itself; the two then go their own ways.
        self.query_head.key.load_state_dict(self.memory_head.key.state_dict())
        self.fusion = FUSIONS[config.fusion](config.value_channels or feature_channels, feature_channels)

    def remember(self, features: torch.Tensor) -> KeyValue:
        """What to keep of a frame with these features (B, C, h, w), not fused with anything."""
        return self._append_position(self.memory_head(self._pooled(features)))

    def project_query(self, features: torch.Tensor) -> KeyValue:
        """The query of a frame with these features (B, C, h, w): its key to compare with, and its own value."""
        return self._append_position(self.query_head(self._pooled(features)))

    def _pooled(self, features: torch.Tensor) -> torch.Tensor:
        """Channels-last where it is averaged, as read and convolutions want it, in whatever layout somebody else's model is."""
        pool = self.config.pool
        if pool == 1:
            return features
        averaged = F.avg_pool2d(features, pool, ceil_mode=True, count_include_pad=False)
        return averaged.contiguous(memory_format=torch.channels_last)

    def fuse(self, features: torch.Tensor, query_value: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """What the decoder gets: features (B, C, h, w), and query's value and what was read, where these are pooled."""
        fused: torch.Tensor = self.fusion(query_value, read)
        if self.config.pool == 1:
            return fused
        pooled = self._pooled(features) if self.config.value_channels else query_value
        change, (height, width) = fused - pooled, features.shape[-2:]
        if features.is_contiguous():  # else the sum of two layouts takes longer than all of this
            change = change.contiguous()
        spread = F.interpolate(change, scale_factor=float(self.config.pool), mode="bilinear", align_corners=False)
        return spread.add_(features) if spread.shape == features.shape else features + spread[..., :height, :width]

    def _append_position(self, head: KeyValue) -> KeyValue:
        """Add to keys where they are, so that the product of two says how near each other they are, too.

        A position is two points on circles: cos a·cos b + sin a·sin b = cos(a − b), largest at the same position and least at
        the edge of the window, in numbers between −1 and 1, which half precision holds.
        """
        config = self.config
        if not config.position_bias:
            return head
        batch, _, height, width = head.key.shape
        position = self._encode_position(*_grid(height, width, head.key.device)).to(head.key.dtype)
        return KeyValue(torch.cat((head.key, position.expand(batch, -1, -1, -1)), 1), head.value)

    def compensate_motion(self, memory: MemoryFrames, positions: torch.Tensor | None) -> MemoryFrames:
        """What is remembered, its keys saying where its positions are now instead of where they were.

        What moved out of its window counts as just within: farther on, half a turn on the circles is passed, and what left to
        one side would seem to have come from the other.

        Args:
            memory: as `remember` made it.
            positions: (B, T, 2, h, w), row and column of each remembered position in the present frame, in positions; None: all
                are where they were.
        """
        if positions is None or not self.config.motion_compensation:
            return memory
        content = memory.keys[:, :, : self.config.content_channels]
        height, width = positions.shape[-2:]
        reach = self._window_side(height, width) // 2
        now = (
            there.clamp(home - reach, home + reach)
            for there, home in zip(positions.float().unbind(2), _grid(height, width, positions.device), strict=True)
        )
        position = self._encode_position(*now).to(content.dtype)
        keys = torch.cat((content.movedim(2, -1), position.movedim(2, -1)), -1).movedim(
            -1, 2
        )  # in the layout of `MemoryBuffer`
        return MemoryFrames(keys, memory.values)

    def _encode_position(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Rows and columns that broadcast to (…, h, w) → the position channels (…, 4, h, w): cos y, sin y, cos x, sin x.

        From the middle of the window to just outside of it is half a turn.
        """
        turn = 2.0 * math.pi / (self._window_side(y.shape[-2], x.shape[-1]) + 1)
        waves = [wave(at * turn) for at in (y, x) for wave in (torch.cos, torch.sin)]
        return math.sqrt(self.config.position_bias) * torch.stack(torch.broadcast_tensors(*waves), -3)  # type: ignore[no-untyped-call]

    def _window_side(self, height: int, width: int) -> int:
        """R, or of the smallest window that is global in maps of this size."""
        return 2 * max(height, width) - 1 if self.config.window is None else self.config.window

    @torch.no_grad()
    def whiten_keys(self, features: torch.Tensor) -> None:
        """Let keys be the features' principal components, each of the same variance, for training to start from.

        A position then reads what looks like it from the first step on; with random keys it reads the window's average, which
        is worth nothing, and much training goes by until that changes.

        Args:
            features: (N, C, h, w) of ordinary frames.

        Raises:
            ValueError: fewer feature channels than key channels.
        """
        channels, kept = features.shape[1], self.config.content_channels
        if channels < kept:
            raise ValueError(f"{channels} feature channels cannot give {kept} uncorrelated key channels")
        samples = self._pooled(features).double().movedim(1, -1).reshape(-1, channels)
        mean = samples.mean(0)
        variances, axes = torch.linalg.eigh((samples - mean).T @ (samples - mean) / len(samples))
        strongest = axes[:, -kept:] / variances[-kept:].clamp(min=1e-6 * float(variances[-1])).sqrt()  # (C, Dk)
        if self.config.position_bias:
            strongest *= math.sqrt(_VARIANCE_WITH_POSITION_BIAS)
        for head in (self.memory_head, self.query_head):
            head.key.weight.zero_()
            head.key.weight[:, :, 1, 1] = strongest.T
            head.key.bias.copy_(-mean @ strongest)  # type: ignore[union-attr]  # it has one

    def read(
        self, features: torch.Tensor, memory: MemoryFrames, impl: str = "auto", positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features (B, C, h, w) joined with what the memory holds for them → the same for the decoder.

        Positions are those of `compensate_motion`.
        """
        query = self.project_query(features)
        config = self.config
        memory = self.compensate_motion(memory, positions)
        read = local_attention(
            query.key, memory.keys, memory.values, config.window, softmax=config.softmax, border=config.border, impl=impl
        )
        return self.fuse(features, query.value, read)


def _grid(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (h, 1) and columns (w,) of a map, float32."""
    rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in (height, width))
    return rows[:, None], columns


class _KeyValueHead(nn.Module):
    def __init__(self, feature_channels: int, config: MemoryConfig) -> None:
        super().__init__()
        self.key = nn.Conv2d(feature_channels, config.content_channels, 3, padding=1)
        self.value: nn.Module = nn.Identity()
        if config.value_channels:
            self.value = nn.Conv2d(feature_channels, config.value_channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> KeyValue:
        return KeyValue(self.key(features), self.value(features))
