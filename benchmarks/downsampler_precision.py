"""Do ERFNet's downsamplers have to stay in float32 when the rest runs in half precision? Decided by labels, on a CPU.

Labels of the network alone (no memory) in half precision, with the downsamplers in float32 and without, against all of it in
float32. A CPU rounds float16 and bfloat16 where a GPU does, after each layer, but adds up in another order.

    python benchmarks/downsampler_precision.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from recording import ROOT, describe_run, finish

from lmanet_core.media import open_frames
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

#: By how much agreement with float32 may fall where the downsamplers are in half precision, too.
ALLOWED = 0.0005


def make_segmenter(weights: Path, precision: str, downsamplers_in_float32: bool, size: str) -> VideoSegmenter:
    model = load_model(weights)
    model.network.backbone.sensitive_to = (torch.float16, torch.bfloat16) if downsamplers_in_float32 else ()
    return VideoSegmenter(prepare(model, "cpu", precision), SegmenterConfig(network_size=size, label_memory=False))


def measure(data: Path, every: int) -> dict[str, dict[str, float]]:
    """Recording → share of labels that are those of float32, by precision and what the downsamplers are in."""
    weights = data / "weights/erfnet_cityscapes.pth"
    sources = (("motorway", data / "video/solidWhiteRight.mp4", "480x272"), ("CamVid", data / "camvid/val/images", "640x480"))
    rows: dict[str, dict[str, float]] = {}
    for name, path, size in sources:
        exact = make_segmenter(weights, "fp32", True, size)
        others = {
            f"{precision}, downsamplers in {'fp32' if kept else precision}": make_segmenter(weights, precision, kept, size)
            for precision in ("fp16", "bf16")
            for kept in (True, False)
        }
        shares: dict[str, list[float]] = {which: [] for which in others}
        with open_frames(path) as frames:
            for number, frame in enumerate(frames):
                if number % every == 0:
                    wanted = exact.step(frame.image, frame.stamp_ns).labels
                    for which, segmenter in others.items():
                        shares[which].append(float((segmenter.step(frame.image, frame.stamp_ns).labels == wanted).mean()))
        rows[f"{name} {size}"] = {which: round(statistics.mean(found), 5) for which, found in shares.items()}
        rows[f"{name} {size}, worst frame"] = {which: round(min(found), 5) for which, found in shares.items()}
        rows[f"{name} {size}, frames"] = {which: len(found) for which, found in shares.items()}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with video, camvid and weights")
    parser.add_argument("--every", type=int, default=5, help="frames of a recording from one that is looked at to the next")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.every)
    lost = {
        name: round(row["fp16, downsamplers in fp32"] - row["fp16, downsamplers in fp16"], 5)
        for name, row in rows.items()
        if "," not in name
    }
    checks = {f"{name}: float16 throughout loses {share}, allowed {ALLOWED}": share <= ALLOWED for name, share in lost.items()}
    result = {"run": describe_run(), "labels_equal_to_float32": rows, "lost_by_float16_throughout": lost}
    return finish(result, checks, ("labels_equal_to_float32", "lost_by_float16_throughout"), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
