"""The labels of the past, moved along the picture and corrected by each frame."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lmanet_core.errors import ConfigError
from lmanet_core.frame import Discontinuity
from lmanet_core.labels import LabelSet
from lmanet_core.network import Backbone, LMANet
from lmanet_core.stream import label_memory, motion
from lmanet_core.stream.argmax import argmax_labels
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.label_evidence import DOWN, HOLDS, LOST, RIGHT, PictureComparison, _filled, _noise
from lmanet_core.stream.label_memory import LabelMemory, blend
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig, load_model
from lmanet_core.weights.runtime import prepare

HEIGHT, WIDTH = 96, 160
PERIOD = 100_000_000


@pytest.fixture(scope="module")
def picture():
    """(96, 160, 3) with texture everywhere, as a camera sees it."""
    noise = np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def evidence(holds=1.0, down=0.0, right=0.0):
    """The same for the whole picture."""
    planes = torch.zeros(3, 1, 1)
    planes[DOWN], planes[RIGHT], planes[HOLDS] = down, right, holds
    return planes


def logits_of(*probabilities, size=(1, 1)):
    """(1, C, H, W) whose softmax is this, everywhere."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1).expand(1, len(probabilities), *size).contiguous()


def probability(confidence):
    return confidence.float() / 255.0


def sequence(frames, evidence_of=lambda number: evidence(), strength=1.0):
    """Labels and confidence of the last of some frames' logits."""
    belief = None
    for number, logits in enumerate(frames):
        labels, confidence, belief = blend(logits, belief, evidence_of(number), strength)
    return labels, confidence


@pytest.fixture(params=["by OpenCV", "as tensors"])
def moved(request, monkeypatch):
    """A belief moved as on a CPU, and as on a device."""
    if request.param == "as tensors":
        monkeypatch.setattr(label_memory, "_OPENCV_SIDE", 0)


# ---- one pixel, by hand


def test_without_a_past_the_labels_are_the_networks_own():
    logits = torch.randn(1, 19, 37, 53, generator=torch.Generator().manual_seed(0))
    labels, confidence, _ = blend(logits, None, None)
    own, certain = argmax_labels(logits, True)
    assert torch.equal(labels, own)
    assert (confidence.int() - certain.int()).abs().max() <= 1  # probabilities are kept with 22 bits


def test_two_equally_sure_frames_count_the_same():
    labels, confidence = sequence([logits_of(0.8, 0.1, 0.1), logits_of(0.1, 0.8, 0.1)])
    assert probability(confidence).item() == pytest.approx(0.45, abs=0.02)  # (0.8 + 0.1) / 2 for either
    labels, confidence = sequence([logits_of(0.8, 0.1, 0.1)] * 2 + [logits_of(0.1, 0.8, 0.1)])
    assert labels.item() == 0
    assert probability(confidence).item() == pytest.approx((0.8 + 0.8 + 0.1) / 3, abs=0.02)


def test_a_sure_frame_counts_more_than_an_unsure_one():
    labels, confidence = sequence([logits_of(0.4, 0.3, 0.3), logits_of(0.04, 0.95, 0.01)])
    past, now = 0.4**2 + 0.02, 0.95**2 + 0.02
    assert labels.item() == 1
    assert probability(confidence).item() == pytest.approx((past * 0.3 + now * 0.95) / (past + now), abs=0.02)


def test_where_nothing_holds_the_labels_are_the_networks_own():
    generator = torch.Generator().manual_seed(1)
    before, now = (torch.randn(1, 7, 20, 30, generator=generator) for _ in range(2))
    labels, _ = sequence([before, before, now], lambda number: evidence(holds=0.0))
    assert torch.equal(labels, argmax_labels(now, False)[0])


def test_strength_is_the_share_of_the_past():
    frames = [logits_of(0.9, 0.1)] * 3 + [logits_of(0.2, 0.8)]
    assert sequence(frames, strength=1.0)[0].item() == 0
    assert sequence(frames, strength=0.3)[0].item() == 1


@pytest.mark.usefixtures("moved")
def test_a_belief_moves_with_the_picture():
    """What was right by 3 pixels and below by 2 in the frame before."""
    before = logits_of(0.1, 0.9, size=(8, 12))
    before[:, :, 4, 6] = torch.tensor([0.99, 0.01]).log()
    _, _, belief = blend(before, None, None)
    unsure = logits_of(0.5, 0.5, size=(8, 12))
    labels, _, _ = blend(unsure, belief, evidence(down=2 / 8, right=3 / 12))
    assert labels[2, 3] == 0
    labels[2, 3] = 1
    assert (labels == 1).all()


