"""The step of a stream between buffers that stay where they are, on a GPU: two CUDA graphs a frame.

    begin   image (pinned) → upload → `FrameStep.encode` → features      } while the host finds out whether the stream goes on
                                    → `DeviceLook.look`                  }
    finish  features, past → `FrameStep.decode` → labels, confidence → one download
                                                → key, value into the memory's next slot

Every buffer that outlives a frame keeps its address, so the work can be captured in CUDA graphs, one for what is begun and
one for each number of frames that the memory may hold, and launched at once (`SegmenterConfig.cuda_graph`). Belongs to one
stream; streams that share a `Runtime` share the graphs' working memory and take turns. On a CPU nothing is captured, which is
how all else is tested.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import feature_grid
from lmanet_core.stream.device_look import DeviceLook
from lmanet_core.stream.label_memory import LabelMemory, no_belief
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.stream.motion import thumbnail_size
from lmanet_core.stream.step import FrameStep, Past, StreamPast, Wanted

_WARM_UPS = 2  # passes before a capture: kernels compile, tiles are chosen, libraries allocate
#: Of a frame: None is what goes before the host has decided anything; then frames read, whether it is remembered, confidence.
Part: TypeAlias = tuple[int, bool, bool] | None
_log = logging.getLogger(__name__)


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
        self._graphs: dict[Part, torch.cuda.CUDAGraph] = {}
        self._branch: torch.cuda.Stream | None = None  # beside the network
        plan = step.plan
        self._image, self._host_image = self._buffers(*plan.camera_size, 3)
        self._planes, self._host_planes = self._buffers(2, *plan.output_size)  # labels, confidence
        self._slot = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._features: torch.Tensor | None = None  # of the image begun
        self._belief: torch.Tensor | None = None  # of the frame before, and of this one
        self._made_belief: torch.Tensor | None = None
        self._evidence: torch.Tensor | None = None  # where the host looks
        self._positions: torch.Tensor | None = None
        self._look: DeviceLook | None = None
        compares = step.label_strength > 0.0
        if compares:
            self._belief, self._made_belief = (self._no_belief() for _ in range(2))
        places = grid = None
        if memory is not None and self._runtime.config.memory is not None and self._runtime.config.memory.motion_compensation:
            grid = feature_grid(plan.network_size, self._runtime.network.memory_stride)
        if looks and (compares or grid is not None):
            if memory is not None and grid is not None:
                places = memory.follow_on(grid, plan.network_size, self._device)
            self._look = DeviceLook(plan.network_size, compares, places, self._device)
            self._goes_on = torch.zeros(1, device=self._device)
            self._made_picture = torch.zeros_like(self._look.believed)
        else:
            if compares:
                self._evidence = torch.zeros(3, *thumbnail_size(plan.network_size), device=self._device)
            if memory is not None and grid is not None:
                self._positions = torch.zeros(1, memory.capacity, 2, *grid, device=self._device)

    def begin(self, image: UInt8Array, labels: LabelMemory | None) -> None:
        """Encode an image, and look at it; returns before the device has done so.

        Args:
            image: (H, W, 3) uint8 of the plan's camera size.
            labels: of the stream, whose picture the image is compared with.

        Raises:
            torch.OutOfMemoryError: nothing has changed.
        """
        with self._runtime.lock:
            self._host_image.numpy()[:] = image
            self._image.copy_(self._host_image, non_blocking=True)
            picture = None if labels is None else labels.picture
            # after a change of size it is another's, and the host will find that the stream does not go on
            if self._look is not None and picture is not None and picture.shape == self._look.believed.shape:
                self._look.believed.copy_(picture)
            self._launch(None)

    def finish(self, past: StreamPast, *, remember: bool, confidence: bool) -> tuple[UInt8Array, UInt8Array | None]:
        """The rest of the frame that was begun.

        Args:
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
            if view is not None and remember:
                self._slot.fill_(view.slot)
            if self._positions is not None and view is not None and view.positions is not None and count:
                self._positions[:, :count].copy_(view.positions)
            self._bring_belief(past)
            self._launch((count, remember, confidence))
            wanted = slice(0, 2 if confidence else 1)
            self._host_planes[wanted].copy_(self._planes[wanted], non_blocking=True)
            if self._made_belief is not None:
                past.commit_belief(self._made_belief.clone(), None if self._look is None else self._made_picture.clone())
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            labels, *certain = (plane.copy() for plane in self._host_planes[wanted].numpy())
        return labels, certain[0] if certain else None

    def _launch(self, part: Part) -> None:
        graph = self._graph_for(part) if self._captures else None
        if graph is None:
            self._work(part)
        else:
            graph.replay()

    def _work(self, part: Part) -> None:
        if part is None:
            self._encode()
        else:
            self._compute(*part)

    def _encode(self) -> None:
        """From `_image` to `_features`, and what is seen of the picture."""
        join: Callable[[], None] = _nothing

        def take(picture: torch.Tensor) -> None:
            nonlocal join
            if self._look is not None:
                self._look.take(picture)
                with self._beside() as join:
                    self._look.look()

        features = self._step.encode(self._image, take)
        join()
        if self._features is None or not self._captures:
            self._features = features
        else:
            self._features.copy_(features)

    def _compute(self, count: int, remember: bool, confidence: bool) -> None:
        """From `_features` to `_planes` and the memory's slot."""
        memory, look = self.memory, self._look
        assert self._features is not None
        frames = memory.slots(count) if memory is not None and count else None
        evidence, positions = self._evidence, None if self._positions is None or frames is None else self._positions[:, :count]
        if look is not None:
            positions = look.positions(count)
            if self._belief is not None:
                evidence = look.evidence(self._goes_on)
                self._made_picture.copy_(look.picture(self._goes_on))
        read = Past(frames, positions, self._belief, evidence)
        made = self._step.decode(self._features, read, Wanted(True, confidence, memory is not None))
        if memory is not None and made.key_value is not None:
            rings = memory.reserve(made.key_value)
            if remember:
                for ring, maps in zip(rings, made.key_value, strict=True):
                    ring.index_copy_(1, self._slot, maps.movedim(1, -1).unsqueeze(1))
                if look is not None:
                    look.remember(self._slot, count)
        for plane, found in zip(self._planes, (made.labels, made.confidence), strict=True):
            if found is not None:
                plane.copy_(found)
        if made.belief is not None and self._made_belief is not None:
            self._made_belief.copy_(made.belief)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[Callable[[], None]]:
        """What is launched here is a branch of its own, up to the call of what this gives."""
        if self._device.type != "cuda":
            yield _nothing
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
        if self._belief is None:
            return
        view, memory = past.label_view, past.label_memory
        belief = None if memory is None else memory.belief
        if self._look is not None:
            self._goes_on.fill_(0.0 if belief is None else 1.0)
        else:
            assert self._evidence is not None  # wherever labels are believed and the host looks
            if view is None or view.evidence is None:
                belief = None
                self._evidence.zero_()
            else:
                self._evidence.copy_(torch.from_numpy(view.evidence))
        self._belief.copy_(self._no_belief() if belief is None else belief)

    def _no_belief(self) -> torch.Tensor:
        return no_belief(self._step.logits_size, len(self._runtime.config.labels.names), self._device)

    def _graph_for(self, part: Part) -> torch.cuda.CUDAGraph | None:
        """The graph for this; all that a stream needs are captured at its first frame, so that no later frame is late."""
        wanted = [part]
        if part is not None and self.memory is not None and not any(self._graphs):
            self._compute(0, False, part[2])  # reserves the memory's rings, which graphs then know by address
            wanted += [(held, True, part[2]) for held in range(self.memory.capacity + 1)]
        try:
            for key in wanted:
                if key not in self._graphs:
                    self._graphs[key] = self._capture(key)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._captures = False
            self._graphs.clear()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _log.warning("this network cannot be captured in a CUDA graph (%s); it runs without, more slowly", reason)
            return None
        return self._graphs[part]

    def _capture(self, part: Part) -> torch.cuda.CUDAGraph:
        """Record the work without doing it; what runs before, to have kernels compiled, writes nothing to the memory."""
        device = self._device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._work(None if part is None else (part[0], False, part[2]))
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads of the process do with the device does not spoil the capture
            with torch.cuda.graph(graph, pool=self._runtime.graph_pool, capture_error_mode="thread_local"):
                self._work(part)
        return graph

    def _buffers(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One on the device, and one in the host's memory that the device copies from and to by itself."""
        host = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return torch.zeros(shape, dtype=torch.uint8, device=self._device), host


def _nothing() -> None:
    """For what there is nothing to wait for."""
