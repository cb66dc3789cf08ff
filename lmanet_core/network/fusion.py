"""Fusion of what is seen with what was read from the memory (paper, III-D and equation 6).

Every fusion takes the query's value and the memory's, both (B, Dv, H, W), and gives features for the decoder. BatchNorm uses
eps 1e-3 here, as in the published networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lmanet_core.errors import ConfigError

_EPS = 1e-3
_DROPOUT = 0.3


class GatedFusion(nn.Module):
    """σ(A_Q)·E_Q + σ(A_M)·E_M: the paper's fusion, as trained for ERFNet.

    E embeds each input by itself, A looks at both and opens or closes it.
    """

    def __init__(self, value_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.normalize_query = _Normalize(value_channels)
        self.normalize_memory = _Normalize(value_channels)
        self.embed_query = nn.Conv2d(value_channels, feature_channels, 3, padding=1)
        self.embed_memory = nn.Conv2d(value_channels, feature_channels, 3, padding=1)
        self.attend_query = nn.Conv2d(2 * value_channels, feature_channels, 3, padding=1)
        self.attend_memory = nn.Conv2d(2 * value_channels, feature_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(feature_channels, eps=_EPS)

    def forward(self, query_value: torch.Tensor, memory_value: torch.Tensor) -> torch.Tensor:
        """(B, Dv, H, W) twice → (B, feature_channels, H, W)."""
        query_value, memory_value = self.normalize_query(query_value), self.normalize_memory(memory_value)
        both = torch.cat((query_value, memory_value), 1)
        fused = _gate(self.attend_query(both), self.embed_query(query_value))
        fused += _gate(self.attend_memory(both), self.embed_memory(memory_value))
        return F.relu_(self.bn(fused))


class ReducedGatedFusion(nn.Module):
    """Gates computed from a narrow joint map: the fusion trained for PSPNet, where 2048 channels forbid wide convolutions."""

    def __init__(self, value_channels: int, feature_channels: int) -> None:
        super().__init__()
        if value_channels != feature_channels:
            raise ConfigError(
                f"reduced-gated fusion keeps the width: wanted {feature_channels} value channels, got {value_channels}"
            )
        reduced = value_channels // 8
        self.reduce = nn.Conv2d(value_channels, reduced, 1)  # one for both inputs, as trained
        self.bn_reduced = nn.BatchNorm2d(reduced, eps=_EPS)
        self.attend_query = nn.Conv2d(reduced, value_channels, 1)
        self.attend_memory = nn.Conv2d(reduced, value_channels, 1)
        self.bn = nn.BatchNorm2d(value_channels, eps=_EPS)

    def forward(self, query_value: torch.Tensor, memory_value: torch.Tensor) -> torch.Tensor:
        """(B, Dv, H, W) twice → (B, Dv, H, W)."""
        joint = F.relu_(self.bn_reduced(self.reduce(query_value) + self.reduce(memory_value)))
        fused = query_value * torch.sigmoid(self.attend_query(joint))
        fused = fused + memory_value * torch.sigmoid(self.attend_memory(joint))
        return F.relu_(self.bn(fused))


class ConcatFusion(nn.Module):
    """Both inputs side by side: the paper's baseline fusion (Table III). The decoder sees twice Dv channels."""

    def __init__(self, value_channels: int, feature_channels: int) -> None:
        super().__init__()
        if 2 * value_channels != feature_channels:
            raise ConfigError(f"concat fusion wants {feature_channels // 2} value channels, got {value_channels}")
        self.normalize_query = _Normalize(value_channels, dropout=0.0)
        self.normalize_memory = _Normalize(value_channels, dropout=0.0)

    def forward(self, query_value: torch.Tensor, memory_value: torch.Tensor) -> torch.Tensor:
        """(B, Dv, H, W) twice → (B, 2·Dv, H, W)."""
        return torch.cat((self.normalize_query(query_value), self.normalize_memory(memory_value)), 1)


class ResidualFusion(nn.Module):
    """V_Q + g·(V_M - V_Q) + f, with g = f = 0 at the start of training: the decoder then sees what it was trained on.

    g and f look at both inputs. g blends what was read in, position by position and channel by channel, which is all that
    averaging over time takes; f corrects freely. Not in the paper. The value is the encoder's features (value_channels 0 in
    `MemoryConfig`); there is neither BatchNorm nor dropout.
    """

    def __init__(self, value_channels: int, feature_channels: int) -> None:
        super().__init__()
        if value_channels != feature_channels:
            raise ConfigError(
                f"residual fusion adds to the features: wanted {feature_channels} value channels (value_channels: 0), "
                f"got {value_channels}"
            )
        hidden = max(1, min(feature_channels // 2, 256))  # PSPNet's 2048 channels forbid wide convolutions
        self.compare = nn.Conv2d(2 * feature_channels, hidden, 3, padding=1)
        self.blend = nn.Conv2d(hidden, feature_channels, 1)
        self.correct = nn.Conv2d(hidden, feature_channels, 3, padding=1)
        for last in (self.blend, self.correct):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, query_value: torch.Tensor, memory_value: torch.Tensor) -> torch.Tensor:
        """(B, Dv, H, W) twice → (B, Dv, H, W)."""
        compared = F.relu_(self.compare(torch.cat((query_value, memory_value), 1)))
        fused: torch.Tensor = query_value + self.blend(compared) * (memory_value - query_value) + self.correct(compared)
        return fused


def _gate(attention: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """σ(attention) · embedding; in place where no gradient will ask for what was there."""
    if torch.is_grad_enabled():
        return torch.sigmoid(attention) * embedding
    return attention.sigmoid_().mul_(embedding)


class _Normalize(nn.Module):
    def __init__(self, channels: int, dropout: float = _DROPOUT) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.dropout(self.bn(x)))


#: Fusions by the names that configurations and checkpoints use.
FUSIONS: dict[str, type[GatedFusion | ReducedGatedFusion | ConcatFusion | ResidualFusion]] = {
    "gated": GatedFusion,
    "reduced-gated": ReducedGatedFusion,
    "concat": ConcatFusion,
    "residual": ResidualFusion,
}
