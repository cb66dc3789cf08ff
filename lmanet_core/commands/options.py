"""The options of a segmenter, the same for every command that segments, and the segmenter they make."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from lmanet_core.errors import ConfigError
from lmanet_core.network import MemoryConfig
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import prepare


def add_segmenter_options(parser: ArgumentParser) -> None:
    """Device, precision, memory, sizes and continuity."""
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", type=Literal["auto", "fp32", "bf16", "fp16"], default="auto", help="of the network")
    parser.add_argument("--memory", type=bool, default=True, help="false: every frame by itself")
    parser.add_argument("--memory-frames", type=int | None, default=None, help="past frames kept (S); default as trained")
    parser.add_argument("--memory-interval", type=float, default=0.0, help="least seconds between remembered frames")
    parser.add_argument("--window", type=int | Literal["global"] | None, default=None, help="side of the window, odd or global")
    parser.add_argument("--network-size", type=str, default="auto", help="WxH that the network sees")
    parser.add_argument("--output-size", type=str, default="input", help="of label maps: input, network or WxH")
    parser.add_argument("--resize", type=Literal["stretch", "letterbox", "crop"], default="stretch", help="how the sizes meet")
    parser.add_argument("--upsample", type=Literal["labels", "logits"], default="labels", help="logits: finer borders, slower")
    parser.add_argument("--gap", type=float, default=ContinuityConfig.gap_s, help="a pause of more seconds clears the memory")
    parser.add_argument("--scene-cut", type=bool, default=True, help="clear the memory when the picture changes abruptly")


def make_segmenter(model: Model, options: Namespace) -> VideoSegmenter:
    """A segmenter for these weights with the options of `add_segmenter_options`.

    Raises:
        ConfigError: options that contradict each other or the weights.
    """
    memory: MemoryConfig | None = None
    if model.config.memory is None:
        given = [name for name in ("window", "memory_frames", "memory_interval") if options[name]]
        if given:
            option = given[0].replace("_", "-")
            raise ConfigError(f"--{option} was given, but these weights have no memory (single-frame network)")
    elif options.window is not None:
        memory = replace(model.config.memory, window=None if options.window == "global" else options.window)
    runtime = prepare(model, options.device, options.precision, memory)
    config = SegmenterConfig(
        memory=options.memory,
        memory_frames=options.memory_frames,
        memory_interval_s=options.memory_interval,
        network_size=options.network_size,
        output_size=options.output_size,
        resize=options.resize,
        upsample=options.upsample,
        continuity=ContinuityConfig(gap_s=options.gap, scene_cut=options.scene_cut),
    )
    return VideoSegmenter(runtime, config)


def describe_segmenter(segmenter: VideoSegmenter, model: Model) -> str:
    """One line for people: weights, device, precision, memory."""
    in_use = segmenter.runtime.config.memory
    if in_use is None:
        state = "off: these weights have none, frames are segmented one by one"
    elif segmenter.memory_enabled:
        state = f"{segmenter.config.memory_frames or in_use.memory_frames} frames, window {in_use.window or 'global'}"
    else:
        state = "off"
    return f"{model.source} on {segmenter.runtime.device} in {segmenter.runtime.precision}; memory {state}"
