"""Curves over time, the confusion matrix and bars as SVG text.

The first two are for the page of a report, whose style sheet has their colours and fonts; bars are a file of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 1000.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 8.0, 10.0, 26.0
_POINTS = 400  # of a curve; more frames are drawn as mean and range


@dataclass
class Timeline:
    """Values of one camera over time.

    Attributes:
        times: seconds from the first frame, never falling.
        curves: name ("on", "off") → one value a frame, None where there is none.
        marks: (seconds, text, link) of moments.
        resets: (seconds, cause).
        drops: seconds.
    """

    times: list[float] = field(default_factory=list)
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    resets: list[tuple[float, str]] = field(default_factory=list)
    drops: list[float] = field(default_factory=list)


def draw_timeline(line: Timeline, label: str, unit: str = "", zero: bool = False) -> str:
    """Curves, resets, drops and marks over time.

    Args:
        line: what to draw.
        label: for people who do not see it.
        unit: behind the numbers of the axis.
        zero: whether the axis begins at 0.
    """
    values = [value for curve in line.curves.values() for value in curve if value is not None]
    if not values:
        return ""
    low, high = (0.0 if zero else min(values)), max(values)
    ticks = _ticks(low, high if high > low else low + 1e-3)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    end = max(line.times[-1], 1e-9)

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - (value - low) / (high - low))

    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}{unit}</text>')
    for tick in _ticks(0.0, end, 6):
        if tick <= end:
            anchor = "end" if x(tick) > _WIDTH - 40 else "middle"
            parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - 6:g}" text-anchor="{anchor}">{tick:g} s</text>')
    for seconds, cause in line.resets:
        at = f'x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="{_TOP:g}" y2="{_HEIGHT - _BOTTOM:g}"'
        parts.append(f'<line class="reset-line" {at}><title>{seconds:.2f} s: {escape(cause)}</title></line>')
    for seconds in line.drops:
        at = f'x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="{_HEIGHT - _BOTTOM:g}" y2="{_HEIGHT - _BOTTOM + 6:g}"'
        parts.append(f'<line class="drop-line" {at}><title>dropped at {seconds:.2f} s</title></line>')
    for name, curve in reversed(line.curves.items()):  # the main one on top
        parts += _curve(name, [(x(t), None if v is None else y(v)) for t, v in zip(line.times, curve, strict=True)])
    main = next(iter(line.curves.values()))
    for seconds, text, link in line.marks:
        nearest = min(range(len(line.times)), key=lambda index: abs(line.times[index] - seconds))
        value = main[nearest]
        if value is not None:
            dot = (
                f'<circle class="moment" cx="{x(seconds):.1f}" cy="{y(value):.1f}" r="4"><title>{escape(text)}</title></circle>'
            )
            parts.append(f'<a href="{escape(link)}">{dot}</a>')
    return "".join([*parts, "</svg>"])


def draw_confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows: truth; columns: prediction, the last one "none of the classes"; each row in percent of its pixels."""
    used = [index for index, row in enumerate(counts) if sum(row)]
    columns = [index for index in range(len(names) + 1) if any(row[index] for row in counts) or index in used]
    cell, left, top = 44.0, 108.0, 92.0
    width, height = left + cell * len(columns) + 40, top + 26 * len(used) + 4
    parts = [
        f'<svg class="matrix" style="min-width:{0.8 * width:.0f}px" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-label="confusion matrix, percent of truth">'
    ]
    for number, column in enumerate(columns):
        name = names[column] if column < len(names) else "(none)"
        x = left + cell * (number + 0.5)
        parts.append(f'<text transform="translate({x:.1f} {top - 8:g}) rotate(-40)">{escape(name)}</text>')
    for number, row in enumerate(used):
        y = top + 26 * number
        total = sum(counts[row])
        parts.append(f'<text x="{left - 8:g}" y="{y + 17:.1f}" text-anchor="end">{escape(names[row])}</text>')
        for place, column in enumerate(columns):
            share = counts[row][column] / total
            x = left + cell * place
            kind = ' class="hit"' if row == column else ""
            tip = f"{names[row]} seen as {names[column] if column < len(names) else 'none of the classes'}: {100 * share:.2f} %"
            parts.append(
                f'<g><rect{kind} x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:g}" height="24" rx="3" '
                f'fill-opacity="{0.05 + 0.75 * math.sqrt(share):.3f}"/><title>{escape(tip)}</title>'
            )
            if share >= 0.005:
                parts.append(f'<text class="cell" x="{x + cell / 2:.1f}" y="{y + 17:.1f}">{100 * share:.0f}</text>')
            parts.append("</g>")
    return "".join([*parts, "</svg>"])


