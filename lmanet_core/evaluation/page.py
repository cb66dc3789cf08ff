"""`report.html`: one self-contained page made of summary.json, frames.jsonl and the pictures beside them. No script.

The page is a function of the report's folder, so it can be made anew at any time (`write_page`), and of nothing else. This
module prepares what is shown; `page.html.j2` says where, `page.css` how.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lmanet_core.evaluation.plots import Timeline, draw_confusion, draw_timeline
from lmanet_core.evaluation.report import QUALITY, WAYS, read_frames
from lmanet_core.evaluation.verdict import Check
from lmanet_core.files import output_errors

_HERE = Path(__file__).parent
#: Figure → its name, and what it is.
_QUALITY = {
    "accuracy": ("Accuracy", "labelled pixels with the right class"),
    "miou": ("mIoU", "mean over the classes that occur in the truth"),
    "miou_union": ("mIoU, predicted classes too", "mean over the classes that occur in truth or prediction"),
    "boundary_miou": ("mIoU at borders", "only pixels near a border of the truth"),
    "mvc_8": ("Video consistency (mVC₈)", "constant over 8 frames where the truth is"),
    "tc": ("Temporal consistency (TC)", "mIoU with the next frame along the flow"),
    "flicker": ("Flicker", "pixels that look the same and change their label; lower is better"),
    "agreement": ("Agreement with the frame before", "same label along the flow"),
}
_CURVES = (  # key in frames.jsonl, heading, pictures that are marked on it
    ("accuracy", "Accuracy of each frame", "worst"),
    ("agreement", "Agreement with the frame before, along the optical flow", "flickering"),
    ("latency_ms", "Latency", ""),
)
_MAX_TIMELINES = 4  # cameras with curves of their own
_MAX_DROPS = 120  # runs of dropped frames that are listed
_MAX_STEP_S = 2.0  # a longer pause, or a clock that jumps, is drawn as this


def write_page(folder: Path) -> Path:
    """Make the page of a report.

    Args:
        folder: holds summary.json, frames.jsonl and pictures/.

    Returns:
        The page's path.

    Raises:
        OutputError: it cannot be written.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    page = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {
        "share": _share,
        "direction": _direction,
        "way": lambda variant: WAYS[variant],
        "spaced": lambda text: text.replace("_", " "),
        "listed": lambda values: ", ".join(f"{name} {value}" for name, value in values.items() if value is not None),
        "embed": lambda file: base64.b64encode((folder / file).read_bytes()).decode(),
    }
    path = folder / "report.html"
    html = page.get_template("page.html.j2").render(_prepare(folder, summary))
    with output_errors(path):
        path.write_text(html + "\n", encoding="utf-8")
    return path


