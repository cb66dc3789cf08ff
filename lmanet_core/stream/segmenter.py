"""`VideoSegmenter.step`: one camera image in, one label map out, with the memory in between. Everything else is around it.

    image → continuity → what the memory offers → `FrameStep.compute` → remembered → FrameResult

One segmenter is one stream (one camera). Several share one `Runtime`. A segmenter belongs to one thread at a time, except for
`request_reset`, which any thread may call.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lmanet_core.errors import ConfigError, DeviceMemoryError
from lmanet_core.frame import Discontinuity, Frame, FrameResult
from lmanet_core.geometry import GeometryPlan, Size, feature_grid, parse_size
from lmanet_core.labels import LabelSet
from lmanet_core.media import open_frames
from lmanet_core.media.pixels import SampleDepth, to_rgb
from lmanet_core.ops import available_implementations
from lmanet_core.stream.beside import Beside, done_at_once
from lmanet_core.stream.continuity import ContinuityMonitor
from lmanet_core.stream.device_look import can_look
from lmanet_core.stream.device_runner import DeviceRunner
from lmanet_core.stream.label_memory import LabelMemory
from lmanet_core.stream.memory import StreamMemory
from lmanet_core.stream.segmenter_config import SegmenterConfig as SegmenterConfig
from lmanet_core.stream.step import NO_LABELS, FrameStep, HostRunner, Stopwatch, StreamPast, Wanted, look_at
from lmanet_core.stream.stream_plan import plan_stream, require_allowed
from lmanet_core.weights.adapters import relabel, wrap_module
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare

_BLIND_CONFIDENCE = 25  # of 255; a frame that shows nothing is not sure of anything


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
        if self.config.attention not in ("auto", *available_implementations(runtime.device)):
            raise ConfigError(f"attention: {self.config.attention} does not run on {runtime.device} here; try auto")
        trained = runtime.config.memory
        interval_s = None if trained is None else trained.frame_interval_s
        self.continuity = ContinuityMonitor(self.config.continuity, interval_s)
        self._memory: StreamMemory | None = None
        if trained is not None:
            frames = self.config.memory_frames or trained.memory_frames
            self._memory = StreamMemory(frames, self.config.memory_interval_s, trained.motion_compensation)
        self.memory_enabled = self.config.memory and trained is not None
        self._labels = LabelMemory()
        self._beside = Beside()
        self._label_strength = self.config.label_strength
        self._depth = SampleDepth(self.config.bits)
        self._plan: GeometryPlan | None = None
        self._planned_for = (Size(0, 0), 1.0)
        self._on_device = runtime.device.type == "cuda"
        self._runner: HostRunner | DeviceRunner | None = None  # for images of the plan's size
        if self.config.network_size != "auto":
            require_allowed(parse_size(self.config.network_size), runtime.network.backbone)

    @classmethod
    def from_weights(
        cls,
        path: str | os.PathLike[str],
        config: SegmenterConfig | None = None,
        *,
        labels: LabelSet | Sequence[str] | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> VideoSegmenter:
        """Load weights and be ready; see `load_model` and `prepare` for what may be wrong with them.

        Args:
            path: as `load_model` takes it.
            config: see `SegmenterConfig`.
            labels: classes, their names, or what `read_label_set` takes; None: the weights' own.
            device, precision: as `prepare` takes them.
        """
        model = load_model(path)
        return cls(prepare(model if labels is None else relabel(model, labels), device, precision), config)

    @classmethod
    def from_model(
        cls,
        module: nn.Module,
        config: SegmenterConfig | None = None,
        *,
        labels: LabelSet | Sequence[str] | os.PathLike[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        cut: str = "auto",
        device: str = "auto",
        precision: str = "auto",
    ) -> VideoSegmenter:
        """A network of your own, as it stands in memory; the module itself stays as it is. See `adapters.wrap_module`.

        Args:
            module: takes normalised images (B, 3, H, W), gives logits; `mean`, `std`, `bgr`, `class_names` and `input_size` are
                taken from its attributes.
            config: see `SegmenterConfig`.
            labels: classes, their names, or what `read_label_set` takes; None: the module's own.
            mean, std: three numbers each, of RGB in 0–1; None: the module's own.
            cut: layer before which a memory of features would go in; "auto" finds it.
            device, precision: as `prepare` takes them.

        Raises:
            WeightsError: the module gives no logits of an image, or has weights that are not finite.
            ConfigError: class names that do not fit, a cut that is none.
        """
        with torch.no_grad():
            model = wrap_module(copy.deepcopy(module), labels=labels, mean=mean, std=std, cut=cut)
        return cls(prepare(model, device, precision), config)

    @property
    def labels(self) -> LabelSet:
        """Names, colours and groups of the ids in the label maps."""
        return self.runtime.config.labels

    @property
    def memory(self) -> StreamMemory | None:
        """What is remembered; None where the weights have no memory, or it is switched off."""
        return self._memory if self._memory_enabled else None

    @property
    def label_memory(self) -> LabelMemory | None:
        """What is believed of the labels; None where that is switched off."""
        return self._labels if self._label_strength else None

    @property
    def memory_enabled(self) -> bool:
        """Whether past frames are read and remembered. May be switched between frames; off forgets them."""
        return self._memory_enabled

    @memory_enabled.setter
    def memory_enabled(self, enabled: bool) -> None:
        if enabled and self._memory is None:
            raise ConfigError("these weights have no memory (single-frame network), it cannot be switched on")
        self._memory_enabled = enabled
        if not enabled and self._memory is not None:
            self._memory.clear()

    @property
    def label_strength(self) -> float:
        """Share of the past labels that is used, 0–1; 0: labels are the network's own. May be changed between frames."""
        return self._label_strength

    @label_strength.setter
    def label_strength(self, strength: float) -> None:
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"label_memory_strength must be 0 to 1, got {strength}")
        if strength != self._label_strength:
            self._label_strength, self._runner = strength, None
        if not strength:
            self._labels.clear()

    @property
    def memory_capacity(self) -> int:
        """Past frames that are kept (S); 0 where nothing is remembered."""
        return self.memory.buffer.capacity if self.memory is not None else 0

    @property
    def memory_stamps_ns(self) -> tuple[int, ...]:
        """Stamps of the frames remembered now, oldest first."""
        return self._memory.buffer.stamps_ns if self._memory is not None else ()

    def reset(self) -> None:
        """Forget the stream; the next frame is a first frame."""
        self.continuity.reset()
        self._forget()

    def request_reset(self, cause: Discontinuity = Discontinuity.MANUAL, clock_ns: int | None = None) -> None:
        """Have the next frame clear the memory, with this cause; see `ContinuityMonitor.request`. Any thread."""
        self.continuity.request(cause, clock_ns)

    @torch.inference_mode()
    def step(
        self,
        image: npt.NDArray[Any],
        stamp_ns: int,
        frame_id: str = "",
        *,
        labels: bool = True,
        confidence: bool = True,
        after_loss: bool = False,
        pixel_aspect: float = 1.0,
    ) -> FrameResult:
        """Segment the next frame of the stream.

        Args:
            image: (H, W, 3) uint8 RGB; also grey, RGBA and uint16, see `to_rgb`.
            stamp_ns: capture time, nanoseconds. A repeated or slightly older stamp is segmented but not remembered, and so is a
                picture that shows nothing (`FrameResult.blind`).
            frame_id: coordinate frame of the camera.
            labels: False where nobody wants them. Both memories are bit for bit the same afterwards; on a CPU without a label
                memory the frame is only remembered, at a fraction of the cost.
            confidence: False saves a few milliseconds.
            after_loss, pixel_aspect: see `Frame`.

        Returns:
            See `FrameResult`. The arrays are the caller's to keep.

        Raises:
            InputError: not an image. Nothing is lost: the memory is as before, the next frame goes on.
            DeviceMemoryError: too little memory on the device even for this frame by itself; the next one is a first frame.
        """
        clock = Stopwatch()
        camera = to_rgb(image, self._depth)
        whole = self.plan_for(Size(*camera.shape[:2]), pixel_aspect)
        plan, rgb = whole.upright, whole.turn(camera)
        runner = self._runner_for(plan)
        device = runner if isinstance(runner, DeviceRunner) else None
        if device is not None:  # it encodes while the host finds out whether the stream goes on
            device.begin(rgb, self.memory, self.label_memory)
        continuity = self.continuity.check(rgb, stamp_ns, frame_id, after_loss)
        if continuity.discontinuity is not None or continuity.blind is not None:
            self._forget()
        elif continuity.stale and self._memory is not None:
            self._memory.clear()
        clock.lap("continuity")
        memory, label_memory = self.memory, self.label_memory
        remember = memory is not None and continuity.remember and memory.accepts(stamp_ns)
        held, done = 0 if memory is None else len(memory), None
        if labels or remember or device is not None or (label_memory is not None and continuity.remember):
            looks = label_memory is not None or (memory is not None and memory.follows_motion)
            looks = looks and (device is None or not device.looks)
            seen, views = None, None
            if looks or device is None:
                seen = plan.to_network(rgb)
                clock.lap("preprocess")
            if memory is not None or label_memory is not None:
                grid = feature_grid(plan.network_size, self.runtime.network.memory_stride)
                look = partial(look_at, memory, label_memory, seen if looks else None, grid)
                views = self._beside.start(look) if looks else done_at_once(look())
            past = StreamPast(memory, label_memory, views, looks, continuity.remember)
            try:
                wanted = Wanted(labels, labels and confidence, remember)
                done = runner.run(rgb, seen, past, wanted, stamp_ns, clock.lap)
            except DeviceMemoryError:
                past.wait()
                self.reset()
                raise
            finally:
                past.wait()
            if done.forgot:
                self.continuity.reset()
        certain = None if done is None else done.confidence
        if certain is not None and continuity.blind is not None:
            np.minimum(certain, _BLIND_CONFIDENCE, out=certain)
        return FrameResult(
            labels=NO_LABELS if done is None else whole.turn_back(done.labels),
            confidence=None if certain is None else whole.turn_back(certain),
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            discontinuity=continuity.discontinuity,
            memory_frames=held if done is None else done.memory_frames,
            remembered=done is not None and done.remembered,
            geometry=whole,
            timings_ms=clock.finish(),
            blind=continuity.blind,
            label_set=self.labels,
            image=camera,
        )

    def step_frame(self, frame: Frame, *, labels: bool = True, confidence: bool = True) -> FrameResult:
        """Segment the next frame of a source, with all that it says of itself; see `step`."""
        return self.step(
            frame.image,
            frame.stamp_ns,
            frame.frame_id,
            labels=labels,
            confidence=confidence,
            after_loss=frame.after_loss,
            pixel_aspect=frame.pixel_aspect,
        )

    def stream(self, source: str | os.PathLike[str] | Iterable[Frame]) -> Iterator[FrameResult]:
        """Segment a recording, or frames that come from elsewhere, one after the other.

        Args:
            source: what `open_frames` takes, or frames.

        Raises:
            InputError: nothing that can be read.
        """
        with contextlib.ExitStack() as stack:
            frames = source
            if isinstance(frames, str | os.PathLike):
                frames = stack.enter_context(open_frames(os.fspath(frames)))
            for frame in frames:
                yield self.step_frame(frame)

    def _forget(self) -> None:
        self._labels.clear()
        if self._memory is not None:
            self._memory.clear()

    def plan_for(self, camera_size: Size, pixel_aspect: float | None = None) -> GeometryPlan:
        """How images of this size become the network's input, and its labels the output.

        Args:
            camera_size: of the images.
            pixel_aspect: width of their pixels over the height; None: as of the stream so far.
        """
        key = (camera_size, self._planned_for[1] if pixel_aspect is None else pixel_aspect)
        if self._plan is None or self._planned_for != key:
            backbone, trained = self.runtime.network.backbone, self.runtime.config.input_size
            self._plan, self._planned_for = plan_stream(self.config, backbone, trained, *key), key
            self._runner = None  # before the next one takes its memory
        return self._plan

    def _runner_for(self, plan: GeometryPlan) -> HostRunner | DeviceRunner:
        if self._runner is None:
            upsample_logits, attention = self.config.upsample == "logits", self.config.attention
            strength = self._label_strength
            if self._on_device:
                graph = self.config.cuda_graph and not self.runtime.network.backbone.foreign
                looks = not self.config.host_motion and can_look(plan.network_size)
                self._runner = DeviceRunner(self.runtime, plan, attention, upsample_logits, strength, graph, looks)
            else:
                self._runner = HostRunner(FrameStep(self.runtime, plan, attention, upsample_logits, label_strength=strength))
        return self._runner
