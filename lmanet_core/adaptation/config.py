"""The settings of an adaptation: the same on the command line and in Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import parse_size
from lmanet_core.settings import check_settings, setting


@dataclass(frozen=True)
class AdaptConfig:
    """One adaptation.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    recordings: tuple[str, ...]  # videos, bags, folders of images
    out: str  # folder of the adaptation
    weights: str = setting("", "Weights to adapt, as of lmanet segment; empty: those that ship.")
    # recordings
    topic: str = setting("", "Image topic of bags; several cameras with commas.")
    fps: float | None = setting(None, "Frames a second of folders of images (the times in their names, or 10).")
    stills: bool = setting(False, "The images of the recordings are no video; needs judge, a recording that is one.")
    network_size: str = setting("auto", "Size WxH that the network sees; auto: as lmanet segment has it.")
    moments: int = setting(100, "Most frames that are given labels to learn from, those that differ most.", low=4, high=100_000)
    held_out: float = setting(0.3, "Share of each recording, its end, that is kept to judge.", low=0.05, high=0.9)
    judged_frames: int = setting(150, "Most frames of a recording that are judged.", low=2)
    judge: str = setting("", "Recordings to judge on, with commas; empty: the ends of those that are learned from.")
    guard: str = setting("", "Recordings of other cameras, with commas, on which the weights must not become worse.")
    labels: str = setting("", "Labels of what is judged, as of lmanet evaluate; nothing learns from them.")
    mapping: str = setting("", "What the ids of the labels mean, as of lmanet evaluate.")
    # statistics and teacher
    statistics: Literal["auto", "off"] = setting(
        "auto", "auto: measure the statistics of BatchNorm anew where labels then tell more of those of mirrored pictures."
    )
    gains: Literal["auto", "off"] = setting(
        "auto", "auto: train gains and biases of the first BatchNorm layers, too, where labels then tell more."
    )
    scales: str = setting("1", "Sizes at which the teacher looks at each frame, as shares of the network's, with commas.")
    teacher: str = setting("", "Weights of a second teacher with the same classes.")
    keep: float = setting(0.6, "Share of each class's pixels, the surest first, that are learned from.", low=0.05, high=1.0)
    sure: float = setting(
        0.9, "Pixels with at least this probability are learned from, whatever their class.", low=0.0, high=1.0
    )
    # student
    steps: int = setting(
        0, "Optimiser steps of a student, such as 300: steadier, seldom more right; 0: adapt statistics and gains alone.", low=0
    )
    batch_size: int = setting(4, "Clips in a step.", low=1)
    crop: float = setting(
        0.6, "Side of the windows that are learned from, as a share of the network's size.", low=0.2, high=1.0
    )
    learning_rate: float = setting(2e-4, "Learning rate of Adam.")
    all: bool = setting(False, "Train the encoder, too.")
    memory: bool = setting(True, "Give weights that have no feature memory one.")
    consistency: float = setting(0.2, "Weight of the temporal-consistency loss.", low=0)
    anchor: float = setting(1e-3, "Weight of the squared distance from where the weights started.", low=0)
    cold_start: float = setting(0.5, "Probability that the memory of a batch is not full, or empty.", low=0, high=1)
    lost_blocks: float = setting(0.25, "Probability that a clip loses blocks of its picture.", low=0, high=1)
    replay: str = setting("", "Folder of labelled stills with the same classes, which are not to be forgotten.")
    seed: int = setting(0, "Seed of everything random.", low=0)
    # machine
    precision: Literal["auto", "32", "bf16", "16"] = setting("auto", "Precision of the training.")
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", "Where to compute; auto: a GPU if there is one.")
    workers: int = setting(1, "Processes that load clips.", low=0)
    # run
    resume: bool = setting(False, "Go on with the adaptation in OUT.")
    overwrite: bool = setting(False, "Replace the adaptation in OUT.")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.recordings:
            raise ConfigError("lmanet adapt wants recordings: videos, bags or folders of images")
        if not self.out:
            raise ConfigError("out is missing: the folder for the adapted weights, the labels and the report")
        if self.stills and not self.judge:
            raise ConfigError("stills cannot be judged for steadiness: give judge, a recording of the same camera")
        if self.mapping and not self.labels:
            raise ConfigError("mapping says what labels mean: give labels, too, or leave it out")
        of_students = [name for name in ("teacher", "replay", "all") if getattr(self, name)]
        if of_students and not self.steps:
            raise ConfigError(f"{' and '.join(of_students)} are for a student: give steps, too, such as 300")
        if not self.learning_rate > 0.0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        self.teacher_scales()
        if self.network_size != "auto":
            parse_size(self.network_size)

    def teacher_scales(self) -> tuple[float, ...]:
        """The shares in `scales`; raises ConfigError where they are none."""
        try:
            scales = tuple(float(part) for part in self.scales.split(","))
        except ValueError:
            scales = ()
        if not scales or not all(math.isfinite(scale) and 0.25 <= scale <= 4.0 for scale in scales):
            raise ConfigError(f"scales are shares from 0.25 to 4 with commas, such as 0.75,1,1.25; got {self.scales!r}")
        return scales

    def learned_from(self) -> dict[str, Any]:
        """What the frames and their labels depend on besides the files: what a run that goes on must have the same."""
        live = ("out", "resume", "overwrite", "workers", "accelerator")
        return {name: value for name, value in vars(self).items() if name not in live}