@pytest.mark.usefixtures("moved")
def test_what_came_from_outside_takes_the_nearest_edge():
    before = logits_of(0.1, 0.9, size=(4, 4))
    labels, _, _ = blend(logits_of(0.5, 0.5, size=(4, 4)), blend(before, None, None)[2], evidence(down=5.0, right=-5.0))
    assert (labels == 1).all()


@pytest.mark.parametrize("size", [(24, 40), (97, 161), (2, 3), (1, 1)])
def test_opencv_moves_a_belief_as_tensors_do(size):
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(-(1 << 31), (1 << 31) - 1, (2, *size), generator=generator).int()  # no numbers among them
    words[:, 0, 0] = torch.tensor(float("nan")).view(torch.int32) + 1
    shift = torch.randn(2, 5, 7, generator=generator) * 20.0
    by_opencv, as_tensors = label_memory._move_by_opencv(words, shift), label_memory._move(words, shift)
    assert (by_opencv != as_tensors).float().mean() < 0.001  # a place between two pixels may go to either


def test_a_belief_wider_than_opencv_takes_is_moved_all_the_same():
    wide = torch.zeros(1, 2, 1, 33_000)
    wide[:, 1, :, 32_900:] = 5.0
    labels, _ = sequence([wide, torch.zeros_like(wide)])
    assert labels[0, 32_899] == 0 and (labels[0, 32_900:] == 1).all()


def test_what_is_lost_in_one_place_changes_nothing_in_another():
    past = logits_of(0.9, 0.1, size=(8, 8))
    _, _, belief = blend(past, None, None)
    some = evidence().repeat(1, 4, 4)
    some[HOLDS, 0, 0] = LOST
    now = logits_of(0.2, 0.8, size=(8, 8))
    (labels, certain, after), (_, otherwise, without) = (blend(now, belief, planes) for planes in (some, evidence()))
    assert torch.equal(after[:, 2:], without[:, 2:]) and torch.equal(certain[2:], otherwise[2:])
    assert (labels[:2, :2] == 0).all() and (certain[:2, :2] > otherwise[:2, :2]).all()


def test_a_third_class_replaces_the_less_likely_one():
    frames = [logits_of(0.6, 0.3, 0.1)] * 3 + [logits_of(0.05, 0.05, 0.9)] * 3
    assert sequence(frames)[0].item() == 2


def test_a_belief_never_freezes():
    """However long it was held, the network's change of mind is followed within a dozen frames of the same picture."""
    held = [logits_of(0.99, 0.01)] * 300
    changed = [logits_of(0.01, 0.99)] * 12
    assert sequence(held + changed)[0].item() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_leave_the_past(bad):
    good = logits_of(0.1, 0.8, 0.1)
    labels, _ = sequence([good, torch.full_like(good, bad), good])
    assert labels.item() == 1
    labels, confidence, belief = blend(torch.full_like(good, bad), None, None)
    assert confidence.item() == 0
    assert blend(good, belief, evidence())[0].item() == 1


@pytest.mark.parametrize("classes", [1, 2, 19, 150, 255])
def test_any_number_of_classes(classes):
    logits = torch.randn(1, classes, 9, 11, generator=torch.Generator().manual_seed(classes)) * 4
    labels, _ = sequence([logits] * 3)
    assert torch.equal(labels, argmax_labels(logits, False)[0])


def test_rows_at_a_time_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    frames = [torch.randn(1, 5, 33, 17, generator=generator).contiguous(memory_format=torch.channels_last) for _ in range(4)]
    motion = torch.rand(3, 6, 5, generator=generator) * 0.1
    whole = sequence(frames, lambda number: motion)
    for pixels, logit_bytes in ((1, 1 << 20), (1 << 15, 1), (17 * 2, 17 * 20)):
        monkeypatch.setattr(label_memory, "_THREAD_PIXELS", pixels)
        monkeypatch.setattr(label_memory, "STRIPE_BYTES", logit_bytes)
        for one, other in zip(whole, sequence(frames, lambda number: motion), strict=True):
            assert torch.equal(one, other)