_BAR_STYLE = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1c1d21}.grid{stroke:#e2e0da}"
    ".s0{fill:#1d5fd0}.s1{fill:#c2660a}.s2{fill:#1a7f45}.s3{fill:#8a4fc0}.s4{fill:#5d6069}.s5{fill:#c02c2c}"
)


def draw_bars(title: str, unit: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """An SVG file with bars side by side for each name; NaN has none.

    Args:
        title: above it all.
        unit: of the axis.
        names: of the groups, below them.
        series: name → a value for each group; several get a legend.
    """
    top, bottom, bar = 40.0 + 18 * (len(series) > 1) * len(series), 120.0, 14.0
    group, plot = bar * (len(series) + 1), 240.0
    width = max(320.0, _LEFT + group * len(names) + 20)
    values = [value for row in series.values() for value in row if math.isfinite(value)]
    low, high = min([0.0, *values]), max([0.0, *values])
    ticks = _ticks(low, high if high > low else low + 1e-3)

    def y(value: float) -> float:
        return top + plot * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top + plot + bottom:g}" width="{width:g}">',
        f'<style>{_BAR_STYLE}</style><rect width="100%" height="100%" fill="#fff"/><text x="8" y="20">{escape(title)}</text>',
        f'<text x="{width - 8:g}" y="20" text-anchor="end">{escape(unit)}</text>',
    ]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{width - 8:g}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for place, name in enumerate(names):
        x = _LEFT + group * (place + 0.5)
        parts.append(
            f'<text transform="translate({x:.1f} {top + plot + 14:g}) rotate(-40)" text-anchor="end">{escape(name)}</text>'
        )
    for number, (name, row) in enumerate(series.items()):
        kind = f"s{number % 6}"
        if len(series) > 1:
            parts.append(f'<rect class="{kind}" x="{_LEFT:g}" y="{32 + 18 * number}" width="10" height="10"/>')
            parts.append(f'<text x="{_LEFT + 16:g}" y="{41 + 18 * number}">{escape(name)}</text>')
        for place, value in enumerate(row):
            if math.isfinite(value):
                box = f'y="{min(y(value), y(0.0)):.1f}" width="{bar:g}" height="{abs(y(value) - y(0.0)):.1f}"'
                tip = escape(f"{names[place]}, {name}: {value:.4g}")
                x = _LEFT + group * place + bar * (number + 0.5)
                parts.append(f'<rect class="{kind}" x="{x:.1f}" {box}><title>{tip}</title></rect>')
    return "".join([*parts, "</svg>\n"])


def _curve(name: str, points: Sequence[tuple[float, float | None]]) -> list[str]:
    """A line, broken where there is no value; above `_POINTS` the mean of neighbours and the range around it."""
    step = max(1, math.ceil(len(points) / _POINTS))
    middle: list[str] = []
    upper: list[str] = []
    lower: list[str] = []
    pen = "M"
    for start in range(0, len(points), step):
        group = [(x, y) for x, y in points[start : start + step] if y is not None]
        if not group:
            pen = "M"
            continue
        x = sum(x for x, _ in group) / len(group)
        heights = [y for _, y in group]
        middle.append(f"{pen}{x:.1f} {sum(heights) / len(heights):.1f}")
        upper.append(f"{x:.1f} {min(heights):.1f}")
        lower.append(f"{x:.1f} {max(heights):.1f}")
        pen = "L"
    parts = []
    if step > 1:
        parts.append(f'<path class="range {name}" d="M{" L".join([*upper, *reversed(lower)])} Z"/>')
    return [*parts, f'<path class="curve {name}" d="{" ".join(middle)}"/>']


def _ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that span a range."""
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
