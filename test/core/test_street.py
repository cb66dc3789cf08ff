"""The generated street: the same every time, true to its camera, and complete in its classes."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import DEGRADATIONS, Street, StreetConfig
from lmanet_core.street.atlas import build_atlas
from lmanet_core.street.camera import Lens
from lmanet_core.street.drive import BLOCK_S, STOP_LINE_M, Drive
from lmanet_core.street.mesh import LABEL, MeshBuilder, coarse_mesh, join_meshes, move_mesh
from lmanet_core.street.road import BLOCK_M, Road
from lmanet_core.street.textures import PLAIN, TEXTURES

ROAD, SIDEWALK, SKY = LABEL["road"], LABEL["sidewalk"], LABEL["sky"]
SMALL = {"width": 256, "height": 128}


def fresh_street(**settings) -> Street:
    return Street(StreetConfig(**{**SMALL, **settings}))


street = lru_cache(maxsize=12)(fresh_street)  # where it does not matter that it has been used before


@pytest.fixture(scope="module")
def empty_street() -> Street:
    """Nobody on the road, so that nothing hides the kerbs."""
    return Street(StreetConfig(seed=3, traffic=0.0, pedestrians=0.0))


def same(a, b) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.labels, b.labels) and a.stamp_ns == b.stamp_ns


@pytest.mark.parametrize("degradation", ["none", "mixed"])
def test_one_seed_is_one_drive(degradation):
    first, second = (fresh_street(seed=5, degradation=degradation, level=3) for _ in range(2))
    for a, b in zip(first.frames(7, 5), second.frames(7, 5), strict=True):
        assert same(a, b)


def test_random_access_equals_sequential_access():
    indices = (0, 3, 260, 9)  # 260: another block, so that caches have turned over
    one_by_one = {i: frame for i, frame in enumerate(fresh_street(seed=6, degradation="rain").frames(0, 10)) if i in indices}
    jumping = fresh_street(seed=6, degradation="rain")
    jumped = {i: jumping.frame(i) for i in reversed(indices)}
    for i, frame in one_by_one.items():
        assert same(frame, jumped[i])
    assert same(fresh_street(seed=6, degradation="rain").frame(260), jumped[260])


def test_nothing_global_is_drawn_from():
    before = fresh_street(seed=6, degradation="mixed", level=3).frame(40)
    np.random.seed(1)  # noqa: NPY002 (what somebody else might do)
    cv2.setRNGSeed(1)
    assert same(before, fresh_street(seed=6, degradation="mixed", level=3).frame(40))


def test_other_seeds_are_other_towns():
    frames = [street(seed=seed).frame(0) for seed in range(3)]
    for i, a in enumerate(frames):
        for b in frames[:i]:
            assert (a.labels != b.labels).mean() > 0.15
            assert np.abs(a.image.astype(int) - b.image).mean() > 15


def test_frames_far_down_the_road_exist_and_repeat():
    far = street(seed=2)
    assert same(far.frame(1_000_000), fresh_street(seed=2).frame(1_000_000))
    assert not np.array_equal(far.frame(1_000_000).labels, far.frame(0).labels)


def test_depth_is_that_of_the_road_ahead_and_infinite_in_the_sky(empty_street):
    frame = empty_street.frame(40)
    assert frame.depth_m.dtype == np.float32 and frame.depth_m.shape == frame.labels.shape
    for ahead_m in (8.0, 15.0, 30.0):
        x, y = empty_street.project(40, ahead_m, 1.5)
        assert frame.depth_m[round(y), round(x)] == pytest.approx(ahead_m, rel=0.05)  # the camera looks down a little
    assert np.array_equal(np.isinf(frame.depth_m), frame.labels == SKY)


def in_town(frame, pose: np.ndarray) -> np.ndarray:
    """(H, W, 3) metres of every pixel in the frame that the camera's pose is given in."""
    k = frame.camera_info.k
    y, x = np.indices(frame.labels.shape)
    rays = np.stack([(x - k[2]) / k[0], (y - k[5]) / k[4], np.ones(x.shape)], axis=-1)
    depth = np.where(np.isinf(frame.depth_m), 0.0, frame.depth_m)  # the sky is nowhere
    return (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


def test_what_stands_still_has_one_place_in_the_town(empty_street):
    first, last = 20, 60  # 30 m and a chunk further
    frame, pose = empty_street.frame(first), empty_street.camera_pose(first)
    later, later_pose = empty_street.frame(last), empty_street.camera_pose(last)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    assert pose[2, 3] == pytest.approx(1.4, abs=0.05) and pose[2, 2] == pytest.approx(0.0, abs=0.02)  # above the road, level
    assert later_pose[0, 3] - pose[0, 3] > 25.0  # x is forward
    ground = in_town(frame, pose)[frame.labels == ROAD]
    assert np.abs(np.median(ground[:, 2])) < 0.1
    still = (
        np.isin(frame.labels, [LABEL["building"], LABEL["pole"], LABEL["fence"]])
        & (frame.depth_m > 45.0)
        & (frame.depth_m < 80.0)
    )
    points = (in_town(frame, pose)[still] - later_pose[:3, 3]) @ later_pose[:3, :3]  # as the later camera sees them
    k = later.camera_info.k
    x, y = np.rint(points[:, :2] / points[:, 2:] * (k[0], k[4]) + (k[2], k[5])).astype(int).T
    height, width = later.labels.shape
    seen = (points[:, 2] > 5.0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    assert seen.sum() > 200
    agree = np.abs(later.depth_m[y[seen], x[seen]] / points[seen, 2] - 1.0) < 0.05
    assert agree.mean() > 0.8  # the rest is hidden, or beside an edge


def test_an_endless_drive_is_an_iterator():
    assert [frame.stamp_ns for frame in islice(street(fps=4.0).frames(2), 3)] == [500_000_000, 750_000_000, 1_000_000_000]


@pytest.fixture(scope="module")
def class_pixels() -> np.ndarray:
    """(frames, 256) pixels of each label in frames of several towns."""
    drives = [street(seed=seed) for seed in range(5)]
    return np.array([np.bincount(d.frame(i).labels.ravel(), minlength=256) for d in drives for i in range(0, 320, 40)])


def test_all_classes_appear_and_no_pixel_is_unlabelled(class_pixels):
    assert class_pixels[:, len(CITYSCAPES.names) :].sum() == 0
    totals = class_pixels.sum(axis=0)[:19].tolist()
    assert not [name for name, pixels in zip(CITYSCAPES.names, totals, strict=True) if pixels < 100]


@pytest.mark.parametrize("name", ["train", "motorcycle", "rider", "bus", "truck", "bicycle", "wall", "fence", "terrain"])
def test_rare_classes_are_not_rare(class_pixels, name):
    assert (class_pixels[:, LABEL[name]] >= 10).mean() > 0.1


def test_sky_is_above_the_horizon_and_road_below_in_front():
    horizon = Lens.from_config(StreetConfig(**SMALL)).cy
    road_in_front = []
    for seed in range(4):
        labels = street(seed=seed).frame(50).labels
        rows = np.nonzero(labels == SKY)[0]
        assert rows.max() < horizon + 4  # pitch and roll move it by a pixel or two
        assert np.nonzero(labels == ROAD)[0].min() > horizon - 4
        road_in_front.append((labels[-20:, 100:156] == ROAD).mean())
    assert np.mean(road_in_front) > 0.9


def test_kerb_is_where_the_camera_projects_it(empty_street):
    focal = empty_street.camera_info.k[0]
    hits = tried = 0
    for index in (0, 60, 120):
        labels = empty_street.frame(index).labels
        for along in (12.0, 14.0, 16.0, 18.0, 20.0):
            x, y = empty_street.project(index, along, 5.7)
            pixel = focal / along  # a metre across, in pixels
            row = labels[round(y)]
            if row[round(x + 0.1 * pixel)] != SIDEWALK and SIDEWALK not in row[round(x) - 20 :]:
                continue  # the cross street has no kerb
            tried += 1
            hits += row[round(x - 1.5)] == ROAD and row[round(x + 2.0)] != ROAD
    assert tried >= 8
    assert hits >= 0.9 * tried


def test_projection_agrees_with_camera_info():
    still = street(vibration=0.0, traffic=0.0)
    info = still.camera_info
    assert (info.width, info.height) == (256, 128)
    # Two points on one vertical line: same column, as far apart as focal length, height and distance say.
    foot, top = still.project(0, 20.0, 1.7, 0.0), still.project(0, 20.0, 1.7, 2.0)
    depth = info.k[0] * 1.4 / (foot[1] - info.k[5])
    assert top[0] == pytest.approx(foot[0], abs=1e-6)
    assert foot[1] - top[1] == pytest.approx(info.k[4] * 2.0 / depth, rel=1e-6)
    assert depth == pytest.approx(20.0, abs=1.0)  # the road curves
    assert info.p[:3] == info.k[:3]


def test_texture_moves_with_the_road(empty_street):
    """The asphalt at one place of the road looks the same a frame later, although it is elsewhere in the image."""
    index = 12
    step = empty_street.driven_m(index + 1) - empty_street.driven_m(index)
    assert 0.3 < step < 2.0
    grid = [(along, across) for along in np.arange(7.2, 8.6, 0.1) for across in np.arange(0.3, 3.2, 0.1)]

    def tones(frame, moved):
        points = np.array([empty_street.project(frame, along - moved, across) for along, across in grid], np.float32)
        grey = cv2.cvtColor(empty_street.frame(frame).image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return cv2.remap(cv2.GaussianBlur(grey, (0, 0), 1.0), points[:, 0], points[:, 1], cv2.INTER_LINEAR).ravel()

    first = tones(index, 0.0)
    followed, stuck = (np.corrcoef(first, tones(index + 1, moved))[0, 1] for moved in (step, 0.0))
    assert followed > 0.9
    assert followed > stuck + 0.4


def test_labels_of_neighbouring_frames_agree():
    for seed in (1, 4):
        drive = street(seed=seed)
        a, b = drive.frame(30), drive.frame(31)
        assert (a.labels == b.labels).mean() > 0.8
        for label in (SKY, ROAD):
            colors = [frame.image[frame.labels == label].mean(axis=0) for frame in (a, b)]
            assert np.abs(colors[0] - colors[1]).max() < 6


@pytest.fixture(scope="module")
def clean_frames():
    clean = street(seed=8)
    return {index: clean.frame(index) for index in (45, 60, 70)}


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_degradations_change_images_and_never_labels(clean_frames, degradation):
    changed = []
    for level in (0, 1, 3):
        degraded = street(seed=8, degradation=degradation, level=level)
        differences = []
        for index, a in clean_frames.items():
            b = degraded.frame(index)
            assert np.array_equal(a.labels, b.labels)
            assert b.image.dtype == np.uint8 and b.image.shape == a.image.shape
            differences.append(float(np.abs(a.image.astype(int) - b.image).mean()))
        changed.append(max(differences))
    assert changed[0] == 0.0
    if degradation == "none":
        assert changed == [0.0] * 3
    else:
        assert 0.3 < changed[1] < changed[2]


def test_noise_is_new_in_every_frame_and_as_strong_as_said():
    clean, noisy = (street(seed=8, vibration=0.0, degradation=d, level=2) for d in ("none", "noise"))
    noise = [noisy.frame(i).image.astype(float) - clean.frame(i).image for i in (10, 11)]
    middle = [(clean.frame(i).image > 70) & (clean.frame(i).image < 185) for i in (10, 11)]  # not cut off at 0 or 255
    assert noise[0][middle[0]].std() == pytest.approx(20.0, abs=1.0)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_fog_hides_what_is_far():
    clear, fog = (street(seed=8, traffic=0.0, pedestrians=0.0, degradation=d, level=3).frame(20) for d in ("none", "fog"))

    def kept(rows):
        """How much of the road's difference from the fog's colour is left."""
        on_road = clear.labels[rows] == ROAD
        differences = [np.abs(frame.image[rows][on_road] - np.array((198.0, 202.0, 206.0))).mean() for frame in (fog, clear)]
        return differences[0] / differences[1]

    # Level 3 takes 4 % a metre, give or take a sixth. The bottom rows are 6 m away, rows 66–68 about 45 m. Only their ratio
    # is known, since fog takes the sun, too.
    assert kept(slice(66, 69)) / kept(slice(120, 128)) == pytest.approx(np.exp(-0.04 * (45 - 6)), abs=0.1)


@pytest.mark.parametrize(("width", "height"), [(97, 55), (32, 32), (200, 400), (640, 100)])
def test_any_size(width, height):
    frame = Street(StreetConfig(width=width, height=height, degradation="mixed", level=3)).frame(33)
    assert frame.image.shape == (height, width, 3)
    assert frame.labels.shape == (height, width)
    assert (frame.camera_info.width, frame.camera_info.height) == (width, height)


def test_a_larger_image_shows_the_same_street():
    small, large = (Street(StreetConfig(width=w, height=w // 2, seed=9)).frame(15) for w in (256, 512))
    assert (small.labels == large.labels[::2, ::2]).mean() > 0.9
    shrunk = cv2.resize(large.image, (256, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(small.image.astype(int) - shrunk).mean() < 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 8}, "width must be a whole number of 32–4096"),
        ({"height": 128.0}, "height must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0 up, got -1"),
        ({"degradation": "snow"}, "must be one of none, noise, .*got 'snow'"),
        ({"level": 4}, "level must be 0 .*3 .*got 4"),
        ({"level": True}, "level must be"),
        ({"fps": 0}, "fps must be 0.1–1000 frames a second, got 0"),
        ({"traffic": 3.0}, "traffic must be 0–2"),
        ({"pedestrians": float("nan")}, "pedestrians must be 0–2"),
        ({"focal_scale": "wide"}, "focal_scale must be .*got 'wide'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        StreetConfig(**settings)


def test_frames_before_the_start_and_points_behind_are_refused():
    drive = street()
    with pytest.raises(ValueError, match="index must be 0 or more, got -1"):
        drive.frame(-1)
    with pytest.raises(ValueError, match="ahead of the camera"):
        drive.project(0, -12.0, 0.0)


def test_drive_is_smooth_and_stops_before_red_lights():
    drive = Drive(4, 1.0)
    times = np.arange(0.0, 20 * BLOCK_S, 0.05)
    metres = np.array([drive.driven(float(t)) for t in times])
    speeds = np.array([drive.speed(float(t)) for t in times])
    assert speeds.min() >= 0 and speeds.max() < 17
    assert np.abs(np.diff(metres) / 0.05 - speeds[:-1]).max() < 0.3  # no jumps: the speed is the slope of the way
    assert any(drive.plan(block).stops for block in range(20))
    for t, at in zip(times.tolist(), metres.tolist(), strict=True):
        block = int(at // BLOCK_M)
        if drive.light(block, t) == "red" and t // BLOCK_S == block:
            assert at - block * BLOCK_M < STOP_LINE_M


def test_chunks_of_the_road_meet():
    road = Road(7)
    for chunk in (-2, 0, 9):
        x, z, heading = road.step_to_next(chunk)
        end = road.in_chunk(chunk, 40.0, 3.0)
        start = road.in_chunk(chunk + 1, 0.0, 3.0)
        turned = (x + start[0] * np.cos(heading) + start[1] * np.sin(heading), z - start[0] * np.sin(heading))
        assert end[:2] == pytest.approx(turned, abs=1e-9)
        assert end[2] == pytest.approx(start[2] + heading, abs=1e-9)


def test_meshes_move_join_and_lose_detail():
    build = MeshBuilder()
    box = (-1.0, 1.0, -2.0, 2.0)
    faces = build.tapered(box, box, 0.0, 1.5, (10, 20, 30), LABEL["car"], PLAIN)
    build.inset(faces["n"], 0.5, 0.51, 0.5, 0.51, (1, 2, 3), LABEL["car"])
    mesh = build.finish()
    moved = move_mesh(mesh, 5.0, 7.0, np.pi / 2)  # its front, z = 2, now looks along x
    assert moved.points[:, 0].max() == pytest.approx(7.0, abs=1e-5)
    np.testing.assert_allclose((moved.u[0, :3] * moved.points[0]).sum() + moved.u[0, 3], 0.0, atol=1e-5)
    both = join_meshes([mesh, moved])
    assert both.parts.tolist() == [0] * 6 + [1] * 6
    assert len(coarse_mesh(both, 0.1).counts) == 10  # the two insets are gone


def test_textures_tile_and_average_to_themselves():
    atlas = build_atlas(1)
    assert atlas.size.shape[0] == TEXTURES
    x, y, side = (int(plane[PLAIN, 0]) for plane in (atlas.x, atlas.y, atlas.size))
    assert (atlas.image[y : y + side, x : x + side] == (0, 0, 0, 128)).all()
    for texture in range(TEXTURES):
        x, y, side = (int(plane[texture, 0]) for plane in (atlas.x, atlas.y, atlas.size))
        assert np.array_equal(atlas.image[y : y + side, x - 1], atlas.image[y : y + side, x + side - 1])  # wrapped border
