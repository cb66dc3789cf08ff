"""What it is worth to look at the picture beside the network: a streamed frame that does, against one that looks before.

    OMP_NUM_THREADS=1 python benchmarks/beside_network.py --data ../shared/data    # a core to spare, on two

Both memories where the weights have them, CPU, frames of the highway video at 480×272. Labels are the same.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from recording import ROOT, describe_run, finish, median_ratio, summarize, time_alternately

from lmanet_core.media import open_frames
from lmanet_core.stream.beside import Beside, done_at_once
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights


class Before(Beside):
    """Does the work at once."""

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        return done_at_once(work())


def measure(weights: Path, video: Path, rounds: int) -> dict:
    """Times of both ways, one frame of each in turn."""
    runtime, config = prepare(load_model(weights), "cpu"), SegmenterConfig(network_size="480x272")
    segmenters = {name: VideoSegmenter(runtime, config) for name in ("before", "beside")}
    segmenters["before"]._beside = Before()
    with open_frames(video) as source:
        frames = list(itertools.islice(source, rounds + 1))
    counts, labels = dict.fromkeys(segmenters, 0), {}

    def step(name: str) -> None:
        labels[name] = segmenters[name].step_frame(frames[counts[name]]).labels
        counts[name] += 1

    ways = {name: lambda name=name: step(name) for name in segmenters}
    times = time_alternately(ways, rounds)
    assert np.array_equal(labels["before"], labels["beside"])
    ratio = median_ratio(times, "beside", "before")
    return {"precision": runtime.precision, **summarize(times), "beside_over_before": round(ratio, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with video and weights")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    files = {"both memories": default_weights(), "label memory": options.data / "weights/erfnet_cityscapes.pth"}
    video = options.data / "video/solidWhiteRight.mp4"
    result: dict = {"run": describe_run(), **{name: measure(file, video, options.rounds) for name, file in files.items()}}
    worst = max(result[name]["beside_over_before"] for name in files)
    checks = {f"never slower ({worst:.3f} times)": worst <= 1.02}
    return finish(result, checks, tuple(files), options.json)


if __name__ == "__main__":
    sys.exit(main())
