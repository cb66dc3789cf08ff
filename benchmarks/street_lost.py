"""How well the memory fills in what the present frame has lost, beside ways that know more or do less.

Clean drives lose blocks of the picture, elsewhere in each frame. Inside of the lost blocks of the last frame, mIoU of:

* memory off, memory on: what the network makes of it;
* intact past: the memory on, the frames before it without loss: what is left to a memory that knows which positions to trust;
* copied: the labels of the intact frame before, where they were; moved: the same along the optical flow of the intact images,
  which nothing that sees the lost image can know;
* intact image: memory off, nothing lost.

No goal: it says where the memory can still gain.

    python benchmarks/street_lost.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from recording import describe_run, finish
from street_ceiling import encode, flows_to_past, warped

from lmanet_core.data import ClipSource
from lmanet_core.data.augment import lose_blocks
from lmanet_core.experiments.clip_sets import LOST_BLOCKS, make_conditions
from lmanet_core.experiments.sets import evaluation_config
from lmanet_core.geometry import Size
from lmanet_core.labels import UNLABELLED
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.network import LMANet, MemoryFrames
from lmanet_core.stream.motion import follow
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.shipped import default_weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=str(default_weights()), help="of a network with memory; default: those that ship")
    parser.add_argument("--cache", help="folder of rendered frames")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--condition", default="blocks3", choices=LOST_BLOCKS)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    config = evaluation_config("street", **({"cache": arguments.cache} if arguments.cache else {}))
    (clean,) = make_conditions(config, ["none"])
    network = load_model(arguments.weights).network.eval()
    miou = measure(network, clean.source, arguments.clips, LOST_BLOCKS[arguments.condition])
    result = {"run": describe_run(), "clips": arguments.clips, "condition": arguments.condition, "miou_in_lost_blocks": miou}
    return finish(result, {}, ("miou_in_lost_blocks",), arguments.json)


@torch.inference_mode()
def measure(network: LMANet, source: ClipSource, clips: int, blocks: int) -> dict[str, float]:
    if network.memory is None:
        raise SystemExit("these weights have no memory; give those of a network that has one")
    frames = network.memory.config.memory_frames + 1
    classes = len(source.labels.names)
    matrices: dict[str, ConfusionMatrix] = {}
    for index in range(min(clips, len(source))):
        clip = source.clip(index, frames, 1, np.random.default_rng((index, 1)))
        intact = clip.frames
        degraded = lose_blocks(intact, np.random.default_rng((index, 2)), blocks)
        lost = (degraded[-1] != intact[-1]).any(-1)
        seen, unharmed = encode(network, degraded), encode(network, intact)
        before = labels_of(network.decode(unharmed[-2:-1]), classes)
        flow = flows_to_past(intact)[-2]
        found = {
            "memory off": labels_of(network.decode(seen[-1:]), classes),
            "memory on": with_memory(network, seen, degraded, classes),
            "intact past": with_memory(
                network, torch.cat((unharmed[:-1], seen[-1:])), np.concatenate((intact[:-1], degraded[-1:])), classes
            ),
            "copied": before,
            "moved": warped(before, flow, cv2.INTER_NEAREST).astype(np.uint8),
            "intact image": labels_of(network.decode(unharmed[-1:]), classes),
        }
        truth = np.where(lost, clip.labels[-1], np.uint8(UNLABELLED))
        for name, labels in found.items():
            matrices.setdefault(name, ConfusionMatrix(classes)).update(labels, truth)
    return {name: round(100 * matrix.mean_iou(), 1) for name, matrix in matrices.items()}


def with_memory(network: LMANet, features: torch.Tensor, images: np.ndarray, classes: int) -> np.ndarray:
    """Labels of the last image, the others remembered."""
    past = MemoryFrames(*(maps.unsqueeze(0) for maps in network.remember(features[:-1])))
    places = torch.from_numpy(follow(images, Size(*features.shape[-2:]))[-1]).unsqueeze(0)
    return labels_of(network.decode(features[-1:], past, places=places), classes)


def labels_of(logits: torch.Tensor, classes: int) -> np.ndarray:
    return logits[0, :classes].argmax(0).byte().numpy()


if __name__ == "__main__":
    sys.exit(main())
