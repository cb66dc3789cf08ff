"""When a picture shows nothing: black, white, covered, frozen; and what becomes of the memory then."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lmanet_core.frame import Blindness, Discontinuity
from lmanet_core.stream.blindness import _noise, textureless
from lmanet_core.stream.continuity import Continuity, ContinuityConfig, ContinuityMonitor

MS = 1_000_000
HEIGHT, WIDTH = 120, 160
BLIND = {
    Blindness.BLACK: np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    Blindness.SATURATED: np.full((HEIGHT, WIDTH, 3), 255, np.uint8),
    Blindness.COVERED: np.full((HEIGHT, WIDTH, 3), (90, 60, 40), np.uint8),
}


def scene(seed: int = 0) -> np.ndarray:
    """(120, 160, 3): blobs in random colours."""
    blobs = np.random.default_rng(seed).normal(110, 50, (15, 20, 3))
    return np.clip(cv2.resize(blobs, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return np.clip(image + np.random.default_rng(seed).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def moving(count: int) -> list[np.ndarray]:
    return [np.roll(scene(), 2 * shift, axis=1) for shift in range(count)]


def judge(images: list[np.ndarray], start_ns: int = 0, **config: object) -> list[Continuity]:
    """Every image by one monitor, 100 ms apart."""
    monitor = ContinuityMonitor(ContinuityConfig(**config))  # type: ignore[arg-type]
    return [monitor.check(image, start_ns + i * 100 * MS, "camera") for i, image in enumerate(images)]


# ---- pictures without texture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0, 3, 25])
@pytest.mark.parametrize("blindness", BLIND)
def test_a_picture_of_one_colour_shows_nothing_whatever_its_noise(blindness: Blindness, sigma: float) -> None:
    large = cv2.resize(BLIND[blindness], (640, 480))
    assert textureless(noisy(large, sigma)) is blindness


@pytest.mark.parametrize(
    ("level", "blindness"),
    [(31, Blindness.BLACK), (32, Blindness.COVERED), (224, Blindness.COVERED), (225, Blindness.SATURATED)],
)
def test_a_picture_that_shows_nothing_is_black_below_32_and_saturated_above_224(level: int, blindness: Blindness) -> None:
    assert textureless(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) is blindness


def test_a_hand_with_light_around_it_is_a_cover() -> None:
    y, x = np.mgrid[:480, :640] / 480.0
    hand = np.dstack((30 + 60 * x * y, 15 + 20 * x, 10 + 10 * y))
    assert textureless(noisy(hand, 4)) is Blindness.COVERED


@pytest.mark.parametrize("gain", [0.1, 1.0, 3.0])
def test_a_dark_and_an_overexposed_scene_show_something(gain: float) -> None:
    assert textureless(cv2.convertScaleAbs(scene(), alpha=gain)) is None


def test_a_night_with_one_lamp_shows_something() -> None:
    night = noisy(np.full((480, 640, 3), 4, np.uint8), 3)
    night[200:260, 300:360] = 200
    assert textureless(night) is None


def test_noise_is_measured_in_grey_levels() -> None:
    assert _noise(noisy(np.full((192, 256), 128, np.uint8), 10)) == pytest.approx(10, rel=0.15)


def test_a_scene_in_heavy_noise_shows_something() -> None:
    assert textureless(noisy(cv2.resize(scene(), (640, 480)), 25)) is None


# ---- pictures that have stopped -------------------------------------------------------------------------------------------


def test_the_same_bytes_many_times_are_a_frozen_camera() -> None:
    frames = moving(4)
    judged = judge(frames + [frames[-1]] * 12)
    assert [one.blind for one in judged] == [None] * 13 + [Blindness.FROZEN] * 3
    assert [one.remember for one in judged] == [True] * 13 + [False] * 3


def test_a_picture_that_moves_again_is_a_reset() -> None:
    frames = moving(5)
    judged = judge(frames[:4] + [frames[3]] * 12 + [frames[4]])
    assert judged[-1] == Continuity(Discontinuity.FROZEN, remember=True)


def test_a_parked_camera_with_noise_is_not_frozen() -> None:
    assert not any(one.blind for one in judge([noisy(scene(), 1, seed) for seed in range(40)]))


def test_a_scene_that_is_still_from_the_start_is_not_frozen() -> None:
    judged = judge([scene()] * 60)
    assert [one.discontinuity for one in judged] == [Discontinuity.FIRST_FRAME] + [None] * 59
    assert not any(one.blind for one in judged) and all(one.remember for one in judged)


def test_a_generated_scene_that_comes_to_rest_is_not_frozen_and_drives_on_unpunished() -> None:
    last = moving(4)[-1].copy()
    slowing = last.copy()
    slowing[:20, :20] += 1  # the last thing that moves
    judged = judge([*moving(4), slowing] + [last] * 40 + [np.roll(last, 2, axis=1)])
    assert not any(one.blind for one in judged)
    assert all(one.discontinuity is None for one in judged[1:])


def test_what_differs_between_the_samples_is_not_the_same_bytes() -> None:
    large = cv2.resize(scene(), (640, 480))
    frames = [np.roll(large, 8, axis=1)] + [large.copy() for _ in range(20)]
    for number, frame in enumerate(frames):
        frame[1, 1] = number  # sampled are every 2.5th row and column
    assert not any(one.blind for one in judge(frames))


def test_the_callers_buffer_may_be_reused_whatever_its_size() -> None:
    monitor, buffer = ContinuityMonitor(), np.empty((192, 256, 3), np.uint8)
    for number, frame in enumerate(moving(20)):
        buffer[:] = cv2.resize(frame, (256, 192))
        assert monitor.check(buffer, number * 100 * MS).blind is None
    stopped = [monitor.check(buffer, number * 100 * MS).blind for number in range(20, 31)]
    assert stopped[-1] is Blindness.FROZEN  # what had moved before is known


def test_repeated_stamps_do_not_count_as_frozen() -> None:
    monitor = ContinuityMonitor()
    for number, frame in enumerate(moving(4)):
        monitor.check(frame, number * 100 * MS)
    assert not any(monitor.check(moving(4)[-1], 300 * MS).blind for _ in range(40))


def test_freezing_can_be_switched_off() -> None:
    frames = moving(2)
    assert not any(one.blind for one in judge(frames + [frames[-1]] * 40, frozen_repeats=0))


def test_a_longer_repetition_can_be_asked_for() -> None:
    frames = moving(2)
    judged = judge(frames + [frames[-1]] * 21, frozen_repeats=20)
    assert [one.blind is None for one in judged] == [True] * 21 + [False] * 2


# ---- what becomes of the memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blindness", BLIND)
def test_blind_frames_are_not_remembered_and_the_first_good_one_is_a_reset(blindness: Blindness) -> None:
    before, *_, after = frames = moving(6)
    judged = judge([before, *frames[1:3], BLIND[blindness], BLIND[blindness], after, after])
    assert judged[3] == judged[4] == Continuity(None, remember=False, blind=blindness)
    assert judged[5] == Continuity(Discontinuity.BLIND, remember=True)
    assert judged[6] == Continuity(None, remember=True)


def test_a_stream_that_begins_blind_is_reset_when_it_sees() -> None:
    first, second = judge([BLIND[Blindness.BLACK], scene()])
    assert first == Continuity(Discontinuity.FIRST_FRAME, remember=False, blind=Blindness.BLACK)
    assert second == Continuity(Discontinuity.BLIND, remember=True)


def test_seeing_again_is_the_cause_even_after_a_gap() -> None:
    monitor = ContinuityMonitor(ContinuityConfig(gap_s=0.5))
    monitor.check(scene(), 0)
    monitor.check(BLIND[Blindness.BLACK], 100 * MS)
    assert monitor.check(scene(), 9000 * MS).discontinuity is Discontinuity.BLIND


def test_another_camera_after_a_blind_one_is_the_cause_itself() -> None:
    monitor = ContinuityMonitor()
    monitor.check(scene(), 0, "front")
    monitor.check(BLIND[Blindness.BLACK], 100 * MS, "front")
    assert monitor.check(scene(), 200 * MS, "rear") == Continuity(Discontinuity.FRAME_ID_CHANGE, remember=True)


def test_a_late_blind_frame_says_so_and_changes_nothing() -> None:
    monitor = ContinuityMonitor()
    monitor.check(scene(), 100 * MS)
    assert monitor.check(BLIND[Blindness.BLACK], 50 * MS) == Continuity(None, remember=False, blind=Blindness.BLACK)
    assert monitor.check(scene(), 200 * MS) == Continuity(None, remember=True)


def test_without_blind_every_picture_is_remembered() -> None:
    assert all(one == Continuity(None, remember=True) for one in judge([scene(), *BLIND.values(), scene()], blind=False)[1:])


def test_a_flash_is_not_remembered_and_resets_nothing() -> None:
    frames = [np.clip(image.astype(int) // 3 + 52, 0, 255).astype(np.uint8) for image in moving(6)]
    flash = cv2.convertScaleAbs(frames[3], alpha=3, beta=40)
    judged = judge([*frames[:3], flash, *frames[4:]])
    assert [one.remember for one in judged] == [True, True, True, False, True, True]
    assert all(one.discontinuity is None and one.blind is None for one in judged[1:])


def test_a_scene_that_stays_overexposed_is_remembered_after_a_second() -> None:
    frames = [np.clip(image.astype(int) // 3 + 52, 0, 255).astype(np.uint8) for image in moving(16)]
    judged = judge([frames[0]] + [cv2.convertScaleAbs(frame, alpha=3, beta=40) for frame in frames[1:]])
    assert [one.remember for one in judged] == [True] + [False] * 10 + [True] * 5
