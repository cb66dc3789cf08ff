"""The loop from source to sink, and what it counts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lmanet_core.errors import InputError, OutputError
from lmanet_core.frame import Blindness, Frame
from lmanet_core.stream.loop import StreamSummary, segment_stream
from lmanet_core.stream.resuming import WARM_UP, skip_done
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

SECOND = 10**9
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


class Source:
    """Frames at the given stamps; an error in their place is raised, "damaged" is skipped."""

    def __init__(self, *stamps):
        self.skipped = 0
        self.given = 0
        self._stamps = iter(stamps)

    def __iter__(self):
        return self

    def __next__(self):
        stamp = next(self._stamps)
        while stamp == "damaged":
            self.skipped += 1
            stamp = next(self._stamps)
        if isinstance(stamp, Exception):
            raise stamp
        self.given += 1
        return Frame(IMAGE, round(stamp * SECOND), "camera", name=str(stamp))


class Sink:
    """Keeps what it gets; fails at the given frame."""

    def __init__(self, fail_at=None):
        self.got = []
        self._fail_at = fail_at

    def write(self, frame, result):
        if len(self.got) == self._fail_at:
            raise OutputError("no space")
        self.got.append((frame, result))


@pytest.fixture(scope="module")
def runtime(video_weights):
    return prepare(load_model(video_weights), "cpu", "fp32")


@pytest.fixture
def run(runtime):
    """Segment a source; returns sink and summary, and the error that ended it."""

    def run(source, sink=None, memory=True, **options):
        made = SimpleNamespace(sink=sink or Sink(), summary=StreamSummary(), error=None)
        segmenter = VideoSegmenter(runtime, SegmenterConfig(memory=memory))
        try:
            segment_stream(source, segmenter, made.sink, made.summary, **options)
        except (InputError, OutputError, KeyboardInterrupt) as error:
            made.error = error
        return made

    return run


def test_every_frame_goes_through_once_in_order(run):
    made = run(Source(0, 0.1, 0.2))
    assert [frame.stamp_ns for frame, _ in made.sink.got] == [0, SECOND // 10, SECOND // 5]
    assert [result.stamp_ns for _, result in made.sink.got] == [0, SECOND // 10, SECOND // 5]
    assert {result.frame_id for _, result in made.sink.got} == {"camera"}
    assert made.summary.frames == 3


def test_resets_are_counted_by_cause(run):
    summary = run(Source(0, 0.1, 0.2, 0.3, 5, 5.1, 5.2, 9, 2)).summary
    assert summary.resets == {"first_frame": 1, "gap": 2, "backward_stamp": 1}


def test_blind_frames_are_counted_by_why(make_result):
    summary = StreamSummary()
    for blind in (None, Blindness.BLACK, Blindness.FROZEN, Blindness.BLACK):
        summary.add(replace(make_result([[0]]).result, blind=blind), memory_on=True)
    assert summary.blind == {"black": 2, "frozen": 1}


def test_frames_that_are_not_remembered_are_counted_while_memory_is_on(run):
    stamps = (0, 0.1, 0.1, 0.05, 0.2)  # one repeated, one late
    assert run(Source(*stamps)).summary.not_remembered == 2
    assert run(Source(*stamps), memory=False).summary.not_remembered == 0


def test_skipped_frames_are_counted_up_to_the_last(run):
    assert run(Source("damaged", 0, "damaged", 0.1, "damaged", "damaged")).summary.skipped == 4


def test_source_that_breaks_off_leaves_a_right_summary(run):
    made = run(Source(0, 0.1, "damaged", InputError("broken")))
    assert str(made.error) == "broken"
    assert (made.summary.frames, made.summary.skipped) == (2, 1)


def test_sink_that_fails_leaves_a_right_summary(run):
    made = run(Source(0, 0.1, "damaged", 0.2, 0.3), Sink(fail_at=2))
    assert str(made.error) == "no space"
    assert (made.summary.frames, made.summary.skipped) == (2, 1)  # the third was segmented, but is nowhere to be found
    assert made.summary.resets == {"first_frame": 1}
    assert {len(values) for values in made.summary.timings_ms.values()} == {2}


def test_on_frame_sees_each_frame_already_counted_and_stored(runtime):
    summary, sink, seen = StreamSummary(), Sink(), []

    def on_frame(frame, result):
        seen.append((frame.name, result.memory_frames, summary.frames, len(sink.got)))

    segment_stream(Source(0, 0.1), VideoSegmenter(runtime), sink, summary, on_frame)
    assert seen == [("0", 0, 1, 1), ("0.1", 1, 2, 2)]


def test_timings_are_kept_for_every_frame_and_stage(run):
    made = run(Source(0, 0.1))
    assert {stage: len(values) for stage, values in made.summary.timings_ms.items()} == dict.fromkeys(
        ("continuity", "preprocess", "motion", "encode", "decode", "remember", "label_memory", "postprocess", "total"), 2
    )
    assert made.summary.timings_ms["total"] == [result.timings_ms["total"] for _, result in made.sink.got]


def test_a_stream_that_has_not_begun_has_no_frames():
    summary = StreamSummary()
    assert (summary.frames, summary.skipped, summary.not_remembered, sum(summary.resets.values())) == (0, 0, 0, 0)


def test_percentiles_leave_the_first_frame_out():
    summary = StreamSummary(timings_ms={"total": [1000.0, *range(1, 22)]})
    assert summary.percentiles() == {"total": {"p50": 11.0, "p95": 20.0, "p99": pytest.approx(20.8)}}  # of 1 … 21


def test_percentiles_of_one_frame_are_that_frame():
    assert StreamSummary(timings_ms={"total": [7.0]}).percentiles() == {"total": {"p50": 7.0, "p95": 7.0, "p99": 7.0}}
    assert StreamSummary().percentiles() == {}


def test_a_stream_goes_on_at_the_first_frame_that_is_not_done_once_50_before_it_are_remembered():
    seen, asked = [], []
    frames = skip_done(range(100), lambda frame: asked.append(frame) or frame < 60, SimpleNamespace(step_frame=seen.append))
    assert next(frames) == 60 and seen == list(range(10, 60)) and WARM_UP == 50
    assert list(frames) == list(range(61, 100)) and seen == list(range(10, 60))
    assert asked == list(range(61))
