"""What each kind of memory gains on a labelled recording: the contenders, what the pictures suffer, and the measures, as code.

    frames → a condition (noise, lost blocks, a slow camera …) → every contender → accuracy, steadiness, what comes late

All contenders see the same frames. Steadiness goes along a flow that none of them uses (Farneback's, on the clean pictures).
The two halves of the recording are also reported by themselves, for constants that were chosen on the first one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.data.augment import lose_blocks
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.measures import Measures
from lmanet_core.evaluation.truth import open_truth, with_truth
from lmanet_core.experiments.paper import ExperimentResult
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size
from lmanet_core.label_mapping import LabelMapping, load_mapping
from lmanet_core.labels import UNLABELLED
from lmanet_core.media import open_frames
from lmanet_core.metrics import FlowMatcher, Matches
from lmanet_core.network.backbone import image_batch
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.network.memory_read import MemoryFrames
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare

_AVERAGE = 0.6  # of the past, in the two averages
_NOISE = 25.0  # grey levels
_BLOCKS = 4  # lost in each frame
_DARK = 0.15
_BLUR_PX = 15  # of a camera that shakes sideways
_JPEG = 10
_SLOW_HZ = 5.0
PARTS = ("all", "first half", "second half")


def _motion_blur(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    return np.asarray(cv2.blur(image, (_BLUR_PX, 1)), np.uint8)


def _jpeg(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    packed = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, _JPEG))[1]
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def _noise(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    return np.asarray(np.clip(image + rng.normal(0.0, _NOISE, image.shape).round(), 0, 255), np.uint8)


#: What the pictures suffer: name → what is done to each image.
CONDITIONS: Mapping[str, Callable[[UInt8Array, np.random.Generator], UInt8Array]] = {
    "clean": lambda image, rng: image,
    "noise": _noise,
    "blocks": lambda image, rng: np.asarray(lose_blocks(image[None], rng, _BLOCKS)[0], np.uint8),
    "dark": lambda image, rng: (image * _DARK).round().astype(np.uint8),
    "blur": _motion_blur,
    "jpeg": _jpeg,
    "every second": lambda image, rng: image,
    "5 Hz": lambda image, rng: image,
}
_RANDOM = ("noise", "blocks")  # other ones with each seed
CONTENDERS = ("single", "control", "self-memory", "feature memory", "label memory", "both", "average", "average along flow")


@dataclass(frozen=True)
class GainConfig:
    """One comparison.

    Raises:
        ConfigError: unknown conditions or contenders, or a control that is missing.
    """

    recording: str  # video, folder of images or bag
    labels: str  # see `open_truth`
    weights: str
    out: Path
    control: str | None = None  # weights that had the same training steps without a memory
    mapping: str | None = None  # see `load_mapping`
    network_size: str = "auto"
    fps: float | None = None  # of a folder of images
    conditions: Sequence[str] = tuple(CONDITIONS)
    contenders: Sequence[str] | None = None  # None: all that the weights allow
    seeds: int = 1  # repetitions of random conditions
    max_frames: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for what, known, given in (
            ("condition", CONDITIONS, self.conditions),
            ("contender", CONTENDERS, self.contenders or ()),
        ):
            for name in given:
                if name not in known:
                    raise ConfigError(f"a {what} is one of {', '.join(known)}; got {name!r}")
        if "control" in (self.contenders or ()) and self.control is None:
            raise ConfigError("the contender control wants control: weights that were trained as long without a memory")
        if self.seeds < 1:
            raise ConfigError(f"seeds must be 1 or more, got {self.seeds}")


class Contender(Protocol):
    """Segments one stream."""

    def step(self, frame: Frame) -> FrameResult:
        """The next frame."""
        ...


class Streamed:
    """The product itself, with some of its memories."""

    def __init__(self, runtime: Runtime, network_size: str, features: bool, labels: bool) -> None:
        self._segmenter = VideoSegmenter(
            runtime, SegmenterConfig(network_size=network_size, memory=features, label_memory=labels)
        )

    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        return self._segmenter.step(frame.image, frame.stamp_ns, frame.frame_id, confidence=False)


class SelfMemory:
    """The network's memory filled with the present frame: the same parameters without the past."""

    def __init__(self, runtime: Runtime, network_size: str) -> None:
        self._runtime = runtime
        self._geometry = VideoSegmenter(runtime, SegmenterConfig(network_size=network_size))

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        runtime, plan = self._runtime, self._geometry.plan_for(Size(*frame.image.shape[:2]))
        features = runtime.network.encode(_pixels(runtime, plan.to_network(frame.image)))
        memory = self._memory(features)
        logits = runtime.network.decode(features, memory, positions=_here(memory))
        return _result(frame, logits[0, : len(runtime.config.labels.names)].argmax(0).byte(), plan)

    def _memory(self, features: torch.Tensor) -> MemoryFrames | None:
        config = self._runtime.config.memory
        assert config is not None
        return stack_memory([self._runtime.network.remember(features)] * config.memory_frames)


