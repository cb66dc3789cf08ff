"""The town along the road, made chunk by chunk: ground, houses, gardens, trees, signs and what is parked.

A chunk is a function of the seed and its index. Nothing here moves; traffic, people and signals are in `traffic.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lmanet_core.street import buildings, furniture
from lmanet_core.street.drive import JUNCTION_M, STOP_LINE_M
from lmanet_core.street.figures import Bars, bicycle, motorcycle
from lmanet_core.street.ground import PAVEMENT_M, GroundStyle, add_ground
from lmanet_core.street.mesh import LABEL, Color, Mesh, MeshBuilder, join_meshes, move_mesh
from lmanet_core.street.road import BLOCK_CHUNKS, CHUNK_M, Place, Road
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.textures import FACADES, GRASS, GRAVEL, SLABS
from lmanet_core.street.vehicles import vehicle_mesh

RAIL_ACROSS_M = -19.0

_PARKED_M = 4.75
_CLEAR_FROM_M, _CLEAR_TO_M = STOP_LINE_M - 14.0, JUNCTION_M + 12.0
_LOT_FROM_M, _LOT_TO_M = JUNCTION_M - 10.0, JUNCTION_M + 10.0


@dataclass(frozen=True)
class TownStyle:
    """What gives one town its look.

    Attributes:
        facades: indices of the facade textures in use.
        leaf, grass, asphalt, pavement, lamp: colours.
        tracks: trams share the road.
        tree_every_m: distance of street trees; 0: none.
        sun_heading, sun_height: direction to the sun, radians; heading positive to the right of the road's zero heading.
        sunny: whether the sun casts shadows.
        sun, ambient: light, as factors on colours.
        sky, haze: colours at the zenith and at the horizon.
        haze_per_m: extinction of clear air.
    """

    facades: tuple[int, ...]
    leaf: Color
    grass: Color
    asphalt: Color
    pavement: Color
    lamp: Color
    tracks: bool
    tree_every_m: float
    sun_heading: float
    sun_height: float
    sunny: bool
    sun: Color
    ambient: Color
    sky: Color
    haze: Color
    haze_per_m: float


def town_style(seed: int) -> TownStyle:
    """Draw the look of a town."""
    rng = generator(seed, Topic.TOWN)
    grey = float(rng.uniform(84, 122))
    slab = float(rng.uniform(140, 182))
    sunny = bool(rng.random() < 0.65)
    warm = float(rng.uniform(0, 1))
    sky = ((104.0, 150.0, 208.0), (84.0, 136.0, 212.0), (128.0, 164.0, 206.0))[int(rng.integers(3))]
    haze = (214.0 + 14 * warm, 220.0, 228.0 - 12 * warm)
    if not sunny:
        sky, haze = (166.0, 174.0, 184.0), (206.0, 209.0, 212.0)
    strength = float(rng.uniform(0.5, 0.66)) if sunny else 0.14
    base = float(rng.uniform(0.5, 0.6)) if sunny else float(rng.uniform(0.74, 0.86))
    leaf = ((82.0, 112.0, 52.0), (96.0, 122.0, 58.0), (70.0, 98.0, 54.0), (128.0, 118.0, 56.0))[int(rng.integers(4))]
    return TownStyle(
        facades=tuple(int(f) for f in rng.permutation(FACADES)[: int(rng.integers(4, 8))]),
        leaf=leaf,
        grass=(float(rng.uniform(88, 128)), float(rng.uniform(118, 142)), float(rng.uniform(56, 74))),
        asphalt=(grey, grey * float(rng.uniform(0.97, 1.01)), grey * float(rng.uniform(0.94, 1.04))),
        pavement=(slab, slab * float(rng.uniform(0.94, 0.99)), slab * float(rng.uniform(0.86, 0.98))),
        lamp=((126.0, 130.0, 132.0), (58.0, 66.0, 62.0), (86.0, 88.0, 92.0))[int(rng.integers(3))],
        tracks=bool(rng.random() < 0.5),
        tree_every_m=float(rng.choice((0.0, 9.0, 13.0, 18.0))),
        sun_heading=float(rng.uniform(-math.pi, math.pi)),
        sun_height=float(rng.uniform(0.45, 1.0)),
        sunny=sunny,
        sun=(strength * 1.06, strength, strength * (0.95 - 0.14 * warm)),
        ambient=(base * 0.97, base, base * 1.05),
        sky=sky,
        haze=haze,
        haze_per_m=1 / float(rng.uniform(500, 1100)),
    )


class Chunk(NamedTuple):
    """What stands in one chunk, in its frame.

    Attributes:
        mesh: everything made of polygons.
        figures: parked bicycles and motorcycles and where they stand.
    """

    mesh: Mesh
    figures: list[tuple[Bars, Place]]


class Town:
    """Makes and keeps the chunks around the camera."""

    def __init__(self, seed: int, road: Road, traffic: float) -> None:
        self.style = town_style(seed)
        self._seed, self._road, self._traffic = seed, road, traffic
        self.chunk = lru_cache(maxsize=14)(self._chunk)

    def side_style(self, block: int, side: int) -> str:
        """What lines the street in a block on the left (−1) or right (+1): "houses", "suburb", "park", "works", "rail"."""
        rng = generator(self._seed, Topic.BLOCK, block, side)
        kinds = ("houses", "suburb", "park", "works", "rail")
        weights = (0.42, 0.24, 0.12, 0.12, 0.1) if side > 0 else (0.34, 0.2, 0.1, 0.08, 0.28)
        kind = str(rng.choice(kinds, p=weights))
        return "park" if kind == "rail" and side > 0 else kind

    def _chunk(self, chunk: int) -> Chunk:
        rng = generator(self._seed, Topic.CHUNK, chunk)
        block, part = divmod(chunk, BLOCK_CHUNKS)
        block_m = part * CHUNK_M
        style = self.style
        build = MeshBuilder(self._sun_in_chunk(chunk) if style.sunny else None)
        kinds = (self.side_style(block, -1), self.side_style(block, 1))
        lawns = [_lawn(kind, style) for kind in kinds]
        ground = GroundStyle(
            asphalt=style.asphalt,
            pavement=style.pavement,
            kerb=(style.pavement[0] * 0.82, style.pavement[1] * 0.82, style.pavement[2] * 0.82),
            paint=(222, 222, 214),
            lawns=(lawns[0][0], lawns[1][0]),
            lawn_textures=(lawns[0][1], lawns[1][1]),
            lawn_labels=(lawns[0][2], lawns[1][2]),
            verges=(self._has_verge(block, -1), self._has_verge(block, 1)),
            grass=(style.grass[0] * 0.95, style.grass[1] * 0.97, style.grass[2]),
            tracks=style.tracks,
        )
        add_ground(build, self._road, chunk, ground, block_m, rng, rail_across=RAIL_ACROSS_M if kinds[0] == "rail" else None)
        for side, kind in zip((-1, 1), kinds, strict=True):
            site = _Site(build, rng, self._road, chunk, block_m, side, style)
            _LINERS[kind](site)
            _furnish(site, kind)
        meshes = [build.finish()]
        figures: list[tuple[Bars, Place]] = []
        self._park(chunk, block_m, rng, meshes, figures)
        return Chunk(join_meshes(meshes), figures)

    def _has_verge(self, block: int, side: int) -> bool:
        return bool(generator(self._seed, Topic.BLOCK, block, side, 1).random() < 0.42)

    def _sun_in_chunk(self, chunk: int) -> tuple[float, float, float]:
        style = self.style
        heading = style.sun_heading - self._road.heading(chunk * CHUNK_M)
        flat = math.cos(style.sun_height)
        return math.sin(heading) * flat, math.sin(style.sun_height), math.cos(heading) * flat

    def _park(
        self, chunk: int, block_m: float, rng: np.random.Generator, meshes: list[Mesh], figures: list[tuple[Bars, Place]]
    ) -> None:
        for side in (-1, 1):
            share = float(rng.choice((0.1, 0.4, 0.8))) * min(self._traffic, 1.15)
            s = 1.0
            while s < CHUNK_M - 5.2:
                kind = str(rng.choice(("car", "van", "truck"), p=(0.88, 0.08, 0.04)))
                room = {"car": 5.4, "van": 6.2, "truck": 10.6}[kind]
                jitter, wanted, variant = float(rng.uniform(0, 0.5)), rng.random() < share, int(rng.integers(1 << 30))
                middle = s + room / 2 + jitter
                s += room + jitter
                blocked = block_m + middle + room / 2 > _CLEAR_FROM_M and block_m + middle - room / 2 < _CLEAR_TO_M
                if not wanted or blocked or middle + room / 2 > CHUNK_M:
                    continue
                x, z, heading = self._road.in_chunk(chunk, middle, side * (_PARKED_M + float(rng.normal(0, 0.06))))
                turned = heading + (0.0 if side > 0 or rng.random() < 0.2 else math.pi) + float(rng.normal(0, 0.015))
                meshes.append(move_mesh(vehicle_mesh(kind, variant), x, z, turned))
            self._park_two_wheelers(chunk, block_m, side, rng, figures)

    def _park_two_wheelers(
        self, chunk: int, block_m: float, side: int, rng: np.random.Generator, figures: list[tuple[Bars, Place]]
    ) -> None:
        if rng.random() > 0.6 * min(self._traffic, 1.5):
            return
        s, motor = float(rng.uniform(3, CHUNK_M - 8)), rng.random() < 0.45
        for i in range(int(rng.integers(1, 5))):
            at = s + 0.9 * i
            if _CLEAR_FROM_M < block_m + at < _CLEAR_TO_M:
                continue
            variant = int(rng.integers(1 << 30))
            bars = motorcycle(variant, False) if motor else bicycle(variant, 0.0, False)
            x, z, heading = self._road.in_chunk(chunk, at, side * 6.5)
            figures.append((bars, Place(chunk, x, z, heading + side * (1.2 + float(rng.normal(0, 0.1))))))


def _lawn(kind: str, style: TownStyle) -> tuple[Color, int, int]:
    if kind == "houses":
        return style.pavement, SLABS, LABEL["sidewalk"]
    if kind == "works":
        return (138.0, 128.0, 108.0), GRAVEL, LABEL["terrain"]
    return style.grass, GRASS, LABEL["terrain"]


@dataclass(frozen=True)
class _Site:
    """One side of one chunk, being built."""

    build: MeshBuilder
    rng: np.random.Generator
    road: Road
    chunk: int
    block_m: float
    side: int
    style: TownStyle

    def place(self, along: float, across: float = 0.0) -> None:
        """Put the builder's frame at a point; x runs away from the road's centre line on either side."""
        x, z, heading = self.road.in_chunk(self.chunk, along, self.side * across)
        self.build.place(x, z, heading, mirror=self.side < 0)

    def place_facing(self, along: float, across: float) -> None:
        """As `place`, but x always to the right as the camera sees it: for things with a face."""
        x, z, heading = self.road.in_chunk(self.chunk, along, self.side * across)
        self.build.place(x, z, heading)

    def at_crossing(self, along: float, margin: float = 0.0) -> bool:
        return _LOT_FROM_M - margin < self.block_m + along < _LOT_TO_M + margin

    def lots(self, low: float, high: float) -> list[tuple[float, float]]:
        """(middle, width) of lots that fill the chunk, leaving out the cross street."""
        spans = [(0.0, CHUNK_M)]
        if self.block_m < _LOT_FROM_M < self.block_m + CHUNK_M:
            spans = [(0.0, _LOT_FROM_M - self.block_m), (_LOT_TO_M - self.block_m, CHUNK_M)]
        lots = []
        for start, stop in spans:
            count = max(1, round((stop - start) / float(self.rng.uniform(low, high))))
            cuts = np.linspace(start, stop, count + 1)
            cuts[1:-1] += self.rng.uniform(-1.2, 1.2, count - 1)
            lots += [((a + b) / 2, b - a) for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]
        return lots

    def barriers(self, kind: str, x: float, height: float, gaps: float = 0.0) -> None:
        """A row of wall, fence or hedge panels along the chunk."""
        paint = buildings.hedge_color(self.rng) if kind == "hedge" else buildings.fence_color(self.rng, kind)
        for i in range(int(CHUNK_M / 4)):
            middle = 4 * i + 2.0
            if self.at_crossing(middle, 1.0) or self.rng.random() < gaps:
                continue
            self.place(middle)
            buildings.barrier(self.build, self.rng, kind, x, -2.02, 2.02, paint, height)

    def leaf(self) -> Color:
        shift = float(self.rng.normal(0, 9))
        leaf = self.style.leaf
        return leaf[0] + shift + float(self.rng.normal(0, 8)), leaf[1] + shift, leaf[2] + shift / 2

    def tree(self, along: float, across: float, low: float, high: float) -> None:
        if self.at_crossing(along):
            return
        self.place_facing(along, across)
        furniture.tree(self.build, self.rng, float(self.rng.uniform(low, high)), self.leaf())


def _line_houses(site: _Site) -> None:
    for middle, width in site.lots(8.0, 14.0):
        if site.rng.random() < 0.08:  # a gap: yard wall with a tree behind
            site.place(middle)
            paint = buildings.fence_color(site.rng, "wall")
            buildings.barrier(site.build, site.rng, "wall", 9.8, -width / 2, width / 2, paint, 2.2)
            site.tree(middle, 13.0, 0.9, 1.5)
            continue
        site.place(middle)
        buildings.townhouse(site.build, site.rng, width, PAVEMENT_M + 0.4, list(site.style.facades))


def _line_suburb(site: _Site) -> None:
    kind = str(site.rng.choice(("hedge", "boards", "railings", "wall"), p=(0.38, 0.22, 0.22, 0.18)))
    height = float(
        {"hedge": site.rng.uniform(1.0, 2.0), "wall": site.rng.uniform(0.9, 1.9)}.get(kind, site.rng.uniform(0.9, 1.5))
    )
    site.barriers(kind, PAVEMENT_M + 0.1, height, gaps=0.08)
    for middle, width in site.lots(14.0, 20.0):
        site.place(middle)
        if width > 9.0:
            front = float(site.rng.uniform(13.0, 16.0))
            buildings.detached_house(site.build, site.rng, min(width - 4.0, 12.0), front, list(site.style.facades))
        for _ in range(int(site.rng.integers(1, 4))):
            site.tree(middle + float(site.rng.uniform(-0.5, 0.5)) * width, float(site.rng.uniform(10.8, 12.5)), 0.5, 1.2)
        site.place_facing(middle + float(site.rng.uniform(-0.4, 0.4)) * width, 11.0)
        furniture.bush(site.build, site.rng, float(site.rng.uniform(0.8, 1.6)), site.leaf())


def _line_park(site: _Site) -> None:
    rng = site.rng
    if rng.random() < 0.5:
        kind = str(rng.choice(("railings", "hedge", "wall")))
        site.barriers(kind, PAVEMENT_M + 0.2, float(rng.uniform(0.8, 1.2)))
    for row, spread in ((30.0, 6), (21.0, 5), (13.0, 4)):
        for _ in range(spread):
            site.tree(float(rng.uniform(0, CHUNK_M)), row + float(rng.uniform(-3.5, 3.5)), 0.9, 1.7)
    for _ in range(3):
        along = float(rng.uniform(0, CHUNK_M))
        if not site.at_crossing(along):
            site.place_facing(along, float(rng.uniform(11, 18)))
            furniture.bush(site.build, rng, float(rng.uniform(0.8, 2.0)), site.leaf())


def _line_works(site: _Site) -> None:
    rng = site.rng
    kind = str(rng.choice(("wall", "railings", "wall", "boards")))
    site.barriers(kind, PAVEMENT_M + 0.1, float(rng.uniform(1.8, 2.8)))
    for middle, width in site.lots(20.0, 40.0):
        site.place(middle)
        buildings.hall(site.build, rng, width - 2.0, float(rng.uniform(13, 18)))
    if rng.random() < 0.6:
        site.tree(float(rng.uniform(3, 37)), 11.5, 0.8, 1.4)


def _line_rail(site: _Site) -> None:
    rng = site.rng
    if rng.random() < 0.6:
        site.barriers(str(rng.choice(("railings", "boards", "wall"))), 12.0, float(rng.uniform(1.0, 1.5)))
    for along in (4.0, 24.0):
        if not site.at_crossing(along):
            site.place(along, -RAIL_ACROSS_M - 3.0)
            furniture.catenary_mast(site.build)
    for _ in range(7):
        site.tree(float(rng.uniform(0, CHUNK_M)), float(rng.uniform(27, 36)), 0.9, 1.6)
    for _ in range(2):
        site.place_facing(float(rng.uniform(0, CHUNK_M)), float(rng.uniform(13, 15)))
        furniture.bush(site.build, rng, float(rng.uniform(0.5, 1.1)), site.leaf())


_LINERS: dict[str, Callable[[_Site], None]] = {
    "houses": _line_houses,
    "suburb": _line_suburb,
    "park": _line_park,
    "works": _line_works,
    "rail": _line_rail,
}


def _furnish(site: _Site, kind: str) -> None:
    """Lamps, street trees, signs and bollards along the kerb."""
    rng, style = site.rng, site.style
    for along in (12.0, 32.0) if site.side > 0 else (2.0, 22.0):
        if not site.at_crossing(along, -2.0):
            site.place(along, 6.25)
            furniture.lamp(site.build, 7.2, style.lamp, kind == "works")
    if style.tree_every_m and kind not in ("suburb", "rail"):
        for along in np.arange(5.0, CHUNK_M, style.tree_every_m).tolist():
            if rng.random() < 0.8:
                site.tree(along + float(rng.uniform(-0.5, 0.5)), 6.7, 0.75, 1.15)
    for _ in range(int(rng.integers(0, 3))):
        along = float(rng.uniform(1, CHUNK_M - 1))
        if not site.at_crossing(along, -4.0):
            site.place_facing(along, float(rng.uniform(6.1, 6.4)))
            furniture.sign(site.build, rng)
    if kind == "houses" and rng.random() < 0.4:
        start = float(rng.uniform(0, 24))
        for i in range(6):
            along = start + 2.2 * i
            if not site.at_crossing(along, -2.0):
                site.place_facing(along, 6.0)
                furniture.bollard(site.build)
