"""How a stream is segmented: the settings of `VideoSegmenter`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import ResizeMode, parse_size
from lmanet_core.ops import available_implementations
from lmanet_core.settings import check_settings, setting
from lmanet_core.stream.continuity import ContinuityConfig


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
    cuda_graph: bool = True  # on CUDA: the step as two graphs, each launched at once
    host_motion: bool = False  # on CUDA: motion of the picture by OpenCV on the host, as on a CPU, in place of on the device
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
