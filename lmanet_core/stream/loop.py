"""Segment everything a source gives, in order, into a sink: the loop behind the command line and the offline evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lmanet_core.frame import Frame, FrameResult
from lmanet_core.media import FrameSource, ResultSink
from lmanet_core.process import leave_if_asked, uninterrupted
from lmanet_core.stream.segmenter import VideoSegmenter

FrameCallback = Callable[[Frame, FrameResult], None]


@dataclass
class StreamSummary:
    """What happened in one stream; true at any time, also when the stream is broken off.

    Attributes:
        frames: segmented so far.
        skipped: damaged messages or files that the source passed over.
        resets: times the memory was cleared, by cause.
        blind: frames that showed nothing, by why (`Blindness`).
        not_remembered: frames that did not enter the memory: repeated, late, blind, overexposed, or not due yet.
        timings_ms: per stage, one value a frame.
    """

    frames: int = 0
    skipped: int = 0
    resets: Counter[str] = field(default_factory=Counter)
    blind: Counter[str] = field(default_factory=Counter)
    not_remembered: int = 0
    timings_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, result: FrameResult, memory_on: bool) -> None:
        """Count one frame."""
        self.frames += 1
        if result.discontinuity is not None:
            self.resets[result.discontinuity.value] += 1
        if result.blind is not None:
            self.blind[result.blind.value] += 1
        self.not_remembered += memory_on and not result.remembered
        for stage, milliseconds in result.timings_ms.items():
            self.timings_ms.setdefault(stage, []).append(milliseconds)

    def percentiles(self) -> Mapping[str, Mapping[str, float]]:
        """p50, p95 and p99 per stage, milliseconds; the first frame (warm-up) is left out where there are more."""
        tails = {stage: values[1:] or values for stage, values in self.timings_ms.items()}
        return {stage: {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)} for stage, values in tails.items()}


def segment_stream(
    source: FrameSource,
    segmenter: VideoSegmenter,
    sink: ResultSink,
    summary: StreamSummary,
    on_frame: FrameCallback | None = None,
    frames: Iterable[Frame] | None = None,
) -> None:
    """Run a source through a segmenter into a sink.

    Args:
        source: opened frames; every one is used once, in order.
        segmenter: one stream.
        sink: gets every result as soon as it is there.
        summary: kept up to date after each frame, so that it is right when an exception ends the loop.
        on_frame: called after each frame, for progress.
        frames: what is to be segmented of the source; None: all of it.

    Raises:
        InputError, OutputError: from source and sink; results so far are in the sink.
    """
    try:
        for frame in source if frames is None else frames:
            result = segmenter.step_frame(frame)
            with uninterrupted():  # every file and the summary have the same frames
                sink.write(frame, result)
                summary.add(result, segmenter.memory_enabled)
                summary.skipped = source.skipped
                if on_frame is not None:
                    on_frame(frame, result)
            leave_if_asked()
    finally:
        summary.skipped = source.skipped
