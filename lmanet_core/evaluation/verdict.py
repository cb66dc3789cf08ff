"""Thresholds in, pass or fail out.

    miou: ">= 0.60"
    iou.road: ">= 0.9"
    flicker: "<= 0.02"
    latency_p95_ms: "<= 80"

A figure that was not measured fails: a recording without labels cannot pass a threshold on accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lmanet_core.errors import ConfigError, suggest_name

_COMPARISONS = {
    ">=": lambda got, limit: got >= limit,
    "<=": lambda got, limit: got <= limit,
    ">": lambda got, limit: got > limit,
    "<": lambda got, limit: got < limit,
    "==": lambda got, limit: got == limit,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """One line of a file of thresholds, such as `miou: ">= 0.60"`."""

    figure: str
    comparison: str
    limit: float

    def __str__(self) -> str:
        return f"{self.figure} {self.comparison} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Check(Threshold):
    """What came of a threshold; `got` is None where the figure was not measured."""

    got: float | None
    passed: bool

    def describe(self) -> str:
        """In words: `miou 0.457, wanted >= 0.6`."""
        got = "was not measured" if self.got is None else f"{self.got:.4g}"
        return f"{self.figure} {got}, wanted {self.comparison} {self.limit:g}"


def read_thresholds(path: Path) -> tuple[Threshold, ...]:
    """Read a YAML file of thresholds.

    Raises:
        ConfigError: not readable, empty, or a line that is not `figure: "<comparison> <number>"`.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read thresholds {path}: {error}") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"thresholds {path}: wanted lines such as 'miou: \">= 0.60\"', got {data!r}")
    thresholds = []
    for figure, wanted in data.items():
        match = re.fullmatch(r"\s*(>=|<=|==|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*", str(wanted))
        try:
            limit = float(match[2]) if match else None
        except ValueError:
            limit = None
        if match is None or limit is None:
            raise ConfigError(f'thresholds {path}: {figure} must be a comparison such as ">= 0.60" or "<= 80", got {wanted!r}')
        thresholds.append(Threshold(str(figure), match[1], limit))
    return tuple(thresholds)


def check_names(thresholds: Sequence[Threshold], figures: Sequence[str]) -> None:
    """Raise ConfigError where a threshold is on a figure that no report has."""
    for threshold in thresholds:
        if threshold.figure not in figures:
            hint = suggest_name(threshold.figure.lower(), figures, "figures are")
            raise ConfigError(f"threshold on an unknown figure {threshold.figure!r}{hint}")


def judge(thresholds: Sequence[Threshold], figures: Mapping[str, float | None]) -> dict[str, Any]:
    """The verdict as plain data.

    Args:
        thresholds: see `read_thresholds`.
        figures: by name; None and missing ones fail.

    Returns:
        `passed` (None where there are no thresholds) and `checks`, one `Check` as a dict for each.
    """
    checks = [_check(threshold, figures.get(threshold.figure)) for threshold in thresholds]
    passed = all(check.passed for check in checks) if checks else None
    return {"passed": passed, "checks": [asdict(check) for check in checks]}


def _check(threshold: Threshold, got: float | None) -> Check:
    passed = got is not None and bool(_COMPARISONS[threshold.comparison](got, threshold.limit))
    return Check(threshold.figure, threshold.comparison, threshold.limit, got, passed)
