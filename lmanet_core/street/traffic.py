"""Everything that moves, as a function of time: vehicles, trains, cyclists, people on foot, traffic lights.

Traffic runs in endless rows of slots; who is in a slot is drawn from the seed and the slot's number, where the slot is follows
from the time. Vehicles and cyclists share the camera car's clock (`Drive.driven`), so that they wait when it waits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from lmanet_core.street.drive import BLOCK_S, JUNCTION_M, LANE_M, STOP_LINE_M, Drive
from lmanet_core.street.figures import Bars, bicycle, motorcycle, pedestrian
from lmanet_core.street.furniture import traffic_light_mesh
from lmanet_core.street.ground import KERB_UP_M
from lmanet_core.street.mesh import Mesh
from lmanet_core.street.road import BLOCK_M
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.sites import RAIL_ACROSS_M
from lmanet_core.street.town import Town
from lmanet_core.street.vehicles import TRAIN_SECTION_M, vehicle_mesh

VIEW_M = 250.0  # how far things of the street are drawn
PEOPLE_VIEW_M = 120.0

_BEHIND_M = 6.0
_ONCOMING_RATE, _ONCOMING_M = 1.1, 24.0
_TRAM_EVERY = 11
_CYCLIST_RATE, _CYCLIST_M = 0.5, 36.0
_WALKER_M = 10.0
_WALK_LINES = ((7.2, 1.25), (8.3, -1.35), (-7.2, -1.2), (-8.3, 1.3))  # across in metres, along in metres a second
_GAIT_STEPS = 16
_STRIDE_M = 1.45
_TRAIN_SPEED = 15.0
_BACKGROUND_M = 12.0  # trains beside the street are painted before the houses they pass behind


class Mover(NamedTuple):
    """A mesh or bars on the road, in road coordinates.

    Attributes:
        body: what it is made of.
        along, across, up: where it stands, metres.
        heading: relative to the road, radians, positive to the right.
        view_m: distance at which it has vanished.
        bias_m: added to its distance when painting.
    """

    body: Mesh | Bars
    along: float
    across: float
    heading: float
    up: float = 0.0
    view_m: float = VIEW_M
    bias_m: float = 0.0


class _Slot(NamedTuple):
    kind: str
    variant: int
    shift_m: float
    across_m: float


class Traffic:
    """The traffic of one town."""

    def __init__(self, seed: int, drive: Drive, town: Town, density: float, pedestrians: float) -> None:
        self._seed, self._drive, self._town = seed, drive, town
        self._density, self._pedestrians = density, pedestrians
        self._oncoming_slot = lru_cache(maxsize=128)(self._draw_oncoming)
        self._cyclist_slot = lru_cache(maxsize=128)(self._draw_cyclist)
        self._walker_slot = lru_cache(maxsize=512)(self._draw_walker)

    def movers(self, time_s: float) -> list[Mover]:
        """Everything near the camera at `time_s`."""
        driven = self._drive.driven(time_s)
        block = math.floor(driven / BLOCK_M)
        found: list[Mover] = []
        for near in (block - 1, block, block + 1, block + 2):
            self._add_lead(found, near, time_s)
            self._add_lights(found, near, time_s)
            self._add_crossing(found, near, time_s)
            self._add_train(found, near, time_s)
        self._add_oncoming(found, driven)
        self._add_cyclists(found, driven)
        self._add_walkers(found, driven, time_s)
        return [m for m in found if -_BEHIND_M - 6 < m.along - driven < m.view_m and abs(m.across) < 70]

    def _add_lead(self, found: list[Mover], block: int, time_s: float) -> None:
        lead = self._drive.plan(block).lead
        if lead is None:
            return
        at = self._drive.driven(time_s + lead.delay_s) + lead.gap_m
        along, across, heading = _lead_path(at, block, lead.enter_side, lead.exit_side)
        body: Mesh | Bars = _motorcyclist(lead.variant) if lead.kind == "motorcycle" else vehicle_mesh(lead.kind, lead.variant)
        found.append(Mover(body, along, across, heading))

    def _add_lights(self, found: list[Mover], block: int, time_s: float) -> None:
        color = self._drive.light(block, time_s)
        line = block * BLOCK_M + STOP_LINE_M
        found.append(Mover(traffic_light_mesh(color, False), line + 0.6, 6.05, 0.0, KERB_UP_M))
        found.append(Mover(traffic_light_mesh(color, True), line + 19.5, 6.2, 0.0, KERB_UP_M))
        found.append(Mover(traffic_light_mesh(color, False), line + 19.0, -6.2, 0.0, KERB_UP_M))

    def _add_crossing(self, found: list[Mover], block: int, time_s: float) -> None:
        """People who wait at the crossing, and cross while the block's light holds the traffic."""
        if self._pedestrians <= 0:
            return
        rng = generator(self._seed, Topic.CROSSING, block)
        stops = self._drive.plan(block).stops
        for _ in range(int(rng.integers(1, 5))):
            side = int(rng.choice((-1, 1)))
            along = block * BLOCK_M + STOP_LINE_M + float(rng.uniform(2.0, 4.0))
            start, speed = self._drive.hold_begins(block) + float(rng.uniform(-3.5, 0.2)), float(rng.uniform(1.6, 2.1))
            variant, waits = int(rng.integers(1 << 30)), side * float(rng.uniform(6.2, 7.4))
            gone = max(0.0, time_s - start) * speed if stops else 0.0
            across = waits - side * gone
            walking = gone > 0
            body = _walking(variant, gone, 1.0 if walking else 0.0)
            up = KERB_UP_M if abs(across) > 5.7 else 0.0
            found.append(Mover(body, along, across, -side * math.pi / 2 if walking else -side * 1.2, up, PEOPLE_VIEW_M + 60))

    def _add_train(self, found: list[Mover], block: int, time_s: float) -> None:
        if self._town.side_style(block, -1) != "rail":
            return
        rng = generator(self._seed, Topic.TRAIN, block)
        for pass_ in range(2):
            direction, sections, variant = int(rng.choice((-1, 1))), int(rng.integers(5, 9)), int(rng.integers(1 << 30))
            middle_s = (block + (0.08, 0.48)[pass_] + float(rng.uniform(-0.06, 0.06))) * BLOCK_S
            head = block * BLOCK_M + (60.0, 120.0)[pass_] + direction * _TRAIN_SPEED * (time_s - middle_s)
            if abs(head - block * BLOCK_M - 100.0) > 300.0:
                continue
            _add_sections(found, head, RAIL_ACROSS_M, direction, sections, variant, _BACKGROUND_M)

    def _draw_oncoming(self, slot: int) -> _Slot | None:
        rng = generator(self._seed, Topic.ONCOMING, slot)
        tram = self._town.style.tracks and self._density > 0 and slot % _TRAM_EVERY == 3
        if not tram and self._town.style.tracks and slot % _TRAM_EVERY in (2, 4):
            return None
        kinds = ("car", "van", "truck", "bus", "motorcycle")
        kind = str(rng.choice(kinds, p=(0.52, 0.1, 0.11, 0.12, 0.15)))
        if not tram and rng.random() > 0.5 * self._density:
            return None
        shift = 0.0 if tram else float(rng.uniform(-4.5, 4.5))
        place = _Slot(
            "train" if tram else kind,
            int(rng.integers(1 << 30)),
            shift,
            -LANE_M + (0.0 if tram else float(rng.normal(0, 0.12))),
        )
        return None if self._stands_on_crossing(slot * _ONCOMING_M + shift, _ONCOMING_RATE, 20.0 if tram else 9.0) else place

    def _stands_on_crossing(self, home_m: float, rate: float, reach_m: float) -> bool:
        """Whether something that starts at `home_m` and comes at `rate` of the camera's pace would wait on a crossing."""
        meets = math.floor(home_m / (1 + rate) / BLOCK_M)
        for block in (meets - 1, meets, meets + 1):
            plan = self._drive.plan(block)
            stands = home_m - rate * (block * BLOCK_M + plan.stop_m)
            if plan.stops and abs(stands - block * BLOCK_M - STOP_LINE_M - 5.0) < reach_m:
                return True
        return False

    def _add_oncoming(self, found: list[Mover], driven: float) -> None:
        shift = _ONCOMING_RATE * driven
        first = math.floor((driven + shift - 40.0) / _ONCOMING_M)
        last = math.ceil((driven + shift + VIEW_M) / _ONCOMING_M)
        for number in range(first, last + 1):
            slot = self._oncoming_slot(number)
            if slot is None:
                continue
            along = number * _ONCOMING_M + slot.shift_m - shift
            if slot.kind == "train":
                _add_sections(found, along, slot.across_m, -1, 3 + slot.variant % 2, slot.variant, 0.0)
            else:
                body: Mesh | Bars = (
                    _motorcyclist(slot.variant) if slot.kind == "motorcycle" else vehicle_mesh(slot.kind, slot.variant)
                )
                found.append(Mover(body, along, slot.across_m, math.pi))

    def _draw_cyclist(self, slot: int, direction: int) -> _Slot | None:
        rng = generator(self._seed, Topic.CYCLIST, slot, direction)
        if rng.random() > 0.5 * self._density:
            return None
        kind = "bicycle" if rng.random() < 0.85 else "motorcycle"
        return _Slot(kind, int(rng.integers(1 << 30)), float(rng.uniform(-12, 12)), direction * float(rng.uniform(2.85, 3.25)))

    def _add_cyclists(self, found: list[Mover], driven: float) -> None:
        for direction in (-1, 1):
            gone = direction * _CYCLIST_RATE * driven
            first = math.floor((driven - gone - 10.0) / _CYCLIST_M)
            last = math.ceil((driven - gone + 200.0) / _CYCLIST_M)
            for number in range(first, last + 1):
                slot = self._cyclist_slot(number, direction)
                if slot is None:
                    continue
                phase = round(_CYCLIST_RATE * driven / 4.5 * _GAIT_STEPS) % _GAIT_STEPS * (2 * math.pi / _GAIT_STEPS)
                body = _riding(slot.variant, phase) if slot.kind == "bicycle" else _motorcyclist(slot.variant)
                heading = 0.0 if direction > 0 else math.pi
                found.append(Mover(body, number * _CYCLIST_M + slot.shift_m + gone, slot.across_m, heading, 0.0, 200.0))

    def _draw_walker(self, slot: int, line: int) -> _Slot | None:
        rng = generator(self._seed, Topic.PEDESTRIAN, slot, line)
        if rng.random() > 0.42 * self._pedestrians:
            return None
        return _Slot("person", int(rng.integers(1 << 30)), float(rng.uniform(-4, 4)), float(rng.uniform(-0.4, 0.4)))

    def _add_walkers(self, found: list[Mover], driven: float, time_s: float) -> None:
        for line, (across, speed) in enumerate(_WALK_LINES):
            gone = speed * time_s
            first = math.floor((driven - gone - 4.0) / _WALKER_M)
            last = math.ceil((driven - gone + PEOPLE_VIEW_M) / _WALKER_M)
            for number in range(first, last + 1):
                slot = self._walker_slot(number, line)
                if slot is None:
                    continue
                along = number * _WALKER_M + slot.shift_m + gone
                body = _walking(slot.variant, abs(gone) + slot.variant % 7, 1.0)
                on_street = abs((along % BLOCK_M) - JUNCTION_M) < 6.0
                heading = 0.12 if speed > 0 else math.pi - 0.12
                up = 0.0 if on_street else KERB_UP_M
                found.append(Mover(body, along, across + slot.across_m, heading, up, PEOPLE_VIEW_M))


