"""What benchmarks/nav2_costmap.py counts, and the parameter file it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import Street, StreetConfig

ROOT = Path(__file__).parents[2]
U, F, A, L = -1, 0, 1, 2  # unknown, free, to avoid, lethal


@pytest.fixture(scope="module")
def nav2():
    """The module; its neighbours are found as they are where it is run as a script."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import nav2_costmap

        yield nav2_costmap
    finally:
        sys.path[:] = before


@pytest.fixture
def play(nav2):
    """Makes what came of a drive from rows of levels, one row of tiles a frame, and where each row begins."""

    def make(rows, starts=None):
        starts = starts or [0] * len(rows)
        grids = np.array(rows, np.int8)[:, None]
        origins = np.array([[start, 0] for start in starts], np.int64)
        return nav2.Played(grids, origins, np.ones(len(rows)), 0, 0, 0.0)

    return make


@pytest.fixture
def see(nav2):
    """Makes what is seen: tiles of the row y = 0 by x, and those of them with a person or a vehicle."""

    def make(tiles, danger=()):
        return nav2.Seen(np.array([[x, 0] for x in tiles], np.int64), np.isin(list(tiles), list(danger)))

    return make


def test_every_class_of_the_node_is_in_the_parameters_once(nav2):
    source = yaml.safe_load(nav2.PARAMETERS.read_text())["local_costmap"]["local_costmap"]["ros__parameters"]
    camera = source["semantic_layer"]["camera"]
    classes = [name for kind in camera["class_types"] for name in camera[kind]["classes"]]
    assert sorted(classes) == sorted(CITYSCAPES.names)
    assert tuple(camera["danger"]["classes"]) == nav2.DANGER


def test_a_flip_is_another_level_of_a_known_tile_in_view(nav2, play, see):
    played = play([[U, F, F, L], [F, F, L, L], [F, F, A, F]])
    # tile 0 becomes known, which is none; tile 2 flips twice, tile 3 once, but out of view
    assert nav2.count_flips(played, [see([0, 1, 2])] * 3) == (2, 2 + 3)


def test_tiles_keep_their_place_while_the_window_moves(nav2, play, see):
    still = play([[F, L, F], [L, F, F], [F, F, U]], starts=[0, 1, 2])
    assert nav2.count_flips(still, [see([1, 2])] * 3) == (0, 2 + 1)  # tile 1 leaves the window
    assert nav2.levels_at(still, 1, np.array([[-5, 0], [1, 0], [1, 7]])).tolist() == [U, L, U]


def test_wrong_tiles_are_told_by_their_kind(nav2, play, see):
    played, truth = play([[L, F, A, L]]), play([[F, L, L, L]])
    assert nav2.count_wrong(played, truth, [see(range(4))]) == (0.25, 0.5)


def test_a_thing_goes_on_while_it_moves_and_another_is_another(nav2, see):
    seen = [see(range(20), (3, 4)), see(range(20), (5, 6, 15)), see(range(20)), see(range(20), (5,))]
    things = [{at: sorted(tiles[:, 0].tolist()) for at, tiles in thing.items()} for thing in nav2.find_things(seen)]
    assert things == [{0: [3, 4], 1: [5, 6]}, {1: [15]}, {3: [5]}]


def test_things_that_meet_go_on_as_the_older_one(nav2, see):
    seen = [see(range(20), (3,)), see(range(20), (3, 9)), see(range(20), (4, 8)), see(range(20), range(4, 9))]
    assert [sorted(thing) for thing in nav2.find_things(seen)] == [[0, 1, 2, 3], [1, 2]]


def test_delay_is_from_first_sight_to_the_first_lethal_tile(nav2, play, see):
    seen = [see(range(9))] + [see(range(9), (2, 7))] * 5
    row = [F] * 9
    late = [*row[:2], L, *row[3:]]
    played = play([row, row, row, late, row, row])
    things = nav2.find_things(seen)
    assert nav2.delays_s(played, things) == [pytest.approx(0.2), np.inf]
    assert nav2.marked_at_once(played, seen) == 0.0
    assert nav2.marked_at_once(play([row, late, row, row, row, row]), seen) == 0.5


def test_what_is_seen_lies_where_the_street_is(nav2):
    street = Street(StreetConfig(seed=3, traffic=0.0, pedestrians=0.0))
    frame, pose = street.frame(40), street.camera_pose(40)
    seen = nav2.look_at(frame, pose, 0.25, 0.3, 20.0)
    away = np.linalg.norm((seen.tiles + 0.5) * 0.25 - pose[:2, 3], axis=1)
    assert 4.0 < away.min() < 7.0 and 19.0 < away.max() < 20.2
    assert len(np.unique(seen.tiles, axis=0)) == len(seen.tiles) and not seen.danger.any()


def test_quaternions_turn_as_the_matrix_does(nav2):
    half = np.sqrt(0.5)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # to the left
    assert nav2.quaternion(turn) == pytest.approx((0.0, 0.0, half, half))
    assert nav2.quaternion(np.eye(3)) == pytest.approx((0.0, 0.0, 0.0, 1.0))
