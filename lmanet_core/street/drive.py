"""How the camera car moves: metres driven as a closed function of time, block by block.

Every block of the road takes the same time, so where the car is needs no history. Within a block it either flows with a
changing speed or stops at the block's red light. Oncoming traffic and cyclists move by the same clock (`Drive.driven` scaled),
so that everybody waits and goes together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmanet_core.street.road import BLOCK_M
from lmanet_core.street.seeding import Topic, generator

BLOCK_S = 26.0
STOP_LINE_M = 131.0  # from the block's start, where the light's line crosses the road
JUNCTION_M = 142.0  # centre of the cross street
LANE_M = 1.75  # centre of the right lane from the centre line

_BRAKED_S = 13.0
_HOLD_S = 3.5
_CRUISE = BLOCK_M / BLOCK_S

LEAD_LENGTHS_M = {"car": 4.6, "van": 5.2, "truck": 9.5, "bus": 11.6, "motorcycle": 2.3}


@dataclass(frozen=True)
class Lead:
    """A vehicle ahead in the own lane: joins from the cross street before the block, leaves at the one in the block."""

    kind: str
    variant: int
    gap_m: float  # between the camera and its centre, standing
    delay_s: float  # it is where the camera will be this much later, plus the gap
    enter_side: int  # it comes from the left (−1) or right (+1) street
    exit_side: int


@dataclass(frozen=True)
class BlockPlan:
    """What the drive does in one block."""

    stops: bool
    stop_m: float  # where the camera stands, from the block's start
    waves_m: tuple[float, float]  # how far it runs ahead of or behind even motion while it flows
    lead: Lead | None


class Drive:
    """The camera car's motion along the road."""

    def __init__(self, seed: int, traffic: float) -> None:
        self._seed = seed
        self._traffic = traffic
        self.plan = lru_cache(maxsize=64)(self._plan)

    def _plan(self, block: int) -> BlockPlan:
        rng = generator(self._seed, Topic.DRIVE, block)
        stops = self._stops(block)
        waves = (float(rng.uniform(-12, 12)), float(rng.uniform(-4, 4)))
        lead = None
        wanted = rng.random() < 0.9 * min(self._traffic, 1.3)
        if wanted and not self._stops(block - 1):
            lead = _draw_lead(rng)
        stop = STOP_LINE_M - 2.5
        if lead is not None:
            stop = STOP_LINE_M - 1.0 - LEAD_LENGTHS_M[lead.kind] / 2 - lead.gap_m
        return BlockPlan(stops, stop, waves, lead)

    def _stops(self, block: int) -> bool:
        return bool(generator(self._seed, Topic.DRIVE, block, 1).random() < 0.3)

    def driven(self, time_s: float) -> float:
        """Metres along the road at `time_s`."""
        return self._motion(time_s)[0]

    def speed(self, time_s: float) -> float:
        """Metres a second at `time_s`."""
        return self._motion(time_s)[1]

    def _motion(self, time_s: float) -> tuple[float, float]:
        block = math.floor(time_s / BLOCK_S)
        t = time_s - block * BLOCK_S
        plan = self.plan(block)
        start = block * BLOCK_M
        if not plan.stops:
            metres, speed = _CRUISE * t, _CRUISE
            for n, wave in enumerate(plan.waves_m, 1):
                omega = 2 * math.pi * n / BLOCK_S
                metres += wave * (1 - math.cos(omega * t))
                speed += wave * omega * math.sin(omega * t)
            return start + metres, speed
        if t < _BRAKED_S:
            metres, speed = _quintic(t, _BRAKED_S, plan.stop_m, _CRUISE, 0.0)
        elif t < _BRAKED_S + _HOLD_S:
            metres, speed = plan.stop_m, 0.0
        else:
            gone = _BRAKED_S + _HOLD_S
            metres, speed = _quintic(t - gone, BLOCK_S - gone, BLOCK_M - plan.stop_m, 0.0, _CRUISE)
            metres += plan.stop_m
        return start + metres, speed

    def light(self, block: int, time_s: float) -> str:
        """Colour of the light at the end of `block`: "red", "yellow" or "green"."""
        t = time_s - block * BLOCK_S
        if not self.plan(block).stops or t < 4.5 or t >= _BRAKED_S + _HOLD_S - 0.4:
            return "green"
        return "yellow" if t < 6.0 else "red"

    def hold_begins(self, block: int) -> float:
        """Time in seconds at which the car stands at the light of a block that stops."""
        return block * BLOCK_S + _BRAKED_S


def _draw_lead(rng: np.random.Generator) -> Lead:
    kinds = ("car", "van", "truck", "bus", "motorcycle")
    kind = str(rng.choice(kinds, p=(0.4, 0.1, 0.18, 0.16, 0.16)))
    return Lead(
        kind=kind,
        variant=int(rng.integers(1 << 30)),
        gap_m=2.0 + LEAD_LENGTHS_M[kind] / 2 + float(rng.uniform(3.0, 6.0)),
        delay_s=float(rng.uniform(0.6, 1.3)),
        enter_side=int(rng.choice((-1, 1))),
        exit_side=int(rng.choice((-1, 1))),
    )


def _quintic(t: float, duration: float, distance: float, speed_in: float, speed_out: float) -> tuple[float, float]:
    """Position and speed of the smoothest motion (no jumps of acceleration) between two speeds."""
    u = t / duration
    a, b = speed_in * duration, speed_out * duration
    c3 = 10 * distance - 6 * a - 4 * b
    c4 = -15 * distance + 8 * a + 7 * b
    c5 = 6 * distance - 3 * a - 3 * b
    position = a * u + c3 * u**3 + c4 * u**4 + c5 * u**5
    speed = (a + 3 * c3 * u**2 + 4 * c4 * u**3 + 5 * c5 * u**4) / duration
    return position, speed
