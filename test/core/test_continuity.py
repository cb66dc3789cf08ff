"""When the memory is cleared, and which frames may enter it."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
import pytest

from lmanet_core.errors import ConfigError
from lmanet_core.frame import Discontinuity
from lmanet_core.stream.continuity import Continuity, ContinuityConfig, ContinuityMonitor

MS = 1_000_000
SECOND = 1000 * MS
START = 1_700_000_000 * SECOND
GOES_ON = Continuity(None, remember=True)
NOT_REMEMBERED = Continuity(None, remember=False)
GREY = np.random.default_rng(9).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def scene(seed: int) -> np.ndarray:
    """Coarse checks of random colour, (96, 128, 3): enough texture to tell two seeds apart."""
    checks = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return checks.repeat(4, axis=0).repeat(4, axis=1)


def cleared(cause: Discontinuity) -> Continuity:
    return Continuity(cause, remember=True)


def started(stamp_ns: int = START, image: np.ndarray = GREY, **config: Any) -> ContinuityMonitor:
    """A monitor that has seen one frame."""
    monitor = ContinuityMonitor(ContinuityConfig(**config))
    monitor.check(image, stamp_ns, "camera")
    return monitor


def test_first_frame_clears_memory_and_is_remembered() -> None:
    assert ContinuityMonitor().check(GREY, START) == cleared(Discontinuity.FIRST_FRAME)


def test_next_frame_goes_on() -> None:
    assert started().check(GREY, START + 33 * MS, "camera") == GOES_ON


def test_other_image_size_clears_memory() -> None:
    monitor = started()
    assert monitor.check(GREY[:2], START + 33 * MS, "camera") == cleared(Discontinuity.SIZE_CHANGE)
    assert monitor.check(GREY[:2], START + 66 * MS, "camera") == GOES_ON


def test_other_frame_id_clears_memory() -> None:
    monitor = started()
    assert monitor.check(GREY, START + 33 * MS, "rear") == cleared(Discontinuity.FRAME_ID_CHANGE)
    assert monitor.check(GREY, START + 66 * MS, "rear") == GOES_ON


# ---- stamps ---------------------------------------------------------------------------------------------------------------


def test_backward_stamp_clears_memory_and_the_stream_starts_again_there() -> None:
    monitor = started()
    assert monitor.check(GREY, 0, "camera") == cleared(Discontinuity.BACKWARD_STAMP)
    assert monitor.check(GREY, 33 * MS, "camera") == GOES_ON


def test_late_ends_at_late_s() -> None:
    assert started(late_s=0.2).check(GREY, START - 200 * MS, "camera") == NOT_REMEMBERED
    assert started(late_s=0.2).check(GREY, START - 200 * MS - 1, "camera") == cleared(Discontinuity.BACKWARD_STAMP)


def test_without_late_s_every_older_stamp_clears_memory() -> None:
    assert started(late_s=0).check(GREY, START - 1, "camera") == cleared(Discontinuity.BACKWARD_STAMP)


def test_late_frame_keeps_the_newest_stamp() -> None:
    monitor = started()
    monitor.check(GREY, START - 50 * MS, "camera")
    assert monitor.check(GREY, START - 1, "camera") == NOT_REMEMBERED
    assert monitor.check(GREY, START + SECOND, "camera") == GOES_ON  # 1.05 s after the late frame would be a gap


def test_third_late_frame_in_a_row_clears_memory_and_is_the_new_start() -> None:
    monitor = started()
    assert monitor.check(GREY, START - 90 * MS, "camera") == NOT_REMEMBERED
    assert monitor.check(GREY, START - 60 * MS, "camera") == NOT_REMEMBERED
    assert monitor.check(GREY, START - 30 * MS, "camera") == cleared(Discontinuity.BACKWARD_STAMP)
    assert monitor.check(GREY, START - 10 * MS, "camera") == GOES_ON


def test_late_frames_between_newer_ones_never_clear_memory() -> None:
    monitor = started()
    for i in range(1, 5):
        assert monitor.check(GREY, START + i * 33 * MS - 40 * MS, "camera") == NOT_REMEMBERED
        assert monitor.check(GREY, START + i * 33 * MS - 45 * MS, "camera") == NOT_REMEMBERED
        assert monitor.check(GREY, START + i * 33 * MS, "camera") == GOES_ON


def test_late_frames_are_counted_anew_after_a_backward_stamp() -> None:
    monitor = started()
    for back_ms in (10, 20, 30):
        last = monitor.check(GREY, START - back_ms * MS, "camera")
    assert last == cleared(Discontinuity.BACKWARD_STAMP)
    assert monitor.check(GREY, START - 40 * MS, "camera") == NOT_REMEMBERED


def test_loop_of_two_frames_is_noticed_although_one_stamp_repeats() -> None:
    monitor = started()
    causes = [monitor.check(GREY, START + (i % 2) * 33 * MS, "camera").discontinuity for i in range(1, 7)]
    assert causes == [None] * 5 + [Discontinuity.BACKWARD_STAMP]


def test_repeated_frame_is_not_remembered() -> None:
    monitor = started()
    assert monitor.check(GREY, START, "camera") == NOT_REMEMBERED
    assert monitor.check(GREY, START + 1, "camera") == GOES_ON


def test_stamps_that_stay_zero_keep_what_the_memory_has() -> None:
    monitor = started(0)
    assert {monitor.check(GREY, 0, "camera") for _ in range(10)} == {NOT_REMEMBERED}


def test_gap_begins_above_gap_s() -> None:
    assert started(gap_s=0.5).check(GREY, START + 500 * MS, "camera") == GOES_ON
    assert started(gap_s=0.5).check(GREY, START + 500 * MS + 1, "camera") == cleared(Discontinuity.GAP)


def test_stream_goes_on_after_a_gap() -> None:
    monitor = started()
    monitor.check(GREY, START + 10 * SECOND, "camera")
    assert monitor.check(GREY, START + 10 * SECOND + 33 * MS, "camera") == GOES_ON


@pytest.mark.parametrize("interval_ms", [33, 100, 400])
def test_gap_is_counted_in_trained_intervals(interval_ms: int) -> None:
    for intervals, wanted in ((2.5, GOES_ON), (2.6, cleared(Discontinuity.GAP))):
        monitor = ContinuityMonitor(interval_s=interval_ms / 1000)
        monitor.check(GREY, START)
        assert monitor.check(GREY, START + round(intervals * interval_ms * MS)) == wanted


def test_a_steady_stream_slower_than_trained_goes_on_with_a_stale_feature_memory() -> None:
    monitor = ContinuityMonitor(interval_s=0.1)
    found = [monitor.check(GREY, START + number * SECOND // 2) for number in range(8)]
    assert [one.discontinuity for one in found[:4]] == [Discontinuity.FIRST_FRAME] + [Discontinuity.GAP] * 3  # not known yet
    assert all(one.discontinuity is None and one.stale and one.remember for one in found[4:])
    assert monitor.check(GREY, START + 7 * SECOND // 2 + 2 * SECOND) == cleared(Discontinuity.GAP)


@pytest.mark.parametrize("config", [ContinuityConfig(), ContinuityConfig(gap_s=3.0)], ids=["trained", "gap_s"])
def test_nothing_is_stale_within_trained_intervals_or_where_seconds_are_given(config: ContinuityConfig) -> None:
    monitor = ContinuityMonitor(config, interval_s=0.1 if config.gap_s is None else 0.01)
    assert not any(monitor.check(GREY, START + number * 100 * MS).stale for number in range(8))


def test_frames_lost_before_a_frame_are_a_gap() -> None:
    monitor = started()
    assert monitor.check(GREY, START + 33 * MS, "camera", after_loss=True) == cleared(Discontinuity.GAP)
    assert monitor.check(GREY, START + 66 * MS, "camera") == GOES_ON
    assert ContinuityMonitor().check(GREY, START, after_loss=True) == cleared(Discontinuity.FIRST_FRAME)


def test_gap_s_overrides_the_trained_interval() -> None:
    monitor = ContinuityMonitor(ContinuityConfig(gap_s=3.0), interval_s=0.1)
    monitor.check(GREY, START)
    assert monitor.check(GREY, START + 3 * SECOND) == GOES_ON
    assert monitor.check(GREY, START + 6 * SECOND + 1) == cleared(Discontinuity.GAP)


@pytest.mark.parametrize("interval_ms", [33, 500])
def test_where_nobody_knows_the_trained_interval_the_streams_own_counts(interval_ms: int) -> None:
    monitor = ContinuityMonitor()
    for number in range(6):
        assert monitor.check(GREY, START + number * interval_ms * MS).discontinuity in (None, Discontinuity.FIRST_FRAME)
    stamp = START + 5 * interval_ms * MS
    assert monitor.check(GREY, stamp + 2 * interval_ms * MS) == GOES_ON
    assert monitor.check(GREY, stamp + 5 * interval_ms * MS) == cleared(Discontinuity.GAP)


def test_three_intervals_of_a_stream_tell_what_is_usual() -> None:
    monitor = ContinuityMonitor(ContinuityConfig(gap_intervals=2.0))
    gaps = []
    for number in range(4):
        monitor.check(GREY, START + number * 100 * MS)
        gaps.append(monitor.gap_ns)
    assert gaps == [SECOND, SECOND, SECOND, 200 * MS]


def test_a_stream_that_drops_frames_again_and_again_is_a_slower_one() -> None:
    monitor = ContinuityMonitor()
    stamps = np.cumsum([1, 4] * 15) * 33
    causes = [monitor.check(GREY, START + int(stamp) * MS).discontinuity for stamp in stamps]
    assert causes == [Discontinuity.FIRST_FRAME] + [None] * 29


def test_a_stream_that_becomes_slower_is_cleared_only_until_that_is_usual() -> None:
    monitor = ContinuityMonitor()
    stamps = [number * 33 for number in range(20)]
    stamps += [stamps[-1] + 200 * number for number in range(1, 30)]
    gaps = [monitor.check(GREY, START + stamp * MS).discontinuity is Discontinuity.GAP for stamp in stamps]
    assert gaps.count(True) <= 5 and not any(gaps[-20:])


def test_infinite_gap_s_never_clears_memory() -> None:
    assert started(0, gap_s=math.inf).check(GREY, 10**30, "camera") == GOES_ON


def test_huge_stamps_are_compared_to_the_nanosecond() -> None:
    huge = 2**63
    assert started(huge).check(GREY, huge + SECOND, "camera") == GOES_ON
    assert started(huge).check(GREY, huge + SECOND + 1, "camera") == cleared(Discontinuity.GAP)


# ---- images ---------------------------------------------------------------------------------------------------------------


def test_scene_cut_clears_memory_and_the_stream_goes_on_there() -> None:
    monitor = started(image=scene(1))
    assert monitor.check(scene(1), START + 33 * MS, "camera") == GOES_ON
    assert monitor.check(scene(2), START + 66 * MS, "camera") == cleared(Discontinuity.SCENE_CUT)
    assert monitor.check(scene(2), START + 99 * MS, "camera") == GOES_ON


def test_without_scene_cut_images_are_not_compared() -> None:
    assert started(image=scene(1), scene_cut=False).check(scene(2), START + 33 * MS, "camera") == GOES_ON


@pytest.mark.parametrize("back_ms", [0, 50], ids=["repeated", "late"])
def test_frames_that_are_not_remembered_are_not_compared_with_the_next(back_ms: int) -> None:
    monitor = started(image=scene(1))
    assert monitor.check(scene(2), START - back_ms * MS, "camera") == NOT_REMEMBERED
    assert monitor.check(scene(1), START + 33 * MS, "camera") == GOES_ON


def test_frame_after_a_gap_is_compared_with_the_one_that_ended_it() -> None:
    monitor = started(image=scene(1))
    assert monitor.check(scene(2), START + 10 * SECOND, "camera") == cleared(Discontinuity.GAP)
    assert monitor.check(scene(2), START + 10 * SECOND + 33 * MS, "camera") == GOES_ON
    assert monitor.check(scene(1), START + 10 * SECOND + 66 * MS, "camera") == cleared(Discontinuity.SCENE_CUT)


# ---- requests, reset, precedence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP])
def test_request_clears_memory_once(cause: Discontinuity) -> None:
    monitor = started()
    monitor.request(cause)
    assert monitor.check(GREY, START + 33 * MS, "camera") == cleared(cause)
    assert monitor.check(GREY, START + 66 * MS, "camera") == GOES_ON


def test_requested_frame_is_the_new_start_even_with_an_older_stamp() -> None:
    monitor = started()
    monitor.request(Discontinuity.CLOCK_JUMP)
    assert monitor.check(GREY, START - 50 * MS, "camera") == cleared(Discontinuity.CLOCK_JUMP)
    assert monitor.check(GREY, START - 17 * MS, "camera") == GOES_ON


def test_first_of_several_requests_is_reported() -> None:
    monitor = started()
    monitor.request(Discontinuity.CLOCK_JUMP)
    monitor.request(Discontinuity.MANUAL)
    assert monitor.check(GREY, START + 33 * MS, "camera") == cleared(Discontinuity.CLOCK_JUMP)
    assert monitor.check(GREY, START + 66 * MS, "camera") == GOES_ON


def test_clock_jump_to_a_time_the_newest_frame_does_not_lie_ahead_of_clears_nothing() -> None:
    for clock_ns, wanted in ((START + 1, GOES_ON), (START, GOES_ON), (START - 1, cleared(Discontinuity.CLOCK_JUMP))):
        monitor = started()
        monitor.request(Discontinuity.CLOCK_JUMP, clock_ns)
        assert monitor.check(GREY, START + 33 * MS, "camera") == wanted
        assert monitor.check(GREY, START + 66 * MS, "camera") == GOES_ON


def test_a_request_is_kept_when_a_clock_jump_that_clears_nothing_came_before() -> None:
    monitor = started()
    monitor.request(Discontinuity.CLOCK_JUMP, START)
    monitor.request(Discontinuity.MANUAL)
    assert monitor.check(GREY, START + 33 * MS, "camera") == cleared(Discontinuity.MANUAL)


@pytest.mark.parametrize("cause", sorted(set(Discontinuity) - {Discontinuity.MANUAL, Discontinuity.CLOCK_JUMP}))
def test_what_check_finds_itself_cannot_be_requested(cause: Discontinuity) -> None:
    with pytest.raises(ValueError, match=f"got {cause.name}$"):
        started().request(cause)


def test_no_request_of_another_thread_is_lost() -> None:
    monitor = started(gap_s=math.inf)
    rounds = 1000
    seen = threading.Semaphore(0)
    gave_up = threading.Event()

    def request_and_wait() -> None:
        for _ in range(rounds):
            monitor.request(Discontinuity.MANUAL)
            if not seen.acquire(timeout=2.0):
                gave_up.set()
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # change threads as often as possible, so that a race shows
    thread = threading.Thread(target=request_and_wait)
    thread.start()
    try:
        answered, stamp_ns = 0, START
        while answered < rounds and not gave_up.is_set():
            stamp_ns += 1
            if monitor.check(GREY, stamp_ns, "camera").discontinuity is Discontinuity.MANUAL:
                answered += 1
                seen.release()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert answered == rounds


@pytest.mark.parametrize("ask", [False, True], ids=["check", "request"])
def test_requests_are_put_and_taken_under_one_lock(ask: bool) -> None:
    monitor = started()
    done = threading.Event()

    def use() -> None:
        if ask:
            monitor.request(Discontinuity.MANUAL)
        else:
            monitor.check(GREY, START + 33 * MS, "camera")
        done.set()

    thread = threading.Thread(target=use)
    with monitor._lock:
        thread.start()
        assert not done.wait(0.05)
    thread.join(timeout=2.0)
    assert done.is_set()


def test_reset_forgets_the_stream_and_its_first_frame_answers_a_request() -> None:
    monitor = started(image=scene(1))
    monitor.request(Discontinuity.MANUAL)
    monitor.reset()
    assert monitor.check(scene(2), START - SECOND, "rear") == cleared(Discontinuity.FIRST_FRAME)
    assert monitor.check(scene(2), START - SECOND + 33 * MS, "rear") == GOES_ON


def test_reset_forgets_late_frames() -> None:
    monitor = started()
    monitor.check(GREY, START - 1, "camera")
    monitor.check(GREY, START - 2, "camera")
    monitor.reset()
    monitor.check(GREY, START, "camera")
    assert monitor.check(GREY, START - 1, "camera") == NOT_REMEMBERED


def test_request_before_the_first_frame_is_covered_by_it() -> None:
    monitor = ContinuityMonitor()
    monitor.request(Discontinuity.MANUAL)
    assert monitor.check(GREY, START) == cleared(Discontinuity.FIRST_FRAME)
    assert monitor.check(GREY, START + 33 * MS) == GOES_ON


@pytest.mark.parametrize(
    ("rows", "stamp_ns", "frame_id", "request_it", "expected"),
    [
        (48, 0, "rear", True, Discontinuity.MANUAL),
        (48, 0, "rear", False, Discontinuity.SIZE_CHANGE),
        (96, 0, "rear", False, Discontinuity.FRAME_ID_CHANGE),
        (96, 0, "camera", False, Discontinuity.BACKWARD_STAMP),
        (96, START + 2 * SECOND, "camera", False, Discontinuity.GAP),
        (96, START + 33 * MS, "camera", False, Discontinuity.SCENE_CUT),
    ],
)
def test_first_rule_that_holds_is_reported(
    rows: int, stamp_ns: int, frame_id: str, request_it: bool, expected: Discontinuity
) -> None:
    monitor = started(image=scene(1))
    if request_it:
        monitor.request(Discontinuity.MANUAL)
    assert monitor.check(scene(2)[:rows], stamp_ns, frame_id) == cleared(expected)


# ---- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gap_s", -0.1),
        ("gap_intervals", 0.9),
        ("gap_intervals", math.inf),
        ("blind", 1),
        ("frozen_repeats", -1),
        ("gap_s", math.nan),
        ("gap_s", "1 s"),
        ("gap_s", True),
        ("late_s", -0.001),
        ("late_s", math.inf),
        ("late_s", None),
        ("scene_cut", "yes"),
        ("scene_cut", 1),
        ("scene_cut_similarity", -0.01),
        ("scene_cut_similarity", 1.01),
        ("scene_cut_margin", 1.01),
        ("scene_cut_margin", math.nan),
    ],
)
def test_setting_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .*got"):
        ContinuityConfig(**{name: value})  # type: ignore[arg-type]


def test_ends_of_the_ranges_are_accepted() -> None:
    ContinuityConfig(gap_s=0.001, late_s=0, scene_cut_similarity=0, scene_cut_margin=0)
    ContinuityConfig(gap_s=math.inf, late_s=100, scene_cut_similarity=1, scene_cut_margin=1)
