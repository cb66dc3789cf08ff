"""One slot per camera. Needs no ROS."""

from __future__ import annotations

import threading
import time

import pytest

from lmanet_core.media.mailbox import Mailbox


def test_newest_wins_and_drops_are_counted():
    mailbox = Mailbox(["a"])
    assert [mailbox.put("a", item) for item in (1, 2, 3)] == [False, True, True]
    assert mailbox.take(0) == ("a", 3)
    assert mailbox.take(0) is None
    assert mailbox.dropped == {"a": 2}


def test_cameras_take_turns_however_fast_one_is():
    mailbox = Mailbox(["fast", "slow"])
    served = []
    for turn in range(6):
        for _ in range(5):
            mailbox.put("fast", turn)
        mailbox.put("slow", turn)
        served.append(mailbox.take(0)[0])
    assert served == ["fast", "slow"] * 3


def test_camera_alone_is_served_every_time():
    mailbox = Mailbox(["a", "silent", "b"])
    for camera in ("a", "b", "a", "a"):
        mailbox.put(camera, 0)
        assert mailbox.take(0) == (camera, 0)


def test_camera_that_waited_longest_comes_first():
    mailbox = Mailbox(["a", "b", "c"])
    mailbox.put("a", 0)
    mailbox.take(0)
    mailbox.put("c", 0)
    mailbox.take(0)
    for camera in ("a", "b", "c"):
        mailbox.put(camera, 1)
    assert [mailbox.take(0)[0] for _ in range(3)] == ["b", "a", "c"]


def test_close_lets_a_waiting_worker_go():
    mailbox = Mailbox(["a"])
    taken = []
    worker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    worker.start()
    time.sleep(0.05)
    mailbox.close()
    worker.join(2)
    assert taken == [None]
    mailbox.put("a", 1)
    assert mailbox.take(0) is None


def test_closed_mailbox_gives_nothing_of_what_waited():
    mailbox = Mailbox(["a"])
    mailbox.put("a", 1)
    mailbox.close()
    assert mailbox.take() is None


def test_put_wakes_a_waiting_worker():
    mailbox = Mailbox(["a"])
    taken = []
    worker = threading.Thread(target=lambda: taken.append(mailbox.take(5)))
    worker.start()
    mailbox.put("a", 7)
    worker.join(2)
    assert taken == [("a", 7)]


def test_clear_counts_what_it_throws_away():
    mailbox = Mailbox(["a", "b"])
    mailbox.put("a", 1)
    mailbox.clear()
    assert mailbox.take(0) is None
    assert mailbox.dropped == {"a": 1, "b": 0}


def test_nothing_is_lost_between_threads():
    mailbox = Mailbox(["a", "b"])
    taken = []

    def work():
        while (item := mailbox.take()) is not None:
            taken.append(item)

    worker = threading.Thread(target=work)
    worker.start()
    threads = [threading.Thread(target=lambda c=c: [mailbox.put(c, i) for i in range(2000)]) for c in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 5
    while len(taken) + sum(mailbox.dropped.values()) < 4000 and time.monotonic() < deadline:
        time.sleep(0.01)
    mailbox.close()
    worker.join(2)
    assert len(taken) + sum(mailbox.dropped.values()) == 4000
    for camera in ("a", "b"):
        numbers = [number for name, number in taken if name == camera]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 1999


@pytest.mark.parametrize("cameras", [[], ["a", "a"]])
def test_cameras_need_different_names(cameras):
    with pytest.raises(ValueError, match="different names"):
        Mailbox(cameras)
