"""Accuracy and steadiness of weights on a set of labelled clips, the input clean or degraded.

Every labelled frame is segmented by itself and with 1 … S frames in the memory, as the first frames after a reset are. All
these figures are over the same frames, so that they differ by the memory alone. Steadiness compares the labelled frame with the
one before it, both with a full memory, or both without; the optical flow between them is taken from clean images where the set
has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.data import ClipSource
from lmanet_core.data.augment import lose_blocks, to_uint8
from lmanet_core.data.street_clips import parse_degradation
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.geometry import GeometryPlan, Size, plan_geometry
from lmanet_core.metrics import ConfusionMatrix, FlowMatcher, Steadiness
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.process import leave_if_asked
from lmanet_core.stream.argmax import argmax_labels
from lmanet_core.stream.motion import follow
from lmanet_core.stream.stream_plan import fit_to_backbone
from lmanet_core.training.build import make_validation_source
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.runtime import Runtime

NOISE_SIGMA = 25.0  # grey levels
LOST_BLOCKS = {"blocks": 4, "blocks2": 8, "blocks3": 12}  # in each frame; 6, 12 and 18 % of the picture


@dataclass(frozen=True)
class Condition:
    """What the images of a set suffer.

    Attributes:
        name: for tables.
        source: of the clips.
        clean: the same clips without the degradation, for optical flow; None: `source` is clean.
        degrade: what is done to the frames (T, H, W, 3) of `source`.
    """

    name: str
    source: ClipSource
    clean: ClipSource | None = None
    degrade: Callable[[UInt8Array, np.random.Generator], UInt8Array] | None = None


class ClipScores:
    """Measures over the clips of one condition.

    Args:
        names: of the classes.
        memory_frames: S.

    Attributes:
        full, working: a confusion matrix for each number of frames in the memory, 0 … S: at the size of the set's frames, and
            at the size that the network sees.
        steady: with the memory empty, and (where there is one) full.
        clips: counted so far.
    """

    def __init__(self, names: tuple[str, ...], memory_frames: int) -> None:
        self.names, self.clips = names, 0
        self.full, self.working = ([ConfusionMatrix(len(names)) for _ in range(memory_frames + 1)] for _ in range(2))
        self.steady = [Steadiness(len(names)) for _ in range(1 + (memory_frames > 0))]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, each list by frames in the memory; steadiness and IoU by class: empty, full.

        `miou` is over the classes in the truth, `miou_union` over those in truth or prediction; `only_predicted` are
        the classes that the fullest memory predicts and the truth does not have.
        """
        return {
            "clips": self.clips,
            "miou": [matrix.mean_iou_of_truth() for matrix in self.full],
            "miou_union": [matrix.mean_iou() for matrix in self.full],
            "miou_working": [matrix.mean_iou_of_truth() for matrix in self.working],
            "classes_in_truth": int(self.full[0].in_truth().sum()),
            "only_predicted": [self.names[index] for index in np.flatnonzero(self.full[-1].only_predicted())],
            "accuracy": [matrix.accuracy() for matrix in self.full],
            "flicker": [steady.flicker() for steady in self.steady],
            "consistency": [steady.consistency() for steady in self.steady],
            "iou": [
                {name: float(iou) for name, iou in zip(self.names, matrix.iou(), strict=True)}
                for matrix in (self.full[:1] if len(self.full) == 1 else (self.full[0], self.full[-1]))
            ],
        }


