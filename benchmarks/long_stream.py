"""Ten thousand frames through one segmenter: resident memory must stay flat (±2 %), resets included.

python benchmarks/long_stream.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from recording import describe_run, finish, resident_mb

from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import MemoryConfig
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig, build_network
from lmanet_core.weights.runtime import prepare

HEIGHT, WIDTH = 64, 128
GOAL = 0.02
WARM_UP = 500  # frames in which libraries and allocators reach their size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig())
    segmenter = VideoSegmenter(prepare(Model(build_network(config).eval(), config)))
    scene = np.random.default_rng(0).integers(0, 256, (HEIGHT, 4 * WIDTH, 3), np.uint8)
    samples, resets = [], 0
    for number in range(arguments.frames):
        shift = number % (3 * WIDTH)  # a pan that jumps back: a scene cut, and a reset, every 384 frames
        result = segmenter.step(scene[:, shift : shift + WIDTH], number * 33_000_000)
        resets += result.discontinuity is not None
        if number >= WARM_UP and number % 100 == 0:
            samples.append(resident_mb())
    median = float(np.median(samples))
    deviation = max(abs(sample / median - 1) for sample in samples)
    result = {
        "run": describe_run(),
        "frames": arguments.frames,
        "resets": resets,
        "resident_mb": {"median": round(median, 1), "least": round(min(samples), 1), "most": round(max(samples), 1)},
        "largest_deviation": round(deviation, 4),
    }
    checks = {f"resident memory strays {deviation:.1%} from its median, wanted {GOAL:.0%}": deviation <= GOAL}
    return finish(result, checks, ("frames", "resets", "resident_mb", "largest_deviation"), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
