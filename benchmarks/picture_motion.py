"""How well a motion-compensated memory knows where things are by now, and what that costs.

* Generated street: distance between where the cells of the frame before are measured to be and where the optical flow of the
  intact images at full size has them, in cells of 8 pixels, beside the distance of cells that stay where they were. Everywhere,
  and where the later frame has lost its picture. Followed on the host (OpenCV) and as a GPU does it, here on the CPU.
* Recordings: grey levels between a frame and the one before, as it was and moved as measured.
* Time of a streamed frame with the memory on, motion followed against not, the weights that ship.

No goals: design figures.

    python benchmarks/picture_motion.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from recording import ROOT, describe_run, finish, median_ratio, time_alternately
from street_ceiling import flows_to_past, warped

from lmanet_core.experiments.clip_sets import make_conditions
from lmanet_core.experiments.sets import evaluation_config
from lmanet_core.geometry import Size, feature_grid
from lmanet_core.media import open_frames
from lmanet_core.stream.dense_flow import DenseFlow
from lmanet_core.stream.device_motion import BlockMotion
from lmanet_core.stream.motion import PictureMotion, follow, grey_thumbnail
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

CONDITIONS = ("none", "blocks", "blocks2", "blocks3", "noise3", "night3", "rain3", "blur3", "occlusion3", "mixed3")
RECORDINGS = ("video/solidWhiteRight.mp4", "bags/camvid_0016E5_15hz_mcap", "bags/robologs_tiny_svo.bag")
STRIDE = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with recordings")
    parser.add_argument("--cache", help="folder of rendered frames")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=60, help="of each recording")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    result = {
        "run": describe_run(),
        "cells_away": on_the_street(arguments.clips, arguments.cache),
        "grey_levels_apart": {
            name: on_a_recording(arguments.data / name, arguments.frames)
            for name in RECORDINGS
            if (arguments.data / name).exists()
        },
        "following_over_not": {f"{size}": cost(size, arguments.rounds) for size in (Size(256, 512), Size(512, 1024))},
    }
    return finish(result, {}, ("cells_away", "grey_levels_apart", "following_over_not"), arguments.json)


def on_the_street(clips: int, cache: str | None) -> dict[str, dict[str, str]]:
    """Mean (median) distance in cells."""
    config = evaluation_config("street", **({"cache": cache} if cache else {}))
    found: dict[str, dict[str, str]] = {}
    for condition in make_conditions(config, CONDITIONS):
        away: dict[str, list[np.ndarray]] = {}
        for index in range(clips):
            frames, clean = (
                source.clip(index, 2, 1, np.random.default_rng((index, 1))).frames
                for source in (condition.source, condition.clean or condition.source)
            )
            seen = frames if condition.degrade is None else condition.degrade(frames, np.random.default_rng((index, 2)))
            grid = feature_grid(Size(*frames.shape[1:3]), STRIDE)
            home = np.indices(grid).astype(np.float32)
            truth = home + to_cells(flows_to_past(clean[::-1])[0], grid)  # from the first to the second
            lost = (seen[-1] != clean[-1]).any(-1).astype(np.float32)
            gone = cv2.resize(lost, grid[::-1], interpolation=cv2.INTER_AREA) > 0.5
            ways = {"stay": home, "followed": follow(seen, grid)[1][0], "on a device": followed_on_a_device(*seen, grid)}
            for name, places in ways.items():
                distance = np.hypot(*(places - truth))
                away.setdefault(name, []).append(distance.ravel())
                if condition.degrade is not None:
                    away.setdefault(f"{name}, where lost", []).append(distance[gone])
        joined = {name: np.concatenate(parts) for name, parts in away.items()}
        found[condition.name] = {name: f"{one.mean():.2f} ({np.median(one):.2f})" for name, one in joined.items()}
    return found


@torch.inference_mode()
def followed_on_a_device(before: np.ndarray, after: np.ndarray, grid: Size) -> np.ndarray:
    """As the first of `follow(…)[1]`."""
    small = [torch.from_numpy(grey_thumbnail(frame)).float() for frame in (before, after)]
    return np.indices(grid).astype(np.float32) + cells_moved(small, grid)


def cells_moved(small: list[torch.Tensor], grid: Size) -> np.ndarray:
    size, cpu = Size(*small[0].shape), torch.device("cpu")
    flow = DenseFlow(size, cpu)(*(one[None] for one in small))[0]
    return BlockMotion(size, grid, cpu)(*small, flow).numpy()


def to_cells(flow: np.ndarray, grid: Size) -> np.ndarray:
    small = cv2.resize(flow, grid[::-1], interpolation=cv2.INTER_AREA) / STRIDE
    return np.asarray(small.transpose(2, 0, 1)[::-1])


@torch.inference_mode()
def on_a_recording(path: Path, frames: int) -> dict[str, float]:
    motion, pairs = PictureMotion(), []
    with open_frames(path) as source:
        greys = [grey_thumbnail(frame.image) for frame in itertools.islice(source, frames)]
    for before, after in itertools.pairwise(greys):
        size = Size(*before.shape)
        moved = [motion.measure(before, after) * np.float32(size)[:, None, None]]
        blocks = Size(*moved[0].shape[1:])
        small = [torch.from_numpy(one).float() for one in (before, after)]
        moved.append(cells_moved(small, blocks) * (np.float32(size) / np.float32(blocks))[:, None, None])
        apart = [float(np.abs(before - after.astype(np.float32)).mean())]
        for down, right in ([cv2.resize(plane, size[::-1]) for plane in one] for one in moved):
            apart.append(float(np.abs(before - warped(after, np.dstack((right, down)))).mean()))
        pairs.append(apart)
    return {
        way: round(float(mean), 2) for way, mean in zip(("stay", "followed", "on a device"), np.mean(pairs, 0), strict=True)
    }


def cost(size: Size, rounds: int) -> float:
    """Time of a frame with the memory full, motion followed, over the same not followed."""
    model = load_model(default_weights())
    assert model.config.memory is not None
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (size.height // 8, size.width // 4, 3), np.uint8), (2 * size.width, size.height))
    there = list(range(0, size.width // 4, 8))
    views = [scene[:, shift : shift + size.width] for shift in (*there, *reversed(there))]

    def stream(follows: bool) -> Callable[[], object]:
        memory = replace(model.config.memory, motion_compensation=follows)
        segmenter = VideoSegmenter(prepare(model, "cpu", memory=memory))
        frames = zip(itertools.cycle(views), itertools.count(0, 10**8), strict=False)
        for _ in range(memory.memory_frames):
            segmenter.step(*next(frames))
        return lambda: segmenter.step(*next(frames))

    times = time_alternately({"followed": stream(True), "not": stream(False)}, rounds)
    return round(median_ratio(times, "followed", "not"), 3)


if __name__ == "__main__":
    sys.exit(main())
