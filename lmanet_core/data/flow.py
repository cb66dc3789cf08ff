"""Optical flow between neighbouring frames of a clip, for the temporal-consistency loss."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.metrics.temporal import DenseFlow, FlowMatcher


def backward_flow(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Where each pixel of `after` was in `before` (OpenCV DIS, preset fast).

    Args:
        before, after: (H, W, 3) uint8 RGB.

    Returns:
        (2, H, W) float32 displacement (x, y), pixels; NaN where it leaves the image or forward and backward flow disagree.
    """
    fast = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    matches = FlowMatcher(cast(DenseFlow, fast)).match(after, before)
    rows, columns = np.mgrid[: after.shape[0], : after.shape[1]].astype(np.float32)
    flow = np.stack((matches.columns - columns, matches.rows - rows))
    flow[:, ~matches.valid] = np.nan
    return flow
