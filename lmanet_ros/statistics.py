"""What happened to the images of one camera: counts since the start, rates and latencies of the last while.

Knows nothing of ROS. The executor's thread counts what came in, the worker counts what went out, the diagnostics read a
`Snapshot`; everything is under one lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

_RATE_WINDOW_S = 5.0
_LATENCIES = 300  # frames that percentiles are taken over
_RECENT = 30  # frames that the share of resets is taken over


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment.

    Attributes:
        received, published, fed, bad, failed, too_old: images so far: come in; segmented and published; remembered only, as
            nobody wanted labels; not convertible; lost to an exception; older than `max_input_age_s`.
        resets: times the memory was cleared, by cause.
        reset_share: of the last frames that the memory was cleared before, 0–1; 0 until there are some.
        blind: why the last frame showed nothing; None where it showed something.
        blind_frames: frames that showed nothing so far, by why.
        not_remembered: images that did not enter the memory: repeated, late, not due yet.
        input_hz, output_hz: images come in, frames done, over the last seconds.
        latency_ms: stage → (p50, p95, p99) over the last frames.
        age_s: stamp to published (or remembered) of the last frame; None before.
        memory_frames: past frames read for the last frame.
        since_image_s: since the last image, or since the start where none came.
    """

    received: int
    published: int
    fed: int
    bad: int
    failed: int
    too_old: int
    resets: Mapping[str, int]
    reset_share: float
    blind: str | None
    blind_frames: Mapping[str, int]
    not_remembered: int
    input_hz: float
    output_hz: float
    latency_ms: Mapping[str, tuple[float, float, float]]
    age_s: float | None
    memory_frames: int
    since_image_s: float


class Statistics:
    """Counts of one camera.

    Args:
        clock: seconds, steadily growing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # everything below
        self._counts: Counter[str] = Counter()
        self._resets: Counter[str] = Counter()
        self._recent_resets: deque[bool] = deque(maxlen=_RECENT)
        self._blind: str | None = None
        self._blind_frames: Counter[str] = Counter()
        self._inputs: deque[float] = deque()
        self._outputs: deque[float] = deque()
        self._latencies: dict[str, deque[float]] = {}
        self._age_s: float | None = None
        self._memory_frames = 0
        self._last_image = clock()

    def restart(self) -> None:
        """Begin waiting for images anew; counts stay, rates and latencies go."""
        with self._lock:
            self._inputs.clear()
            self._outputs.clear()
            self._latencies.clear()
            self._recent_resets.clear()
            self._age_s = self._blind = None
            self._last_image = self._clock()

    def count_received(self) -> None:
        """An image came in."""
        with self._lock:
            self._counts["received"] += 1
            self._last_image = self._clock()
            self._inputs.append(self._last_image)
            self._trim(self._inputs)

    def count_lost(self, why: str) -> int:
        """An image will not be published: "bad", "failed" or "too_old"; returns how many by now."""
        with self._lock:
            self._counts[why] += 1
            return self._counts[why]

    def count_done(
        self,
        stages_ms: Mapping[str, float],
        age_s: float,
        memory_frames: int,
        reset: str | None,
        remembered: bool,
        fed: bool,
        blind: str | None = None,
    ) -> None:
        """A frame was segmented and published, or remembered only.

        Args:
            stages_ms: wall time by stage, milliseconds.
            age_s: stamp to published, seconds.
            memory_frames: past frames that were read.
            reset: cause, where the memory was cleared before it.
            remembered: false where it should have entered the memory and did not.
            fed: remembered only.
            blind: why the image showed nothing.
        """
        with self._lock:
            self._counts["fed" if fed else "published"] += 1
            self._counts["not_remembered"] += not remembered
            self._recent_resets.append(reset is not None)
            if reset is not None:
                self._resets[reset] += 1
            self._blind = blind
            if blind is not None:
                self._blind_frames[blind] += 1
            for stage, milliseconds in stages_ms.items():
                self._latencies.setdefault(stage, deque(maxlen=_LATENCIES)).append(milliseconds)
            self._age_s = age_s
            self._memory_frames = memory_frames
            self._outputs.append(self._clock())
            self._trim(self._outputs)

    def snapshot(self) -> Snapshot:
        """A consistent copy. Any thread."""
        with self._lock:
            self._trim(self._inputs)
            self._trim(self._outputs)
            latencies = {stage: list(values) for stage, values in self._latencies.items()}
            counts = self._counts
            return Snapshot(
                received=counts["received"],
                published=counts["published"],
                fed=counts["fed"],
                bad=counts["bad"],
                failed=counts["failed"],
                too_old=counts["too_old"],
                resets=dict(self._resets),
                reset_share=sum(self._recent_resets) / _RECENT if len(self._recent_resets) == _RECENT else 0.0,
                blind=self._blind,
                blind_frames=dict(self._blind_frames),
                not_remembered=counts["not_remembered"],
                input_hz=_rate(self._inputs),
                output_hz=_rate(self._outputs),
                latency_ms={stage: _percentiles(values) for stage, values in latencies.items()},
                age_s=self._age_s,
                memory_frames=self._memory_frames,
                since_image_s=self._clock() - self._last_image,
            )

    def _trim(self, moments: deque[float]) -> None:
        oldest = self._clock() - _RATE_WINDOW_S
        while moments and moments[0] < oldest:
            moments.popleft()


def _rate(moments: deque[float]) -> float:
    """Events a second between the first and the last."""
    if len(moments) < 2 or moments[-1] <= moments[0]:
        return 0.0
    return (len(moments) - 1) / (moments[-1] - moments[0])


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return float(p50), float(p95), float(p99)
