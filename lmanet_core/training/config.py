"""The settings of a training run: one flat list, the same on the command line, in YAML and in Python.

Knows nothing of Lightning, so that `lmanet train --help` and mistakes in a file cost no import of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmanet_core.data.augment import AugmentConfig
from lmanet_core.data.recorded_clips import ClipList
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size, parse_size
from lmanet_core.network import MemoryConfig
from lmanet_core.settings import check_settings, read_options, refuse_unknown, rename_old, setting, settings_of


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults of loss, optimiser and schedule are the paper's; what is live may change on resuming.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    out: str = setting("", "Folder of the run, for weights, resume file and logs.", live=True)
    stage: Literal["backbone", "decoder", "memory", "joint", "all"] = setting(
        "memory",
        "What is trained. backbone: the network on single frames; decoder: its decoder alone; memory: the memory alone; "
        "joint: memory and decoder; all: memory, decoder and encoder.",
    )
    weights: str | None = setting(
        None, "Weights to start from: ours, published, or a model of your own (python:…, hf:…); null starts from nothing."
    )
    architecture: str = setting("erfnet", "Name of the backbone, where no weights say which.")
    reset_classifier: bool = setting(False, "Start the last layer anew, for other classes than those of the weights.")
    class_mapping: str | None = setting(
        None, "Start each class as the mean of the weights' classes that this mapping (as of lmanet evaluate) leads to it."
    )
    # data
    data: Literal[
        "cityscapes", "stills", "street", "a2d2", "bdd100k", "idd", "kitti", "rellis3d", "rugd", "vistas", "vspw", "recorded"
    ] = setting(
        "stills",
        "Kind of data set: labelled stills, the generated street, a published set by its name, or what lmanet adapt recorded.",
    )
    root: str | None = setting(None, "Folder of the data set.")
    val_root: str | None = setting(None, "stills: folder to validate on.")
    val_is_video: bool = setting(False, "stills: val_root is one video in the order of its names.")
    labels: str | None = setting(None, "stills: file with names and ignored ids; null: ROOT/labels.yaml.")
    exclude: str | None = setting(None, "stills: leave out images whose name this regular expression finds.")
    replay: str | None = setting(None, "recorded: folder of labelled stills with the same classes, not to be forgotten.")
    replay_share: float = setting(0.25, "recorded: share of these stills among the clips.", low=0.01, high=0.9)
    unlabelled: float = setting(0.0, "cityscapes: share of clips that end at a frame that the teacher labels.", low=0, high=1)
    seeds: int = setting(64, "street: number of towns to train on.", low=1)
    val_seeds: int = setting(8, "street: number of other towns to validate on.", low=1)
    val_first_seed: int = setting(1_000_000, "street: number of the first town to validate on, past those to train on.")
    clips: int = setting(2000, "street: number of clips to train on.", low=1)
    val_clips: int = setting(64, "street: number of clips to validate on.", low=1)
    degradations: str = setting(
        "none", "street: what images suffer, such as none,rain,fog3 (fog at level 3); one is drawn for each clip."
    )
    val_degradations: str = setting("none", "street: what images to validate on suffer.")
    cache: str | None = setting(None, "street: folder that keeps rendered frames.", live=True)
    size: str = setting("1024x512", "Size WxH that frames and label maps are brought to.")
    stride: int = setting(1, "Video frames from one frame of a clip to the next.", low=1)
    max_stride: int | None = setting(None, "Largest stride: that of each clip is drawn from stride to this.", low=1)
    # augmentation
    flip: bool = setting(True, "Mirror half of the clips.")
    shift: int = setting(2, "Move each clip by up to so many pixels; what comes in is void.", low=0)
    crop: str | None = setting(None, "Size WxH of a window that is cut out of each clip.")
    scale_min: float = setting(1.0, "Things in the window grow by at least this factor.")
    scale_max: float = setting(1.0, "Things in the window grow by at most this factor.")
    color: float = setting(0.0, "Largest share by which brightness, contrast and saturation change.")
    lost_blocks: float = setting(0.0, "Probability that a clip loses blocks of its picture, others in each frame.")
    motion: float = setting(1.0, "stills: strength of the camera motion that is made up.", low=0)
    degrade_past: float = setting(0.5, "stills: probability that past frames get noise, blur and occluders.", low=0, high=1)
    degrade_last: float = setting(0.0, "stills: probability that the last frame gets them.", low=0, high=1)
    # network
    memory_frames: int | None = setting(None, "Past frames in the memory (S); null: as the weights or the paper.")
    window: int | Literal["global"] | None = setting(None, "Side of the window (R); null: as the weights or the paper.")
    fusion: str | None = setting(None, "Fusion: gated, reduced-gated, concat or residual; null: as the weights or the paper.")
    position_bias: float | None = setting(None, "How much more a position reads what was near it; null: as the weights or 0.")
    motion_compensation: bool | None = setting(
        None, "Let the position bias count from where things have moved to; null: as the weights or false."
    )
    key_channels: int | None = setting(None, "Channels of a key (Dk); null: as the weights or the paper.")
    value_channels: int | None = setting(
        None, "Channels of a value (Dv); 0: the features themselves; null: as the weights or the paper."
    )
    pool: int | None = setting(
        None,
        "Side of the squares that features are averaged over before they are read; null: as the weights, or to stride 16 where "
        "they are finer than stride 8.",
    )
    whiten_keys: bool = setting(False, "Start with keys that are the features' principal components.")
    dropout: float | None = setting(None, "Highest dropout rate of any layer; null: as published.")
    # loss
    class_weights: Literal["auto", "none", "erfnet", "data"] = setting(
        "auto",
        "Weights of the classes. erfnet: Cityscapes' as published; data: counted in the set; auto: erfnet for cityscapes, "
        "else none.",
    )
    ohem: float = setting(1.0, "Share of the known pixels that count, the hardest first.", low=0, high=1)
    consistency: float = setting(0.0, "Weight of the temporal-consistency loss.", low=0)
    teacher: str | None = setting(None, "Single-frame weights to distil from.")
    distillation: float = setting(1.0, "Weight of the teacher's loss.", low=0)
    anchor: float = setting(0.0, "Weight of the squared distance of the weights from where they started.", low=0)
    cold_start: float = setting(0.0, "Probability that the memory of a batch is not full yet, or empty.", low=0, high=1)
    # optimiser
    epochs: int = setting(50, "Number of epochs.", low=1)
    epoch_clips: int | None = setting(None, "Number of clips in an epoch; null: the whole set.", low=1)
    max_steps: int | None = setting(None, "Stop after so many optimiser steps.", low=1)
    batch_size: int = setting(4, "Number of clips in a batch, over all devices.", low=1)
    accumulate: int = setting(1, "Number of batches to an optimiser step.", low=1)
    learning_rate: float = setting(2e-4, "Learning rate of Adam.")
    key_learning_rate: float = setting(1.0, "Learning rate of the keys' convolutions, as a share of learning_rate.", low=0)
    weight_decay: float = setting(1e-4, "Weight decay of Adam.", low=0)
    schedule: Literal["plateau", "cosine"] = setting(
        "plateau", "Schedule of the learning rate. plateau: x0.8 when the loss stops falling; cosine: down to 1e-8 at the end."
    )
    patience: int = setting(10, "plateau: epochs without a lower loss before the learning rate falls.", low=0)
    warmup_steps: int = setting(0, "cosine: optimiser steps with a rising learning rate.", low=0)
    clip_gradient: float | None = setting(None, "Longest gradient; a longer one is shortened to this.")
    seed: int = setting(0, "Seed of everything random.", low=0)
    # machine
    precision: Literal["auto", "32", "bf16", "16"] = setting(
        "32", "Precision of the arithmetic; weights stay 32. auto: bf16 where the machine computes in it, else 32."
    )
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", "Where to compute; auto: GPUs if any.", live=True)
    devices: int = setting(1, "Number of processes on this machine, one a device.", low=1, live=True)
    nodes: int = setting(1, "Number of machines.", low=1, live=True)
    workers: int = setting(1, "Number of processes that load data, for each device.", low=0, live=True)
    # run
    checkpoint_every: int = setting(500, "Optimiser steps from one writing of the resume file to the next.", low=1, live=True)
    log_every: int = setting(10, "Optimiser steps from one line of the log to the next.", low=1, live=True)
    progress: bool = setting(True, "Show a progress bar.", live=True)
    resume: bool = setting(False, "Go on with the run in OUT.", live=True)
    overwrite: bool = setting(False, "Replace the run in OUT.", live=True)
    check: bool = setting(False, "Only list what is wrong with the data.", live=True)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("learning_rate", "clip_gradient", "ohem"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be 0 or more and below 1, got {self.dropout}")
        if self.max_stride is not None and self.max_stride < self.stride:
            raise ConfigError(f"max_stride must be at least stride ({self.stride}), got {self.max_stride}")
        if self.data == "street" and self.val_first_seed < self.seeds:
            raise ConfigError(f"val_first_seed must be at least seeds ({self.seeds}), got {self.val_first_seed}")
        if self.batch_size % self.processes:
            raise ConfigError(f"batch_size must be a multiple of {self.processes} devices, got {self.batch_size}")
        if self.data != "street" and self.root is None:
            raise ConfigError(f"data: {self.data} needs root, the folder of the set")
        for name, needed in (("consistency", "clips"), ("whiten_keys", "keys")):
            if getattr(self, name) and self.single_frame:
                raise ConfigError(f"{name} needs {needed}: stage memory, joint or all, not {self.stage}")
        if self.unlabelled and self.teacher is None:
            raise ConfigError("unlabelled frames need a teacher: give its weights")
        if self.stage != "backbone" and self.weights is None:
            raise ConfigError(f"stage {self.stage} starts from trained weights; give weights, or train the backbone first")
        parse_size(self.size)
        self.augmentation()

    @property
    def processes(self) -> int:
        """On all machines, one a device."""
        return self.devices * self.nodes

    @property
    def single_frame(self) -> bool:
        """Whether the network is trained without a memory."""
        return self.stage in ("backbone", "decoder")

    @property
    def network_size(self) -> Size:
        """Of frames and label maps."""
        return parse_size(self.size)

    @property
    def largest_stride(self) -> int:
        """The longest step between frames of a clip."""
        return max(self.stride, self.max_stride or self.stride)

    @property
    def frame_interval_s(self) -> float | None:
        """Most time between the frames of a clip, seconds; None where motion is made up."""
        if self.data == "recorded":
            return self.largest_stride * ClipList.read(Path(self.root or "")).interval_s or None
        fps = _FRAMES_A_SECOND.get(self.data)
        return None if fps is None else self.largest_stride / fps

    def augmentation(self) -> AugmentConfig:
        """What happens to training clips."""
        crop = None if self.crop is None else parse_size(self.crop)
        return AugmentConfig(self.flip, self.shift, crop, self.scale_min, self.scale_max, self.color, self.lost_blocks)

    def memory(self, trained: MemoryConfig | None, architecture: str) -> MemoryConfig:
        """How the network shall remember: as told, else as the weights, else as the paper.

        Raises:
            ConfigError: widths or a fusion that the weights do not have.
        """
        default = trained or PAPER_MEMORY.get(architecture, OTHER_MEMORY if ":" in architecture else MemoryConfig())
        names = (
            "key_channels",
            "value_channels",
            "fusion",
            "window",
            "memory_frames",
            "position_bias",
            "motion_compensation",
            "pool",
        )
        told = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.window == "global":
            told["window"] = None
        told["frame_interval_s"] = self.frame_interval_s
        if self.fusion in ("residual", "reduced-gated") and self.fusion != default.fusion:  # they keep the features' width
            told.setdefault("value_channels", 0)
        config = replace(default, **told)
        if trained is not None:
            config.require_weights_of(trained)
        return config

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **overrides: Any) -> TrainConfig:
        """Read a flat YAML file of settings, some of them replaced.

        Raises:
            ConfigError: a file that cannot be read, an unknown setting, or a value out of range.
        """
        content = rename_old(read_options(path))
        refuse_unknown(path, content, [one.name for one in settings_of(cls)])
        try:
            return cls(**{**content, **overrides})
        except TypeError as error:  # a word where a number belongs
            raise ConfigError(f"config {path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """What stands in the way of resuming a run with the settings `saved`: "name: was … now …"."""
        now = self.to_dict()
        before = rename_old(saved)
        fixed = [one.name for one in settings_of(type(self)) if not one.setting.live]
        return [f"{name}: was {before.get(name)!r}, now {now[name]!r}" for name in fixed if before.get(name) != now[name]]


#: Of the videos in a data set.
_FRAMES_A_SECOND = {"street": 10.0, "cityscapes": 17.0}

#: The paper's memory by architecture: Dk, Dv, fusion, R, S.
PAPER_MEMORY = {"erfnet": MemoryConfig(), "pspnet101": MemoryConfig(128, 0, "reduced-gated", 21, 3)}

#: Of somebody else's model: what follows the memory is not trained in stage memory, so it starts as the identity.
OTHER_MEMORY = MemoryConfig(16, 0, "residual", 21, 4)
