"""The work of one frame, from pixels to labels, on tensors: the same lines for a CPU and for CUDA graphs.

    image → to the network's size → normalise → encode → read the memory and decode → blend or argmax → to the output's size
                                                └→ key, value of this frame        └→ belief

A pure function of the image and the past. Whoever runs it commits this frame to the memories afterwards: `HostRunner` here at
once, `device_runner.DeviceRunner` within the graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import GeometryPlan, Size
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.memory_read import KeyValue, MemoryFrames
from lmanet_core.stream.argmax import argmax_labels
from lmanet_core.stream.label_memory import LabelMemory, LabelView, blend
from lmanet_core.stream.memory import MemoryView, StreamMemory
from lmanet_core.stream.motion import thumbnail
from lmanet_core.stream.resampling import DeviceResampling, HostResampling, resampling_for
from lmanet_core.weights.runtime import Runtime

NO_LABELS: UInt8Array = np.empty((0, 0), np.uint8)
Lap = Callable[[str], None]
Take = Callable[[torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be computed for a frame: its label map, how sure it is, and what the feature memory keeps of it."""

    labels: bool
    confidence: bool
    key_value: bool


@dataclass(frozen=True, slots=True)
class Past:
    """What `FrameStep.decode` reads of the frames before, on the step's device.

    Attributes:
        frames: what the feature memory holds; None reads nothing.
        positions: of what it holds, in this image; see `MemoryView`.
        belief: (2, H, W) int32 of the label memory; see `label_memory.blend`.
        evidence: (3, h, w) float32, what of the belief holds; see `label_evidence`.
    """

    frames: MemoryFrames | None = None
    positions: torch.Tensor | None = None
    belief: torch.Tensor | None = None
    evidence: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """What `FrameStep.decode` gives; None for what was not wanted.

    Attributes:
        labels: (H, W) uint8 at the output's size.
        confidence: (H, W) uint8, probability of the label as 0–255.
        key_value: (1, Dk, h, w) and (1, Dv, h, w).
        belief: (2, H, W) int32, where there is a label memory.
    """

    labels: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    key_value: KeyValue | None = None
    belief: torch.Tensor | None = None


class Views(NamedTuple):
    """What one image may use of the memory of features, and of that of labels; None for a memory that there is not."""

    features: MemoryView | None = None
    labels: LabelView | None = None


@dataclass(frozen=True, slots=True)
class StreamPast:
    """The memories of a stream, and what one image may use of them; None for a memory that there is not.

    Attributes:
        memory: of features.
        label_memory: of labels.
        views: for this image, found beside the network; None where there is no memory.
        looks: whether they are from looking at the picture.
        follows: whether the image goes on from the one before in time, so that the label memory believes it.
    """

    memory: StreamMemory | None = None
    label_memory: LabelMemory | None = None
    views: Future[Views] | None = None
    looks: bool = False
    follows: bool = True

    @property
    def view(self) -> MemoryView | None:
        """Of the features; waits for it."""
        return None if self.views is None else self.views.result().features

    @property
    def label_view(self) -> LabelView | None:
        """Of the labels; waits for it."""
        return None if self.views is None else self.views.result().labels

    def wait(self) -> None:
        """Until nothing works on the memories any more."""
        if self.views is not None:
            self.views.exception()

    def commit_belief(self, belief: torch.Tensor | None, picture: torch.Tensor | None = None) -> None:
        """Believe what was computed for the image, unless it is late or repeated; see `LabelMemory.commit`."""
        if self.follows and self.label_memory is not None and self.label_view is not None and belief is not None:
            self.label_memory.commit(self.label_view, belief, picture)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a runner has done for a frame.

    Attributes:
        labels: (H, W) uint8, the caller's to keep; (0, 0) where they were not wanted.
        confidence: (H, W) uint8, likewise; None where it was not wanted.
        memory_frames: past frames read.
        remembered: whether the frame was committed to the memory.
        forgot: the past was given up for want of device memory.
    """

    labels: UInt8Array
    confidence: UInt8Array | None
    memory_frames: int
    remembered: bool
    forgot: bool = False


def look_at(memory: StreamMemory | None, labels: LabelMemory | None, seen: UInt8Array | None, grid: Size) -> Views:
    """What an image (H, W, 3) uint8 RGB may use of the memories; None where neither looks at it, or the device does."""
    small = None if seen is None else thumbnail(seen)  # which both look at
    return Views(
        None if memory is None else memory.view(small, grid),
        None if labels is None else labels.view(small),
    )


class Stopwatch:
    """Wall time of stages on the host, milliseconds."""

    def __init__(self) -> None:
        self._laps: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What went by since the lap before belongs to this stage."""
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now

    def finish(self) -> dict[str, float]:
        """All laps, "total" last."""
        self._laps["total"] = (self._last - self._start) * 1e3
        return self._laps


