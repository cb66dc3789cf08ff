"""`report.html`: one self-contained page made of summary.json, frames.jsonl and the pictures beside them. No script.

The page is a function of the report's folder, so it can be made anew at any time (`write_page`), and of nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lmanet_core.evaluation.plots import Timeline, draw_confusion, draw_timeline
from lmanet_core.evaluation.report import QUALITY, read_frames
from lmanet_core.evaluation.verdict import Check
from lmanet_core.media.sinks import output_errors

_STYLE = Path(__file__).with_name("page.css")
_NAMES = {
    "accuracy": "Accuracy",
    "miou": "mIoU",
    "boundary_miou": "mIoU at borders",
    "mvc_8": "Video consistency (mVC₈)",
    "tc": "Temporal consistency (TC)",
    "flicker": "Flicker",
    "agreement": "Agreement with the frame before",
}
_ABOUT = {
    "accuracy": "labelled pixels with the right class",
    "miou": "mean over the classes that occur",
    "boundary_miou": "only pixels near a border of the truth",
    "mvc_8": "constant over 8 frames where the truth is",
    "tc": "mIoU with the next frame along the flow",
    "flicker": "pixels that look the same and change their label; lower is better",
    "agreement": "same label along the flow",
}
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
    path = folder / "report.html"
    html = "".join(_page(folder, summary))
    with output_errors(path):
        path.write_text(html, encoding="utf-8")
    return path


def _page(folder: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    title = ", ".join(Path(name).name for name in summary["paths"]["inputs"])
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: evaluation</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
    )
    yield _header(summary, title)
    yield _figures(summary)
    yield _over_time(folder, summary)
    yield '<div class="two">'
    yield _classes(summary)
    yield _since_reset(summary)
    yield "</div>"
    yield _moments(summary, folder, "worst", "Worst moments", _worst_words(summary))
    flickering = "Where most pixels changed their label although the picture did not; changed pixels are pink."
    yield _moments(summary, folder, "flickering", "Most flickering moments", flickering)
    yield _attention(summary, folder)
    yield _confusion(summary)
    yield _latency(summary)
    yield _dropped(folder, summary)
    yield _about(summary)
    version = escape(summary["run"]["versions"]["lmanet_ros"])
    yield f"<footer>lmanet_ros {version} · hash <code>{summary['hash']}</code></footer>"
    yield "</main></body></html>\n"


def _header(summary: Mapping[str, Any], title: str) -> str:
    passed = summary["verdict"]["passed"]
    word, kind = {True: ("passed", "passed"), False: ("failed", "failed"), None: ("no thresholds given", "")}[passed]
    checks = summary["verdict"]["checks"]
    missed = sum(not check["passed"] for check in checks)
    if missed:
        word += f": {missed} of {len(checks)} thresholds missed"
    lines = "".join(
        f"<li{'' if check['passed'] else ' class=miss'}>{escape(Check(**check).describe())}</li>"
        for check in sorted(checks, key=lambda check: check["passed"])
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in list_notes(summary))
    return (
        f'<header class="top {kind}"><div class="stamp">{escape(word)}</div><h1>{escape(title)}</h1>'
        f'<p class="soft">{escape(_what_ran(summary))}</p>'
        f"{f'<ul class=checks>{lines}</ul>' if lines else ''}{f'<ul class=notes>{notes}</ul>' if notes else ''}</header>"
    )


def _what_ran(summary: Mapping[str, Any]) -> str:
    run, figures = summary["run"], summary["figures"]
    cameras = summary["cameras"]
    frames = f"{figures['frames']} frames" + (f" of {len(cameras)} cameras" if len(cameras) > 1 else "")
    weights = f"{run['weights']['file']} ({run['weights']['kind']})"
    return f"{weights}, {frames}, {run['mode']}, on {run['device']} in {run['precision']}"


def list_notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the figures, in words."""
    figures, notes = summary["figures"], []
    if not summary["complete"]:
        notes.append("The run was broken off; figures are of what was done by then.")
    if not figures["labelled_frames"]:
        notes.append(
            "No labels: accuracy is unknown, and steadiness alone means little, for a constant output is perfectly steady."
        )
    elif figures["labelled_frames"] < figures["frames"]:
        notes.append(f"{figures['labelled_frames']} of {figures['frames']} frames have labels.")
    if figures["unjudged"]:
        notes.append(
            f"On {100 * figures['unjudged']:.2f} % of the labelled pixels the prediction is a class that the mapping counts as "
            "void; they are not judged."
        )
    if figures["labels_unmatched"]:
        notes.append(f"{figures['labels_unmatched']} labels belong to no frame.")
    if figures["skipped"]:
        notes.append(f"{figures['skipped']} images were damaged and skipped.")
    if summary["unknown_label_values"]:
        values = ", ".join(summary["unknown_label_values"])
        notes.append(f"Label images hold values that nothing is known of ({values}); they count as void.")
    memory = summary["run"].get("memory_frames") or 0
    for name, camera in summary["cameras"].items():
        if memory and camera["frames"] and camera["longest_memory_frames"] < memory:
            notes.append(f"{name}: the memory of {memory} frames never was full (at most {camera['longest_memory_frames']}).")
    if figures["dropped"]:
        share = figures["dropped"] / (figures["dropped"] + figures["frames"])
        notes.append(f"{figures['dropped']} frames were dropped ({100 * share:.0f} %).")
    return notes


