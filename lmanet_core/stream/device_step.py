"""The step of a stream on a CUDA device: from the camera's pixels to labels at their final size without leaving it.

    image (pinned) → upload → resize, normalise → encode → read memory, decode → labels, confidence at the output's size
                                                     └→ key, value into the next slot of the memory       → one download

Made for images of one size. Every buffer that outlives a frame stays where it is, so the work can be captured in CUDA graphs,
one for each number of frames the memory may hold, and launched at once (`SegmenterConfig.cuda_graph`). On a CPU nothing is
captured and the same code runs as it stands, which is how it is tested. Belongs to one stream; streams that share a `Runtime`
share the graphs' working memory and take turns.
"""

from __future__ import annotations

import logging

import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import GeometryPlan, feature_grid
from lmanet_core.labels import UNLABELLED
from lmanet_core.network.backbone import image_batch
from lmanet_core.stream.argmax import argmax_labels
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.weights.runtime import Runtime

_LETTERBOX_GREY = 114
_WARM_UPS = 2  # passes before a capture: kernels compile, tiles are chosen, libraries allocate
_log = logging.getLogger(__name__)


class DeviceStep:
    """See the module.

    Args:
        runtime: the network.
        plan: for the images that will come.
        memory: of the stream; None reads and remembers nothing.
        normalize: scale and offset (1, 3, 1, 1) on the device, applied to 0–255.
        attention: implementation of `local_attention`.
        upsample_logits: choose labels after interpolating the logits.
        graph: capture the work; only on CUDA.
    """

    def __init__(
        self,
        runtime: Runtime,
        plan: GeometryPlan,
        memory: MemoryBuffer | None,
        normalize: tuple[torch.Tensor, torch.Tensor],
        attention: str,
        upsample_logits: bool,
        graph: bool,
    ) -> None:
        self.plan = plan
        self._runtime, self._memory, self._normalize = runtime, memory, normalize
        self._attention, self._upsample_logits = attention, upsample_logits
        self._captures = graph and runtime.device.type == "cuda"
        self._graphs: dict[tuple[int, bool, bool], torch.cuda.CUDAGraph] = {}
        self._geometry = _DeviceGeometry(plan, runtime.device)
        self._image, self._host_image = self._buffers(*plan.camera_size, 3)
        self._planes, self._host_planes = self._buffers(2, *plan.output_size)  # labels, confidence
        self._slot = torch.zeros(1, dtype=torch.int64, device=runtime.device)
        self._places: torch.Tensor | None = None
        if memory is not None and runtime.config.memory is not None and runtime.config.memory.follow_motion:
            grid = feature_grid(plan.network_size, runtime.network.backbone.stride)
            self._places = torch.zeros(1, memory.capacity, 2, *grid, device=runtime.device)

    def run(
        self, image: UInt8Array, frames: int, remember: bool, confidence: bool, places: torch.Tensor | None = None
    ) -> tuple[UInt8Array, UInt8Array | None]:
        """One frame.

        Args:
            image: (H, W, 3) uint8 of the plan's camera size.
            frames: how many the memory holds; 0 reads nothing.
            remember: write this one to the memory's next slot; the caller counts it afterwards.
            confidence: whether it is wanted.
            places: (1, frames, 2, h, w), where the remembered positions are, for a memory that follows motion.

        Returns:
            Labels and confidence (H, W), the caller's to keep.

        Raises:
            torch.OutOfMemoryError: the memory's content is as before.
        """
        with self._runtime.lock:
            self._host_image.numpy()[:] = image
            self._image.copy_(self._host_image, non_blocking=True)
            if remember and self._memory is not None:
                self._slot.fill_(self._memory.next_slot)
            if self._places is not None and places is not None and frames:
                self._places[:, :frames].copy_(places)
            self._launch(frames, remember, confidence)
            wanted = slice(0, 2 if confidence else 1)
            self._host_planes[wanted].copy_(self._planes[wanted], non_blocking=True)
            if self._runtime.device.type == "cuda":
                torch.cuda.current_stream(self._runtime.device).synchronize()
            labels, *certain = (plane.copy() for plane in self._host_planes[wanted].numpy())
        return labels, certain[0] if certain else None

    def _launch(self, frames: int, remember: bool, confidence: bool) -> None:
        graph = self._graph_for(frames, remember, confidence) if self._captures else None
        if graph is None:
            self._compute(frames, remember, confidence)
        else:
            graph.replay()

    def _graph_for(self, frames: int, remember: bool, confidence: bool) -> torch.cuda.CUDAGraph | None:
        """The graph for this; all that a stream needs are captured at its first frame, so that no later frame is late."""
        wanted = [(frames, remember, confidence)]
        if not self._graphs and self._memory is not None:
            self._compute(0, False, confidence)  # reserves the memory's rings, which graphs then know by address
            wanted += [(held, True, confidence) for held in range(self._memory.capacity + 1)]
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
        return self._graphs[frames, remember, confidence]

    def _capture(self, frames: int, remember: bool, confidence: bool) -> torch.cuda.CUDAGraph:
        """Record the work without doing it; what runs before, to have kernels compiled, writes nothing to the memory."""
        device = self._runtime.device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._compute(frames, False, confidence)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads of the process do with the device does not spoil the capture
            with torch.cuda.graph(graph, pool=self._runtime.graph_pool, capture_error_mode="thread_local"):
                self._compute(frames, remember, confidence)
        return graph

    def _compute(self, frames: int, remember: bool, confidence: bool) -> None:
        """The work itself, from `_image` to `_planes` and the memory's slot."""
        runtime = self._runtime
        network = runtime.network
        scale, offset = self._normalize
        pixels = image_batch(self._geometry.to_network(self._image))
        features = network.encode((pixels * scale + offset).to(runtime.input_dtype))
        memory = self._memory
        past = memory.slots(frames) if memory is not None and frames else None
        places = None if self._places is None or past is None else self._places[:, :frames]
        logits = network.decode(features, past, self._attention, places)[:, : len(runtime.config.labels.names)]
        if memory is not None:
            kept = network.remember(features)
            rings = memory.reserve(kept)
            if remember:
                for ring, maps in zip(rings, kept, strict=True):
                    ring.index_copy_(1, self._slot, maps.movedim(1, -1).unsqueeze(1))
        if self._upsample_logits:
            logits = self.plan.logits_to_output(logits)
        labels, certain = argmax_labels(logits, confidence)
        for plane, found, outside in zip(self._planes, (labels, certain), (UNLABELLED, 0), strict=True):
            if found is not None:
                plane.copy_(found if self._upsample_logits else self._geometry.to_output(found, outside))

    def _buffers(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One on the device, and one in the host's memory that the device copies from and to by itself."""
        device = self._runtime.device
        host = torch.zeros(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        return torch.zeros(shape, dtype=torch.uint8, device=device), host


class _DeviceGeometry:
    """A plan applied to tensors: index and weight tables, made once."""

    def __init__(self, plan: GeometryPlan, device: torch.device) -> None:
        self._plan = plan
        (rows, row_weights), (columns, column_weights) = plan.input_taps()
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
        weights = (torch.from_numpy(one).to(device) for one in (row_weights, column_weights))
        self._row_weights, self._column_weights = weights if plan.averages else (one.mul(2048).int() for one in weights)
        self._resizes = plan.camera_size != plan.network_size
        canvas = torch.full((*plan.network_size, 3), float(_LETTERBOX_GREY), device=device)
        self._canvas = canvas if _has_bars(plan) else None
        row_source, column_source = (torch.from_numpy(source).to(device) for source in plan.output_sources())
        self._row_source, self._column_source = row_source.clamp(min=0), column_source.clamp(min=0)
        outside = (row_source < 0)[:, None] | (column_source < 0)[None, :]
        self._outside = outside if bool(outside.any()) else None

    def to_network(self, image: torch.Tensor) -> torch.Tensor:
        """(H, W, 3) uint8 → (h, w, 3) float32, whole numbers of 0–255: `plan.to_network` but for few that are 1 apart."""
        if not self._resizes:
            return image.float()
        pixels = image.float() if self._plan.averages else image.int()
        total = pixels.dtype
        across = (pixels[:, self._columns] * self._column_weights[:, :, None]).sum(
            2, dtype=total
        )  # (H, w, taps, 3) → (H, w, 3)
        weights = self._row_weights[:, :, None, None]
        if self._plan.averages:
            pixels = (across[self._rows] * weights).sum(1).add_(0.5).floor_()  # halves go up
        else:  # in whole numbers, rounded where OpenCV rounds
            pixels = ((across[self._rows] >> 4) * weights >> 16).sum(1, dtype=total).add_(2).bitwise_right_shift_(2).float()
        if self._canvas is None:
            return pixels
        canvas = self._canvas.clone()
        canvas[self._plan.landing] = pixels
        return canvas

    def to_output(self, plane: torch.Tensor, outside: int) -> torch.Tensor:
        """(h, w) uint8 → (H, W) at the output's size, the same pixels that the plan takes."""
        plane = plane[self._row_source][:, self._column_source]
        return plane if self._outside is None else plane.masked_fill(self._outside, outside)


def _has_bars(plan: GeometryPlan) -> bool:
    return any(part.stop - part.start != side for part, side in zip(plan.landing, plan.network_size, strict=True))
