"""The town along the road, made chunk by chunk: ground, what lines the road, signs and what is parked.

A chunk is a function of the seed and its index. Nothing here moves; traffic, people and signals are in `traffic.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lmanet_core.street.drive import JUNCTION_M, STOP_LINE_M
from lmanet_core.street.figures import Bars, bicycle, motorcycle
from lmanet_core.street.ground import GroundStyle, add_ground
from lmanet_core.street.mesh import LABEL, Color, Mesh, MeshBuilder, join_meshes, move_mesh
from lmanet_core.street.road import BLOCK_CHUNKS, CHUNK_M, Place, Road
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.sites import LINERS, RAIL_ACROSS_M, Site, furnish
from lmanet_core.street.style import TownStyle, town_style
from lmanet_core.street.textures import GRASS, GRAVEL, SLABS
from lmanet_core.street.vehicles import vehicle_mesh

_PARKED_M = 4.75
_CLEAR_FROM_M, _CLEAR_TO_M = STOP_LINE_M - 14.0, JUNCTION_M + 12.0


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
            site = Site(build, rng, self._road, chunk, block_m, side, style)
            LINERS[kind](site)
            furnish(site, kind)
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
