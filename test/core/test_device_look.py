"""Looking at pictures on the device: the flow finds what OpenCV's finds, the rest is what the host computes."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from lmanet_core.geometry import Size, resize_image
from lmanet_core.stream import motion
from lmanet_core.stream.cuda_graph import BufferedStep
from lmanet_core.stream.dense_flow import DenseFlow
from lmanet_core.stream.device_comparison import Comparison
from lmanet_core.stream.device_look import can_look
from lmanet_core.stream.device_motion import BlockMotion
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT, PictureComparison
from lmanet_core.stream.picture_tensors import Picture, Thumbnails, blurred, box, dilated, eroded, filtered, resized, solved
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

CPU = torch.device("cpu")
SIZE = Size(128, 256)
GRID = Size(16, 32)
PERIOD = 100 * 10**6


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def wide_scene():
    """Blobs of several sizes and some hard edges, (256, 448, 3), to cut moving windows from."""
    rng = np.random.default_rng(5)
    layers = [
        cv2.resize(rng.normal(size=(256 // cell, 448 // cell, 3)), (448, 256), interpolation=cv2.INTER_CUBIC)
        for cell in (4, 8, 16, 32)
    ]
    scene = np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)
    for top, left in rng.integers(0, (220, 400), (12, 2)):
        scene[top : top + 30, left : left + 20] = rng.integers(0, 256, 3)
    return scene


def window(scene, down=0.0, right=0.0, zoom=1.0, size=SIZE):
    """What a camera sees after the picture has moved by (down, right) pixels and grown about the middle of the window."""
    middle_x, middle_y = scene.shape[1] / 2, scene.shape[0] / 2
    at_x, at_y = (size.width - 1) / 2, (size.height - 1) / 2
    matrix = np.float64([[zoom, 0, at_x + right - zoom * middle_x], [0, zoom, at_y + down - zoom * middle_y]])
    return cv2.warpAffine(scene, matrix, (size.width, size.height), flags=cv2.INTER_LINEAR)


def as_picture(image):
    return Thumbnails(Size(*image.shape[:2]), CPU)(torch.from_numpy(image).float())


def grey(image):
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).float()


def flow_between(before, after):
    """(h, w, 2) of grey pictures (h, w)."""
    flow = DenseFlow(Size(*before.shape), CPU)(before[None], after[None])[0]
    return flow.permute(1, 2, 0).contiguous().numpy()


# ---- flow


@pytest.mark.parametrize("size", [SIZE, Size(111, 187), Size(32, 200), Size(200, 110)], ids=str)
@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (3.0, -7.0), (-1.5, 2.25), (9.0, 14.0)])
def test_a_picture_that_moves_is_followed_to_a_fraction_of_a_pixel(wide_scene, size, down, right):
    before, after = (grey(window(wide_scene, *by, size=size)) for by in ((0, 0), (down, right)))
    error = np.hypot(*(flow_between(before, after) - np.float32((right, down))).transpose(2, 0, 1))
    assert np.median(error) < 0.15
    assert np.quantile(error[10:-10, 18:-18], 0.9) < 0.5


def test_a_camera_that_drives_ahead_is_followed(wide_scene):
    flow = flow_between(*(grey(window(wide_scene, zoom=zoom)) for zoom in (1.0, 1.08)))
    y, x = np.indices(SIZE).astype(np.float32)
    wanted = 0.08 * np.dstack((x - 127.5, y - 63.5))
    error = np.hypot(*(flow - wanted).transpose(2, 0, 1))[10:-10, 10:-10]
    assert np.median(error) < 0.2 and np.quantile(error, 0.9) < 0.8


def test_pictures_moved_by_it_are_as_alike_as_by_opencv(wide_scene):
    opencv = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    opencv.setFinestScale(0)
    y, x = np.indices(SIZE).astype(np.float32)
    for by in ({"right": 6, "zoom": 1.05}, {"down": -4, "zoom": 0.95}):
        before, after = (cv2.cvtColor(window(wide_scene, **one), cv2.COLOR_RGB2GRAY) for one in ({}, by))
        apart = []
        for flow in (
            opencv.calc(before, after, None),
            flow_between(*(torch.from_numpy(one).float() for one in (before, after))),
        ):
            came = cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            apart.append(np.abs(came.astype(float) - before).mean())
        assert apart[1] < 1.15 * apart[0] < np.abs(after.astype(float) - before).mean() / 3


def test_something_that_moves_by_itself_keeps_its_own_motion(wide_scene):
    before, after = window(wide_scene), window(wide_scene)
    before[40:96, 80:150] = wide_scene[:56, :70]
    after[40:96, 90:160] = wide_scene[:56, :70]
    flow = flow_between(grey(before), grey(after))
    assert np.abs(np.median(flow[44:92, 84:146], (0, 1)) - (10, 0)).max() < 0.2
    assert np.abs(np.median(flow[:, 190:], (0, 1))).max() < 0.1


def test_brightness_is_no_motion_and_what_has_no_texture_does_not_move(wide_scene):
    before = window(wide_scene)
    after = np.clip(before.astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    assert np.median(np.abs(flow_between(grey(before) / 2, grey(after)))) < 0.1
    flat = torch.full(SIZE, 80.0)
    assert not flow_between(flat, flat + 30.0).any()


def test_pairs_of_a_batch_know_nothing_of_each_other(wide_scene):
    pictures = [grey(window(wide_scene, *by)) for by in ((0, 0), (2, 5), (-6, 1))]
    flow = DenseFlow(SIZE, CPU)
    both = flow(torch.stack(pictures[:2]), torch.stack(pictures[1:]))
    for one, pair in zip(both, itertools.pairwise(pictures), strict=True):
        assert torch.allclose(one, flow(*(picture[None] for picture in pair))[0], atol=1e-4)


# ---- what OpenCV does


@pytest.mark.parametrize(("size", "new"), [((36, 64), (9, 16)), ((37, 61), (9, 15)), ((9, 15), (37, 61)), ((20, 30), (20, 7))])
def test_sizes_and_blurs_are_opencvs(size, new):
    plane = np.random.default_rng(0).normal(size=size).astype(np.float32)
    shrinks = new[0] <= size[0] and new[1] <= size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    got = resized(Size(*size), Size(*new), CPU)(torch.from_numpy(plane)).numpy()
    np.testing.assert_allclose(got, cv2.resize(plane, new[::-1], interpolation=how), atol=1e-5)
    for sigma in (1.5, 5.0):
        got = blurred(Size(*size), sigma, CPU)(torch.from_numpy(plane)).numpy()
        np.testing.assert_allclose(got, cv2.GaussianBlur(plane, (0, 0), sigma), atol=1e-5)
    for side in (3, 5):
        np.testing.assert_allclose(box(torch.from_numpy(plane), side).numpy(), cv2.blur(plane, (side, side)), atol=1e-5)
        kernel = np.ones((side, side), np.uint8)
        for ours, theirs in ((dilated, cv2.dilate), (eroded, cv2.erode)):
            assert np.array_equal(ours(torch.from_numpy(plane)[None], side)[0].numpy(), theirs(plane, kernel))
    kernels = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    for got, kernel in zip(filtered(torch.from_numpy(plane), torch.from_numpy(kernels)), kernels, strict=True):
        np.testing.assert_allclose(got.numpy(), cv2.filter2D(plane, cv2.CV_32F, kernel), atol=1e-4)


@pytest.mark.parametrize("size", [(72, 128), (360, 480), (512, 1024), (171, 300)])
def test_thumbnails_are_opencvs(size):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), size[::-1])
    got = as_picture(image)
    assert np.abs(got.colours.permute(1, 2, 0).numpy() - motion.thumbnail(image)).max() <= 1
    assert np.abs(got.grey.numpy() - motion.grey_thumbnail(image)).max() <= 1


def test_systems_of_equations_are_solved():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(40, 6))
    matrix, wanted = factors.T @ factors + 0.01 * np.eye(6), rng.normal(size=(6, 2))
    got = solved(*(torch.from_numpy(one).float() for one in (matrix, wanted))).numpy()
    np.testing.assert_allclose(got, np.linalg.solve(matrix, wanted), rtol=1e-3, atol=1e-4)


def test_patches_are_told_apart_also_where_they_wind():
    flat = np.zeros((40, 60), np.uint8)
    flat[2:12, 3:20] = flat[20:34, 3:9] = flat[28:34, 3:30] = flat[20:34, 24:30] = 1  # a block and a U
    flat[5:36, 35:41] = flat[5:11, 35:58] = flat[5:36, 52:58] = flat[30:36, 44:58] = flat[18:36, 44:48] = 1  # a spiral
    flat[14:17, 0:3] = 1
    _, wanted = cv2.connectedComponents(flat, connectivity=4)
    got = Comparison(Size(40, 60), CPU)._patches(torch.from_numpy(flat) > 0).numpy()
    pairs = set(zip(wanted.ravel().tolist(), got.ravel().tolist(), strict=True))
    assert len(pairs) == wanted.max() + 1 == 5 and (0, 0) in pairs


# ---- what holds of the labels


class HostComparison(PictureComparison):
    """The host's, with the device's flow."""

    def _measure(self, now, past):
        return flow_between(*(torch.from_numpy(one).float() for one in (now, past)))


def with_lost_blocks(image, rng, side=40):
    image = image.copy()
    for top, left in rng.integers(0, (image.shape[0] - side, image.shape[1] - side), (3, 2)):
        image[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return image


@pytest.mark.parametrize("size", [Size(128, 256), Size(240, 320), Size(171, 300)], ids=str)
def test_evidence_is_the_hosts_where_the_flow_is(wide_scene, size):
    rng = np.random.default_rng(0)
    host, past, lost_somewhere = HostComparison(), None, 0
    compare = Comparison(motion.thumbnail_size(size), CPU)
    for turn in range(6):
        image = resize_image(window(wide_scene, 1.5 * turn, 3 * turn, 1 + 0.02 * turn), size)
        image = with_lost_blocks(image, rng) if turn % 2 else image
        wanted, now = host.compare(image), as_picture(image)
        if past is not None:
            before = Picture(past, torch.round((past * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)))
            flow = torch.from_numpy(flow_between(now.grey, before.grey)).permute(2, 0, 1)
            got, seen = (one.numpy() for one in compare(now, past, flow))
            lost = wanted[HOLDS] == LOST
            assert np.mean(lost != (got[HOLDS] == LOST)) < 0.005
            lost_somewhere += int(lost.sum())
            both = ~lost & (got[HOLDS] != LOST)
            assert np.abs(got[HOLDS] - wanted[HOLDS])[both].mean() < 0.01
            apart = np.abs(got - wanted)[[DOWN, RIGHT]]
            assert np.quantile(apart, 0.95) < 0.002
            assert np.abs(seen.transpose(1, 2, 0) - host._seen).mean() < 0.5
        host.commit()
        past = torch.from_numpy(host._past).permute(2, 0, 1).float()
    assert lost_somewhere > 1000


def test_where_nothing_is_flat_nothing_is_lost_and_the_same_picture_holds(wide_scene):
    now = as_picture(window(wide_scene))
    evidence, seen = Comparison(SIZE, CPU)(now, now.colours, torch.zeros(2, *SIZE))
    assert (evidence[HOLDS] > 0.99).all() and (evidence[HOLDS] != LOST).all() and not evidence[:HOLDS].any()
    assert torch.equal(seen, now.colours)


# ---- where things are now


def test_blocks_move_as_on_the_host(wide_scene):
    host, device = motion.PictureMotion(), BlockMotion(SIZE, GRID, CPU)

    class Flow:
        def calc(self, before, after, _):
            return flow_between(*(torch.from_numpy(one).float() for one in (before, after)))

    host._flow = Flow()
    rng = np.random.default_rng(1)
    for by in ((0, 0), (3, -7), (2, 6, 1.05)):
        before, after = window(wide_scene), with_lost_blocks(window(wide_scene, *by), rng)
        small = [motion.grey_thumbnail(one) for one in (before, after)]
        wanted = motion._to_grid(host.measure(*small), GRID)
        pictures = [torch.from_numpy(one).float() for one in small]
        flow = torch.from_numpy(flow_between(*pictures)).permute(2, 0, 1)
        shift = device(*pictures, flow)
        assert np.abs(shift.numpy() - wanted).max() < 0.05
        places = torch.from_numpy(np.indices(GRID).astype(np.float32)) + 0.3
        moved = device.move(places[None], shift)[0]
        assert np.abs(moved.numpy() - motion._moved(places.numpy(), wanted)).max() < 0.05


# ---- a stream


@pytest.fixture
def make(following_weights):
    runtime = prepare(load_model(following_weights), "cpu", "fp32")

    def make(on_device=True, **options):
        made = VideoSegmenter(runtime, SegmenterConfig(**{"network_size": "128x64", **options}))
        made._on_device = on_device
        return made

    return make


def run(segmenter, images, stamps=None):
    stamps = range(len(images)) if stamps is None else stamps
    return [segmenter.step(image, stamp * PERIOD, "camera") for image, stamp in zip(images, stamps, strict=True)]


def positions(segmenter, count):
    return segmenter.memory.buffer.places.kept[:count]


def test_remembered_positions_follow_the_picture(make, textured_drive):
    on_device, on_host = make(), make(on_device=False)
    for number, image in enumerate(textured_drive[:3]):
        for segmenter in (on_device, on_host):
            assert segmenter.step(image, number * PERIOD).memory_frames == number
    ours, theirs = positions(on_device, 3), np.stack(on_host.memory._tracker._kept)
    assert torch.equal(ours[2], torch.from_numpy(np.indices(ours.shape[2:]).astype(np.float32)))
    for age in (1, 2):  # a position of 8 pixels to the right each time
        assert torch.allclose(ours[2 - age][1] - ours[2][1], torch.full(ours.shape[2:], float(age)), atol=0.3)
    assert np.abs(ours.numpy() - theirs).mean() < 0.1


def test_the_read_is_told_where_remembered_positions_are(make, textured_drive, monkeypatch):
    told = {}
    for on_device in (True, False):
        segmenter, told[on_device] = make(on_device), []
        network = segmenter.runtime.network
        decode = network.decode
        with monkeypatch.context() as spied:
            spied.setattr(
                network,
                "decode",
                lambda features, frames, impl, positions, told=told[on_device], decode=decode: (
                    told.append(None if frames is None else positions.clone()),
                    decode(features, frames, impl, positions),
                )[1],
            )
            run(segmenter, textured_drive[:4])
    assert told[True][0] is told[False][0] is None
    for ours, theirs in zip(told[True][1:], told[False][1:], strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).abs().mean() < 0.1


@pytest.mark.parametrize("options", [{}, {"memory": False}, {"label_memory": False}, {"upsample": "logits"}], ids=str)
def test_labels_are_nearly_those_of_the_host(make, textured_drive, options):
    ours, theirs = (run(make(on_device, **options), textured_drive) for on_device in (True, False))
    agree = [np.mean(one.labels == other.labels) for one, other in zip(ours, theirs, strict=True)]
    assert agree[0] == 1.0 and min(agree) > 0.97
    for one, other in zip(ours, theirs, strict=True):
        assert (one.memory_frames, one.remembered) == (other.memory_frames, other.remembered)
        assert list(one.timings_ms) == ["continuity", "device", "total"]


def same(one, other):
    return all(
        np.array_equal(a.labels, b.labels) and np.array_equal(a.confidence, b.confidence)
        for a, b in zip(one, other, strict=True)
    )


def test_repeats_late_frames_and_frames_between_leave_no_trace(make, textured_drive):
    images = textured_drive
    wanted = run(make(), images[:5])
    with_others = run(make(), [*images[:3], images[2], images[0], *images[3:5]], [0, 1, 2, 2, 1, 3, 4])
    assert same(with_others[5:], wanted[3:])


def test_a_reset_is_a_fresh_start_and_so_is_a_gap(make, textured_drive):
    wanted, used = run(make(), textured_drive), make()
    run(used, textured_drive[::-1])
    used.reset()
    assert same(run(used, textured_drive), wanted)
    assert same(run(used, textured_drive, range(100, 106)), wanted)


def test_nothing_is_lost_of_a_first_frame(make, textured_drive):
    flat = textured_drive[0].copy()
    flat[16:48, 40:88] = 114
    beliefs = []
    for on_device in (True, False):
        segmenter = make(on_device, memory=False)
        run(segmenter, textured_drive)
        segmenter.reset()
        segmenter.step(flat, 0, "camera")
        beliefs.append(segmenter.label_memory.belief)
        if on_device:
            assert np.array_equal(segmenter.label_memory.picture.permute(1, 2, 0).numpy(), flat)
    assert torch.equal(*beliefs)


def test_images_of_another_size_are_a_fresh_start(make, textured_drive):
    large = [cv2.resize(image, (128, 96)) for image in textured_drive]
    for options in ({}, {"network_size": "auto"}, {"network_size": "auto", "memory": False}):
        changed = make(**options)
        results = run(changed, [*textured_drive[:3], *large[:3], *textured_drive], range(12))
        assert same(results[3:6], run(make(**options), large[:3])) and same(results[6:], run(make(**options), textured_drive))
        assert [number for number, one in enumerate(results) if one.discontinuity is not None] == [0, 3, 6]


def test_streams_of_one_network_know_nothing_of_each_other(make, textured_drive):
    wanted, (one, other) = run(make(), textured_drive), (make(), make())
    mixed = []
    for number, image in enumerate(textured_drive):
        mixed.append(one.step(image, number * PERIOD, "camera"))
        other.step(image[::-1], number * PERIOD, "camera")
    assert same(mixed, wanted)


def test_what_is_lost_keeps_the_labels_that_were_there_and_the_picture(make, textured_drive):
    segmenter = make(memory=False)
    run(segmenter, textured_drive[:1] * 3)
    spoilt = textured_drive[0].copy()
    spoilt[16:48, 40:88] = 114
    for number in (3, 4):  # the second time, too: it is compared with what was there before
        segmenter.step(spoilt, number * PERIOD, "camera")
        holds = segmenter._runner._buffered._look._evidence[HOLDS]
        assert (holds[18:46, 42:86] == LOST).all() and (holds[:10] != LOST).all() and (holds[:10] > 0.99).all()
    picture = segmenter.label_memory.picture.permute(1, 2, 0).numpy()
    assert np.abs(picture - textured_drive[0]).mean() < 3 < np.abs(picture - spoilt).mean()


def test_memories_outlive_the_buffers(make, textured_drive):
    wanted, released = run(make(), textured_drive), make()
    first = run(released, textured_drive[:3])
    released._runner.release()  # as where the device has too little memory for graphs
    assert same([*first, *run(released, textured_drive[3:], range(3, 6))], wanted)


def test_pictures_without_room_for_the_flow_are_looked_at_on_the_host(make, make_scene):
    assert can_look(Size(64, 128)) and not can_look(Size(16, 128)) and not can_look(Size(64, 2048))
    images = [np.roll(make_scene(0, 16, 128), 2 * shift, axis=1) for shift in range(4)]
    ours, theirs = (run(make(on_device, network_size="128x16"), images) for on_device in (True, False))
    assert same(ours, theirs)


# ---- what is begun before the host has decided


def test_the_device_encodes_while_the_host_finds_out_whether_the_stream_goes_on(make, textured_drive, monkeypatch):
    segmenter, order = make(), []
    encode, check = BufferedStep._encode, segmenter.continuity.check
    monkeypatch.setattr(BufferedStep, "_encode", lambda step: (order.append("encode"), encode(step)))
    monkeypatch.setattr(segmenter.continuity, "check", lambda *arguments: (order.append("check"), check(*arguments))[1])
    run(segmenter, textured_drive[:2])
    assert order == ["encode", "check"] * 2


@pytest.mark.parametrize("host_motion", [True, False])
def test_what_was_begun_and_given_up_leaves_no_trace(make, textured_drive, host_motion, monkeypatch):
    wanted, segmenter = run(make(host_motion=host_motion), textured_drive), make(host_motion=host_motion)
    first = run(segmenter, textured_drive[:3])
    with monkeypatch.context() as broken:
        broken.setattr(segmenter.continuity, "check", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segmenter.step(textured_drive[5], 3 * PERIOD, "camera")
    assert same([*first, *run(segmenter, textured_drive[3:], range(3, 6))], wanted)


def test_a_start_without_memory_is_made_once_more(make, textured_drive, monkeypatch):
    wanted, segmenter = run(make(), textured_drive), make()
    encode, fails = BufferedStep._encode, [True, False] * 6

    def short(step):
        if fails.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        encode(step)

    monkeypatch.setattr(BufferedStep, "_encode", short)
    assert same(run(segmenter, textured_drive), wanted) and not fails
