"""Runs the step of a stream on a GPU: buffers that stay where they are, one CUDA graph a frame, and what to do without memory.

    image (pinned) → upload → `FrameStep.compute` → labels, confidence → one download
                                 └→ key, value into the memory's next slot

Every buffer that outlives a frame keeps its address, so the work can be captured in CUDA graphs, one for each number of frames
that the memory may hold, and launched at once (`SegmenterConfig.cuda_graph`). Belongs to one stream; streams that share a
`Runtime` share the graphs' working memory and take turns. On a CPU nothing is captured, which is how all else is tested.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator

import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import DeviceMemoryError
from lmanet_core.geometry import GeometryPlan, feature_grid
from lmanet_core.stream.device_look import DeviceLook
from lmanet_core.stream.label_memory import no_belief
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.stream.motion import thumbnail_size
from lmanet_core.stream.resampling import DeviceResampling
from lmanet_core.stream.step import NO_LABELS, FrameStep, Lap, Past, StepResult, StreamPast, Wanted
from lmanet_core.weights.runtime import Runtime

_WARM_UPS = 2  # passes before a capture: kernels compile, tiles are chosen, libraries allocate
_FRAMES_WITHOUT_GRAPH = 300  # after the device ran out of memory
_log = logging.getLogger(__name__)


class DeviceRunner:
    """Runs the step, and degrades where the device has too little memory: speed goes first, then the past.

    Args:
        runtime: the network.
        plan: for the images that will come.
        attention: implementation of `local_attention`.
        upsample_logits: choose labels after interpolating the logits.
        label_strength: of the label memory, 0–1; 0: there is none.
        graph: capture the work; only on CUDA.
        looks: the device itself finds out how the picture moves.
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
        self._graph, self._looks = graph, looks
        self._pause = 0  # frames to go without a CUDA graph
        self._buffered: BufferedStep | None = None

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
        self._buffered = None
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
        buffered = self._buffered_for(None if memory is None else memory.buffer)
        labels, confidence = buffered.run(image, past, remember=wanted.key_value, confidence=wanted.confidence)
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
            self._buffered = BufferedStep(self._step, memory, graph, self._looks)
        return self._buffered


