"""How fast the generated street comes out of one core, clean and in every weather.

Wanted: at least 25 frames a second at 512×256 on one core, clean.

    OMP_NUM_THREADS=1 python benchmarks/street_rate.py --json benchmarks/results/street_rate.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
from recording import describe_run, resident_mb, write_json

from lmanet_core.geometry import parse_size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import DEGRADATIONS, Street, StreetConfig

GOAL_FPS = 25.0
SEEDS = (1, 2, 3)
_SEEN_PIXELS = 40  # at 512×256


def frame_times_ms(config: StreetConfig, frames: int) -> list[float]:
    """Processor time of each frame of a drive, new chunks of the town included; the first frame, which builds all, is not."""
    street = Street(config)
    street.frame(0)
    times = []
    for index in range(1, frames + 1):
        start = time.process_time()
        street.frame(index)
        times.append((time.process_time() - start) * 1e3)
    return times


def measure(width: int, height: int, frames: int) -> dict[str, dict[str, float]]:
    """Frames a second and times in milliseconds for every degradation at level 3, over several towns."""
    rates = {}
    for degradation in DEGRADATIONS:
        times: list[float] = []
        for seed in SEEDS:
            level = 0 if degradation == "none" else 3
            times += frame_times_ms(StreetConfig(width, height, seed=seed, degradation=degradation, level=level), frames)
        rates[degradation] = {
            "frames_per_s": round(1e3 / float(np.mean(times)), 1),
            "mean_ms": round(float(np.mean(times)), 2),
            "p95_ms": round(float(np.percentile(times, 95)), 2),
        }
    return rates


def class_shares(towns: int, every: int = 12, frames: int = 600) -> dict[str, dict[str, float]]:
    """Share of pixels, and of frames that show at least some, for each class."""
    pixels, seen, count = np.zeros(19), np.zeros(19), 0
    for seed in range(towns):
        street = Street(StreetConfig(seed=seed))
        for index in range(0, frames, every):
            found = np.bincount(street.frame(index).labels.ravel(), minlength=256)[:19]
            pixels += found
            seen += found >= _SEEN_PIXELS
            count += 1
    return {
        name: {"pixels_percent": round(100 * p / pixels.sum(), 3), "frames_percent": round(100 * s / count, 1)}
        for name, p, s in zip(CITYSCAPES.names, pixels.tolist(), seen.tolist(), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x256", help="WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=120, help="per town and degradation (default: %(default)s)")
    parser.add_argument("--towns", type=int, default=0, help="also count the classes in this many towns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    height, width = parse_size(arguments.size)
    rates = measure(width, height, arguments.frames)
    result = {
        **describe_run(),
        "size": arguments.size,
        "threads": 1,
        "time": "processor time of one thread",
        "seeds": list(SEEDS),
        "frames_per_seed": arguments.frames,
        "goal_frames_per_s": GOAL_FPS,
        "rates": rates,
        "resident_mb": round(resident_mb(), 1),
        **({"classes": class_shares(arguments.towns)} if arguments.towns else {}),
    }
    for name, rate in rates.items():
        print(
            f"{name:10s} {rate['frames_per_s']:6.1f} frames/s   mean {rate['mean_ms']:6.2f} ms   p95 {rate['p95_ms']:6.2f} ms"
        )
    for name, share in result.get("classes", {}).items():
        print(f"{name:14s} {share['pixels_percent']:7.3f} % of pixels   in {share['frames_percent']:5.1f} % of frames")
    if arguments.json:
        write_json(arguments.json, result)
    else:
        print(json.dumps({key: value for key, value in result.items() if key not in ("rates", "classes")}))


if __name__ == "__main__":
    main()
