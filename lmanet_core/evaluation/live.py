"""As if live: the recording arrives by its stamps, and the node's queue decides which frames are segmented.

The node's own mailbox holds what waits: the newest image of each camera, the camera served longest ago first. Time is
simulated; only how long a frame takes is real, or given. A labelled frame, segmented or dropped, is also compared with what a
listener had at its time: the newest result published by then (streaming accuracy, Li et al., ECCV 2020).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import resize_labels
from lmanet_core.evaluation.session import Session, step_all
from lmanet_core.frame import Frame
from lmanet_core.geometry import Size
from lmanet_core.labels.mapping import LabelMapping
from lmanet_core.media.mailbox import Mailbox
from lmanet_core.metrics import ConfusionMatrix

_LONGEST_PAUSE_S = 10.0  # a longer one, or a step back, is a clock that jumped: the next image comes a period later


@dataclass(frozen=True, slots=True)
class _Arrival:
    frame: Frame
    truth: UInt8Array | None
    time_s: float


class LiveRun:
    """One recording played to one worker.

    Args:
        session: whose recorder takes results and drops.
        cameras: names of those of the recording.
        mapping: for the streaming accuracy.
        inference_s: how long a frame takes; None: as long as the main variant takes here.
    """

    def __init__(self, session: Session, cameras: Sequence[str], mapping: LabelMapping, inference_s: float | None) -> None:
        self.streaming = ConfusionMatrix(len(mapping.classes.names))
        self._recorder = session.recorder
        self._segmenters = {camera: session.make_segmenters() for camera in cameras}
        self._mapping = mapping
        self._inference_s = inference_s
        self._mailbox: Mailbox[_Arrival] = Mailbox(cameras)
        self._newest: dict[str, _Arrival] = {}
        self._free_s = -math.inf
        self._published: dict[str, deque[tuple[float, UInt8Array]]] = {camera: deque() for camera in cameras}

    def arrive(self, camera: str, frame: Frame, truth: UInt8Array | None, time_s: float) -> None:
        """The next image, in the order of time.

        Args:
            camera: whose it is.
            frame, truth: as they come.
            time_s: of arrival, seconds.
        """
        self._work(time_s)
        if truth is not None:
            self._score(camera, truth, time_s)
        arrival = _Arrival(frame, truth, time_s)
        if self._mailbox.put(camera, arrival):
            self._recorder.drop(camera, self._newest[camera].frame)
        self._newest[camera] = arrival
        self._work(time_s)

    def finish(self) -> None:
        """No image is left; the worker finishes what waits."""
        self._work(math.inf)

    def _work(self, until_s: float) -> None:
        """Start whatever can start by then."""
        while self._free_s <= until_s and (taken := self._mailbox.take(timeout_s=0.0)) is not None:
            camera, arrival = taken
            results = step_all(self._segmenters[camera], arrival.frame)
            main = next(iter(results.values()))
            took_s = main.timings_ms["total"] / 1e3 if self._inference_s is None else self._inference_s
            self._free_s = max(self._free_s, arrival.time_s) + took_s
            self._published[camera].append((self._free_s, main.labels))
            latency_ms = (self._free_s - arrival.time_s) * 1e3
            self._recorder.add(camera, arrival.frame, arrival.truth, results, latency_ms)

    def _score(self, camera: str, truth: UInt8Array, time_s: float) -> None:
        published = self._published[camera]
        while len(published) > 1 and published[1][0] <= time_s:
            published.popleft()
        if published and published[0][0] <= time_s:
            labels = resize_labels(published[0][1], Size(*truth.shape))
            self.streaming.update(self._mapping.map_prediction(labels), self._mapping.map_truth(truth))


def run_live(session: Session, mapping: LabelMapping, inference_s: float | None) -> dict[str, float | None]:
    """Run a session as if live; cameras of one recording share one worker.

    Args:
        session: see `Session`.
        mapping: of its recorder.
        inference_s: seconds a frame takes; None: measured.

    Returns:
        Figures for the report: `streaming_accuracy`, `streaming_miou`; None without labels.
    """
    streaming = ConfusionMatrix(len(mapping.classes.names))
    for _, group in itertools.groupby(session.cameras, key=lambda camera: camera.recording):
        of_recording = list(group)
        live = LiveRun(session, [camera.name for camera in of_recording], mapping, inference_s)
        with ExitStack() as stack:
            frames = [stack.enter_context(session.open(camera)) for camera in of_recording]
            merged = heapq.merge(*(_name(number, pairs) for number, pairs in enumerate(frames)), key=lambda item: item[0])
            clock = ArrivalClock()
            for stamp_ns, number, frame, truth in merged:
                if inference_s is None and clock.is_new:
                    step_all(session.make_segmenters(), frame)  # the first one ever takes longer, as before a robot starts
                live.arrive(of_recording[number].name, frame, truth, clock.arrival_s(stamp_ns))
                session.on_frame()
            live.finish()
        streaming.counts += live.streaming.counts
    values = {"streaming_accuracy": streaming.accuracy(), "streaming_miou": streaming.mean_iou_of_truth()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


class ArrivalClock:
    """Seconds of arrival from stamps: never falling, also where a bag loops or a clock jumps."""

    def __init__(self) -> None:
        self.is_new = True
        self._now_s = 0.0
        self._period_s = 0.0
        self._before_ns = 0

    def arrival_s(self, stamp_ns: int) -> float:
        """When the next image comes, seconds after the first."""
        if not self.is_new:
            step_s = (stamp_ns - self._before_ns) / 1e9
            if 0.0 <= step_s <= _LONGEST_PAUSE_S:
                self._period_s = step_s or self._period_s
                self._now_s += step_s
            else:
                self._now_s += self._period_s
        self.is_new = False
        self._before_ns = stamp_ns
        return self._now_s


def _name(number: int, pairs: Iterator[tuple[Frame, UInt8Array | None]]) -> Iterator[tuple[int, int, Frame, UInt8Array | None]]:
    return ((frame.stamp_ns, number, frame, truth) for frame, truth in pairs)
