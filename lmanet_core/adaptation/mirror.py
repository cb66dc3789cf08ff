"""What a network knows of its pictures, without any truth: how much its labels tell of those of the mirrored pictures.

A network that knows what it sees gives a mirrored picture the mirrored probabilities. Their mutual information (as of IIC, Ji
et al., 2019) is high where they agree, are sure, and tell many classes apart; it is nothing for a network that calls everything
building, or that is never sure. On real recordings and on generated ones it ordered one network with other and other
statistics of BatchNorm as its true mIoU did, or nearly (docs/results.md, adaptation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from lmanet_core.arrays import UInt8Array
from lmanet_core.network.backbone import image_batch
from lmanet_core.weights.runtime import Runtime


@dataclass(frozen=True)
class MirrorAgreement:
    """Of single frames, without memories.

    Attributes:
        information: mutual information of the class of a pixel and of its class in the mirrored picture, bits; at most log2 of
            the number of classes.
        accuracy: share of the pixels with the same label, 0–1.
        confidence: mean probability of the labels, 0–1.
        shares: (classes,) of the pixels that have each label.
    """

    information: float
    accuracy: float
    confidence: float
    shares: tuple[float, ...]

    @property
    def overconfidence(self) -> float:
        """How much surer the labels are than mirrored pictures bear out."""
        return self.confidence - self.accuracy


def class_shares(runtime: Runtime, image: UInt8Array, mirrored: bool = False) -> torch.Tensor:
    """Probabilities (1, classes, H, W) float32 of a single frame at its own size.

    Args:
        runtime: the network.
        image: (H, W, 3) uint8 RGB of a size that it takes.
        mirrored: show it the mirrored picture, and mirror back what it says.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image[:, ::-1] if mirrored else image)).to(runtime.device)
    with runtime.lock, torch.inference_mode():
        network = runtime.network
        logits = network.decode(network.encode(runtime.normalize(image_batch(pixels))))
        shares = logits[:, : len(runtime.config.labels.names)].float().softmax(1)
    return shares.flip(3) if mirrored else shares


def measure_mirror_agreement(
    runtime: Runtime, images: Iterable[UInt8Array], advance: Callable[[], None] = lambda: None
) -> MirrorAgreement:
    """Look at every image twice.

    Args:
        runtime: the network.
        images: (H, W, 3) uint8 RGB of sizes that it takes; at least one.
        advance: called after each.
    """
    classes = len(runtime.config.labels.names)
    joint = torch.zeros(classes, classes, dtype=torch.float64)
    counts = torch.zeros(classes, dtype=torch.float64)
    same, confidence = [], []
    for image in images:
        own, other = (class_shares(runtime, image, mirrored)[0].flatten(1) for mirrored in (False, True))
        joint += (own @ other.T / own.shape[1]).double().cpu()
        certain, labels = own.max(0)
        same.append(float((labels == other.argmax(0)).float().mean()))
        confidence.append(float(certain.mean()))
        counts += torch.bincount(labels, minlength=classes).cpu()
        advance()
    shares = tuple((counts / counts.sum()).tolist())
    return MirrorAgreement(mutual_information(joint), float(np.mean(same)), float(np.mean(confidence)), shares)


def mutual_information(joint: torch.Tensor) -> float:
    """As `information_of_pairs`, as a number."""
    return float(information_of_pairs(joint))


def information_of_pairs(joint: torch.Tensor) -> torch.Tensor:
    """Mutual information of two variables in which neither comes first, bits; has gradients.

    Args:
        joint: (n, n) probabilities or counts of pairs.
    """
    joint = joint.double()
    pairs = (joint + joint.T) / (2.0 * joint.sum())
    alone = pairs.sum(1)
    ratio = pairs / torch.outer(alone, alone).clamp(min=1e-300)
    return torch.where(pairs > 0, pairs * ratio.clamp(min=1e-300).log2(), 0.0).sum()
