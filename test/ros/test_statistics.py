"""Counts, rates and percentiles. Needs no ROS."""

from __future__ import annotations

import pytest

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
