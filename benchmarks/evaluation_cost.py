"""What evaluating a recording costs over segmenting it: labels, measures, optical flow, frames.jsonl, pictures and page.

ERFNet with the paper's memory (S=4, R=21), random weights, on a labelled recording; "alone" reads the same recording and
segments it, with the memory on. Wanted: measured at most 1.15 times alone. Result bag and side-by-side video are timed too, but
not part of the figure, nor is the second segmentation with the memory off, which every comparison needs.

    python benchmarks/evaluation_cost.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from recording import ROOT, describe_run, finish, median_ratio, summarize, time_alternately

from lmanet_core.evaluation.run import EvaluationConfig, evaluate
from lmanet_core.labels import CITYSCAPES
from lmanet_core.media import open_frames
from lmanet_core.network import MemoryConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig, build_network
from lmanet_core.weights.runtime import Runtime, prepare

GOAL = 1.15


def segment(runtime: Runtime, config: SegmenterConfig, bag: Path, frames: int) -> None:
    segmenter = VideoSegmenter(runtime, config)
    with open_frames(bag) as source:
        for frame in itertools.islice(source, frames):
            segmenter.step(frame.image, frame.stamp_ns, frame.frame_id)


def measure(runtime: Runtime, config: SegmenterConfig, bag: Path, labels: str, frames: int, save: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        evaluate(
            EvaluationConfig(
                inputs=(str(bag),),
                out=Path(folder) / "report",
                segmenter=VideoSegmenter(runtime, config),
                weights_kind="random",
                labels=(labels,),
                mapping="camvid11",
                compare=(),
                save=(*save, "page"),
                max_frames=frames,
            )
        )


def with_cpu_time(used: list[float], run: Callable[[], None]) -> None:
    """Also notes the time on all cores, milliseconds, which other processes of a busy machine do not lengthen."""
    start = time.process_time()
    run()
    used.append((time.process_time() - start) * 1e3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with bags")
    parser.add_argument("--frames", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network-size", default="auto", help="WxH; auto is the images' own 480x360")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    bag, labels = arguments.data / "bags/camvid_0016E5_15hz_mcap", "/camera/label_camvid11/compressed"
    torch.manual_seed(0)
    model_config = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig())
    runtime = prepare(Model(build_network(model_config).eval(), model_config))
    config = SegmenterConfig(network_size=arguments.network_size, label_memory=False)
    frames = arguments.frames
    used: dict[str, list[float]] = {}
    times = time_alternately(
        {
            name: partial(with_cpu_time, used.setdefault(name, []), run)
            for name, run in {
                "alone": lambda: segment(runtime, config, bag, frames),
                "measured": lambda: measure(runtime, config, bag, labels, frames, ()),
                "measured, bag and video": lambda: measure(runtime, config, bag, labels, frames, ("bag", "video")),
            }.items()
        },
        arguments.rounds,
    )
    cpu = {name: values[1:] for name, values in used.items()}  # the first round is not measured
    ratio = round(median_ratio(times, "measured", "alone"), 3)
    result = {
        "run": describe_run(),
        "frames": frames,
        "network_size": arguments.network_size,
        "recording": summarize(times),
        "recording_cpu_time": summarize(cpu),
        "measured_over_alone": ratio,
        "measured_over_alone_cpu_time": round(median_ratio(cpu, "measured", "alone"), 3),
        "with_bag_and_video_over_alone": round(median_ratio(times, "measured, bag and video", "alone"), 3),
    }
    checks = {f"measured / alone {ratio}, wanted ≤ {GOAL}": ratio <= GOAL}
    shown = (
        "recording",
        "recording_cpu_time",
        "measured_over_alone_cpu_time",
        "measured_over_alone",
        "with_bag_and_video_over_alone",
    )
    return finish(result, checks, shown, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
