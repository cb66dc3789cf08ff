"""The real node with a network that takes so long: what it needs less is slept, as one waits for a GPU.

Run by `ros_node.py`: python benchmarks/slow_node.py 0.2 --ros-args …
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lmanet_core.network import LMANet
from lmanet_ros.segment_node import main

LEAST_S = float(sys.argv.pop(1))


def encode_slowly(network: LMANet, image: torch.Tensor) -> torch.Tensor:
    end = time.monotonic() + LEAST_S
    features = network.backbone.encode(image)
    time.sleep(max(0.0, end - time.monotonic()))
    return features


if __name__ == "__main__":
    LMANet.encode = encode_slowly
    sys.exit(main(sys.argv))
