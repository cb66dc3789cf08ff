"""Motion of the picture: measured where there is texture, filled in where a block is lost, followed from frame to frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lmanet_core.geometry import Size
from lmanet_core.stream.motion import PictureMotion, PositionTracker, _fit, _to_grid, _trust, follow, grey_thumbnail

SIZE = Size(128, 256)
GRID = Size(16, 32)
HOME = np.indices(GRID).astype(np.float32)


@pytest.fixture(scope="module")
def wide_scene():
    """Soft blobs of several sizes, (192, 384, 3), to cut moving windows from."""
    rng = np.random.default_rng(5)
    layers = [
        cv2.resize(rng.normal(size=(192 // cell, 384 // cell, 3)), (384, 192), interpolation=cv2.INTER_CUBIC)
        for cell in (6, 12, 24)
    ]
    return np.clip(128 + 30 * sum(layers), 0, 255).astype(np.uint8)


def window(scene, down=0.0, right=0.0, zoom=1.0):
    """What a camera sees after the picture has moved by (down, right) pixels and grown about the middle of the window."""
    middle_x, middle_y = 32 + 127.5, 32 + 63.5
    matrix = np.float64([[zoom, 0, 127.5 + right - zoom * middle_x], [0, zoom, 63.5 + down - zoom * middle_y]])
    return cv2.warpAffine(scene, matrix, (256, 128), flags=cv2.INTER_LINEAR)


def measure(before, after):
    """(2, h, w) in pixels of these images."""
    shares = PictureMotion().measure(grey_thumbnail(before), grey_thumbnail(after))
    return shares * np.float32(before.shape[:2])[:, None, None]


def test_the_picture_that_moves_is_measured_everywhere(wide_scene):
    moved = measure(window(wide_scene), window(wide_scene, 3, -7))
    assert moved.shape == (2, 32, 64) and moved.dtype == np.float32
    assert np.abs(np.median(moved, (1, 2)) - (3, -7)).max() < 0.3
    assert np.quantile(np.abs(moved - np.float32((3, -7))[:, None, None]), 0.95) < 1.0


def test_a_larger_image_is_measured_on_its_thumbnail(wide_scene):
    before, after = (cv2.resize(window(wide_scene, *by), (1024, 512)) for by in ((0, 0), (2, 4)))
    assert grey_thumbnail(before).shape == SIZE
    assert np.abs(np.median(measure(before, after), (1, 2)) - (8, 16)).max() < 1.5


def test_a_camera_that_drives_ahead_is_measured_position_by_position(wide_scene):
    down, right = measure(window(wide_scene), window(wide_scene, zoom=1.06))
    rows, columns = (np.arange(side) * 4 + 1.5 for side in (32, 64))
    wanted_down = 0.06 * (rows - 63.5)[:, None] + 0 * columns
    wanted_right = 0.06 * (columns - 127.5)[None] + 0 * rows[:, None]
    inner = (slice(3, -3), slice(4, -4))
    assert np.quantile(np.hypot(down - wanted_down, right - wanted_right)[inner], 0.9) < 0.7


def test_where_blocks_are_lost_the_motion_of_the_rest_is_filled_in(wide_scene):
    before, after = window(wide_scene), window(wide_scene, 2, 6)
    rng = np.random.default_rng(0)
    for image in (before, after):
        for top, left in rng.integers(0, (128 - 24, 256 - 24), (8, 2)):
            image[top : top + 24, left : left + 24] = rng.choice((0, 114, 200))
    error = measure(before, after) - np.float32((2, 6))[:, None, None]
    assert np.quantile(np.hypot(*error), 0.9) < 1.5 < 0.3 * np.hypot(2, 6)


def test_something_that_moves_by_itself_is_followed(wide_scene):
    before, after = window(wide_scene), window(wide_scene)
    before[40:96, 80:150] = wide_scene[:56, :70]
    after[40:96, 90:160] = wide_scene[:56, :70]
    moved = measure(before, after)
    assert np.abs(moved[:, 13:21, 24:34].mean((1, 2)) - (0, 10)).max() < 2.0
    assert np.abs(moved[:, :, 48:]).max() < 0.5


def test_a_motion_that_is_quadratic_in_x_and_y_is_fitted():
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 32), indexing="ij")
    trusted = np.ones((16, 32), np.float32)
    for down, right, error in [(10 * y, 10 * x, 0.02), (10 * x * y, 10 * x * x, 0.3), (10 * y * y, 10 * x * y, 0.3)]:
        motion = np.dstack((right, down)).astype(np.float32)
        assert np.abs(_fit(motion, trusted) - motion).max() < error


def test_a_motion_seen_in_one_row_only_is_taken_for_that_of_all_rows():
    motion, trust = np.zeros((16, 32, 2), np.float32), np.zeros((16, 32), np.float32)
    motion[0, :, 0], trust[0] = 6 * np.linspace(-1, 1, 32), 1
    assert (_fit(motion, trust)[-1, :, 0] / motion[0, :, 0] > 0.5).all()


def test_flow_is_trusted_by_half_on_a_slope_of_8_grey_levels_a_third_of_that_4_levels_off_and_not_at_the_edge():
    slope, still = np.tile(np.arange(30, dtype=np.uint8) * 8, (30, 1)), np.zeros((30, 30, 2), np.float32)
    for before, brighter, sure in ((slope, 0, 0.5), (slope.T.copy(), 0, 0.5), (slope, 4, 0.5 * np.exp(-1))):
        trust = _trust(before, before + np.uint8(brighter), still)
        np.testing.assert_allclose(trust[1:-1, 1:-1], sure, rtol=1e-4)
        assert not (trust[[0, -1]].any() or trust[:, [0, -1]].any())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.full((128, 256), 80, np.uint8), np.full((128, 256), 80, np.uint8)),
        (np.zeros((128, 256), np.uint8), np.full((128, 256), 255, np.uint8)),
    ],
    ids=["flat", "black to white"],
)
def test_where_nothing_can_be_told_nothing_moves(before, after):
    assert np.abs(PictureMotion().measure(before, after)).max() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (31, 64), (200, 3)])
def test_pictures_too_small_for_flow_do_not_move(size):
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(2))
    moved = measure(before, after)
    assert moved.shape == (2, max(1, size[0] // 4), max(1, size[1] // 4)) and not moved.any()


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"of one size, got \(64, 64\) and \(64, 72\)"):
        PictureMotion().measure(np.zeros((64, 64), np.uint8), np.zeros((64, 72), np.uint8))


def test_remembered_cells_are_followed_from_frame_to_frame(wide_scene):
    frames = np.stack([window(wide_scene, 2 * t, 8 * t) for t in range(4)])
    positions = follow(frames, GRID)
    assert [one.shape for one in positions] == [(t, 2, *GRID) for t in range(4)]
    for number, moved in enumerate(positions[3]):
        cells = (3 - number) * np.array((0.25, 1.0))  # 8 pixels a cell
        assert np.abs(np.median(moved - HOME, (1, 2)) - cells).max() < 0.15
    np.testing.assert_array_equal(follow(frames, GRID)[3], positions[3])


def test_a_frame_that_is_not_remembered_leaves_no_trace(wide_scene):
    first, other, last = window(wide_scene), wide_scene[::-1][:128, :256], window(wide_scene, 0, 8)
    straight, around = PositionTracker(), PositionTracker()
    for tracker in (straight, around):
        assert len(tracker.track(first, GRID)) == 0
        tracker.commit(0)
    around.track(other, GRID)
    np.testing.assert_array_equal(around.track(last, GRID), straight.track(last, GRID))


def test_the_slot_that_is_overwritten_starts_anew(wide_scene):
    tracker = PositionTracker()
    for number in range(4):
        tracker.track(window(wide_scene, 0, 4 * number), GRID)
        tracker.commit(number % 3)
    steps = np.median(tracker.track(window(wide_scene, 0, 16), GRID)[:, 1] - HOME[1], (1, 2))
    np.testing.assert_allclose(steps, (0.5, 1.5, 1.0), atol=0.15)  # slot 0 holds the newest, slot 1 the oldest


def test_a_cleared_tracker_knows_nothing(wide_scene):
    tracker = PositionTracker()
    tracker.track(window(wide_scene), GRID)
    tracker.commit(0)
    tracker.clear()
    assert tracker.track(window(wide_scene, 0, 8), GRID).shape == (0, 2, *GRID)
    tracker.commit(0)
    assert len(tracker.track(window(wide_scene, 0, 8), GRID)) == 1


def test_nothing_can_be_kept_that_was_not_looked_at():
    with pytest.raises(ValueError, match="track one first"):
        PositionTracker().commit(0)


def test_features_may_be_finer_than_the_measured_blocks(wide_scene):
    frames = np.stack([cv2.resize(window(wide_scene, 0, right), (1024, 512)) for right in (0, 4)])
    positions = follow(frames, Size(129, 257))[1]
    assert positions.shape == (1, 2, 129, 257)
    assert abs(np.median(positions[0, 1] - np.indices((129, 257))[1]) - 257 * 4 / 256) < 0.3


def test_a_position_moves_as_the_mean_of_the_blocks_that_it_covers():
    shares = np.random.default_rng(0).normal(size=(2, 4, 24)).astype(np.float32)
    mean = shares.reshape(2, 4, 8, 3).mean(3) * np.float32((4, 8))[:, None, None]
    np.testing.assert_allclose(_to_grid(shares, Size(4, 8)), mean, atol=1e-5)
