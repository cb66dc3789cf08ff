"""What a single-frame network could gain on the generated street if it knew where everything moved.

Four frames, the present one and three before it, are laid over each other by the optical flow of the clean images and averaged:
as images, or as the encoder's features, at whose coarse grid a memory reads. The network segments the average. The clean image
by itself is the most that anything can reach with this network. No goal: it says what to expect of a memory.

    python benchmarks/street_ceiling.py --weights runs/street_b/last.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from recording import describe_run, finish

from lmanet_core.experiments.clip_sets import Condition, make_conditions
from lmanet_core.experiments.sets import evaluation_config
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.network import LMANet
from lmanet_core.weights.checkpoint import load_model

CONDITIONS = "noise3,rain3,night3,fog3,blur3,occlusion3,mixed3,blocks3"
FRAMES = 4
WAYS = ("one frame", "features averaged", "images averaged", "clean image")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="of a single-frame network of the street")
    parser.add_argument("--conditions", default=CONDITIONS)
    parser.add_argument("--cache", help="folder of rendered frames")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    network = load_model(arguments.weights).network.eval()
    config = evaluation_config("street", **({"cache": arguments.cache} if arguments.cache else {}))
    miou = {}
    for condition in make_conditions(config, arguments.conditions.split(",")):
        miou[condition.name] = measure(network, condition, arguments.clips)
        print(condition.name, miou[condition.name], flush=True)
    return finish({"run": describe_run(), "clips": arguments.clips, "miou": miou}, {}, (), arguments.json)


@torch.inference_mode()
def measure(network: LMANet, condition: Condition, clips: int) -> dict[str, float]:
    matrices = {way: ConfusionMatrix(len(condition.source.labels.names)) for way in WAYS}
    for index in range(min(clips, len(condition.source))):
        degraded = condition.source.clip(index, FRAMES, 1, np.random.default_rng((index, 1)))
        clean = (condition.clean or condition.source).clip(index, FRAMES, 1, np.random.default_rng((index, 1))).frames
        frames = degraded.frames
        if condition.degrade is not None:
            frames = condition.degrade(frames, np.random.default_rng((index, 2)))
        flows = flows_to_past(clean)
        images = [warped(frame, flow) for frame, flow in zip(frames, flows, strict=True)]
        maps = encode(network, frames)
        features = [warped_features(one, flow) for one, flow in zip(maps, flows, strict=True)]
        seen = {
            "one frame": maps[-1:],
            "features averaged": torch.stack(features).mean(0, keepdim=True),
            "images averaged": encode(network, np.mean(images, 0, keepdims=True)),
            "clean image": encode(network, clean[-1:]),
        }
        for way, matrix in matrices.items():
            labels = network.decode(seen[way])[0, : matrix.num_classes].argmax(0)
            matrix.update(labels.byte().numpy(), degraded.labels[-1])
    return {way: round(100 * matrix.mean_iou(), 1) for way, matrix in matrices.items()}


def flows_to_past(clean: np.ndarray) -> list[np.ndarray]:
    """Where each pixel of the last image was in each of the images (DIS, medium); nowhere else in the last itself."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in clean]
    return [*(flow.calc(grey[-1], past, None) for past in grey[:-1]), np.zeros((*grey[-1].shape, 2), np.float32)]


def warped(image: np.ndarray, flow: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    place = x + flow[..., 0], y + flow[..., 1]
    return np.asarray(cv2.remap(image.astype(np.float32), *place, interpolation, None, cv2.BORDER_REPLICATE))


def warped_features(maps: torch.Tensor, flow: np.ndarray) -> torch.Tensor:
    """The same at the features' grid, bilinear."""
    height, width = maps.shape[-2:]
    shares = np.array((width / flow.shape[1], height / flow.shape[0]), np.float32)
    coarse = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) * shares
    y, x = np.mgrid[:height, :width].astype(np.float32)
    where = np.stack(((x + coarse[..., 0] + 0.5) / width, (y + coarse[..., 1] + 0.5) / height), -1) * 2 - 1
    grid = torch.from_numpy(where).unsqueeze(0)
    return F.grid_sample(maps.unsqueeze(0), grid, padding_mode="border", align_corners=False)[0]


def encode(network: LMANet, frames: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(frames), -1, 1)))
    return network.encode(network.backbone.normalize(pixels))


if __name__ == "__main__":
    sys.exit(main())
