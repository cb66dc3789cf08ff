"""The settings of a training run: one flat list, the same on the command line, in YAML and in Python.

Knows nothing of Lightning, so that `lmanet train --help` and mistakes in a file cost no import of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml

from lmanet_core.data.augment import AugmentConfig
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size, parse_size
from lmanet_core.network import MemoryConfig

_T = TypeVar("_T")


def _option(default: _T, about: str, *, may_change: bool = False) -> _T:
    """A setting with what `--help` says; `may_change` when a run is resumed."""
    value: _T = field(default=default, metadata={"help": about, "may_change": may_change})
    return value


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults of loss, optimiser and schedule are the paper's.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    out: str = _option("", "folder of the run: weights, resume file, logs", may_change=True)
    stage: Literal["backbone", "memory", "joint", "all"] = _option(
        "memory", "backbone: single frames; memory: encoder and decoder frozen; joint: encoder frozen; all: nothing frozen"
    )
    weights: str | None = _option(None, "start from these (ours or published); null: from nothing")
    architecture: str = _option("erfnet", "backbone, where no weights say which")
    reset_classifier: bool = _option(False, "start the last layer anew: other classes than the weights have")
    class_mapping: str | None = _option(
        None, "start the classes of the last layer as those of the weights that lead to them: a mapping, as of lmanet evaluate"
    )
    # data
    data: Literal["cityscapes", "stills", "street"] = _option("stills", "kind of data set")
    root: str | None = _option(None, "folder of the data set")
    val_root: str | None = _option(None, "stills: folder to validate on")
    val_is_video: bool = _option(False, "stills: val_root is one video in the order of its names; its past frames are used")
    labels: str | None = _option(None, "stills: names and ignored ids; null: ROOT/labels.yaml")
    exclude: str | None = _option(None, "stills: leave out images whose name this regular expression finds")
    train_split: str = _option("train", "cityscapes: folder to train on")
    val_split: str = _option("val", "cityscapes: folder to validate on")
    unlabelled: float = _option(0.0, "cityscapes: share of clips that end at a frame without labels, for the teacher to label")
    seeds: int = _option(64, "street: towns to train on")
    val_seeds: int = _option(8, "street: other towns to validate on")
    val_first_seed: int = _option(1_000_000, "street: number of the first of these, past those to train on")
    clips: int = _option(2000, "street: clips to train on")
    val_clips: int = _option(64, "street: clips to validate on")
    degradations: str = _option("none", "street: what images suffer, such as none,rain,fog3 (level 3); one drawn for each clip")
    val_degradations: str = _option("none", "street: the same for validation")
    cache: str | None = _option(None, "street: keep rendered frames in this folder", may_change=True)
    size: str = _option("1024x512", "WxH that frames and label maps are brought to")
    stride: int = _option(1, "video frames from one frame of a clip to the next")
    max_stride: int | None = _option(None, "draw the stride of each clip from stride to this")
    # augmentation
    flip: bool = _option(True, "mirror half of the clips")
    shift: int = _option(2, "move a clip by up to so many pixels; void comes in")
    crop: str | None = _option(None, "WxH window cut out of each clip")
    scale_min: float = _option(1.0, "things in the window grow by at least this")
    scale_max: float = _option(1.0, "things in the window grow by at most this")
    color: float = _option(0.0, "change brightness, contrast and saturation by up to this share")
    lost_blocks: float = _option(0.0, "probability that a clip loses blocks of its picture, others in each frame")
    motion: float = _option(1.0, "stills: strength of the made-up camera motion")
    spoil_past: float = _option(0.5, "stills: probability that past frames get noise, blur, exposure, occluders")
    spoil_last: float = _option(0.0, "stills: probability that the last frame does")
    # network
    memory_frames: int | None = _option(None, "S; null: as the weights or the paper")
    window: int | Literal["global"] | None = _option(None, "R; null: as the weights or the paper")
    fusion: str | None = _option(None, "gated, reduced-gated, concat, residual; null: as the weights or the paper")
    nearness: float | None = _option(None, "how much more a position reads what was near it; null: as the weights or 0")
    follow_motion: bool | None = _option(None, "nearness counts from where things have moved to; null: as the weights or false")
    key_channels: int | None = _option(None, "Dk; null: as the weights or the paper")
    value_channels: int | None = _option(None, "Dv, 0 for the features themselves; null: as the weights or the paper")
    whiten_keys: bool = _option(False, "start with keys that are the features' principal components")
    dropout: float | None = _option(None, "highest rate of any layer's dropout; null: as published")
    # loss
    class_weights: Literal["auto", "none", "erfnet", "data"] = _option(
        "auto", "erfnet: Cityscapes, as published; data: counted in the set; auto: erfnet for cityscapes, else none"
    )
    ohem: float = _option(1.0, "share of the known pixels that count, the hardest first")
    consistency: float = _option(0.0, "weight of the temporal-consistency loss")
    teacher: str | None = _option(None, "single-frame weights to distil from")
    distillation: float = _option(1.0, "weight of the teacher's loss")
    cold_start: float = _option(0.0, "probability that the memory of a batch is not full yet, or empty")
    # optimiser
    epochs: int = _option(50, "number of epochs")
    epoch_clips: int | None = _option(None, "clips in an epoch; null: the whole set")
    max_steps: int | None = _option(None, "stop after so many optimiser steps")
    batch_size: int = _option(4, "clips in a batch, over all devices")
    accumulate: int = _option(1, "batches to an optimiser step")
    learning_rate: float = _option(2e-4, "of Adam")
    key_learning_rate: float = _option(1.0, "of the keys' convolutions, as a share of learning_rate")
    weight_decay: float = _option(1e-4, "of Adam")
    schedule: Literal["plateau", "cosine"] = _option("plateau", "plateau: x0.8 after 10 epochs without a lower loss; cosine")
    patience: int = _option(10, "plateau: epochs")
    factor: float = _option(0.8, "plateau: of the learning rate")
    min_learning_rate: float = _option(1e-8, "lowest learning rate")
    warmup_steps: int = _option(0, "cosine: steps of rising learning rate")
    clip_gradient: float | None = _option(None, "longest gradient")
    seed: int = _option(0, "of everything random")
    # machine
    precision: Literal["auto", "32", "bf16", "16"] = _option(
        "32", "of the arithmetic; weights stay 32; auto: bf16 where the machine computes in it, else 32"
    )
    accelerator: Literal["auto", "cpu", "gpu"] = _option("auto", "where to compute", may_change=True)
    devices: int = _option(1, "processes on this machine, one a device", may_change=True)
    nodes: int = _option(1, "machines", may_change=True)
    workers: int = _option(1, "processes that load data, for each device", may_change=True)
    # run
    checkpoint_every: int = _option(500, "optimiser steps between writings of the resume file", may_change=True)
    log_every: int = _option(10, "optimiser steps between lines of the log", may_change=True)
    progress: bool = _option(True, "show a progress bar", may_change=True)
    resume: bool = _option(False, "go on with the run in OUT", may_change=True)
    overwrite: bool = _option(False, "replace the run in OUT", may_change=True)
    check: bool = _option(False, "only list what is wrong with the data", may_change=True)

    def __post_init__(self) -> None:
        _at_least(self, 1, "seeds", "val_seeds", "clips", "val_clips", "stride", "epochs", "batch_size", "accumulate")
        _at_least(self, 1, "max_stride", "epoch_clips", "max_steps", "devices", "nodes", "checkpoint_every", "log_every")
        _at_least(self, 0, "workers", "warmup_steps", "patience", "seed", "motion", "shift")
        _at_least(self, 0, "consistency", "distillation", "weight_decay", "min_learning_rate", "key_learning_rate")
        _within(self, "unlabelled", "cold_start", "spoil_past", "spoil_last")
        for name in ("learning_rate", "clip_gradient"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be 0 or more and below 1, got {self.dropout}")
        if not 0 < self.ohem <= 1:
            raise ConfigError(f"ohem must be a share above 0 and at most 1, got {self.ohem}")
        if not 0 < self.factor < 1:
            raise ConfigError(f"factor must lie between 0 and 1, got {self.factor}")
        if self.max_stride is not None and self.max_stride < self.stride:
            raise ConfigError(f"max_stride must be at least stride ({self.stride}), got {self.max_stride}")
        if self.data == "street" and self.val_first_seed < self.seeds:
            raise ConfigError(f"val_first_seed must be at least seeds ({self.seeds}), got {self.val_first_seed}")
        processes = self.devices * self.nodes
        if self.batch_size % processes:
            raise ConfigError(f"batch_size must be a multiple of {processes} devices, got {self.batch_size}")
        if self.data != "street" and self.root is None:
            raise ConfigError(f"data: {self.data} needs root, the folder of the set")
        if self.consistency and self.stage == "backbone":
            raise ConfigError("consistency needs clips: stage memory, joint or all, not backbone")
        if self.whiten_keys and self.stage == "backbone":
            raise ConfigError("whiten_keys is for keys: stage memory, joint or all, not backbone")
        if self.unlabelled and self.teacher is None:
            raise ConfigError("unlabelled frames need a teacher: give its weights")
        if self.stage != "backbone" and self.weights is None:
            raise ConfigError(f"stage {self.stage} starts from trained weights; give weights, or train the backbone first")
        parse_size(self.size)
        self.augmentation()

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
        paper = PAPER_MEMORY.get(architecture, MemoryConfig())
        default = trained or paper
        fusion = self.fusion or default.fusion
        keeps_width = fusion in ("residual", "reduced-gated")
        value = 0 if keeps_width and default.fusion != fusion else default.value_channels
        config = MemoryConfig(
            key_channels=default.key_channels if self.key_channels is None else self.key_channels,
            value_channels=value if self.value_channels is None else self.value_channels,
            fusion=fusion,
            window=default.window if self.window is None else None if self.window == "global" else self.window,
            memory_frames=default.memory_frames if self.memory_frames is None else self.memory_frames,
            softmax=default.softmax,
            border=default.border,
            nearness=default.nearness if self.nearness is None else self.nearness,
            follow_motion=default.follow_motion if self.follow_motion is None else self.follow_motion,
        )
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


#: As in the paper: Dk, Dv, fusion, R, S.
#: The paper's memory by architecture.
PAPER_MEMORY = {"erfnet": MemoryConfig(), "pspnet101": MemoryConfig(128, 0, "reduced-gated", 21, 3)}


def option_types() -> dict[str, tuple[Any, Any, str]]:
    """Name → type, default, help of every setting."""
    types = get_type_hints(TrainConfig)
    return {item.name: (types[item.name], item.default, item.metadata["help"]) for item in fields(TrainConfig)}


def _at_least(config: TrainConfig, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")


def _within(config: TrainConfig, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} must be 0–1, got {getattr(config, name)}")
