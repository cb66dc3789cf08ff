"""The settings of a training run: one flat list, the same on the command line, in YAML and in Python.

Knows nothing of Lightning, so that `lmanet train --help` and mistakes in a file cost no import of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml

from lmanet_core.data.augment import AugmentConfig
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size, parse_size
from lmanet_core.network import MemoryConfig
from lmanet_core.settings import describe_range

_T = TypeVar("_T")


def _option(default: _T, about: str, low: float = -math.inf, high: float = math.inf, *, may_change: bool = False) -> _T:
    """A setting with what `--help` says and its range, ends included; `may_change` when a run is resumed."""
    value: _T = field(default=default, metadata={"help": about, "low": low, "high": high, "may_change": may_change})
    return value


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults of loss, optimiser and schedule are the paper's.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    out: str = _option("", "Folder of the run, for weights, resume file and logs.", may_change=True)
    stage: Literal["backbone", "memory", "joint", "all"] = _option(
        "memory",
        "What is trained. backbone: the network on single frames; memory: the memory alone; joint: memory and decoder; "
        "all: memory, decoder and encoder.",
    )
    weights: str | None = _option(None, "Weights to start from, ours or published; null starts from nothing.")
    architecture: str = _option("erfnet", "Name of the backbone, where no weights say which.")
    reset_classifier: bool = _option(False, "Start the last layer anew, for other classes than those of the weights.")
    class_mapping: str | None = _option(
        None, "Start each class as the mean of the weights' classes that this mapping (as of lmanet evaluate) leads to it."
    )
    # data
    data: Literal["cityscapes", "stills", "street"] = _option("stills", "Kind of data set.")
    root: str | None = _option(None, "Folder of the data set.")
    val_root: str | None = _option(None, "stills: folder to validate on.")
    val_is_video: bool = _option(False, "stills: val_root is one video in the order of its names.")
    labels: str | None = _option(None, "stills: file with names and ignored ids; null: ROOT/labels.yaml.")
    exclude: str | None = _option(None, "stills: leave out images whose name this regular expression finds.")
    unlabelled: float = _option(0.0, "cityscapes: share of clips that end at a frame that the teacher labels.", 0, 1)
    seeds: int = _option(64, "street: number of towns to train on.", 1)
    val_seeds: int = _option(8, "street: number of other towns to validate on.", 1)
    val_first_seed: int = _option(1_000_000, "street: number of the first town to validate on, past those to train on.")
    clips: int = _option(2000, "street: number of clips to train on.", 1)
    val_clips: int = _option(64, "street: number of clips to validate on.", 1)
    degradations: str = _option(
        "none", "street: what images suffer, such as none,rain,fog3 (fog at level 3); one is drawn for each clip."
    )
    val_degradations: str = _option("none", "street: what images to validate on suffer.")
    cache: str | None = _option(None, "street: folder that keeps rendered frames.", may_change=True)
    size: str = _option("1024x512", "Size WxH that frames and label maps are brought to.")
    stride: int = _option(1, "Video frames from one frame of a clip to the next.", 1)
    max_stride: int | None = _option(None, "Largest stride: that of each clip is drawn from stride to this.", 1)
    # augmentation
    flip: bool = _option(True, "Mirror half of the clips.")
    shift: int = _option(2, "Move each clip by up to so many pixels; what comes in is void.", 0)
    crop: str | None = _option(None, "Size WxH of a window that is cut out of each clip.")
    scale_min: float = _option(1.0, "Things in the window grow by at least this factor.")
    scale_max: float = _option(1.0, "Things in the window grow by at most this factor.")
    color: float = _option(0.0, "Largest share by which brightness, contrast and saturation change.")
    lost_blocks: float = _option(0.0, "Probability that a clip loses blocks of its picture, others in each frame.")
    motion: float = _option(1.0, "stills: strength of the camera motion that is made up.", 0)
    spoil_past: float = _option(0.5, "stills: probability that past frames get noise, blur, exposure and occluders.", 0, 1)
    spoil_last: float = _option(0.0, "stills: probability that the last frame gets them.", 0, 1)
    # network
    memory_frames: int | None = _option(None, "Past frames in the memory (S); null: as the weights or the paper.")
    window: int | Literal["global"] | None = _option(None, "Side of the window (R); null: as the weights or the paper.")
    fusion: str | None = _option(None, "Fusion: gated, reduced-gated, concat or residual; null: as the weights or the paper.")
    nearness: float | None = _option(None, "How much more a position reads what was near it; null: as the weights or 0.")
    follow_motion: bool | None = _option(
        None, "Let nearness count from where things have moved to; null: as the weights or false."
    )
    key_channels: int | None = _option(None, "Channels of a key (Dk); null: as the weights or the paper.")
    value_channels: int | None = _option(
        None, "Channels of a value (Dv); 0: the features themselves; null: as the weights or the paper."
    )
    whiten_keys: bool = _option(False, "Start with keys that are the features' principal components.")
    dropout: float | None = _option(None, "Highest dropout rate of any layer; null: as published.")
    # loss
    class_weights: Literal["auto", "none", "erfnet", "data"] = _option(
        "auto",
        "Weights of the classes. erfnet: Cityscapes' as published; data: counted in the set; auto: erfnet for cityscapes, "
        "else none.",
    )
    ohem: float = _option(1.0, "Share of the known pixels that count, the hardest first.")
    consistency: float = _option(0.0, "Weight of the temporal-consistency loss.", 0)
    teacher: str | None = _option(None, "Single-frame weights to distil from.")
    distillation: float = _option(1.0, "Weight of the teacher's loss.", 0)
    cold_start: float = _option(0.0, "Probability that the memory of a batch is not full yet, or empty.", 0, 1)
    # optimiser
    epochs: int = _option(50, "Number of epochs.", 1)
    epoch_clips: int | None = _option(None, "Number of clips in an epoch; null: the whole set.", 1)
    max_steps: int | None = _option(None, "Stop after so many optimiser steps.", 1)
    batch_size: int = _option(4, "Number of clips in a batch, over all devices.", 1)
    accumulate: int = _option(1, "Number of batches to an optimiser step.", 1)
    learning_rate: float = _option(2e-4, "Learning rate of Adam.")
    key_learning_rate: float = _option(1.0, "Learning rate of the keys' convolutions, as a share of learning_rate.", 0)
    weight_decay: float = _option(1e-4, "Weight decay of Adam.", 0)
    schedule: Literal["plateau", "cosine"] = _option(
        "plateau", "Schedule of the learning rate. plateau: x0.8 when the loss stops falling; cosine: down to 1e-8 at the end."
    )
    patience: int = _option(10, "plateau: epochs without a lower loss before the learning rate falls.", 0)
    warmup_steps: int = _option(0, "cosine: optimiser steps with a rising learning rate.", 0)
    clip_gradient: float | None = _option(None, "Longest gradient; a longer one is shortened to this.")
    seed: int = _option(0, "Seed of everything random.", 0)
    # machine
    precision: Literal["auto", "32", "bf16", "16"] = _option(
        "32", "Precision of the arithmetic; weights stay 32. auto: bf16 where the machine computes in it, else 32."
    )
    accelerator: Literal["auto", "cpu", "gpu"] = _option("auto", "Where to compute; auto: GPUs if any.", may_change=True)
    devices: int = _option(1, "Number of processes on this machine, one a device.", 1, may_change=True)
    nodes: int = _option(1, "Number of machines.", 1, may_change=True)
    workers: int = _option(1, "Number of processes that load data, for each device.", 0, may_change=True)
    # run
    checkpoint_every: int = _option(500, "Optimiser steps from one writing of the resume file to the next.", 1, may_change=True)
    log_every: int = _option(10, "Optimiser steps from one line of the log to the next.", 1, may_change=True)
    progress: bool = _option(True, "Show a progress bar.", may_change=True)
    resume: bool = _option(False, "Go on with the run in OUT.", may_change=True)
    overwrite: bool = _option(False, "Replace the run in OUT.", may_change=True)
    check: bool = _option(False, "Only list what is wrong with the data.", may_change=True)

    def __post_init__(self) -> None:
        for item in fields(self):
            low, high, value = item.metadata["low"], item.metadata["high"], getattr(self, item.name)
            if value is not None and low > -math.inf and not low <= value <= high:
                raise ConfigError(f"{item.name} must be {describe_range(low, high, '')}, got {value}")
        for name in ("learning_rate", "clip_gradient"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be 0 or more and below 1, got {self.dropout}")
        if not 0 < self.ohem <= 1:
            raise ConfigError(f"ohem must be a share above 0 and at most 1, got {self.ohem}")
        if self.max_stride is not None and self.max_stride < self.stride:
            raise ConfigError(f"max_stride must be at least stride ({self.stride}), got {self.max_stride}")
        if self.data == "street" and self.val_first_seed < self.seeds:
            raise ConfigError(f"val_first_seed must be at least seeds ({self.seeds}), got {self.val_first_seed}")
        if self.batch_size % self.processes:
            raise ConfigError(f"batch_size must be a multiple of {self.processes} devices, got {self.batch_size}")
        if self.data != "street" and self.root is None:
            raise ConfigError(f"data: {self.data} needs root, the folder of the set")
        for name, needed in (("consistency", "clips"), ("whiten_keys", "keys")):
            if getattr(self, name) and self.stage == "backbone":
                raise ConfigError(f"{name} needs {needed}: stage memory, joint or all, not backbone")
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
    def network_size(self) -> Size:
        """Of frames and label maps."""
        return parse_size(self.size)

    @property
    def largest_stride(self) -> int:
        """The longest step between frames of a clip."""
        return max(self.stride, self.max_stride or self.stride)

    def augmentation(self) -> AugmentConfig:
        """What happens to training clips."""
        crop = None if self.crop is None else parse_size(self.crop)
        return AugmentConfig(self.flip, self.shift, crop, self.scale_min, self.scale_max, self.color, self.lost_blocks)

    def memory(self, trained: MemoryConfig | None, architecture: str) -> MemoryConfig:
        """How the network shall remember: as told, else as the weights, else as the paper.

        Raises:
            ConfigError: widths or a fusion that the weights do not have.
        """
        default = trained or PAPER_MEMORY.get(architecture, MemoryConfig())
        names = ("key_channels", "value_channels", "fusion", "window", "memory_frames", "nearness", "follow_motion")
        told = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.window == "global":
            told["window"] = None
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
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read config {path}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"config {path}: wanted 'setting: value' lines, got {type(content).__name__}")
        known = [item.name for item in fields(cls)]
        for key in content:
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                raise ConfigError(f"config {path}: unknown setting {key!r}{f'; did you mean {near[0]}?' if near else ''}")
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
        fixed = [item.name for item in fields(self) if not item.metadata["may_change"]]
        return [f"{name}: was {saved.get(name)!r}, now {now[name]!r}" for name in fixed if saved.get(name) != now[name]]


#: The paper's memory by architecture: Dk, Dv, fusion, R, S.
PAPER_MEMORY = {"erfnet": MemoryConfig(), "pspnet101": MemoryConfig(128, 0, "reduced-gated", 21, 3)}


def option_types() -> dict[str, tuple[Any, Any, str]]:
    """Name → type, default, help of every setting."""
    types = get_type_hints(TrainConfig)
    return {item.name: (types[item.name], item.default, item.metadata["help"]) for item in fields(TrainConfig)}
