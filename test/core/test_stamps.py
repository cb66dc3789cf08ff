"""Stamps that drivers leave out or let stand still."""

from __future__ import annotations

import numpy as np
import pytest

from lmanet_core.media.stamps import StampSource, begins_at_zero, stamp_from_name

TENTH = 10**8
SECOND = 10**9
START = 1_700_000_000 * 10**9


def image(value):
    return np.full((16, 16, 3), value, np.uint8)


def run(given, pictures, received=None, simulated=False):
    source = StampSource(simulated)
    received = [50 * TENTH + index * TENTH for index in range(len(given))] if received is None else received
    stamps = [source.stamp_ns(*each, image(picture)) for *each, picture in zip(given, received, pictures, strict=True)]
    return stamps, source


def test_stamps_that_move_are_left_alone():
    given = [START, START + TENTH, START + TENTH, START + 2 * TENTH, START]
    stamps, source = run(given, range(5))
    assert stamps == given
    assert not source.zero
    assert not source.standing


def test_zero_is_replaced_by_the_time_of_receiving():
    stamps, source = run([0, 0, 0], [1, 1, 2])
    assert stamps == [50 * TENTH, 51 * TENTH, 52 * TENTH]
    assert source.zero


def test_standing_clock_goes_on_as_images_are_received():
    stamps, source = run([START] * 8, range(8))
    # The first repetition has nothing to be compared with; the third change comes with the fifth image.
    assert stamps == [START] * 4 + [START + n * TENTH for n in (4, 5, 6, 7)]
    assert source.standing


def test_repeated_picture_keeps_its_stamp_however_often_it_comes():
    stamps, source = run([START] * 20, [7] * 20)
    assert stamps == [START] * 20
    assert not source.standing


def test_repeated_picture_of_a_standing_clock_keeps_the_stamp_it_got():
    stamps, _ = run([START] * 8, [0, 1, 2, 3, 4, 4, 4, 5])
    assert stamps[4:] == [START + 4 * TENTH] * 3 + [START + 7 * TENTH]


def test_clock_that_goes_again_is_believed_at_once():
    after = [START + 8 * TENTH, START + 9 * TENTH, START + 9 * TENTH]
    stamps, _ = run([START] * 8 + after, range(11))
    assert stamps[8:] == after


@pytest.mark.parametrize("pause", [[0, 1, 2], [0, 1, 1, 1, 2, 3]])
def test_few_different_pictures_under_one_stamp_are_no_standing_clock(pause):
    stamps, source = run([START] * len(pause), pause)
    assert set(stamps) == {START}
    assert not source.standing


def test_missing_stamp_is_estimated_in_the_streams_own_time():
    given = [12 * SECOND, 12 * SECOND + TENTH, 0, 12 * SECOND + 3 * TENTH, 0, 0]
    stamps, source = run(given, range(6), [START + n * TENTH for n in range(6)])
    assert stamps == [12 * SECOND + n * TENTH for n in range(6)]
    assert source.zero


def test_missing_stamp_of_a_slow_simulation_is_estimated_at_its_speed():
    received = [START + n * SECOND for n in range(4)]  # a tenth of real time
    stamps, _ = run([SECOND, SECOND + TENTH, 0, SECOND + 3 * TENTH], range(4), received)
    assert stamps[2] == SECOND + 2 * TENTH


def test_simulation_that_begins_at_zero_keeps_its_first_stamp():
    stamps, source = run([0, TENTH, 2 * TENTH], range(3), simulated=True)
    assert stamps == [0, TENTH, 2 * TENTH]
    assert not source.zero


@pytest.mark.parametrize(
    ("stamps", "begins"),
    [([0, TENTH], True), ([0, 0], False), ([0, START], False), ([TENTH, 2 * TENTH], False), ([0], False), ([], False)],
)
def test_first_stamps_tell_a_simulation_that_begins_at_zero(stamps, begins):
    assert begins_at_zero(stamps) is begins


@pytest.mark.parametrize(
    ("stem", "stamp"),
    [
        ("1700000000066666667", 1700000000066666667),
        ("1700000000.066667", 1700000000066667000),
        ("1700000000_5", 1700000000500000000),
        ("000012", None),
        ("frame_1700000000066666667", None),
        ("20240131", None),
    ],
)
def test_time_in_a_file_name(stem, stamp):
    assert stamp_from_name(stem) == stamp
