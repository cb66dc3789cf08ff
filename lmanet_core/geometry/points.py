"""Points with meaning: a label map and a registered depth image become points in space. NumPy alone; knows nothing of ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.geometry.calibration import CameraInfo

#: Fields of a point, as sensor_msgs/PointCloud2 and RViz have them: metres, then 0x00RRGGBB, class id and confidence 0–1.
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("class_id", "<u4"), ("confidence", "<f4")])

Points = npt.NDArray[np.void]


def depth_in_metres(depth: npt.NDArray[Any]) -> Float32Array:
    """A depth image as ROS has it (REP 118) → metres, NaN where nothing was measured.

    Args:
        depth: (H, W) uint16 millimetres, 0 where nothing was measured; or float32 metres.

    Raises:
        InputError: another type.
    """
    if depth.ndim != 2 or depth.dtype not in (np.uint16, np.float32):
        raise InputError(f"a depth image must be (H, W) uint16 (mm) or float32 (m), got {depth.shape} {depth.dtype}")
    metres = depth.astype(np.float32) * np.float32(1e-3) if depth.dtype == np.uint16 else depth.astype(np.float32)
    metres[~(np.isfinite(metres) & (metres > 0.0))] = np.nan
    return metres


def drop_depth_edges(depth_m: Float32Array, reach_px: int, jump: float = 0.15) -> Float32Array:
    """Depth without what lies beside something nearer: a label that is a pixel too wide would land metres behind its thing.

    Args:
        depth_m: (H, W) metres, NaN or infinite where nothing was measured.
        reach_px: how far beside it, pixels along both axes; 0 drops nothing.
        jump: by which share of the nearer depth the pixel lies behind.

    Returns:
        (H, W) with NaN for what was dropped.
    """
    near = np.where(np.isfinite(depth_m), depth_m, np.float32(np.inf))
    for axis in (0, 1):
        padded = np.pad(near, [(reach_px, reach_px) if each == axis else (0, 0) for each in (0, 1)], constant_values=np.inf)
        shifts = [np.take(padded, np.arange(near.shape[axis]) + shift, axis) for shift in range(2 * reach_px + 1)]
        near = np.minimum.reduce(shifts)
    return np.where(depth_m > near * np.float32(1.0 + jump), np.float32(np.nan), depth_m)


def semantic_points(
    labels: UInt8Array,
    depth_m: Float32Array,
    calibration: CameraInfo,
    colors: UInt8Array | None = None,
    confidence: UInt8Array | None = None,
) -> Points:
    """Every pixel as a point, in the order of the pixels, so that cloud and label map stay aligned.

    Pinhole camera of a rectified image, after REP 104: x right, y down, z forward, of the pixel's centre. Points without a
    depth are NaN and keep their class.

    Args:
        labels: (H, W) class ids, 255 unlabelled.
        depth_m: (H, W) metres along the optical axis, registered to the labels; NaN where nothing was measured.
        calibration: of the image (`CameraInfo.for_image`, `GeometryPlan.scale_camera_info`); P is used, K where P is zero.
        colors: (H, W, 3) RGB, such as `LabelSet.colorize` gives; None: black.
        confidence: (H, W) 0–255; None: 1.0 everywhere.

    Returns:
        (H, W) of `POINT`.

    Raises:
        InputError: sizes that differ, or a calibration without focal length.
    """
    height, width = labels.shape
    for name, plane in (("depth", depth_m), ("colours", colors), ("confidence", confidence)):
        if plane is not None and plane.shape[:2] != labels.shape:
            size = f"{plane.shape[1]}x{plane.shape[0]}"
            raise InputError(f"{name} must be registered to the labels, which are {width}x{height}, got {size}")
    if (calibration.width, calibration.height) != (width, height):
        raise InputError(f"the calibration is for {calibration.width}x{calibration.height}, the labels are {width}x{height}")
    p, k = calibration.p, calibration.k
    fx, cx, fy, cy = (p[0], p[2], p[5], p[6]) if p[0] else (k[0], k[2], k[4], k[5])
    if not (fx and fy):
        raise InputError("the calibration has no focal length: fx and fy are 0 in K and P")
    points = np.empty(labels.shape, POINT)
    points["x"] = (np.arange(width, dtype=np.float32) - np.float32(cx)) * depth_m / np.float32(fx)
    points["y"] = (np.arange(height, dtype=np.float32)[:, None] - np.float32(cy)) * depth_m / np.float32(fy)
    points["z"] = depth_m
    points["rgb"] = 0 if colors is None else colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    points["class_id"] = labels
    points["confidence"] = 1.0 if confidence is None else confidence.astype(np.float32) / np.float32(255.0)
    return points
