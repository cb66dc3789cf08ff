"""One evaluation as it runs: its cameras, what they gave, and lock-step, in which every frame counts once, in order.

`live` and `recorded` run a session in the other two ways. In lock-step the measuring of a frame goes on in a thread beside the
segmenting of the next, one frame behind at most, always in order, so that results do not depend on it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.evaluation.attention import AttentionWatch
from lmanet_core.evaluation.label_gate import GateWatch
from lmanet_core.evaluation.recorder import Recorder
from lmanet_core.evaluation.truth import open_truth, with_truth
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.media import open_frames
from lmanet_core.media.sinks import safe_name
from lmanet_core.media.source import FrameSource
from lmanet_core.stream.segmenter import VideoSegmenter


@dataclass(frozen=True, slots=True)
class CameraInput:
    """One stream to evaluate.

    Attributes:
        name: in reports and file names.
        recording: video, folder of images or bag.
        topic: image topic of a bag.
        labels: see `open_truth`; None where there are none.
        fps: of a folder of images.
        results: BAG or BAG:TOPIC with label maps that a node published; see `recorded`.
        start_s: seconds left out at the beginning.
    """

    name: str
    recording: Path
    topic: str | None = None
    labels: str | None = None
    fps: float | None = None
    results: str | None = None
    start_s: float = 0.0

    def open(self, bits: int) -> FrameSource:
        """Its frames; raises InputError, ConfigError as `open_frames` does.

        Args:
            bits: of images with 16, see `SampleDepth`.
        """
        source = open_frames(self.recording, topic=self.topic, fps=self.fps, bits=bits)
        if self.start_s:
            source.select(self.start_s)
        return source


@dataclass
class Session:
    """Recordings, what segments them, and what records the results.

    Attributes:
        cameras: one after the other; each has a memory of its own.
        make_segmenters: makes the segmenters of one camera, one for each variant, the main one first.
        recorder: takes results.
        tolerance_s: how far a label's stamp may be from its frame's.
        max_frames: of each camera; None: all.
        on_frame: called after each frame, for progress.
        stills: every image is a stream of its own, so that nothing is remembered or measured from one to the next.
        bits: of images with 16, see `SampleDepth`.
        on_open: called with the frames to expect of each camera, for progress.
        skipped: damaged images, by camera that was read.
        labels: labels matched, unmatched and damaged, by camera that has labels and was read.
    """

    cameras: Sequence[CameraInput]
    make_segmenters: Callable[[], Mapping[str, VideoSegmenter]]
    recorder: Recorder
    tolerance_s: float = 0.02
    max_frames: int | None = None
    on_frame: Callable[[], None] = lambda: None
    stills: bool = False
    bits: int = 16
    on_open: Callable[[int | None], None] = lambda frames: None
    skipped: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)

    @contextmanager
    def open(self, camera: CameraInput) -> Iterator[Iterator[tuple[Frame, UInt8Array | None]]]:
        """A camera's frames with their labels; damage and labels are counted when it is left."""
        with ExitStack() as stack:
            source = stack.enter_context(camera.open(self.bits))
            self.on_open(source.expected_frames)
            truth = None
            if camera.labels is not None:
                truth = open_truth(camera.labels, camera.recording, self.tolerance_s, self.recorder.mapping.encoding)
            try:
                yield itertools.islice(with_truth(source, truth), self.max_frames)
            finally:
                self.skipped[camera.name] = source.skipped
                if truth is not None:
                    counts = {"matched": truth.matched, "unmatched": truth.unmatched, "damaged": truth.damaged}
                    self.labels[camera.name] = counts

    def run_lock_step(self) -> None:
        """Every frame of every camera once, in order.

        Raises:
            InputError, OutputError: what came before is recorded.
        """
        recorder = self.recorder
        with ThreadPoolExecutor(1, "measures") as pool:
            for camera in self.cameras:
                pending: Future[None] | None = None
                segmenters = self.make_segmenters()
                watches = [] if recorder.explanations else watch_attention(segmenters)
                with self.open(camera) as pairs:
                    for frame, truth in pairs:
                        if self.stills:
                            for each in segmenters.values():
                                each.reset()
                        results = step_watched(segmenters, frame, *watches)
                        if pending is not None:
                            pending.result()
                        pending = pool.submit(recorder.add, camera.name, frame, truth, results)
                        self.on_frame()
                    if pending is not None:
                        pending.result()
                for watch in watches:
                    recorder.explanations += watch.explanations

    def require_labels(self) -> None:
        """Raise InputError where labels were given and not one of them belongs to a frame."""
        for camera, counts in self.labels.items():
            if counts["damaged"] and not counts["matched"] + counts["unmatched"]:
                raise InputError(f"{camera}: none of {counts['damaged']} labels can be read; the warnings say why")
            if not counts["matched"]:
                raise InputError(f"{camera}: none of {sum(counts.values())} labels belongs to a frame that was segmented")


def name_cameras(
    recordings: Sequence[str], topics: Sequence[str], labels: Sequence[str], fps: float | None
) -> list[CameraInput]:
    """One camera for each topic of each recording.

    Args:
        recordings: paths.
        topics: image topics that every recording has; empty: each has one camera.
        labels: none, one for all, or one for each camera in order.
        fps: of folders.

    Raises:
        ConfigError: another number of labels.
    """
    of_each: Sequence[str | None] = topics or (None,)
    pairs = [(recording, topic) for recording in recordings for topic in of_each]
    if len(labels) not in (0, 1, len(pairs)):
        raise ConfigError(f"wanted --labels for none, one or all of {len(pairs)} cameras, got {len(labels)}")
    given: Sequence[str | None] = labels if len(labels) == len(pairs) else [*(labels or (None,))] * len(pairs)
    cameras: list[CameraInput] = []
    for (recording, topic), of_this in zip(pairs, given, strict=True):
        path = Path(recording)
        parts = [
            *([path.stem or path.name] if len(recordings) > 1 else []),
            *([_short(topic)] if len(topics) > 1 and topic else []),
        ]
        name = safe_name("_".join(parts)) or "camera"
        while name in {camera.name for camera in cameras}:
            name += "_2"
        cameras.append(CameraInput(name, path, topic, of_this, fps))
    return cameras


def _short(topic: str) -> str:
    """`/front/image_raw/compressed` → front."""
    kept = [part for part in topic.strip("/").split("/") if not re.match(r"image|compressed", part)]
    return "_".join(kept) or topic.strip("/").replace("/", "_")


def watch_attention(segmenters: Mapping[str, VideoSegmenter]) -> list[AttentionWatch]:
    """A watch on the main segmenter's memory; none where it is not read through a window."""
    main = segmenters.get("on")
    memory = None if main is None else main.runtime.config.memory
    return [] if main is None or memory is None or memory.window is None else [AttentionWatch(main)]


def step_watched(
    segmenters: Mapping[str, VideoSegmenter], frame: Frame, *watches: AttentionWatch | GateWatch
) -> dict[str, FrameResult]:
    """`step_all`, with the main segmenter's memories watched."""
    looking = [watch for watch in watches if not watch.is_done]
    for watch in looking:
        watch.before_step(frame)
    results = step_all(segmenters, frame)
    for watch in looking:
        watch.after_step(frame, next(iter(results.values())))
    return results


def step_all(segmenters: Mapping[str, VideoSegmenter], frame: Frame) -> dict[str, FrameResult]:
    """The same frame through each."""
    return {name: each.step_frame(frame) for name, each in segmenters.items()}