def test_the_likeliest_class_wins_however_close_another_one_comes():
    """Closer than the bits that a belief keeps of a probability, whichever of the two has the higher number."""
    for best in (0, 1, 2, 17):
        logits = torch.zeros(1, 18, 1, 1)
        logits[0, best] = 2e-6
        assert blend(logits, None, None)[0].item() == best


def test_the_two_classes_of_a_belief_differ():
    generator = torch.Generator().manual_seed(7)
    belief = None
    for number in range(6):
        logits = torch.randn(1, 3 + number % 2, 40, 40, generator=generator).round() * 0.7  # with many ties
        _, _, belief = blend(logits[:, :3], belief, evidence(holds=1.0 if number % 3 else LOST))
        assert ((belief[0] & 255) != (belief[1] & 255)).all()


def test_evidence_is_kept_however_little_there_is():
    """A frame that is unsure counts a twentieth of a sure one; three of them count three times as much."""
    unsure, other = logits_of(0.2, 0.16, 0.16, 0.16, 0.16, 0.16), logits_of(0.16, 0.2, 0.16, 0.16, 0.16, 0.16)
    _, confidence = sequence([unsure] * 3 + [other])
    assert probability(confidence).item() == pytest.approx((3 * 0.2 + 0.16) / 4, abs=0.003)


def test_noise_of_the_network_is_averaged():
    """A network that is wrong in 3 of 10 pixels of each frame, other ones each time."""
    generator = torch.Generator().manual_seed(3)
    frames = [logits_of(0.6, 0.4, size=(40, 40)) for _ in range(11)]  # an odd number, for no pixel is wrong in half of them
    for frame in frames:
        frame[0][:, torch.rand(40, 40, generator=generator) < 0.3] = torch.tensor([[0.4], [0.6]]).log()
    wrong = (sequence(frames)[0] == 1).float().mean()
    assert wrong < 0.1 < 0.2 < (argmax_labels(frames[-1], False)[0] == 1).float().mean()


# ---- what two pictures say


def compare(*pictures):
    comparison = PictureComparison()
    for one in pictures:
        found = comparison.compare(one)
        comparison.commit()
    return found


def test_the_first_picture_says_nothing(picture):
    assert compare(picture) is None


def test_a_picture_that_is_the_same_holds_and_stands_still(picture):
    found = compare(picture, picture)
    assert (found[HOLDS] == 1.0).all()
    assert np.abs(found[[DOWN, RIGHT]]).max() < 0.01


def test_a_shifted_picture_holds_where_it_was(picture):
    found = compare(picture, np.roll(picture, (3, 5), (0, 1)))
    inner = found[:, 16:-16, 16:-16]
    assert np.median(inner[DOWN]) * HEIGHT == pytest.approx(-3, abs=0.2)
    assert np.median(inner[RIGHT]) * WIDTH == pytest.approx(-5, abs=0.2)
    assert np.median(inner[HOLDS]) > 0.8


def test_what_enters_the_picture_does_not_hold(picture):
    entered = picture.copy()
    entered[30:60, 50:100] = np.random.default_rng(9).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    found = compare(picture, picture, entered)
    assert found[HOLDS][35:55, 55:95].mean() < 0.1
    assert found[HOLDS][70:, :40].mean() > 0.9


@pytest.mark.parametrize("color", [(0, 0, 0), (114, 114, 114), (255, 255, 255), (200, 30, 90)])
def test_flat_blocks_are_lost_and_the_next_picture_is_compared_with_what_was_there(picture, color):
    hit = picture.copy()
    hit[30:62, 50:90] = color
    found = compare(picture, hit)
    assert (found[HOLDS][34:58, 54:86] == LOST).all()
    assert (found[HOLDS][:20] != LOST).all()
    comparison = PictureComparison()
    for one in (picture, hit):
        comparison.compare(one)
        comparison.commit()
    again = comparison.compare(picture)
    assert (again[HOLDS][34:58, 54:86] > 0.8).mean() > 0.9


def test_two_pixels_around_a_flat_block_are_lost_with_it(picture):
    hit = picture.copy()
    hit[30:62, 50:90] = 114
    around = np.zeros((HEIGHT, WIDTH), bool)
    around[28:64, 48:92] = True
    np.testing.assert_array_equal(compare(picture, hit)[HOLDS] == LOST, around)


