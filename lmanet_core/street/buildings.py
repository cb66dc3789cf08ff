"""Houses of all sorts, garden walls and fences.

A lot's frame: x away from the street, z along it, origin on the road's centre line at the lot's middle. Both sides of the
street use the same frame, mirrored.
"""

from __future__ import annotations

import numpy as np

from lmanet_core.street.mesh import LABEL, Color, MeshBuilder
from lmanet_core.street.textures import (
    BOARDS,
    BRICK,
    CONCRETE,
    CORRUGATED,
    FACADE,
    FACADES,
    HEDGE,
    PLASTER,
    RAILINGS,
    ROOF_TILES,
    SHOP,
    STONE,
)

_STOREY_M = 3.0
_BAY_M = 3.0
_TILE_CELLS = 4  # bays and storeys in one facade tile

WALL_PAINTS: tuple[Color, ...] = (
    (226, 206, 168), (214, 178, 130), (196, 124, 92), (232, 226, 212), (180, 176, 168), (150, 106, 84), (206, 150, 110),
    (168, 184, 190), (226, 196, 118), (190, 160, 150), (140, 146, 150), (172, 190, 160), (120, 92, 80), (204, 204, 200),
)  # fmt: skip
ROOF_PAINTS: tuple[Color, ...] = ((142, 72, 52), (92, 60, 52), (84, 86, 92), (112, 104, 98), (164, 92, 64), (60, 62, 68))
_LEAF: Color = (66, 92, 46)


def _vary(rng: np.random.Generator, color: Color, spread: float = 10.0) -> Color:
    shift = float(rng.normal(0, spread))
    r, g, b = (float(np.clip(c + shift + rng.normal(0, spread / 2), 12, 250)) for c in color)
    return r, g, b


