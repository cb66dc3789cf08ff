"""Cameras that are mounted turned: what the network sees is upright, what comes out belongs to the camera's own image."""

from __future__ import annotations

import numpy as np
import pytest

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import CameraInfo, Size, plan_geometry, turn_plan, turn_size

CAMERA, NETWORK = Size(6, 10), Size(8, 12)


def turned(degrees, mode="stretch", output="input", network=NETWORK):
    return turn_plan(plan_geometry(turn_size(CAMERA, degrees), network, output, mode), degrees)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_network_sees_the_image_turned_clockwise(degrees):
    image = np.random.default_rng(0).integers(0, 256, (*CAMERA, 3), np.uint8)
    upright = np.rot90(image, -degrees // 90)
    plan = turned(degrees, network=turn_size(CAMERA, degrees))
    assert plan.to_network(image).tolist() == upright.tolist()
    assert plan.labels_to_output(np.ascontiguousarray(upright[:, :, 0])).tolist() == image[:, :, 0].tolist()
    assert plan.image_to_output(image).tolist() == image.tolist()


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("output", ["input", "network"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_output_lies_where_the_calibration_says(degrees, output, mode):
    # A bright pixel of the camera and the label under it: both must land where K maps the pixel's position to.
    plan = turned(degrees, mode, output, Size(24, 36))
    y, x = 2, 6
    labels = np.zeros(plan.network_size, np.uint8)
    column, row = plan.to_network_position(x + 0.5, y + 0.5)
    labels[int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2] = 1
    rows, columns = np.nonzero(plan.labels_to_output(labels) == 1)
    info = CameraInfo(CAMERA.width, CAMERA.height, k=(1.0, 0.0, float(x), 0.0, 1.0, float(y), 0.0, 0.0, 1.0))
    scaled = plan.scale_camera_info(info)
    assert (scaled.height, scaled.width) == plan.output_size
    assert abs(columns.mean() - scaled.k[2]) <= 1 and abs(rows.mean() - scaled.k[5]) <= 1


def test_overlay_and_labels_of_the_network_size_share_a_grid():
    plan = turned(90, "letterbox", "network")
    image = np.full((*CAMERA, 3), 200, np.uint8)
    seen = plan.labels_to_output(np.zeros(plan.network_size, np.uint8)) == 0
    assert seen.shape == plan.output_size == (12, 8)
    assert ((plan.image_to_output(image) == 200).all(axis=2) == seen).all()


def test_not_turned_is_the_plan_itself():
    plan = plan_geometry(CAMERA, Size(8, 12))
    assert turn_plan(plan, 0) is plan
    assert plan.upright is plan


def test_other_degrees_are_refused():
    with pytest.raises(ConfigError, match="rotate must be 0, 90, 180 or 270 degrees, got 45"):
        turn_plan(plan_geometry(CAMERA, Size(8, 12)), 45)


def test_letterbox_of_wide_pixels_is_square_for_the_network():
    plan = plan_geometry(Size(10, 10), Size(20, 40), mode="letterbox", pixel_aspect=2.0)
    assert plan.landing == (slice(0, 20), slice(0, 40))
    plan = plan_geometry(Size(10, 10), Size(20, 20), mode="letterbox", pixel_aspect=2.0)
    assert plan.landing == (slice(5, 15), slice(0, 20))
