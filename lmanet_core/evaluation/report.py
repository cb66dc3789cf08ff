"""`summary.json`: what was run on what, every figure, the verdict, and a hash over all that must be equal on every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmanet_core.evaluation.flow import FLOWS, MAX_FLOW_PIXELS, MAX_PIXELS
from lmanet_core.evaluation.measures import MVC_FRAMES
from lmanet_core.evaluation.session import CameraInput, Session
from lmanet_core.evaluation.verdict import Check, Threshold, judge
from lmanet_core.files import output_errors
from lmanet_core.metrics.temporal import FLOW_AGREEMENT_PX, STATIC_GREY_LEVELS
from lmanet_core.stream.loop import StreamSummary
from lmanet_core.weights.checkpoint import hash_file
from lmanet_core.weights.machine import describe_machine, describe_versions, peak_memory_mb

#: What a threshold may be on besides `iou.<class>`, the same of other variants (`off.miou`), and `gain.<figure>` over "off".
QUALITY = ("accuracy", "miou", "miou_union", "boundary_miou", f"mvc_{MVC_FRAMES}", "tc", "flicker", "agreement")
COUNTS = ("frames", "labelled_frames", "dropped", "skipped", "resets", "labels_unmatched")
SHARES = ("unjudged", "streaming_accuracy", "streaming_miou", "reproduced")  # where there are such
SPEED = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "frames_per_second", "peak_memory_mb")
#: Parts of a summary that differ from run to run; the hash leaves them out.
NOT_REPEATABLE = ("verdict", "speed", "timings_ms", "frame_ms", "machine", "paths", "hash", "pictures")


#: The ways to segment that are compared, in words.
WAYS = {"on": "memory on", "off": "memory off", "labels": "label memory only", "features": "feature memory only"}


def figure_names(classes: Sequence[str], variants: Sequence[str]) -> list[str]:
    """Every figure that a threshold can be on."""
    own = [*QUALITY, *(f"iou.{name}" for name in classes)]
    others = [f"{variant}.{name}" for variant in variants[1:] for name in own]
    gains = [f"gain.{name}" for name in own] if "off" in variants[1:] else []
    return [*own, *others, *gains, *SHARES, *COUNTS, *SPEED]


@dataclass(frozen=True)
class Report:
    """What came of an evaluation.

    Attributes:
        folder: holds `summary.json` and `frames.jsonl`, and as asked for `report.html`, the result bag and the video.
        summary: as written to summary.json.
    """

    folder: Path
    summary: Mapping[str, Any]

    @property
    def figures(self) -> Mapping[str, float | None]:
        """By name, see docs/evaluation.md; None where it was not measured."""
        return dict(self.summary["figures"])

    @property
    def passed(self) -> bool | None:
        """The verdict; None where there are no thresholds."""
        passed: bool | None = self.summary["verdict"]["passed"]
        return passed

    @property
    def missed(self) -> tuple[Check, ...]:
        """Thresholds that were missed."""
        checks = (Check(**check) for check in self.summary["verdict"]["checks"])
        return tuple(check for check in checks if not check.passed)

    def frames(self) -> Iterator[dict[str, Any]]:
        """What is known of each frame, in order."""
        return read_frames(self.folder)


def build_summary(
    session: Session,
    thresholds: Sequence[Threshold],
    run: Mapping[str, Any],
    elapsed_s: float,
    complete: bool,
    further: Mapping[str, float | None] | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about an evaluation as plain data.

    Args:
        session: its recorder closed.
        thresholds: may be empty.
        run: weights, configuration, mode: what was run.
        elapsed_s: wall time of it all.
        complete: false where an error or Ctrl-C ended it.
        further: figures that the recorder does not know.
        pictures: as `Recorder.save_pictures` gives them.
    """
    recorder = session.recorder
    main, *_ = recorder.variants
    totals = {variant: recorder.total(variant) for variant in recorder.variants}
    summaries = {variant: total.summary() for variant, total in totals.items()}
    mapping, speed = totals[main].mapping, _speed(recorder.summary, elapsed_s)
    figures = {
        **_figures(summaries, recorder.variants),
        "dropped": recorder.dropped,
        "skipped": sum(session.skipped.values()),
        "resets": sum(recorder.summary.resets.values()),
        "labels_unmatched": sum(counts["unmatched"] for counts in session.labels.values()),
        **(further or {}),
    }
    summary: dict[str, Any] = {
        "verdict": judge(thresholds, {**figures, **speed}),
        "complete": complete,
        "figures": figures,
        "speed": speed,
        "variants": list(recorder.variants),
        "classes": list(mapping.classes.names),
        "colors": [list(color) for color in mapping.classes.colors],
        "runs": summaries,
        "since_reset_from": [entry["from"] for entry in summaries[main]["since_reset"]],
        "resets": dict(recorder.summary.resets),
        "blind": dict(recorder.summary.blind),
        "not_remembered": recorder.summary.not_remembered,
        "cameras": {camera.name: _camera(session, camera) for camera in session.cameras},
        "unknown_label_values": {str(value): n for value, n in sorted(totals[main].unknown_values.items())},
        "timings_ms": recorder.summary.percentiles(),
        "frame_ms": {name: float(np.median(values[1:] or values)) for name, values in recorder.frame_ms.items() if values},
        "flow": f"{FLOWS[recorder.flow]}, both directions, computed at {MAX_FLOW_PIXELS} and compared at {MAX_PIXELS} pixels "
        f"at most, agreement {FLOW_AGREEMENT_PX:g} px, static within {STATIC_GREY_LEVELS} grey levels",
        "run": {**run, "versions": describe_versions()},
        "frames_hash": recorder.digest,
        "machine": {
            **describe_machine(),
            "cuda_peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
        },
        "paths": {
            "inputs": [str(camera.recording) for camera in session.cameras],
            "labels": [camera.labels for camera in session.cameras],
        },
        "pictures": dict(pictures or {}),
    }
    summary["hash"] = hash_summary(summary)
    return summary


