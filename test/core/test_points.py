"""Points with meaning, against points computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmanet_core.errors import InputError
from lmanet_core.geometry import CameraInfo
from lmanet_core.geometry.points import POINT, depth_in_metres, drop_depth_edges, semantic_points

# fx 200, fy 100, principal point (1, 0.5)
CAMERA = CameraInfo(3, 2, p=(200.0, 0.0, 1.0, 0.0, 0.0, 100.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0))
LABELS = np.array([[0, 1, 255], [2, 0, 1]], np.uint8)


def test_points_are_those_computed_by_hand() -> None:
    depth = np.array([[2.0, 4.0, 10.0], [1.0, 3.0, np.nan]], np.float32)
    points = semantic_points(LABELS, depth, CAMERA)
    # x = (u − 1) z / 200, y = (v − 0.5) z / 100
    assert points["x"][0].tolist() == pytest.approx([-0.01, 0.0, 0.05])
    assert points["y"][0].tolist() == pytest.approx([-0.01, -0.02, -0.05])
    assert points["x"][1, :2].tolist() == pytest.approx([-0.005, 0.0])
    assert points["y"][1, :2].tolist() == pytest.approx([0.005, 0.015])
    assert points["z"][0].tolist() == [2.0, 4.0, 10.0]
    assert np.isnan([points[1, 2][axis] for axis in "xyz"]).all()


def test_a_point_keeps_class_colour_and_confidence_even_without_a_depth() -> None:
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0, 0], colors[1, 2] = (128, 64, 32), (1, 2, 3)
    confidence = np.array([[255, 0, 51], [0, 0, 102]], np.uint8)
    points = semantic_points(LABELS, np.full((2, 3), np.nan, np.float32), CAMERA, colors, confidence)
    assert points["class_id"].tolist() == LABELS.tolist()
    assert (points["rgb"][0, 0], points["rgb"][1, 2], points["rgb"][0, 1]) == (0x804020, 0x010203, 0)
    assert points["confidence"].ravel().tolist() == pytest.approx([1.0, 0.0, 0.2, 0.0, 0.0, 0.4])


def test_points_are_packed_in_the_order_of_the_pixels() -> None:
    points = semantic_points(LABELS, np.ones((2, 3), np.float32), CAMERA)
    assert points.shape == LABELS.shape and points.flags.c_contiguous and POINT.itemsize == 24
    assert points["confidence"].tolist() == [[1.0] * 3] * 2


def test_k_serves_where_p_is_zero() -> None:
    by_k = replace(CAMERA, p=(0.0,) * 12, k=(200.0, 0.0, 1.0, 0.0, 100.0, 0.5, 0.0, 0.0, 1.0))
    depth = np.full((2, 3), 2.0, np.float32)
    assert np.array_equal(semantic_points(LABELS, depth, by_k), semantic_points(LABELS, depth, CAMERA))


def test_millimetres_and_metres_are_the_same_and_nothing_measured_is_nan() -> None:
    millimetres = np.array([[1500, 0], [65535, 1]], np.uint16)
    metres = np.array([[1.5, -1.0], [65.535, 0.001]], np.float32)
    assert depth_in_metres(millimetres) == pytest.approx(depth_in_metres(metres), nan_ok=True)
    assert np.isnan(depth_in_metres(np.array([[0.0, np.inf, np.nan]], np.float32))).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth_m": np.ones((3, 3), np.float32)}, "depth must be registered to the labels, which are 3x2, got 3x3"),
        ({"confidence": np.ones((2, 2), np.uint8)}, "confidence must be registered"),
        ({"calibration": replace(CAMERA, width=6)}, "the calibration is for 6x2, the labels are 3x2"),
        ({"calibration": replace(CAMERA, p=(0.0,) * 12)}, "no focal length"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    given = {"labels": LABELS, "depth_m": np.ones((2, 3), np.float32), "calibration": CAMERA}
    with pytest.raises(InputError, match=words):
        semantic_points(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [np.zeros((2, 3), np.float64), np.zeros((2, 3, 1), np.float32), np.zeros((2, 3), np.uint8)])
def test_what_is_no_depth_image_is_refused(depth: np.ndarray) -> None:
    with pytest.raises(InputError, match="a depth image must be"):
        depth_in_metres(depth)


def test_what_lies_behind_a_nearer_thing_beside_it_is_dropped() -> None:
    depth = np.full((3, 7), 10.0, np.float32)
    depth[1, 3], depth[0, 0], depth[2, 6] = 2.0, np.nan, np.inf
    kept = drop_depth_edges(depth, 1)
    assert np.isnan(kept).astype(int).tolist() == [[1, 0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0, 1]]
    assert kept[1, 3] == 2.0 and np.isnan(drop_depth_edges(depth, 2)[:, 1:6]).sum() == 3 * 5 - 1
    assert np.array_equal(drop_depth_edges(depth, 0), depth, equal_nan=True)


def test_ground_that_rises_slowly_has_no_edge() -> None:
    slope = np.linspace(5.0, 6.0, 12, dtype=np.float32)[:, None].repeat(4, 1)
    assert not np.isnan(drop_depth_edges(slope, 1)).any()
    assert np.isnan(drop_depth_edges(slope, 1, jump=0.01)).any()
