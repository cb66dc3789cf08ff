"""Image to network, labels back, calibration along: by hand on maps of a few pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.geometry import CameraInfo, Size, fit_network_size, parse_size, plan_geometry, resize_image

MODES = ("stretch", "letterbox", "crop")
ROAD, NOTHING = 7, 0


def plane(size, *pixels, value=ROAD):
    """All NOTHING but the given pixels."""
    labels = np.full(size, NOTHING, np.uint8)
    for row, column in pixels:
        labels[row, column] = value
    return labels


def where(labels, value=ROAD):
    return [tuple(int(i) for i in index) for index in np.argwhere(labels == value)]


# ---- camera image to network input and labels back -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_equal_sizes_change_nothing(mode, random_image):
    image = random_image(8, 16)
    plan = plan_geometry(Size(8, 16), Size(8, 16), mode=mode)
    assert np.array_equal(plan.to_network(image), image)
    assert np.array_equal(plan.labels_to_output(image[:, :, 0]), image[:, :, 0])
    assert np.array_equal(plan.confidence_to_output(image[:, :, 0]), image[:, :, 0])


def test_stretched_down_label_covers_the_pixels_that_the_network_merged():
    plan = plan_geometry(Size(4, 8), Size(2, 2))  # 2 × 4 camera pixels make one of the network's
    image = np.zeros((4, 8, 3), np.uint8)
    image[2:, 4:] = 200
    assert plan.to_network(image)[:, :, 0].tolist() == [[0, 0], [0, 200]]
    assert where(plan.labels_to_output(plane((2, 2), (1, 1)))) == [(r, c) for r in (2, 3) for c in (4, 5, 6, 7)]


def test_stretched_up_label_comes_from_the_pixel_at_its_centre():
    plan = plan_geometry(Size(2, 4), Size(6, 12))  # camera centre r lies at 3r + 1.5, within network row 3r + 1
    assert where(plan.labels_to_output(plane((6, 12), (4, 7)))) == [(1, 2)]
    assert where(plan.labels_to_output(plane((6, 12), (3, 6), (4, 6), (3, 7), (5, 8)))) == []


def test_letterboxed_label_comes_back_where_the_network_saw_it():
    plan = plan_geometry(Size(4, 8), Size(8, 8), mode="letterbox")  # scale 1, bars in rows 0, 1, 6 and 7
    image = np.zeros((4, 8, 3), np.uint8)
    image[1, 5] = 200
    seen = plan.to_network(image)
    assert where(seen[:, :, 0], 200) == [(3, 5)]
    assert where(plan.labels_to_output(plane((8, 8), (3, 5)))) == [(1, 5)]


def test_letterbox_bars_are_grey_and_do_not_come_back():
    plan = plan_geometry(Size(4, 8), Size(8, 8), mode="letterbox")
    seen = plan.to_network(np.zeros((4, 8, 3), np.uint8))
    assert [row for row in range(8) if (seen[row] == 114).all()] == [0, 1, 6, 7]
    bars = plane((8, 8), *((r, c) for r in (0, 1, 6, 7) for c in range(8)))
    assert where(plan.labels_to_output(bars)) == []
    assert plan.labels_to_output(bars).shape == (4, 8)


def test_narrow_letterbox_has_its_bars_at_the_sides():
    plan = plan_geometry(Size(8, 2), Size(8, 8), mode="letterbox")  # bars in columns 0–2 and 5–7
    assert where(plan.labels_to_output(plane((8, 8), (0, 3), (7, 4), (0, 2), (7, 5)))) == [(0, 0), (7, 1)]


def test_cropped_label_comes_back_where_the_network_saw_it():
    plan = plan_geometry(Size(4, 8), Size(4, 4), mode="crop")  # scale 1, columns 2–5 are seen
    image = np.zeros((4, 8, 3), np.uint8)
    image[1, 2] = 200
    image[:, :2] = image[:, 6:] = 77
    seen = plan.to_network(image)
    assert where(seen[:, :, 0], 200) == [(1, 0)] and 77 not in seen
    assert where(plan.labels_to_output(plane((4, 4), (1, 0)))) == [(1, 2)]


def test_cropped_away_pixels_are_unlabelled_with_confidence_0():
    plan = plan_geometry(Size(4, 8), Size(4, 4), mode="crop")
    labels = plan.labels_to_output(plane((4, 4)))
    assert labels.tolist() == [[255, 255, 0, 0, 0, 0, 255, 255]] * 4
    confidence = plan.confidence_to_output(np.full((4, 4), 200, np.uint8))
    assert confidence.tolist() == [[0, 0, 200, 200, 200, 200, 0, 0]] * 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("camera", [Size(1, 1), Size(7, 13), Size(31, 17), Size(30, 40)])
@pytest.mark.parametrize("output", ["input", "network", "11x5"])
def test_labels_never_take_a_value_that_was_not_there(mode, camera, output):
    network = Size(16, 24)
    plan = plan_geometry(camera, network, output, mode)
    labels = np.random.default_rng(0).choice(np.array([3, 100, 200], np.uint8), network)
    back = plan.labels_to_output(labels)
    assert back.dtype == np.uint8
    assert back.shape == {"input": camera, "network": network, "11x5": (5, 11)}[output]
    assert set(np.unique(back)) <= {3, 100, 200, 255}
    assert mode != "stretch" or 255 not in back
    assert np.array_equal(plan.confidence_to_output(labels) == 0, back == 255)


# ---- output sizes ----------------------------------------------------------------------------------------------------------


def test_network_output_keeps_the_networks_own_grid():
    plan = plan_geometry(Size(4, 8), Size(8, 16), "network")
    labels = plane((8, 16), (3, 5))
    assert np.array_equal(plan.labels_to_output(labels), labels)
    assert plan.output_size == (8, 16)


def test_network_output_marks_letterbox_bars_unlabelled():
    plan = plan_geometry(Size(2, 4), Size(4, 4), "network", "letterbox")
    assert plan.labels_to_output(plane((4, 4))).tolist() == [[255] * 4, [0] * 4, [0] * 4, [255] * 4]
    assert plan.confidence_to_output(np.full((4, 4), 9, np.uint8)).tolist() == [[0] * 4, [9] * 4, [9] * 4, [0] * 4]


def test_output_of_another_size_scales_what_was_seen():
    plan = plan_geometry(Size(4, 8), Size(4, 4), "16x8", "crop")  # output pixels 2c and 2c + 1 show camera column c
    labels = plan.labels_to_output(plane((4, 4), (1, 0)))
    assert where(labels) == [(2, 4), (2, 5), (3, 4), (3, 5)]
    assert where(labels[0:1], 255) == [(0, c) for c in (0, 1, 2, 3, 12, 13, 14, 15)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("output", "size"), [("input", (4, 8)), ("network", (8, 8)), ("6x3", (3, 6))])
def test_image_on_the_label_grid_has_the_size_of_the_labels(mode, output, size, random_image):
    plan = plan_geometry(Size(4, 8), Size(8, 8), output, mode)
    assert plan.image_to_output(random_image(4, 8)).shape == (*size, 3)
    assert plan.labels_to_output(plane((8, 8))).shape == plan.output_size == size


def test_image_on_the_networks_grid_is_what_the_network_sees(random_image):
    plan = plan_geometry(Size(4, 8), Size(4, 4), "network", "crop")
    image = random_image(4, 8)
    assert np.array_equal(plan.image_to_output(image), image[:, 2:6])


def test_logits_are_interpolated_at_the_output_size():
    plan = plan_geometry(Size(1, 4), Size(1, 2))
    # Centres of the output lie at −0.25, 0.25, 0.75 and 1.25 of the network's pixels.
    assert plan.logits_to_output(torch.tensor([[[[0.0, 4.0]]]])).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_image_of_another_size_than_planned_is_refused(random_image):
    with pytest.raises(ValueError, match="images of 8x4, got 6x4; make a new plan"):
        plan_geometry(Size(4, 8), Size(8, 8)).to_network(random_image(4, 6))


# ---- averaging -------------------------------------------------------------------------------------------------------------


def test_shrinking_averages_the_covered_area():
    checks = np.array([[0, 254] * 4, [254, 0] * 4] * 2, np.uint8)  # (4, 8)
    assert resize_image(checks, Size(2, 4)).tolist() == [[127] * 4] * 2


def test_shrinking_by_an_odd_ratio_weighs_by_area():
    row = np.array([[0, 90, 240]], np.uint8)
    # Output pixel 0 covers columns 0 and half of 1: (0 + 45) / 1.5; pixel 1 the other half and column 2: (45 + 240) / 1.5.
    assert resize_image(row, Size(1, 2)).tolist() == [[30, 190]]


def test_growing_interpolates_between_pixel_centres():
    assert resize_image(np.array([[0, 100]], np.uint8), Size(1, 4)).tolist() == [[0, 25, 75, 100]]


# ---- calibration -----------------------------------------------------------------------------------------------------------

K = (50.0, 2.0, 31.5, 0.0, 60.0, 20.0, 0.0, 0.0, 1.0)  # with skew, which scales with the width
P = (50.0, 0.0, 31.5, -5.0, 0.0, 60.0, 20.0, 3.0, 0.0, 0.0, 1.0, 0.0)
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CALIBRATED = CameraInfo(64, 48, "plumb_bob", (0.1, -0.2), K, EYE, P, 2, 2, (4, 2, 40, 50, True))

# Edges of the image in the label map: x' = x · scale + offset, by hand for a 64x48 camera and a 32x32 network.
MAPS = {
    ("stretch", "network"): ((32 / 64, 0.0), (32 / 48, 0.0)),
    ("letterbox", "network"): ((0.5, 0.0), (0.5, 4.0)),  # 24 rows between bars of 4
    ("crop", "network"): ((32 / 48, -8 * 32 / 48), (32 / 48, 0.0)),  # columns 8–55 are seen
    **{(mode, "input"): ((1.0, 0.0), (1.0, 0.0)) for mode in MODES},
    **{(mode, "16x96"): ((0.25, 0.0), (2.0, 0.0)) for mode in MODES},
}


def project(matrix, point):
    """Continuous pixel of a 3-D point, counted from the edge of the image; centres lie half a pixel further."""
    x, y, z = np.reshape(matrix, (3, -1)) @ point
    return np.array([x / z + 0.5, y / z + 0.5])


@pytest.mark.parametrize(("mode", "output"), MAPS)
def test_scaled_calibration_projects_to_where_the_pixel_went(mode, output):
    plan = plan_geometry(Size(48, 64), Size(32, 32), output, mode)
    info = plan.scale_camera_info(CALIBRATED)
    (sx, ox), (sy, oy) = MAPS[mode, output]
    point = np.array([0.3, -0.2, 2.0])
    for before, after, homogeneous in ((K, info.k, point), (P, info.p, np.append(point, 1.0))):
        assert project(after, homogeneous) == pytest.approx(project(before, homogeneous) * (sx, sy) + (ox, oy), abs=1e-9)
    assert (info.height, info.width) == plan.output_size


def test_scaled_calibration_by_hand():
    info = plan_geometry(Size(48, 64), Size(32, 32), "network").scale_camera_info(CALIBRATED)
    # fx, fy, Tx and Ty scale; a centre c moves to (c + ½) · s − ½.
    assert info.k == pytest.approx((25.0, 1.0, 15.5, 0.0, 40.0, 20.5 * 2 / 3 - 0.5, 0.0, 0.0, 1.0))
    assert info.p == pytest.approx((25.0, 0.0, 15.5, -2.5, 0.0, 40.0, 20.5 * 2 / 3 - 0.5, 2.0, 0.0, 0.0, 1.0, 0.0))


def test_scaling_keeps_distortion_and_rectification_and_drops_the_sensor_window():
    info = plan_geometry(Size(48, 64), Size(32, 32), "network").scale_camera_info(CALIBRATED)
    assert (info.distortion_model, info.d, info.r) == ("plumb_bob", (0.1, -0.2), EYE)
    assert (info.binning_x, info.binning_y, info.roi) == (0, 0, (0, 0, 0, 0, True))


def test_region_of_interest_and_binning_are_worked_into_the_calibration():
    k = (100.0, 0.0, 319.5, 0.0, 100.0, 239.5, 0.0, 0.0, 1.0)
    p = (100.0, 0.0, 319.5, -10.0, 0.0, 100.0, 239.5, 0.0, 0.0, 0.0, 1.0, 0.0)
    # 400 of 640 columns from 40 on and 200 of 480 rows from 100 on, 2x4 pixels merged: edge x of the sensor becomes (x − 40)/2.
    info = CameraInfo(640, 480, "plumb_bob", (0.1,), k, EYE, p, 2, 4, (40, 100, 200, 400, False)).for_image(Size(50, 200))
    assert (info.width, info.height, info.binning_x, info.binning_y, info.roi) == (200, 50, 0, 0, (0, 0, 0, 0, False))
    assert info.k == (50.0, 0.0, 139.5, 0.0, 25.0, 34.5, 0.0, 0.0, 1.0)
    assert info.p == (50.0, 0.0, 139.5, -5.0, 0.0, 25.0, 34.5, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (info.distortion_model, info.d, info.r) == ("plumb_bob", (0.1,), EYE)


@pytest.mark.parametrize(
    ("binning", "roi", "size"),
    [(0, (0, 0, 0, 0, False), Size(48, 64)), (1, (0, 0, 0, 0, False), Size(48, 64)), (2, (0, 0, 0, 0, False), Size(24, 32)),
     (0, (8, 4, 20, 30, False), Size(20, 30)), (3, (0, 0, 0, 0, False), Size(16, 21))],
)  # fmt: skip
def test_calibration_is_for_images_of_the_sensors_window_and_no_others(binning, roi, size):
    info = CameraInfo(64, 48, binning_x=binning, binning_y=binning, roi=roi)
    assert info.for_image(size) is not None
    for other in (Size(size.height, size.width + 1), Size(2 * size.height, 2 * size.width)):
        assert info.for_image(other) is None


def test_calibration_of_the_whole_sensor_is_its_images_own():
    info = CameraInfo(64, 48, "plumb_bob", (0.1, -0.2), K, EYE, P)
    assert info.for_image(Size(48, 64)) == info


def test_uncalibrated_camera_stays_recognisable():
    info = plan_geometry(Size(48, 64), Size(32, 32), "network", "letterbox").scale_camera_info(CameraInfo(64, 48))
    assert (info.k, info.p) == ((0.0,) * 9, (0.0,) * 12)
    assert (info.width, info.height) == (32, 32)


# ---- sizes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("camera", "max_pixels", "fitted"),
    [
        (Size(480, 640), 512 * 1024, Size(480, 640)),  # small cameras keep their size
        (Size(1024, 2048), 512 * 1024, Size(512, 1024)),  # shrunk to the trained area, aspect kept
        (Size(1080, 1920), 512 * 1024, Size(544, 968)),  # 543.1 and 965.5, to the nearest multiples
        (Size(37, 100), 512 * 1024, Size(40, 96)),  # 4.6 and 12.5 multiples; halves go to the even one
        (Size(1, 1), 512 * 1024, Size(8, 8)),
        (Size(1, 32766), 2048, Size(8, 8192)),  # 0.25 and 8191.5
    ],
)
def test_network_size_fits_camera_and_trained_area(camera, max_pixels, fitted):
    assert fit_network_size(camera, max_pixels) == fitted


@pytest.mark.parametrize(
    ("camera", "fitted"),
    [
        (Size(1024, 2048), Size(1025, 2049)),
        (Size(480, 640), Size(481, 641)),
        (Size(1, 1), Size(9, 9)),
        (Size(12, 14), Size(9, 17)),
    ],
)
def test_network_size_of_pspnet_is_one_above_a_multiple(camera, fitted):
    assert fit_network_size(camera, 1025 * 2049, 8, 1) == fitted


@pytest.mark.parametrize("remainder", [0, 1])
def test_network_size_exceeds_neither_camera_nor_trained_area_but_for_rounding(remainder):
    for height, width in np.random.default_rng(0).integers(8, 3000, (200, 2)).tolist():
        fitted = fit_network_size(Size(height, width), 512 * 1024, 8, remainder)
        shrink = min(1.0, (512 * 1024 / (height * width)) ** 0.5)
        for side, camera in zip(fitted, (height, width), strict=True):
            assert side % 8 == remainder
            assert abs(side - shrink * camera) <= 4 + 1e-6 or side == 8 + remainder


@pytest.mark.parametrize(
    ("text", "size"), [("1280x720", Size(720, 1280)), (" 6 X 4 ", Size(4, 6)), ("1×1", Size(1, 1)), ("32766x1", Size(1, 32766))]
)
def test_size_is_width_then_height(text, size):
    assert parse_size(text) == size


def test_size_prints_as_it_is_read():
    assert parse_size(str(Size(720, 1280))) == Size(720, 1280)


@pytest.mark.parametrize(
    "text", ["", "1280", "1280x", "x720", "1280x720x3", "12.5x7", "-4x4", "0x720", "720x0", "32767x1", "auto"]
)
def test_anything_but_a_size_is_refused(text):
    with pytest.raises(ConfigError, match=f"a size is WIDTHxHEIGHT with sides of 1–32766, such as 1024x512, got '{text}'"):
        parse_size(text)


@pytest.mark.parametrize("camera", [Size(0, 8), Size(8, 0), Size(32767, 8), Size(8, 32767)])
def test_image_without_pixels_or_too_large_is_refused(camera):
    with pytest.raises(InputError, match=rf"sides of 1–32766 pixels, got {camera.width}x{camera.height}"):
        plan_geometry(camera, Size(8, 8))


@pytest.mark.parametrize("mode", MODES)
def test_largest_and_smallest_images_are_resized(mode):
    for camera in (Size(1, 32766), Size(32766, 1), Size(1, 1)):
        plan = plan_geometry(camera, Size(8, 16), mode=mode)
        assert plan.to_network(np.zeros((*camera, 3), np.uint8)).shape == (8, 16, 3)
        assert plan.labels_to_output(plane((8, 16))).shape == camera


def test_unknown_mode_and_output_are_refused():
    with pytest.raises(ConfigError, match="resize mode must be stretch, letterbox or crop, got 'zoom'"):
        plan_geometry(Size(8, 8), Size(8, 8), mode="zoom")
    with pytest.raises(ConfigError, match="output size must be 'input', 'network' or WIDTHxHEIGHT, got 'native'"):
        plan_geometry(Size(8, 8), Size(8, 8), output="native")
    with pytest.raises(ConfigError, match="a size is WIDTHxHEIGHT"):
        plan_geometry(Size(8, 8), Size(8, 8), output="0x8")
