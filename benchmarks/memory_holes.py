"""What the memory is worth in the first frame after a hole: frames that were dropped, on the street and on CamVid.

    python benchmarks/memory_holes.py --data ../shared/data --json benchmarks/results/memory_holes.json

Frames come in runs, with a hole of 1 to 10 frames after each; the first frame after each hole is measured, with the memories
and without. Three drives of the generated street at 10 Hz with the shipped weights, the feature memory alone and both memories;
and CamVid's labelled clip at 15 Hz with ERFNet's published Cityscapes weights, which have no memory but that of labels.

Wanted: the memory loses at most 0.5 points of mIoU after any hole. `--gap 1` shows what happens where holes are no gaps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from recording import ROOT, describe_run, finish

from lmanet_core.frame import Frame
from lmanet_core.labels import CAMVID11, CITYSCAPES, UNLABELLED
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media import open_frames
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.generator import Street
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

Labels = npt.NDArray[np.uint8]
Clip = list[tuple[Frame, Labels]]  # frames with their truth
HOLES = tuple(range(11))  # frames
RUN = 5  # frames between two holes
MOST_LOST = 0.005
STREET_SEEDS = (5_000_000, 5_000_001, 5_000_002)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with camvid and weights")
    parser.add_argument("--frames", type=int, default=100, help="of each drive")
    parser.add_argument("--starts", type=int, default=2, help="places of the first hole that are tried")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds that clear the memory; 0: as by default")
    parser.add_argument("--only", choices=("street", "camvid"), help="measure only this")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    gap = ContinuityConfig(gap_s=arguments.gap)
    measured: dict[str, dict[str, dict[str, float]]] = {}
    if arguments.only != "camvid":
        drives = [drive(seed, arguments.frames) for seed in STREET_SEEDS]
        for name, label_memory in (("street, feature memory", False), ("street, both memories", True)):
            measured[name] = measure(default_weights(), drives, None, gap, arguments.starts, label_memory)
    if arguments.only != "street":
        weights, mapping = arguments.data / "weights/erfnet_cityscapes.pth", load_mapping("camvid11", CITYSCAPES)
        measured["camvid, label memory"] = measure(weights, [camvid(arguments.data)], mapping, gap, arguments.starts, True)
    result: dict[str, Any] = {"run": describe_run(), "run_frames": RUN, "measured": measured}
    checks = {
        f"{name}, hole of {hole}: {100 * row['gain']:+.2f} points of mIoU, wanted at least {-100 * MOST_LOST:+.1f}": (
            row["gain"] >= -MOST_LOST
        )
        for name, rows in measured.items()
        for hole, row in rows.items()
    }
    for name, rows in measured.items():
        for hole, row in rows.items():
            print(name, hole, row, flush=True)
    return finish(result, checks, (), arguments.json)


def drive(seed: int, frames: int) -> Clip:
    """The beginning of a drive through a generated town."""
    street = Street(StreetConfig(seed=seed))
    return [(Frame(one.image, one.stamp_ns), one.labels) for one in street.frames(0, frames)]


def camvid(data: Path) -> Clip:
    """CamVid's labelled clip."""
    with open_frames(data / "camvid/val/images", fps=15.0) as frames:
        return [(f, np.asarray(cv2.imread(str(data / f"camvid/val/labels/{f.name}.png"), -1), np.uint8)) for f in frames]


def measure(
    weights: Path, clips: Sequence[Clip], mapping: LabelMapping | None, gap: ContinuityConfig, starts: int, label_memory: bool
) -> dict[str, dict[str, float]]:
    """mIoU with and without memory in the first frames after holes, by the hole's length."""
    runtime = prepare(load_model(weights))
    remembers = runtime.config.memory is not None
    off = VideoSegmenter(runtime, SegmenterConfig(memory=False, label_memory=False))
    alone = [[off.step(frame.image, frame.stamp_ns).labels for frame, _ in clip] for clip in clips]
    rows = {}
    for hole in HOLES:
        matrices = [ConfusionMatrix(len((CAMVID11 if mapping else CITYSCAPES).names)) for _ in range(2)]
        resets = measured = 0
        for clip, single in zip(clips, alone, strict=True):
            for start in range(starts):
                config = SegmenterConfig(memory=remembers, label_memory=label_memory, continuity=gap)
                on = VideoSegmenter(runtime, config)
                before = -1
                for number in kept(len(clip), hole, start):
                    frame, truth = clip[number]
                    result = on.step(frame.image, frame.stamp_ns)
                    if before >= 0 and (number - before == hole + 1 if hole else True):
                        measured += 1
                        resets += result.discontinuity is not None
                        for matrix, labels in zip(matrices, (result.labels, single[number]), strict=True):
                            add(matrix, labels, truth, mapping)
                    before = number
        on_miou, off_miou = (matrix.mean_iou() for matrix in matrices)
        rows[str(hole)] = {
            "on": round(on_miou, 4), "off": round(off_miou, 4), "gain": round(on_miou - off_miou, 4), "frames": measured,
            "resets": resets,
        }  # fmt: skip
    return rows


def kept(count: int, hole: int, start: int) -> list[int]:
    """Numbers of the frames that are not dropped: runs of `RUN`, a hole after each."""
    period = RUN + hole
    shift = start * period // 2
    return [number for number in range(count) if (number + shift) % period < RUN]


def add(matrix: ConfusionMatrix, labels: Labels, truth: Labels, mapping: LabelMapping | None) -> None:
    """Count a frame; classes of the weights are led to those of the truth."""
    if mapping is None:
        matrix.update(labels, truth)
    else:
        void = mapping.is_void(labels)
        matrix.update(mapping.map_prediction(labels), np.where(void, UNLABELLED, mapping.map_truth(truth)).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