@pytest.mark.parametrize(
    ("right", "down", "edge"), [(0.5, 0, np.s_[:, -1]), (-0.5, 0, np.s_[:, 0]), (0, 0.5, np.s_[-1]), (0, -0.5, np.s_[0])]
)
def test_what_comes_from_half_a_pixel_outside_does_not_hold(right, down, edge):
    comparison, smooth = PictureComparison(), np.indices((HEIGHT, WIDTH)).sum(0).astype(np.uint8)[..., None].repeat(3, 2)
    comparison._flow = SimpleNamespace(calc=lambda now, past, flow: np.tile(np.float32((right, down)), (*now.shape, 1)))
    comparison.compare(smooth)
    comparison.commit()
    holds = np.ones((HEIGHT, WIDTH), bool)
    holds[edge] = False
    np.testing.assert_array_equal(comparison.compare(smooth)[HOLDS] > 0, holds)


def test_a_flat_patch_that_was_flat_before_is_not_lost(picture):
    sky = picture.copy()
    sky[:40] = 250
    assert (compare(sky, sky)[HOLDS] == 1.0).all()


def test_motion_is_filled_in_where_the_picture_is_lost(picture):
    moved = np.roll(picture, 5, 1)
    moved[30:62, 50:90] = 0
    found = compare(picture, moved)
    assert np.median(found[RIGHT][34:58, 54:86]) * WIDTH == pytest.approx(-5, abs=0.7)


def test_motion_is_filled_in_from_the_nearest_surroundings():
    flow, known = np.zeros((HEIGHT, WIDTH, 2), np.float32), np.ones((HEIGHT, WIDTH), bool)
    flow[:48, :, 0], flow[48:, :, 0], known[32:64] = 2, 10, False
    filled = _filled(flow, known)[..., 0]
    assert filled[34].max() < 4 and filled[62].min() > 8
    sideways = _filled(flow.transpose(1, 0, 2), known.T)[..., 0]
    assert sideways[:, 34].max() < 4 and sideways[:, 62].min() > 8


def test_noise_of_the_camera_is_not_a_change(picture):
    rng = np.random.default_rng(11)
    noisy = [np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8) for _ in range(2)]
    assert np.median(compare(*noisy)[HOLDS]) > 0.5
    assert np.median(compare(noisy[0], np.roll(picture[::-1], 40, 1))[HOLDS]) < 0.3


def test_noise_is_measured_beside_any_brightness_and_slope():
    slope = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) * 0.5 + 60
    noise = np.random.default_rng(0).normal(0, 5, slope.shape)
    assert _noise(np.full((HEIGHT, WIDTH), 200, np.uint8)) == 0.0
    assert _noise((slope + noise).round().astype(np.uint8)) == pytest.approx(5, rel=0.1)


def test_a_dark_picture_is_compared_more_strictly(picture):
    dark, other = (picture * 0.08).astype(np.uint8), (np.roll(picture[::-1], 40, 1) * 0.08).astype(np.uint8)
    assert np.median(compare(dark, other)[HOLDS]) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 500), (31, 33), (45, 61)])
def test_pictures_of_any_size(size):
    rng = np.random.default_rng(0)
    for maker in (lambda: rng.integers(0, 256, (*size, 3), dtype=np.uint8), lambda: np.zeros((*size, 3), np.uint8)):
        found = compare(maker(), maker())
        assert found.shape[0] == 3 and np.isfinite(found).all()


def test_black_and_white_pictures_say_only_that_all_is_lost(picture):
    for cover in (np.zeros_like(picture), np.full_like(picture, 255)):
        found = compare(picture, cover)
        assert np.isfinite(found).all()
        assert (found[HOLDS] == LOST).mean() > 0.9


# ---- of one stream


def test_a_frame_is_believed_once_and_with_its_own_view(picture):
    memory = LabelMemory()
    first = memory.view(picture)
    memory.view(picture)
    belief = torch.zeros(2, 4, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="last view"):
        memory.commit(first, belief)
    last = memory.view(picture)
    memory.commit(last, belief)
    with pytest.raises(ValueError, match="once"):
        memory.commit(last, belief)


class Pixels(Backbone):
    """A network that says red, green or blue, and is as sure as the pixel is colourful."""

    feature_channels = 3
    stride = 1
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.mean, self.std = (0.0,) * 3, (1.0,) * 3
        self.unused = torch.nn.Parameter(torch.zeros(1))  # what the runtime reads its dtype from

    def encode(self, image):
        return image

    def decode(self, features):
        return features * 5.0


