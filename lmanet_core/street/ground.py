"""The ground of a chunk: carriageway, kerbs, pavements, lawns, markings, rails and the crossing.

Heights are metres above the carriageway. Everything is cut into short strips, because the road curves and because what lies
flat is drawn strip by strip from far to near.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmanet_core.street.drive import JUNCTION_M, LANE_M, STOP_LINE_M
from lmanet_core.street.mesh import GROUND, LABEL, Color, MeshBuilder, Point
from lmanet_core.street.road import CHUNK_M, Road
from lmanet_core.street.textures import ASPHALT, GRASS, GRAVEL, PLAIN, SLABS, TILE_M

ROAD_HALF_M = 5.7  # two lanes and parking on both sides
VERGE_M = 7.0  # outer edge of a grass verge
PAVEMENT_M = 9.2  # outer edge of the pavement from the centre line
KERB_UP_M = 0.12
STRIP_M = 4.0
_EDGE_M = 60.0

_STREET_FROM_M, _STREET_TO_M = JUNCTION_M - 6.0, JUNCTION_M + 6.0


class GroundStyle(NamedTuple):
    """Colours of one chunk's ground.

    Attributes:
        asphalt, pavement, kerb, paint: colours.
        lawns: colour left and right of the pavements.
        lawn_textures, lawn_labels: what lies there.
        verges: whether grass lies between kerb and pavement, left and right.
        grass: colour of the verges.
        tracks: tram rails in both lanes.
    """

    asphalt: Color
    pavement: Color
    kerb: Color
    paint: Color
    lawns: tuple[Color, Color]
    lawn_textures: tuple[int, int]
    lawn_labels: tuple[int, int]
    verges: tuple[bool, bool]
    grass: Color
    tracks: bool


class _Strips:
    """Places flat quads given in road coordinates, along counted from the chunk's start."""

    def __init__(self, build: MeshBuilder, road: Road, chunk: int) -> None:
        self._build, self._road, self._chunk = build, road, chunk

    def quad(
        self, s0: float, s1: float, d0: float, d1: float, up: float, color: Color, label: int, texture: int = PLAIN
    ) -> None:
        corners: list[Point] = []
        for s, d in ((s0, d0), (s0, d1), (s1, d1), (s1, d0)):
            x, z, _ = self._road.in_chunk(self._chunk, s, d)
            corners.append((x, up, z))
        tile = TILE_M[texture]
        offset = (d0 / tile % 1.0, (self._chunk * CHUNK_M + s0) / tile % 1.0)
        self._build.polygon(corners, color, label, texture, offset=offset, flags=GROUND)

    def kerb(self, s0: float, s1: float, side: int, color: Color) -> None:
        points: list[Point] = []
        first, last = (s1, s0) if side > 0 else (s0, s1)
        for s, up in ((first, 0.0), (last, 0.0), (last, KERB_UP_M), (first, KERB_UP_M)):
            x, z, _ = self._road.in_chunk(self._chunk, s, side * ROAD_HALF_M)
            points.append((x, up, z))
        self._build.polygon(points, color, LABEL["sidewalk"], flags=GROUND)


def add_ground(
    build: MeshBuilder,
    road: Road,
    chunk: int,
    style: GroundStyle,
    block_m: float,
    rng: np.random.Generator,
    rail_across: float | None = None,
) -> None:
    """Add the ground of one chunk, from far to near.

    Args:
        block_m: where the chunk starts in its block.
        rail_across: where a railway runs beside the street; None: nowhere.
    """
    strips = _Strips(build, road, chunk)
    for i in reversed(range(int(CHUNK_M / STRIP_M))):
        s0 = i * STRIP_M
        at = block_m + s0
        if _STREET_FROM_M <= at < _STREET_TO_M:
            for d in (-_EDGE_M, ROAD_HALF_M):
                width = _EDGE_M - ROAD_HALF_M
                strips.quad(s0, s0 + STRIP_M, d, d + width, 0.0, style.asphalt, LABEL["road"], ASPHALT)
        else:
            corner = at in (_STREET_FROM_M - STRIP_M, _STREET_TO_M)
            _add_sides(strips, s0, style, corner)
            if rail_across is not None:
                _add_railway(strips, s0, rail_across)
        strips.quad(s0, s0 + STRIP_M, -ROAD_HALF_M, ROAD_HALF_M, 0.0, style.asphalt, LABEL["road"], ASPHALT)
    _add_patches(strips, rng, style)
    _add_markings(strips, style, block_m)


