"""Everything that is done with a segmented frame: measures, frames.jsonl, result bags, videos, pictures.

One thread at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.evaluation.attention import Explanation
from lmanet_core.evaluation.flow import PairMatcher, to_grid
from lmanet_core.evaluation.measures import FrameScores, Measures
from lmanet_core.evaluation.pictures import Moments, SideBySideVideo, mark, save_panels
from lmanet_core.files import output_errors
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, resize_image
from lmanet_core.labels import LabelSet
from lmanet_core.labels.mapping import LabelMapping
from lmanet_core.media import ResultBagSink
from lmanet_core.media.sinks import make_folder
from lmanet_core.metrics import Matches
from lmanet_core.stream.loop import StreamSummary

#: In the result bag; confidence is left out, for it is noise that does not compress.
_BAG_TOPICS = ("labels", "color", "label_info", "camera_info")
#: Keys of a line of frames.jsonl that differ from run to run.
NOT_REPEATABLE = ("timings_ms", "latency_ms")


@dataclass
class Stream:
    """What is kept of one camera."""

    measures: dict[str, Measures]  # by variant
    summary: StreamSummary = field(default_factory=StreamSummary)
    pairs: PairMatcher = field(default_factory=PairMatcher)
    dropped: int = 0
    longest_memory: int = 0  # most past frames read for one frame
    before: tuple[UInt8Array, UInt8Array] | None = None  # image and labels of the last frame, at the size of label maps
    first_stamp_ns: int | None = None
    bag: ResultBagSink | None = None
    video: SideBySideVideo | None = None


class Recorder:
    """Records one evaluation.

    Args:
        out: folder of the report.
        labels: classes of the weights.
        mapping: to the classes of the label images.
        cameras: their names.
        variants: ways to segment, the one the report is about first: see `report.WAYS`.
        save: "bag" and "video" are written where they are in it.
        remembers: the first variant has a feature memory, so that frames which do not enter it are counted.
        flow: that measures over time go along, of `flow.FLOWS`.

    Attributes:
        mapping, flow: as given.

    Raises:
        OutputError: the folder is not writable.
    """

    def __init__(
        self,
        out: Path,
        labels: LabelSet,
        mapping: LabelMapping,
        cameras: Sequence[str],
        variants: Sequence[str],
        save: Sequence[str],
        remembers: bool,
        flow: str = "dis",
    ) -> None:
        self.out, self._remembers, self.flow = out, remembers, flow
        self.variants = tuple(variants)
        self.streams = {
            camera: Stream({name: Measures(labels, mapping) for name in variants}, pairs=PairMatcher(flow))
            for camera in cameras
        }
        self.summary = StreamSummary()
        self.frame_ms: dict[str, list[float]] = {name: [] for name in variants}
        self.explanations: list[Explanation] = []  # of one frame, set by whoever watched the memory
        self.worst = Moments()
        self.flickering = Moments()
        self._labels = labels
        self.mapping = mapping
        self._save = frozenset(save)
        self._digest = hashlib.sha256()
        make_folder(out)
        with output_errors(out):
            self._rows: TextIO = (out / "frames.jsonl").open("w", encoding="utf-8")
        self._number = 0

    @property
    def digest(self) -> str:
        """SHA-256 over every label map and every line so far, times of computing left out."""
        return self._digest.hexdigest()

    @property
    def dropped(self) -> int:
        """Frames that were never segmented, of all cameras."""
        return sum(stream.dropped for stream in self.streams.values())

    def total(self, variant: str) -> Measures:
        """Measures of a variant over all cameras."""
        total = Measures(self._labels, self.mapping)
        for stream in self.streams.values():
            total.absorb(stream.measures[variant])
        return total

    def add(
        self,
        camera: str,
        frame: Frame,
        truth: UInt8Array | None,
        results: Mapping[str, FrameResult],
        latency_ms: float | None = None,
    ) -> None:
        """Record a segmented frame.

        Args:
            camera: its name.
            frame: as it came.
            truth: (H, W) ids of its label image, None where it has none.
            results: for each of the variants.
            latency_ms: stamp to published, where frames come in time.

        Raises:
            OutputError: something cannot be written.
            InputError: truth with another aspect ratio.
        """
        stream = self.streams[camera]
        matches = stream.pairs.next(frame.image)
        scores = {variant: stream.measures[variant].add(results[variant], truth, matches) for variant in self.variants}
        for variant in self.variants:
            self.frame_ms[variant] += [ms for stage, ms in results[variant].timings_ms.items() if stage == "total"]
        main = results[self.variants[0]]
        for summary in (stream.summary, self.summary):
            summary.add(main, memory_on=self._remembers)
            if latency_ms is not None:
                summary.timings_ms.setdefault("stamp_to_publish", []).append(latency_ms)
        stream.longest_memory = max(stream.longest_memory, main.memory_frames)
        if stream.first_stamp_ns is None:
            stream.first_stamp_ns = frame.stamp_ns
        row = self._row(camera, frame, results, scores, latency_ms)
        self._write_row(row)
        self._draw(stream, frame, truth, results, row, matches)
        if "bag" in self._save:
            if stream.bag is None:
                stream.bag = ResultBagSink(self.out / self._named("result", camera), self._labels, _BAG_TOPICS)
            stream.bag.write(frame, main)
        if "video" in self._save:
            if stream.video is None:
                stream.video = SideBySideVideo(self.out / f"{self._named('side_by_side', camera)}.webm", self._labels)
            stream.video.write(frame, results)

    def drop(self, camera: str, frame: Frame) -> None:
        """Record a frame that was never segmented."""
        self.streams[camera].dropped += 1
        self._write_row({**self._place(camera, frame), "dropped": True})

    def close(self) -> None:
        """Finish all files.

        Raises:
            OutputError: one of them cannot be finished.
        """
        with output_errors(self.out / "frames.jsonl"):
            self._rows.close()
        for stream in self.streams.values():
            for sink in (stream.bag, stream.video):
                if sink is not None:
                    sink.close()

    def save_pictures(self) -> dict[str, Any]:
        """Write the pictures of the moments kept; returns what the page needs to know of pictures and videos."""
        videos = {
            camera: {"file": stream.video.path.name, "fps": stream.video.fps}
            for camera, stream in self.streams.items()
            if stream.video is not None
        }
        folder = self.out / "pictures"
        return {
            "worst": self.worst.save(folder, "worst"),
            "flickering": self.flickering.save(folder, "flickering"),
            "attention": [
                {"title": explanation.title, "panels": save_panels(folder, f"attention_{n}", explanation.panels)}
                for n, explanation in enumerate(self.explanations)
            ],
            "videos": videos,
        }

    def _place(self, camera: str, frame: Frame) -> dict[str, Any]:
        place = {"number": self._number, "camera": camera, "name": frame.name, "stamp_ns": frame.stamp_ns}
        self._number += 1
        return place

    def _row(
        self,
        camera: str,
        frame: Frame,
        results: Mapping[str, FrameResult],
        scores: Mapping[str, FrameScores],
        latency_ms: float | None,
    ) -> dict[str, Any]:
        main = results[self.variants[0]]
        first = scores[self.variants[0]]
        row = {
            **self._place(camera, frame),
            "index": self.streams[camera].summary.frames - 1,
            "reset": None if main.discontinuity is None else main.discontinuity.value,
            "since_reset": first.since_reset,
            "memory_frames": main.memory_frames,
            "remembered": main.remembered,
            "blind": None if main.blind is None else main.blind.value,
            **_scores(first),
        }
        for variant in self.variants[1:]:
            row[variant] = _scores(scores[variant])
        if "off" in self.variants[1:]:
            row["differs"] = float(np.mean(main.labels != results["off"].labels))
        row["labels_hash"] = hashlib.blake2b(np.ascontiguousarray(main.labels).data, digest_size=8).hexdigest()
        row["timings_ms"] = {stage: round(milliseconds, 3) for stage, milliseconds in main.timings_ms.items()}
        if latency_ms is not None:
            row["latency_ms"] = round(latency_ms, 3)
        return row

    def _write_row(self, row: Mapping[str, Any]) -> None:
        fixed = {key: value for key, value in row.items() if key not in NOT_REPEATABLE}
        self._digest.update(json.dumps(fixed, sort_keys=True).encode())
        with output_errors(self.out / "frames.jsonl"):
            self._rows.write(json.dumps(row) + "\n")

    def _draw(
        self,
        stream: Stream,
        frame: Frame,
        truth: UInt8Array | None,
        results: Mapping[str, FrameResult],
        row: dict[str, Any],
        matches: Matches | None,
    ) -> None:
        """Keep pictures of the worst and the most flickering moments."""
        main = results[self.variants[0]]
        number, flicker = row["number"], row["flicker"]
        badness: Any = row.get("differs") if row["accuracy"] is None else 1.0 - row["accuracy"]
        image = None
        if self.worst.wants(badness, number):
            image = main.geometry.image_to_output(frame.image)
            panels = {"camera": image}
            if truth is not None:
                panels["truth"] = self.mapping.classes.colorize(self.mapping.map_truth(truth))
            for name in ("off", "on"):
                if name in results:  # in the colours of the truth, to be compared with it
                    seen = self.mapping.map_prediction(results[name].labels)
                    panels[f"memory {name}"] = self.mapping.classes.overlay(image, seen, 0.65)
            self.worst.keep(badness, number, row, panels)
        if matches is not None and stream.before is not None and self.flickering.wants(flicker, number):
            image = main.geometry.image_to_output(frame.image) if image is None else image
            before_image, before = stream.before
            here = matches.static & (matches.fetch(to_grid(main.labels, matches)) != to_grid(before, matches))
            panels = {
                "before": self._labels.overlay(before_image, before),
                "now": self._labels.overlay(image, main.labels),
                "changed": mark(resize_image(before_image, Size(*here.shape)), here),
            }
            self.flickering.keep(flicker, number, row, panels)
        stream.before = (main.geometry.image_to_output(frame.image) if image is None else image, main.labels)

    def _named(self, what: str, camera: str) -> str:
        return what if len(self.streams) == 1 else f"{what}_{camera}"


def _scores(scores: FrameScores) -> dict[str, float | None]:
    return {"accuracy": scores.accuracy, "agreement": scores.agreement, "flicker": scores.flicker}
