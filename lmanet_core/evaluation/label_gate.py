"""What the label memory makes of one frame: how much of the past holds, pixel by pixel, and which labels it changes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.errors import InputError
from lmanet_core.evaluation.pictures import mark
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, resize_image
from lmanet_core.stream.label_evidence import HOLDS, LOST
from lmanet_core.stream.segmenter import VideoSegmenter

_LOST_COLOR = (255, 0, 160)


class GateWatch:
    """Follows a stream and shows what its label memory does at one frame. Changes nothing of the stream.

    Args:
        segmenter: of the stream.
        frame: number of the frame, counted from 0.

    Attributes:
        panels: caption → (h, w, 3) RGB at the network's size; empty before the frame.
        summary: the same in a sentence.
    """

    def __init__(self, segmenter: VideoSegmenter, frame: int) -> None:
        self.panels: dict[str, UInt8Array] = {}
        self.summary = ""
        self._segmenter = segmenter
        single = replace(segmenter.config, memory=False, label_memory=False)
        self._single = VideoSegmenter(segmenter.runtime, single)
        self._wanted = frame
        self._number = -1
        self._evidence: Float32Array | None = None

    @property
    def is_done(self) -> bool:
        """Whether the frame was shown."""
        return bool(self.panels)

    def before_step(self, frame: Frame) -> None:
        """Call with each frame before it is segmented."""
        self._number += 1
        memory = self._segmenter.label_memory
        if self._number == self._wanted and memory is not None:
            self._evidence = memory.view(
                self._segmenter.plan_for(Size(*frame.image.shape[:2])).to_network(frame.image)
            ).evidence

    def after_step(self, frame: Frame, result: FrameResult) -> None:
        """Call with each frame and its result.

        Raises:
            InputError: this is the frame, and it had no past.
        """
        if self._number != self._wanted:
            return
        if self._evidence is None or result.discontinuity is not None:
            why = "there is none" if result.discontinuity is None else f"they were cleared ({result.discontinuity.value})"
            raise InputError(f"frame {self._number} did not use past labels: {why}; choose a later --frame")
        image = result.geometry.to_network(frame.image)
        size, palette = result.geometry.network_size, self._segmenter.labels
        own = self._single.step(frame.image, frame.stamp_ns, frame.frame_id, confidence=False).labels
        changed = own != result.labels
        holds = self._evidence[HOLDS]
        lost = holds == LOST
        share = float(np.minimum(holds, 1.0).mean())
        self.summary = (
            f"Frame {frame.name or self._number}: {100 * share:.1f} % of the past labels hold, the picture is lost in "
            f"{100 * float(lost.mean()):.1f} %, labels differ from the network's own in {100 * float(changed.mean()):.1f} %"
        )
        self.panels = {
            "this frame": image,
            f"past labels that hold: {100 * share:.0f} %": draw_gate(image, holds),
            "the network's own labels": palette.overlay(image, resize_labels(own, size)),
            "with the label memory": palette.overlay(image, resize_labels(result.labels, size)),
            "where they differ": mark(image, resize_labels(changed.astype(np.uint8), size) > 0),
        }


def draw_gate(image: UInt8Array, holds: Float32Array) -> UInt8Array:
    """How much of the past holds, bright where all of it does; in a loud colour where the picture is lost.

    Args:
        image: (h, w, 3) RGB.
        holds: of the evidence, 0–1 or `LOST`, of any size.
    """
    size = Size(*image.shape[:2])
    values = resize_image((np.minimum(holds, 1.0) * 255.0).astype(np.uint8), size)
    heat = cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
    drawn = cv2.addWeighted(np.ascontiguousarray(heat), 0.7, grey, 0.3, 0.0)
    drawn[resize_labels((holds == LOST).astype(np.uint8), size) > 0] = _LOST_COLOR
    return np.asarray(drawn, np.uint8)
