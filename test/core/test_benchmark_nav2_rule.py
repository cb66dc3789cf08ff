"""The rule of nav2's semantic segmentation layer as benchmarks/nav2_rule.py has it, a tile at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROAD, GRASS, CAR = 0, 1, 2
NONE = 255
SOURCE = {
    "min_obstacle_distance": 0.5, "max_obstacle_distance": 10.0, "tile_map_decay_time": 1.0, "use_cost_selection": True,
    "class_types": ["free", "avoid", "danger"],
    "free": {"classes": ["road"], "base_cost": 0, "max_cost": 0, "mark_confidence": 0, "samples_to_max_cost": 0,
             "dominant_priority": False},
    "avoid": {"classes": ["grass"], "base_cost": 100, "max_cost": 200, "mark_confidence": 128, "samples_to_max_cost": 2,
              "dominant_priority": False},
    "danger": {"classes": ["car"], "base_cost": 254, "max_cost": 254, "mark_confidence": 0, "samples_to_max_cost": 0,
               "dominant_priority": True},
}  # fmt: skip


@pytest.fixture
def layer():
    before = list(sys.path)
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from nav2_rule import Layer
    finally:
        sys.path[:] = before
    return Layer(SOURCE, ("road", "grass", "car"), 0.5)


def show(layer, time_s, *pixels, confidence=200):
    """A frame of pixels (x in metres, class), all in one row; gives the costs of the tiles by their x."""
    labels = np.array([[number for _, number in pixels]], np.uint8)
    points = np.array([[(x, 0.1, 0.0) for x, _ in pixels]])
    layer.add(labels, np.full(labels.shape, confidence, np.uint8), points, np.zeros(3), time_s)
    layer.update(time_s)
    return {x: cost for (x, _), cost in sorted(layer.costs.items())}


def test_the_pixel_that_costs_most_counts_in_its_tile_and_range(layer):
    far, near, nowhere = (10.5, CAR), (0.2, CAR), (np.nan, CAR)
    assert show(layer, 0.0, (1.1, ROAD), (1.2, CAR), (1.4, ROAD), (1.6, ROAD), far, near, nowhere) == {2: 254, 3: 0}


def test_a_class_takes_a_tile_over_once_it_was_seen_more_often(layer):
    costs = [show(layer, 0.1 * step, (1.1, number))[2] for step, number in enumerate([ROAD, ROAD, GRASS, GRASS, GRASS])]
    assert costs == [0, 0, 0, 0, 200]


def test_what_has_priority_takes_it_over_at_once_and_the_rest_is_forgotten(layer):
    costs = [show(layer, 0.1 * step, (1.1, number))[2] for step, number in enumerate([ROAD, ROAD, ROAD, CAR, ROAD, ROAD])]
    assert costs == [0, 0, 0, 254, 254, 0]


def test_the_highest_cost_needs_sights_and_confidence(layer):
    assert [show(layer, 0.1 * step, (1.1, GRASS))[2] for step in range(2)] == [100, 200]
    assert [show(layer, 0.1 * step, (2.1, GRASS), confidence=90)[4] for step in range(2, 4)] == [100, 100]


def test_sights_grow_old_and_a_tile_of_which_nothing_is_left_keeps_its_cost(layer):
    assert [show(layer, at, (1.1, GRASS))[2] for at in (0.0, 0.9)] == [100, 200]
    layer.update(1.5)  # one sight left
    assert layer.costs == {(2, 0): 100}
    layer.update(5.0)
    assert layer.costs == {(2, 0): 100}


def test_what_has_no_class_says_nothing(layer):
    assert show(layer, 0.0, (1.1, NONE)) == {}
