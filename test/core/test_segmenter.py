"""`VideoSegmenter.step`: one image in, one label map out, with the memory in between."""

from __future__ import annotations

import copy
import gc
import itertools
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.frame import Blindness, Discontinuity, Frame
from lmanet_core.geometry import Size
from lmanet_core.labels import LabelSet
from lmanet_core.network import Backbone, LMANet, MemoryConfig
from lmanet_core.network.lmanet import stack_memory
from lmanet_core.stream.attention_view import attend
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.motion import follow
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.stream.stream_plan import plan_stream, require_allowed
from lmanet_core.weights.checkpoint import Model, ModelConfig, load_model
from lmanet_core.weights.runtime import prepare

MS = 10**6
PERIOD = 100 * MS
S = 3  # memory frames of the weights
CLASSES = 19


@pytest.fixture(scope="module")
def model(video_weights):
    return load_model(video_weights)


@pytest.fixture(scope="module")
def runtime(model):
    return prepare(model, "cpu", "fp32")


@pytest.fixture
def make_segmenter(runtime):
    return lambda **options: VideoSegmenter(runtime, SegmenterConfig(**options))


@pytest.fixture(scope="module")
def drive(make_scene):
    """Six images of one scene that moves sideways."""
    return [np.roll(make_scene(), 2 * shift, axis=1) for shift in range(6)]


def following(weights, motion_compensation=True, **options):
    runtime = prepare(load_model(weights), "cpu", "fp32")
    memory = replace(runtime.config.memory, motion_compensation=motion_compensation)
    runtime = prepare(load_model(weights), "cpu", "fp32", memory)
    return VideoSegmenter(runtime, SegmenterConfig(network_size="128x64", **options))


def stream(segmenter, images, start_ns=0):
    return [segmenter.step(image, start_ns + index * PERIOD, "camera") for index, image in enumerate(images)]


def assert_same(results, others):
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.confidence, other.confidence)
        assert (one.memory_frames, one.discontinuity) == (other.memory_frames, other.discontinuity)


def differ(one, other):
    return not np.array_equal(one.labels, other.labels)


