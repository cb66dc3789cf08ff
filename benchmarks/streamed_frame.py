"""A streamed frame on a CPU: memory on against off, the default settings against plain PyTorch, and the labels' agreement.

ERFNet with the paper's memory (S=4, R=21) at 512×1024, random weights; time does not depend on them. Wanted: memory on at most
1.35 times memory off, label memory alone at most 1.08 times, both at most 1.45 times; the default settings at least 5 times
faster than the same network in eager float32 NCHW with the shift-and-multiply read. With ERFNet's trained weights on real
frames, at least 99.5 % of the network's labels equal float32's.

    python benchmarks/streamed_frame.py --data ../shared/data
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from lmanet_core.process import prepare_process

prepare_process()  # before PyTorch is loaded, as every command does

import numpy as np
import torch
from recording import ROOT, describe_run, finish, median_ratio, summarize, time_alternately

from lmanet_core.labels import CITYSCAPES
from lmanet_core.media import open_frames
from lmanet_core.network import LMANet, MemoryConfig
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig, build_network
from lmanet_core.weights.runtime import prepare

GOAL_MEMORY, GOAL_LABELS, GOAL_BOTH, GOAL_SPEEDUP, GOAL_AGREEMENT = 1.35, 1.08, 1.45, 5.0, 0.995
HEIGHT, WIDTH = 512, 1024
CONFIG = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig())


class EagerStream:
    """The same network as one would write it down: float32, NCHW, nothing folded, memory stacked, reference read."""

    def __init__(self, network: LMANet) -> None:
        self.network = network
        self.past = []

    @torch.inference_mode()
    def step(self, image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).contiguous().float() / 255
        features = self.network.encode(pixels)
        logits = self.network.decode(features, stack_memory(self.past), "reference")
        self.past = [*self.past, self.network.remember(features)][-CONFIG.memory.memory_frames :]
        return logits[:, : len(CITYSCAPES.names)].argmax(1)[0].byte().numpy()


def measure_time(rounds: int, precision: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    torch.manual_seed(0)
    network = build_network(CONFIG).eval()
    runtime = prepare(Model(network, CONFIG), precision=precision)
    frames = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 3), np.uint8)
    one_scene = ContinuityConfig(gap_s=1e6, scene_cut_similarity=0.0, blind=False)  # noise is neither a cut nor blindness
    on = VideoSegmenter(runtime, SegmenterConfig(label_memory=False, continuity=one_scene))
    off = VideoSegmenter(runtime, SegmenterConfig(memory=False, label_memory=False, continuity=one_scene))
    labels = VideoSegmenter(runtime, SegmenterConfig(memory=False, continuity=one_scene))
    both = VideoSegmenter(runtime, SegmenterConfig(continuity=one_scene))
    eager = EagerStream(network)
    count = 0
    stages: dict[str, list[float]] = {}

    def step(segmenter: VideoSegmenter) -> None:
        nonlocal count
        count += 1
        result = segmenter.step(frames[count % len(frames)], count * 10_000_000)
        if segmenter is on and result.memory_frames == CONFIG.memory.memory_frames:
            for stage, milliseconds in result.timings_ms.items():
                stages.setdefault(stage, []).append(milliseconds)

    for _ in range(CONFIG.memory.memory_frames):  # fill the memories
        step(on)
        step(both)
        eager.step(frames[0])
    times = time_alternately(
        {
            "memory off": lambda: step(off),
            "memory on": lambda: step(on),
            "label memory": lambda: step(labels),
            "both memories": lambda: step(both),
        },
        rounds,
    )
    times |= time_alternately({"default": lambda: step(on), "eager": lambda: eager.step(frames[1])}, max(3, rounds // 4))
    return times, stages


def measure_agreement(data: Path) -> dict[str, float]:
    weights = data / "weights/erfnet_cityscapes.pth"
    rows = {}
    sources = (("highway video", data / "video/solidWhiteRight.mp4", 20), ("CamVid", data / "camvid/val/images", 10))
    for name, path, step in sources:
        own = SegmenterConfig(label_memory=False)  # the network's labels
        default, exact = (VideoSegmenter.from_weights(weights, own, precision=precision) for precision in ("auto", "fp32"))
        shares = []
        with open_frames(path) as frames:
            for number, frame in enumerate(frames):
                if number % step == 0:
                    ours, theirs = (s.step(frame.image, frame.stamp_ns).labels for s in (default, exact))
                    shares.append(float((ours == theirs).mean()))
        rows[name] = round(statistics.mean(shares), 5)
        rows[f"{name}, worst frame"] = round(min(shares), 5)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with video, camvid and weights")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: the fastest here")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    times, stages = measure_time(arguments.rounds, arguments.precision)
    on_off = round(median_ratio(times, "memory on", "memory off"), 3)
    both_off = round(median_ratio(times, "both memories", "memory off"), 3)
    labels_off = round(median_ratio(times, "label memory", "memory off"), 3)
    speedup = round(median_ratio(times, "eager", "default"), 2)
    agreement = measure_agreement(arguments.data)
    least = min(share for name, share in agreement.items() if "worst" not in name)
    checks = {
        f"memory on / off {on_off}, wanted ≤ {GOAL_MEMORY}": on_off <= GOAL_MEMORY,
        f"label memory / off {labels_off}, wanted ≤ {GOAL_LABELS}": labels_off <= GOAL_LABELS,
        f"both memories / off {both_off}, wanted ≤ {GOAL_BOTH}": both_off <= GOAL_BOTH,
        f"default {speedup} times faster than eager, wanted {GOAL_SPEEDUP}": speedup >= GOAL_SPEEDUP,
        f"label agreement {least}, wanted {GOAL_AGREEMENT}": least >= GOAL_AGREEMENT,
    }
    result = {
        "run": describe_run(),
        "frame": summarize(times),
        "stages_memory_on_ms": {stage: round(statistics.median(values), 2) for stage, values in stages.items()},
        "memory_on_over_off": on_off,
        "label_memory_over_off": labels_off,
        "both_memories_over_off": both_off,
        "speedup_over_eager": speedup,
        "label_agreement": agreement,
    }
    for name, row in result["frame"].items():
        print(f"{name:12s} {row['median_ms']:8.1f} ms (fastest {row['fastest_ms']:.1f})")
    ratios = ("memory_on_over_off", "label_memory_over_off", "both_memories_over_off", "speedup_over_eager")
    shown = ("stages_memory_on_ms", *ratios, "label_agreement")
    return finish(result, checks, shown, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
