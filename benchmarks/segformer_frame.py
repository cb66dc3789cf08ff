"""A streamed frame of somebody else's model on a CPU: SegFormer-b0 at 512×1024, with either memory, both, neither.

Random weights; time does not depend on them. The memory (residual) reads the features before the last layer, which are at
stride 4 and 256 channels wide, averaged to stride 16 (`pool` 4, as training chooses) or 8 (`pool` 2). Wanted: both memories at
most 1.15 times neither, as training chooses. Needs transformers.

    python benchmarks/segformer_frame.py --json benchmarks/results/segformer_frame.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from recording import describe_run, finish, median_ratio, summarize, time_alternately

from lmanet_core.network import LMANet, MemoryConfig
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.training.config import OTHER_MEMORY
from lmanet_core.weights.adapters import wrap_module
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import prepare

GOAL = 1.15
HEIGHT, WIDTH = 512, 1024
CHOSEN = replace(OTHER_MEMORY, pool=4)  # at stride 4
MEMORIES = {
    "as training chooses": CHOSEN,
    "small": replace(CHOSEN, memory_frames=3, window=9),
    "stride 8": replace(CHOSEN, pool=2),
    "small, stride 8": replace(CHOSEN, memory_frames=3, window=9, pool=2),
}
OF_GOAL = "as training chooses"


def build(classes: int, memory: MemoryConfig) -> Model:
    torch.manual_seed(0)
    network = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=classes))  # b0
    model = wrap_module(network, labels=[f"class {number}" for number in range(classes)])
    torch.manual_seed(0)
    return replace(model, network=LMANet(model.network.backbone, memory).eval(), config=replace(model.config, memory=memory))


def measure(classes: int, memory: MemoryConfig, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Times of each way, and the stages of the one with both memories."""
    runtime = prepare(build(classes, memory), "cpu")
    coarse = np.random.default_rng(0).integers(0, 256, (4, HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    frames = coarse.repeat(8, 1).repeat(8, 2)
    one_scene = ContinuityConfig(gap_s=1e6, scene_cut_similarity=0.0, blind=False)
    ways = {"neither": (False, False), "label memory": (False, True), "feature memory": (True, False), "both": (True, True)}
    segmenters = {
        name: VideoSegmenter(
            runtime,
            SegmenterConfig(network_size=f"{WIDTH}x{HEIGHT}", memory=features, label_memory=labels, continuity=one_scene),
        )
        for name, (features, labels) in ways.items()
    }
    count = 0
    stages: dict[str, list[float]] = {}

    def step(name: str) -> None:
        nonlocal count
        count += 1
        result = segmenters[name].step(frames[count // len(ways) % len(frames)], count * 10_000_000)
        if name == "both" and result.memory_frames == memory.memory_frames:
            for stage, milliseconds in result.timings_ms.items():
                stages.setdefault(stage, []).append(milliseconds)

    for _ in range(memory.memory_frames):  # fill the memories
        for name in ways:
            step(name)
    times = time_alternately({name: lambda name=name: step(name) for name in ways}, rounds)
    return times, {stage: round(statistics.median(values), 1) for stage, values in stages.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    result = {"run": describe_run(), "transformers": transformers.__version__, "classes": arguments.classes}
    for name, memory in MEMORIES.items():
        times, stages = measure(arguments.classes, memory, arguments.rounds)
        ratios = {way: round(median_ratio(times, way, "neither"), 3) for way in times if way != "neither"}
        how = {"S": memory.memory_frames, "R": memory.window, "pool": memory.pool}
        result[name] = {**how, "over_neither": ratios, "frame": summarize(times), "stages_both_ms": stages}
    reached = result[OF_GOAL]["over_neither"]["both"]
    checks = {f"both memories / neither, {OF_GOAL}: {reached}, wanted ≤ {GOAL}": reached <= GOAL}
    return finish(result, checks, tuple(MEMORIES), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