def _add_sides(strips: _Strips, s0: float, style: GroundStyle, corner: bool) -> None:
    s1 = s0 + STRIP_M
    for index, side in enumerate((-1, 1)):
        spans = [(PAVEMENT_M, _EDGE_M, style.lawns[index], style.lawn_labels[index], style.lawn_textures[index])]
        if corner:
            spans = [(PAVEMENT_M, _EDGE_M, style.pavement, LABEL["sidewalk"], SLABS)]
        spans.append((ROAD_HALF_M + 0.16, PAVEMENT_M, style.pavement, LABEL["sidewalk"], SLABS))
        spans.append((ROAD_HALF_M, ROAD_HALF_M + 0.16, style.kerb, LABEL["sidewalk"], PLAIN))
        if style.verges[index] and not corner:
            spans.append((ROAD_HALF_M + 0.16, VERGE_M, style.grass, LABEL["terrain"], GRASS))
        for near, far, color, label, texture in spans:
            d0, d1 = (near, far) if side > 0 else (-far, -near)
            strips.quad(s0, s1, d0, d1, KERB_UP_M, color, label, texture)
        strips.kerb(s0, s1, side, style.kerb)


def _add_railway(strips: _Strips, s0: float, across: float) -> None:
    up, s1 = KERB_UP_M, s0 + STRIP_M
    strips.quad(s0, s1, across - 2.2, across + 2.2, up, (112, 98, 86), LABEL["terrain"], GRAVEL)
    for i in range(4):
        strips.quad(s0 + i, s0 + i + 0.3, across - 1.3, across + 1.3, up, (88, 82, 76), LABEL["terrain"])
    for rail in (-0.72, 0.72):
        strips.quad(s0, s1, across + rail - 0.05, across + rail + 0.05, up, (136, 120, 110), LABEL["terrain"])


def _add_patches(strips: _Strips, rng: np.random.Generator, style: GroundStyle) -> None:
    """Repairs and manhole covers: the road is not one colour."""
    for _ in range(int(rng.integers(0, 4))):
        s, d = float(rng.uniform(1, CHUNK_M - 6)), float(rng.uniform(-5, 3.5))
        tone = float(rng.choice((0.7, 0.82, 1.14)))
        patch = (style.asphalt[0] * tone, style.asphalt[1] * tone, style.asphalt[2] * tone)
        strips.quad(s, s + float(rng.uniform(1, 5)), d, d + float(rng.uniform(0.6, 2.0)), 0.0, patch, LABEL["road"], ASPHALT)
    if rng.random() < 0.6:
        s, d = float(rng.uniform(2, 36)), float(rng.uniform(-3, 3))
        strips.quad(s, s + 0.7, d, d + 0.7, 0.0, (62, 60, 58), LABEL["road"])


def _add_markings(strips: _Strips, style: GroundStyle, block_m: float) -> None:
    road = LABEL["road"]
    at_junction = any(STOP_LINE_M - 1 < block_m + s < _STREET_TO_M + 2 for s in (0.0, CHUNK_M))
    for i in range(int(CHUNK_M / STRIP_M)):
        s0 = i * STRIP_M
        inside = STOP_LINE_M - 1 < block_m + s0 < _STREET_TO_M + 2
        if inside:
            continue
        if style.tracks:
            for lane in (-LANE_M, LANE_M):
                for rail in (-0.72, 0.72):
                    d = lane + rail
                    strips.quad(s0, s0 + STRIP_M, d - 0.09, d + 0.09, 0.0, (66, 64, 64), road)
                    strips.quad(s0, s0 + STRIP_M, d - 0.03, d + 0.03, 0.0, (142, 140, 138), road)
        for d in (-3.62, 3.5):
            if i % 2 == 0 or not at_junction:
                strips.quad(s0, s0 + STRIP_M, d, d + 0.12, 0.0, style.paint, road)
        if i % 2 == 0:
            strips.quad(s0, s0 + STRIP_M * 0.8, -0.08, 0.08, 0.0, style.paint, road)
    crossing = STOP_LINE_M - block_m
    if 0.0 <= crossing < CHUNK_M:
        strips.quad(crossing, crossing + 0.5, 0.15, 3.5, 0.0, style.paint, road)
        for n in range(11):
            d = -5.4 + n
            strips.quad(crossing + 1.5, crossing + 4.4, d, d + 0.5, 0.0, style.paint, road)
