"""What stands on pavements and lawns: trees, lamps, signs, bollards, bins, catenary masts and traffic lights.

Frames as for lots: x to the right of the road (or mirrored), z along it, here with the origin where the thing stands.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from lmanet_core.street.mesh import CONCAVE, LABEL, LIT, TWO_SIDED, Color, Mesh, MeshBuilder, Point
from lmanet_core.street.textures import LEAVES, ROUND

_STEEL: Color = (132, 136, 138)
_RED, _BLUE, _WHITE, _YELLOW = (196, 28, 34), (34, 74, 164), (240, 240, 238), (236, 190, 40)


def post(build: MeshBuilder, x: float, z: float, y0: float, y1: float, radius: float, color: Color, label: int) -> None:
    """An upright pole facing the traffic, shaded round."""
    quad = [(x - radius, y0, z), (x + radius, y0, z), (x + radius, y1, z), (x - radius, y1, z)]
    build.polygon(quad, color, label, ROUND, tiles=(1.0, 1.0), flags=TWO_SIDED)


def tree(build: MeshBuilder, rng: np.random.Generator, size: float, tone: Color) -> None:
    """A tree of `size` (1 is 7 m tall): trunk and a crown of leafy blobs, or a conifer."""
    label = LABEL["vegetation"]
    build.begin_part()
    kind = rng.random()
    bark = (92.0 + float(rng.normal(0, 8)), 78.0, 64.0)
    if kind < 0.14:
        _conifer(build, rng, size, tone, bark)
        return
    fork = 2.3 * size + float(rng.uniform(0.2, 0.8))
    lean = float(rng.normal(0, 0.1))
    r = 0.13 * size + 0.04
    trunk: list[Point] = [(-r, 0.0, 0.0), (r, 0.0, 0.0), (r * 0.7 + lean, fork + 1.2, 0.0), (-r * 0.7 + lean, fork + 1.2, 0.0)]
    build.polygon(trunk, bark, label, ROUND, tiles=(1.0, 1.0), flags=TWO_SIDED)
    tall = 1.5 if kind > 0.8 else 1.0
    count = int(rng.integers(5, 8))
    blobs = []
    for i in range(count):
        angle = 2 * math.pi * i / count + float(rng.uniform(-0.4, 0.4))
        ring = 0.0 if i == 0 else float(rng.uniform(0.7, 1.15)) * size / tall
        y = fork + size * tall * (1.55 + 0.95 * math.sin(angle) * (ring > 0))
        blobs.append((float(rng.normal(0, 0.7)) * size, lean + ring * math.cos(angle), y, float(rng.uniform(1.0, 1.5)) * size))
    blobs.sort(reverse=True)
    lowest, highest = min(b[2] for b in blobs), max(b[2] for b in blobs) + 0.1
    for z, x, y, radius in blobs:
        bright = 0.72 + 0.42 * (y - lowest) / (highest - lowest) + float(rng.normal(0, 0.04))
        _blob(build, rng, x, y, z, radius, radius * (0.9 + 0.2 * (tall > 1)), _scaled(tone, bright), label)
    build.shadow(-1.6 * size, 1.6 * size, -1.6 * size, 1.6 * size, fork + 3.0 * size, fork, rounded=True)


def _conifer(build: MeshBuilder, rng: np.random.Generator, size: float, tone: Color, bark: Color) -> None:
    label = LABEL["vegetation"]
    post(build, 0.0, 0.0, 0.0, 1.6 * size, 0.14 * size, bark, label)
    dark = (tone[0] * 0.62, tone[1] * 0.74, tone[2] * 0.78)
    tiers = 5
    for i in range(tiers):
        base = (0.8 + 1.25 * i) * size
        half = (1.9 - 0.34 * i) * size
        jag = [
            (half * (1 - 2 * (k / 8)), base + float(rng.uniform(-0.18, 0.18)) * size + (0.25 * size if k % 2 else 0.0), 0.0)
            for k in range(9)
        ]
        points: list[Point] = [*jag[::-1], (0.0, base + 2.1 * size, 0.0)]
        build.polygon(points, _scaled(dark, 0.85 + 0.08 * i), label, LEAVES, flags=TWO_SIDED | CONCAVE)
    build.shadow(-1.2 * size, 1.2 * size, -1.2 * size, 1.2 * size, 5.0 * size, 0.8, rounded=True)


def bush(build: MeshBuilder, rng: np.random.Generator, size: float, tone: Color) -> None:
    """A shrub of about `size` metres."""
    build.begin_part()
    for _ in range(3):
        x, z = float(rng.normal(0, 0.35)) * size, float(rng.normal(0, 0.2)) * size
        _blob(
            build,
            rng,
            x,
            size * 0.45,
            z,
            size * 0.6,
            size * 0.5,
            _scaled(tone, float(rng.uniform(0.8, 1.1))),
            LABEL["vegetation"],
        )
    build.shadow(-0.7 * size, 0.7 * size, -0.5 * size, 0.5 * size, size, rounded=True)


def _blob(
    build: MeshBuilder, rng: np.random.Generator, x: float, y: float, z: float, rx: float, ry: float, color: Color, label: int
) -> None:
    corners = 18
    points: list[Point] = []
    for i in range(corners):
        angle = 2 * math.pi * i / corners
        rough = 1 + float(rng.uniform(-0.2, 0.14))
        points.append((x + rx * rough * math.cos(angle), max(0.05, y + ry * rough * math.sin(angle)), z))
    build.polygon(points, color, label, LEAVES, offset=(float(rng.random()), float(rng.random())), flags=TWO_SIDED | CONCAVE)


def _scaled(color: Color, by: float) -> Color:
    return color[0] * by, color[1] * by, color[2] * by


def lamp(build: MeshBuilder, height: float, color: Color, double: bool) -> None:
    """A street lamp; its arm reaches over the road (towards −x)."""
    label = LABEL["pole"]
    build.begin_part()
    post(build, 0.0, 0.0, 0.0, 1.1, 0.11, color, label)
    post(build, 0.0, 0.0, 1.1, height, 0.075, color, label)
    for reach in (-1.7, 1.2) if double else (-1.7,):
        x0, x1 = min(0.0, reach), max(0.0, reach)
        arm: list[Point] = [
            (x0, height - 0.08, 0.0),
            (x1, height - 0.08, 0.0),
            (x1, height + 0.03, 0.0),
            (x0, height + 0.03, 0.0),
        ]
        build.polygon(arm, color, label, flags=TWO_SIDED)
        box = (reach - 0.35, reach + 0.35, -0.14, 0.14)
        quads = build.tapered(box, box, height - 0.14, height + 0.06, (176, 178, 178), label)
        build.polygon([(p[0], height - 0.14, p[2]) for p in quads["t"][::-1]], (250, 240, 206), label, flags=LIT | TWO_SIDED)
    build.shadow(-0.08, 0.08, -0.08, 0.08, height)


def sign(build: MeshBuilder, rng: np.random.Generator, kind: str | None = None) -> None:
    """A traffic sign of some shape on its pole."""
    kind = kind or str(
        rng.choice(("limit", "triangle", "stop", "parking", "no-stopping", "arrow", "yield", "direction", "priority"))
    )
    label = LABEL["traffic sign"]
    build.begin_part()
    top = float(rng.uniform(2.3, 2.9))
    if kind == "direction":
        for x in (-0.9, 0.9):
            post(build, x, 0.02, 0.0, top + 0.6, 0.05, _STEEL, LABEL["pole"])
        ground = ((34, 74, 164), (240, 214, 60), (30, 110, 70))[int(rng.integers(3))]
        _plate(build, 0.0, top + 0.3, 1.3, 0.55, _WHITE, ground, label)
        for y in (top + 0.52, top + 0.26, top):
            width = float(rng.uniform(0.4, 0.9))
            ink = _WHITE if ground != (240, 214, 60) else (20, 20, 20)
            _rectangle(build, -0.1, y + 0.02, width, 0.07, ink, label)
        build.shadow(-1.2, 1.2, -0.05, 0.05, top + 0.8, top - 0.2)
        return
    post(build, 0.0, 0.02, 0.0, top + 0.3, 0.038, _STEEL, LABEL["pole"])
    if kind == "parking" or kind == "arrow":
        _plate(build, 0.0, top, 0.33, 0.33, _WHITE, _BLUE, label)
        _rectangle(build, -0.07, top, 0.05, 0.2, _WHITE, label)
        _rectangle(build, 0.04, top + 0.08, 0.09, 0.09, _WHITE, label)
    elif kind in ("triangle", "yield"):
        up = 1.0 if kind == "triangle" else -1.0
        for size, color in ((0.5, _RED), (0.34, _WHITE)):
            outline: list[Point] = [
                (-size, top - up * size * 0.58, 0.0),
                (size, top - up * size * 0.58, 0.0),
                (0.0, top + up * size * 1.15, 0.0),
            ]
            build.polygon(outline if up > 0 else outline[::-1], color, label, flags=TWO_SIDED)
        if up > 0:
            _rectangle(build, 0.0, top, 0.04, 0.13, (24, 24, 24), label)
    elif kind == "priority":
        for size, color in ((0.42, _WHITE), (0.3, _YELLOW)):
            build.polygon(
                [(0.0, top - size, 0.0), (size, top, 0.0), (0.0, top + size, 0.0), (-size, top, 0.0)],
                color,
                label,
                flags=TWO_SIDED,
            )
    else:
        corners = 8 if kind == "stop" else 14
        inner = {"stop": _RED, "limit": _WHITE, "no-stopping": _BLUE}[kind]
        rim = _WHITE if kind == "stop" else _RED
        build.disc((0.0, top, 0.0), 0.39, "-z", rim, label, corners, flags=TWO_SIDED)
        build.disc((0.0, top, 0.0), 0.34 if kind == "stop" else 0.29, "-z", inner, label, corners, flags=TWO_SIDED)
        ink = _WHITE if kind == "stop" else _RED if kind == "no-stopping" else (20, 20, 20)
        _rectangle(build, -0.08, top, 0.05, 0.13, ink, label)
        _rectangle(build, 0.08, top, 0.05, 0.13, ink, label)
    if rng.random() < 0.3:
        _plate(build, 0.0, top - 0.62, 0.3, 0.14, (30, 30, 30), _WHITE, label)
    build.shadow(-0.35, 0.35, -0.03, 0.03, top + 0.4, top - 0.3)


def _plate(
    build: MeshBuilder, x: float, y: float, half_width: float, half_height: float, rim: Color, color: Color, label: int
) -> None:
    _rectangle(build, x, y, half_width, half_height, rim, label)
    _rectangle(build, x, y, half_width - 0.045, half_height - 0.045, color, label)


def _rectangle(build: MeshBuilder, x: float, y: float, half_width: float, half_height: float, color: Color, label: int) -> None:
    x0, x1, y0, y1 = x - half_width, x + half_width, y - half_height, y + half_height
    build.polygon([(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)], color, label, flags=TWO_SIDED)


def bollard(build: MeshBuilder) -> None:
    """A knee-high post at the kerb."""
    build.begin_part()
    post(build, 0.0, 0.0, 0.0, 0.95, 0.07, (70, 72, 74), LABEL["pole"])
    post(build, 0.0, 0.0, 0.7, 0.82, 0.072, (226, 226, 224), LABEL["pole"])


def catenary_mast(build: MeshBuilder) -> None:
    """A mast that carries the wire over a railway; its arm reaches towards +x."""
    label = LABEL["pole"]
    build.begin_part()
    post(build, 0.0, 0.0, 0.0, 7.5, 0.14, (120, 124, 120), label)
    build.polygon(
        [(0.0, 6.4, 0.0), (3.2, 6.2, 0.0), (3.2, 6.3, 0.0), (0.0, 6.55, 0.0)], (110, 112, 112), label, flags=TWO_SIDED
    )
    build.polygon(
        [(0.0, 7.2, 0.0), (2.8, 6.3, 0.0), (2.8, 6.36, 0.0), (0.0, 7.28, 0.0)], (110, 112, 112), label, flags=TWO_SIDED
    )


@lru_cache(maxsize=8)
def traffic_light_mesh(color: str, overhead: bool) -> Mesh:
    """A signal facing the traffic, on its pole at the kerb or on an arm over the lane (the arm reaches towards −x)."""
    build = MeshBuilder()
    build.begin_part()
    top = 5.6 if overhead else 3.3
    post(build, 0.0, 0.03, 0.0, top - 0.6 if not overhead else top + 0.1, 0.08, (96, 100, 98), LABEL["pole"])
    x = 0.0
    if overhead:
        arm: list[Point] = [(-3.9, top, 0.02), (0.0, top - 0.1, 0.02), (0.0, top + 0.1, 0.02), (-3.9, top + 0.1, 0.02)]
        build.polygon(arm, (96, 100, 98), LABEL["pole"], flags=TWO_SIDED)
        x = -3.8
    label = LABEL["traffic light"]
    box = (x - 0.19, x + 0.19, -0.12, 0.2)
    build.tapered(box, box, top - 1.0, top + 0.12, (36, 40, 38), label)
    lamps = {"red": (255, 40, 30), "yellow": (255, 190, 30), "green": (30, 235, 150)}
    dark = {"red": (66, 20, 18), "yellow": (66, 52, 18), "green": (16, 58, 40)}
    for name, y in (("red", top - 0.1), ("yellow", top - 0.44), ("green", top - 0.78)):
        lit = name == color
        build.disc((x, y, -0.13), 0.135, "-z", lamps[name] if lit else dark[name], label, 10, flags=LIT if lit else 0)
    return build.finish()
