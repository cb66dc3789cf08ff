"""Scene cuts where frames are dropped and pictures suffer: false ones on going-on drives, real ones on their very frame.

    python benchmarks/scene_cuts_in_time.py --data ../shared/data --json benchmarks/results/scene_cuts_in_time.json

Three drives of the generated street (10 Hz), a motorway (25 Hz) and CamVid's clip (15 Hz), with true stamps. Gaps are not
counted (`gap_s` is infinite): the detector alone has to know that more has changed in more time. Frames are dropped evenly and
at random; exposure jumps, heavy blur and lost blocks are put in.

Wanted: no false cut in 1000 frames of any condition; 99 % of the real cuts on the very frame, mirrored pictures among them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording import ROOT, describe_run, finish
from scene_cuts import Image, fit, read_still, read_video

from lmanet_core.frame import Discontinuity
from lmanet_core.stream.continuity import ContinuityConfig, ContinuityMonitor
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.generator import Street

LEAST_FRAMES = 1000  # of each condition
STREET_SEEDS = (5_000_000, 5_000_001, 5_000_002)
GOAL_RECALL = 0.99
CUTS = 300  # of each kind

Drive = tuple[list[Image], float]  # frames, and how many a second
Change = Callable[[Image, int, np.random.Generator], Image]  # frame and its number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with video and camvid")
    parser.add_argument("--frames", type=int, default=150, help="of each generated drive")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    drives = load(arguments.data, arguments.frames)
    false = {name: measure_false(drives, *condition) for name, condition in CONDITIONS.items()}
    real = measure_real(drives)
    result: dict[str, Any] = {"run": describe_run(), "false_cuts": false, "real_cuts": real}
    checks = {
        f"{name}: {row['false']} false cuts in {row['frames']} frames, wanted none": not row["false"]
        for name, row in false.items()
    }
    checks |= {
        f"{name}: {row['found']} of {row['cuts']} found, wanted {GOAL_RECALL:.0%}": row["found"] >= GOAL_RECALL * row["cuts"]
        for name, row in real.items()
    }
    for name, row in (false | real).items():
        print(f"{name:36s} {row}")
    return finish(result, checks, (), arguments.json)


def load(data: Path, frames: int) -> dict[str, Drive]:
    """Drives by name."""
    drives: dict[str, Drive] = {
        "motorway": ([fit(image) for image in read_video(data / "video/solidWhiteRight.mp4")], 25.0),
        "camvid": ([read_still(path) for path in sorted((data / "camvid/val/images").glob("*.jpg"))], 15.0),
    }
    for seed in STREET_SEEDS:
        street = Street(StreetConfig(seed=seed))
        drives[f"street {seed}"] = ([fit(one.image) for one in street.frames(0, frames)], 10.0)
    return drives


# ---- which frames come ----------------------------------------------------------------------------------------------------


def drop(low: int, high: int) -> Callable[[np.random.Generator], int]:
    """From one frame to the next, with so many dropped between them."""
    return lambda rng: 1 + int(rng.integers(low, high + 1))


def now_and_then(low: int, high: int) -> Callable[[np.random.Generator], int]:
    """Every frame, but for a hole at one in five."""
    return lambda rng: 1 + (int(rng.integers(low, high + 1)) if rng.random() < 0.2 else 0)


# ---- what becomes of them -------------------------------------------------------------------------------------------------


def keep(image: Image, number: int, rng: np.random.Generator) -> Image:
    return image


def overexpose(count: int) -> Change:
    """×3 + 40, `count` frames in 15."""
    return lambda image, number, rng: np.asarray(cv2.convertScaleAbs(image, alpha=3, beta=40)) if number % 15 < count else image


def blur(image: Image, number: int, rng: np.random.Generator) -> Image:
    """One frame in five, by 12 pixels of 640."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 12.0), np.uint8) if number % 5 == 4 else image


def lose_blocks(image: Image, number: int, rng: np.random.Generator) -> Image:
    """Four squares of 64 pixels of one colour, elsewhere in each frame."""
    image = image.copy()
    for _ in range(4):
        y, x = rng.integers(0, image.shape[0] - 64), rng.integers(0, image.shape[1] - 64)
        image[y : y + 64, x : x + 64] = rng.integers(0, 256, 3)
    return image


