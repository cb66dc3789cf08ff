"""One picture that shows a result to people: camera, colours over camera, and the names of the classes seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import OutputError
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.labels import LabelSet

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MIN_SHARE = 0.001  # classes on fewer pixels are not listed


def draw_picture(frame: Frame, result: FrameResult, labels: LabelSet, opacity: float = 0.55) -> UInt8Array:
    """Camera on the left, overlay on the right, legend below.

    Args:
        frame: as it came.
        result: of this frame.
        labels: names and colours.
        opacity: of the colours, 0–1.

    Returns:
        (H', W', 3) uint8 RGB, two images of the output size wide.
    """
    camera = result.geometry.image_to_output(frame.image)
    overlay = labels.overlay(camera, result.labels, opacity)
    pair = np.concatenate((camera, overlay), 1)
    return np.concatenate((pair, draw_legend(result.labels, labels, pair.shape[1])), 0)


def draw_legend(label_map: UInt8Array, labels: LabelSet, width: int) -> UInt8Array:
    """Colours and names of the classes in a label map (H, W), the most frequent first, as a strip (h, width, 3)."""
    counts = np.bincount(label_map.ravel(), minlength=256)
    order = [int(index) for index in np.argsort(-counts) if index < len(labels.names)]
    seen = [index for index in order if counts[index] >= _MIN_SHARE * label_map.size]
    scale = max(0.35, width / 2600)
    line = round(44 * scale)
    entries: list[tuple[int, int, int]] = []  # class, x, row
    x, row = line // 2, 0
    for index in seen:
        length = round(1.6 * line) + cv2.getTextSize(labels.names[index], _FONT, scale, 1)[0][0]
        if x + length > width and x > line:
            x, row = line // 2, row + 1
        entries.append((index, x, row))
        x += length
    strip = np.full((line * (row + 1) + line // 3, width, 3), 255, np.uint8)
    for index, left, text_row in entries:
        top = line * text_row + line // 3
        swatch = (left, top), (left + round(0.7 * line), top + round(0.6 * line))
        cv2.rectangle(strip, *swatch, labels.colors[index], -1)
        origin = (left + round(0.9 * line), top + round(0.55 * line))
        cv2.putText(strip, labels.names[index], origin, _FONT, scale, (20, 20, 20), 1, cv2.LINE_AA)
    return strip


def write_image(path: Path, image: UInt8Array) -> None:
    """Write an RGB image (H, W, 3) in the format of the path's suffix; raises OutputError."""
    try:
        path.write_bytes(cv2.imencode(path.suffix, image[:, :, ::-1])[1].tobytes())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
