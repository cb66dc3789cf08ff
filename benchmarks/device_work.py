"""What a frame on a GPU consists of, counted where there is none: operations, the bytes they move, and stages on the host.

The step of `DeviceRunner` runs on the CPU, and every operation of PyTorch that computes is counted: on a GPU each
is a kernel of the graph, or a few. Motion of the picture on the host (by OpenCV, before the launch) against on the device. No
goals and no times: those take a GPU (`lmanet bench --gpu`).

    python benchmarks/device_work.py
"""

from __future__ import annotations

import argparse
import sys
import unittest.mock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from recording import describe_run, finish
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import MemoryConfig
from lmanet_core.stream.device_look import DeviceLook
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig, build_network, load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

PERIOD_NS = 100_000_000
FRAMES = 6  # the last is counted; the memory is full by then
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "detach", "alias", "_local_scalar_dense"}


class Count(TorchDispatchMode):
    """Counts operations and bytes while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.moved = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in NOTHING:
            self.operations += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    cases = {
        "weights that ship, 480x360": (load_model(default_weights()), Size(360, 480)),
        "ERFNet S = 4, R = 21, 1024x512": (paper_erfnet(), Size(512, 1024)),
    }
    result: dict[str, Any] = {"run": describe_run()}
    for name, (model, size) in cases.items():
        result[name] = {
            ("motion on the host" if host else "motion on the device"): count_frame(model, size, host) for host in (True, False)
        }
    return finish(result, {}, tuple(cases), arguments.json)


def paper_erfnet() -> Model:
    config = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig(memory_frames=4, window=21), Size(512, 1024))
    return Model(build_network(config), config)


def count_frame(model: Model, size: Size, host_motion: bool) -> dict[str, Any]:
    segmenter = VideoSegmenter(prepare(model, "cpu", "fp32"), SegmenterConfig(host_motion=host_motion))
    segmenter._on_device = True
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (size.height // 8, size.width // 4, 3), np.uint8), (2 * size.width, size.height))
    views = [scene[:, 8 * number : 8 * number + size.width] for number in range(FRAMES)]
    for number, image in enumerate(views[:-1]):
        segmenter.step(image, number * PERIOD_NS)
    whole, looked = Count(), Count()
    look = DeviceLook.look

    def counted(self: DeviceLook, *arguments: Any) -> Any:
        with looked:
            return look(self, *arguments)

    with whole, unittest.mock.patch.object(DeviceLook, "look", counted):
        result = segmenter.step(views[-1], FRAMES * PERIOD_NS)
    return {
        "operations": whole.operations,
        "of them looking at the picture, beside the encoder": looked.operations,
        "MB moved": round(whole.moved / 1e6, 1),
        "of them by looking": round(looked.moved / 1e6, 1),
        "stages on the host": [stage for stage in result.timings_ms if stage not in ("device", "total")],
    }


if __name__ == "__main__":
    sys.exit(main())
