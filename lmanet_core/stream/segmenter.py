"""`VideoSegmenter.step`: one camera image in, one label map out, with the memory in between. Everything else is around it.

    image → continuity → what the memory offers → `FrameStep.compute` → remembered → FrameResult

One segmenter is one stream (one camera). Several share one `Runtime`. A segmenter belongs to one thread at a time, except for
`request_reset`, which any thread may call.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from lmanet_core.errors import ConfigError, DeviceMemoryError
from lmanet_core.frame import Discontinuity, Frame, FrameResult
from lmanet_core.geometry import GeometryPlan, ResizeMode, Size, feature_grid, parse_size
from lmanet_core.labels import LabelSet
from lmanet_core.media.pixels import SampleDepth, to_rgb
from lmanet_core.ops import available_implementations
from lmanet_core.settings import check_settings, setting
from lmanet_core.stream.continuity import ContinuityConfig, ContinuityMonitor
from lmanet_core.stream.cuda_graph import DeviceRunner
from lmanet_core.stream.label_memory import LabelMemory
from lmanet_core.stream.memory import StreamMemory
from lmanet_core.stream.motion import thumbnail
from lmanet_core.stream.step import NO_LABELS, FrameStep, HostRunner, Stopwatch, StreamPast, Wanted
from lmanet_core.stream.stream_plan import plan_stream, require_allowed
from lmanet_core.weights.adapters import relabel, wrap_module
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare


@dataclass(frozen=True)
class SegmenterConfig:
    """How a stream is segmented.

    Raises:
        ConfigError: a value outside its range.
    """

    network_size: str = setting("auto", "WxH the network sees; auto: the camera's, at most as many pixels as trained on.")
    output_size: str = setting("input", "Size of the label maps: input (the camera's), network, or WxH.")
    resize: ResizeMode = setting("stretch", "How camera and network size meet.", choices=("stretch", "letterbox", "crop"))
    upsample: str = setting("labels", "labels: nearest pixel; logits: finer borders, slower.", choices=("labels", "logits"))
    rotate: int = setting(
        0, "The camera is mounted turned: its images are turned clockwise for the network, labels are turned back.",
        unit="degrees", low=0, high=270,
    )  # fmt: skip
    bits: int = setting(16, "Bits that a camera fills of 16-bit images: 10, 12, 14; brightness is constant.", low=8, high=16)
    attention: str = setting("auto", "Implementation of the attention.", choices=("auto", *available_implementations()))
    memory: bool = setting(
        True, "Read and remember past frames; off segments frame by frame.", live=True, name="memory.enabled"
    )
    memory_frames: int | None = setting(
        None, "Past frames kept (S); 0: as trained.", low=0, high=64, name="memory.frames", unset=0
    )
    memory_interval_s: float = setting(
        0.0, "Least time between remembered frames; 0: every frame.", unit="s", low=0.0, high=60.0,
        name="memory.interval_s", option="memory-interval",
    )  # fmt: skip
    label_memory: bool = setting(
        True, "Carry the labels of the past along the motion of the picture; works with any weights.", live=True,
        name="label_memory.enabled",
    )  # fmt: skip
    label_memory_strength: float = setting(
        1.0, "Share of the past labels that is used where the picture is as before.", low=0.0, high=1.0, live=True,
        name="label_memory.strength",
    )  # fmt: skip
    cuda_graph: bool = True  # on CUDA: the whole step as one graph, launched at once
    continuity: ContinuityConfig = field(default_factory=ContinuityConfig)

    @property
    def label_strength(self) -> float:
        """Share of the past labels that is used, 0–1; 0 where there is no label memory."""
        return self.label_memory_strength if self.label_memory else 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.memory_frames == 0:
            object.__setattr__(self, "memory_frames", None)
        if self.rotate % 90:
            raise ConfigError(f"rotate must be 0, 90, 180 or 270 degrees, got {self.rotate}")
        if self.network_size != "auto":
            parse_size(self.network_size)
        if self.output_size not in ("input", "network"):
            parse_size(self.output_size)
        if self.upsample == "logits" and (self.resize != "stretch" or self.output_size == "network"):
            raise ConfigError("upsample: logits wants resize: stretch and an output_size other than network")


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
        self._memory: StreamMemory | None = None
        if trained is not None:
            frames = self.config.memory_frames or trained.memory_frames
            self._memory = StreamMemory(frames, self.config.memory_interval_s, trained.motion_compensation)
        self.memory_enabled = self.config.memory and trained is not None
        self._labels = LabelMemory()
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

    def request_reset(self, cause: Discontinuity = Discontinuity.MANUAL) -> None:
        """Have the next frame clear the memory, with this cause (MANUAL or CLOCK_JUMP). Any thread."""
        self.continuity.request(cause)

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
            stamp_ns: capture time, nanoseconds. A repeated or slightly older stamp is segmented but not remembered.
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
        clock = Stopwatch(self.runtime.device)
        rgb = to_rgb(image, self._depth)
        whole = self.plan_for(Size(*rgb.shape[:2]), pixel_aspect)
        plan, rgb = whole.upright, whole.turn(rgb)
        continuity = self.continuity.check(rgb, stamp_ns, frame_id, after_loss)
        if continuity.discontinuity is not None:
            self._forget()
        clock.lap("continuity")
        memory, label_memory = self.memory, self.label_memory
        remember = memory is not None and continuity.remember and memory.accepts(stamp_ns)
        held, done = 0 if memory is None else len(memory), None
        if labels or remember or self._on_device or (label_memory is not None and continuity.remember):
            follows = label_memory is not None or (memory is not None and memory.follows_motion)
            seen = small = view = label_view = None
            if follows or not self._on_device:
                seen = plan.to_network(rgb)
                clock.lap("preprocess")
            if follows and seen is not None:
                small = thumbnail(seen)  # which both memories look at
            if memory is not None:
                view = memory.view(small, feature_grid(plan.network_size, self.stride))
            if label_memory is not None and small is not None:
                label_view = label_memory.view(small)
            if follows:
                clock.lap("motion")
            past = StreamPast(memory, view, label_memory, label_view, continuity.remember)
            try:
                wanted = Wanted(labels, labels and confidence, remember)
                done = self._runner_for(plan).run(rgb, seen, past, wanted, stamp_ns, clock.lap)
            except DeviceMemoryError:
                self.reset()
                raise
            if done.forgot:
                self.continuity.reset()
        return FrameResult(
            labels=NO_LABELS if done is None else whole.turn_back(done.labels),
            confidence=None if done is None or done.confidence is None else whole.turn_back(done.confidence),
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            discontinuity=continuity.discontinuity,
            memory_frames=held if done is None else done.memory_frames,
            remembered=done is not None and done.remembered,
            geometry=whole,
            timings_ms=clock.finish(),
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

    def _forget(self) -> None:
        self._labels.clear()
        if self._memory is not None:
            self._memory.clear()

    @property
    def stride(self) -> int:
        """Pixels of the network's input per position of its features."""
        return self.runtime.network.backbone.stride

    def plan_for(self, camera_size: Size, pixel_aspect: float = 1.0) -> GeometryPlan:
        """How images of this size, and of pixels this wide, become the network's input, and its labels the output."""
        key = (camera_size, pixel_aspect)
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
                self._runner = DeviceRunner(self.runtime, plan, attention, upsample_logits, strength, graph)
            else:
                self._runner = HostRunner(FrameStep(self.runtime, plan, attention, upsample_logits, label_strength=strength))
        return self._runner
