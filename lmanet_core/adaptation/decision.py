"""Which of the adapted weights take the place of the old ones, if any."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmanet_core.adaptation.config import AdaptConfig
from lmanet_core.adaptation.gate import LEAST_GAIN, Condition, Judged, compare, guard, judge_weights, tell_of_guarded
from lmanet_core.adaptation.progress import Progress
from lmanet_core.adaptation.selection import Survey
from lmanet_core.files import output_errors, replace_file

STATISTICS, GAINS, ADAPTED = "statistics.safetensors", "gains.safetensors", "adapted.safetensors"
REPORTS = ("after", "after_statistics")  # on the candidates, the student first where there is one
WRITES = (
    "teacher", "training", "before", *REPORTS, STATISTICS, GAINS, ADAPTED, "statistics.json", "gains.json", "summary.json",
)  # fmt: skip


@dataclass(frozen=True)
class Adaptation:
    """What came of it.

    Attributes:
        folder: see the module.
        weights: the adapted ones; None where they were refused.
        conditions: what was asked of them.
        before, after: what was measured.
        report: folder of the report after.
    """

    folder: Path
    weights: Path | None
    conditions: tuple[Condition, ...]
    before: Judged
    after: Judged
    report: Path

    @property
    def adopted(self) -> bool:
        """Whether the adapted weights may take the place of the old ones."""
        return self.weights is not None


class HeldOut:
    """What is judged: the ends of the recordings, or others.

    Args:
        config: see `AdaptConfig`.
        surveys: of the recordings that are learned from.
        judged: of those that are only judged; none: the ends of the former.

    Attributes:
        cameras: recordings, each from where it is judged on.
        frames: so many of them, as far as known.
    """

    def __init__(self, config: AdaptConfig, surveys: Sequence[Survey], judged: Sequence[Survey]) -> None:
        share = 1.0 if judged else config.held_out
        chosen = judged or surveys
        starts = [0.0 if judged else seen.held_out_from_s(share) for seen in chosen]
        self.cameras = [replace(seen.camera, start_s=start) for seen, start in zip(chosen, starts, strict=True)]
        self.frames = sum(min(config.judged_frames, round(share * len(seen.stamps_ns))) for seen in chosen)


def decide(
    config: AdaptConfig, classes: Sequence[str], weights: str, candidates: Sequence[str], held: HeldOut, progress: Progress
) -> Adaptation:
    """Compare the candidates with the weights as they were, and write what passes to `ADAPTED`.

    Of several that pass it is the student, which flickers less, unless labels say that those without one are better: by
    `LEAST_GAIN` of mIoU. (What labels tell of mirrored pictures favours the student, which learned from mirrored pictures.)

    Args:
        config: see `AdaptConfig`.
        classes: names of the weights' classes.
        weights: as they were.
        candidates: adapted ones, the student first where there is one.
        held: what is judged.
        progress: of judging.

    Raises:
        LmanetError: see `judge_weights`.
    """
    out = Path(config.out)
    with progress("judging the weights as they were") as advance:
        advance.expect(2 * held.frames)
        before = judge_weights(weights, held.cameras, config, anew(out / "before"), advance)
    known = tell_of_guarded(weights, config)
    unchanged = Condition("statistics of the recordings, by which labels tell more of mirrored pictures", None, None, False)
    if not candidates:
        return Adaptation(out, None, (unchanged,), before, before, out / "before")
    refused: list[Adaptation] = []
    passed: list[tuple[str, Adaptation]] = []
    for report, candidate in zip(REPORTS, candidates, strict=False):
        with progress("judging the adapted weights") as advance:
            advance.expect(2 * held.frames)
            after = judge_weights(candidate, held.cameras, config, anew(out / report), advance)
        conditions = tuple(compare(before, after, classes))
        conditions += tuple(guard(known, tell_of_guarded(candidate, config)))
        judged = Adaptation(out, None, conditions, before, after, out / report)
        if not all(condition.passed for condition in conditions):
            refused.append(judged)
            continue
        passed.append((candidate, judged))
        if after.miou is None:
            break
    if not passed:
        return refused[0]
    adopted, result = passed[0]
    for candidate, other in passed[1:]:
        if (other.after.miou or 0.0) - (result.after.miou or 0.0) >= LEAST_GAIN:
            adopted, result = candidate, other
    with replace_file(out / ADAPTED) as file:
        shutil.copyfile(adopted, file)
    return replace(result, weights=out / ADAPTED)


def anew(folder: Path) -> Path:
    """A folder of this adaptation, without what a run that was killed left in it."""
    assert folder.name in WRITES
    if folder.is_dir():
        with output_errors(folder):
            shutil.rmtree(folder)
    return folder