class Averaged:
    """Class probabilities averaged over time, pixel by pixel or along the flow, with no gate: what is simple."""

    def __init__(self, runtime: Runtime, network_size: str, along_flow: bool) -> None:
        self._runtime = runtime
        self._geometry = VideoSegmenter(runtime, SegmenterConfig(network_size=network_size))
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) if along_flow else None
        self._before: tuple[UInt8Array, Float32Array] | None = None

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """See `Contender`."""
        runtime, plan = self._runtime, self._geometry.plan_for(Size(*frame.image.shape[:2]))
        image = plan.to_network(frame.image)
        logits = runtime.network.decode(runtime.network.encode(_pixels(runtime, image)))
        now = logits[0, : len(runtime.config.labels.names)].float().softmax(0).cpu().numpy()
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._before is not None:
            past = self._before[1] if self._flow is None else self._moved(grey, *self._before)
            now = _AVERAGE * past + (1.0 - _AVERAGE) * now
        self._before = (grey, now)
        return _result(frame, torch.from_numpy(now.argmax(0).astype(np.uint8)), plan)

    def _moved(self, grey: UInt8Array, before: UInt8Array, past: Float32Array) -> Float32Array:
        assert self._flow is not None
        flow = np.asarray(self._flow.calc(grey, before, None), np.float32)  # type: ignore[call-overload]
        rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
        columns, rows = columns + flow[..., 0], rows + flow[..., 1]
        replicate = cv2.BORDER_REPLICATE
        return np.stack([cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=replicate) for plane in past])


class Farneback:
    """OpenCV's dense flow after Farnebäck (2003), which no contender uses."""

    def calc(self, first: UInt8Array, second: UInt8Array, flow: None) -> Float32Array:
        """(H, W, 2): from each pixel of the first picture to where it is in the second."""
        start = np.zeros((*first.shape, 2), np.float32)
        return np.asarray(cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 5, 15, 3, 5, 1.1, 0), np.float32)


@dataclass
class Score:
    """Measures of one contender under one condition, over the whole recording and over its halves."""

    measures: dict[str, Measures]
    changed: dict[str, list[int]] = field(default_factory=lambda: {part: [0, 0] for part in PARTS})  # right, all

    def figures(self, part: str) -> dict[str, Any]:
        """Plain numbers."""
        right, count = self.changed[part]
        summary = self.measures[part].summary()
        kept = {name: value for name, value in summary.items() if name not in ("confusion", "since_reset")}
        return {**kept, "changed_accuracy": right / count if count else None}


def measure_gain(config: GainConfig, say: Callable[[str], None] = print) -> ExperimentResult:
    """Compare, and write `memory-gain.json` with every figure into `config.out`, an existing folder.

    Raises:
        LmanetError: recording, labels or weights are not usable.
    """
    runtime = prepare(load_model(config.weights), config.device, config.precision)
    control = None if config.control is None else prepare(load_model(config.control), config.device, config.precision)
    labels = runtime.config.labels
    mapping = LabelMapping.identity(labels) if config.mapping is None else load_mapping(config.mapping, labels)
    pairs = list(_read(config))
    record: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    for condition in config.conditions:
        runs = []
        for seed in range(config.seeds if condition in _RANDOM else 1):
            contenders = _contenders(config, runtime, control)
            scores = {name: Score({part: Measures(labels, mapping) for part in PARTS}) for name in contenders}
            _run(pairs, condition, seed, contenders, scores, mapping)
            runs.append({name: {part: score.figures(part) for part in PARTS} for name, score in scores.items()})
        record[condition] = runs
        rows += _rows(condition, runs)
        say(f"{condition}: " + "; ".join(f"{row[1]} {row[2]:.2f} / {row[3]:.2f}" for row in _rows(condition, runs)))
    (config.out / "memory-gain.json").write_text(json.dumps(record, indent=1))
    columns = ("condition", "contender", "mIoU, %", "flicker, %", "TC, %", "mVC8, %", "changed, %", "worst class")
    title = f"Memory gain: {Path(config.recording).name}, {len(pairs)} frames, {Path(config.weights).name}"
    return ExperimentResult(title, columns, tuple(rows), plotted=(2, 3), unit="%")


def _read(config: GainConfig) -> Iterator[tuple[Frame, UInt8Array | None]]:
    options: dict[str, Any] = {} if config.fps is None else {"fps": config.fps}
    with open_frames(Path(config.recording), **options) as source:
        truth = open_truth(config.labels, Path(config.recording), 0.02)
        for number, pair in enumerate(with_truth(source, truth)):
            if config.max_frames is not None and number >= config.max_frames:
                break
            yield pair


