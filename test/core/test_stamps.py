"""Stamps that drivers leave out or let stand still."""

from __future__ import annotations

import numpy as np
import pytest

from lmanet_core.media.stamps import Known, StampSource, stamp_from_name

TENTH = 10**8
START = 1_700_000_000 * 10**9


def image(value):
    return np.full((16, 16, 3), value, np.uint8)


def run(given, pictures, received=None):
    source = StampSource()
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


def test_missing_stamp_is_estimated_in_the_time_of_the_stream():
    given = [12 * TENTH, 13 * TENTH, 0, 15 * TENTH, 0, 0]
    stamps, source = run(given, range(6), received=[START + n * TENTH for n in range(6)])
    assert stamps == [n * TENTH for n in (12, 13, 14, 15, 16, 17)]
    assert source.zero


def test_missing_stamp_goes_as_fast_as_simulated_time():
    stamps, _ = run([TENTH, 2 * TENTH, 0], range(3), received=[START, START + 2 * TENTH, START + 4 * TENTH])
    assert stamps == [TENTH, 2 * TENTH, 3 * TENTH]


def test_zero_before_small_stamps_is_simulated_time_at_its_start():
    source = StampSource(Known(TENTH, START + TENTH))
    stamps = [source.stamp_ns(n * TENTH, START + n * TENTH, image(n)) for n in range(3)]
    assert stamps == [0, TENTH, 2 * TENTH]
    assert not source.zero


def test_zero_before_a_date_is_estimated_from_it():
    source = StampSource(Known(START + TENTH, 6 * TENTH))
    assert source.stamp_ns(0, 5 * TENTH, image(0)) == START
    assert source.zero


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