def _figures(summary: Mapping[str, Any]) -> str:
    figures, speed, variants = summary["figures"], summary["speed"], summary["variants"]
    tiles = [
        ("mIoU", _share(figures["miou"])),
        ("accuracy", _share(figures["accuracy"])),
        ("flicker", _share(figures["flicker"])),
    ]
    for name in ("streaming_miou", "reproduced"):
        if figures.get(name) is not None:
            tiles.append(
                ({"streaming_miou": "streaming mIoU", "reproduced": "reproduced offline"}[name], _share(figures[name]))
            )
    tiles += [("latency p95", _milliseconds(speed["latency_p95_ms"])), ("resets", str(figures["resets"]))]
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in tiles)
    head = ["", *(f"memory {variant}" for variant in variants), *(["change"] if len(variants) > 1 else [])]
    rows = []
    for name in QUALITY:
        if figures[name] is None:
            continue
        cells = [f"{escape(_NAMES[name])}<br><small>{escape(_ABOUT[name])}</small>", _share(figures[name])]
        for variant in variants[1:]:
            cells += [_share(figures[f"{variant}.{name}"]), _change(name, figures[f"gain.{name}"])]
        rows.append(cells)
    return f'<section class="short"><h2>Figures</h2><div class="tiles">{boxes}</div>{_table(head, rows)}</section>'


def _over_time(folder: Path, summary: Mapping[str, Any]) -> str:
    parts = []
    others = summary["variants"][1:]
    key = "".join(f'<span><i class="{v}"></i>memory {v}</span>' for v in summary["variants"])
    key += '<span><i class="reset"></i>memory cleared</span><span><i class="dot"></i>moment below</span>'
    if summary["figures"]["dropped"]:
        key += '<span><i class="drop"></i>dropped</span>'
    cameras = list(summary["cameras"])[:_MAX_TIMELINES]
    curves = (
        ("accuracy", "Accuracy of each frame", "worst"),
        ("agreement", "Agreement with the frame before, along the optical flow", "flickering"),
        ("latency_ms", "Latency", ""),
    )
    for camera in cameras:
        rows = [row for row in read_frames(folder) if row["camera"] == camera]
        for name, heading, marks in curves:
            line = _timeline(rows, name, others, summary.get("pictures", {}).get(marks, []), marks)
            drawn = draw_timeline(
                line, f"{heading} over time", " ms" if name == "latency_ms" else "", zero=name == "latency_ms"
            )
            if drawn:
                of = f" ({camera})" if len(summary["cameras"]) > 1 else ""
                parts.append(f'<h3>{escape(heading + of)}</h3><div class="scroll">{drawn}</div>')
    if not parts:
        return ""
    more = len(summary["cameras"]) - len(cameras)
    rest = f'<p class="soft">{more} more cameras are in frames.jsonl.</p>' if more > 0 else ""
    return f'<section><h2>Over time</h2><div class="key">{key}</div>{"".join(parts)}{rest}</section>'


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


