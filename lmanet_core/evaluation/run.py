"""`evaluate`: recordings and weights in; figures, a verdict and a folder with the report out.

report = evaluate(EvaluationConfig(("drive.mcap",), Path("report"), labels=("/camera/labels",)))
report.figures["miou"], report.passed, report.folder / "report.html"
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.flow import FLOWS
from lmanet_core.evaluation.live import run_live
from lmanet_core.evaluation.page import write_page
from lmanet_core.evaluation.preflight import check_inputs
from lmanet_core.evaluation.recorded import run_recorded
from lmanet_core.evaluation.recorder import Recorder
from lmanet_core.evaluation.report import Report, build_summary, figure_names, hash_input, write_summary
from lmanet_core.evaluation.session import CameraInput, Session, name_cameras
from lmanet_core.evaluation.verdict import check_names, read_thresholds
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import hash_file, load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

SAVE = ("bag", "video", "page")
COMPARE = ("off", "labels", "features")


@dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation.

    Raises:
        ConfigError: settings out of range, or that exclude each other; the message names the option of `lmanet evaluate`.
    """

    inputs: tuple[str, ...]  # videos, folders of images, bags
    out: Path  # folder for the report
    weights: Path | None = None  # file of any understood kind; None: those that ship, or none where a segmenter is given
    segmenter: VideoSegmenter | None = None  # ready; its runtime and settings are used for each camera; None: default settings
    weights_kind: str = ""  # in words; of a ready segmenter's weights
    labels: tuple[str, ...] = ()  # none, one for all cameras, or one each; see `open_truth`
    tolerance_s: float = 0.02  # between a label's stamp and its frame's, at most
    mapping: str | None = None  # name or YAML file, see `load_mapping`; None: the weights' own ids
    thresholds: Path | None = None  # YAML file, see `read_thresholds`
    live: str | float | None = None  # as if live: "measured", or milliseconds a frame takes; None: every frame, in order
    results: tuple[str, ...] = ()  # one for each camera: BAG or BAG:TOPIC with label maps that a node published
    compare: tuple[str, ...] = (
        "off",
    )  # other ways on the same frames, of `COMPARE`; those that differ in nothing are left out
    save: tuple[str, ...] = SAVE  # what is written besides summary.json and frames.jsonl
    overwrite: bool = False  # replace a report that is there
    topics: tuple[str, ...] = ()  # image topics of bags
    fps: float | None = None  # of folders of images
    max_frames: int | None = None  # of each camera
    starts_s: tuple[float, ...] = ()  # seconds left out at the beginning: none, of all recordings alike, or one for each camera
    flow: str = "dis"  # that measures over time go along, of `FLOWS`
    stills: bool = False  # images are no video: no memory, and nothing is measured over time
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the segmenter as they were asked for, for the record

    def __post_init__(self) -> None:
        for kind in self.save:
            if kind not in SAVE:
                raise ConfigError(f"--save takes {', '.join(SAVE)} or none, got {kind!r}")
        for way in self.compare:
            if way not in COMPARE:
                raise ConfigError(f"--compare takes {', '.join(COMPARE)} or none, got {way!r}")
        if self.flow not in FLOWS:
            raise ConfigError(f"--flow takes {' or '.join(FLOWS)}, got {self.flow!r}")
        if not self.tolerance_s >= 0.0:
            raise ConfigError(f"--tolerance must be 0 seconds or more, got {self.tolerance_s}")
        if isinstance(self.live, float) and not 0.0 < self.live < math.inf:
            raise ConfigError(f"--live takes measured or milliseconds above 0, got {self.live}")
        if self.stills and (self.live is not None or self.results):
            raise ConfigError("--stills are no video; leave --live and --results out")
        if self.live is not None and self.results:
            raise ConfigError("--results are of a live run already; leave --live out")

    def cameras(self) -> list[CameraInput]:
        """The streams; raises ConfigError where labels or results are not as many as they."""
        cameras = name_cameras(self.inputs, self.topics, self.labels, self.fps)
        if len(self.starts_s) not in (0, 1, len(cameras)):
            raise ConfigError(f"wanted --start once, or for each of {len(cameras)} cameras, got {len(self.starts_s)}")
        if self.starts_s:
            starts = self.starts_s * (len(cameras) if len(self.starts_s) == 1 else 1)
            cameras = [replace(camera, start_s=start) for camera, start in zip(cameras, starts, strict=True)]
        if not self.results:
            return cameras
        if len(self.results) != len(cameras):
            raise ConfigError(f"wanted --results for each of {len(cameras)} cameras, got {len(self.results)}")
        return [replace(camera, results=each) for camera, each in zip(cameras, self.results, strict=True)]


