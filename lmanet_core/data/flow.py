"""Optical flow between neighbouring frames of a clip, for the temporal-consistency loss."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_CONSISTENT_PX = 1.0  # forward and backward flow must return to this close


def backward_flow(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Where each pixel of `after` was in `before` (OpenCV DIS, preset fast).

    Args:
        before, after: (H, W, 3) uint8 RGB.

    Returns:
        (2, H, W) float32 displacement (x, y), pixels; NaN where it leaves the image or forward and backward flow disagree.
    """
    greys = [np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8) for frame in (before, after)]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    back = np.asarray(dis.calc(greys[1], greys[0], None), np.float32)  # type: ignore[call-overload]
    forth = np.asarray(dis.calc(greys[0], greys[1], None), np.float32)  # type: ignore[call-overload]
    height, width = greys[0].shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source_x, source_y = x + back[..., 0], y + back[..., 1]
    returned = cv2.remap(forth, source_x, source_y, cv2.INTER_LINEAR)
    error = np.hypot(*np.moveaxis(back + returned, -1, 0))
    inside = (source_x >= 0) & (source_x <= width - 1) & (source_y >= 0) & (source_y <= height - 1)
    back[~inside | (error > _CONSISTENT_PX)] = np.nan
    return np.ascontiguousarray(np.moveaxis(back, -1, 0))
