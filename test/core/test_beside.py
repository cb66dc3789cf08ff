"""What a stream finds out beside the network: at the same time, never later than the frame, and its errors are the frame's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lmanet_core.stream.beside import Beside
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

MS = 10**6
FORKED = """
import os, sys
from lmanet_core.stream.beside import Beside
beside = Beside()
assert beside.start(os.getpid).result() == os.getpid()
child = os.fork()
if not child:
    os._exit(0 if beside.start(os.getpid).result(5) == os.getpid() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def segmenter(video_weights):
    return VideoSegmenter(prepare(load_model(video_weights), "cpu", "fp32"), SegmenterConfig(network_size="128x64"))


@pytest.fixture
def drive(textured_drive):
    return textured_drive


def test_work_is_done_in_another_thread_and_what_it_raises_is_raised():
    beside = Beside()
    assert beside.start(threading.get_ident).result() != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        beside.start(lambda: 1 / 0).result()
    assert beside.start(lambda: 3).result() == 3


def test_a_forked_process_has_a_thread_of_its_own():
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60).returncode == 0


def test_a_process_has_one_thread_and_one_with_a_smaller_number_its_own(monkeypatch):
    beside = Beside()
    thread = beside.start(threading.current_thread).result()
    assert beside.start(threading.current_thread).result() is thread
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert beside.start(threading.current_thread).result() is not thread


def test_the_picture_is_looked_at_while_the_network_encodes_it(segmenter, drive, monkeypatch):
    looking, network, label_memory = threading.Event(), segmenter.runtime.network, segmenter.label_memory
    encode, view = network.encode, label_memory.view

    def encode_once_looked_at(pixels):
        assert looking.wait(10.0), "nobody looked at the picture meanwhile"
        return encode(pixels)

    def look(image):
        looking.set()
        return view(image)

    monkeypatch.setattr(network, "encode", encode_once_looked_at)
    monkeypatch.setattr(label_memory, "view", look)
    segmenter.step(drive[0], 0)
    assert looking.is_set()


def test_what_fails_beside_the_network_fails_the_frame_and_the_next_goes_on(segmenter, drive, monkeypatch):
    segmenter.step(drive[0], 0)

    def fail(image):
        raise ValueError("no flow")

    with monkeypatch.context() as patch:
        patch.setattr(segmenter.label_memory, "view", fail)
        with pytest.raises(ValueError, match="no flow"):
            segmenter.step(drive[1], 100 * MS)
    assert segmenter.step(drive[1], 100 * MS).labels.shape == drive[1].shape[:2]


def test_nothing_works_on_the_memories_after_a_frame_that_failed(segmenter, drive, monkeypatch):
    other = VideoSegmenter(segmenter.runtime, segmenter.config)
    for stream in (segmenter, other):
        stream.step(drive[0], 0)
    done, view = [], segmenter.label_memory.view

    def look_for_long(image):
        time.sleep(0.2)
        done.append(True)
        return view(image)

    def fail(pixels):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(segmenter.label_memory, "view", look_for_long)
        patch.setattr(segmenter.runtime.network, "encode", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            segmenter.step(drive[1], 90 * MS)
        assert done
    for number in (1, 2, 3):
        one, two = (stream.step(drive[number], number * 100 * MS) for stream in (segmenter, other))
        assert np.array_equal(one.labels, two.labels) and np.array_equal(one.confidence, two.confidence)