def evaluate(
    config: EvaluationConfig,
    on_frame: Callable[[], None] = lambda: None,
    on_open: Callable[[int | None], None] = lambda frames: None,
) -> Report:
    """Segment the recordings, measure, and write the report.

    Args:
        config: see `EvaluationConfig`.
        on_frame: called after each frame of each camera, for progress.
        on_open: called before a camera's first frame, with how many to expect, where that is known.

    Raises:
        LmanetError: input, weights, labels or output are not usable; what was measured by then is in the report's folder.
    """
    started = time.perf_counter()
    cameras = config.cameras()
    config = _with_segmenter(config)
    segmenter = config.segmenter
    assert segmenter is not None
    ways = _ways(segmenter, config.compare, config.stills)
    variants = tuple(ways)
    labels = segmenter.labels
    mapping = LabelMapping.identity(labels) if config.mapping is None else load_mapping(config.mapping, labels)
    thresholds = () if config.thresholds is None else read_thresholds(config.thresholds)
    check_names(thresholds, figure_names(mapping.classes.names, variants))

    def make_segmenters() -> Mapping[str, VideoSegmenter]:
        return {way: VideoSegmenter(segmenter.runtime, settings) for way, settings in ways.items()}

    check_inputs(cameras, segmenter, mapping, config.tolerance_s, config.max_frames)
    inputs = (*config.inputs, *config.labels, *config.results)
    with ResultFolder(config.out, overwrite=config.overwrite, inputs=inputs) as folder:
        names, remembers = [camera.name for camera in cameras], segmenter.memory_enabled and not config.stills
        recorder = Recorder(config.out, labels, mapping, names, variants, config.save, remembers, config.flow)
        session = Session(cameras, make_segmenters, recorder, config.tolerance_s, config.max_frames, on_frame, config.stills)
        session.bits, session.on_open = segmenter.config.bits, on_open
        figures: dict[str, float | None] = {}
        complete = False
        try:
            if config.results:
                figures = run_recorded(session)
            elif config.live is None:
                session.run_lock_step()
            else:
                figures = run_live(session, mapping, None if config.live == "measured" else float(config.live) / 1e3)
            session.require_labels()
            complete = True
        finally:
            recorder.close()
            folder.keep = recorder.summary.frames > 0
            if folder.keep:
                elapsed_s = time.perf_counter() - started
                pictures = recorder.save_pictures() if "page" in config.save else {}
                run = _describe_run(config, segmenter)
                summary = build_summary(session, thresholds, run, elapsed_s, complete, figures, pictures)
                write_summary(config.out / "summary.json", summary)
                if "page" in config.save:
                    write_page(config.out)
    return Report(config.out, summary)


def _ways(segmenter: VideoSegmenter, compare: Sequence[str], stills: bool) -> dict[str, SegmenterConfig]:
    """The ways to segment, the one that the report is about first.

    "on" is as configured, "off" without memories, "labels" and "features" with one of the two where both are on. Where there is
    none, "off" is all.
    """
    features, labels = segmenter.memory_enabled, segmenter.label_strength > 0.0
    ways = {
        "on": replace(segmenter.config, memory=features),
        "off": replace(segmenter.config, memory=False, label_memory=False),
        "labels": replace(segmenter.config, memory=False),
        "features": replace(segmenter.config, memory=features, label_memory=False),
    }
    if stills or not (features or labels):
        return {"off": ways["off"]}
    return {way: ways[way] for way in ("on", *compare) if way in ("on", "off") or (features and labels)}


def _with_segmenter(config: EvaluationConfig) -> EvaluationConfig:
    if config.segmenter is not None:
        return config
    weights = config.weights or default_weights()
    model = load_model(weights)
    return replace(config, weights=weights, segmenter=VideoSegmenter(prepare(model)), weights_kind=model.source)


def _describe_run(config: EvaluationConfig, segmenter: VideoSegmenter) -> dict[str, Any]:
    """What the result depends on: weights, inputs, settings. No paths, which may differ where nothing else does."""
    if config.results:
        mode = "live, as published by a node"
    elif config.live is None:
        mode = "lock-step"
    else:
        mode = "as if live, times measured" if config.live == "measured" else f"as if live at {config.live:g} ms a frame"
    settings = {
        "tolerance": config.tolerance_s,
        "mapping": config.mapping,
        "live": config.live,
        "compare": ",".join(config.compare) or "none",
        "topic": ",".join(config.topics) or None,
        "fps": config.fps,
        "max_frames": config.max_frames,
        **({"stills": True} if config.stills else {}),
        **({"start": ",".join(f"{start:g}" for start in config.starts_s)} if config.starts_s else {}),
        **({"flow": config.flow} if config.flow != "dis" else {}),
        **config.settings,
    }
    file, sha256 = ("none", "") if config.weights is None else (config.weights.name, hash_file(config.weights))
    return {
        "mode": mode,
        "weights": {"file": file, "sha256": sha256, "kind": config.weights_kind},
        "inputs": [{"name": Path(path).name, "sha256": hash_input(Path(path))} for path in config.inputs],
        "labels": [Path(labels).name for labels in config.labels],
        "device": str(segmenter.runtime.device),
        "precision": segmenter.runtime.precision,
        "memory": segmenter.memory_enabled and not config.stills,
        "label_memory": 0.0 if config.stills else segmenter.label_strength,
        "memory_frames": segmenter.memory_capacity,
        "settings": settings,
    }
