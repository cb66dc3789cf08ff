"""Counts, rates and percentiles. Needs no ROS."""

from __future__ import annotations

import pytest

from lmanet_ros.reset_log import ResetLog
from lmanet_ros.statistics import Statistics


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def published(statistics, **changes):
    fields = {"stages_ms": {"segment": 10.0}, "age_s": 0.1, "memory_frames": 3, "reset": None, "remembered": True, "fed": False}
    statistics.count_done(**{**fields, **changes})


def test_rate_is_of_the_last_seconds():
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(21):
        statistics.count_received()
        clock.now += 0.1
    assert statistics.snapshot().input_hz == pytest.approx(10.0)
    clock.now += 10.0
    assert statistics.snapshot().input_hz == 0.0
    assert statistics.snapshot().received == 21


def test_percentiles_by_stage():
    statistics = Statistics(Clock())
    for value in range(101):
        published(statistics, stages_ms={"segment": float(value)})
    assert statistics.snapshot().latency_ms["segment"] == (50.0, 95.0, 99.0)


def test_resets_are_counted_by_cause():
    statistics = Statistics(Clock())
    for cause in ("first_frame", None, "gap", "gap"):
        published(statistics, reset=cause)
    assert statistics.snapshot().resets == {"first_frame": 1, "gap": 2}


def test_share_of_resets_is_that_of_the_last_thirty_frames():
    statistics = Statistics(Clock())
    for _ in range(29):
        published(statistics, reset="gap")
    assert statistics.snapshot().reset_share == 0.0  # too few to tell
    for _ in range(16):
        published(statistics)
    assert statistics.snapshot().reset_share == pytest.approx(14 / 30)


def test_blind_frames_are_counted_and_the_last_one_told():
    statistics = Statistics(Clock())
    for blind in ("black", "black", "frozen"):
        published(statistics, blind=blind)
    assert (statistics.snapshot().blind, statistics.snapshot().blind_frames) == ("frozen", {"black": 2, "frozen": 1})
    published(statistics)
    assert statistics.snapshot().blind is None


def test_the_log_of_resets_sums_up_what_comes_thick_and_fast():
    clock, said = Clock(), []
    log = ResetLog(said.append, clock)
    for number in range(250):
        log.add("gap" if number % 5 else "scene_cut", number * 10**8)
        clock.now += 0.125
    assert said[0] == "memory cleared: scene_cut at stamp 0.000"
    assert len([text for text in said if "at stamp" in text]) == 5
    assert said[5].startswith("memory cleared 81 times in 10 s (gap 64, scene_cut 17)")
    assert len(said) <= 8


def test_the_log_of_resets_says_each_that_comes_alone():
    clock, said = Clock(), []
    log = ResetLog(said.append, clock)
    for number in range(10):
        log.add("gap", number)
        clock.now += 60.0
    assert len(said) == 10


def test_silence_is_measured_from_the_last_image_or_the_start():
    clock = Clock()
    statistics = Statistics(clock)
    clock.now += 3
    assert statistics.snapshot().since_image_s == 3
    statistics.count_received()
    clock.now += 1
    assert statistics.snapshot().since_image_s == 1


def test_restart_keeps_counts_and_forgets_latencies():
    clock = Clock()
    statistics = Statistics(clock)
    statistics.count_received()
    published(statistics)
    clock.now += 9
    statistics.restart()
    snapshot = statistics.snapshot()
    assert (snapshot.received, snapshot.published) == (1, 1)
    assert snapshot.latency_ms == {}
    assert snapshot.since_image_s == 0
    assert snapshot.age_s is None


def test_what_is_only_remembered_is_counted_apart_and_keeps_up_the_rate():
    clock = Clock()
    statistics = Statistics(clock)
    for fed in (True, True, False):
        published(statistics, fed=fed)
        clock.now += 0.5
    snapshot = statistics.snapshot()
    assert (snapshot.fed, snapshot.published, snapshot.output_hz) == (2, 1, 2.0)


def test_what_is_lost_is_counted_by_reason():
    statistics = Statistics(Clock())
    assert [statistics.count_lost("bad") for _ in range(2)] == [1, 2]
    statistics.count_lost("failed")
    published(statistics, remembered=False)
    snapshot = statistics.snapshot()
    assert (snapshot.bad, snapshot.failed, snapshot.too_old, snapshot.not_remembered) == (2, 1, 0, 1)