def _classes(summary: Mapping[str, Any]) -> str:
    main, *others = summary["variants"]
    iou = {variant: summary["runs"][variant]["iou"] for variant in summary["variants"]}
    rows = []
    for name, color in zip(summary["classes"], summary["colors"], strict=True):
        if all(iou[variant][name] is None for variant in iou):
            continue
        bars = _bar(iou[main][name]) + "".join(_bar(iou[other][name], "off") for other in others)
        rows.append(
            f'<div class="name"><span class="swatch" style="background:rgb{tuple(color)}"></span>{escape(name)}</div>'
            f'<div class="track">{bars}</div><div class="value">{_share(iou[main][name])}</div>'
        )
    if not rows or not summary["figures"]["labelled_frames"]:
        return ""
    present = summary["runs"][main]["classes_present"]
    words = f"{present} of {len(summary['classes'])} classes occur."
    if others:
        words += " Thick: memory on; thin: memory off."
    return f'<section><h2>IoU by class</h2><p class="soft">{words}</p><div class="bars">{"".join(rows)}</div></section>'


def _since_reset(summary: Mapping[str, Any]) -> str:
    main, *others = summary["variants"]
    groups = {variant: summary["runs"][variant]["since_reset"] for variant in summary["variants"]}
    bounds = [group["from"] for group in groups[main]]
    rows = []
    for index, group in enumerate(groups[main]):
        if not group["pixels"]:
            continue
        after = bounds[index + 1] if index + 1 < len(bounds) else None
        span = (
            f"{group['from']}"
            if after == group["from"] + 1
            else f"{group['from']}–{after - 1}"
            if after
            else f"{group['from']} and more"
        )
        rows.append([span, *(_share(groups[variant][index]["accuracy"]) for variant in (main, *others))])
    resets = "".join(
        f"<tr><td>{escape(cause.replace('_', ' '))}</td><td>{n}</td></tr>" for cause, n in summary["resets"].items()
    )
    accuracy = _table(["frames since", *(f"memory {variant}" for variant in (main, *others))], rows) if rows else ""
    intro = f"<h3>Accuracy since the memory was cleared</h3>{accuracy}" if accuracy else ""
    return (
        f'<section class="short"><h2>Resets</h2><table><thead><tr><th>cause</th><th>times</th></tr></thead>'
        f"<tbody>{resets}</tbody></table>{intro}</section>"
    )


def _moments(summary: Mapping[str, Any], folder: Path, kind: str, heading: str, words: str) -> str:
    moments = summary.get("pictures", {}).get(kind, [])
    if not moments:
        return ""
    cards = []
    for rank, moment in enumerate(moments):
        row = moment["frame"]
        facts = [f"{name} {_share(row[name])}" for name in ("accuracy", "agreement", "flicker") if row.get(name) is not None]
        where = f"Frame {row['name']}" + (f" of {row['camera']}" if len(summary["cameras"]) > 1 else "")
        cards.append(
            f'<div class="moment-card" id="{kind}-{rank}">'
            f"<h3>{escape(where)} · {_stamp(summary, row)}{_in_video(summary, row)}</h3>"
            f'<div class="panels">{"".join(_figure(folder, panel) for panel in moment["panels"])}</div>'
            f"<small>{escape(' · '.join(facts))}</small></div>"
        )
    return _section(heading, words, f'<div class="moments">{"".join(cards)}</div>')


def _worst_words(summary: Mapping[str, Any]) -> str:
    if summary["figures"]["labelled_frames"]:
        return "Frames with the lowest accuracy, some distance apart."
    return "Frames on which memory on and memory off differ most (without labels nobody knows which is right)."


