"""The ring of past frames: what it keeps, what it refuses, and that it is allocated once."""

from __future__ import annotations

import math

import pytest
import torch

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size
from lmanet_core.network import KeyValue
from lmanet_core.stream.memory import MemoryBuffer, StreamMemory

MS = 1_000_000
SECOND = 1000 * MS


def kept(number, height=2, width=3, batch=1, dtype=torch.float32):
    """A frame whose key is `number` and whose value is −`number` everywhere; Dk 4, Dv 5."""
    return KeyValue(
        torch.full((batch, 4, height, width), float(number), dtype=dtype),
        torch.full((batch, 5, height, width), -float(number), dtype=dtype),
    )


def held(memory):
    """Numbers of the frames held, in any order; the values must be of the same frames."""
    frames = memory.frames()
    keys, values = frames.keys[0, :, 0, 0, 0].tolist(), frames.values[0, :, 0, 0, 0].tolist()
    assert values == [-key for key in keys]
    return sorted(keys)


def filled(capacity, count):
    memory = MemoryBuffer(capacity)
    for number in range(count):
        assert memory.push(kept(number), number)
    return memory


def test_new_memory_is_empty():
    memory = MemoryBuffer(3)
    assert len(memory) == 0
    assert memory.frames() is None
    assert memory.stamps_ns == ()


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2, 3]), (5, [2, 3, 4]), (7, [4, 5, 6])]
)
def test_the_oldest_frame_is_overwritten(count, expected):
    memory = filled(3, count)
    assert held(memory) == expected
    assert memory.stamps_ns == tuple(expected)
    assert len(memory) == len(expected)


def test_capacity_of_one_holds_the_newest():
    assert held(filled(1, 4)) == [3]


def test_frames_have_the_shapes_that_the_read_takes():
    memory = MemoryBuffer(3)
    for number in range(2):
        memory.push(kept(number, batch=2), number)
    frames = memory.frames()
    assert frames.keys.shape == (2, 2, 4, 2, 3)
    assert frames.values.shape == (2, 2, 5, 2, 3)


def test_what_is_pushed_comes_back_at_its_place():
    frame = KeyValue(torch.rand(2, 4, 2, 3), torch.rand(2, 5, 2, 3))
    memory = MemoryBuffer(2)
    memory.push(kept(0, batch=2), 0)
    memory.push(frame, 1)
    frames = memory.frames()
    assert torch.equal(frames.keys[:, 1], frame.key)
    assert torch.equal(frames.values[:, 1], frame.value)


def test_pushed_frames_are_copied():
    memory, frame = MemoryBuffer(2), kept(1)
    memory.push(frame, 0)
    frame.key.zero_()
    frame.value.zero_()
    assert held(memory) == [1]


def test_storage_is_allocated_once():
    memory = MemoryBuffer(3)
    addresses = set()
    for stamp in range(10):
        if stamp in (2, 7):
            memory.clear()
        memory.push(kept(stamp), stamp)
        frames = memory.frames()
        addresses.add((frames.keys.untyped_storage().data_ptr(), frames.values.untyped_storage().data_ptr()))
    assert len(addresses) == 1


def test_frames_are_views_laid_out_channels_last():
    memory = filled(3, 2)
    first = memory.frames()
    assert first.keys.untyped_storage().nbytes() == 3 * 4 * 2 * 3 * 4  # all three slots of float32
    assert first.keys.stride(2) == first.values.stride(2) == 1  # channels of a position are neighbours
    memory.push(kept(2), 2)
    memory.push(kept(9), 3)  # into the slot of frame 0
    assert first.keys[0, :, 0, 0, 0].tolist() == [9, 1]


def test_cleared_memory_starts_again_with_any_stamp_and_shape():
    memory = filled(2, 3)
    memory.clear()
    assert len(memory) == 0 and memory.frames() is None and memory.stamps_ns == ()
    assert memory.push(kept(7, height=5), -100)
    assert held(memory) == [7]
    assert memory.frames().keys.shape == (1, 1, 4, 5, 3)


def test_memory_cleared_in_the_middle_of_the_ring_forgets_all():
    memory = filled(3, 4)
    memory.clear()
    memory.push(kept(8), 8)
    assert held(memory) == [8]


@pytest.mark.parametrize("stamp_ns", [10, 9, 0, -5])
def test_repeated_or_older_stamp_is_not_kept(stamp_ns):
    memory = MemoryBuffer(3)
    memory.push(kept(1), 10)
    assert not memory.accepts(stamp_ns)
    assert not memory.push(kept(2), stamp_ns)
    assert held(memory) == [1] and memory.stamps_ns == (10,)
    assert memory.accepts(11)
    assert memory.push(kept(3), 11)


def test_stamp_older_than_the_newest_is_not_kept_in_a_full_ring():
    memory = filled(2, 3)  # holds stamps 1 and 2; 2 lies in the first slot
    assert not memory.push(kept(9), 1)
    assert not memory.push(kept(9), 2)
    assert held(memory) == [1, 2]


