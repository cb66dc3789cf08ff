"""Cars, vans, trucks, buses and trains: boxes with wheels, windows and lights, each variant made once.

A vehicle's frame has its origin on the ground at its centre, z to its front. A train is a row of sections that follow the road
one by one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmanet_core.street.mesh import LABEL, LIT, Color, Mesh, MeshBuilder, Point
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.textures import BUS_SIDE, CORRUGATED, GLASS, PLAIN, TARPAULIN

TRAIN_SECTION_M = 8.2

_DARK: Color = (26, 26, 28)
_TYRE: Color = (30, 30, 32)
_GLASS: Color = (44, 54, 64)
_TAIL: Color = (196, 24, 22)
_HEAD: Color = (250, 248, 226)
_AMBER: Color = (230, 130, 30)

_CAR_PAINTS: tuple[Color, ...] = (
    (222, 222, 222), (186, 190, 194), (128, 132, 138), (70, 74, 80), (34, 36, 40), (150, 28, 30), (34, 62, 122), (60, 110, 160),
    (28, 74, 56), (206, 186, 150), (200, 150, 40), (120, 84, 60), (244, 244, 240), (90, 30, 40), (54, 58, 66), (168, 176, 186),
)  # fmt: skip
_TRUCK_PAINTS: tuple[Color, ...] = (
    (236, 236, 234), (148, 152, 154), (40, 70, 130), (176, 40, 36), (214, 170, 50), (60, 110, 70), (110, 104, 98),
)  # fmt: skip
_BUS_PAINTS: tuple[Color, ...] = (
    (214, 44, 40), (238, 196, 40), (70, 130, 190), (236, 236, 232), (60, 140, 90), (240, 130, 40), (150, 160, 170),
    (90, 60, 130),
)  # fmt: skip
_VARIANTS = 48


@lru_cache(maxsize=512)
def vehicle_mesh(kind: str, variant: int) -> Mesh:
    """The mesh of one vehicle: kind "car", "van", "truck", "bus", "train" (inner section), "train-head", "train-tail"."""
    variant %= _VARIANTS
    rng = generator(variant, Topic.VEHICLE)
    build = MeshBuilder()
    build.begin_part()
    if kind == "car":
        _car(build, rng)
    elif kind == "van":
        _van(build, rng)
    elif kind == "truck":
        _truck(build, rng)
    elif kind == "bus":
        _bus(build, rng)
    else:
        _train_section(build, rng, kind)
    return build.finish()


def _pick(rng: np.random.Generator, paints: tuple[Color, ...]) -> Color:
    base = paints[int(rng.integers(len(paints)))]
    r, g, b = (float(np.clip(c + rng.normal(0, 8), 8, 250)) for c in base)
    return r, g, b


def _darker(color: Color, by: float) -> Color:
    return color[0] * by, color[1] * by, color[2] * by


def _wheels(build: MeshBuilder, label: int, half_width: float, axles: tuple[float, ...], radius: float) -> None:
    for z in axles:
        for side, axis in ((-1, "-x"), (1, "+x")):
            x = side * (half_width + 0.01)
            build.disc((x, radius, z), radius * 1.16, axis, (18, 18, 20), label, 12)
            build.disc((x, radius, z), radius, axis, _TYRE, label, 12)
            build.disc((x, radius, z), radius * 0.62, axis, (142, 144, 148), label, 8)
            build.disc((x, radius, z), radius * 0.2, axis, (60, 60, 62), label, 6)


def _underbody(build: MeshBuilder, label: int, half_width: float, z0: float, z1: float, height: float, radius: float) -> None:
    """The dark gap below the body with the tyres seen from behind and in front, and the shadow under it all."""
    edge = half_width - 0.04
    build.tapered((-edge, edge, z0, z1), (-edge, edge, z0, z1), 0.16, height, (20, 20, 22), label, faces="lrnf")
    for z, near in ((z0 + 0.3, True), (z1 - 0.3, False)):
        for x in (-edge, edge - 0.24):
            box = (x, x + 0.24, z, z)
            build.tapered(box, box, 0.0, radius * 1.4, _TYRE, label, faces="n" if near else "f")
    build.shadow(-half_width - 0.15, half_width + 0.15, z0 - 0.25, z1 + 0.25, height)


def _car(build: MeshBuilder, rng: np.random.Generator) -> None:
    label = LABEL["car"]
    paint = _pick(rng, _CAR_PAINTS)
    shape = ("hatch", "sedan", "estate", "suv")[int(rng.integers(4))]
    half = float(rng.uniform(0.85, 0.95))
    length = float(rng.uniform(3.8, 4.2) if shape == "hatch" else rng.uniform(4.3, 4.8))
    tall = 0.16 if shape == "suv" else 0.0
    back, front = -length / 2, length / 2
    waist, roof = 0.86 + tall, 1.44 + 1.6 * tall + float(rng.uniform(-0.04, 0.06))
    radius = 0.32 + tall / 4
    _underbody(build, label, half, back + 0.1, front - 0.1, 0.34 + tall, radius)
    body = build.tapered(
        (-half, half, back, front), (-half * 0.97, half * 0.97, back + 0.05, front - 0.16), 0.3 + tall, waist, paint, label
    )
    _wheels(build, label, half, (back + 0.85, front - 0.85), radius)
    build.inset(body["r"], 0.0, 1.0, 0.0, 0.16, _darker(paint, 0.55), label)
    build.inset(body["l"], 0.0, 1.0, 0.0, 0.16, _darker(paint, 0.55), label)
    for side in "lr":
        for seam in (0.36, 0.56):
            build.inset(body[side], seam, seam + 0.006, 0.15, 1.0, _darker(paint, 0.5), label)
        build.inset(body[side], 0.42, 0.46, 0.74, 0.8, _darker(paint, 0.6), label)
    _car_back(build, body["n"], paint, label, rng)
    _car_front(build, body["f"], paint, label)
    tail = {"hatch": 0.12, "sedan": 0.85, "estate": 0.1, "suv": 0.12}[shape]
    slope = {"hatch": 0.5, "sedan": 0.55, "estate": 0.25, "suv": 0.3}[shape]
    low = (-half * 0.95, half * 0.95, back + tail, front - 1.05)
    high = (-half * 0.76, half * 0.76, back + tail + slope, front - 1.75)
    for x in (-half - 0.06, half - 0.06):
        box = (x, x + 0.16, front - 1.5, front - 1.4)
        build.tapered(box, box, waist, waist + 0.13, paint, label)
    cabin = build.tapered(low, high, waist, roof, paint, label, top_color=_darker(paint, 0.96))
    build.inset(cabin["n"], 0.07, 0.93, 0.14, 0.88, _GLASS, label, GLASS)
    build.inset(cabin["f"], 0.05, 0.95, 0.06, 0.92, _GLASS, label, GLASS)
    build.inset(cabin["f"], 0.14, 0.44, 0.1, 0.55, (30, 32, 36), label)
    for side, order in (("r", ((0.07, 0.46), (0.52, 0.9))), ("l", ((0.1, 0.48), (0.54, 0.93)))):
        for u0, u1 in order:
            build.inset(cabin[side], u0, u1, 0.1, 0.86, _GLASS, label, GLASS)


def _car_back(build: MeshBuilder, quad: list[Point], paint: Color, label: int, rng: np.random.Generator) -> None:
    build.inset(quad, 0.0, 1.0, 0.0, 0.3, _darker(paint, float(rng.choice((0.45, 0.85)))), label)
    build.inset(quad, 0.36, 0.64, 0.36, 0.54, (232, 230, 214), label)
    height = float(rng.uniform(0.2, 0.34))
    width = float(rng.uniform(0.14, 0.26))
    for u0, u1 in ((0.02, width), (1 - width, 0.98)):
        build.inset(quad, u0, u1, 0.9 - height, 0.9, _TAIL, label, flags=LIT)
        build.inset(quad, u0, u1, 0.9 - height, 0.9 - height * 0.7, _AMBER, label)


def _car_front(build: MeshBuilder, quad: list[Point], paint: Color, label: int) -> None:
    build.inset(quad, 0.0, 1.0, 0.0, 0.26, _darker(paint, 0.6), label)
    build.inset(quad, 0.25, 0.75, 0.4, 0.68, _DARK, label)
    build.inset(quad, 0.36, 0.64, 0.18, 0.32, (232, 230, 214), label)
    for u0, u1 in ((0.03, 0.22), (0.78, 0.97)):
        build.inset(quad, u0, u1, 0.52, 0.78, (196, 200, 206), label)
        build.inset(quad, u0 + 0.04, u1 - 0.04, 0.56, 0.74, _HEAD, label, flags=LIT)


def _van(build: MeshBuilder, rng: np.random.Generator) -> None:
    label = LABEL["car"]
    paint = _pick(rng, _CAR_PAINTS[:5] + _TRUCK_PAINTS)
    half, back, front, roof = 0.98, -2.6, 2.6, float(rng.uniform(1.95, 2.45))
    _underbody(build, label, half, back + 0.1, front - 0.1, 0.4, 0.34)
    body = build.tapered((-half, half, back, 1.5), (-half * 0.93, half * 0.93, back + 0.04, 1.1), 0.34, roof, paint, label)
    nose = build.tapered(
        (-half, half, 1.5, front), (-half * 0.96, half * 0.96, 1.36, front - 0.2), 0.34, 1.05, paint, label, faces="lrft"
    )
    screen = [(half * 0.94, 1.05, 2.1), (-half * 0.94, 1.05, 2.1), (-half * 0.9, roof, 1.1), (half * 0.9, roof, 1.1)]
    build.polygon(screen, paint, label)
    build.inset(screen, 0.05, 0.95, 0.05, 0.75, _GLASS, label, GLASS)
    for side in (-1, 1):
        cheek = [(side * half * 0.96, 1.05, 1.1), (side * half * 0.96, 1.05, 2.1), (side * half * 0.91, roof, 1.1)]
        build.polygon(cheek if side > 0 else cheek[::-1], _GLASS, label, GLASS)
    _wheels(build, label, half, (back + 0.95, front - 0.9), 0.34)
    if rng.random() < 0.5:
        for u0, u1 in ((0.06, 0.46), (0.54, 0.94)):
            build.inset(body["n"], u0, u1, 0.5, 0.88, _GLASS, label, GLASS)
    build.inset(body["n"], 0.495, 0.505, 0.0, 1.0, _darker(paint, 0.5), label)
    build.inset(body["n"], 0.0, 1.0, 0.0, 0.1, _DARK, label)
    build.inset(body["n"], 0.12, 0.38, 0.16, 0.22, (232, 230, 214), label)
    for u0, u1 in ((0.01, 0.07), (0.93, 0.99)):
        build.inset(body["n"], u0, u1, 0.2, 0.45, _TAIL, label, flags=LIT)
    for letter in "lr":
        build.inset(body[letter], 0.0, 1.0, 0.0, 0.08, _DARK, label)
        build.inset(body[letter], 0.5, 0.505, 0.05, 0.95, _darker(paint, 0.6), label)
    _car_front(build, nose["f"], paint, label)


def _truck(build: MeshBuilder, rng: np.random.Generator) -> None:
    label = LABEL["truck"]
    cab_paint, cargo_paint = _pick(rng, _TRUCK_PAINTS), _pick(rng, _TRUCK_PAINTS)
    half = 1.24
    length = float(rng.uniform(7.5, 9.5))
    back, front = -length / 2, length / 2
    top = float(rng.uniform(3.1, 3.9))
    cab_back = front - 2.1
    kind = str(rng.choice(("box", "tarpaulin", "tipper")))
    _underbody(build, label, half, back + 0.1, front - 0.2, 0.75, 0.5)
    _wheels(build, label, half, (back + 1.2, back + 2.4, front - 1.3), 0.5)
    build.begin_part()
    texture = {"box": PLAIN, "tarpaulin": TARPAULIN, "tipper": CORRUGATED}[kind]
    if kind == "tipper":
        top = 2.3
    cargo = build.tapered(
        (-half, half, back, cab_back - 0.15), (-half, half, back, cab_back - 0.15), 0.95, top, cargo_paint, label, texture,
        top_color=_darker(cargo_paint, 0.9),
    )  # fmt: skip
    _truck_back(build, cargo["n"], cargo_paint, label, kind)
    for side in "lr":
        build.inset(cargo[side], 0.0, 1.0, 0.0, 0.05, _darker(cargo_paint, 0.5), label)
        if kind == "box":
            build.inset(cargo[side], 0.15, 0.85, 0.35, 0.7, _pick(rng, _BUS_PAINTS), label)
    build.begin_part()
    cab = build.tapered(
        (-half, half, cab_back, front), (-half * 0.96, half * 0.96, cab_back, front - 0.35), 0.6, 2.75, cab_paint, label
    )
    build.inset(cab["f"], 0.06, 0.94, 0.5, 0.9, _GLASS, label, GLASS)
    build.inset(cab["f"], 0.2, 0.8, 0.2, 0.42, _DARK, label)
    build.inset(cab["f"], 0.0, 1.0, 0.0, 0.14, (60, 60, 62), label)
    for u0, u1 in ((0.04, 0.2), (0.8, 0.96)):
        build.inset(cab["f"], u0, u1, 0.06, 0.16, _HEAD, label, flags=LIT)
    for letter, (u0, u1) in (("r", (0.35, 0.85)), ("l", (0.15, 0.65))):
        build.inset(cab[letter], u0, u1, 0.5, 0.86, _GLASS, label, GLASS)
        build.inset(cab[letter], u0, u0 + 0.01, 0.05, 0.9, _darker(cab_paint, 0.5), label)


def _truck_back(build: MeshBuilder, quad: list[Point], paint: Color, label: int, kind: str) -> None:
    if kind != "tipper":
        build.inset(quad, 0.02, 0.98, 0.02, 0.97, _darker(paint, 0.88), label)
        build.inset(quad, 0.494, 0.506, 0.02, 0.97, _darker(paint, 0.45), label)
        for u in (0.2, 0.36, 0.64, 0.8):
            build.inset(quad, u, u + 0.012, 0.03, 0.95, (150, 152, 154), label)
    (ax, _, z), (bx, _, _) = quad[0], quad[1]
    bar = [(ax, 0.62, z - 0.01), (bx, 0.62, z - 0.01), (bx, 0.95, z - 0.01), (ax, 0.95, z - 0.01)]
    build.polygon(bar, (44, 44, 46), label)
    build.inset(bar, 0.4, 0.6, 0.3, 0.75, (232, 230, 214), label)
    for u0, u1 in ((0.03, 0.17), (0.83, 0.97)):
        build.inset(bar, u0, u1, 0.25, 0.8, _TAIL, label, flags=LIT)
        build.inset(bar, u0, u1, 0.25, 0.42, _AMBER, label)
    for x in (-1.1, 0.62):
        build.polygon([(x, 0.12, z), (x + 0.48, 0.12, z), (x + 0.48, 0.62, z), (x, 0.62, z)], (22, 22, 24), label)


def _bus(build: MeshBuilder, rng: np.random.Generator) -> None:
    label = LABEL["bus"]
    paint, second = _pick(rng, _BUS_PAINTS), _pick(rng, _BUS_PAINTS)
    half, back, front, top = 1.27, -5.7, 5.7, float(rng.uniform(2.95, 3.2))
    _underbody(build, label, half, back + 0.2, front - 0.2, 0.4, 0.48)
    box = (-half, half, back, front)
    body = build.tapered(box, (-half * 0.97, half * 0.97, back + 0.12, front - 0.1), 0.32, top, paint, label)
    for side in "lr":
        build.inset(body[side], 0.02, 0.98, 0.42, 0.82, (120, 120, 120), label, BUS_SIDE)
        build.inset(body[side], 0.0, 1.0, 0.16, 0.26, second, label)
    for u0, u1 in ((0.78, 0.88), (0.46, 0.58), (0.1, 0.2)):  # doors to the pavement
        build.inset(body["r"], u0, u1, 0.04, 0.84, (50, 54, 58), label)
        build.inset(body["r"], u0 + 0.005, (u0 + u1) / 2 - 0.003, 0.08, 0.8, _GLASS, label, GLASS)
        build.inset(body["r"], (u0 + u1) / 2 + 0.003, u1 - 0.005, 0.08, 0.8, _GLASS, label, GLASS)
    _wheels(build, label, half, (back + 2.6, front - 2.6), 0.48)
    build.inset(body["n"], 0.1, 0.9, 0.5, 0.84, _GLASS, label, GLASS)
    build.inset(body["n"], 0.3, 0.7, 0.86, 0.95, (30, 30, 30), label)
    build.inset(body["n"], 0.42, 0.58, 0.88, 0.93, (250, 170, 40), label, flags=LIT)
    build.inset(body["n"], 0.12, 0.88, 0.16, 0.4, _darker(paint, 0.72), label)
    build.inset(body["n"], 0.0, 1.0, 0.0, 0.08, _DARK, label)
    build.inset(body["n"], 0.38, 0.62, 0.1, 0.15, (232, 230, 214), label)
    for u0, u1 in ((0.02, 0.09), (0.91, 0.98)):
        build.inset(body["n"], u0, u1, 0.14, 0.4, _TAIL, label, flags=LIT)
    build.inset(body["f"], 0.05, 0.95, 0.3, 0.84, _GLASS, label, GLASS)
    build.inset(body["f"], 0.2, 0.8, 0.86, 0.97, (24, 24, 24), label)
    build.inset(body["f"], 0.28, 0.72, 0.885, 0.945, (250, 170, 40), label, flags=LIT)
    build.inset(body["f"], 0.0, 1.0, 0.0, 0.1, _darker(paint, 0.5), label)
    for u0, u1 in ((0.05, 0.2), (0.8, 0.95)):
        build.inset(body["f"], u0, u1, 0.13, 0.22, _HEAD, label, flags=LIT)


def _train_section(build: MeshBuilder, rng: np.random.Generator, kind: str) -> None:
    label = LABEL["train"]
    paint, second = _pick(rng, _BUS_PAINTS), _pick(rng, _CAR_PAINTS)
    half, top = 1.25, 3.35
    back, front = -TRAIN_SECTION_M / 2 + 0.25, TRAIN_SECTION_M / 2 - 0.25
    nose = 0.7 if kind == "train-head" else 0.0
    tail = 0.7 if kind == "train-tail" else 0.0
    build.tapered(
        (-0.9, 0.9, back - 0.3, front + 0.3), (-0.9, 0.9, back - 0.3, front + 0.3), 0.5, 3.1, (40, 40, 42), label, CORRUGATED
    )
    low = (-half, half, back, front)
    build.tapered(
        (-1.1, 1.1, back + 0.4, front - 0.4),
        (-1.1, 1.1, back + 0.4, front - 0.4),
        0.02,
        0.35,
        (34, 32, 32),
        label,
        faces="lrnf",
    )
    body = build.tapered(low, (-half * 0.94, half * 0.94, back + tail, front - nose), 0.3, top, paint, label)
    build.shadow(-half - 0.15, half + 0.15, back - 0.3, front + 0.3, 0.5)
    for side in "lr":
        build.inset(body[side], 0.03, 0.97, 0.42, 0.8, (120, 120, 120), label, BUS_SIDE)
        build.inset(body[side], 0.0, 1.0, 0.0, 0.12, second, label)
        build.inset(body[side], 0.0, 1.0, 0.86, 0.92, _darker(second, 0.8), label)
        build.inset(body[side], 0.42, 0.58, 0.04, 0.84, _darker(paint, 0.7), label)
        build.inset(body[side], 0.435, 0.565, 0.3, 0.8, _GLASS, label, GLASS)
    box = (-0.6, 0.6, -1.2, 1.2)
    build.tapered(box, box, top, top + 0.3, (120, 122, 124), label)
    for end, lamp in (("n", _TAIL), ("f", _HEAD)):
        build.inset(body[end], 0.08, 0.92, 0.36, 0.78, _GLASS, label, GLASS)
        build.inset(body[end], 0.2, 0.8, 0.84, 0.95, (24, 24, 24), label)
        build.inset(body[end], 0.3, 0.7, 0.87, 0.93, (250, 180, 50), label, flags=LIT)
        build.inset(body[end], 0.0, 1.0, 0.0, 0.12, second, label)
        for u0, u1 in ((0.08, 0.22), (0.78, 0.92)):
            build.inset(body[end], u0, u1, 0.18, 0.27, lamp, label, flags=LIT)
