"""Time and memory of a streamed frame, measured in a process of its own: `python -m lmanet_core.experiments.cost …`.

Time does not depend on values, so single-frame weights get a memory with random ones.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace

import numpy as np
import torch

from lmanet_core.geometry import parse_size
from lmanet_core.network import MemoryConfig
from lmanet_core.process import keep_freed_memory
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, build_network, load_model
from lmanet_core.weights.runtime import prepare

WARM_UP, FRAMES = 6, 40


def measure(weights: str, size: str, window: str, memory_frames: int, device: str, precision: str) -> dict[str, object]:
    """Stream noise of this size with a full memory.

    Args:
        weights: a file of any understood kind.
        size: "WxH" of the network's input.
        window: "none" (single frames), "global" or the side R.
        memory_frames: S.
        device, precision: see `prepare`.

    Returns:
        "frame_ms": one value a frame; "read_frames": how many the last one read; "peak_mb": peak of the device's memory on
        CUDA, of the process elsewhere.
    """
    model = _with_memory(load_model(weights), window, memory_frames)
    one_scene = ContinuityConfig(scene_cut_similarity=0.0, blind=False)  # noise is neither a cut nor blindness
    settings = SegmenterConfig(memory=window != "none", label_memory=False, network_size=size, continuity=one_scene)
    segmenter = VideoSegmenter(prepare(model, device, precision), settings)
    height, width = parse_size(size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    frame_ms = []
    for number in range(WARM_UP + FRAMES):
        result = segmenter.step(images[number % len(images)], (number + 1) * 100_000_000)
        frame_ms.append(result.timings_ms["total"])
    on_cuda = segmenter.runtime.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"frame_ms": frame_ms[WARM_UP:], "read_frames": result.memory_frames, "peak_mb": peak / 1e6}


def _with_memory(model: Model, window: str, memory_frames: int) -> Model:
    if window == "none":
        return model
    memory = replace(
        model.config.memory or MemoryConfig(), window=None if window == "global" else int(window), memory_frames=memory_frames
    )
    config = replace(model.config, memory=memory)
    torch.manual_seed(0)
    network = build_network(config)
    network.load_state_dict(model.network.state_dict(), strict=False)
    return Model(network.eval(), config, model.source)


if __name__ == "__main__":
    keep_freed_memory()  # as `lmanet` does
    weights, size, window, frames, device, precision = sys.argv[1:]
    print(json.dumps(measure(weights, size, window, int(frames), device, precision)))
