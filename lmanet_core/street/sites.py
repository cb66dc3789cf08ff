"""What stands along one side of the road: houses, gardens, a park, works or a railway, and the furniture of the kerb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lmanet_core.street import buildings, furniture
from lmanet_core.street.drive import JUNCTION_M
from lmanet_core.street.ground import PAVEMENT_M
from lmanet_core.street.mesh import Color, MeshBuilder
from lmanet_core.street.road import CHUNK_M, Road
from lmanet_core.street.style import TownStyle

RAIL_ACROSS_M = -19.0

_LOT_FROM_M, _LOT_TO_M = JUNCTION_M - 10.0, JUNCTION_M + 10.0


@dataclass(frozen=True)
class Site:
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
        """Whether the cross street takes this place, metres along the chunk."""
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
        """The town's green, a little different for each plant."""
        shift = float(self.rng.normal(0, 9))
        leaf = self.style.leaf
        return leaf[0] + shift + float(self.rng.normal(0, 8)), leaf[1] + shift, leaf[2] + shift / 2

    def tree(self, along: float, across: float, low: float, high: float) -> None:
        """A tree `low` to `high` times the usual size, unless in the cross street."""
        if self.at_crossing(along):
            return
        self.place_facing(along, across)
        furniture.tree(self.build, self.rng, float(self.rng.uniform(low, high)), self.leaf())


def _line_houses(site: Site) -> None:
    for middle, width in site.lots(8.0, 14.0):
        if site.rng.random() < 0.08:  # a gap: yard wall with a tree behind
            site.place(middle)
            paint = buildings.fence_color(site.rng, "wall")
            buildings.barrier(site.build, site.rng, "wall", 9.8, -width / 2, width / 2, paint, 2.2)
            site.tree(middle, 13.0, 0.9, 1.5)
            continue
        site.place(middle)
        buildings.townhouse(site.build, site.rng, width, PAVEMENT_M + 0.4, list(site.style.facades))


def _line_suburb(site: Site) -> None:
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


def _line_park(site: Site) -> None:
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


def _line_works(site: Site) -> None:
    rng = site.rng
    kind = str(rng.choice(("wall", "railings", "wall", "boards")))
    site.barriers(kind, PAVEMENT_M + 0.1, float(rng.uniform(1.8, 2.8)))
    for middle, width in site.lots(20.0, 40.0):
        site.place(middle)
        buildings.hall(site.build, rng, width - 2.0, float(rng.uniform(13, 18)))
    if rng.random() < 0.6:
        site.tree(float(rng.uniform(3, 37)), 11.5, 0.8, 1.4)


def _line_rail(site: Site) -> None:
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


LINERS: dict[str, Callable[[Site], None]] = {
    "houses": _line_houses,
    "suburb": _line_suburb,
    "park": _line_park,
    "works": _line_works,
    "rail": _line_rail,
}


def furnish(site: Site, kind: str) -> None:
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
