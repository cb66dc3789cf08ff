"""Runs the step of a stream on a GPU, and degrades where that has too little memory: speed goes first, then the past."""

from __future__ import annotations

import contextlib
import gc
import logging

import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import DeviceMemoryError
from lmanet_core.geometry import GeometryPlan
from lmanet_core.stream.cuda_graph import BufferedStep
from lmanet_core.stream.label_memory import LabelMemory
from lmanet_core.stream.memory import MemoryBuffer, StreamMemory
from lmanet_core.stream.resampling import DeviceResampling
from lmanet_core.stream.step import NO_LABELS, FrameStep, Lap, StepResult, StreamPast, Wanted
from lmanet_core.weights.runtime import Runtime

_FRAMES_WITHOUT_GRAPH = 300  # after the device ran out of memory
_log = logging.getLogger(__name__)


class DeviceRunner:
    """Runs the step between buffers that stay (`BufferedStep`).

    Args:
        runtime: the network.
        plan: for the images that will come.
        attention: implementation of `local_attention`.
        upsample_logits: choose labels after interpolating the logits.
        label_strength: of the label memory, 0–1; 0: there is none.
        graph: capture the work; only on CUDA.
        looks: the device itself finds out how the picture moves; an attribute, too.
    """

    def __init__(
        self,
        runtime: Runtime,
        plan: GeometryPlan,
        attention: str,
        upsample_logits: bool,
        label_strength: float,
        graph: bool,
        looks: bool,
    ) -> None:
        resampling = DeviceResampling(plan, runtime.device)
        self._step = FrameStep(runtime, plan, attention, upsample_logits, resampling, label_strength)
        self.looks, self._graph = looks, graph
        self._pause = 0  # frames to go without a CUDA graph
        self._buffered: BufferedStep | None = None
        self._begun: UInt8Array | None = None

    def begin(self, image: UInt8Array, memory: StreamMemory | None, labels: LabelMemory | None) -> None:
        """Start with an image before it is known whether the stream goes on; `run` must follow with the same image.

        Args:
            image: (H, W, 3) uint8 RGB at the camera's size.
            memory, labels: of the stream, as after the image before; None where there is none.
        """
        self._begun = None
        with contextlib.suppress(torch.OutOfMemoryError):  # `run` tries again, and says what it gave up
            self._buffered_for(None if memory is None else memory.buffer).begin(image, labels)
            self._begun = image

    def run(
        self,
        image: UInt8Array,
        seen: UInt8Array | None,
        past: StreamPast,
        wanted: Wanted,
        stamp_ns: int,
        lap: Lap,
    ) -> StepResult:
        """One frame; see `HostRunner.run`. Labels are computed even where they are not wanted: it is one launch all the same.

        Raises:
            DeviceMemoryError: too little memory even for this frame by itself. The memory is empty then.
        """
        try:
            return self._run(image, past, wanted, stamp_ns, lap)
        except torch.OutOfMemoryError as error:
            first = _in_short(error)
        self.release()
        self._pause = _FRAMES_WITHOUT_GRAPH
        try:
            result = self._run(image, past, wanted, stamp_ns, lap)
            _log.warning("%s: CUDA graphs are given up for %d frames, which saves memory", first, _FRAMES_WITHOUT_GRAPH)
            return result
        except torch.OutOfMemoryError:
            pass
        if past.memory is not None:
            past.memory.release()
        if past.label_memory is not None:
            past.label_memory.clear()
        self.release()
        try:
            result = self._run(image, StreamPast(), Wanted(wanted.labels, wanted.confidence, False), stamp_ns, lap)
            _log.warning("%s: the past was forgotten and this frame segmented by itself", first)
            return StepResult(result.labels, result.confidence, 0, remembered=False, forgot=True)
        except torch.OutOfMemoryError as error:
            self.release()
            runtime, size = self._step.runtime, self._step.plan.network_size
            raise DeviceMemoryError(
                f"{runtime.device} has too little memory for one frame of {size} in {runtime.precision} "
                f"({_in_short(error)}); try a smaller network size, a lower precision, or free memory that others use"
            ) from error

    def release(self) -> None:
        """Give buffers and graphs back to the device."""
        self._buffered = self._begun = None
        gc.collect()  # graphs and what an error's traceback held
        if self._step.runtime.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(
        self,
        image: UInt8Array,
        past: StreamPast,
        wanted: Wanted,
        stamp_ns: int,
        lap: Lap,
    ) -> StepResult:
        memory, view = past.memory, past.view
        if past.looks:
            lap("motion")
        buffered = self._buffered
        if buffered is None or self._begun is not image:
            buffered = self._buffered_for(None if memory is None else memory.buffer)
            buffered.begin(image, past.label_memory)
        self._begun = None
        labels, confidence = buffered.finish(past, remember=wanted.key_value, confidence=wanted.confidence)
        if memory is not None and view is not None and wanted.key_value:
            memory.commit(view, stamp_ns, None)
        lap("device")
        count = view.count if view is not None else 0
        return StepResult(labels if wanted.labels else NO_LABELS, confidence, count, wanted.key_value)

    def _buffered_for(self, memory: MemoryBuffer | None) -> BufferedStep:
        graph = self._graph and self._pause == 0
        self._pause = max(0, self._pause - 1)
        if self._buffered is None or self._buffered.memory is not memory or self._buffered.wants_graph != graph:
            self._buffered = None  # before the next one takes its memory
            self._buffered = BufferedStep(self._step, memory, graph, self.looks)
        return self._buffered


def _in_short(error: BaseException) -> str:
    return str(error).strip().split(". ")[0] or type(error).__name__
