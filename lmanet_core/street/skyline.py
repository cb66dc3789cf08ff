"""Hills, trees and roofs at the horizon: what closes the view where the street ends. It turns with the compass only."""

from __future__ import annotations

import math

import numpy as np

from lmanet_core.street.mesh import LABEL, TWO_SIDED, Color, Mesh, MeshBuilder, Point
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.style import TownStyle
from lmanet_core.street.textures import FACADE, LEAVES, PLASTER

_RADIUS_M = 700.0
_STEPS = 240


def skyline_mesh(seed: int, style: TownStyle) -> Mesh:
    """A ring around the camera, in compass coordinates."""
    rng = generator(seed, Topic.SKYLINE)
    build = MeshBuilder()
    build.begin_part()
    waves = [(int(k), float(rng.uniform(3, 9)), float(rng.uniform(0, 6.3))) for k in rng.integers(3, 40, 6)]

    def hill(step: float) -> float:
        angle = 2 * math.pi * step / _STEPS
        return 20.0 + sum(size * math.sin(k * angle + phase) for k, size, phase in waves) / 1.5

    for i in range(_STEPS):
        tone = float(rng.uniform(0.9, 1.06))
        color = (style.leaf[0] * tone, style.leaf[1] * tone, style.leaf[2] * tone + 8)
        low, high = max(6.0, hill(i)), max(6.0, hill(i + 1))
        points = _panel(i, i + 1, low, high)
        middle = _at(i + 0.5, max(low, high) + float(rng.uniform(0.5, 3.5)))
        build.polygon([*points[:3], middle, points[3]], color, LABEL["vegetation"], LEAVES, tiles=(1.4, 1.4), flags=TWO_SIDED)
    build.begin_part()
    for i in np.flatnonzero(rng.random(_STEPS) < 0.42).tolist():
        width = float(rng.uniform(0.4, 1.1))
        top = float(rng.uniform(8, 30)) if rng.random() < 0.85 else float(rng.uniform(30, 58))
        paint: Color = tuple(float(c) for c in np.array((176, 164, 150)) + rng.normal(0, 22, 3))  # type: ignore[assignment]
        texture = FACADE + style.facades[0] if top > 14 else PLASTER
        build.polygon(_panel(i, i + width, top, top), paint, LABEL["building"], texture, tiles=(1.2, top / 16), flags=TWO_SIDED)
        if top < 18:
            roof: Color = (118 + float(rng.normal(0, 16)), 76.0, 62.0)
            build.polygon(
                [_at(i, top), _at(i + width, top), _at(i + width / 2, top + 5)], roof, LABEL["building"], flags=TWO_SIDED
            )
    return build.finish()


def _at(step: float, up: float) -> Point:
    angle = 2 * math.pi * step / _STEPS
    return _RADIUS_M * math.sin(angle), up, _RADIUS_M * math.cos(angle)


def _panel(start: float, stop: float, low: float, high: float) -> list[Point]:
    return [_at(start, -14.0), _at(stop, -14.0), _at(stop, high), _at(start, low)]