def _walking(variant: int, walked_m: float, swing: float) -> Bars:
    step = round(walked_m / _STRIDE_M * _GAIT_STEPS) % _GAIT_STEPS
    return _posed_pedestrian(variant % 64, step, swing)


@lru_cache(maxsize=2048)
def _posed_pedestrian(variant: int, step: int, swing: float) -> Bars:
    return pedestrian(variant, step * 2 * math.pi / _GAIT_STEPS, swing)


@lru_cache(maxsize=1024)
def _riding(variant: int, phase: float) -> Bars:
    return bicycle(variant, phase, True)


@lru_cache(maxsize=64)
def _motorcyclist(variant: int) -> Bars:
    return motorcycle(variant, True)


def _add_sections(
    found: list[Mover], head: float, across: float, direction: int, sections: int, variant: int, bias: float
) -> None:
    for i in range(sections):
        kind = "train-head" if i == 0 else "train-tail" if i == sections - 1 else "train"
        along = head - direction * i * TRAIN_SECTION_M
        found.append(Mover(vehicle_mesh(kind, variant), along, across, 0.0 if direction > 0 else math.pi, bias_m=bias))


def _lead_path(at: float, block: int, enter_side: int, exit_side: int) -> tuple[float, float, float]:
    """(along, across, heading) of a lead vehicle `at` metres along its path: street, turn, lane, turn, street."""
    radius = 5.5 if enter_side > 0 else 8.5
    joined = (block - 1) * BLOCK_M + JUNCTION_M + enter_side * LANE_M + radius
    if at < joined:
        along, across, heading = _arc(joined - at, radius)
        return joined - along, LANE_M + enter_side * across, -enter_side * heading
    radius = 5.5 if exit_side > 0 else 8.5
    leaves = block * BLOCK_M + JUNCTION_M - exit_side * LANE_M - radius
    if at > leaves:
        along, across, heading = _arc(at - leaves, radius)
        return leaves + along, LANE_M + exit_side * across, exit_side * heading
    return at, LANE_M, 0.0


def _arc(gone: float, radius: float) -> tuple[float, float, float]:
    """(forward, sideways, turned) after `gone` metres of a quarter turn and the straight after it."""
    turned = min(gone / radius, math.pi / 2)
    beyond = max(0.0, gone - radius * math.pi / 2)
    return radius * math.sin(turned), radius * (1 - math.cos(turned)) + beyond, turned
