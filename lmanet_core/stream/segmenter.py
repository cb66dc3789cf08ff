"""`VideoSegmenter.step`: one camera image in, one label map out, with the memory in between. Everything else is around it.

    image → continuity → preprocess → encode → decode (with memory) → remember → postprocess → FrameResult
                                  └→ motion, for a memory that follows it ─┘

`feed` does to the memory what `step` does, and nothing else: for frames whose labels nobody wants.

On CUDA everything between continuity and result is `device_step.DeviceStep`, one launch a frame.
One segmenter is one stream (one camera). Several share one `Runtime`. A segmenter belongs to one thread at a time, except for
`request_reset`, which any thread may call.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, DeviceMemoryError
from lmanet_core.frame import Discontinuity, FeedResult, FrameResult
from lmanet_core.geometry import GeometryPlan, ResizeMode, Size, feature_grid, fit_network_size, parse_size, plan_geometry
from lmanet_core.labels import LabelSet
from lmanet_core.media.pixels import to_rgb
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.memory_read import MemoryConfig, MemoryFrames
from lmanet_core.ops import attention_weights, available_implementations
from lmanet_core.stream.argmax import argmax_labels
from lmanet_core.stream.continuity import Continuity, ContinuityConfig, ContinuityMonitor
from lmanet_core.stream.device_step import DeviceStep
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.stream.motion import PlaceTracker
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare

_FRAMES_WITHOUT_GRAPH = 300  # after the device ran out of memory
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmenterConfig:
    """How a stream is segmented.

    Raises:
        ConfigError: a value outside its range.
    """

    memory: bool = True  # off: single frames, nothing is remembered
    memory_frames: int | None = None  # S; None: as trained
    memory_interval_s: float = 0.0  # least time between remembered frames, seconds; 0: every frame
    network_size: str = "auto"  # "WxH"; auto: the camera's size and aspect, at most as many pixels as trained on
    output_size: str = "input"  # "input", "network" or "WxH"
    resize: ResizeMode = "stretch"  # "stretch", "letterbox" or "crop"
    upsample: str = "labels"  # "labels": nearest pixel; "logits": bilinear before the choice, slower, smoother borders
    confidence: bool = True  # off saves a few milliseconds
    attention: str = "auto"  # implementation of local_attention
    cuda_graph: bool = True  # on CUDA: the whole step as one graph, launched at once
    continuity: ContinuityConfig = field(default_factory=ContinuityConfig)

    def __post_init__(self) -> None:
        if self.memory_frames is not None and self.memory_frames < 1:
            raise ConfigError(f"memory_frames must be 1 or more, got {self.memory_frames}; memory: false switches it off")
        if not self.memory_interval_s >= 0.0:
            raise ConfigError(f"memory_interval_s must be 0 or more seconds, got {self.memory_interval_s}")
        if self.network_size != "auto":
            parse_size(self.network_size)
        if self.output_size not in ("input", "network"):
            parse_size(self.output_size)
        if self.attention not in ("auto", *available_implementations()):
            raise ConfigError(f"attention must be auto, {', '.join(available_implementations())}; got {self.attention!r}")
        if self.resize not in ("stretch", "letterbox", "crop"):
            raise ConfigError(f"resize must be stretch, letterbox or crop, got {self.resize!r}")
        if self.upsample not in ("labels", "logits"):
            raise ConfigError(f"upsample must be labels or logits, got {self.upsample!r}")
        if self.upsample == "logits" and (self.resize != "stretch" or self.output_size == "network"):
            raise ConfigError("upsample: logits wants resize: stretch and an output_size other than network")


@dataclass(frozen=True, slots=True)
class Attention:
    """How the memory is read for one position of an image.

    Attributes:
        weights: (T, R, R) float32, over the window in each memory frame; what is missing to a sum of 1 lies outside the map.
        stamps_ns: of the T memory frames.
        row, column: of the position, on the map of features.
        map_size: of the features.
        geometry: how the image became the network's input.
    """

    weights: npt.NDArray[np.float32]
    stamps_ns: tuple[int, ...]
    row: int
    column: int
    map_size: Size
    geometry: GeometryPlan


class VideoSegmenter:
    """Segment one video stream, frame by frame.

    Args:
        runtime: a network made ready by `prepare`; may be shared.
        config: see `SegmenterConfig`.

    Raises:
        ConfigError: settings that this network does not allow.
    """

    def __init__(self, runtime: Runtime, config: SegmenterConfig | None = None) -> None:
        self.runtime = runtime
        self.config = config or SegmenterConfig()
        self.continuity = ContinuityMonitor(self.config.continuity)
        if self.config.attention not in ("auto", *available_implementations(runtime.device)):
            raise ConfigError(f"attention: {self.config.attention} does not run on {runtime.device} here; try auto")
        trained = runtime.config.memory
        self._memory: MemoryBuffer | None = None
        if trained is not None:
            self._memory = MemoryBuffer(self.config.memory_frames or trained.memory_frames, self.config.memory_interval_s)
        self._tracker = PlaceTracker() if trained is not None and trained.follow_motion else None
        self.memory_enabled = self.config.memory and trained is not None
        self._plan: GeometryPlan | None = None
        self._on_device = runtime.device.type == "cuda"
        self._device_step: tuple[tuple[object, ...], DeviceStep] | None = None  # what it was made for, and it
        self._graph_pause = 0  # frames to go without a CUDA graph
        if self.config.network_size != "auto":
            backbone = runtime.network.backbone
            _require_multiple(parse_size(self.config.network_size), backbone.stride, backbone.size_remainder)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in _normalization(runtime))
        self._scale = (1.0 / (255.0 * std)).to(runtime.device)
        self._offset = (-mean / std).to(runtime.device)

    @classmethod
    def from_weights(
        cls,
        path: str | os.PathLike[str],
        config: SegmenterConfig | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
    ) -> VideoSegmenter:
        """Load weights and be ready; see `load_model` and `prepare` for what may be wrong with them."""
        return cls(prepare(load_model(path), device, precision), config)

    @property
    def labels(self) -> LabelSet:
        """Names, colours and groups of the ids in the label maps."""
        return self.runtime.config.labels

    @property
    def memory_enabled(self) -> bool:
        """Whether past frames are read and remembered. May be switched between frames; off forgets them."""
        return self._memory_enabled

    @memory_enabled.setter
    def memory_enabled(self, enabled: bool) -> None:
        if enabled and self._memory is None:
            raise ConfigError("these weights have no memory (single-frame network), it cannot be switched on")
        self._memory_enabled = enabled
        if not enabled:
            self._forget()

    @property
    def memory_capacity(self) -> int:
        """Past frames that are kept (S); 0 where nothing is remembered."""
        return self._memory.capacity if self._memory is not None and self._memory_enabled else 0

    @property
    def memory_stamps_ns(self) -> tuple[int, ...]:
        """Stamps of the frames remembered now, oldest first."""
        return self._memory.stamps_ns if self._memory is not None else ()

    def reset(self) -> None:
        """Forget the stream; the next frame is a first frame."""
        self.continuity.reset()
        self._forget()

    def request_reset(self, cause: Discontinuity = Discontinuity.MANUAL) -> None:
        """Have the next frame clear the memory, with this cause (MANUAL or CLOCK_JUMP). Any thread."""
        self.continuity.request(cause)

    @torch.inference_mode()
    def step(self, image: npt.NDArray[Any], stamp_ns: int, frame_id: str = "") -> FrameResult:
        """Segment the next frame of the stream.

        Args:
            image: (H, W, 3) uint8 RGB; also grey, RGBA and uint16, see `to_rgb`.
            stamp_ns: capture time, nanoseconds. A repeated or slightly older stamp is segmented but not remembered.
            frame_id: coordinate frame of the camera.

        Returns:
            See `FrameResult`. The arrays are the caller's to keep.

        Raises:
            InputError: not an image. Nothing is lost: the memory is as before, the next frame goes on.
            DeviceMemoryError: too little memory on the device even for this frame by itself; the next one is a first frame.
        """
        clock = _Stopwatch(self.runtime.device)
        rgb, plan, continuity = self._admit(image, stamp_ns, frame_id, clock)
        memory = self._memory if self._memory_enabled else None
        memory_frames = 0 if memory is None else len(memory)
        remember = self._remembers(stamp_ns, continuity)
        if self._on_device:
            labels, confidence, memory_frames, remember = self._step_on_device(rgb, plan, memory_frames, remember)
            clock.lap("device")
        else:
            labels, confidence = self._step_here(rgb, plan, remember, clock)
        if memory is not None and remember:
            self._keep_places(memory)
            memory.count(stamp_ns)
        return FrameResult(
            labels=labels,
            confidence=confidence,
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            discontinuity=continuity.discontinuity,
            memory_frames=memory_frames,
            remembered=remember,
            geometry=plan,
            timings_ms=clock.finish(),
        )

    @torch.inference_mode()
    def feed(self, image: npt.NDArray[Any], stamp_ns: int, frame_id: str = "") -> FeedResult:
        """Remember the next frame of the stream without segmenting it.

        Afterwards the memory is bit for bit what `step` would have left. A frame that is not to be remembered costs next to
        nothing. On CUDA the whole step is made all the same, which is one launch there.

        Args:
            image, stamp_ns, frame_id: as for `step`.

        Raises:
            InputError, DeviceMemoryError: as `step`.
        """
        if self._on_device:
            return _without_labels(self.step(image, stamp_ns, frame_id))
        clock = _Stopwatch(self.runtime.device)
        rgb, plan, continuity = self._admit(image, stamp_ns, frame_id, clock)
        memory = self._memory if self._memory_enabled else None
        memory_frames = 0 if memory is None else len(memory)
        remembered = self._remembers(stamp_ns, continuity)
        if memory is not None and remembered:
            image = plan.to_network(rgb)
            features = self._encode(image, clock)
            self._places(image, plan, clock)
            self._keep_places(memory)
            memory.push(self.runtime.network.remember(features), stamp_ns)
            clock.lap("remember")
        return FeedResult(
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            discontinuity=continuity.discontinuity,
            memory_frames=memory_frames,
            remembered=remembered,
            geometry=plan,
            timings_ms=clock.finish(),
        )

    def _admit(
        self, image: npt.NDArray[Any], stamp_ns: int, frame_id: str, clock: _Stopwatch
    ) -> tuple[UInt8Array, GeometryPlan, Continuity]:
        """Check the frame against the one before; clears the memory where it does not go on."""
        rgb = to_rgb(image)
        plan = self._plan_for(Size(*rgb.shape[:2]))
        continuity = self.continuity.check(rgb, stamp_ns, frame_id)
        if continuity.discontinuity is not None:
            self._forget()
        clock.lap("continuity")
        return rgb, plan, continuity

    def _forget(self) -> None:
        if self._memory is not None:
            self._memory.clear()
        if self._tracker is not None:
            self._tracker.clear()

    def _places(self, image: UInt8Array, plan: GeometryPlan, clock: _Stopwatch | None = None) -> torch.Tensor | None:
        """Where the remembered positions are in an image of the network's size, (1, T, 2, h, w); None: where they were."""
        if self._tracker is None or not self._memory_enabled:
            return None
        grid = feature_grid(plan.network_size, self.runtime.network.backbone.stride)
        places = torch.from_numpy(self._tracker.look(image, grid)).unsqueeze(0)
        if clock is not None:
            clock.lap("motion")
        return places

    def _keep_places(self, memory: MemoryBuffer) -> None:
        """The image whose places were asked for last goes into the memory's next slot."""
        if self._tracker is not None:
            self._tracker.keep(memory.next_slot)

    def _encode(self, image: UInt8Array, clock: _Stopwatch) -> torch.Tensor:
        """Features of an image of the network's size."""
        pixels = self._to_input(image)
        clock.lap("preprocess")
        features = self.runtime.network.encode(pixels)
        clock.lap("encode")
        return features

    def _remembers(self, stamp_ns: int, continuity: Continuity) -> bool:
        return self._memory is not None and self._memory_enabled and continuity.remember and self._memory.accepts(stamp_ns)

    @torch.inference_mode()
    def attend(self, image: npt.NDArray[Any], positions: Sequence[tuple[float, float]]) -> list[Attention]:
        """Look at how `step` would read the memory for this image; changes nothing.

        Args:
            image: (H, W, 3) uint8 RGB, the next of the stream.
            positions: (x, y) pixels of the image.

        Returns:
            One for each position; none while the memory is empty or off.

        Raises:
            ConfigError: positions outside the image, or weights that attend everywhere instead of in a window.
        """
        rgb = to_rgb(image)
        height, width = rgb.shape[:2]
        for x, y in positions:
            if not (0 <= x < width and 0 <= y < height):
                raise ConfigError(f"a position must lie in the image of {width}x{height}, got {x:g},{y:g}")
        memory = self._memory.frames() if self._memory is not None and self._memory_enabled else None
        module = self.runtime.network.memory
        if memory is None or module is None or self._memory is None:
            return []
        if module.config.window is None:
            raise ConfigError(
                "these weights attend to all positions; only attention within a window can be shown (--window 21)"
            )
        plan = self._plan_for(Size(height, width))
        seen = plan.to_network(rgb)
        query = module.ask(self.runtime.network.encode(self._to_input(seen))).key
        places = self._places(seen, plan)
        memory = module.moved(memory, None if places is None else places.to(query.device))
        return [self._attend_at(query, memory, module.config, plan, x, y) for x, y in positions]

    def _attend_at(
        self, query: torch.Tensor, memory: MemoryFrames, config: MemoryConfig, plan: GeometryPlan, x: float, y: float
    ) -> Attention:
        """Weights of one position: those of the cut-out that its window sees, which has all that matters."""
        assert config.window is not None and self._memory is not None
        size, half = Size(*query.shape[-2:]), config.window // 2
        at = plan.to_network_position(x, y)
        column = min(size.width - 1, max(0, int(at[0] * size.width / plan.network_size.width)))
        row = min(size.height - 1, max(0, int(at[1] * size.height / plan.network_size.height)))
        top, left = max(0, row - half), max(0, column - half)
        rows, columns = slice(top, row + half + 1), slice(left, column + half + 1)
        weights = attention_weights(
            query[..., rows, columns],
            memory.keys[..., rows, columns],
            config.window,
            softmax=config.softmax,
            border=config.border,
        )[0, :, :, row - top, column - left]  # (T, R*R)
        seen = weights.reshape(-1, config.window, config.window).float().cpu().numpy().copy()  # (T, R, R)
        inside_rows = np.abs(np.arange(-half, half + 1) + row - (size.height - 1) / 2) <= (size.height - 1) / 2
        inside_columns = np.abs(np.arange(-half, half + 1) + column - (size.width - 1) / 2) <= (size.width - 1) / 2
        seen[:, ~(inside_rows[:, None] & inside_columns)] = 0.0  # they read nothing
        return Attention(seen, self._memory.slots_ns, row, column, size, plan)

    def _step_here(
        self, rgb: UInt8Array, plan: GeometryPlan, remember: bool, clock: _Stopwatch
    ) -> tuple[UInt8Array, UInt8Array | None]:
        image = plan.to_network(rgb)
        network, features = self.runtime.network, self._encode(image, clock)
        past = self._memory.frames() if self._memory is not None and self._memory_enabled else None
        places = self._places(image, plan, clock)
        logits = network.decode(features, past, self.config.attention, places)
        clock.lap("decode")
        if remember and self._memory is not None:
            self._memory.write(network.remember(features))
        clock.lap("remember")
        labels, confidence = self._to_labels(logits, plan)
        clock.lap("postprocess")
        return labels, confidence

    def _step_on_device(
        self, rgb: UInt8Array, plan: GeometryPlan, frames: int, remember: bool
    ) -> tuple[UInt8Array, UInt8Array | None, int, bool]:
        """Labels, confidence, memory frames read, whether remembered. Too little memory costs speed first, then the past."""
        follows = self._tracker is not None and self._memory_enabled  # else the host need not resize
        places = self._places(plan.to_network(rgb), plan) if follows else None
        try:
            labels, confidence = self._device_step_for(plan).run(rgb, frames, remember, self.config.confidence, places)
            return labels, confidence, frames, remember
        except torch.OutOfMemoryError as error:
            first = _in_short(error)
        self._free_device_memory()
        self._graph_pause = _FRAMES_WITHOUT_GRAPH
        try:
            result = self._device_step_for(plan).run(rgb, frames, remember, self.config.confidence, places)
            _log.warning("%s: CUDA graphs are given up for %d frames, which saves memory", first, _FRAMES_WITHOUT_GRAPH)
            return *result, frames, remember
        except torch.OutOfMemoryError:
            pass
        self.reset()
        if self._memory is not None:
            self._memory.release()
        self._free_device_memory()
        try:
            result = self._device_step_for(plan, memory=False).run(rgb, 0, False, self.config.confidence)
            _log.warning("%s: the past was forgotten and this frame segmented by itself", first)
            return *result, 0, False
        except torch.OutOfMemoryError as error:
            self._free_device_memory()
            raise DeviceMemoryError(
                f"{self.runtime.device} has too little memory for one frame of {plan.network_size} in {self.runtime.precision} "
                f"({_in_short(error)}); try a smaller network size, a lower precision, or free memory that others use"
            ) from error

    def _device_step_for(self, plan: GeometryPlan, memory: bool = True) -> DeviceStep:
        used = self._memory if memory and self._memory_enabled else None
        graph = self.config.cuda_graph and self._graph_pause == 0
        self._graph_pause = max(0, self._graph_pause - 1)
        wanted = (plan, used, self.config.attention, self.config.upsample, graph)
        if self._device_step is None or self._device_step[0] != wanted:
            self._device_step = None  # before the next one takes its memory
            normalize = (self._scale, self._offset)
            step = DeviceStep(
                self.runtime, plan, used, normalize, self.config.attention, self.config.upsample == "logits", graph
            )
            self._device_step = (wanted, step)
        return self._device_step[1]

    def _free_device_memory(self) -> None:
        self._device_step = None
        gc.collect()  # graphs and what the error's traceback held
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()

    def _plan_for(self, camera_size: Size) -> GeometryPlan:
        if self._plan is None or self._plan.camera_size != camera_size:
            backbone, config = self.runtime.network.backbone, self.config
            if config.network_size == "auto":
                trained = self.runtime.config.input_size
                network_size = fit_network_size(
                    camera_size, trained.height * trained.width, backbone.stride, backbone.size_remainder
                )
            else:
                network_size = parse_size(config.network_size)
            self._plan = plan_geometry(camera_size, network_size, config.output_size, config.resize)
        return self._plan

    def _to_input(self, image: UInt8Array) -> torch.Tensor:
        """(h, w, 3) uint8 → normalised (1, 3, h, w), channels-last, in the precision of the network's first layer."""
        writable = np.require(image, requirements="W")  # a copy of read-only frames, of which PyTorch warns
        pixels = image_batch(torch.from_numpy(writable).to(self.runtime.device))
        return pixels.float().mul_(self._scale).add_(self._offset).to(self.runtime.input_dtype)

    def _to_labels(self, logits: torch.Tensor, plan: GeometryPlan) -> tuple[UInt8Array, UInt8Array | None]:
        named = logits[:, : len(self.labels.names)]  # a void channel never wins
        upsampled = self.config.upsample == "logits"
        if upsampled:
            named = plan.logits_to_output(named)
        labels, certain = argmax_labels(named, self.config.confidence)
        confidence = None if certain is None else _to_numpy(certain)
        if upsampled:
            return _to_numpy(labels), confidence
        return plan.labels_to_output(_to_numpy(labels)), None if confidence is None else plan.confidence_to_output(confidence)


def _in_short(error: BaseException) -> str:
    return str(error).strip().split(". ")[0] or type(error).__name__


def _without_labels(result: FrameResult) -> FeedResult:
    kept = {name: getattr(result, name) for name in FeedResult.__slots__}
    return FeedResult(**kept)


def _to_numpy(plane: torch.Tensor) -> UInt8Array:
    return np.asarray(plane.cpu().numpy(), np.uint8)


def _normalization(runtime: Runtime) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return runtime.network.backbone.mean, runtime.network.backbone.std


def _require_multiple(size: Size, stride: int, remainder: int) -> None:
    if any(side % stride != remainder for side in size):
        raise ConfigError(
            f"network sides must be {stride}·n{f' + {remainder}' if remainder else ''}, got {size}; "
            f"nearest is {fit_network_size(size, size.height * size.width, stride, remainder)}"
        )


class _Stopwatch:
    """Wall time of stages, milliseconds; waits for the device at each lap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._laps[name] = (now - self._last) * 1e3
        self._last = now

    def finish(self) -> dict[str, float]:
        self._laps["total"] = (self._last - self._start) * 1e3
        return self._laps
