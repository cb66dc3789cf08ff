"""People, cyclists and motorcyclists: limbs and tubes as rounded bars that always face the camera.

A bar runs between two joints and has a radius at each; many figures are posed at once with arrays. A figure's frame is
(right, up, forward) from the point on the ground below it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array
from lmanet_core.street.mesh import LABEL, Color
from lmanet_core.street.seeding import Topic, generator

BAR_CORNERS = 8
FIGURE_VARIANTS = 64

_SKIN: tuple[Color, ...] = ((236, 196, 170), (214, 166, 134), (168, 118, 88), (108, 74, 54), (226, 182, 150))
_HAIR: tuple[Color, ...] = ((40, 32, 28), (88, 62, 42), (156, 122, 74), (120, 118, 116), (24, 22, 22), (130, 60, 36))
_CLOTH: tuple[Color, ...] = (
    (38, 40, 46), (64, 70, 84), (110, 36, 40), (44, 66, 110), (160, 154, 144), (208, 204, 196), (70, 90, 64), (150, 104, 60),
    (196, 60, 60), (230, 190, 60), (90, 130, 170), (120, 70, 110), (60, 60, 60), (96, 80, 66), (228, 228, 228), (40, 100, 90),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bars:
    """N bars in one figure's frame.

    Attributes:
        ends: (N, 2, 3) joints, metres right, up and forward.
        radii: (N, 2) metres.
        colors: (N, 3) 0–255.
        labels: (N,) class ids.
        lit: (N,) whether the bar shines by itself.
    """

    ends: Float32Array
    radii: Float32Array
    colors: Float32Array
    labels: npt.NDArray[np.uint8]
    lit: npt.NDArray[np.bool_]


class _BarList:
    def __init__(self) -> None:
        self._ends: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = []
        self._radii: list[tuple[float, float]] = []
        self._colors: list[Color] = []
        self._labels: list[int] = []
        self._lit: list[bool] = []

    def add(
        self,
        a: tuple[float, float, float],
        b: tuple[float, float, float],
        radius: float | tuple[float, float],
        color: Color,
        label: int,
        lit: bool = False,
    ) -> None:
        self._ends.append((a, b))
        self._radii.append(radius if isinstance(radius, tuple) else (radius, radius))
        self._colors.append(color)
        self._labels.append(label)
        self._lit.append(lit)

    def finish(self, scale: float = 1.0) -> Bars:
        return Bars(
            np.array(self._ends, np.float32) * scale,
            np.array(self._radii, np.float32) * scale,
            np.array(self._colors, np.float32),
            np.array(self._labels, np.uint8),
            np.array(self._lit, np.bool_),
        )


def _pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    base = colors[int(rng.integers(len(colors)))]
    r, g, b = (float(np.clip(c + rng.normal(0, 9), 10, 245)) for c in base)
    return r, g, b


def _dim(color: Color, by: float) -> Color:
    return color[0] * by, color[1] * by, color[2] * by


def pedestrian(variant: int, phase: float, swing: float) -> Bars:
    """A person on foot.

    Args:
        variant: which person; clothes, build and height.
        phase: of the gait, radians.
        swing: 0 standing … 1 walking.
    """
    rng = generator(variant % FIGURE_VARIANTS, Topic.FIGURE, 0)
    label = LABEL["person"]
    skin, hair = _pick(rng, _SKIN), _pick(rng, _HAIR)
    shirt, legs, shoes = _pick(rng, _CLOTH), _pick(rng, _CLOTH), _pick(rng, _CLOTH[:5])
    height = float(rng.choice((rng.normal(1.74, 0.08), rng.normal(1.2, 0.12)), p=(0.9, 0.1)))
    build = float(rng.uniform(0.88, 1.2))
    coat, skirt, bag, hat = (bool(rng.random() < p) for p in (0.3, 0.18, 0.35, 0.15))
    bars = _BarList()
    bob = 0.02 * swing * math.cos(2 * phase)
    hip, shoulder = 0.92 + bob, 1.42 + bob
    for side, angle in ((-1, math.sin(phase)), (1, -math.sin(phase))):
        thigh = 0.5 * swing * angle
        bend = swing * (0.5 * max(0.0, math.cos(phase) * -side) + 0.08)
        knee = (side * 0.09, hip - 0.44 * math.cos(thigh), 0.44 * math.sin(thigh))
        ankle = (side * 0.09, knee[1] - 0.42 * math.cos(thigh - bend), knee[2] + 0.42 * math.sin(thigh - bend))
        leg_color = _dim(skin, 0.95) if skirt else legs
        bars.add((ankle[0], ankle[1] - 0.03, ankle[2]), (ankle[0], ankle[1] - 0.04, ankle[2] + 0.16), 0.045, shoes, label)
        bars.add(knee, ankle, (0.065 * build, 0.05), leg_color, label)
        bars.add((side * 0.09, hip, 0.0), knee, (0.09 * build, 0.07 * build), _dim(leg_color, 0.94 if side < 0 else 1.0), label)
        arm = -0.45 * swing * angle
        elbow = (side * (0.23 * build + 0.02), shoulder - 0.03 - 0.28 * math.cos(arm), 0.28 * math.sin(arm))
        hand = (elbow[0], elbow[1] - 0.25 * math.cos(arm + 0.3), elbow[2] + 0.25 * math.sin(arm + 0.3))
        bars.add((side * 0.2 * build, shoulder, 0.0), elbow, (0.06, 0.05), _dim(shirt, 0.86), label)
        bars.add(elbow, hand, 0.04, _dim(shirt, 0.86) if coat else skin, label)
    if coat or skirt:
        bars.add((0.0, hip, 0.0), (0.0, 0.55, 0.0), (0.16 * build, 0.21 * build), shirt if coat else legs, label)
    bars.add((0.0, hip - 0.02, 0.0), (0.0, shoulder - 0.05, 0.0), (0.145 * build, 0.185 * build), shirt, label)
    bars.add((0.0, shoulder + 0.02, 0.0), (0.0, 1.55 + bob, 0.01), 0.05, skin, label)
    bars.add((0.0, 1.58 + bob, 0.02), (0.0, 1.63 + bob, 0.02), (0.085, 0.095), skin, label)
    crown = _pick(rng, _CLOTH) if hat else hair
    bars.add((0.0, 1.62 + bob, -0.03), (0.0, 1.68 + bob, 0.0), (0.085, 0.09), crown, label)
    if bag:
        bars.add((0.0, 1.05, -0.17), (0.0, 1.32, -0.17), (0.12, 0.13), _pick(rng, _CLOTH), label)
    return bars.finish(height / 1.75)


def _wheel(bars: _BarList, z: float, radius: float, tyre: float, label: int, segments: int, disc: bool) -> None:
    points = [
        (0.0, radius + tyre * 0.5 + radius * math.sin(a), z + radius * math.cos(a))
        for a in np.linspace(0, 2 * math.pi, segments + 1).tolist()
    ]
    hub = (0.0, radius + tyre * 0.5, z)
    for i in range(segments if disc else 0):
        bars.add(hub, points[i], 0.05, (92, 92, 96), label)
    for a, b in itertools.pairwise(points):
        bars.add(a, b, tyre, (28, 28, 30), label)
    for i in range(0 if disc else segments // 2):
        bars.add(hub, points[2 * i], 0.008, (150, 150, 152), label)


def _rider(
    bars: _BarList, rng: np.random.Generator, seat: float, reach: float, lean: float, feet: Float32Array, helmet: bool
) -> None:
    """A seated body; `feet` (2, 3) are where left and right foot are."""
    label = LABEL["rider"]
    skin, shirt, legs = _pick(rng, _SKIN), _pick(rng, _CLOTH), _pick(rng, _CLOTH[:8])
    hip_z, shoulder_z = -0.18, -0.18 + lean
    shoulder = seat + 0.5
    for side, foot in zip((-1, 1), feet.tolist(), strict=True):
        hip = (side * 0.09, seat, hip_z)
        middle = [(hip[i] + foot[i]) / 2 for i in range(3)]
        knee = (side * 0.12, middle[1] + 0.12, middle[2] + 0.2)
        bars.add(knee, (foot[0], foot[1], foot[2]), (0.065, 0.05), legs, label)
        bars.add(hip, knee, (0.095, 0.075), _dim(legs, 0.9), label)
        bars.add((foot[0], foot[1], foot[2] - 0.06), (foot[0], foot[1], foot[2] + 0.12), 0.04, (40, 38, 38), label)
        elbow = (side * 0.27, shoulder - 0.24, (shoulder_z + reach) / 2)
        bars.add((side * 0.19, shoulder, shoulder_z), elbow, (0.06, 0.05), _dim(shirt, 0.86), label)
        bars.add(elbow, (side * 0.25, seat + 0.1, reach), 0.045, _dim(shirt, 0.8) if helmet else skin, label)
    bars.add((0.0, seat, hip_z), (0.0, shoulder - 0.03, shoulder_z), (0.16, 0.19), shirt, label)
    head_z = shoulder_z + 0.06
    bars.add((0.0, shoulder + 0.05, shoulder_z), (0.0, shoulder + 0.14, head_z), 0.05, skin, label)
    if helmet:
        bars.add((0.0, shoulder + 0.2, head_z), (0.0, shoulder + 0.26, head_z), 0.135, _pick(rng, _CLOTH), label)
        bars.add((0.0, shoulder + 0.21, head_z + 0.09), (0.0, shoulder + 0.22, head_z + 0.1), 0.075, (30, 32, 36), label)
    else:
        bars.add((0.0, shoulder + 0.17, head_z), (0.0, shoulder + 0.22, head_z), (0.085, 0.095), skin, label)
        bars.add((0.0, shoulder + 0.23, head_z - 0.03), (0.0, shoulder + 0.28, head_z - 0.01), 0.09, _pick(rng, _HAIR), label)


def bicycle(variant: int, phase: float, ridden: bool) -> Bars:
    """A bicycle, with its rider or parked; `phase` of the pedals in radians."""
    rng = generator(variant % FIGURE_VARIANTS, Topic.FIGURE, 1)
    label = LABEL["bicycle"]
    paint = _pick(rng, _CLOTH)
    bars = _BarList()
    rear, front, hub = -0.53, 0.55, 0.345
    for z in (rear, front):
        _wheel(bars, z, 0.325, 0.03, label, 12, False)
    seat_tube, crank, head = (0.0, 0.82, -0.17), (0.0, 0.3, -0.02), (0.0, 0.84, 0.4)
    for a, b in (
        ((0.0, hub, rear), seat_tube),
        ((0.0, hub, rear), crank),
        (crank, seat_tube),
        (crank, head),
        (seat_tube, head),
    ):
        bars.add(a, b, 0.024, paint, label)
    bars.add(head, (0.0, hub, front), 0.022, _dim(paint, 0.8), label)
    bars.add((0.0, 0.9, -0.26), (0.0, 0.92, -0.06), (0.06, 0.035), (32, 30, 30), label)
    bars.add((-0.27, 1.02, 0.36), (0.27, 1.02, 0.36), 0.022, (60, 60, 62), label)
    bars.add((0.0, 1.0, 0.37), head, 0.02, (60, 60, 62), label)
    bars.add((0.0, 0.62, rear - 0.3), (0.0, 0.68, rear - 0.28), 0.035, (196, 24, 22), label, True)
    bars.add((0.0, 0.9, front - 0.08), (0.0, 0.92, front - 0.06), 0.035, (246, 244, 220), label, True)
    if rng.random() < 0.4:
        bars.add((-0.1, 0.78, rear), (0.1, 0.78, rear), 0.11, _pick(rng, _CLOTH), label)
    if ridden:
        feet = np.array(
            [
                (s * 0.12, 0.3 + 0.16 * math.sin(phase + a), 0.0 + 0.16 * math.cos(phase + a))
                for s, a in ((-1, 0.0), (1, math.pi))
            ],
            np.float32,
        )
        for x, y, z in feet.tolist():
            bars.add(crank, (x * 0.7, y, z), 0.018, (70, 70, 72), label)
        _rider(bars, rng, 0.96, 0.36, float(rng.uniform(0.16, 0.36)), feet, bool(rng.random() < 0.4))
    return bars.finish()


def motorcycle(variant: int, ridden: bool) -> Bars:
    """A motorcycle or scooter, with its rider or parked."""
    rng = generator(variant % FIGURE_VARIANTS, Topic.FIGURE, 2)
    label = LABEL["motorcycle"]
    paint = _pick(rng, _CLOTH[2:])
    bars = _BarList()
    rear, front = -0.66, 0.7
    for z in (rear, front):
        _wheel(bars, z, 0.25, 0.075, label, 10, True)
    bars.add((0.0, 0.42, -0.35), (0.0, 0.45, 0.3), (0.17, 0.19), (58, 58, 62), label)
    bars.add((0.1, 0.36, -0.2), (0.16, 0.42, -0.85), (0.05, 0.065), (152, 152, 156), label)
    bars.add((0.0, 0.78, -0.75), (0.0, 0.72, 0.0), (0.1, 0.14), (30, 30, 32), label)
    bars.add((0.0, 0.66, -0.72), (0.0, 0.6, -0.2), (0.11, 0.15), paint, label)
    bars.add((0.0, 0.82, 0.02), (0.0, 0.84, 0.32), (0.16, 0.17), paint, label)
    bars.add((-0.07, 0.32, front), (-0.07, 0.95, 0.42), 0.035, (120, 120, 124), label)
    bars.add((0.07, 0.32, front), (0.07, 0.95, 0.42), 0.035, (120, 120, 124), label)
    bars.add((-0.38, 1.02, 0.34), (0.38, 1.02, 0.34), 0.028, (40, 40, 42), label)
    bars.add((0.0, 0.62, front), (0.0, 0.66, front - 0.25), 0.09, paint, label)
    if rng.random() < 0.5:
        bars.add((0.0, 0.9, 0.52), (0.0, 1.15, 0.4), (0.19, 0.14), paint, label)
    bars.add((0.0, 0.9, 0.56), (0.0, 0.92, 0.58), 0.085, (250, 248, 226), label, True)
    bars.add((-0.05, 0.78, rear - 0.2), (0.05, 0.78, rear - 0.2), 0.05, (200, 24, 22), label, True)
    bars.add((0.0, 0.52, rear - 0.24), (0.0, 0.56, rear - 0.24), 0.075, (226, 224, 210), label)
    if rng.random() < 0.35:
        bars.add((0.0, 0.92, rear - 0.05), (0.0, 1.08, rear - 0.05), 0.17, (44, 44, 48), label)
    if ridden:
        feet = np.array([(-0.2, 0.36, 0.0), (0.2, 0.36, 0.0)], np.float32)
        _rider(bars, rng, 0.88, 0.34, float(rng.uniform(0.12, 0.34)), feet, True)
    return bars.finish()
