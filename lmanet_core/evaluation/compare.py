"""Two reports side by side: what changed, by how much, and whether for the worse by more than a tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmanet_core.errors import InputError

_LOWER_IS_BETTER = ("flicker", "latency", "peak_memory_mb", "dropped", "skipped", "labels_unmatched")
_HIGHER_IS_BETTER = (
    "accuracy", "miou", "boundary_miou", "mvc", "tc", "agreement", "iou", "streaming", "reproduced", "frames_per_second",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both reports.

    Attributes:
        figure: its name.
        before, after: None where a report does not have it.
        worse: whether it got worse by more than the tolerance, or is no longer measured.
    """

    figure: str
    before: float | None
    after: float | None
    worse: bool

    @property
    def difference(self) -> float | None:
        """After minus before."""
        return None if self.before is None or self.after is None else self.after - self.before


def load_report(path: Path) -> dict[str, Any]:
    """A report's summary.

    Args:
        path: the report's folder, or its summary.json.

    Raises:
        InputError: not a report.
    """
    file = path / "summary.json" if path.is_dir() else path
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        for part in ("figures", "speed"):
            for name, value in summary[part].items():
                if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
                    raise TypeError(f"{part}: {name} must be a number, got {value!r:.40}")
        if not isinstance(summary["run"], dict) or not isinstance(summary["hash"], str):
            raise TypeError("run must be an object, and hash a text")
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: wanted a report of lmanet evaluate (a folder with summary.json): {error}") from error
    return dict(summary)


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.005, speed_tolerance: float = 0.1
) -> list[Change]:
    """Every figure of two summaries.

    Args:
        before, after: as `load_report` gives them.
        tolerance: of shares (0–1) and counts: how much worse is still the same.
        speed_tolerance: of times and memory, as a share of the figure before.
    """
    changes = []
    for part, relative in (("figures", False), ("speed", True)):
        for figure in dict.fromkeys((*before[part], *after[part])):
            old, new = before[part].get(figure), after[part].get(figure)
            if old is None and new is None:
                continue
            allowed = speed_tolerance * abs(old or 0.0) if relative else tolerance
            changes.append(Change(figure, old, new, _is_worse(figure, old, new, allowed)))
    return changes


def list_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What else differs: the flow of the measures, weights, inputs, settings, versions, in words."""
    flows = before.get("flow"), after.get("flow")
    if flows[0] != flows[1]:
        yield f"flow, so that measures over time cannot be compared: {flows[0]} → {flows[1]}"
    for key, old, new in _differing("", before["run"], after["run"]):
        yield f"{key}: {old} → {new}"


def _is_worse(figure: str, old: float | None, new: float | None, allowed: float) -> bool:
    direction = _direction(figure)
    if direction == 0 or old is None:
        return False
    return new is None or direction * (old - new) > allowed


def _direction(figure: str) -> int:
    """1 where higher is better, −1 where lower is, 0 where neither: counts of frames and resets."""
    if figure.startswith(("gain.", "off.")):
        return 0  # follows from the others; the single frame is the yardstick, not the product
    if figure.startswith(_LOWER_IS_BETTER):
        return -1
    return int(figure.startswith(_HIGHER_IS_BETTER))


def _differing(prefix: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differing(f"{prefix}.{key}" if prefix else str(key), old.get(key), new.get(key))
    elif old != new:
        yield prefix, old, new
