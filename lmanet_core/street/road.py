"""The course of the road: an endless, gently curving line, cut into chunks that know only their own frame.

Road coordinates are `along` (metres from the start of the drive), `across` (metres to the right of the centre line) and `up`.
A chunk's frame has its origin on the centre line at the chunk's start, x to the right, y up and z along the road there.
There is no global frame: neighbouring chunks know the step from one to the other, so an hour's drive loses no precision and
holds no history.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lmanet_core.arrays import Float64Array
from lmanet_core.street.seeding import Topic, generator

CHUNK_M = 40.0
BLOCK_CHUNKS = 5
BLOCK_M = CHUNK_M * BLOCK_CHUNKS

_STEP_M = 1.0
_OVERHANG = 30  # steps that a chunk's table goes on beyond its end, for things that stand across it


class Place(NamedTuple):
    """A position in the frame of a chunk: x right, z forward in metres, heading in radians, positive to the right."""

    chunk: int
    x: float
    z: float
    heading: float


class Road:
    """The centre line of one town's road, a closed function of the distance along it."""

    def __init__(self, seed: int) -> None:
        rng = generator(seed, Topic.ROAD)
        lengths = (rng.uniform(520, 700), rng.uniform(300, 400), rng.uniform(170, 220))
        amplitudes = (rng.uniform(0.25, 0.45), rng.uniform(0.08, 0.2), rng.uniform(0.02, 0.07))
        self._waves = [
            (2 * math.pi / float(length), float(amplitude), float(rng.uniform(0, 2 * math.pi)))
            for length, amplitude in zip(lengths, amplitudes, strict=True)
        ]
        self.table = lru_cache(maxsize=64)(self._table)

    def heading(self, along: float) -> float:
        """Direction of the road at `along`, radians, positive to the right."""
        return sum(amplitude * math.sin(omega * along + phase) for omega, amplitude, phase in self._waves)

    def _table(self, chunk: int) -> Float64Array:
        """(N, 3) x, z and heading in the chunk's frame, one row a metre from its start."""
        along = chunk * CHUNK_M + np.arange(2 * int(CHUNK_M / _STEP_M + _OVERHANG) + 1) * (_STEP_M / 2)
        heading = np.zeros_like(along)
        for omega, amplitude, phase in self._waves:
            heading += amplitude * np.sin(omega * along + phase)
        heading -= heading[0]
        middle = heading[1::2]
        x = np.concatenate([[0.0], np.cumsum(np.sin(middle))]) * _STEP_M
        z = np.concatenate([[0.0], np.cumsum(np.cos(middle))]) * _STEP_M
        return np.stack([x, z, heading[::2]], axis=1)

    def in_chunk(self, chunk: int, along: float, across: float) -> tuple[float, float, float]:
        """(x, z, heading) in the frame of `chunk` of a point near it, metres along the road from the chunk's start."""
        table = self.table(chunk)
        step = min(max(along / _STEP_M, 0.0), len(table) - 1.001)
        i = int(step)
        t = step - i
        x, z, heading = (table[i] * (1 - t) + table[i + 1] * t).tolist()
        beyond = along - step * _STEP_M
        cos, sin = math.cos(heading), math.sin(heading)
        return x + across * cos + beyond * sin, z - across * sin + beyond * cos, heading

    def locate(self, along: float, across: float = 0.0) -> Place:
        """The chunk that `along` lies in, and the place in its frame."""
        chunk = math.floor(along / CHUNK_M)
        return Place(chunk, *self.in_chunk(chunk, along - chunk * CHUNK_M, across))

    def step_to_next(self, chunk: int) -> tuple[float, float, float]:
        """(x, z, heading) of the next chunk's frame in this chunk's frame."""
        x, z, heading = self.table(chunk)[int(CHUNK_M / _STEP_M)].tolist()
        return x, z, heading