@dataclass
class ClipScorer:
    """Runs one network over clips.

    Args:
        runtime: the network, made ready.
        memory_frames: S; None: as trained. 0 for weights without memory.
        network_size: what the network sees; None: the set's size, at most as many pixels as it was trained on.
        stride: video frames between frames of a clip.

    Raises:
        ConfigError: memory_frames below 0, or asked of weights that have no memory.
    """

    runtime: Runtime
    memory_frames: int | None = None
    network_size: Size | None = None
    stride: int = 1
    _flow: FlowMatcher = field(default_factory=FlowMatcher)

    def __post_init__(self) -> None:
        trained = self.runtime.config.memory
        if self.memory_frames is None:
            self.memory_frames = 0 if trained is None else trained.memory_frames
        if self.memory_frames < 0:
            raise ConfigError(f"memory_frames must be 0 or more, got {self.memory_frames}")
        if self.memory_frames and trained is None:
            raise ConfigError("these weights have no memory (single-frame network); leave memory_frames out")

    def score(self, condition: Condition, limit: int | None = None, on_clip: Callable[[], None] = lambda: None) -> ClipScores:
        """Measure over the first `limit` clips of a set (all of them).

        Raises:
            InputError: the set has other classes than the weights, or a file that cannot be read.
        """
        source = condition.source
        names = self.runtime.config.labels.names
        if source.labels.names != names:
            raise InputError(
                f"the set has the classes {_some(source.labels.names)}, the weights {_some(names)}; "
                "where they are the same by other names, say so with --label-set"
            )
        plan = self._plan(source.size)
        scores = ClipScores(names, self.memory_frames or 0)
        for index in range(min(len(source), limit or len(source))):
            self._score_clip(condition, index, plan, scores)
            scores.clips += 1
            leave_if_asked()
            on_clip()
        return scores

    def _plan(self, size: Size) -> GeometryPlan:
        backbone, trained = self.runtime.network.backbone, self.runtime.config.input_size
        return plan_geometry(size, self.network_size or fit_to_backbone(size, trained.height * trained.width, backbone))

    def _score_clip(self, condition: Condition, index: int, plan: GeometryPlan, scores: ClipScores) -> None:
        past = self.memory_frames or 0
        frames, truth, clean = self._read(condition, index, past + 2)
        maps, before = self._segment(frames, plan)
        to_working = plan_geometry(plan.camera_size, plan.camera_size, f"{plan.network_size}")
        working_truth = to_working.labels_to_output(truth)
        outputs = [plan.labels_to_output(labels) for labels in maps]
        for labels, output, full, working in zip(maps, outputs, scores.full, scores.working, strict=True):
            full.update(output, truth)
            working.update(labels, working_truth)
        matches = self._flow.match(clean[-2], clean[-1])
        for steady, earlier, labels in zip(scores.steady, before, (outputs[0], outputs[-1]), strict=False):
            steady.update(matches, plan.labels_to_output(earlier), labels)

    def _read(self, condition: Condition, index: int, count: int) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
        """Frames, truth of the last of them, and frames to take optical flow from."""

        def clip(source: ClipSource) -> tuple[UInt8Array, UInt8Array]:
            made = source.clip(index, count, self.stride, np.random.default_rng((index, 1)))
            return made.frames, made.labels[-1]

        frames, truth = clip(condition.source)
        clean = frames if condition.clean is None else clip(condition.clean)[0]
        if condition.degrade is not None:
            frames = condition.degrade(frames, np.random.default_rng((index, 2)))
        return frames, truth, clean

    @torch.inference_mode()
    def _segment(self, frames: UInt8Array, plan: GeometryPlan) -> tuple[list[UInt8Array], list[UInt8Array]]:
        """Label maps of the last frame with 0 … S frames in the memory, and of the frame before it with none and with S."""
        network, past = self.runtime.network, self.memory_frames or 0
        images = np.stack([plan.to_network(frame) for frame in frames])
        features = [network.encode(self._to_input(image)) for image in images]
        kept = [network.remember(seen) for seen in features[:-1]] if past else []
        positions: list[torch.Tensor | None] = [None] * len(images)
        if past and network.memory is not None and network.memory.config.motion_compensation:
            followed = follow(images, Size(*kept[0].key.shape[-2:]))
            positions = [torch.from_numpy(one).unsqueeze(0).to(self.runtime.device) for one in followed]

        def decode(frame: int, filled: int) -> UInt8Array:
            """Frame −1 or −2 with so many of the frames before it remembered."""
            memory = kept[: len(kept) + 1 + frame]
            first, moved = len(memory) - filled, positions[frame]
            return self._decode(features[frame], memory[first:], None if moved is None else moved[:, first:])

        return [decode(-1, filled) for filled in range(past + 1)], [decode(-2, filled) for filled in sorted({0, past})]

    def _decode(self, features: torch.Tensor, memory: Sequence[Any], positions: torch.Tensor | None) -> UInt8Array:
        logits = self.runtime.network.decode(features, stack_memory(list(memory)), positions=positions)
        labels, _ = argmax_labels(logits[:, : len(self.runtime.config.labels.names)], False)
        return np.asarray(labels.cpu().numpy(), np.uint8)

    def _to_input(self, image: UInt8Array) -> torch.Tensor:
        return self.runtime.normalize(image_batch(torch.from_numpy(image)).to(self.runtime.device))


def make_conditions(config: TrainConfig, names: Sequence[str]) -> list[Condition]:
    """The validation set of a training configuration, under these conditions.

    Args:
        config: which set; that of a training run does.
        names: "none" (clean) and "blocks" (4 lost ones; "blocks2" 8, "blocks3" 12) of any set; of the street its degradations,
            with or without a level ("rain3", heavy), of other sets "noise".

    Raises:
        ConfigError: a condition that this set does not have.
        InputError: nothing to validate on.
    """
    street = config.data == "street"
    for name in names:
        if street and name not in _BLOCKS:
            parse_degradation(name)
        elif not street and name not in ("none", *_DEGRADATIONS):
            raise ConfigError(f"a condition of this set is one of none, {', '.join(_DEGRADATIONS)}; got {name!r}")

    def source(degradation: str) -> ClipSource:
        validation = make_validation_source(replace(config, val_degradations=degradation) if street else config)
        if validation is None:
            raise InputError("this configuration has nothing to evaluate on; give val_root")
        return validation

    clean = source("none")

    def condition(name: str) -> Condition:
        if name == "none":
            return Condition(name, clean)
        if street and name not in _BLOCKS:
            return Condition(name, source(name), clean)
        return Condition(name, clean, clean, _DEGRADATIONS[name])

    return [condition(name) for name in names]


def add_noise(frames: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Of `NOISE_SIGMA` grey levels, Gaussian and independent."""
    return to_uint8(frames + rng.standard_normal(frames.shape, np.float32) * np.float32(NOISE_SIGMA))


_BLOCKS: dict[str, Callable[[UInt8Array, np.random.Generator], UInt8Array]] = {
    name: partial(lose_blocks, count=count) for name, count in LOST_BLOCKS.items()
}
_DEGRADATIONS = {"noise": add_noise, **_BLOCKS}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}, … ({len(names)})" if len(names) > 3 else ", ".join(names)
