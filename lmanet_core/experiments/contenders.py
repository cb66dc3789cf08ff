"""What is compared by `memory_gain`: the product with some of its memories, and what is simpler."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import GeometryPlan, Size
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.network.memory_read import MemoryFrames
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.runtime import Runtime

_AVERAGE = 0.6  # of the past, in the two averages


class Contender(Protocol):
    """Segments one stream."""

    def step(self, frame: Frame) -> FrameResult:
        """The next frame."""
        ...


class Streamed:
    """The product itself, with some of its memories."""

    def __init__(self, runtime: Runtime, network_size: str, features: bool, labels: bool) -> None:
        self._segmenter = VideoSegmenter(
            runtime, SegmenterConfig(network_size=network_size, memory=features, label_memory=labels)
        )

    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        return self._segmenter.step_frame(frame, confidence=False)


class SelfMemory:
    """The network's memory filled with the present frame: the same parameters without the past."""

    def __init__(self, runtime: Runtime, network_size: str) -> None:
        self._runtime = runtime
        self._geometry = VideoSegmenter(runtime, SegmenterConfig(network_size=network_size))

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        runtime, plan = self._runtime, self._geometry.plan_for(Size(*frame.image.shape[:2]))
        features = runtime.network.encode(_pixels(runtime, plan.to_network(frame.image)))
        memory = self._memory(features)
        logits = runtime.network.decode(features, memory, positions=_here(memory))
        return _result(frame, logits[0, : len(runtime.config.labels.names)].argmax(0).byte(), plan)

    def _memory(self, features: torch.Tensor) -> MemoryFrames | None:
        config = self._runtime.config.memory
        assert config is not None
        return stack_memory([self._runtime.network.remember(features)] * config.memory_frames)


class Averaged:
    """Class probabilities averaged over time, pixel by pixel or along the flow, with no gate: what is simple."""

    def __init__(self, runtime: Runtime, network_size: str, along_flow: bool) -> None:
        self._runtime = runtime
        self._geometry = VideoSegmenter(runtime, SegmenterConfig(network_size=network_size))
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) if along_flow else None
        self._before: tuple[UInt8Array, Float32Array] | None = None

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        runtime, plan = self._runtime, self._geometry.plan_for(Size(*frame.image.shape[:2]))
        image = plan.to_network(frame.image)
        logits = runtime.network.decode(runtime.network.encode(_pixels(runtime, image)))
        now = logits[0, : len(runtime.config.labels.names)].float().softmax(0).cpu().numpy()
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._before is not None:
            past = self._before[1] if self._flow is None else self._moved(grey, *self._before)
            now = _AVERAGE * past + (1.0 - _AVERAGE) * now
        self._before = (grey, now)
        return _result(frame, torch.from_numpy(now.argmax(0).astype(np.uint8)), plan)

    def _moved(self, grey: UInt8Array, before: UInt8Array, past: Float32Array) -> Float32Array:
        assert self._flow is not None
        flow = np.asarray(self._flow.calc(grey, before, None), np.float32)  # type: ignore[call-overload]
        rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
        columns, rows = columns + flow[..., 0], rows + flow[..., 1]
        replicate = cv2.BORDER_REPLICATE
        return np.stack([cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=replicate) for plane in past])


def _pixels(runtime: Runtime, image: UInt8Array) -> torch.Tensor:
    return runtime.normalize(image_batch(torch.from_numpy(image.copy()).float().to(runtime.device)))


def _here(memory: MemoryFrames | None) -> torch.Tensor | None:
    """(1, T, 2, h, w): remembered positions that have not moved."""
    if memory is None:
        return None
    _, frames, _, height, width = memory.keys.shape
    grid = torch.from_numpy(np.indices((height, width)).astype(np.float32)).to(memory.keys.device)
    return grid.expand(1, frames, 2, height, width)


def _result(frame: Frame, labels: torch.Tensor, plan: GeometryPlan) -> FrameResult:
    return FrameResult(plan.labels_to_output(labels.cpu().numpy()), None, frame.stamp_ns, "", None, 0, False, plan)