@pytest.fixture
def pixels():
    labels = LabelSet(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    model = Model(LMANet(Pixels()), ModelConfig("pixels", 3, labels))
    return VideoSegmenter(
        prepare(model, "cpu", "fp32"),
        SegmenterConfig(network_size=f"{WIDTH}x{HEIGHT}", continuity=ContinuityConfig(scene_cut=False)),
    )


@pytest.fixture
def red(picture):
    """The picture in reds."""
    scene = picture // 4
    scene[..., 0] += 150
    return scene


@pytest.fixture
def visited(red, picture):
    """The same with something green in it."""
    scene = red.copy()
    scene[30:60, 50:100] = picture[30:60, 50:100] // 4
    scene[30:60, 50:100, 1] += 150
    return scene


GREEN = (slice(34, 56), slice(54, 96))


def test_what_enters_is_there_at_once_and_what_leaves_is_gone_within_three_frames(pixels, red, visited):
    results = segment(pixels, [red] * 5 + [visited] * 300 + [red] * 3)
    assert (results[4].labels == 0).all()
    assert (results[5].labels[GREEN] == 1).mean() > 0.99
    assert (results[304].labels[GREEN] == 1).all()
    assert (results[-1].labels == 0).mean() > 0.99


def test_a_flash_neither_resets_nor_smears(pixels, red, visited):
    """What leaves during it is gone after it, and what stays is as it was."""
    flash = np.clip(visited * 3.0 + 40, 0, 255).astype(np.uint8)
    for after, green in ((visited, 1.0), (red, 0.0)):
        pixels.reset()
        results = segment(pixels, [visited] * 5 + [flash] + [after] * 2)
        assert results[5].discontinuity is None
        assert (results[-1].labels[GREEN] == 1).mean() == pytest.approx(green, abs=0.01)


@pytest.mark.parametrize("cover", [0, 255])
def test_a_covered_camera_is_not_believed_and_sees_at_once_when_uncovered(pixels, red, visited, cover):
    covered = [np.full_like(red, cover)] * 5
    results = segment(pixels, [visited] * 5 + covered + [red])
    assert all(result.confidence.max() <= 25 for result in results[5:10])
    assert results[-1].discontinuity is Discontinuity.BLIND
    assert (results[-1].labels == 0).mean() > 0.99


def test_lost_blocks_keep_the_labels_that_were_there(pixels, visited):
    hit = visited.copy()
    hit[20:70, 40:80] = (0, 0, 255)
    results = segment(pixels, [visited] * 3 + [hit] + [visited])
    assert (results[3].labels == results[2].labels).mean() > 0.98
    pixels.label_strength = 0.0
    assert (segment(pixels, [hit], start=10)[0].labels == 2).mean() > 0.1


def test_confidence_is_the_blended_belief(pixels, visited):
    """Where a block is lost it is that of the frame before, though the network is sure of the block."""
    hit, block = visited.copy(), (slice(26, 64), slice(46, 74))
    hit[20:70, 40:80] = (0, 0, 255)
    *_, before, lost = segment(pixels, [visited] * 3 + [hit])
    assert np.abs(lost.confidence[block].astype(int) - before.confidence[block]).mean() < 8
    pixels.reset()
    pixels.label_strength = 0.0
    assert (segment(pixels, [hit], start=10)[0].confidence[block] > 245).all()
    assert before.confidence[block].mean() < 235


@pytest.fixture(scope="module")
def shipped(video_weights):
    return prepare(load_model(video_weights), "cpu", "fp32")


def segment(segmenter, images, start=0):
    return [segmenter.step(image, (start + number) * PERIOD, "camera") for number, image in enumerate(images)]


@pytest.fixture
def drive(picture):
    return [np.roll(picture, 2 * number, 1) for number in range(6)]


def same(results, others):
    return all(np.array_equal(one.labels, other.labels) and np.array_equal(one.confidence, other.confidence)
               for one, other in zip(results, others, strict=True))  # fmt: skip


def test_it_changes_labels_and_can_be_switched_off(shipped, drive):
    on, off, none = (
        segment(VideoSegmenter(shipped, config), drive)
        for config in (
            SegmenterConfig(),
            SegmenterConfig(label_memory=False),
            SegmenterConfig(label_memory_strength=0.0),
        )
    )
    assert np.array_equal(on[0].labels, off[0].labels)
    assert not same(on, off)
    assert same(off, none)


def test_reset_equals_a_fresh_start(shipped, drive):
    segmenter = VideoSegmenter(shipped, SegmenterConfig())
    segment(segmenter, drive[::-1])
    segmenter.reset()
    again = segment(segmenter, drive, start=100)
    assert same(again, segment(VideoSegmenter(shipped, SegmenterConfig()), drive))


def test_every_discontinuity_clears_it(shipped, drive):
    segmenter = VideoSegmenter(shipped, SegmenterConfig())
    segment(segmenter, drive)
    late = segmenter.step(drive[0], 100 * PERIOD, "camera")
    assert late.discontinuity is Discontinuity.GAP
    fresh = VideoSegmenter(shipped, SegmenterConfig()).step(drive[0], 0, "camera")
    assert np.array_equal(late.labels, fresh.labels)


def test_repeated_and_late_frames_leave_it_as_it_was(shipped, drive):
    plain, disturbed = (VideoSegmenter(shipped, SegmenterConfig()) for _ in range(2))
    segment(plain, drive[:4])
    segment(disturbed, drive[:4])
    disturbed.step(drive[1], 3 * PERIOD, "camera")
    disturbed.step(drive[0], 3 * PERIOD - 1, "camera")
    assert same([plain.step(drive[4], 4 * PERIOD, "camera")], [disturbed.step(drive[4], 4 * PERIOD, "camera")])


def test_frames_whose_labels_nobody_wants_are_believed_all_the_same(shipped, drive):
    heard, unheard = (VideoSegmenter(shipped, SegmenterConfig()) for _ in range(2))
    segment(heard, drive[:5])
    for number, image in enumerate(drive[:5]):
        result = unheard.step(image, number * PERIOD, "camera", labels=number % 2 == 0)
        assert result.labels.size or number % 2
    assert same([heard.step(drive[5], 5 * PERIOD, "camera")], [unheard.step(drive[5], 5 * PERIOD, "camera")])


def test_labels_that_nobody_wants_are_not_brought_to_the_cameras_size(shipped, drive, monkeypatch):
    segmenter = VideoSegmenter(shipped, SegmenterConfig())
    segmenter.step(drive[0], 0, "camera")
    monkeypatch.setattr(type(segmenter._runner._step._resampling), "labels_to_output", None)  # would fail if it were called
    result = segmenter.step(drive[1], PERIOD, "camera", labels=False)
    assert result.labels.size == 0 and result.confidence is None
    assert "label_memory" in result.timings_ms and "postprocess" not in result.timings_ms


def test_the_picture_is_made_small_once_for_both_memories(following_weights, drive, monkeypatch):
    shrunk, resize = [], motion.resize_image

    def watch(image, size):
        shrunk.append(image.shape[:2] != tuple(size))
        return resize(image, size)

    monkeypatch.setattr(motion, "resize_image", watch)
    runtime = prepare(load_model(following_weights), "cpu", "fp32")
    both = VideoSegmenter(runtime, SegmenterConfig(network_size="640x320"))
    both.step(cv2.resize(drive[0], (640, 320)), 0, "camera")
    assert sum(shrunk) == 1


def test_strength_may_change_between_frames(shipped, drive):
    segmenter = VideoSegmenter(shipped, SegmenterConfig())
    segment(segmenter, drive[:3])
    segmenter.label_strength = 0.0
    off = VideoSegmenter(shipped, SegmenterConfig(label_memory=False))
    segment(off, drive[:3])
    assert same([segmenter.step(drive[3], 3 * PERIOD, "camera")], [off.step(drive[3], 3 * PERIOD, "camera")])
    with pytest.raises(ConfigError, match="0 to 1"):
        segmenter.label_strength = 1.5


def test_sizes_resizing_and_upsampled_logits(shipped, drive):
    for options in (
        {"network_size": "128x64"},
        {"network_size": "128x64", "resize": "letterbox"},
        {"network_size": "128x64", "resize": "crop"},
        {"network_size": "128x64", "upsample": "logits", "output_size": "200x120"},
    ):
        results = segment(VideoSegmenter(shipped, SegmenterConfig(**options)), drive[:3])
        off = segment(VideoSegmenter(shipped, SegmenterConfig(**options, label_memory=False)), drive[:3])
        assert results[2].labels.shape == off[2].labels.shape
        assert np.array_equal(results[0].labels, off[0].labels)
        assert 0.0 < np.mean(results[2].labels != off[2].labels) < 0.9
