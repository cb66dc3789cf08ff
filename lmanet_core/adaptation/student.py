"""The student's training run: settings of `lmanet_core.training` for clips out of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmanet_core.adaptation.config import AdaptConfig
from lmanet_core.data.recorded_clips import RecordedClips
from lmanet_core.geometry import Size
from lmanet_core.network import LMANet
from lmanet_core.stream.stream_plan import fit_to_backbone
from lmanet_core.training.config import OTHER_MEMORY, TrainConfig
from lmanet_core.training.run_files import RESUME

PAST = 3  # frames of a memory that is added
_WARM_UP = 0.1  # of the steps


def student_config(config: AdaptConfig, network: LMANet, start: str, clips: RecordedClips, folder: Path) -> TrainConfig:
    """The training run of a student.

    Args:
        config: see `AdaptConfig`.
        network: that it starts from.
        start: where its weights are.
        clips: that it learns from.
        folder: of the run.
    """
    backbone, new_memory = network.backbone, network.memory is None
    crop = Size(round(clips.size.height * config.crop), round(clips.size.width * config.crop))
    crop = fit_to_backbone(crop, crop.height * crop.width, backbone)
    remembers = config.memory or not new_memory
    memory: dict[str, Any] = {}
    if remembers and new_memory:
        memory = {"fusion": "residual", "memory_frames": PAST, "whiten_keys": True}
        keys = min(OTHER_MEMORY.key_channels, backbone.feature_channels)
        memory |= {"key_channels": keys, "window": OTHER_MEMORY.window}
    stage = "all" if config.all and remembers else "backbone" if config.all else "joint" if remembers else "decoder"
    return TrainConfig(
        out=str(folder),
        stage=stage,  # type: ignore[arg-type]
        weights=start,
        data="recorded",
        root=str(clips.root),
        size=str(clips.size),
        crop=None if crop == clips.size else str(crop),
        shift=0,
        color=0.1,
        lost_blocks=config.lost_blocks if remembers else 0.0,
        consistency=config.consistency if remembers else 0.0,
        cold_start=config.cold_start,
        anchor=config.anchor,
        replay=config.replay or None,
        epochs=1,
        epoch_clips=config.steps * config.batch_size,
        max_steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule="cosine",
        warmup_steps=round(_WARM_UP * config.steps),
        clip_gradient=1.0,
        seed=config.seed,
        precision=config.precision,
        accelerator=config.accelerator,
        workers=config.workers,
        checkpoint_every=50,
        resume=(folder / RESUME).is_file(),
        **memory,
    )
