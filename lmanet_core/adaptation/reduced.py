"""How well labels agree with those of reduced pictures: what a network that was trained on mirrored ones has not learned.

A network that knows what it sees gives a thing the same label when it looks smaller. Each class counts the same, so that poles
and signs, which vanish first in a network that comes to harm, weigh as much as the road. Under training on what labels tell of
those of mirrored pictures it rose and fell with the true mIoU on seven recordings of nine (docs/results.md, adaptation).
"""

from __future__ import annotations

from collections.abc import Iterable

from lmanet_core.adaptation.mirror import class_shares
from lmanet_core.arrays import UInt8Array
from lmanet_core.geometry import Size, plan_geometry, resize_image
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.stream_plan import fit_to_backbone
from lmanet_core.weights.runtime import Runtime

_SIDE = 0.75  # of the reduced picture, as a share
_RARE = 1e-4  # share of the pixels below which a class is chance


def measure_reduced_agreement(runtime: Runtime, images: Iterable[UInt8Array]) -> float:
    """Mean IoU, 0–1, of the labels of single frames and of the same, seen at three quarters of their size; NaN without images.

    It is 1 for a network that takes one size only.

    Args:
        runtime: the network.
        images: (H, W, 3) uint8 RGB of sizes that it takes.
    """
    matrix = ConfusionMatrix(len(runtime.config.labels.names))
    for image in images:
        size = Size(*image.shape[:2])
        wanted = Size(round(_SIDE * size.height), round(_SIDE * size.width))
        reduced = fit_to_backbone(wanted, wanted.height * wanted.width, runtime.network.backbone)
        seen = class_shares(runtime, resize_image(image, reduced))
        enlarged = plan_geometry(size, reduced, "input").logits_to_output(seen)
        labels = (shares[0].argmax(0).byte().cpu().numpy() for shares in (enlarged, class_shares(runtime, image)))
        matrix.update(*labels)
    return matrix.mean_iou_above(_RARE)
