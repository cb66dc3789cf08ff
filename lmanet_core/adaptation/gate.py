"""Whether adapted weights may take the place of those they came from: judged on frames that nothing was learned from.

What needs no truth: steadiness along an optical flow that neither the memories nor the training use, how much labels tell of
those of mirrored pictures, which classes are found, and whether the network is surer than mirrored pictures bear out. Where
there are labels, mIoU decides instead of what labels tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lmanet_core.adaptation.config import AdaptConfig
from lmanet_core.adaptation.mirror import MirrorAgreement, measure_mirror_agreement
from lmanet_core.arrays import UInt8Array
from lmanet_core.evaluation.run import EvaluationConfig, evaluate
from lmanet_core.evaluation.session import CameraInput
from lmanet_core.geometry import Size
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

LEAST_GAIN = 0.01  # of temporal consistency or mIoU, or share of the information, to be called better
_LEAST_FLICKER_GAIN = 0.1  # share of the flicker that goes, likewise
_TC_MARGIN = 0.005
_FLICKER_MARGIN = 1.1  # times what it was …
_STEADIER = 0.02  # … unless temporal consistency gains this: labels that find more classes have more borders that flicker
_OVERCONFIDENCE = 0.03  # that may be added, and that is none yet
_COMMON = 0.01  # share of the pixels from which on a class must not vanish …
_VANISHED = 0.2  # … to this share of what it had


@dataclass(frozen=True)
class Judged:
    """What weights are worth on the frames that are judged.

    Attributes:
        mirror: what the network knows by itself.
        flicker, tc: as the product runs, 0–1.
        single_flicker, single_tc: of single frames.
        miou, single_miou: against labels; None without.
        iou: of each class, as the product runs; None without labels.
    """

    mirror: MirrorAgreement
    flicker: float | None
    tc: float | None
    single_flicker: float | None
    single_tc: float | None
    miou: float | None = None
    single_miou: float | None = None
    iou: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Condition:
    """One thing that adapted weights must do.

    Attributes:
        what: in words.
        before, after: what was measured.
        passed: whether it may be.
    """

    what: str
    before: float | None
    after: float | None
    passed: bool

    def describe(self) -> str:
        """In a line."""
        shown = (f"{value:.4f}" if value is not None else "not measured" for value in (self.before, self.after))
        return f"{self.what}: {' → '.join(shown)}{'' if self.passed else ': refused'}"


def judge_weights(
    weights: Path | str,
    cameras: Sequence[CameraInput],
    config: AdaptConfig,
    out: Path,
    advance: Callable[[], None] = lambda: None,
) -> Judged:
    """Evaluate weights on the frames that are judged; the report goes to `out`.

    Args:
        weights: as `load_model` takes them.
        cameras: recordings, each from where it is judged on.
        config: see `AdaptConfig`.
        out: folder of the report.
        advance: called twice for each frame.

    Raises:
        LmanetError: as `evaluate`.
    """
    model = load_model(weights)
    segmenter = VideoSegmenter(prepare(model, runtime_device(config)), SegmenterConfig(network_size=config.network_size))
    report = evaluate(
        EvaluationConfig(
            inputs=tuple(dict.fromkeys(str(camera.recording) for camera in cameras)),
            out=out,
            weights=Path(weights) if Path(weights).is_file() else None,
            segmenter=segmenter,
            weights_kind=model.source,
            labels=listed(config.labels),
            mapping=config.mapping or None,
            topics=listed(config.topic),
            fps=config.fps,
            starts_s=tuple(camera.start_s for camera in cameras),
            max_frames=config.judged_frames,
            flow="farneback",
        ),
        advance,
    )
    mirror = measure_mirror_agreement(segmenter.runtime, _judged_images(cameras, segmenter, config.judged_frames), advance)
    figures, iou = report.figures, report.summary["runs"][report.summary["variants"][0]]["iou"]
    single = "off." if "off" in report.summary["variants"][1:] else ""
    return Judged(
        mirror,
        figures["flicker"],
        figures["tc"],
        figures[f"{single}flicker"],
        figures[f"{single}tc"],
        figures["miou"],
        figures[f"{single}miou"],
        dict(iou) if config.labels else None,
    )


def compare(before: Judged, after: Judged, classes: Sequence[str]) -> list[Condition]:
    """Everything that adapted weights must do to be adopted; they are where all of it passed.

    Args:
        before: the weights as they were.
        after: as they are now.
        classes: names of the weights' classes.
    """
    conditions = [
        _no_more("flicker", before.flicker, after.flicker, _flicker_allowed(before, after)),
        _no_less("temporal consistency", before.tc, after.tc, _TC_MARGIN),
    ]
    own = before.mirror.information, after.mirror.information
    if before.miou is not None:
        conditions.append(_no_less("mIoU", before.miou, after.miou, 0.0))
    else:
        conditions.append(_no_less("what labels tell of mirrored pictures, bits", *own, 0.0))
        vanished = [
            name
            for name, was, now in zip(classes, before.mirror.shares, after.mirror.shares, strict=True)
            if was >= _COMMON and now < _VANISHED * was
        ]
        conditions.append(Condition(_vanished(vanished), 0.0, float(len(vanished)), not vanished))
    better = [
        _gains(after.flicker, before.flicker, _LEAST_FLICKER_GAIN * (before.flicker or 0.0)),
        _gains(before.tc, after.tc, LEAST_GAIN),
        _gains(before.miou, after.miou, LEAST_GAIN),
        before.miou is None and _gains(*own, LEAST_GAIN * before.mirror.information),
    ]
    conditions.append(Condition("measures that became better", 0.0, float(sum(better)), any(better)))
    surer = (before.mirror.overconfidence, after.mirror.overconfidence)
    allowed = max(surer[0] + _OVERCONFIDENCE, _OVERCONFIDENCE)
    conditions.append(_no_more("surer than mirrored pictures bear out", *surer, allowed))
    return conditions


def tell_of_guarded(weights: Path | str, config: AdaptConfig) -> dict[str, float]:
    """What weights know of each recording of `config.guard`, see `MirrorAgreement.information`; at the size usual for it.

    Raises:
        LmanetError: recordings or weights are not usable.
    """
    recordings = listed(config.guard)
    segmenter = VideoSegmenter(prepare(load_model(weights), runtime_device(config))) if recordings else None
    told = {}
    for recording in recordings:
        assert segmenter is not None
        images = _judged_images([CameraInput("guarded", Path(recording), fps=config.fps)], segmenter, config.judged_frames)
        told[recording] = measure_mirror_agreement(segmenter.runtime, images).information
    return told


def guard(before: Mapping[str, float], after: Mapping[str, float]) -> list[Condition]:
    """What adapted weights must still know of recordings that they were not adapted to, as `tell_of_guarded` tells it."""
    return [
        _no_less(
            f"{Path(recording).name}: what labels tell of mirrored pictures, bits", was, after[recording], LEAST_GAIN * was
        )
        for recording, was in before.items()
    ]


def runtime_device(config: AdaptConfig) -> str:
    """The device as `prepare` takes it."""
    return {"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[config.accelerator]


def listed(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _vanished(names: Sequence[str]) -> str:
    return f"classes that vanished ({', '.join(names)})" if names else "classes that vanished"


def _judged_images(cameras: Sequence[CameraInput], segmenter: VideoSegmenter, limit: int) -> Iterator[UInt8Array]:
    for camera in cameras:
        with camera.open(bits=16) as source:
            for frame in islice(source, limit):
                plan = segmenter.plan_for(Size(*frame.image.shape[:2]), frame.pixel_aspect)
                yield plan.to_network(frame.image)


def _gains(before: float | None, after: float | None, least: float) -> bool:
    """Whether a measure grew by this much or more."""
    return before is not None and after is not None and after > before and after - before >= least


def _no_less(what: str, before: float | None, after: float | None, margin: float) -> Condition:
    if before is None or after is None:  # nothing to compare, such as no pair of frames
        return Condition(what, before, after, before is None)
    return Condition(what, before, after, after >= before - margin)


def _no_more(what: str, before: float | None, after: float | None, allowed: float) -> Condition:
    if before is None or after is None:
        return Condition(what, before, after, before is None)
    return Condition(what, before, after, after <= allowed)


def _flicker_allowed(before: Judged, after: Judged) -> float:
    if before.tc is not None and after.tc is not None and after.tc >= before.tc + _STEADIER:
        return 1.0
    return _FLICKER_MARGIN * (before.flicker or 0.0)
