"""What gives one town its look."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmanet_core.street.mesh import Color
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.textures import FACADES


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
