"""The streamed step as one function of fixed shapes, its memories handed in and out: what `export` writes.

    image, moved, evidence              of this frame, from the host; moved and evidence are zeros after a reset
    keys, values, held, belief          state: all zeros after a reset
        → labels, confidence
        → next_keys, next_values, next_held, next_belief     state for the frame after, unless this one is not remembered

Only what the model has is there: without a feature memory no keys, values, held; `moved` with motion compensation only;
without a label memory no evidence, no belief.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lmanet_core.geometry import Size
from lmanet_core.network.memory_read import MemoryFrames
from lmanet_core.ops.traceable import traceable_local_attention
from lmanet_core.stream.motion import thumbnail_size
from lmanet_core.stream.planes import PLANES, blend_planes
from lmanet_core.weights.runtime import Runtime

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Signature:
    """What a program takes and gives.

    Attributes:
        inputs: name → tensor of zeros, of the right shape and type.
        outputs: names, in order.
    """

    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]

    @property
    def state(self) -> tuple[str, ...]:
        """Inputs that the output `next_NAME` takes the place of."""
        return tuple(name for name in self.inputs if f"next_{name}" in self.outputs)


class ExportedStep(nn.Module):
    """The streamed step of a network at one size.

    Args:
        runtime: a network made ready on the CPU in float32.
        size: of the network's input.
        frames: S; 0: without the feature memory.
        label_strength: of the label memory; 0: without it.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, runtime: Runtime, size: Size, frames: int, label_strength: float) -> None:
        super().__init__()
        self.network = runtime.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._size, self._frames, self._strength = size, frames, label_strength
        self._classes = len(runtime.config.labels.names)
        self._memory = self.network.memory if frames else None
        scale, offset = self.network.backbone.normalization()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def signature(self) -> Signature:
        """What `forward` takes and gives; runs the encoder once."""
        inputs = {"image": torch.zeros(*self._size, 3, dtype=torch.uint8)}
        outputs = ["labels", "confidence"]
        if self._memory is not None:
            with torch.no_grad():
                key, value = self._memory.remember(self.network.encode(self._normalized(inputs["image"])))
            for name, maps in (("keys", key), ("values", value)):
                inputs[name] = torch.zeros(self._frames, *maps.shape[1:])
            inputs["held"] = torch.zeros(self._frames)
            if self._memory.config.motion_compensation:
                inputs["moved"] = torch.zeros(self._frames, 2, *key.shape[-2:])
            outputs += ["next_keys", "next_values", "next_held"]
        if self._strength:
            inputs["evidence"] = torch.zeros(3, *thumbnail_size(self._size))
            inputs["belief"] = torch.zeros(PLANES, *self._size)
            outputs.append("next_belief")
        return Signature(inputs, tuple(outputs))

    def forward(
        self,
        image: torch.Tensor,
        keys: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        held: torch.Tensor | None = None,
        moved: torch.Tensor | None = None,
        evidence: torch.Tensor | None = None,
        belief: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """One frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            keys, values: (S, Dk, h, w), (S, Dv, h, w), oldest first.
            held: (S,) 1 where a slot holds a frame, else 0.
            moved: (S, 2, h, w), how far down and right each remembered position has moved since, in positions.
            evidence: (3, ht, wt), see `PictureComparison.compare`.
            belief: see `blend_planes`.

        Returns:
            As `Signature.outputs` names them: labels and confidence (H, W) uint8, then the state.
        """
        features = self.network.encode(self._normalized(image))
        state: list[torch.Tensor] = []
        seen = features
        if self._memory is not None and keys is not None and values is not None and held is not None:
            seen = self._read(features, keys, values, held, moved)
            for ring, new in zip((keys, values), self._memory.remember(features), strict=True):
                state.append(torch.cat((ring[1:], new)))
            state.append(torch.cat((held[1:], torch.ones(1))))
        logits = self.network.backbone.decode(seen)[:, : self._classes]
        if evidence is not None and belief is not None:
            labels, certain, after = blend_planes(logits, belief, evidence, self._strength)
            state.append(after)
        else:
            highest, best = logits[0].max(0)
            labels = best.float()
            certain = (255.0 / (logits[0] - highest).exp().sum(0)).round()
        return labels.to(torch.uint8), certain.to(torch.uint8), *state

    def _normalized(self, image: torch.Tensor) -> torch.Tensor:
        return image.permute(2, 0, 1).unsqueeze(0).float() * self.scale + self.offset

    def _read(
        self,
        features: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        held: torch.Tensor,
        moved: torch.Tensor | None,
    ) -> torch.Tensor:
        """`MemoryModule.read` of the frames that are held; the features themselves where none is."""
        memory = self._memory
        assert memory is not None
        query, config = memory.project_query(features), memory.config
        frames = MemoryFrames(keys.unsqueeze(0), values.unsqueeze(0))
        if moved is not None:
            height, width = moved.shape[-2:]
            home = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
            frames = memory.compensate_motion(frames, (home + moved).unsqueeze(0))
        read = traceable_local_attention(
            query.key, frames.keys[0], frames.values[0], held, config.window, softmax=config.softmax, border=config.border
        )
        return torch.where(held.sum() > 0.0, memory.fuse(features, query.value, read), features)


class SingleFrame(nn.Module):
    """Logits of single images, normalised as ImageNet's: what most programs that run ONNX networks feed.

    Args:
        runtime: a network made ready on the CPU in float32.
        size: of the network's input.
        background: a class in front that never wins, as nav2's node counts its classes.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, runtime: Runtime, size: Size, background: bool) -> None:
        super().__init__()
        self.backbone = runtime.network.to(memory_format=torch.contiguous_format).backbone  # type: ignore[call-overload]
        self._size, self._background = size, background
        self._classes = len(runtime.config.labels.names)
        backbone = self.backbone
        self._as_given = (backbone.mean, backbone.std) == IMAGENET
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(values).view(1, 3, 1, 1) for values in pair] for pair in (IMAGENET, (backbone.mean, backbone.std))
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("offset", (mean - own_mean) / own_std)

    def signature(self) -> Signature:
        """What `forward` takes and gives."""
        return Signature({"input": torch.zeros(1, 3, *self._size)}, ("logits",))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) float32, (RGB of 0–1 less ImageNet's mean) over its deviation → logits (1, classes, H, W)."""
        logits: torch.Tensor = self.backbone(image if self._as_given else image * self.scale + self.offset)
        logits = logits[:, : self._classes]
        if not self._background:
            return logits
        return torch.cat((logits.amin(1, keepdim=True) - 100.0, logits), 1)
