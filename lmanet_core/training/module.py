"""What is trained in which stage, and the loss of a batch. One `TrainingModule` is one run.

Everything random in a step is seeded from the number of its batch, so a run that was killed goes on exactly as if it had not
been: weights, optimiser state and `Progress` are all there is to keep.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lmanet_core.data.clips import ClipItem
from lmanet_core.errors import LmanetError, OutputError
from lmanet_core.labels import UNLABELLED
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.network import LMANet, MemoryFrames
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.losses import consistency_sums, cross_entropy_sums, distillation_sums


class NonFiniteLossError(LmanetError):
    """The loss or a gradient is NaN or infinite; the batch was saved."""

    exit_code = 1


@dataclass
class Progress:
    """How far a run has come; kept in the resume file.

    Attributes:
        batches: done, of all epochs.
        epoch_loss, epoch_batches: sum of the losses of the epoch that is going on, and how many.
        best_miou: best validation mIoU so far (0–1), below 0 while there is none.
        last_miou: of the weights as they are now, below 0 where they were not validated.
    """

    batches: int = 0
    epoch_loss: float = 0.0
    epoch_batches: int = 0
    best_miou: float = -1.0
    last_miou: float = -1.0


class TrainingModule(L.LightningModule):
    """One stage of training.

    Args:
        network: to train.
        frozen: parts of it that stay as they are: no gradients, BatchNorm in eval mode, no dropout.
        config: see `TrainConfig`.
        class_weights: (classes,) of the loss.
        total_steps: of the whole run, for the cosine schedule.
        teacher: single-frame network to distil from, in eval mode.
        out: where a batch goes that gave no finite loss.
    """

    class_weights: torch.Tensor
    counts: torch.Tensor  # (classes, classes + 1) of the validation that is going on

    def __init__(
        self,
        network: LMANet,
        frozen: list[nn.Module],
        config: TrainConfig,
        class_weights: torch.Tensor,
        total_steps: int,
        teacher: LMANet | None = None,
        out: Path | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer validation clips than processes
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config
        self.progress = Progress()
        self.last_loss = math.nan
        self.data_info: dict[str, Any] = {}
        self._frozen, self._teacher = frozen, [] if teacher is None else [teacher]  # lists: no submodules, not saved
        self._total_steps, self._out = total_steps, out
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._batch: ClipItem | None = None
        classes = len(class_weights)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("counts", torch.zeros(classes, classes + 1, dtype=torch.int64), persistent=False)
        for module in frozen:
            module.requires_grad_(False)
        self.train()  # Lightning keeps the modes that it finds

    # ---- modes

    def train(self, mode: bool = True) -> TrainingModule:
        """Training mode, except for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    # ---- the network on a clip

    def predict(self, batch: ClipItem, memory_frames: int, with_before: bool = False) -> list[torch.Tensor]:
        """Logits of the last frame, (B, C, H, W); with those of the frame before it, if asked for.

        Args:
            batch: its clip (B, T, 3, H, W) uint8 or 0–255, and positions for a memory that follows motion.
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
        memory = MemoryFrames(*(maps.unflatten(0, (len(pixels), memory_frames)) for maps in kept))
        positions, positions_before = batch.get("positions"), batch.get("positions_before")
        positions = None if positions is None else positions[:, -memory_frames:]
        logits = [self.network.decode(features[:, -1], memory, positions=positions)]
        if with_before:
            with torch.no_grad():
                older = MemoryFrames(*(maps[:, :-1] for maps in memory)) if memory_frames > 1 else None
                moved = None if older is None or positions_before is None else positions_before[:, 1 - memory_frames :]
                logits.append(self.network.decode(features[:, -2], older, positions=moved))
        return logits

    def _encode(self, pixels: torch.Tensor, trained: bool) -> torch.Tensor:
        """(B, T, 3, H, W) → features (B, T, C, h, w)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features: torch.Tensor = self.network.encode(pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        features = features.to(pixels.dtype)  # one dtype for keys and values, whatever autocast made of the last layer
        return features.reshape(*pixels.shape[:2], *features.shape[1:])

    def loss(self, batch: ClipItem) -> torch.Tensor:
        """The loss of this process's share of a batch; its mean over processes is the loss of the whole batch."""
        config = self.config
        memory_frames = self._draw_memory_frames(batch["clip"].shape[1] - 1)
        consistent = bool(config.consistency) and memory_frames > 0
        logits, *before = self.predict(batch, memory_frames, consistent)
        loss = self._mean(*cross_entropy_sums(logits, batch["labels"].long(), self.class_weights, config.ohem))
        named = logits[:, : len(self.class_weights)]
        if consistent:
            past = before[0][:, : len(self.class_weights)]
            loss = loss + config.consistency * self._mean(*consistency_sums(named, past, batch["flow"]))
        if self._teacher:
            loss = loss + config.distillation * self._mean(*distillation_sums(named, self._teach(batch["clip"][:, -1])))
        if memory_frames == 0 and self.network.memory is not None:
            # Every parameter takes part in every step, as processes that average gradients expect.
            loss = loss + 0.0 * torch.stack([parameter.sum() for parameter in self.network.memory.parameters()]).sum()
        return loss

    def _draw_memory_frames(self, full: int) -> int:
        """As a stream just after a reset has them, in some of the batches; the same in every process."""
        config = self.config
        rng = np.random.default_rng((config.seed, self.progress.batches, 1))
        if full == 0 or rng.random() >= config.cold_start:
            return full
        least = 0 if config.stage != "memory" else 1  # with an empty memory, nothing of the memory could learn
        return int(rng.integers(least, max(full, least + 1)))

    @torch.no_grad()
    def _teach(self, frame: torch.Tensor) -> torch.Tensor:
        teacher = self._teacher[0].to(self.device)
        return teacher.decode(teacher.encode(teacher.backbone.normalize(frame)))[:, : len(self.class_weights)]

    def _mean(self, total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """total / weight, both over all processes; 0 where nothing counts."""
        weight = self._over_processes(weight.detach())
        return total * (self.trainer.world_size / weight.clamp(min=torch.finfo(weight.dtype).tiny))

    def _over_processes(self, value: torch.Tensor) -> torch.Tensor:
        if self.trainer.world_size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    # ---- hooks of Lightning

    def on_train_batch_start(self, batch: ClipItem, batch_idx: int) -> None:
        """Seed dropout; set the learning rate of a schedule that is a function of the step."""
        torch.manual_seed(self._seed_of_batch())
        if self.config.schedule == "cosine":
            rate = self._cosine(self.progress.batches // self.config.accumulate)
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = rate * group["share"]

    def training_step(self, batch: ClipItem, batch_idx: int) -> torch.Tensor:
        """The loss of a batch; raises NonFiniteLossError where it is none."""
        self._batch = batch
        loss = self.loss(batch)
        self.last_loss = float(self._over_processes(loss.detach().float())) / self.trainer.world_size
        if not math.isfinite(self.last_loss):
            self._refuse(f"the loss is {self.last_loss}")
        self.log("loss", self.last_loss, prog_bar=True, logger=False)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse gradients that would ruin the weights (in half precision the gradient scaler skips such steps itself)."""
        if self.config.precision == "16":
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        if not math.isfinite(norm):
            self._refuse(f"a gradient is {norm}")

    def finish_batch(self) -> None:
        """Count a batch whose step is done."""
        self.progress.batches += 1
        self.progress.last_miou = -1.0  # it was that of other weights
        self.progress.epoch_loss += self.last_loss
        self.progress.epoch_batches += 1

    def on_train_epoch_end(self) -> None:
        """Lower the learning rate where the loss of an epoch has stopped to fall."""
        progress = self.progress
        if self._plateau is not None and progress.epoch_batches:
            self._plateau.step(progress.epoch_loss / progress.epoch_batches)
        progress.epoch_loss, progress.epoch_batches = 0.0, 0

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.counts.zero_()

    def validation_step(self, batch: ClipItem, batch_idx: int) -> None:
        """Count (truth, prediction) of the last frames, at the network's size."""
        labels = batch["labels"].long()
        logits = self.predict(batch, batch["clip"].shape[1] - 1)[0]
        classes = len(self.class_weights)
        known = labels != UNLABELLED
        pairs = labels[known] * (classes + 1) + logits[:, :classes].argmax(1)[known]
        self.counts += torch.bincount(pairs, minlength=classes * (classes + 1)).view_as(self.counts)

    def on_validation_epoch_end(self) -> None:
        """mIoU over the whole validation set, over all processes."""
        matrix = ConfusionMatrix(len(self.class_weights))
        matrix.counts += self._over_processes(self.counts).cpu().numpy()
        self.progress.last_miou = matrix.mean_iou() if matrix.classes_present() else -1.0
        self.log("val_miou", self.progress.last_miou, prog_bar=True, logger=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over what is not frozen."""
        config = self.config
        trained = {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}
        keys = [parameter for name, parameter in trained.items() if name.startswith("memory.") and ".key." in name]
        apart = keys if config.key_learning_rate != 1.0 else []
        others = [parameter for parameter in trained.values() if all(parameter is not key for key in apart)]
        groups = [(others, 1.0), *([(apart, config.key_learning_rate)] if apart else [])]
        optimizer = torch.optim.Adam(
            [{"params": params, "share": share, "lr": config.learning_rate * share} for params, share in groups],
            weight_decay=config.weight_decay,
        )
        if config.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                optimizer, factor=config.factor, patience=config.patience, min_lr=config.min_learning_rate
            )
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add our own progress, and leave out Lightning's: an interrupted epoch goes on as a shorter one."""
        checkpoint.pop("loops", None)
        checkpoint["lmanet"] = {
            "config": self.config.to_dict(),
            "data": self.data_info,
            "progress": asdict(self.progress),
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse."""
        self.progress = Progress(**checkpoint["lmanet"]["progress"])
        self._plateau_state = checkpoint["lmanet"]["plateau"]

    # ---- details

    def _seed_of_batch(self) -> int:
        sequence = np.random.SeedSequence((self.config.seed, self.progress.batches, self.global_rank, 2))
        return int(sequence.generate_state(1, np.uint32)[0])

    def _cosine(self, step: int) -> float:
        config = self.config
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, self._total_steps - config.warmup_steps)
        low = config.min_learning_rate
        return low + (config.learning_rate - low) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def _refuse(self, what: str) -> None:
        kept = ""
        if self._out is not None and self._batch is not None:
            suffix = f"-{self.global_rank}" if self.global_rank else ""
            path = self._out / f"bad_batch{suffix}.pt"
            try:
                torch.save({"batch": {k: v.cpu() for k, v in self._batch.items()}, **asdict(self.progress)}, path)  # type: ignore[attr-defined]
            except OSError as error:
                raise OutputError(f"{what}, and the batch cannot be saved to {path}: {error}") from error
            kept = f"; the batch is in {path}"
        raise NonFiniteLossError(
            f"{what} in batch {self.progress.batches}{kept}. The weights and the resume file are from before it; "
            "a lower learning_rate or clip_gradient may help"
        )


def _autocast_dtype(device: str) -> torch.dtype:
    """What products are computed in: half precision from the image on spares the copies between."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
