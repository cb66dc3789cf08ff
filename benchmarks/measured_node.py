"""The real node, with what a benchmark wants besides: CPU time of publishing, and a network that takes as long as is wanted.

Run by `ros_node.py`: python benchmarks/measured_node.py 0.2 --ros-args …

What the network needs less than the given seconds is slept, as one waits for a GPU. At the end comes one line of JSON:
publish_cpu_ms, one value a frame, of the thread that publishes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lmanet_core.network import LMANet
from lmanet_ros.publishers import CameraPublishers
from lmanet_ros.segment_node import main

least_s = 0.0
publish_cpu_ms: list[float] = []
publish = CameraPublishers.publish


def encode_slowly(network: LMANet, image: torch.Tensor) -> torch.Tensor:
    end = time.monotonic() + least_s
    features = network.backbone.encode(image)
    time.sleep(max(0.0, end - time.monotonic()))
    return features


def publish_watched(publishers: CameraPublishers, *arguments: Any) -> None:
    start = time.thread_time()
    publish(publishers, *arguments)
    publish_cpu_ms.append(1e3 * (time.thread_time() - start))


if __name__ == "__main__":
    least_s = float(sys.argv.pop(1))
    if least_s:
        LMANet.encode = encode_slowly
    CameraPublishers.publish = publish_watched
    exit_code = main(sys.argv)
    print(json.dumps({"publish_cpu_ms": publish_cpu_ms}))
    sys.exit(exit_code)
