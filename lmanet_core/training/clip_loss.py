"""The loss of a batch of clips, and what a network gets right of them.

`ClipLoss` knows nothing of the run around it: what is random in a batch is drawn from the batch's number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lmanet_core.data.clips import ClipItem
from lmanet_core.labels import UNLABELLED
from lmanet_core.network import LMANet, MemoryFrames
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.losses import consistency_sums, cross_entropy_sums, distillation_sums
from lmanet_core.training.processes import count_processes, sum_over_processes


class ClipLoss(nn.Module):
    """A network and the loss that it is trained with.

    Args:
        network: to train.
        frozen: parts of it that stay as they are: no gradients, BatchNorm in eval mode, no dropout.
        config: see `TrainConfig`.
        class_weights: (classes,) of the loss.
        teacher: single-frame network to distil from; it stays as it is too.
        thawed: parts of what is frozen that are trained all the same.
    """

    class_weights: torch.Tensor

    def __init__(
        self,
        network: LMANet,
        frozen: list[nn.Module],
        config: TrainConfig,
        class_weights: torch.Tensor,
        teacher: LMANet | None = None,
        thawed: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.network = network
        if not network.backbone.foreign:
            self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config
        self.teacher = teacher
        self._frozen, self._thawed = frozen if teacher is None else [*frozen, teacher], tuple(thawed)
        self.register_buffer("class_weights", class_weights, persistent=False)
        for module in self._frozen:
            module.requires_grad_(False)
        for module in self._thawed:
            module.requires_grad_(True)
        trained = (parameter for parameter in self.network.parameters() if parameter.requires_grad)
        self._start = [parameter.detach().clone() for parameter in trained] if config.anchor else []
        self.train()

    def train(self, mode: bool = True) -> ClipLoss:
        """Training mode, except for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        for module in self._thawed:
            module.train(mode)
        return self

    def forward(self, batch: ClipItem, number: int) -> torch.Tensor:
        """The loss of this process's share of batch `number`; its mean over processes is the loss of the whole batch."""
        config = self.config
        memory_frames = self.draw_memory_frames(batch["clip"].shape[1] - 1, number)
        consistent = bool(config.consistency) and memory_frames > 0
        logits, *before = self.predict(batch, memory_frames, consistent)
        loss = _mean(*cross_entropy_sums(logits, batch["labels"].long(), self.class_weights, config.ohem, batch.get("soft")))
        named = logits[:, : len(self.class_weights)]
        if consistent:
            past = before[0][:, : len(self.class_weights)]
            loss = loss + config.consistency * _mean(*consistency_sums(named, past, batch["flow"]))
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher.decode(self.teacher.encode(self.teacher.backbone.normalize(batch["clip"][:, -1])))
            loss = loss + config.distillation * _mean(*distillation_sums(named, taught[:, : len(self.class_weights)]))
        if config.anchor:
            loss = loss + config.anchor * self._distance()
        if memory_frames == 0 and self.network.memory is not None:
            # Every parameter takes part in every step, as processes that average gradients expect.
            loss = loss + 0.0 * torch.stack([parameter.sum() for parameter in self.network.memory.parameters()]).sum()
        return loss

    @torch.no_grad()
    def count(self, batch: ClipItem) -> torch.Tensor:
        """(classes, classes + 1) pixels by truth and prediction, of the last frames read with a full memory."""
        labels = batch["labels"].long()
        logits = self.predict(batch, batch["clip"].shape[1] - 1)[0]
        classes = len(self.class_weights)
        known = labels != UNLABELLED
        pairs = labels[known] * (classes + 1) + logits[:, :classes].argmax(1)[known]
        return torch.bincount(pairs, minlength=classes * (classes + 1)).view(classes, classes + 1)

    def predict(self, batch: ClipItem, memory_frames: int, with_before: bool = False) -> list[torch.Tensor]:
        """Logits of the last frame, (B, C, H, W); with those of the frame before it, if asked for.

        Args:
            batch: its clip (B, T, 3, H, W) uint8 or 0–255, and positions for a motion-compensated memory.
            memory_frames: how many of the past frames are remembered; 0 decodes the last frame by itself.
            with_before: needs memory_frames of 1 or more.
        """
        clip = batch["clip"]
        used = clip[:, clip.shape[1] - 1 - memory_frames :]
        pixels = self.network.backbone.normalize(used).to(_autocast_dtype(used.device.type))
        if self.config.stage == "all" and memory_frames:
            # Past frames are taken as the encoder makes them: gradients through them would take several times as long.
            features = torch.cat((self._encode(pixels[:, :-1], False), self._encode(pixels[:, -1:], True)), 1)
        else:
            features = self._encode(pixels, self.config.stage in ("backbone", "all"))
        if memory_frames == 0:
            return [self.network.decode(features[:, -1])]
        kept = self.network.remember(features[:, :-1].flatten(0, 1))
        memory = MemoryFrames(*(maps.reshape(len(pixels), memory_frames, *maps.shape[1:]) for maps in kept))
        positions, positions_before = batch.get("positions"), batch.get("positions_before")
        positions = None if positions is None else positions[:, -memory_frames:]
        logits = [self.network.decode(features[:, -1], memory, positions=positions)]
        if with_before:
            with torch.no_grad():
                older = MemoryFrames(*(maps[:, :-1] for maps in memory)) if memory_frames > 1 else None
                moved = None if older is None or positions_before is None else positions_before[:, 1 - memory_frames :]
                logits.append(self.network.decode(features[:, -2], older, positions=moved))
        return logits

    def draw_memory_frames(self, full: int, number: int) -> int:
        """As a stream just after a reset has them, in some of the batches; the same in every process."""
        config = self.config
        rng = np.random.default_rng((config.seed, number, 1))
        if full == 0 or rng.random() >= config.cold_start:
            return full
        least = 0 if config.stage != "memory" else 1  # with an empty memory, nothing of the memory could learn
        return int(rng.integers(least, max(full, least + 1)))

    def _distance(self) -> torch.Tensor:
        """Squared distance of what is trained from where it started (L2-SP, Li et al., 2018)."""
        trained = (parameter for parameter in self.network.parameters() if parameter.requires_grad)
        parts = [(now - start.to(now.device)).square().sum() for now, start in zip(trained, self._start, strict=True)]
        return torch.stack(parts).sum()

    def _encode(self, pixels: torch.Tensor, trained: bool) -> torch.Tensor:
        """(B, T, 3, H, W) → features (B, T, C, h, w)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features: torch.Tensor = self.network.encode(pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        features = features.to(pixels.dtype)  # one dtype for keys and values, whatever autocast made of the last layer
        return features.reshape(*pixels.shape[:2], *features.shape[1:])


def _mean(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """total / weight, both over all processes; 0 where nothing counts."""
    weight = sum_over_processes(weight.detach())
    return total * (count_processes() / weight.clamp(min=torch.finfo(weight.dtype).tiny))


def _autocast_dtype(device: str) -> torch.dtype:
    """What products are computed in: half precision from the image on spares the copies between."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