def _attention(summary: Mapping[str, Any], folder: Path) -> str:
    entries = summary.get("pictures", {}).get("attention", [])
    if not entries:
        return ""
    cards = []
    for entry in entries:
        panels = "".join(_figure(folder, panel) for panel in entry["panels"])
        cards.append(f'<div class="moment-card"><h3>{escape(entry["title"])}</h3><div class="panels">{panels}</div></div>')
    words = (
        "Where the past images are read for a position of this frame (cross): the window's weights over each memory frame, the "
        "brighter the more, with their sum; what is missing to 100 % lies outside the picture."
    )
    return _section("Attention", words, f'<div class="moments">{"".join(cards)}</div>')


def _confusion(summary: Mapping[str, Any]) -> str:
    if not summary["figures"]["labelled_frames"]:
        return ""
    main = summary["variants"][0]
    drawn = draw_confusion(summary["classes"], summary["runs"][main]["confusion"])
    words = f"Rows: truth. Columns: what was seen, memory {main}. Percent of the row's pixels."
    return _section("Confusion", words, f'<div class="scroll">{drawn}</div>')


def _latency(summary: Mapping[str, Any]) -> str:
    stages = summary["timings_ms"]
    if not stages:
        return ""
    rows = [
        [escape(stage.replace("_", " ")), *(f"{values[p]:.1f}" for p in ("p50", "p95", "p99"))]
        for stage, values in stages.items()
    ]
    speed = summary["speed"]
    memory = "" if speed["peak_memory_mb"] is None else f" Peak memory {speed['peak_memory_mb']:.0f} MB."
    words = f"Milliseconds a frame by stage; {speed['frames_per_second']:.1f} frames a second over all.{memory}"
    return _section("Latency", words, _table(["stage", "p50", "p95", "p99"], rows), "short")


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
    return _section("Dropped frames", f"{', '.join(shown)}{more}", "", "short")


def _about(summary: Mapping[str, Any]) -> str:
    run = summary["run"]
    rows = [
        ["weights", f"{escape(run['weights']['file'])}<br><code>{run['weights']['sha256']}</code>"],
        *([f"input {escape(each['name'])}", f"<code>{each['sha256']}</code>"] for each in run["inputs"]),
        ["versions", escape(", ".join(f"{name} {version}" for name, version in run["versions"].items()))],
        ["machine", escape(", ".join(f"{name} {value}" for name, value in summary["machine"].items() if value is not None))],
        ["optical flow", escape(summary["flow"])],
    ]
    for name, camera in summary["cameras"].items():
        labels = camera["labels"]
        counted = "" if labels is None else "; labels: " + ", ".join(f"{count} {what}" for what, count in labels.items())
        words = f"{camera['topic'] or 'frames'}: {camera['frames']} segmented, {camera['dropped']} dropped{counted}"
        rows.append([escape(name), escape(words)])
    settings = ", ".join(f"{name} {value}" for name, value in run["settings"].items() if value is not None)
    rows.append(["settings", escape(settings)])
    return f"<section><h2>What was run</h2>{_table(['', ''], rows, text=True)}</section>"


def _section(heading: str, words: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(heading)}</h2><p class="soft">{escape(words)}</p>{content}</section>'


def _figure(folder: Path, panel: Mapping[str, str]) -> str:
    data = base64.b64encode((folder / panel["file"]).read_bytes()).decode()
    caption = escape(panel["caption"])
    return f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _stamp(summary: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    first = summary["cameras"][row["camera"]]["first_stamp_ns"]
    return f"{(row['stamp_ns'] - first) / 1e9:+.2f} s"


def _in_video(summary: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    video = summary.get("pictures", {}).get("videos", {}).get(row["camera"])
    if video is None:
        return ""
    return f' · <a href="{escape(video["file"])}#t={row["index"] / video["fps"]:.2f}">in the video</a>'


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def _change(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    better = value < 0 if name == "flicker" else value > 0
    kind = "" if abs(value) < 5e-5 else ' class="good"' if better else ' class="bad"'
    return f"<span{kind}>{100 * value:+.2f}</span>"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _bar(share: float | None, kind: str = "") -> str:
    return f'<div class="bar {kind}" style="width:{100 * (share or 0.0):.2f}%"></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    kind = " class=text" if text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'