def hash_summary(summary: Mapping[str, Any]) -> str:
    """SHA-256 over all that does not differ from run to run."""
    fixed = {key: value for key, value in summary.items() if key not in NOT_REPEATABLE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write it; raises OutputError."""
    with output_errors(path):
        path.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_frames(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines of a report's frames.jsonl, one by one."""
    with (folder / "frames.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def hash_input(path: Path) -> str:
    """SHA-256 of a file, or over names and contents of a folder's files."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _figures(summaries: Mapping[str, Mapping[str, Any]], variants: Sequence[str]) -> dict[str, float | None]:
    flat = {}
    for variant in variants:
        summary = summaries[variant]
        flat[variant] = {name: summary[name] for name in QUALITY}
        flat[variant] |= {f"iou.{name}": iou for name, iou in summary["iou"].items()}
    main, *others = variants
    figures: dict[str, float | None] = dict(flat[main])
    for other in others:
        figures |= {f"{other}.{name}": value for name, value in flat[other].items()}
    if "off" in others:
        figures |= {f"gain.{name}": _difference(value, flat["off"][name]) for name, value in flat[main].items()}
    figures |= {name: summaries[main][name] for name in ("frames", "labelled_frames", "unjudged")}
    return figures


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _camera(session: Session, camera: CameraInput) -> dict[str, Any]:
    stream = session.recorder.streams[camera.name]
    measured = stream.measures[session.recorder.variants[0]].summary()
    return {
        "topic": camera.topic,
        "frames": stream.summary.frames,
        "dropped": stream.dropped,
        "skipped": session.skipped.get(camera.name, 0),
        "resets": dict(stream.summary.resets),
        "blind": dict(stream.summary.blind),
        "labels": session.labels.get(camera.name),
        "first_stamp_ns": stream.first_stamp_ns,
        "longest_memory_frames": stream.longest_memory,
        **{name: measured[name] for name in QUALITY},
    }


def _speed(summary: StreamSummary, elapsed_s: float) -> dict[str, float | None]:
    stages = summary.percentiles()
    total = stages.get("stamp_to_publish", stages.get("total", {}))
    return {
        **{f"latency_{share}_ms": total.get(share) for share in ("p50", "p95", "p99")},
        "frames_per_second": summary.frames / elapsed_s if elapsed_s > 0 else None,
        "peak_memory_mb": peak_memory_mb(),
    }