class Pixels(Backbone):
    """A network whose logits are the normalised pixels: red is class 0, green class 1, blue class 2."""

    feature_channels = 3
    stride = 1
    num_classes = 3

    def __init__(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
        super().__init__()
        self.mean, self.std = mean, std
        self.unused = torch.nn.Parameter(torch.zeros(1))  # what the runtime reads its dtype from

    def encode(self, image):
        return image

    def decode(self, features):
        return features


def pixel_segmenter(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **options):
    labels = LabelSet(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    model = Model(LMANet(Pixels(mean, std)), ModelConfig("pixels", 3, labels))
    return VideoSegmenter(prepare(model, "cpu", "fp32"), SegmenterConfig(**options))


# ---- what comes out --------------------------------------------------------------------------------------------------------


def test_label_is_the_class_of_the_highest_logit():
    image = np.array([[[200, 10, 10], [10, 10, 200], [10, 200, 10]]], np.uint8)
    assert pixel_segmenter().step(image, 0).labels.tolist() == [[0, 2, 1]]


def test_confidence_is_the_softmax_of_0_to_1_as_0_to_255():
    image = np.array([[[7, 7, 7], [255, 0, 0]]], np.uint8)
    # Three equal logits: 255 / 3. Logits 1, 0, 0: 255 · e / (e + 2) = 146.9.
    assert pixel_segmenter().step(image, 0).confidence.tolist() == [[85, 147]]


def test_image_is_normalised_as_the_backbone_wants_it():
    image = np.array([[[200, 210, 0], [120, 20, 0]]], np.uint8)
    # Red becomes (200/255 − 0.5) / 0.1 = 2.8 and (120/255 − 0.5) / 0.1 = −0.3; green 0.8 and 0.08.
    assert pixel_segmenter((0.5, 0.0, 0.0), (0.1, 1.0, 1.0)).step(image, 0).labels.tolist() == [[0, 1]]


def test_labels_have_the_cameras_size_and_dtype(make_segmenter, make_scene):
    result = make_segmenter().step(make_scene(0, 64, 128), 0)
    assert result.geometry.network_size == Size(32, 64)  # as many pixels as trained on
    assert result.labels.shape == result.confidence.shape == (64, 128)
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    assert len(np.unique(result.labels)) > 1 and result.labels.max() < CLASSES


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (1, 40), (33, 65)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_any_image_size_is_segmented_with_memory(make_segmenter, random_image, size, resize):
    segmenter = make_segmenter(resize=resize, continuity=ContinuityConfig(blind=False))  # one pixel shows nothing
    images = [random_image(*size)] * 3
    results = stream(segmenter, images)
    assert [result.labels.shape for result in results] == [size] * 3
    assert [result.memory_frames for result in results] == [0, 1, 2]
    assert all(label < CLASSES or (label == 255 and resize == "crop") for label in np.unique(results[-1].labels))


def test_grey_rgba_and_16_bit_images_are_the_rgb_image_they_stand_for(make_segmenter, make_scene):
    scene = make_scene()
    grey = scene[:, :, 0]
    rgb_of_grey = np.repeat(grey[:, :, None], 3, 2)
    rgba = np.dstack((scene, grey))
    for image, same in ((grey, rgb_of_grey), (rgba, scene), (scene.astype(np.uint16) * 256 + 99, scene)):
        assert_same([make_segmenter().step(image, 0)], [make_segmenter().step(same, 0)])


@pytest.fixture
def every_torch_warning():
    """PyTorch repeats the warnings that it gives once in a process otherwise."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("every_torch_warning")
def test_image_as_a_view_or_read_only_is_segmented_and_left_as_it_was(make_segmenter, make_scene):
    scene = make_scene()
    wanted = make_segmenter().step(scene, 0)
    strided = np.zeros((64, 64, 3), np.uint8)
    strided[::-2] = scene  # upside down, every other row
    frozen = scene.copy()
    frozen.flags.writeable = False
    for image in (strided[::-2], frozen):
        before = image.copy()
        assert_same([make_segmenter().step(image, 0)], [wanted])
        assert np.array_equal(image, before)


def test_stamp_and_frame_id_come_back_untouched(make_segmenter, make_scene):
    result = make_segmenter().step(make_scene(), 1_234_567_890_123_456_789, "front_left")
    assert (result.stamp_ns, result.frame_id) == (1_234_567_890_123_456_789, "front_left")


def test_labels_and_confidence_are_those_of_the_network(make_segmenter, runtime, drive):
    results = stream(make_segmenter(label_memory=False), drive)
    clip = torch.from_numpy(np.stack(drive)).permute(0, 3, 1, 2)[None].float() / 255  # (1, T, 3, H, W)
    with torch.inference_mode():
        logits = runtime.network(clip)[0, :, :CLASSES].double()  # (T, 19, H, W)
    for result, frame_logits in zip(results, logits, strict=True):
        probability, label = frame_logits.softmax(0).max(0)
        # Streaming adds up in another order than the clip: a label may differ where two classes are as good as equal.
        assert np.mean(result.labels != label.numpy()) < 0.002
        assert np.abs(result.confidence - 255 * probability.numpy()).max() <= 1.0
    assert results[0].confidence.min() < 100 and results[0].confidence.max() > 200


def test_void_channel_never_wins(model, make_segmenter, make_scene):
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.backbone.decoder.output_conv.bias[CLASSES] = 1e6
    void = VideoSegmenter(prepare(Model(network, model.config), "cpu", "fp32"))
    assert_same([void.step(make_scene(), 0)], [make_segmenter().step(make_scene(), 0)])


def test_confidence_can_be_switched_off(make_segmenter, make_scene):
    result = make_segmenter().step(make_scene(), 0, confidence=False)
    assert result.confidence is None
    assert np.array_equal(result.labels, make_segmenter().step(make_scene(), 0).labels)


def test_timings_name_every_stage_and_add_up(make_segmenter, make_scene):
    timings = make_segmenter().step(make_scene(), 0).timings_ms
    *stages, total = timings
    memory = ["encode", "motion", "decode", "remember", "label_memory", "postprocess"]
    assert stages == ["continuity", "preprocess", *memory] and total == "total"
    assert min(timings.values()) >= 0.0
    assert timings["total"] == pytest.approx(sum(timings[stage] for stage in stages))


def test_results_belong_to_the_caller(make_segmenter, drive):
    wanted = stream(make_segmenter(), drive)
    segmenter, kept = make_segmenter(), []
    for index, image in enumerate(drive):
        image = image.copy()
        result = segmenter.step(image, index * PERIOD, "camera")
        kept.append((result.labels.copy(), result.confidence.copy(), result))
        image[:] = 0  # the caller's to reuse, too
        if index == 2:
            result.labels[:] = result.confidence[:] = 77
    for index, (labels, confidence, result) in enumerate(kept):
        assert np.array_equal(labels, wanted[index].labels)
        if index != 2:
            assert np.array_equal(result.labels, labels) and np.array_equal(result.confidence, confidence)


def test_300_steps_leave_no_tensors_behind(make_segmenter, drive):
    def live_tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    segmenter = make_segmenter()
    stream(segmenter, drive)
    before = live_tensors()
    for index in range(300):
        segmenter.step(drive[index % 2], (10 + index) * PERIOD, "camera")
    assert live_tensors() == before


def test_bfloat16_gives_the_labels_of_float32_but_for_a_few(model, make_segmenter, drive):
    half = stream(VideoSegmenter(prepare(model, "cpu", "bf16")), drive)
    for one, other in zip(half, stream(make_segmenter(), drive), strict=True):
        assert np.mean(one.labels == other.labels) > 0.97  # measured 0.996 with these weights
        assert np.abs(one.confidence.astype(int) - other.confidence).mean() < 3


# ---- sizes -----------------------------------------------------------------------------------------------------------------


def test_pixel_comes_back_where_it_was():
    image = np.full((4, 8, 3), (255, 0, 0), np.uint8)
    image[1, 6] = (0, 0, 255)
    for options in ({}, {"network_size": "16x8"}, {"network_size": "8x8", "resize": "letterbox"}):
        assert np.argwhere(pixel_segmenter(**options).step(image, 0).labels == 2).tolist() == [[1, 6]]
    cropped = pixel_segmenter(network_size="4x4", resize="crop").step(image, 0)
    assert cropped.labels.tolist() == [[255, 255, 0, 0, 0, 0, 255, 255]] * 4  # blue was beyond columns 2–5
    assert (cropped.confidence == 0).tolist() == [[True, True, False, False, False, False, True, True]] * 4


def test_network_size_can_be_chosen(make_segmenter, make_scene):
    result = make_segmenter(network_size="48x24").step(make_scene(), 0)
    assert result.geometry.network_size == Size(24, 48) and result.labels.shape == (32, 64)


def test_network_size_off_the_multiple_is_refused_at_once_with_the_nearest(make_segmenter):
    with pytest.raises(ConfigError, match="network sides must be 8·n, got 60x33; nearest is 64x32"):
        make_segmenter(network_size="60x33")


@pytest.mark.parametrize(("output", "shape"), [("network", (32, 64)), ("20x10", (10, 20)), ("input", (64, 100))])
def test_output_size_can_be_chosen(make_segmenter, make_scene, output, shape):
    result = make_segmenter(network_size="64x32", output_size=output).step(make_scene(0, 64, 100), 0)
    assert result.labels.shape == result.confidence.shape == shape
    assert result.geometry.output_size == shape


def test_upsampled_logits_equal_labels_where_sizes_are_equal(make_segmenter, drive):
    assert_same(stream(make_segmenter(upsample="logits"), drive), stream(make_segmenter(), drive))


def test_upsampled_logits_are_chosen_from_after_interpolation(make_segmenter, runtime, make_scene):
    scene = make_scene(0, 64, 128)
    segmenter = make_segmenter(upsample="logits")
    result = segmenter.step(scene, 0)
    pixels = torch.from_numpy(result.geometry.to_network(scene)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        logits = runtime.network.decode(runtime.network.encode(pixels))[:, :CLASSES]
    wanted = F.interpolate(logits, (64, 128), mode="bilinear", align_corners=False).argmax(1)[0].numpy()
    assert np.mean(result.labels != wanted) < 0.002  # other order of summation, ties
    assert differ(result, make_segmenter().step(scene, 0))


# ---- memory ----------------------------------------------------------------------------------------------------------------


def test_memory_fills_frame_by_frame_up_to_s(make_segmenter, drive):
    results = stream(make_segmenter(), drive)
    assert [result.memory_frames for result in results] == [0, 1, 2, S, S, S]
    assert all(result.remembered for result in results)


def test_same_frames_twice_give_identical_labels(make_segmenter, drive):
    assert_same(stream(make_segmenter(), drive), stream(make_segmenter(), drive))


def test_memory_changes_labels_from_the_second_frame_on(make_segmenter, drive):
    with_memory, without = stream(make_segmenter(), drive), stream(make_segmenter(memory=False), drive)
    assert [differ(one, other) for one, other in zip(with_memory, without, strict=True)] == [False] + [True] * 5
    assert [result.memory_frames for result in without] == [0] * 6
    assert not any(result.remembered for result in without)


def test_s_can_be_chosen(make_segmenter, drive):
    one = stream(make_segmenter(memory_frames=1, label_memory=False), drive)
    assert [result.memory_frames for result in one] == [0, 1, 1, 1, 1, 1]
    assert [result.memory_frames for result in stream(make_segmenter(memory_frames=5), drive)] == [0, 1, 2, 3, 4, 5]
    # With S = 1 only the frame before counts.
    assert np.array_equal(one[-1].labels, stream(make_segmenter(label_memory=False), drive[-2:])[-1].labels)


def test_a_memory_that_follows_motion_reads_where_things_have_moved_to(following_weights, textured_drive):
    segmenter, drive = following(following_weights, label_memory=False), textured_drive
    results = stream(segmenter, drive)
    positions, network = follow(np.stack(drive), Size(8, 16)), segmenter.runtime.network
    with torch.inference_mode():
        features = [
            network.encode(torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last) / 255)
            for image in drive
        ]
        kept = [network.remember(one) for one in features]
        for now in range(1, len(drive)):
            past = slice(max(0, now - S), now)
            where = torch.from_numpy(positions[now][past])[None]
            logits = network.decode(features[now], stack_memory(kept[past]), positions=where)[0, :CLASSES]
            assert np.mean(results[now].labels != logits.argmax(0).numpy()) < 0.002
    unmoved = stream(following(following_weights, motion_compensation=False, label_memory=False), drive)
    assert [differ(one, other) for one, other in zip(results, unmoved, strict=True)] == [False] + [True] * 5
    assert "motion" in results[0].timings_ms and "motion" not in unmoved[0].timings_ms


@pytest.mark.parametrize("options", [{}, {"memory_interval_s": 0.2}, {"memory_frames": 1}], ids=str)
def test_a_memory_that_follows_motion_is_fed_forgets_and_looks_like_any_other(following_weights, textured_drive, options):
    stepped, fed = (following(following_weights, **options) for _ in range(2))
    drive = textured_drive
    expected = stream(stepped, drive)
    for index, image in enumerate(drive[:-1]):
        fed.step(image, index * PERIOD, "camera", labels=False)
    before = attend(fed, drive[-1], [(40, 16)])  # changes nothing
    last = fed.step(drive[-1], 5 * PERIOD, "camera")
    assert_same([last], expected[-1:])
    assert len(before) == 1 and before[0].weights.shape[0] == expected[-1].memory_frames
    fed.reset()
    assert_same(stream(fed, drive), expected)
    fed.memory_enabled = False
    fed.step(drive[0], 10 * PERIOD, "camera")
    fed.memory_enabled = True
    fed.reset()
    assert_same(stream(fed, drive), expected)


def test_attention_is_shown_where_it_is_with_motion(following_weights, textured_drive):
    segmenters = [following(following_weights, motion_compensation) for motion_compensation in (True, False)]
    for segmenter in segmenters:
        stream(segmenter, textured_drive[:3])
    (moved,), (unmoved,) = (attend(segmenter, textured_drive[3], [(68, 32)]) for segmenter in segmenters)
    newest = moved.stamps_ns.index(2 * PERIOD)
    columns = [float(np.average(np.arange(-2, 3), weights=one.weights[newest].sum(0))) for one in (moved, unmoved)]
    assert columns[0] < columns[1] - 0.4  # a cell to the left, where it was


def test_a_frame_is_remembered_after_it_was_read_for(runtime, make_segmenter, drive):
    # A full memory holds the S frames before, never the one in hand; with random keys that alone is hard to see in the labels.
    segmenter, read = make_segmenter(), []
    decode = runtime.network.decode

    def watched(features, past, *others):
        newest = None if past is None else {tuple(past.keys[0, t].flatten().tolist()) for t in range(past.keys.shape[1])}
        own = tuple(runtime.network.remember(features).key.flatten().tolist())
        read.append((0 if newest is None else len(newest), newest is not None and own in newest))
        return decode(features, past, *others)

    runtime.network.decode = watched
    try:
        stream(segmenter, drive)
    finally:
        del runtime.network.decode
    assert read == [(number, False) for number in (0, 1, 2, S, S, S)]


def test_interval_spaces_what_is_remembered(make_segmenter, drive):
    results = stream(make_segmenter(memory_interval_s=0.2), drive)
    assert [result.remembered for result in results] == [True, False] * 3
    assert [result.memory_frames for result in results] == [0, 1, 1, 2, 2, 3]


def test_reset_is_as_good_as_new(make_segmenter, drive):
    segmenter = make_segmenter()
    stream(segmenter, drive)
    segmenter.reset()
    assert_same(stream(segmenter, drive), stream(make_segmenter(), drive))


def test_memory_switched_off_forgets(make_segmenter, drive):
    segmenter, single = make_segmenter(label_memory=False), make_segmenter(memory=False, label_memory=False)
    stream(segmenter, drive[:3])
    segmenter.memory_enabled = True  # as it was
    assert len(segmenter.memory_stamps_ns) == 3
    segmenter.memory_enabled = False
    assert segmenter.memory_stamps_ns == ()
    off = segmenter.step(drive[3], 3 * PERIOD, "camera")
    assert (off.memory_frames, off.remembered, off.discontinuity) == (0, False, None)
    assert not differ(off, single.step(drive[3], 0))
    segmenter.memory_enabled = True
    on = stream(segmenter, drive[4:], 4 * PERIOD)
    assert [(result.memory_frames, result.remembered) for result in on] == [(0, True), (1, True)]
    assert not differ(on[0], single.step(drive[4], PERIOD))


def test_two_streams_on_one_runtime_do_not_mix(make_segmenter, drive, make_scene):
    other_drive = [np.roll(make_scene(5), -shift, axis=1) for shift in range(6)]
    one, other = make_segmenter(), make_segmenter()
    interleaved = [
        (one.step(a, index * PERIOD, "camera"), other.step(b, index * PERIOD, "camera"))
        for index, (a, b) in enumerate(zip(drive, other_drive, strict=True))
    ]
    assert_same([pair[0] for pair in interleaved], stream(make_segmenter(), drive))
    assert_same([pair[1] for pair in interleaved], stream(make_segmenter(), other_drive))


def test_weights_without_memory_segment_single_frames(single_frame_weights, drive):
    segmenter = VideoSegmenter.from_weights(single_frame_weights, device="cpu", precision="fp32")
    assert not segmenter.memory_enabled
    results = stream(segmenter, [drive[0]] * 3)
    assert [(result.memory_frames, result.remembered) for result in results] == [(0, False)] * 3
    assert not differ(results[0], results[2])
    with pytest.raises(ConfigError, match="no memory"):
        segmenter.memory_enabled = True
    with pytest.raises(ConfigError, match="no memory"):
        prepare(load_model(single_frame_weights), "cpu", memory=MemoryConfig())


def test_segmenter_from_weights_is_the_segmenter_of_its_runtime(video_weights, make_segmenter, drive):
    segmenter = VideoSegmenter.from_weights(video_weights, SegmenterConfig(memory_frames=2), device="cpu", precision="fp32")
    assert_same(stream(segmenter, drive), stream(make_segmenter(memory_frames=2), drive))
    assert segmenter.labels.names[0] == "road" and len(segmenter.labels.names) == CLASSES


# ---- feeding without labels --------------------------------------------------------------------------------------------------


#: Index of an image of `drive` and stamp: goes on, late, repeated, a gap, a step back.
FED = [(0, 0), (1, 100), (2, 200), (3, 150), (4, 200), (5, 300), (0, 400), (1, 2000), (2, 2100), (3, 500), (4, 600)]


@pytest.mark.parametrize("options", [{}, {"memory_frames": 1}, {"memory_interval_s": 0.2}, {"memory": False}], ids=str)
@pytest.mark.parametrize("fed", [lambda n: n % 2, lambda n: n > 0, lambda n: n not in (6, 10)], ids=["odd", "later", "most"])
def test_feeding_leaves_the_memory_that_stepping_leaves(make_segmenter, drive, options, fed):
    stepped, mixed = make_segmenter(**options), make_segmenter(**options)
    for number, (index, milliseconds) in enumerate(FED):
        wanted = stepped.step(drive[index], milliseconds * MS)
        got = mixed.step(drive[index], milliseconds * MS, labels=not fed(number))
        for name in ("stamp_ns", "frame_id", "discontinuity", "memory_frames", "remembered", "geometry"):
            assert getattr(got, name) == getattr(wanted, name), (name, number)
        if not fed(number):
            assert_same([got], [wanted])
    if stepped.memory_enabled:
        ours, theirs = mixed.memory.buffer.frames(), stepped.memory.buffer.frames()
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_feeding_decodes_nothing_and_encodes_only_what_is_remembered(make_segmenter, runtime, drive, monkeypatch):
    encoded = []
    encode = runtime.network.encode
    monkeypatch.setattr(runtime.network, "encode", lambda x: encoded.append(1) or encode(x))
    monkeypatch.setattr(runtime.network, "decode", None)  # would fail if it were called
    segmenter = make_segmenter(label_memory=False)
    for milliseconds, encodings in ((0, 1), (100, 2), (100, 2), (50, 2), (200, 3)):
        before = len(encoded)
        assert segmenter.step(drive[0], milliseconds * MS, labels=False).remembered == (encodings > before)
        assert len(encoded) == encodings
    off = make_segmenter(memory=False, label_memory=False)
    assert off.step(drive[0], 0, labels=False).labels.shape == (0, 0)
    assert len(encoded) == 3


def test_what_is_no_image_is_not_fed_and_leaves_the_memory(make_segmenter, drive):
    segmenter = make_segmenter()
    segmenter.step(drive[0], 0, labels=False)
    with pytest.raises(InputError):
        segmenter.step(np.zeros((0, 0, 3), np.uint8), PERIOD, labels=False)
    assert segmenter.step(drive[1], PERIOD).memory_frames == 1


# ---- discontinuities -------------------------------------------------------------------------------------------------------

BREAKS = {
    Discontinuity.BACKWARD_STAMP: {"stamp_ns": -200 * MS},
    Discontinuity.GAP: {"stamp_ns": PERIOD + 1001 * MS},
    Discontinuity.SIZE_CHANGE: {"image": (0, 40, 64)},
    Discontinuity.FRAME_ID_CHANGE: {"frame_id": "rear"},
    Discontinuity.SCENE_CUT: {"image": (1, 32, 64)},
    Discontinuity.MANUAL: {"request": Discontinuity.MANUAL},
    Discontinuity.CLOCK_JUMP: {"request": Discontinuity.CLOCK_JUMP, "stamp_ns": -3600 * 1000 * MS},
}


def test_every_cause_of_a_discontinuity_has_a_test():
    others = {Discontinuity.FIRST_FRAME, Discontinuity.BLIND, Discontinuity.FROZEN}
    assert {*BREAKS} | others == {*Discontinuity}


def test_blind_frames_are_segmented_by_themselves_and_the_stream_starts_again_after_them(make_segmenter, drive):
    segmenter, fresh, off = make_segmenter(), make_segmenter(), make_segmenter(memory=False, label_memory=False)
    black = np.zeros_like(drive[0])
    stream(segmenter, drive[:3])
    for index in (3, 4):
        result, wanted = segmenter.step(black, index * PERIOD, "camera"), off.step(black, index * PERIOD, "camera")
        assert (result.blind, result.discontinuity, result.remembered) == (Blindness.BLACK, None, False)
        assert (result.labels == wanted.labels).all() and result.memory_frames == 0
        assert result.confidence.max() <= 25
    for index, image in enumerate(drive[3:6]):
        result = segmenter.step(image, (5 + index) * PERIOD, "camera")
        assert result.discontinuity is (Discontinuity.BLIND if index == 0 else None)
        assert result.blind is None and result.memory_frames == index and result.remembered
        assert not differ(result, fresh.step(image, (5 + index) * PERIOD, "camera"))


def test_frozen_frames_are_segmented_by_themselves_and_the_stream_starts_again_after_them(make_segmenter, drive):
    segmenter = make_segmenter(continuity=ContinuityConfig(frozen_repeats=3))
    results = stream(segmenter, [*drive[:3], *drive[2:3] * 4, drive[3]])
    assert [result.blind for result in results] == [None] * 5 + [Blindness.FROZEN] * 2 + [None]
    assert [result.remembered for result in results] == [True] * 5 + [False] * 2 + [True]
    assert [result.memory_frames for result in results[5:]] == [0, 0, 0]
    assert results[-1].discontinuity is Discontinuity.FROZEN
    assert max(result.confidence.max() for result in results[5:7]) <= 25 < results[-1].confidence.max()


def test_a_hole_of_three_trained_intervals_is_a_gap_and_of_two_is_none(video_weights, drive):
    runtime = prepare(load_model(video_weights), "cpu", "fp32")
    runtime = replace(runtime, config=replace(runtime.config, memory=replace(runtime.config.memory, frame_interval_s=0.1)))
    for intervals, cause in ((2, None), (3, Discontinuity.GAP)):
        segmenter = VideoSegmenter(runtime, SegmenterConfig())
        segmenter.step(drive[0], 0)
        assert segmenter.step(drive[1], intervals * 100 * MS).discontinuity is cause


def test_a_steady_slow_stream_empties_the_feature_memory_and_keeps_the_labels(video_weights, drive):
    runtime = prepare(load_model(video_weights), "cpu", "fp32")
    runtime = replace(runtime, config=replace(runtime.config, memory=replace(runtime.config.memory, frame_interval_s=0.1)))
    segmenter = VideoSegmenter(runtime, SegmenterConfig())
    results = [segmenter.step(drive[number % len(drive)], number * 500 * MS) for number in range(8)]
    assert all(one.discontinuity is None and one.memory_frames == 0 and one.remembered for one in results[4:])
    evidence = segmenter.label_memory.view(drive[0]).evidence
    assert evidence is not None
    assert segmenter.step(drive[0], 3600 * MS).memory_frames == 1  # in time again


def test_first_frame_has_no_memory(make_segmenter, make_scene):
    result = make_segmenter().step(make_scene(), 0)
    assert (result.discontinuity, result.memory_frames, result.remembered) == (Discontinuity.FIRST_FRAME, 0, True)


@pytest.mark.parametrize("cause", BREAKS)
def test_discontinuity_clears_the_memory_and_the_stream_starts_again(make_segmenter, make_scene, cause):
    change = BREAKS[cause]
    scene = make_scene(*change.get("image", (0, 32, 64)))
    stamp_ns, frame_id = change.get("stamp_ns", 2 * PERIOD), change.get("frame_id", "camera")
    segmenter, fresh = make_segmenter(), make_segmenter()
    stream(segmenter, [make_scene()] * 2)
    if "request" in change:
        segmenter.request_reset(change["request"])
    for index in range(3):
        result = segmenter.step(scene, stamp_ns + index * PERIOD, frame_id)
        wanted = fresh.step(scene, stamp_ns + index * PERIOD, frame_id)
        assert result.discontinuity is (cause if index == 0 else None)
        assert result.memory_frames == index and result.remembered
        assert not differ(result, wanted)


def test_another_thread_may_request_a_reset(make_segmenter, drive):
    segmenter = make_segmenter()
    stream(segmenter, drive[:2])
    thread = threading.Thread(target=segmenter.request_reset)
    thread.start()
    thread.join()
    result = segmenter.step(drive[2], 2 * PERIOD, "camera")
    assert (result.discontinuity, result.memory_frames) == (Discontinuity.MANUAL, 0)


def test_discontinuities_are_reported_without_memory_too(make_segmenter, drive):
    segmenter = make_segmenter(memory=False)
    stream(segmenter, drive[:2])
    assert segmenter.step(drive[2], 10_000 * MS, "camera").discontinuity is Discontinuity.GAP


def test_thresholds_come_from_the_configuration(make_segmenter, drive, make_scene):
    segmenter = make_segmenter(continuity=ContinuityConfig(gap_s=5.0, scene_cut=False))
    stream(segmenter, drive[:2])
    result = segmenter.step(make_scene(1), 4_000 * MS, "camera")
    assert (result.discontinuity, result.memory_frames) == (None, 2)


@pytest.mark.parametrize("stamp_ns", [PERIOD, 50 * MS], ids=["repeated", "late"])
def test_repeated_and_late_frames_are_segmented_but_not_remembered(make_segmenter, drive, make_scene, stamp_ns):
    segmenter, undisturbed = make_segmenter(), make_segmenter()
    stream(segmenter, drive[:2])
    stream(undisturbed, drive[:2])
    odd = segmenter.step(make_scene(), stamp_ns, "camera")
    assert (odd.discontinuity, odd.memory_frames, odd.remembered) == (None, 2, False)
    assert odd.labels.shape == (32, 64)
    assert_same(
        [segmenter.step(drive[2], 2 * PERIOD, "camera")],
        [undisturbed.step(drive[2], 2 * PERIOD, "camera")],
    )


def test_repeated_frame_does_not_enter_an_empty_memory_either(make_segmenter, drive):
    segmenter = make_segmenter(memory=False)
    stream(segmenter, drive[:2])
    segmenter.memory_enabled = True
    repeated = segmenter.step(drive[1], PERIOD, "camera")
    assert (repeated.discontinuity, repeated.remembered) == (None, False)
    assert segmenter.step(drive[2], 2 * PERIOD, "camera").memory_frames == 0


@pytest.mark.parametrize("start_ns", [0, -(10**18), -PERIOD, 2**63 - 6 * PERIOD, 10**30])
def test_any_stamp_may_start_a_stream(make_segmenter, drive, start_ns):
    assert_same(stream(make_segmenter(), drive, start_ns), stream(make_segmenter(), drive))


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((32, 64, 3), np.float32),
        np.zeros((32, 64, 3), np.int64),
        np.zeros((32, 64, 2), np.uint8),
        np.zeros((3, 32, 64), np.uint8),
        np.zeros(64, np.uint8),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((1, 32767, 3), np.uint8),
    ],
    ids=["0x0", "no rows", "float", "int64", "two channels", "channels first", "1-D", "batch", "too wide"],
)
def test_what_is_no_image_is_refused_and_the_stream_goes_on(make_segmenter, drive, image):
    segmenter, undisturbed = make_segmenter(), make_segmenter()
    stream(segmenter, drive[:2])
    stream(undisturbed, drive[:2])
    segmenter.request_reset()
    with pytest.raises(InputError):
        segmenter.step(image, 99_999 * MS, "another camera")
    undisturbed.request_reset()  # the request was not used up by it
    assert_same(stream(segmenter, drive[2:], 2 * PERIOD), stream(undisturbed, drive[2:], 2 * PERIOD))


def test_what_is_no_image_leaves_the_memory(make_segmenter, drive):
    segmenter = make_segmenter()
    stream(segmenter, drive[:2])
    with pytest.raises(InputError):
        segmenter.step(np.zeros((0, 0, 3), np.uint8), 2 * PERIOD, "camera")
    result = segmenter.step(drive[2], 2 * PERIOD, "camera")
    assert (result.discontinuity, result.memory_frames, result.remembered) == (None, 2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 1}, "memory must be true or false, got 1"),
        ({"memory_frames": -1}, "memory_frames must be 0 to 64, got -1"),
        ({"memory_frames": True}, "memory_frames must be 0 to 64, got True"),
        ({"memory_interval_s": -0.1}, "memory_interval_s must be 0 to 60 s, got -0.1"),
        ({"memory_interval_s": float("nan")}, "memory_interval_s must be 0 to 60 s, got nan"),
        ({"network_size": "big"}, "a size is WIDTHxHEIGHT .* got 'big'"),
        ({"output_size": "0x0"}, "a size is WIDTHxHEIGHT .* got '0x0'"),
        ({"resize": "zoom"}, "resize must be stretch or letterbox or crop, got 'zoom'"),
        ({"upsample": "cubic"}, "upsample must be labels or logits, got 'cubic'"),
        ({"attention": "magic"}, "attention must be auto or reference or blocked.*, got 'magic'"),
    ],
)
def test_setting_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SegmenterConfig(**options)


def test_attention_that_this_device_has_not_is_refused_at_once(make_segmenter):
    with pytest.raises(ConfigError, match="attention: triton does not run on cpu here; try auto"):
        make_segmenter(attention="triton")


@pytest.mark.parametrize("options", [{"resize": "letterbox"}, {"resize": "crop"}, {"output_size": "network"}])
def test_upsampled_logits_want_the_whole_image_at_another_size(options):
    with pytest.raises(ConfigError, match="upsample: logits wants resize: stretch and an output_size other than network"):
        SegmenterConfig(upsample="logits", **options)


def test_every_combination_of_sizes_and_modes_agrees_on_shapes(make_segmenter, make_scene):
    scene = make_scene(0, 20, 50)
    for resize, output in itertools.product(("stretch", "letterbox", "crop"), ("input", "network", "9x7")):
        result = make_segmenter(resize=resize, output_size=output).step(scene, 0)
        assert result.geometry.image_to_output(scene).shape[:2] == result.labels.shape == result.confidence.shape


# ---- in a loop


def test_stream_segments_frames_as_step_does_and_results_draw_themselves(make_segmenter, make_scene):
    frames = [Frame(make_scene(seed % 2), seed * PERIOD, "camera") for seed in range(3)]
    one, other = make_segmenter(), make_segmenter()
    for frame, result in zip(frames, one.stream(frames), strict=True):
        expected = other.step(frame.image, frame.stamp_ns, frame.frame_id)
        assert np.array_equal(result.labels, expected.labels) and result.memory_frames == expected.memory_frames
        assert np.array_equal(result.colors(), one.labels.colorize(result.labels))
        assert np.array_equal(result.overlay(0.3), one.labels.overlay(frame.image, result.labels, 0.3))


def test_stream_opens_a_recording_by_its_name_and_closes_it(make_segmenter, write_video, tmp_path):
    results = make_segmenter(output_size="16x8").stream(write_video(tmp_path / "drive.avi", 3))
    drawn = [result.overlay() for result in results]
    assert len(drawn) == 3 and drawn[0].shape == (8, 16, 3)


def test_result_that_does_not_know_its_classes_says_so(make_result):
    result = make_result(np.zeros((2, 2))).result
    for draw in (result.colors, result.overlay):
        with pytest.raises(ValueError, match="this result does not know"):
            draw()


@pytest.mark.parametrize(
    ("rotate", "seen"), [(0, Size(64, 256)), (180, Size(64, 256)), (90, Size(128, 32)), (270, Size(128, 32))]
)
def test_pixels_twice_as_wide_as_high_are_seen_square_however_the_camera_is_turned(rotate, seen):
    backbone = SimpleNamespace(fixed_size=None, size_multiple=8, size_remainder=0)
    plan = plan_stream(SegmenterConfig(rotate=rotate), backbone, Size(1000, 1000), Size(64, 128), pixel_aspect=2.0)
    assert plan.upright.network_size == seen


@pytest.mark.parametrize("size", [Size(32, 63), Size(32, 65)])
def test_a_network_of_one_size_takes_no_smaller_and_no_larger_one(size):
    backbone = SimpleNamespace(fixed_size=Size(32, 64))
    require_allowed(Size(32, 64), backbone)
    with pytest.raises(ConfigError, match=f"takes 64x32 only, got {size}"):
        require_allowed(size, backbone)
