"""Parts of `lmanet bench --gpu` that measure: the memory read, a streamed frame, and what a frame consists of on the device.

Each is a generator of rows, "what" and "cells" (figures by name). `timed_parts` runs them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from lmanet_core.arrays import UInt8Array
from lmanet_core.experiments.benchmark import FrameCase, OperatorSize, floor_ms, make_inputs, time_backward
from lmanet_core.experiments.gpu_agreement import PERIOD_NS, street_frames
from lmanet_core.experiments.timing import time_on
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.ops import local_attention
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, build_network, load_model
from lmanet_core.weights.runtime import Runtime, prepare
from lmanet_core.weights.shipped import default_weights
from lmanet_core.weights.tiles import use_measured_tiles

SHIPPED = "shipped"  # in place of an architecture: the weights that ship
_ONE_SCENE = ContinuityConfig(gap_s=1e6, scene_cut_similarity=0.0, blind=False)  # nothing resets while frames are timed
#: Name → whether there is a feature memory, and a label memory.
_MEMORIES = {"both memories": (True, True), "label memory": (False, True), "no memory": (False, False)}
_TOP_KERNELS = 15


def reads(device: str, sizes: Sequence[Sequence[Any]], window: int, side: int) -> Iterator[dict[str, Any]]:
    """The memory read in float16, forward and backward.

    Args:
        device: "cuda", "cuda:1", …; the CPU wants TRITON_INTERPRET=1.
        sizes: fields of `OperatorSize`.
        window: side of the window, odd.
        side: of the product that the floor is measured by, see `floor_ms`.
    """
    use_measured_tiles(torch.device(device))
    for fields in sizes:
        size = OperatorSize(*fields)
        inputs = make_inputs(size, torch.float16, device)
        floor = floor_ms(size, window, device, side)
        forward = time_on(device, partial(local_attention, *inputs, window, impl="triton"))
        cells = {
            "floor ms": floor,
            "forward ms": forward,
            "share of the floor": floor / forward,
            "backward ms": time_backward(inputs, window),
        }
        yield {"what": f"{size.name}, R={window}, {size.height}x{size.width}", "cells": cells}


# ---- the streamed frame


def frames(
    device: str, folder: str, architecture: str, size: Sequence[int], street: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """A streamed frame in a graph, with both memories, the label memory alone and none.

    Args:
        device: as of `reads`.
        folder: for the images of the street.
        architecture: of a network with random weights and the paper's memory, or `SHIPPED`.
        size: of the images, height and width; the network sees them as it was trained.
        street: height, width and number of the images as they are drawn.
        rounds: frames that are timed, once the memory is full.
    """
    images = _images(folder, size, street)
    runtime = _make_runtime(device, architecture, size)
    assert runtime.config.memory is not None  # each of them has one
    for what, (features, labels) in _MEMORIES.items():
        stream = _step_on(_segmenter(runtime, features, labels), images)
        first, _ = next(stream)
        for _ in range(runtime.config.memory.memory_frames):
            next(stream)
        timed = [next(stream) for _ in range(rounds)]
        times = [ms for ms, _ in timed]
        cells = {"first image ms": first, "p50 ms": float(np.median(times)), "p95 ms": float(np.percentile(times, 95))}
        stages = timed[0][1]
        cells |= {f"{stage} ms": float(np.median([each[stage] for _, each in timed])) for stage in stages if stage != "total"}
        if device != "cpu":
            cells["device MB at most, so far"] = torch.cuda.max_memory_reserved(device) / 1e6
        yield {"what": f"{architecture}, {size[0]}x{size[1]}, {runtime.precision}, {what}", "cells": cells}


def _make_runtime(device: str, architecture: str, size: Sequence[int]) -> Runtime:
    if architecture == SHIPPED:
        return prepare(load_model(default_weights()), device)
    case = FrameCase(architecture, architecture, Size(*size))
    torch.manual_seed(0)
    return prepare(Model(build_network(case.config).eval(), case.config), device)


def _images(folder: str, size: Sequence[int], street: Sequence[int]) -> list[UInt8Array]:
    """Of the street, in this size."""
    drawn, wanted = Size(*street[:2]), Size(*size)
    images = street_frames(folder, drawn, street[2])
    return images if drawn == wanted else [plan_geometry(drawn, wanted).to_network(image) for image in images]


def _segmenter(runtime: Runtime, features: bool, labels: bool) -> VideoSegmenter:
    return VideoSegmenter(runtime, SegmenterConfig(memory=features, label_memory=labels, continuity=_ONE_SCENE))


def _step_on(segmenter: VideoSegmenter, images: Sequence[UInt8Array]) -> Iterator[tuple[float, dict[str, float]]]:
    """Forward and backward through the images without end: the time of a frame and of its stages, ms."""
    there_and_back = cycle(chain(images, images[-2:0:-1]))
    for number, image in zip(count(), there_and_back, strict=False):
        start = time.perf_counter()
        result = segmenter.step(image, number * PERIOD_NS)  # ends with the labels in the host's memory
        yield (time.perf_counter() - start) * 1e3, dict(result.timings_ms)


# ---- what a frame consists of


def kernels_of_a_frame(
    device: str, folder: str, architecture: str, size: Sequence[int], street: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Kernels of a frame with both memories, their time, and what is copied; the longest of them. Arguments as of `frames`."""
    runtime = _make_runtime(device, architecture, size)
    assert runtime.config.memory is not None
    stream = _step_on(_segmenter(runtime, True, True), _images(folder, size, street))
    for _ in range(runtime.config.memory.memory_frames + 2):
        next(stream)
    on_device = device != "cpu"
    activities = [ProfilerActivity.CUDA] if on_device else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(rounds):
            next(stream)
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    yield from describe_trace(events, rounds, "kernel" if on_device else "cpu_op")


def describe_trace(events: Iterable[dict[str, Any]], rounds: int, kind: str = "kernel") -> Iterator[dict[str, Any]]:
    """Rows of a Chrome trace: the whole frame, then the kernels that take longest.

    Args:
        events: as `torch.profiler` writes them, durations in microseconds.
        rounds: frames that were traced.
        kind: category of the events that count as kernels.
    """
    calls: dict[str, int] = defaultdict(int)
    took_us: dict[str, float] = defaultdict(float)
    copied = {"HtoD": 0, "DtoH": 0, "DtoD": 0}
    for event in events:
        category, name = event.get("cat"), event.get("name", "")
        if category == kind:
            calls[name] += 1
            took_us[name] += event["dur"]
        elif category == "gpu_memcpy":
            way = next((way for way in copied if way in name), "DtoD")
            copied[way] += int(event.get("args", {}).get("bytes", 0))
    total_us = sum(took_us.values())
    whole = {"calls": sum(calls.values()) / rounds, "ms": total_us / rounds / 1e3, "share": 1.0}
    ways = {"HtoD": "MB to the device", "DtoH": "MB to the host", "DtoD": "MB within the device"}
    yield {"what": "a frame", "cells": whole | {ways[way]: of / rounds / 1e6 for way, of in copied.items()}}
    for name in sorted(took_us, key=took_us.__getitem__, reverse=True)[:_TOP_KERNELS]:
        cells = {"calls": calls[name] / rounds, "ms": took_us[name] / rounds / 1e3, "share": took_us[name] / total_us}
        yield {"what": name, "cells": cells}
