"""Before the first frame of an evaluation is segmented: can these labels be used, and do they mean what they are said to mean?

The recording is read up to the first labels that belong to a frame, without segmenting it; a few of these frames are then
segmented by themselves. What cannot work is an error, what looks wrong is a warning in the log.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.evaluation.measures import Measures
from lmanet_core.evaluation.session import CameraInput
from lmanet_core.evaluation.truth import Truth, open_truth, with_truth
from lmanet_core.frame import Frame
from lmanet_core.labels import UNLABELLED, list_label_sets
from lmanet_core.labels.mapping import LabelMapping, list_mappings, load_mapping
from lmanet_core.stream.segmenter import VideoSegmenter

_LOGGER = logging.getLogger(__name__)
_QUIET = ("lmanet_core.media", "lmanet_core.evaluation.truth")  # what these say, they say again in the run itself
_SAMPLES = 3  # labelled frames that are looked at
_REACH = 50  # frames that are read to find more of them than one
_HOPELESS = 8  # labels that cannot be read, one after the other
_UNKNOWN = 0.01  # of the pixels: more values of no class than this are told
_BETTER = 0.2  # so much more of the pixels agree: another mapping is the right one
_CHANCE = 0.1  # agreement below this is told

Labelled = tuple[Frame, UInt8Array]


def check_inputs(
    cameras: Sequence[CameraInput],
    segmenter: VideoSegmenter,
    mapping: LabelMapping,
    tolerance_s: float = 0.02,
    max_frames: int | None = None,
) -> None:
    """Open each camera, and look at its first labels.

    Args:
        cameras: of the evaluation, with labels or without.
        segmenter: its runtime and settings are used, its stream is not touched.
        mapping: what the ids are said to mean.
        tolerance_s, max_frames: as of the evaluation.

    Raises:
        InputError, ConfigError: as `open_frames` does.
        InputError: there are no such labels, none belongs to a frame, none can be read, or they show another picture.
    """
    for camera in cameras:
        if camera.labels is None:
            camera.open(segmenter.config.bits).close()
            continue
        samples = _first_labelled(camera, segmenter.config.bits, mapping, tolerance_s, max_frames)
        ids = [ids for _, ids in samples]
        _warn_of_masks(camera, ids, mapping)
        if not _warn_of_unknown(camera, ids, mapping, segmenter):
            _warn_of_disagreement(camera, samples, mapping, segmenter)


def _first_labelled(
    camera: CameraInput, bits: int, mapping: LabelMapping, tolerance_s: float, max_frames: int | None
) -> list[Labelled]:
    assert camera.labels is not None
    samples: list[Labelled] = []
    with _quiet(), camera.open(bits) as source:
        truth = open_truth(camera.labels, camera.recording, tolerance_s, mapping.encoding)
        first_at, frames = 0, 0
        names: list[str] = []
        for frames, (frame, ids) in enumerate(itertools.islice(with_truth(source, truth), max_frames), 1):
            names = [*names, frame.name][:2]
            if ids is not None:
                first_at = first_at or frames
                samples.append((frame, ids))
            if len(samples) == _SAMPLES or (samples and frames - first_at >= _REACH):
                break
            if not samples and truth.damaged >= _HOPELESS:
                break
        if samples:
            return samples
        truth.finish()
        if truth.first_damage:
            raise InputError(f"{camera.name}: none of the labels can be read; the first: {truth.first_damage}")
        raise InputError(_describe_unmatched(camera, truth, tolerance_s, frames if max_frames == frames else None, names))


def _describe_unmatched(camera: CameraInput, truth: Truth, tolerance_s: float, limit: int | None, names: Sequence[str]) -> str:
    """Why no label belongs to a frame.

    Args:
        camera: whose labels they are.
        truth: the labels, read to the end.
        tolerance_s: how far a label's stamp may be from its frame's.
        limit: frames that were looked at, where `max_frames` ended it; None: all.
        names: of the first frames.
    """
    count = truth.unmatched + truth.damaged
    which = "a frame" if limit is None else f"one of the first {limit} frames (--max-frames)"
    if truth.examples:
        why = f"images are called {', '.join(names)}, …, label images {', '.join(truth.examples)}, …"
    else:
        why = f"stamps lie more than {tolerance_s:g} s apart (--tolerance)"
    return f"{camera.name}: none of {count} labels in {camera.labels} belongs to {which}: {why}"


def _warn_of_masks(camera: CameraInput, ids: Sequence[UInt8Array], mapping: LabelMapping) -> None:
    """Masks whose 255 is a class, and would be left out as void."""
    values = set(np.unique(np.concatenate([np.unique(one) for one in ids])).tolist())
    if values == {0, UNLABELLED} and mapping.truth_table[UNLABELLED] == UNLABELLED:
        _LOGGER.warning(
            "%s: the first labels hold 0 and 255 alone, and 255 counts as void by %s; where they are masks, give a --mapping "
            "that says what both mean, with ids: {0: …, 255: …}",
            camera.name, mapping.name,
        )  # fmt: skip


def _warn_of_unknown(camera: CameraInput, ids: Sequence[UInt8Array], mapping: LabelMapping, segmenter: VideoSegmenter) -> bool:
    counts = np.sum([np.bincount(one.ravel(), minlength=256) for one in ids], 0)
    share = _share_unknown(counts, mapping)
    void = float(counts[mapping.truth_table == UNLABELLED].sum() / counts.sum())
    if share <= _UNKNOWN:
        if void == 1.0:
            _LOGGER.warning(
                "%s: no pixel of the first labels is of a class (%s); is %s the right mapping? (--mapping)",
                camera.name, _values(counts), mapping.name,
            )  # fmt: skip
        return void == 1.0
    unknown = np.where(mapping.known, 0, counts)
    fitting = [name for name, other in _others(mapping, segmenter) if _share_unknown(counts, other) < _UNKNOWN]
    _LOGGER.warning(
        "%s: %.0f %% of the label pixels hold values that %s does not know (%s); they count as void. %s",
        camera.name, 100 * share, mapping.name, _values(unknown),
        f"--mapping {' or '.join(fitting)} knows them all" if fitting else "Say with --mapping what they mean",
    )  # fmt: skip
    return True


def _warn_of_disagreement(
    camera: CameraInput, samples: Sequence[Labelled], mapping: LabelMapping, segmenter: VideoSegmenter
) -> None:
    single = VideoSegmenter(segmenter.runtime, replace(segmenter.config, memory=False, label_memory=False))
    others = _others(mapping, segmenter)
    measures = {name: Measures(segmenter.labels, one) for name, one in (("", mapping), *others)}
    for frame, ids in samples:
        result = single.step(frame.image, frame.stamp_ns, frame.frame_id)
        for one in measures.values():
            one.add(result, ids)
    accuracy = {name: one.matrix.accuracy() for name, one in measures.items() if one.matrix.counts.any()}
    given = accuracy.pop("", 0.0)
    best = max(accuracy, key=lambda name: accuracy[name], default="")
    if best and accuracy[best] >= given + _BETTER:
        _LOGGER.warning(
            "%s: labels and weights agree on %.1f %% of the pixels of the first labels by %s, and on %.1f %% with "
            "--mapping %s; is the mapping right?",
            camera.name, 100 * given, mapping.name, 100 * accuracy[best], best,
        )  # fmt: skip
    elif given < _CHANCE:
        _LOGGER.warning(
            "%s: labels and weights agree on %.1f %% of the pixels of the first labels: is the mapping right (%s), do these "
            "weights know such pictures, and at this size (--network-size)?",
            camera.name, 100 * given, mapping.name,
        )  # fmt: skip


def _others(mapping: LabelMapping, segmenter: VideoSegmenter) -> list[tuple[str, LabelMapping]]:
    """Mappings that ship and that these weights could go by, those of label sets before those of other data."""
    found = []
    for name in sorted(list_mappings(), key=lambda name: name.partition("_")[0] not in list_label_sets()):
        with contextlib.suppress(ConfigError):
            other = load_mapping(name, segmenter.labels)
            if not np.array_equal(other.truth_table, mapping.truth_table) or other.classes != mapping.classes:
                found.append((name, other))
    return found


def _share_unknown(counts: npt.NDArray[np.int64], mapping: LabelMapping) -> float:
    return float(counts[~mapping.known].sum() / counts.sum())


def _values(counts: npt.NDArray[np.int64]) -> str:
    """The most frequent values."""
    most = [int(value) for value in np.argsort(-counts, kind="stable")[:5] if counts[value]]
    return ", ".join(map(str, sorted(most))) + (", …" if int((counts > 0).sum()) > len(most) else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _QUIET]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
