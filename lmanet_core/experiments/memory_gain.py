"""What each kind of memory gains on a labelled recording: the contenders, what the pictures suffer, and the measures, as code.

    frames → a condition (noise, lost blocks, a slow camera …) → every contender → accuracy, steadiness, what comes late

All contenders see the same frames. Steadiness goes along a flow that none of them uses (Farneback's, on the clean pictures).
The two halves of the recording are also reported by themselves, for constants that were chosen on the first one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.augment import lose_blocks
from lmanet_core.errors import ConfigError
from lmanet_core.evaluation.measures import Measures
from lmanet_core.evaluation.truth import open_truth, with_truth
from lmanet_core.experiments.clip_sets import add_noise
from lmanet_core.experiments.contenders import Averaged, Contender, SelfMemory, Streamed
from lmanet_core.experiments.paper import ExperimentResult
from lmanet_core.files import output_errors
from lmanet_core.frame import Frame
from lmanet_core.labels import UNLABELLED
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media import open_frames
from lmanet_core.metrics import FlowMatcher, Matches
from lmanet_core.metrics.temporal import Farneback
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import Runtime, prepare

_BLOCKS = 4  # lost in each frame
_DARK = 0.15
_BLUR_PX = 15  # of a camera that shakes sideways
_JPEG = 10
_SLOW_HZ = 5.0
PARTS = ("all", "first half", "second half")


def _motion_blur(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    return np.asarray(cv2.blur(image, (_BLUR_PX, 1)), np.uint8)


def _jpeg(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    packed = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, _JPEG))[1]
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


#: What the pictures suffer.
CONDITIONS: Mapping[str, Callable[[UInt8Array, np.random.Generator], UInt8Array]] = {
    "clean": lambda image, rng: image,
    "noise": lambda image, rng: add_noise(image[None], rng)[0],
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


def measure_gain(
    config: GainConfig,
    say: Callable[[str], None] = print,
    expect: Callable[[int], None] = lambda frames: None,
    advance: Callable[[], None] = lambda: None,
) -> ExperimentResult:
    """Compare, and write `memory-gain.json` with every figure into `config.out`, an existing folder.

    Args:
        config: see `GainConfig`.
        say: told the figures of each condition.
        expect: told how many frames there will be, conditions and seeds included.
        advance: called after each.

    Raises:
        LmanetError: recording, labels or weights are not usable.
    """
    runtime = prepare(load_model(config.weights), config.device, config.precision)
    control = None if config.control is None else prepare(load_model(config.control), config.device, config.precision)
    labels = runtime.config.labels
    mapping = LabelMapping.identity(labels) if config.mapping is None else load_mapping(config.mapping, labels)
    pairs = list(_read(config, mapping))
    record: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    seeds = {condition: config.seeds if condition in _RANDOM else 1 for condition in config.conditions}
    expect(sum(count * sum(1 for _ in _due(pairs, condition)) for condition, count in seeds.items()))
    for condition in config.conditions:
        runs = []
        for seed in range(seeds[condition]):
            contenders = _contenders(config, runtime, control)
            scores = {name: Score({part: Measures(labels, mapping) for part in PARTS}) for name in contenders}
            _run(pairs, condition, seed, contenders, scores, mapping, advance)
            runs.append({name: {part: score.figures(part) for part in PARTS} for name, score in scores.items()})
        record[condition], latest = runs, _rows(condition, runs)
        rows += latest
        say(f"{condition}: " + "; ".join(f"{row[1]} {row[2]:.2f} / {row[3]:.2f}" for row in latest))
    with output_errors(config.out):
        (config.out / "memory-gain.json").write_text(json.dumps(record, indent=1))
    columns = ("condition", "contender", "mIoU, %", "flicker, %", "TC, %", "mVC8, %", "changed, %", "worst class")
    title = f"Memory gain: {Path(config.recording).name}, {len(pairs)} frames, {Path(config.weights).name}"
    return ExperimentResult(title, columns, tuple(rows), plotted=(2, 3), unit="%")


def _read(config: GainConfig, mapping: LabelMapping) -> Iterator[tuple[Frame, UInt8Array | None]]:
    options: dict[str, Any] = {} if config.fps is None else {"fps": config.fps}
    with open_frames(Path(config.recording), **options) as source:
        truth = open_truth(config.labels, Path(config.recording), 0.02, mapping.encoding)
        yield from itertools.islice(with_truth(source, truth), config.max_frames)


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
    advance: Callable[[], None],
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
            right = count = 0
            if changed is not None and truth is not None:
                hit = mapping.map_prediction(result.labels)[changed] == mapping.map_truth(truth)[changed]
                right, count = int(hit.sum()), hit.size
            for part in ("all", half):
                scores[name].measures[part].add(result, truth, matches if part == "all" or number != len(kept) // 2 else None)
                scores[name].changed[part][0] += right
                scores[name].changed[part][1] += count
        before = (frame, truth)
        advance()


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