CONDITIONS: dict[str, tuple[Callable[[np.random.Generator], int], Change]] = {
    "as recorded": (drop(0, 0), keep),
    "every second frame": (drop(1, 1), keep),
    "every third frame": (drop(2, 2), keep),
    "1-3 dropped each time": (drop(1, 3), keep),
    "3-5 dropped each time": (drop(3, 5), keep),
    "1-3 dropped now and then": (now_and_then(1, 3), keep),
    "3-5 dropped now and then": (now_and_then(3, 5), keep),
    "one overexposed frame": (drop(0, 0), overexpose(1)),
    "five overexposed frames": (drop(0, 0), overexpose(5)),
    "heavy blur": (drop(0, 0), blur),
    "four squares": (drop(0, 0), lose_blocks),
}


# ---- measuring ------------------------------------------------------------------------------------------------------------


def measure_false(drives: dict[str, Drive], step: Callable[[np.random.Generator], int], change: Change) -> dict[str, Any]:
    """Scene cuts that are none, over all drives, again with other chance until there are enough frames of each."""
    frames = false = 0
    by_drive: dict[str, int] = {}
    for name, (images, fps) in drives.items():
        rng, seen = np.random.default_rng(7), 0
        while seen < LEAST_FRAMES:
            monitor = ContinuityMonitor(ContinuityConfig(gap_s=math.inf))
            place, number = int(rng.integers(0, 3)), 0
            while place < len(images):
                image = change(images[place], number, rng)
                cut = monitor.check(image, round(place * 1e9 / fps)).discontinuity is Discontinuity.SCENE_CUT
                by_drive[name] = by_drive.get(name, 0) + cut
                place, number, seen = place + step(rng), number + 1, seen + 1
        frames += seen
        false = sum(by_drive.values())
    return {"frames": frames, "false": false, "by_drive": {name: count for name, count in by_drive.items() if count}}


def measure_real(drives: dict[str, Drive]) -> dict[str, dict[str, int]]:
    """Cuts from a drive to another, and to its own mirror image, at full rate and with every second frame."""
    rows: dict[str, dict[str, int]] = {}
    for stride in (1, 2):
        for kind, pair in (("to another drive", _other), ("to the mirror image", _mirrored)):
            rng, found = np.random.default_rng(8), 0
            for before, after, period_ns in pair(drives, stride, rng):
                monitor = ContinuityMonitor(ContinuityConfig(gap_s=math.inf))
                causes = [monitor.check(image, i * period_ns).discontinuity for i, image in enumerate([*before, *after])]
                found += causes[len(before)] is Discontinuity.SCENE_CUT
            rows[f"{kind}{'' if stride == 1 else ', every second frame'}"] = {"cuts": CUTS, "found": found}
    return rows


_Spliced = Iterator[tuple[list[Image], list[Image], int]]  # before, after, nanoseconds between frames


def _other(drives: dict[str, Drive], stride: int, rng: np.random.Generator) -> _Spliced:
    for _ in range(CUTS):
        one, other = rng.choice(sorted(drives), 2, replace=False)
        images, fps = drives[one]
        yield _piece(images, stride, rng, 4), _piece(drives[other][0], stride, rng, 2), round(stride * 1e9 / fps)


def _mirrored(drives: dict[str, Drive], stride: int, rng: np.random.Generator) -> _Spliced:
    for _ in range(CUTS):
        images, fps = drives[rng.choice(sorted(drives))]
        piece = _piece(images, stride, rng, 6)
        yield piece[:4], [np.ascontiguousarray(image[:, ::-1]) for image in piece[4:]], round(stride * 1e9 / fps)


def _piece(images: list[Image], stride: int, rng: np.random.Generator, length: int) -> list[Image]:
    start = int(rng.integers(0, len(images) - length * stride))
    return images[start : start + length * stride : stride]


if __name__ == "__main__":
    sys.exit(main())
