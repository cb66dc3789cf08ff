"""The step on a device: the same labels from buffers that stay, what is captured when, and what happens without memory.

Everything but the capture itself runs on a CPU.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from lmanet_core.errors import DeviceMemoryError
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.stream import device_runner
from lmanet_core.stream.cuda_graph import BufferedStep
from lmanet_core.stream.resampling import DeviceResampling
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.stream.step import FrameStep
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

PERIOD = 100 * 10**6
S = 3  # memory frames of the weights
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runtime(video_weights):
    return prepare(load_model(video_weights), "cpu", "fp32")


@pytest.fixture(scope="module")
def drive(make_scene):
    """Six images of one scene that moves sideways, each (32, 64, 3)."""
    return [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(6)]


@pytest.fixture
def make(runtime):
    def make(on_device=True, **options):
        made = VideoSegmenter(runtime, SegmenterConfig(**{"host_motion": True, **options}))
        made._on_device = on_device
        return made

    return make


def stream(segmenter, images, stamps=None):
    stamps = range(len(images)) if stamps is None else stamps
    return [segmenter.step(image, stamp * PERIOD, "camera") for image, stamp in zip(images, stamps, strict=True)]


def assert_same(results, others):
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert (one.confidence is None) == (other.confidence is None)
        assert one.confidence is None or np.array_equal(one.confidence, other.confidence)
        assert (one.memory_frames, one.remembered, one.discontinuity) == (
            other.memory_frames, other.remembered, other.discontinuity,
        )  # fmt: skip


# ---- the same result


@pytest.mark.parametrize(
    "options",
    [
        {}, {"memory": False}, {"memory_frames": 1}, {"memory_interval_s": 0.2}, {"upsample": "logits"},
        {"output_size": "40x20"}, {"output_size": "network"},
    ],
    ids=str,
)  # fmt: skip
def test_every_pixel_is_that_of_the_ordinary_step(make, drive, options):
    ordinary = stream(make(on_device=False, **options), drive)
    assert_same(stream(make(**options), drive), ordinary)
    assert options == {"memory": False} or ordinary[-1].memory_frames > 0


def test_a_memory_that_follows_motion_follows_it_here_as_well(following_weights, textured_drive):
    runtime = prepare(load_model(following_weights), "cpu", "fp32")
    images = [*textured_drive[:3], textured_drive[1], *textured_drive[3:], *textured_drive[:3]]
    stamps = [0, 1, 2, 1, 3, 4, 5, 100, 101, 102]  # late once, then a gap
    made = [VideoSegmenter(runtime, SegmenterConfig(network_size="128x64", host_motion=True)) for _ in range(2)]
    made[0]._on_device = True
    assert_same(*(stream(segmenter, images, stamps) for segmenter in made))


@pytest.mark.parametrize("on_device", [False, True])
def test_no_map_of_the_network_changes_its_layout(make, drive, on_device):
    segmenter = make(on_device)
    strides = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: strides.extend([inputs[0].stride(1), output.stride(1)]))
        for layer in segmenter.runtime.network.backbone.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    ]
    stream(segmenter, drive[:2])
    for hook in hooks:
        hook.remove()
    assert len(strides) > 100
    assert set(strides) == {1}  # channels last, all the way


def test_repeated_and_late_images_reset_and_size_change_are_as_in_the_ordinary_step(make, drive, make_scene):
    images = [*drive[:4], drive[3], drive[2], *drive[4:], make_scene(0, 40, 80), make_scene(0, 40, 80), *drive[:2]]
    stamps = [0, 1, 2, 3, 3, 2, 4, 5, 6, 7, 100, 101]  # repeated, late, another size twice, a gap
    ordinary = stream(make(on_device=False, network_size="64x32"), images, stamps)
    on_device = stream(make(network_size="64x32"), images, stamps)
    assert [result.remembered for result in ordinary].count(False) == 2
    for number, (one, other) in enumerate(zip(on_device, ordinary, strict=True)):
        assert (one.memory_frames, one.remembered, one.discontinuity) == (
            other.memory_frames, other.remembered, other.discontinuity,
        )  # fmt: skip
        # a resized image may differ by 1 of 255 where an average lies between two numbers
        assert np.mean(one.labels == other.labels) >= (0.995 if images[number].shape[0] == 40 else 1.0)


def test_results_belong_to_the_caller_and_images_may_be_views(make, drive):
    on_device, kept = make(), []
    for index, image in enumerate(drive):
        view = np.ascontiguousarray(image[::-1])[::-1]
        view.flags.writeable = False
        result = on_device.step(view, index * PERIOD, "camera")
        kept.append((result, result.labels.copy(), result.confidence.copy()))
        if index == 2:
            result.labels[:] = result.confidence[:] = 77
    assert_same([result for result, _, _ in kept[3:]], stream(make(on_device=False), drive)[3:])
    assert all(np.array_equal(result.labels, labels) for result, labels, _ in kept[3:])


def test_buffers_stay_where_they_are(make, drive):
    on_device = make()
    on_device.step(drive[0], 0, "camera")
    step = on_device._runner._buffered

    def addresses():
        memory = on_device.memory.buffer
        buffers = (step._image, step._host_image, step._planes, step._host_planes, step._slot, memory._keys, memory._values)
        return [buffer.data_ptr() for buffer in buffers]

    before = addresses()
    stream(on_device, [*drive[1:], drive[0]], [1, 2, 3, 4, 5, 100])  # fills, then a gap clears
    assert on_device._runner._buffered is step and addresses() == before


@pytest.mark.parametrize("labels", [True, False])
def test_what_nobody_wants_is_not_given(make, drive, labels):
    on_device, ordinary = make(), make(on_device=False)
    for index, image in enumerate(drive):
        one = on_device.step(image, index * PERIOD, labels=labels, confidence=False)
        other = ordinary.step(image, index * PERIOD, labels=labels, confidence=False)
        assert one.confidence is None and other.confidence is None
        assert np.array_equal(one.labels, other.labels) and bool(one.labels.size) is labels
    assert_same(stream(on_device, drive, range(6, 12)), stream(ordinary, drive, range(6, 12)))


def test_timings_name_the_stages(make, drive):
    assert list(make().step(drive[0], 0).timings_ms) == ["continuity", "preprocess", "motion", "device", "total"]
    plain = make(label_memory=False)
    assert list(plain.step(drive[0], 0).timings_ms) == ["continuity", "device", "total"]


# ---- sizes on the device

SIZES = [
    ((32, 64), (32, 64)), ((64, 128), (32, 64)), ((45, 99), (24, 48)), ((20, 30), (32, 64)), ((20, 200), (32, 64)),
    ((97, 64), (32, 64)),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize(("camera", "network"), SIZES)
def test_image_reaches_the_network_as_the_plan_says(camera, network, mode, random_image):
    plan = plan_geometry(Size(*camera), Size(*network), mode=mode)
    image = random_image(*camera)
    wanted = plan.to_network(image).astype(int)
    got = DeviceResampling(plan, CPU).to_network(torch.from_numpy(image)).numpy()
    assert got.shape == wanted.shape and (got == got.round()).all()
    # sums are of float32, and OpenCV's own differ from machine to machine
    assert np.abs(got - wanted).max() <= 1 and np.mean(got != wanted) < 0.02


@pytest.mark.parametrize("output", ["input", "network", "50x37"])
@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize(("camera", "network"), SIZES)
def test_labels_come_back_by_exactly_the_plans_pixels(camera, network, mode, output):
    plan = plan_geometry(Size(*camera), Size(*network), output, mode)
    labels = np.random.default_rng(0).integers(0, 200, network).astype(np.uint8)
    resampling, given = DeviceResampling(plan, CPU), torch.from_numpy(labels)
    assert np.array_equal(resampling.labels_to_output(given).numpy(), plan.labels_to_output(labels))
    assert np.array_equal(resampling.confidence_to_output(given).numpy(), plan.confidence_to_output(labels))


# ---- what is captured


class _Graph:
    """In the place of a CUDA graph: does the work when replayed."""

    def __init__(self, step, key):
        self.step, self.key = step, key

    def replay(self):
        if self.key is not None:
            self.step.replayed.append(self.key)
        self.step._work(self.key)


@pytest.fixture
def captures(monkeypatch):
    """Have the step capture on a CPU; returns what was captured, in order."""
    captured = []

    def capture(step, key):
        if key is not None:  # what is begun has one of its own
            captured.append(key)
        return _Graph(step, key)

    def start(step, *arguments):
        original(step, *arguments)
        step._captures, step.replayed = arguments[2], []

    original = BufferedStep.__init__
    monkeypatch.setattr(BufferedStep, "__init__", start)
    monkeypatch.setattr(BufferedStep, "_capture", capture)
    return captured


def test_all_fills_of_the_memory_are_captured_at_the_first_frame_and_none_later(make, drive, captures):
    on_device = make()
    results = stream(on_device, drive[:1])
    assert captures == [(held, True, True) for held in range(S + 1)]
    results += stream(on_device, drive[1:], range(1, 6))
    assert on_device._runner._buffered.replayed == [(held, True, True) for held in (0, 1, 2, S, S, S)]
    assert len(captures) == S + 1
    assert_same(results, stream(make(on_device=False), drive))
    on_device.reset()
    assert_same(stream(on_device, drive), stream(make(on_device=False), drive))
    assert len(captures) == S + 1


def test_image_that_is_not_remembered_has_a_graph_of_its_own(make, drive, captures):
    on_device = make()
    stream(on_device, [drive[0], drive[1], drive[1], drive[1]], [0, 1, 1, 1])
    assert captures[S + 1 :] == [(2, False, True)]
    assert len(on_device.memory) == 2


def test_another_size_is_captured_anew(make, drive, make_scene, captures):
    on_device = make()
    stream(on_device, drive[:2])
    wanted = make(on_device=False)
    stream(wanted, drive[:2])
    other = [make_scene(0, 16, 48)] * 2
    assert_same(stream(on_device, other, [2, 3]), stream(wanted, other, [2, 3]))
    assert captures == [(held, True, True) for held in range(S + 1)] * 2


def test_graphs_can_be_switched_off(make, drive, captures):
    assert_same(stream(make(cuda_graph=False), drive), stream(make(on_device=False), drive))
    assert captures == []


def test_memory_that_is_off_has_neither_graphs_nor_storage(make, drive, captures):
    off = make(memory=False)
    stream(off, drive)
    assert captures == [(0, False, True)] and off._memory.buffer._keys is None
    off.memory_enabled = True
    wanted = make(on_device=False)
    assert_same(stream(off, drive, range(100, 106))[1:], stream(wanted, drive, range(100, 106))[1:])


def test_network_that_cannot_be_captured_runs_without_and_says_so_once(make, drive, captures, monkeypatch, caplog):
    def fail(step, key):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(BufferedStep, "_capture", fail)
    assert_same(stream(make(), drive), stream(make(on_device=False), drive))
    assert [record.message for record in caplog.records] == [
        "this network cannot be captured in a CUDA graph (operation not permitted when stream is capturing); "
        "it runs without, more slowly"
    ]


def test_streams_of_one_network_take_turns(make, runtime, drive, monkeypatch):
    busy, overlaps = threading.Event(), []
    compute = BufferedStep._compute

    def watch(step, *key):
        overlaps.append(busy.is_set())
        busy.set()
        compute(step, *key)
        busy.clear()

    monkeypatch.setattr(BufferedStep, "_compute", watch)
    threads = [threading.Thread(target=stream, args=(make(), drive)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(overlaps) == 3 * len(drive) and not any(overlaps)


# ---- too little memory on the device


@pytest.fixture
def short_of_memory(monkeypatch):
    """`short(condition)`: the work raises where condition(step, frames, remember) holds."""
    compute = BufferedStep._compute

    def short(condition):
        def run(step, frames, remember, confidence):
            if condition(step, frames, remember):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            compute(step, frames, remember, confidence)

        monkeypatch.setattr(BufferedStep, "_compute", run)

    return short


def test_without_room_for_graphs_the_stream_goes_on_and_tries_again_later(
    make, drive, captures, short_of_memory, monkeypatch, caplog
):
    monkeypatch.setattr(device_runner, "_FRAMES_WITHOUT_GRAPH", 3)
    there_is_room = False
    short_of_memory(lambda step, frames, remember: step._captures and not there_is_room)
    on_device = make()
    results = stream(on_device, drive[:2])
    assert [record.message for record in caplog.records] == [
        "CUDA out of memory: CUDA graphs are given up for 3 frames, which saves memory"
    ]
    there_is_room = True
    results += stream(on_device, drive[2:], range(2, 6))
    assert len(captures) > 0 and on_device._runner._buffered._captures
    assert_same(results, stream(make(on_device=False), drive))


def test_without_room_for_the_past_a_frame_is_segmented_alone_and_the_memory_starts_anew(make, drive, short_of_memory, caplog):
    on_device = make()
    stream(on_device, drive[:2])
    tight = True
    short_of_memory(lambda step, frames, remember: tight and (frames or remember))
    alone = on_device.step(drive[2], 2 * PERIOD, "camera")
    assert (alone.memory_frames, alone.remembered) == (0, False)
    assert np.array_equal(alone.labels, make(on_device=False).step(drive[2], 0).labels)
    assert caplog.records[-1].message == "CUDA out of memory: the past was forgotten and this frame segmented by itself"
    tight = False
    assert_same(stream(on_device, drive[3:], [3, 4, 5]), stream(make(on_device=False), drive[3:], [3, 4, 5]))


def test_without_room_for_a_single_frame_there_is_one_clear_error_and_the_next_frame_can_succeed(make, drive, short_of_memory):
    on_device = make()
    stream(on_device, drive[:2])
    tight = True
    short_of_memory(lambda step, frames, remember: tight)
    with pytest.raises(DeviceMemoryError, match=r"cpu has too little memory for one frame of 64x32 in fp32 .*smaller"):
        on_device.step(drive[2], 2 * PERIOD, "camera")
    assert on_device._runner._buffered is None and on_device.memory.buffer._keys is None
    tight = False
    assert_same(stream(on_device, drive[3:], [3, 4, 5]), stream(make(on_device=False), drive[3:], [3, 4, 5]))


def test_warm_up_writes_nothing_to_the_memory(runtime, make, drive):
    ordinary = make(on_device=False)
    stream(ordinary, drive[:2])
    plan = plan_geometry(Size(32, 64), Size(32, 64))
    memory = ordinary.memory.buffer
    step = BufferedStep(FrameStep(runtime, plan, resampling=DeviceResampling(plan, CPU)), memory, False)
    before = memory._keys.clone()
    with torch.inference_mode():
        step._encode()
        step._compute(2, False, True)
        assert torch.equal(before, memory._keys)
        step._slot.fill_(memory.next_slot)
        step._compute(2, True, True)
    changed = (before != memory._keys).flatten(2).any(2)[0]
    assert changed.tolist() == [False, False, True]
