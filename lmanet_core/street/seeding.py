"""Random numbers that depend on nothing but what they are for.

Every draw of the street comes from a generator made here from the seed, a topic and the place or time it belongs to, so that
any frame can be made at any time, alone, and comes out the same.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

_MASK = 0xFFFFFFFF


class Topic(IntEnum):
    """What a draw is for; keeps draws for different things independent of each other."""

    TOWN = 1
    ROAD = 2
    DRIVE = 3
    BLOCK = 4
    CHUNK = 5
    TEXTURE = 6
    VEHICLE = 7
    ONCOMING = 8
    CYCLIST = 9
    PEDESTRIAN = 10
    CROSSING = 11
    TRAIN = 12
    SKYLINE = 13
    VIBRATION = 14
    NOISE = 15
    RAIN = 16
    DROPS = 17
    DIRT = 18
    BLACKOUT = 19
    MIX = 20
    EXPOSURE = 21
    FIGURE = 22
    BLUR = 23


def generator(seed: int, topic: Topic, *place: int) -> np.random.Generator:
    """A generator for one seed, topic and place (chunk, slot, frame …; may be negative)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(topic), *(p & _MASK for p in place)])))


class Wobble:
    """A smooth random function of time within about ±1: a sum of sines with seeded frequencies and phases."""

    def __init__(self, rng: np.random.Generator, low_hz: float, high_hz: float, waves: int = 4) -> None:
        self._waves = [
            (2 * math.pi * float(rng.uniform(low_hz, high_hz)), float(rng.uniform(0, 2 * math.pi))) for _ in range(waves)
        ]

    def __call__(self, time_s: float) -> float:
        """Value at `time_s`."""
        total = sum(math.sin(omega * time_s + phase) for omega, phase in self._waves)
        return total / math.sqrt(2 * len(self._waves))
