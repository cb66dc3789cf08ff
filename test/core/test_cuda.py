"""What only a CUDA device can show, in a minute: `python -m pytest test/core/test_cuda.py`.

Where there is none, the same bodies run on the CPU as far as that has what they look at; the rest says why it is skipped.
"""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

from lmanet_core.adaptation.gains import train_gains
from lmanet_core.adaptation.statistics import adapt_statistics
from lmanet_core.errors import DeviceMemoryError
from lmanet_core.experiments.gpu_agreement import PERIOD_NS, kernels, labels, street_frames
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

SIZE = (192, 256)
MIB = 1 << 20

#: Dk, Dv: the paper's two networks, keys as wide as values, and wider ones than any tiles were measured for.
CHANNELS = {"ERFNet": (16, 64), "PSPNet": (128, 2048), "even": (128, 128), "widest": (256, 136)}


@pytest.fixture(scope="module")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def cuda(device):
    if device != "cuda":
        pytest.skip("no CUDA device, whose memory this is about; test_cuda_graph.py pretends one that has too little")
    return device


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="module")
def images(folder):
    return street_frames(folder, SIZE, 6)


@pytest.fixture(scope="module")
def runtime(device):
    return prepare(load_model(default_weights()), device)


def stream(segmenter, images, first=0):
    return [segmenter.step(image, number * PERIOD_NS) for number, image in enumerate(images, first)]


def assert_same(results, others):
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.confidence, other.confidence)
        assert (one.memory_frames, one.remembered) == (other.memory_frames, other.remembered)


@pytest.mark.parametrize(
    ("channels", "precision"),
    [*((channels, "float16") for channels in CHANNELS.values()), (CHANNELS["ERFNet"], "float32")],
    ids=[*CHANNELS, "ERFNet float32"],
)
def test_read_and_its_gradients_are_those_of_the_definition_and_the_same_bits_again(channels, precision, device):
    impl = "triton" if device == "cuda" else "blocked"
    (row,) = kernels(device, [("a read", 2, *channels, 11, 21)], 7, (precision,), impl)
    assert row["agrees"], row["cells"]


def test_stream_with_and_without_a_graph_and_on_the_cpu_is_the_same(device, folder):
    for row in labels(device, folder, SIZE, 6):
        cells = row["cells"]
        assert {name: cells[name] for name in cells if name.startswith("frames ") and cells[name]} == {}
        exact = device == "cuda" and row["what"] != "both memories"  # a CPU's bfloat16 is coarser; the device has its own flow
        assert cells["labels equal to the CPU's"] > (0.995 if exact else 0.98)


def test_streams_in_threads_are_that_of_one(runtime, images):
    expected = stream(VideoSegmenter(runtime), images)
    got = {}
    threads = [
        threading.Thread(target=lambda number: got.setdefault(number, stream(VideoSegmenter(runtime), images)), args=(number,))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [0, 1, 2]
    for results in got.values():
        assert_same(results, expected)


def test_statistics_and_gains_are_adapted_as_on_the_cpu(device, images):
    shipped, told = load_model(default_weights()), {}
    clips = [torch.from_numpy(np.stack([image] * 2).transpose(0, 3, 1, 2).copy()) for image in images]
    for where in dict.fromkeys(("cpu", device)):
        model, bits = adapt_statistics(shipped, clips, images, where)
        model, gained = train_gains(model, images, where, steps=6)
        assert gained is not None and all(parameter.device.type == "cpu" for parameter in model.network.parameters())
        told[where] = [*bits.values(), *vars(gained).values()]
    assert told[device] == pytest.approx(told["cpu"], abs=0.05) and gained.after > gained.before


def test_device_memory_of_a_stream_is_flat(cuda, runtime, images):
    segmenter = VideoSegmenter(runtime)
    for turn in range(2):
        stream(segmenter, images, turn * len(images))
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for turn in range(2, 40):
        stream(segmenter, images, turn * len(images))
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_without_room_for_a_frame_there_is_one_error_and_later_frames_are_as_ever(cuda, runtime, images):
    expected = stream(VideoSegmenter(runtime), images)
    segmenter = VideoSegmenter(runtime)
    gc.collect()
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 8 * MIB  # less than the smallest block for a map of features
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(DeviceMemoryError, match="too little memory for one frame"):
            segmenter.step(images[0], 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_same(stream(segmenter, images, 1), expected)


def test_with_little_room_a_stream_goes_on_and_says_what_it_gave_up(cuda, runtime, images, caplog):
    plain = VideoSegmenter(runtime)
    stream(plain, images[:1])
    del plain
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    for room in (8, 16, 32, 64, 128, 256, 512, 1024):  # MiB; how much a frame takes depends on the device's libraries
        caplog.clear()
        segmenter = VideoSegmenter(runtime)
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room * MIB) / total)
        try:
            results = stream(segmenter, images)
        except DeviceMemoryError:
            continue
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            del segmenter
            gc.collect()
            torch.cuda.empty_cache()
        assert all(result.labels.shape == SIZE for result in results)
        warned = [record.message for record in caplog.records if "out of memory" in record.message]
        assert all("graphs are given up" in line or "the past was forgotten" in line for line in warned)
        if not warned:
            return  # there was room for everything
    pytest.fail("no room up to 1 GiB was enough for a stream")