def _contenders(config: GainConfig, runtime: Runtime, control: Runtime | None) -> dict[str, Contender]:
    size, remembers = config.network_size, runtime.config.memory is not None
    made: dict[str, Callable[[], Contender] | None] = {
        "single": lambda: Streamed(runtime, size, False, False),
        "control": None if control is None else lambda: Streamed(control, size, False, False),
        "self-memory": (lambda: SelfMemory(runtime, size)) if remembers else None,
        "feature memory": (lambda: Streamed(runtime, size, True, False)) if remembers else None,
        "label memory": lambda: Streamed(runtime, size, False, True),
        "both": (lambda: Streamed(runtime, size, True, True)) if remembers else None,
        "average": lambda: Averaged(runtime, size, along_flow=False),
        "average along flow": lambda: Averaged(runtime, size, along_flow=True),
    }
    wanted = config.contenders or CONTENDERS
    return {name: make() for name, make in made.items() if make is not None and (name in wanted or name == "single")}


def _run(
    pairs: Sequence[tuple[Frame, UInt8Array | None]],
    condition: str,
    seed: int,
    contenders: Mapping[str, Contender],
    scores: Mapping[str, Score],
    mapping: LabelMapping,
) -> None:
    rng, matcher = np.random.default_rng(seed), FlowMatcher(Farneback())
    kept = list(_due(pairs, condition))
    before: tuple[Frame, UInt8Array | None] | None = None
    for number, (frame, truth) in enumerate(kept):
        suffered = Frame(CONDITIONS[condition](frame.image, rng), frame.stamp_ns, frame.frame_id)
        matches = back = None
        if before is not None:
            matches, back = (matcher.match(*pair) for pair in ((before[0].image, frame.image), (frame.image, before[0].image)))
        changed = None if before is None or back is None else _changed(mapping, truth, before[1], back)
        half = PARTS[1 if number < len(kept) // 2 else 2]
        for name, contender in contenders.items():
            result = contender.step(suffered)
            for part in ("all", half):
                scores[name].measures[part].add(result, truth, matches if part == "all" or number != len(kept) // 2 else None)
                if changed is not None and truth is not None:
                    hit = mapping.map_prediction(result.labels)[changed] == mapping.map_truth(truth)[changed]
                    scores[name].changed[part][0] += int(hit.sum())
                    scores[name].changed[part][1] += int(hit.size)
        before = (frame, truth)


def _due(pairs: Sequence[tuple[Frame, UInt8Array | None]], condition: str) -> Iterator[tuple[Frame, UInt8Array | None]]:
    """The frames that a camera of this condition gives."""
    last_ns: int | None = None
    for number, (frame, truth) in enumerate(pairs):
        if condition == "every second" and number % 2:
            continue
        if condition == "5 Hz" and last_ns is not None and frame.stamp_ns - last_ns < 0.999e9 / _SLOW_HZ:
            continue
        last_ns = frame.stamp_ns
        yield frame, truth


def _changed(mapping: LabelMapping, truth: UInt8Array | None, truth_before: UInt8Array | None, back: Matches) -> Any:
    """(H, W) bool: pixels that are known to show another class than along the motion in the frame before."""
    if truth is None or truth_before is None or truth.shape != back.valid.shape:
        return None
    now, was = mapping.map_truth(truth), back.fetch(mapping.map_truth(truth_before))
    return back.valid & (now != UNLABELLED) & (was != UNLABELLED) & (now != was)


def _rows(condition: str, runs: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """One for each contender: means over the seeds."""
    rows = []
    for name in runs[0]:
        whole = [run[name]["all"] for run in runs]
        means = [_mean([one[figure] for one in whole]) for figure in ("miou", "flicker", "tc", "mvc_8", "changed_accuracy")]
        spread = f" ± {100 * float(np.std([one['miou'] for one in whole])):.2f}" if len(runs) > 1 else ""
        rows.append((condition, name + spread, *(100 * value for value in means), _worst(runs, name)))
    return rows


def _worst(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """The class that loses most against single frames, and how many points of IoU."""
    if name == "single":
        return ""
    single, own = runs[0]["single"]["all"]["iou"], runs[0][name]["all"]["iou"]
    lost = {kind: 100 * (own[kind] - iou) for kind, iou in single.items() if iou is not None and own[kind] is not None}
    kind = min(lost, key=lost.__getitem__)
    return f"{kind} {lost[kind]:+.1f}"


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _pixels(runtime: Runtime, image: UInt8Array) -> torch.Tensor:
    return runtime.normalize(image_batch(torch.from_numpy(image.copy()).float().to(runtime.device)))


def _here(memory: MemoryFrames | None) -> torch.Tensor | None:
    """(1, T, 2, h, w): remembered positions that have not moved."""
    if memory is None:
        return None
    _, frames, _, height, width = memory.keys.shape
    grid = torch.from_numpy(np.indices((height, width)).astype(np.float32)).to(memory.keys.device)
    return grid.expand(1, frames, 2, height, width)


def _result(frame: Frame, labels: torch.Tensor, plan: Any) -> FrameResult:
    return FrameResult(plan.labels_to_output(labels.cpu().numpy()), None, frame.stamp_ns, "", None, 0, False, plan)