class BufferedStep:
    """The step between buffers that stay.

    Args:
        step: the work.
        memory: of the stream; None reads and remembers nothing.
        graph: capture the work; only on CUDA.
        looks: find out here how the picture moves; else the views say so.
    """

    def __init__(self, step: FrameStep, memory: MemoryBuffer | None, graph: bool, looks: bool = False) -> None:
        self.memory = memory
        self.wants_graph = graph
        self._step, self._runtime = step, step.runtime
        self._device = step.runtime.device
        self._captures = graph and self._device.type == "cuda"
        self._graphs: dict[tuple[int, bool, bool], torch.cuda.CUDAGraph] = {}
        self._branch: torch.cuda.Stream | None = None  # beside the network
        plan = step.plan
        self._image, self._host_image = self._buffers(*plan.camera_size, 3)
        self._planes, self._host_planes = self._buffers(2, *plan.output_size)  # labels, confidence
        self._slot = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._belief: torch.Tensor | None = None  # of the frame before, and of this one
        self._made_belief: torch.Tensor | None = None
        self._evidence: torch.Tensor | None = None
        if step.label_strength:
            self._belief, self._made_belief = (self._no_belief() for _ in range(2))
            self._evidence = torch.zeros(3, *thumbnail_size(plan.network_size), device=self._device)
        self._positions: torch.Tensor | None = None
        grid = None
        if memory is not None and self._runtime.config.memory is not None and self._runtime.config.memory.motion_compensation:
            grid = feature_grid(plan.network_size, self._runtime.network.memory_stride)
            self._positions = torch.zeros(1, memory.capacity, 2, *grid, device=self._device)
        self._look: DeviceLook | None = None
        if looks and (step.label_strength or grid is not None):
            self._look = DeviceLook(plan.network_size, grid, step.label_strength > 0.0, self._device)
            self._evidence, self._positions = self._look.evidence, None
            if memory is not None and grid is not None:
                memory.follow_on(grid, plan.network_size, self._device)

    def run(
        self, image: UInt8Array, past: StreamPast, *, remember: bool, confidence: bool
    ) -> tuple[UInt8Array, UInt8Array | None]:
        """One frame.

        Args:
            image: (H, W, 3) uint8 of the plan's camera size.
            past: the stream's memories, and views of them for this image.
            remember: write this one to the view's slot; the caller commits it afterwards. A belief is committed here.
            confidence: whether it is wanted.

        Returns:
            Labels and confidence (H, W), the caller's to keep.

        Raises:
            torch.OutOfMemoryError: the memory's content is as before.
        """
        view = past.view
        count = 0 if view is None else view.count
        with self._runtime.lock:
            self._host_image.numpy()[:] = image
            self._image.copy_(self._host_image, non_blocking=True)
            if view is not None and remember:
                self._slot.fill_(view.slot)
            if self._positions is not None and view is not None and view.positions is not None and count:
                self._positions[:, :count].copy_(view.positions)
            self._bring_belief(past)
            self._launch(count, remember, confidence)
            if self._made_belief is not None:
                past.commit_belief(self._made_belief.clone(), None if self._look is None else self._look.seen.clone())
            wanted = slice(0, 2 if confidence else 1)
            self._host_planes[wanted].copy_(self._planes[wanted], non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            labels, *certain = (plane.copy() for plane in self._host_planes[wanted].numpy())
        return labels, certain[0] if certain else None

    def _launch(self, count: int, remember: bool, confidence: bool) -> None:
        graph = self._graph_for(count, remember, confidence) if self._captures else None
        if graph is None:
            self._compute(count, remember, confidence)
        else:
            graph.replay()

    def _compute(self, count: int, remember: bool, confidence: bool) -> None:
        """The work itself, from `_image` to `_planes` and the memory's slot."""
        memory = self.memory
        frames = memory.slots(count) if memory is not None and count else None

        def look(picture: torch.Tensor) -> Callable[[], Past]:
            positions = None if self._positions is None or frames is None else self._positions[:, :count]
            if self._look is None:
                return lambda: Past(frames, positions, self._belief, self._evidence)
            thumbnail = self._look.thumbnail(picture)  # before the picture is normalised, which overwrites it
            with self._beside() as join:
                positions = self._look.look(thumbnail, None if memory is None else memory.places, count)

            def read() -> Past:
                join()
                return Past(frames, positions, self._belief, self._evidence)

            return read

        made = self._step.compute(self._image, look, Wanted(True, confidence, memory is not None))
        if memory is not None and made.key_value is not None:
            rings = memory.reserve(made.key_value)
            if remember:
                for ring, maps in zip(rings, made.key_value, strict=True):
                    ring.index_copy_(1, self._slot, maps.movedim(1, -1).unsqueeze(1))
                if self._look is not None and memory.places is not None:
                    self._look.remember(memory.places, self._slot)
        for plane, found in zip(self._planes, (made.labels, made.confidence), strict=True):
            if found is not None:
                plane.copy_(found)
        if made.belief is not None and self._made_belief is not None:
            self._made_belief.copy_(made.belief)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[Callable[[], None]]:
        """What is captured here is a branch of its own in the graph, up to the call of what this gives."""
        if self._device.type != "cuda":
            yield lambda: None
            return
        main = torch.cuda.current_stream(self._device)
        if self._branch is None:
            self._branch = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        branch = self._branch
        branch.wait_stream(main)
        with torch.cuda.stream(branch):
            yield lambda: main.wait_stream(branch)

    def _bring_belief(self, past: StreamPast) -> None:
        """Have the graph read what the stream believes; nothing holds where there is no past."""
        if self._belief is None or self._evidence is None:
            return
        view, memory = past.label_view, past.label_memory
        belief = None if memory is None else memory.belief
        if self._look is not None:
            picture = None if memory is None else memory.picture
            self._look.goes_on.fill_(0.0 if belief is None or picture is None else 1.0)
            if picture is not None:
                self._look.believed.copy_(picture)
        elif view is None or view.evidence is None:
            belief = None
            self._evidence.zero_()
        else:
            self._evidence.copy_(torch.from_numpy(view.evidence))
        self._belief.copy_(self._no_belief() if belief is None else belief)

    def _no_belief(self) -> torch.Tensor:
        return no_belief(self._step.logits_size, len(self._runtime.config.labels.names), self._device)

    def _graph_for(self, count: int, remember: bool, confidence: bool) -> torch.cuda.CUDAGraph | None:
        """The graph for this; all that a stream needs are captured at its first frame, so that no later frame is late."""
        wanted = [(count, remember, confidence)]
        if not self._graphs and self.memory is not None:
            self._compute(0, False, confidence)  # reserves the memory's rings, which graphs then know by address
            wanted += [(held, True, confidence) for held in range(self.memory.capacity + 1)]
        try:
            for key in wanted:
                if key not in self._graphs:
                    self._graphs[key] = self._capture(*key)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._captures = False
            self._graphs.clear()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _log.warning("this network cannot be captured in a CUDA graph (%s); it runs without, more slowly", reason)
            return None
        return self._graphs[count, remember, confidence]

    def _capture(self, count: int, remember: bool, confidence: bool) -> torch.cuda.CUDAGraph:
        """Record the work without doing it; what runs before, to have kernels compiled, writes nothing to the memory."""
        device = self._device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._compute(count, False, confidence)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads of the process do with the device does not spoil the capture
            with torch.cuda.graph(graph, pool=self._runtime.graph_pool, capture_error_mode="thread_local"):
                self._compute(count, remember, confidence)
        return graph

    def _buffers(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One on the device, and one in the host's memory that the device copies from and to by itself."""
        host = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return torch.zeros(shape, dtype=torch.uint8, device=self._device), host


def _in_short(error: BaseException) -> str:
    return str(error).strip().split(". ")[0] or type(error).__name__
