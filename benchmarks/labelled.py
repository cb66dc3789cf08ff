"""Labelled frames of a recording as a network sees them, and the mIoU of its single frames; for benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from lmanet_core.adaptation.mirror import class_shares
from lmanet_core.arrays import UInt8Array
from lmanet_core.evaluation.truth import open_truth, with_truth
from lmanet_core.geometry import GeometryPlan, Size
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media import open_frames
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.stream.stream_plan import plan_stream
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import Runtime


@dataclass(frozen=True)
class LabelledFrame:
    """A frame.

    Attributes:
        plan: from the camera's image to the network's and back.
        image: as the network sees it.
        truth: ids as they are in the recording.
    """

    plan: GeometryPlan
    image: UInt8Array
    truth: UInt8Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What names a recording, its labels and weights."""
    parser.add_argument("recording")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--mapping")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network-size", default="auto")
    parser.add_argument("--stride", type=int, default=4, help="every so manyth frame")
    parser.add_argument("--json", type=Path)


class Labelled:
    """Frames of a recording that have labels, every so manyth of all frames.

    Args:
        options: see `add_arguments`.
        model: that sees them.
        change: what another camera would make of an image.

    Attributes:
        frames: in the order of time.
    """

    def __init__(
        self, options: argparse.Namespace, model: Model, change: Callable[[UInt8Array], UInt8Array] = lambda image: image
    ) -> None:
        labels = model.config.labels
        self._mapping = load_mapping(options.mapping, labels) if options.mapping else LabelMapping.identity(labels)
        settings, backbone = SegmenterConfig(network_size=options.network_size), model.network.backbone
        self.frames = []
        with open_frames(options.recording) as source:
            truth = open_truth(options.labels, Path(options.recording), 0.02, self._mapping.encoding)
            for frame, ids in islice(with_truth(source, truth), 0, None, options.stride):
                if ids is not None:
                    plan = plan_stream(settings, backbone, model.config.input_size, Size(*frame.image.shape[:2]))
                    self.frames.append(LabelledFrame(plan, plan.to_network(change(frame.image)), ids))

    @staticmethod
    def still_clips(model: Model, frames: Sequence[LabelledFrame]) -> list[torch.Tensor]:
        """Each frame as a clip in which nothing moves, (T, 3, H, W), as long as the model's memory wants."""
        length = 1 if model.config.memory is None else model.config.memory.memory_frames + 1
        return [torch.from_numpy(np.stack([frame.image] * length).transpose(0, 3, 1, 2).copy()) for frame in frames]

    def miou(self, runtime: Runtime, frames: Sequence[LabelledFrame]) -> float:
        """Of single frames, without memories."""
        matrix = ConfusionMatrix(len(self._mapping.classes.names))
        for frame in frames:
            seen = class_shares(runtime, frame.image)[0].argmax(0).byte().cpu().numpy()
            labels = frame.plan.labels_to_output(np.asarray(seen, np.uint8))
            matrix.update(self._mapping.map_prediction(labels), self._mapping.map_truth(frame.truth))
        return matrix.mean_iou_of_truth()