def _prepare(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows besides the summary itself."""
    main, *others = summary["variants"]
    return {
        **summary,
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "title": ", ".join(Path(name).name for name in summary["paths"]["inputs"]),
        "checks": sorted((Check(**check) for check in summary["verdict"]["checks"]), key=lambda check: check.passed),
        "main": summary["runs"][main],
        "others": others,
        "quality": [{"key": key, "name": _QUALITY[key][0], "about": _QUALITY[key][1]} for key in QUALITY],
        "timelines": list(_timelines(folder, summary)),
        "cameras_left_out": len(summary["cameras"]) - _MAX_TIMELINES,
        "names": summary["classes"],
        "classes": list(_classes(summary)),
        "since_reset": list(_since_reset(summary)),
        "pictures": {"worst": [], "flickering": [], "attention": [], "videos": {}, **summary["pictures"]},
        "confusion": Markup(draw_confusion(summary["classes"], summary["runs"][main]["confusion"])),
        "dropped": _dropped(folder, summary),
    }


def _timelines(folder: Path, summary: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """Heading and SVG of each curve of the first cameras."""
    for camera in list(summary["cameras"])[:_MAX_TIMELINES]:
        rows = [row for row in read_frames(folder) if row["camera"] == camera]
        for name, heading, marks in _CURVES:
            moments = summary["pictures"].get(marks, [])
            line = _timeline(rows, name, [way for way in summary["variants"][1:] if way == "off"], moments, marks)
            is_time = name == "latency_ms"
            drawn = draw_timeline(line, f"{heading} over time", " ms" if is_time else "", zero=is_time)
            if drawn:
                yield heading + (f" ({camera})" if len(summary["cameras"]) > 1 else ""), Markup(drawn)


def _timeline(
    rows: Sequence[Mapping[str, Any]], name: str, others: Sequence[str], moments: Sequence[Mapping[str, Any]], kind: str
) -> Timeline:
    line = Timeline(curves={"main": [], **{other: [] for other in others}} if name != "latency_ms" else {"main": []})
    clock, before = 0.0, None
    for row in rows:
        if before is not None:
            step = (row["stamp_ns"] - before) / 1e9
            clock += step if 0.0 <= step <= _MAX_STEP_S else (_MAX_STEP_S if step > 0 else 0.1)
        before = row["stamp_ns"]
        if row.get("dropped"):
            line.drops.append(clock)
            continue
        line.times.append(clock)
        for curve, values in line.curves.items():
            if name == "latency_ms":
                values.append(row.get("latency_ms", row["timings_ms"].get("total")))
            else:
                values.append((row if curve == "main" else row[curve])[name])
        if row["reset"] is not None:
            line.resets.append((clock, row["reset"].replace("_", " ")))
        for rank, moment in enumerate(moments):
            if moment["frame"]["number"] == row["number"]:
                line.marks.append((clock, f"frame {row['name']}", f"#{kind}-{rank}"))
    line.curves = {{"main": "on"}.get(curve, curve): values for curve, values in line.curves.items()}
    return line


def _classes(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Classes with an IoU, the main variant's first."""
    for name, color in zip(summary["classes"], summary["colors"], strict=True):
        iou = [summary["runs"][variant]["iou"][name] for variant in summary["variants"] if variant in ("on", "off")]
        if any(value is not None for value in iou):
            yield {"name": name, "color": color, "iou": iou}


def _since_reset(summary: Mapping[str, Any]) -> Iterator[tuple[str, list[float | None]]]:
    """Frames since the reset in words, and the accuracy of each variant."""
    groups = [summary["runs"][variant]["since_reset"] for variant in summary["variants"]]
    bounds = [group["from"] for group in groups[0]]
    for first, after, entries in zip(bounds, [*bounds[1:], None], zip(*groups, strict=True), strict=True):
        if entries[0]["pixels"]:
            span = f"{first} and more" if after is None else f"{first}" if after == first + 1 else f"{first}–{after - 1}"
            yield span, [entry["accuracy"] for entry in entries]


def _dropped(folder: Path, summary: Mapping[str, Any]) -> str:
    """Which frames were dropped, as runs of neighbours."""
    if not summary["figures"]["dropped"]:
        return ""
    runs: list[list[str]] = []
    after_drop: dict[str, bool] = {}
    for row in read_frames(folder):
        name = row["name"] if len(summary["cameras"]) == 1 else f"{row['camera']} {row['name']}"
        if row.get("dropped"):
            if after_drop.get(row["camera"]) and runs:
                runs[-1][1] = name
            else:
                runs.append([name, name])
        after_drop[row["camera"]] = bool(row.get("dropped"))
    shown = [first if first == last else f"{first}–{last}" for first, last in runs[:_MAX_DROPS]]
    more = f" and {len(runs) - len(shown)} more, in frames.jsonl" if len(runs) > len(shown) else ""
    return ", ".join(shown) + more


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def _direction(name: str, gain: float) -> str:
    """CSS class of a change."""
    if abs(gain) < 5e-5:
        return ""
    return "good" if (gain < 0 if name == "flicker" else gain > 0) else "bad"
