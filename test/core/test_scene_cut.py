"""What counts as a cut: another texture; not exposure, noise, motion, a passing car or a black frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lmanet_core.stream import likeness, scene_cut
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.likeness import extract_texture, measure_similarity
from lmanet_core.stream.scene_cut import SceneCutDetector

HEIGHT, WIDTH = 240, 320


def scene(seed: int, width: int = WIDTH) -> np.ndarray:
    """Blobs of two sizes in random colours, (240, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(size=(HEIGHT // cell, width // cell, 3)), (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for cell in (10, 20)
    ]
    return np.clip(110 + 35 * sum(layers), 0, 255).astype(np.uint8)


def flat(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def detector(similarity: float | None = None, margin: float | None = None) -> SceneCutDetector:
    config = ContinuityConfig()
    return SceneCutDetector(
        config.scene_cut_similarity if similarity is None else similarity,
        config.scene_cut_margin if margin is None else margin,
    )


def find_cuts(*frames: np.ndarray) -> list[int]:
    one = detector()
    return [i for i, frame in enumerate(frames) if one.is_cut(frame)]


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return measure_similarity(extract_texture(a), extract_texture(b))


# ---- cuts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_cut_between_two_scenes_is_found_on_its_frame(seed: int) -> None:
    a, b = scene(2 * seed), scene(2 * seed + 1)
    assert find_cuts(a, a, a, b, b, b, a, a) == [3, 6]


def test_cut_on_the_second_frame_is_found() -> None:
    assert find_cuts(scene(1), scene(2)) == [1]


def test_single_damaged_frame_is_two_cuts() -> None:
    a = scene(1)
    assert find_cuts(a, a, scene(2), a, a) == [2, 3]


def test_cut_is_found_in_noise_and_with_another_exposure() -> None:
    rng = np.random.default_rng(0)
    frames = [scene(1)] * 3 + [cv2.convertScaleAbs(scene(2), alpha=0.6)] * 3
    assert find_cuts(*(np.clip(f + rng.normal(0, 25, f.shape), 0, 255).astype(np.uint8) for f in frames)) == [3]


def test_what_hides_four_fifths_of_the_picture_is_a_cut() -> None:
    hidden = scene(1)
    hidden[:, : WIDTH * 4 // 5] = scene(2)[:, : WIDTH * 4 // 5]
    assert find_cuts(scene(1), scene(1), hidden) == [2]


def test_jump_beyond_any_turn_is_a_cut() -> None:
    wide = scene(1, 2 * WIDTH)
    assert find_cuts(wide[:, :WIDTH], wide[:, :WIDTH], wide[:, WIDTH // 2 : WIDTH // 2 + WIDTH]) == [2]


# ---- no cuts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.6, 0.8, 1.3, 1.6])
def test_exposure_step_is_not_a_cut(gain: float) -> None:
    assert find_cuts(scene(1), scene(1), cv2.convertScaleAbs(scene(1), alpha=gain), scene(1)) == []


def test_noise_is_not_a_cut() -> None:
    rng = np.random.default_rng(0)
    assert (
        find_cuts(*(np.clip(scene(1) + rng.normal(0, 25, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8) for _ in range(5))) == []
    )


@pytest.mark.parametrize("direction", [1, -1])
def test_turning_by_an_eighth_of_the_width_per_frame_is_not_a_cut(direction: int) -> None:
    wide = scene(1, 2 * WIDTH)
    lefts = range(0, WIDTH + 1, WIDTH // 8)[::direction]
    assert find_cuts(*(wide[:, left : left + WIDTH] for left in lefts)) == []


@pytest.mark.parametrize("left", [0, 100, 224])
def test_what_hides_a_third_of_the_picture_is_not_a_cut(left: int) -> None:
    hidden = scene(1)
    hidden[:, left : left + 96] = scene(2)[:, left : left + 96]
    assert find_cuts(scene(1), scene(1), hidden, scene(1)) == []


@pytest.mark.parametrize("level", [0, 128, 255])
def test_frame_without_texture_is_not_a_cut_and_neither_is_the_return(level: int) -> None:
    assert find_cuts(scene(1), scene(1), flat(level), flat(level), scene(1)) == []


def test_cut_behind_a_black_frame_is_found() -> None:
    assert find_cuts(scene(1), scene(1), flat(0), scene(2)) == [3]


def test_black_frames_in_sensor_noise_are_not_cuts() -> None:
    rng = np.random.default_rng(0)
    assert find_cuts(*(np.clip(rng.normal(0, 25, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8) for _ in range(4))) == []


def test_what_a_vehicle_comes_to_in_half_a_second_is_a_cut_only_for_a_camera_that_should_have_seen_it_coming() -> None:
    wide = scene(1, 4 * WIDTH)
    near = cv2.resize(wide[:, 2 * WIDTH - 95 : 2 * WIDTH + 95][24:-24], (WIDTH, HEIGHT))
    far = wide[:, 2 * WIDTH - 160 : 2 * WIDTH + 160]
    assert similarity(far, near) < 0.5
    one = detector()
    for _ in range(3):
        one.is_cut(far, 0.1)
    assert not one.is_cut(near, 0.5)


def test_a_cut_is_found_where_every_third_frame_is_dropped() -> None:
    one = detector()
    flagged = [one.is_cut(frame, 0.3) for frame in [scene(1)] * 4 + [scene(2)] * 2]
    assert flagged == [False] * 4 + [True, False]


@pytest.mark.parametrize("count", [1, 5])
def test_overexposed_frames_are_no_cuts(count: int) -> None:
    over = cv2.convertScaleAbs(scene(1), alpha=3, beta=40)
    assert find_cuts(*[scene(1)] * 3, *[over] * count, *[scene(1)] * 2) == []


def test_a_blurred_frame_is_no_cut() -> None:
    assert find_cuts(*[scene(1)] * 3, cv2.GaussianBlur(scene(1), (0, 0), 8), *[scene(1)] * 2) == []


def test_other_lost_blocks_in_each_frame_are_no_cuts() -> None:
    rng = np.random.default_rng(0)
    frames = [scene(1).copy() for _ in range(20)]
    for frame in frames:
        for _ in range(4):
            y, x = rng.integers(0, HEIGHT - 48), rng.integers(0, WIDTH - 48)
            frame[y : y + 48, x : x + 48] = rng.integers(0, 256, 3)
    assert find_cuts(*frames) == []


def test_a_picture_mirrored_from_one_frame_on_is_a_cut_even_where_the_scene_is_nearly_symmetrical() -> None:
    half = scene(1)
    symmetrical = (0.75 * half + 0.25 * half[:, ::-1]).astype(np.uint8)
    mirrored = np.ascontiguousarray(symmetrical[:, ::-1])
    assert similarity(symmetrical, mirrored) > 0.66
    assert find_cuts(*[symmetrical] * 3, *[mirrored] * 3, *[symmetrical] * 2) == [3, 6]


def test_with_similarity_0_nothing_is_a_cut() -> None:
    one = detector(similarity=0.0)
    frames = [scene(1), scene(1), scene(2), np.ascontiguousarray(scene(2)[:, ::-1])]
    assert not any(one.is_cut(frame) for frame in frames)


def test_reset_forgets_the_stream() -> None:
    one = detector()
    one.is_cut(scene(1))
    one.is_cut(scene(1))
    one.reset()
    assert one.last_similarity is None
    assert not one.is_cut(scene(2))


def test_reset_forgets_what_was_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.95, 0.65])
    monkeypatch.setattr(scene_cut, "measure_similarity", lambda reference, current: next(values))
    monkeypatch.setattr(scene_cut, "explained_similarity", lambda before, now, elapsed_s, enough: 0.0)
    one = detector(0.75, 0.125)
    assert [one.is_cut(scene(1)) for _ in range(3)] == [False, False, True]  # first frame, 0.95, 0.65
    values = iter([0.95, 0.65])
    one.reset()
    one.is_cut(scene(1))
    one.is_cut(scene(1))
    one.reset()
    one.is_cut(scene(1))
    assert not one.is_cut(scene(1))


# ---- thresholds, on given measurements ------------------------------------------------------------------------------------


def decide(
    monkeypatch: pytest.MonkeyPatch, measured: list[float], similarity: float, margin: float, elapsed_s: float = 0.0
) -> list[bool]:
    """What the detector says to frame pairs that measure this."""
    values = iter(measured)
    monkeypatch.setattr(scene_cut, "measure_similarity", lambda reference, current: next(values))
    monkeypatch.setattr(scene_cut, "explained_similarity", lambda before, now, elapsed_s, enough: 0.0)
    monkeypatch.setattr(scene_cut, "mirrored_similarity", lambda before, now: 0.0)
    one = detector(similarity, margin)
    one.is_cut(scene(1))
    return [one.is_cut(scene(1), elapsed_s) for _ in measured]


def test_similarity_at_the_threshold_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(monkeypatch, [0.9, 0.5, 0.9], 0.5, 0.0) == [False, False, False]
    assert decide(monkeypatch, [0.9, 0.499, 0.9], 0.5, 0.0) == [False, True, False]


@pytest.mark.parametrize(("elapsed_s", "enough"), [(0.1, 0.66), (0.35, 0.56), (0.6, 0.46), (5.0, 0.46)])
def test_less_similarity_is_enough_the_more_time_has_passed_but_not_ever_less(
    monkeypatch: pytest.MonkeyPatch, elapsed_s: float, enough: float
) -> None:
    assert decide(monkeypatch, [enough + 0.01], 0.66, 0.0, elapsed_s) == [False]
    assert decide(monkeypatch, [enough - 0.01], 0.66, 0.0, elapsed_s) == [True]


def test_cut_must_stand_out_of_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [0.625] * 5
    assert decide(monkeypatch, [*usual, 0.5], 0.75, 0.125) == [False] * 6
    assert decide(monkeypatch, [*usual, 0.499], 0.75, 0.125) == [False] * 5 + [True]


def test_usual_is_the_median_of_the_last_five_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.6 is a cut where 0.9 is usual (0.9 − 0.25 = 0.65), but not where 0.7 is, nor 0.8, the median of the last four or six.
    assert decide(monkeypatch, [0.7, 0.9, 0.9, 0.9, 0.7, 0.7, 0.6], 0.65, 0.25)[-1]
    assert not decide(monkeypatch, [0.9, 0.7, 0.7, 0.7, 0.9, 0.9, 0.6], 0.65, 0.25)[-1]


def test_what_was_usual_before_a_cut_does_not_count_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # After the cut at 0.1 nothing is usual yet: only below 0.75 − 0.125 is a cut, and 0.65 would have been one before.
    assert decide(monkeypatch, [0.95, 0.95, 0.1, 0.65], 0.75, 0.125) == [False, False, True, False]


def test_last_similarity_tells_what_was_measured() -> None:
    one = detector()
    one.is_cut(scene(1))
    assert one.last_similarity is None
    one.is_cut(scene(1))
    assert one.last_similarity == pytest.approx(1.0, abs=1e-4)
    one.is_cut(flat(0))
    assert one.last_similarity is None


# ---- measuring ------------------------------------------------------------------------------------------------------------


def test_similarity_does_not_depend_on_gain() -> None:
    a, b = extract_texture(scene(1)), extract_texture(scene(2))
    assert measure_similarity(a, 3.0 * b) == pytest.approx(measure_similarity(a, b), abs=1e-4)


def test_constant_brightness_has_no_texture() -> None:
    assert np.abs(extract_texture(flat(77))).max() < 1e-3


def test_frame_with_texture_does_not_match_one_without() -> None:
    assert measure_similarity(extract_texture(flat(0)), extract_texture(scene(1))) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("noise", [0, 6], ids=["clean", "noisy"])
def test_blocks_without_texture_do_not_vote(noise: int) -> None:
    rng = np.random.default_rng(0)

    def wall_with_poster(seed: int) -> np.ndarray:
        wall = flat(100) + rng.integers(0, noise + 1, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        wall[: HEIGHT // 4, : WIDTH // 4] = scene(seed)[: HEIGHT // 4, : WIDTH // 4]
        return wall

    assert find_cuts(*(wall_with_poster(seed) for seed in (1, 1, 1, 2, 2))) == [3]


def test_two_frames_without_texture_are_alike() -> None:
    assert similarity(flat(0), flat(200)) == 1.0


@pytest.mark.parametrize(("axis", "reach"), [(0, 5), (1, 10)])
def test_a_picture_is_found_again_up_to_5_cells_higher_or_lower_and_10_to_either_side(axis: int, reach: int) -> None:
    texture = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    for side in (-1, 1):
        assert measure_similarity(texture, np.roll(texture, side * reach, axis)) > 0.99
        assert measure_similarity(texture, np.roll(texture, side * (reach + 1), axis)) < 0.6


def test_what_comes_nearer_grows_from_the_middle() -> None:
    rows, columns = (likeness._zoomed(plane, 1.25) for plane in np.indices((48, 64)).astype(np.float32))
    np.testing.assert_allclose(rows[[14, 24, 34], 20], [16, 24, 32], atol=0.01)
    np.testing.assert_allclose(columns[20, [22, 32, 42]], [24, 32, 40], atol=0.01)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_stripes_of_any_direction_have_texture_and_can_be_blurred(direction: str) -> None:
    across = np.where(np.arange(64) // 2 % 2, 160, 80).astype(np.float32)
    stripes = np.tile(across, (48, 1)) if direction == "vertical" else np.tile(across[:48, None], (1, 64))
    assert likeness.rms(likeness._texture(stripes)) > 30
    assert likeness._blurred(stripes).std() < 0.5 * stripes.std()


def test_a_patch_of_colours_no_more_than_2_apart_is_lost() -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (192, 256, 3), np.uint8)
    for span, lost in ((2, True), (3, False)):
        samples[60:120, 60:120] = 100 + span * rng.integers(0, 2, (60, 60, 3), np.uint8)
        assert (likeness._intact(samples)[20:25, 20:25] == 0).all() == lost
        assert (likeness._intact(samples[..., 0])[20:25, 20:25] == 0).all() == lost


def test_cells_that_are_lost_leave_no_trace_in_the_texture() -> None:
    cells, mask = np.full((48, 64), 100, np.float32), np.ones((48, 64), np.float32)
    cells[10:20, 10:20] = mask[10:20, 10:20] = 0
    np.testing.assert_allclose(likeness._texture(cells, mask), 0, atol=1e-3)


@pytest.mark.parametrize(("zoom", "elapsed_s", "explained"), [(1.15, 0.1, True), (1.45, 0.1, False), (1.45, 0.4, True)])
def test_a_camera_comes_a_little_nearer_at_any_time_and_by_almost_half_after_a_third_of_a_second(
    zoom: float, elapsed_s: float, explained: bool
) -> None:
    far = scene(1)
    matrix = np.float32([[zoom, 0, WIDTH / 2 * (1 - zoom)], [0, zoom, HEIGHT / 2 * (1 - zoom)]])
    before, now = likeness.glimpse(far), likeness.glimpse(cv2.warpAffine(far, matrix, (WIDTH, HEIGHT)))
    assert (likeness.explained_similarity(before, now, elapsed_s, 0.95) > 0.92) == explained


def test_blocks_with_a_seventh_of_the_texture_do_not_vote() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0, 1.5, (48, 64)).astype(np.float32)
    now = before.copy()
    for texture in (before, now):
        texture[:24, :16] = rng.normal(0, 40, (24, 16))
    assert measure_similarity(before, now) < 0.7


def test_cut_between_grey_images_is_found() -> None:
    assert find_cuts(*(np.ascontiguousarray(scene(seed)[..., 0]) for seed in (1, 1, 2, 2))) == [2]


def test_grey_image_is_seen_like_its_rgb_copy() -> None:
    grey = cv2.cvtColor(scene(1), cv2.COLOR_RGB2GRAY)
    assert np.array_equal(extract_texture(grey), extract_texture(np.repeat(grey[..., None], 3, axis=2)))


def test_image_with_reversed_channels_and_rows_needs_no_copy_by_the_caller() -> None:
    view = scene(1)[::-1, :, ::-1]
    assert np.array_equal(extract_texture(view), extract_texture(np.ascontiguousarray(view)))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (48, 64), (1080, 1920)])
def test_texture_has_one_size_whatever_the_image(size: tuple[int, int]) -> None:
    assert extract_texture(np.zeros((*size, 3), np.uint8)).shape == (48, 64)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)],
    ids=["float", "empty", "four channels", "one axis"],
)
def test_what_is_not_an_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\).*got"):
        detector().is_cut(image)


# ---- real images ----------------------------------------------------------------------------------------------------------


def read_images(paths: list[Path]) -> list[np.ndarray]:
    return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]


def test_real_drive_has_no_cut_and_another_drive_is_one(shared_data: Path) -> None:
    drive = read_images(sorted((shared_data / "camvid/val/images").glob("*.jpg")))
    others = read_images(sorted((shared_data / "camvid/train/images").glob("0006R0_*.jpg"))[::20])
    assert len(drive) == 101 and len(others) == 6
    assert find_cuts(*drive) == []
    for i, other in enumerate(others):
        clip = drive[10 * i : 10 * i + 5]
        assert find_cuts(*clip, other, other) == [5]


def test_real_video_has_no_cut(shared_data: Path) -> None:
    capture = cv2.VideoCapture(str(shared_data / "video/solidWhiteRight.mp4"))
    frames = []
    while len(frames) < 60:
        read, frame = capture.read()
        assert read
        frames.append(frame)
    assert find_cuts(*frames) == []