def test_interval_keeps_the_frames_that_are_due():
    memory = MemoryBuffer(10, interval_s=0.1)
    pushed = [stamp for stamp in range(0, 400, 40) if memory.push(kept(stamp), stamp * MS)]  # 25 Hz
    assert pushed == [0, 120, 240, 360]


def test_interval_spans_the_same_time_at_any_frame_rate():
    for hertz in (10, 20, 50):
        memory = MemoryBuffer(100, interval_s=0.2)
        for number in range(hertz):
            memory.push(kept(number), number * SECOND // hertz)
        assert memory.stamps_ns == tuple(number * 200 * MS for number in range(5)), f"{hertz} Hz"


def test_interval_forgives_jitter_of_half_a_millisecond_but_not_more():
    memory = MemoryBuffer(10, interval_s=0.1)
    memory.push(kept(0), 0)
    assert not memory.accepts(100 * MS - 500_001)
    assert memory.accepts(100 * MS - 500_000)
    jittering = [0, 99_700_000, 200_300_000, 299_900_000, 400_000_000]
    assert all(memory.push(kept(stamp), stamp) for stamp in jittering[1:])


def test_interval_shorter_than_the_jitter_still_refuses_repeated_stamps():
    memory = MemoryBuffer(3, interval_s=0.0001)
    memory.push(kept(0), 5)
    assert not memory.accepts(5)
    assert memory.accepts(6)


@pytest.mark.parametrize(
    "changed",
    [kept(1, height=3), kept(1, width=4), kept(1, batch=2), kept(1, dtype=torch.float64), KeyValue(kept(1).key, kept(1).key)],
    ids=["height", "width", "batch", "dtype", "value channels"],
)
def test_frame_of_another_shape_is_refused_until_cleared(changed):
    memory = MemoryBuffer(3)
    memory.push(kept(0), 0)
    with pytest.raises(ValueError, match="clear it first"):
        memory.push(changed, 1)
    assert held(memory) == [0]
    memory.clear()
    assert memory.push(changed, 1)
    assert memory.frames().keys.dtype == changed.key.dtype
    assert memory.frames().values.shape[1:] == (1, *changed.value.shape[1:])


@pytest.mark.parametrize("capacity", [0, -1])
def test_memory_without_room_is_refused(capacity):
    with pytest.raises(ConfigError, match=f"at least 1 frame, got {capacity}"):
        MemoryBuffer(capacity)


@pytest.mark.parametrize("interval_s", [-0.1, math.nan, math.inf])
def test_interval_that_is_no_time_is_refused(interval_s):
    with pytest.raises(ConfigError, match=f"must be 0 s or more, got {interval_s}"):
        MemoryBuffer(1, interval_s)


# ---- the memory of a stream: a view first, then one commit

GRID = Size(2, 3)


def committed(memory, number, stamp_ns):
    view = memory.view(None, GRID)
    memory.commit(view, stamp_ns, kept(number))
    return view


def test_a_view_tells_what_is_held_and_where_the_frame_will_be():
    memory = StreamMemory(2)
    assert [(committed(memory, n, n).count, committed(memory, n + 1, n + 1).slot) for n in (0, 2)] == [(0, 1), (2, 1)]
    assert held(memory.buffer) == [2, 3] and memory.view(None, GRID).positions is None


def test_a_frame_is_remembered_with_the_view_that_was_made_for_it_and_once():
    memory = StreamMemory(3)
    old = memory.view(None, GRID)
    new = memory.view(None, GRID)
    with pytest.raises(ValueError, match="once, with the last view"):
        memory.commit(old, 0, kept(0))
    memory.commit(new, 0, kept(0))
    with pytest.raises(ValueError, match="once, with the last view"):
        memory.commit(new, 1, kept(1))
    assert held(memory.buffer) == [0]


def test_a_view_from_before_the_memory_was_cleared_is_worth_nothing():
    memory = StreamMemory(3)
    view = memory.view(None, GRID)
    memory.clear()
    with pytest.raises(ValueError, match="last view"):
        memory.commit(view, 0, kept(0))


def test_a_stamp_that_is_not_due_is_not_committed():
    memory = StreamMemory(3)
    committed(memory, 0, 10)
    with pytest.raises(ValueError, match="stamp 10 is not due: the newest frame held is of 10"):
        committed(memory, 1, 10)
    assert held(memory.buffer) == [0] and memory.buffer.stamps_ns == (10,)


def test_a_device_fills_the_slot_itself():
    memory = StreamMemory(2)
    committed(memory, 0, 0)
    view = memory.view(None, GRID)
    keys, values = memory.buffer.reserve(kept(7))
    keys[:, view.slot], values[:, view.slot] = 7.0, -7.0
    memory.commit(view, 1, None)
    assert held(memory.buffer) == [0, 7] and memory.buffer.stamps_ns == (0, 1)


def test_a_memory_whose_places_a_device_follows_needs_no_image():
    memory = StreamMemory(2, follows_motion=True)
    view = memory.view(None, GRID)
    assert view.positions is None
    memory.commit(view, 0, None)
    assert len(memory) == 1