class FrameStep:
    """The work for images of one size.

    Args:
        runtime: the network.
        plan: for the images that will come.
        attention: implementation of `local_attention`.
        upsample_logits: choose labels after interpolating the logits.
        resampling: how sizes are changed; None: as the runtime's device wants it.
        label_strength: of the label memory, 0–1; 0: there is none.
    """

    def __init__(
        self,
        runtime: Runtime,
        plan: GeometryPlan,
        attention: str = "auto",
        upsample_logits: bool = False,
        resampling: HostResampling | DeviceResampling | None = None,
        label_strength: float = 0.0,
    ) -> None:
        self.runtime, self.plan, self.label_strength = runtime, plan, label_strength
        self._attention, self._upsample_logits = attention, upsample_logits
        self._resampling = resampling or resampling_for(plan, runtime.device)
        self._classes = len(runtime.config.labels.names)

    @property
    def logits_size(self) -> Size:
        """At which labels are chosen."""
        return self.plan.output_size if self._upsample_logits else self.plan.network_size

    def encode(self, image: torch.Tensor, take: Take | None = None, lap: Lap = lambda stage: None) -> torch.Tensor:
        """What can be done with an image before anything of the past is known.

        Args:
            image: (H, W, 3) uint8 on the device, as the resampling takes it.
            take: given the picture as the network sees it, (h, w, 3) float32 of whole numbers 0–255, which is overwritten then.
            lap: told the name of each stage that is done.

        Returns:
            Features (1, C, h, w).
        """
        picture = self._resampling.to_network(image)
        if take is not None:
            take(picture)
        pixels = self.runtime.normalize(image_batch(picture))
        lap("preprocess")
        if self.runtime.compiler is not None:
            self.runtime.compiler.compile_for(pixels, self._attention)
        features = self.runtime.network.encode(pixels)
        lap("encode")
        return features

    def decode(self, features: torch.Tensor, read: Past, wanted: Wanted, lap: Lap = lambda stage: None) -> Computed:
        """The rest of a frame.

        Args:
            features: (1, C, h, w) of `encode`.
            read: what may be read of the past.
            wanted: what to compute.
            lap: told the name of each stage that is done.
        """
        network = self.runtime.network
        labels = confidence = key_value = belief = certain = None
        chooses = wanted.labels or self.label_strength > 0.0
        if chooses:
            logits = network.decode(features, read.frames, self._attention, read.positions)
            logits = logits[:, : self._classes]  # a void channel never wins
            lap("decode")
        if wanted.key_value:
            key_value = network.remember(features)
            lap("remember")
        if chooses:
            if self._upsample_logits:
                logits = self.plan.logits_to_output(logits)
            if self.label_strength:
                chosen, certain, belief = blend(logits, read.belief, read.evidence, self.label_strength)
                lap("label_memory")
            else:
                chosen, certain = argmax_labels(logits, wanted.confidence)
            if wanted.labels:
                labels, confidence = self._to_output(chosen, certain if wanted.confidence else None)
                lap("postprocess")
        return Computed(labels, confidence, key_value, belief)

    def _to_output(self, labels: torch.Tensor, certain: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._upsample_logits:  # they are there already
            return labels, certain
        labels = self._resampling.labels_to_output(labels)
        return labels, None if certain is None else self._resampling.confidence_to_output(certain)


class HostRunner:
    """Runs the step on a CPU, as it stands.

    Args:
        step: for images of one size.
    """

    def __init__(self, step: FrameStep) -> None:
        self._step = step

    def run(
        self,
        image: UInt8Array,
        seen: UInt8Array | None,
        past: StreamPast,
        wanted: Wanted,
        stamp_ns: int,
        lap: Lap,
    ) -> StepResult:
        """One frame.

        Args:
            image: (H, W, 3) uint8 RGB at the camera's size, of which a CPU wants nothing.
            seen: the same at the network's size, which a CPU wants.
            past: the stream's memories, and views of them for this image.
            wanted: what to compute; the frame is committed where key and value are.
            stamp_ns: of the frame.
            lap: told the name of each stage that is done.
        """
        assert seen is not None
        writable = np.require(seen, requirements="W")  # a copy of read-only frames, of which PyTorch warns
        features = self._step.encode(torch.from_numpy(writable), lap=lap)
        made = self._step.decode(features, _readable(past, lap), wanted, lap)
        memory, view = past.memory, past.view
        if memory is not None and view is not None and made.key_value is not None:
            memory.commit(view, stamp_ns, made.key_value)
            lap("remember")
        past.commit_belief(made.belief)
        labels = NO_LABELS if made.labels is None else made.labels.numpy()
        confidence = None if made.confidence is None else made.confidence.numpy()
        return StepResult(labels, confidence, view.count if view is not None else 0, made.key_value is not None)


def _readable(past: StreamPast, lap: Lap) -> Past:
    """On the CPU; "motion" is what was waited for it."""
    memory, view, label_memory, label_view = past.memory, past.view, past.label_memory, past.label_view
    if past.looks:
        lap("motion")
    evidence = None if label_view is None else label_view.evidence
    return Past(
        frames=memory.buffer.frames() if memory is not None else None,
        positions=view.positions if view is not None else None,
        belief=label_memory.belief if label_memory is not None else None,
        evidence=None if evidence is None else torch.from_numpy(evidence),
    )