def _cells(rng: np.random.Generator, width: float, height: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Facade tiles over a wall so that whole bays and storeys fit, and where in the tile to start."""
    bays, storeys = max(1, round(width / _BAY_M)), max(1, round(height / _STOREY_M))
    start = (int(rng.integers(_TILE_CELLS)) / _TILE_CELLS, int(rng.integers(_TILE_CELLS)) / _TILE_CELLS)
    return (bays / _TILE_CELLS, storeys / _TILE_CELLS), start


def townhouse(build: MeshBuilder, rng: np.random.Generator, width: float, front: float, facades: list[int]) -> None:
    """A house in a row: shop or door below, storeys of windows, a roof."""
    label = LABEL["building"]
    storeys = int(rng.integers(2, 6))
    ground = 3.4
    eave = ground + storeys * _STOREY_M * float(rng.uniform(0.92, 1.05))
    front += float(rng.choice((0.0, 0.0, 0.5, 1.2)))
    deep = front + float(rng.uniform(10, 13))
    half = width / 2
    paint = _vary(rng, WALL_PAINTS[int(rng.integers(len(WALL_PAINTS)))])
    facade = facades[int(rng.integers(len(facades)))]
    build.begin_part(far=True)
    tiles, start = _cells(rng, width, eave - ground)
    side_texture = (PLASTER, BRICK, CONCRETE)[int(rng.integers(3))]
    box = (front, deep, -half, half)
    build.tapered(box, box, 0.0, eave, _vary(rng, paint, 5), label, side_texture, faces="nf")
    wall = [(front, ground, half), (front, ground, -half), (front, eave, -half), (front, eave, half)]
    build.polygon(wall, paint, label, FACADE + facade, tiles=tiles, offset=start)
    _ground_floor(build, rng, width, front, ground, paint)
    cornice = [
        (front - 0.12, eave - 0.35, half),
        (front - 0.12, eave - 0.35, -half),
        (front - 0.12, eave, -half),
        (front - 0.12, eave, half),
    ]
    build.polygon(cornice, _vary(rng, (206, 200, 190), 14), label)
    build.shadow(front, deep, -half, half, eave)
    _roof(build, rng, front, deep, half, eave, along_street=True)


def _ground_floor(
    build: MeshBuilder, rng: np.random.Generator, width: float, front: float, ground: float, paint: Color
) -> None:
    label = LABEL["building"]
    half = width / 2
    face = [(front, 0.0, half), (front, 0.0, -half), (front, ground, -half), (front, ground, half)]
    if rng.random() < 0.55:
        build.polygon(
            face, _vary(rng, (150, 142, 134), 20), label, SHOP, tiles=(width / 8.0, 1.0), offset=(float(rng.random()), 0.0)
        )
        if rng.random() < 0.35:  # awning
            awning = [
                (front - 1.3, 2.5, half * 0.8),
                (front - 1.3, 2.5, -half * 0.8),
                (front, 3.1, -half * 0.8),
                (front, 3.1, half * 0.8),
            ]
            build.polygon(awning, _vary(rng, (170, 60, 50), 40), label)
            valance = [(front - 1.3, 2.25, half * 0.8), (front - 1.3, 2.25, -half * 0.8), *awning[1::-1]]
            build.polygon(valance, (214, 206, 196), label)
        return
    base = _vary(rng, paint, 14)
    build.polygon(face, base, label, (PLASTER, STONE)[int(rng.integers(2))])
    bays = max(2, round(width / _BAY_M))
    door = int(rng.integers(bays))
    for bay in range(bays):
        u0 = (bay + 0.28) / bays
        u1 = (bay + 0.72) / bays
        if bay == door:
            build.inset(face, u0 + 0.01, u1 - 0.01, 0.0, 0.72, (210, 204, 196), label)
            build.inset(face, u0 + 0.02, u1 - 0.02, 0.0, 0.69, _vary(rng, (92, 58, 44), 24), label, BOARDS)
        else:
            build.inset(face, u0, u1, 0.3, 0.78, (232, 230, 224), label)
            build.inset(face, u0 + 0.012, u1 - 0.012, 0.33, 0.75, _vary(rng, (58, 70, 86), 14), label)


def _roof(
    build: MeshBuilder, rng: np.random.Generator, front: float, deep: float, half: float, eave: float, along_street: bool
) -> None:
    label = LABEL["building"]
    paint = _vary(rng, ROOF_PAINTS[int(rng.integers(len(ROOF_PAINTS)))])
    middle = (front + deep) / 2
    if rng.random() < (0.25 if along_street else 0.08):
        edge = (front + 0.2, deep, -half + 0.2, half - 0.2)
        build.tapered(edge, edge, eave, eave + 0.5, (120, 118, 114), label, faces="lnf")
        if rng.random() < 0.5:
            box = (front + 3, front + 6, -1.5, 1.5)
            build.tapered(box, box, eave, eave + 2.4, (136, 134, 130), label)
        return
    ridge = eave + float(rng.uniform(2.4, 4.2))
    over = 0.35
    if along_street:
        for z, near in ((-half, True), (half, False)):
            gable = [(front, eave, z), (deep, eave, z), (middle, ridge, z)]
            build.polygon(gable if near else gable[::-1], _vary(rng, (168, 150, 132), 16), label, PLASTER)
        slope = [
            (front - over, eave - 0.1, half),
            (front - over, eave - 0.1, -half),
            (middle, ridge, -half),
            (middle, ridge, half),
        ]
        build.polygon(slope, paint, label, ROOF_TILES)
        for _ in range(int(rng.integers(0, 3))):
            z = float(rng.uniform(-half + 1.2, half - 1.2))
            x, y = front + 1.2, eave + 0.35
            box = (x, x + 2.2, z - 0.75, z + 0.75)
            build.tapered(box, box, y, y + 1.5, _vary(rng, (190, 184, 176), 12), label)
            glass = [
                (x - 0.02, y + 0.25, z + 0.5),
                (x - 0.02, y + 0.25, z - 0.5),
                (x - 0.02, y + 1.2, z - 0.5),
                (x - 0.02, y + 1.2, z + 0.5),
            ]
            build.polygon(glass, (60, 72, 88), label)
    else:
        left = [
            (front - over, ridge, 0.0),
            (front - over, eave - 0.2, -half - over),
            (deep, eave - 0.2, -half - over),
            (deep, ridge, 0.0),
        ]
        right = [
            (front - over, eave - 0.2, half + over),
            (front - over, ridge, 0.0),
            (deep, ridge, 0.0),
            (deep, eave - 0.2, half + over),
        ]
        gable = [(front, eave, half), (front, eave, -half), (front, ridge, 0.0)]
        build.polygon(right, paint, label, ROOF_TILES)
        build.polygon(gable, _vary(rng, (186, 168, 146), 20), label, (PLASTER, BOARDS)[int(rng.integers(2))])
        build.polygon(left, paint, label, ROOF_TILES)
    x = middle + float(rng.uniform(-1.5, 1.0))
    z = float(rng.uniform(-half, half) * 0.6)
    box = (x, x + 0.7, z - 0.35, z + 0.35)
    build.tapered(box, box, ridge - 1.2, ridge + 0.9, _vary(rng, (134, 84, 66), 14), label, BRICK)


def detached_house(build: MeshBuilder, rng: np.random.Generator, width: float, front: float, facades: list[int]) -> None:
    """A family house in its garden."""
    label = LABEL["building"]
    half = width / 2
    eave = float(rng.choice((3.2, 5.8, 6.2)))
    deep = front + float(rng.uniform(8, 11))
    paint = _vary(rng, WALL_PAINTS[int(rng.integers(len(WALL_PAINTS)))], 14)
    facade = FACADE + facades[int(rng.integers(len(facades)))]
    build.begin_part(far=True)
    for face, wide in (("n", deep - front), ("f", deep - front), ("l", width)):
        tiles, start = _cells(rng, wide, eave)
        quad = {
            "n": [(front, 0.0, -half), (deep, 0.0, -half), (deep, eave, -half), (front, eave, -half)],
            "f": [(deep, 0.0, half), (front, 0.0, half), (front, eave, half), (deep, eave, half)],
            "l": [(front, 0.0, half), (front, 0.0, -half), (front, eave, -half), (front, eave, half)],
        }[face]
        build.polygon(quad, paint, label, facade, tiles=tiles, offset=start)
        if face == "l":
            u = float(rng.uniform(0.35, 0.5))
            build.inset(quad, u, u + 1.3 / width, 0.0, 2.2 / eave, _vary(rng, (96, 62, 46), 24), label, BOARDS)
    build.shadow(front, deep, -half, half, eave + 1.5)
    _roof(build, rng, front, deep, half, eave, along_street=bool(rng.random() < 0.5))


def hall(build: MeshBuilder, rng: np.random.Generator, width: float, front: float) -> None:
    """A workshop or depot: flat, wide, few windows."""
    label = LABEL["building"]
    half, top, deep = width / 2, float(rng.uniform(5.5, 9.5)), front + 18.0
    paint = _vary(rng, ((170, 174, 176), (120, 134, 150), (196, 190, 176), (140, 96, 84))[int(rng.integers(4))], 10)
    texture = (CORRUGATED, CONCRETE, BRICK)[int(rng.integers(3))]
    build.begin_part(far=True)
    box = (front, deep, -half, half)
    quads = build.tapered(box, box, 0.0, top, paint, label, texture, faces="lnf")
    build.inset(quads["l"], 0.0, 1.0, 0.92, 1.0, _vary(rng, (80, 90, 110), 40), label)
    gates = max(1, int(width / 9))
    for gate in range(gates):
        u = (gate + 0.25) / gates
        build.inset(quads["l"], u, u + 4.0 / width, 0.0, 4.0 / top, _vary(rng, (110, 114, 120), 30), label, CORRUGATED)
    build.inset(quads["l"], 0.04, 0.96, 0.66, 0.8, (66, 80, 94), label)
    build.shadow(front, deep, -half, half, top)


def barrier(
    build: MeshBuilder, rng: np.random.Generator, kind: str, x: float, z0: float, z1: float, paint: Color, height: float
) -> None:
    """One panel of a "wall", "boards", "railings" or "hedge" along the street at x, from z0 to z1."""
    build.begin_part(far=True)
    if kind == "hedge":
        wavy = height * float(rng.uniform(0.94, 1.06))
        box = (x, x + 0.8, z0, z1)
        build.tapered(
            box, (x + 0.06, x + 0.74, z0, z1), 0.0, wavy, paint, LABEL["vegetation"], HEDGE, faces="lnft",
            top_color=(paint[0] * 1.15, paint[1] * 1.15, paint[2] * 1.1),
        )  # fmt: skip
        build.shadow(x, x + 0.8, z0, z1, wavy)
        return
    if kind == "wall":
        texture = (BRICK, PLASTER, CONCRETE, STONE)[int(paint[0] * 7) % 4]
        box = (x, x + 0.3, z0, z1)
        build.tapered(box, box, 0.0, height, paint, LABEL["wall"], texture, faces="lnft", top_color=(176, 172, 166))
        coping = [(x - 0.05, height - 0.12, z1), (x - 0.05, height - 0.12, z0), (x - 0.05, height, z0), (x - 0.05, height, z1)]
        build.polygon(coping, (170, 166, 160), LABEL["wall"])
        build.shadow(x, x + 0.3, z0, z1, height)
        return
    texture = BOARDS if kind == "boards" else RAILINGS
    label = LABEL["fence"]
    panel = [(x, 0.04, z1), (x, 0.04, z0), (x, height, z0), (x, height, z1)]
    build.polygon(panel, paint, label, texture, tiles=((z1 - z0) / 1.6, 1.0))
    build.polygon([(x, 0.04, z0), (x, 0.04, z1), (x, height, z1), (x, height, z0)], paint, label, texture)
    for z in (z0, z1):
        post = (x - 0.08, x + 0.06, z - 0.06, z + 0.06)
        build.tapered(post, post, 0.0, height + 0.1, (paint[0] * 0.7, paint[1] * 0.7, paint[2] * 0.7), label, faces="ln")
    build.shadow(x, x + 0.06, z0, z1, height)


def hedge_color(rng: np.random.Generator) -> Color:
    """Green of a hedge."""
    return _vary(rng, _LEAF, 10)


def fence_color(rng: np.random.Generator, kind: str) -> Color:
    """A colour that suits a kind of barrier."""
    paints: dict[str, tuple[Color, ...]] = {
        "wall": ((168, 160, 150), (150, 96, 76), (190, 178, 156), (134, 132, 130)),
        "boards": ((132, 96, 64), (150, 134, 112), (88, 68, 52), (212, 208, 200), (70, 96, 66)),
        "railings": ((56, 62, 60), (74, 78, 84), (44, 66, 54), (120, 122, 124)),
    }
    choices = paints[kind]
    return _vary(rng, choices[int(rng.integers(len(choices)))], 8)


def all_facades() -> list[int]:
    """Indices of the facade textures."""
    return list(range(FACADES))
