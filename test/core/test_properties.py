"""What holds for every input: geometry, mappings, stamps and continuity, over inputs that hypothesis makes up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="property tests need hypothesis: pip install hypothesis")

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmanet_core.errors import ConfigError
from lmanet_core.frame import Discontinuity
from lmanet_core.geometry import CameraInfo, Size, fit_network_size, parse_size, plan_geometry
from lmanet_core.labels import CAMVID11, CITYSCAPES, UNLABELLED
from lmanet_core.labels.encoding import read_encoding
from lmanet_core.labels.mapping import list_mappings, load_mapping
from lmanet_core.media.stamps import StampSource
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.continuity import ContinuityConfig, ContinuityMonitor

#: The same examples on every run: a failure is one of the code, not of the day.
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=40)
SECOND = 10**9

sides = st.integers(1, 48)
sizes = st.builds(Size, sides, sides)
modes = st.sampled_from(["stretch", "letterbox", "crop"])
outputs = st.one_of(st.sampled_from(["input", "network"]), sizes.map(str))


@st.composite
def plans(draw):
    return plan_geometry(draw(sizes), draw(sizes), draw(outputs), draw(modes))


def numbered(size):
    """A label map in which neighbours differ."""
    return (np.arange(size.height * size.width) % 251).astype(np.uint8).reshape(size)


# ---- geometry


@EXAMPLES
@given(plans())
def test_label_maps_have_the_output_size_and_no_value_that_was_not_there(plan):
    labels = numbered(plan.network_size)
    output = plan.labels_to_output(labels)
    assert output.shape == plan.output_size
    assert set(np.unique(output)) <= {*np.unique(labels), UNLABELLED}


@EXAMPLES
@given(plans())
def test_sources_say_which_pixel_each_label_comes_from(plan):
    labels = numbered(plan.network_size)
    rows, columns = plan.output_sources()
    expected = labels[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)]
    expected[(rows < 0)[:, None] | (columns < 0)] = UNLABELLED
    assert np.array_equal(plan.labels_to_output(labels), expected)


@EXAMPLES
@given(plans())
def test_one_label_comes_back_as_itself_wherever_the_network_saw(plan):
    output = plan.labels_to_output(np.full(plan.network_size, 7, np.uint8))
    seen = plan.confidence_to_output(np.full(plan.network_size, 200, np.uint8))
    assert np.array_equal(output == 7, seen == 200) and np.array_equal(output == UNLABELLED, seen == 0)
    assert (output == 7).any()


@EXAMPLES
@given(sizes, sizes, modes)
def test_the_way_to_the_network_and_back_ends_where_it_began(camera, network, mode):
    """A pixel of the label map at the camera's size comes from that pixel of the network under which it lies."""
    plan = plan_geometry(camera, network, "input", mode)
    rows, columns = plan.output_sources()
    for y in (0, camera.height // 2, camera.height - 1):
        for x in (0, camera.width // 2, camera.width - 1):
            if rows[y] >= 0 and columns[x] >= 0:
                at_x, at_y = plan.to_network_position(x + 0.5, y + 0.5)
                assert abs(at_x - 0.5 - columns[x]) <= 0.5 + 1e-3 and abs(at_y - 0.5 - rows[y]) <= 0.5 + 1e-3


@EXAMPLES
@given(plans(), st.integers(0, 255))
def test_a_plain_image_stays_plain(plan, grey):
    seen = plan.to_network(np.full((*plan.camera_size, 3), grey, np.uint8))
    assert seen.shape == (*plan.network_size, 3)
    assert (seen[plan.landing] == grey).all()


@EXAMPLES
@given(plans())
def test_taps_weigh_to_one_and_stay_in_the_image(plan):
    for taps, side in zip(plan.input_taps(), plan.camera_size, strict=True):
        assert np.allclose(taps.weight.sum(1), 1.0, atol=1e-5)
        assert taps.position.min() >= 0 and taps.position.max() < side


@EXAMPLES
@given(plans(), st.floats(10, 2000), st.floats(-20, 60), st.floats(-20, 60), st.floats(-1, 1), st.floats(-1, 1))
def test_scaled_calibration_projects_to_where_the_pixel_went(plan, focal, cx, cy, x, y):
    k = (focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0)
    info = CameraInfo(plan.camera_size.width, plan.camera_size.height, k=k, p=(*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0))
    scaled = plan.scale_camera_info(info)
    before = (focal * x + cx + 0.5, focal * y + cy + 0.5)  # edges at whole numbers
    after = (scaled.k[0] * x + scaled.k[2] + 0.5, scaled.k[4] * y + scaled.k[5] + 0.5)
    if plan.output_is_network:
        expected = plan.to_network_position(*before)
    else:
        expected = (
            before[0] * plan.output_size.width / plan.camera_size.width,
            before[1] * plan.output_size.height / plan.camera_size.height,
        )
    assert after == pytest.approx(expected, rel=1e-6, abs=1e-4)


@EXAMPLES
@given(st.builds(Size, st.integers(1, 4000), st.integers(1, 4000)), st.integers(64, 2_000_000), st.sampled_from([0, 1]))
def test_network_sizes_are_what_the_backbone_takes_and_no_larger_than_trained(camera, most, remainder):
    fitted = fit_network_size(camera, most, 8, remainder)
    assert all(side % 8 == remainder and side >= 8 for side in fitted)
    assert all(side <= max(8 + remainder, own + 4 + remainder) for side, own in zip(fitted, camera, strict=True))


@EXAMPLES
@given(sizes)
def test_a_size_reads_as_it_prints(size):
    assert parse_size(str(size)) == size


@EXAMPLES
@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text):
    try:
        assert min(parse_size(text)) >= 1
    except ConfigError as error:
        assert "a size is WIDTHxHEIGHT" in str(error)


# ---- mappings

names = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@st.composite
def encodings(draw):
    """Names, ids and void ids that do not contradict each other."""
    given_names = draw(names)
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=12, unique=True))
    void = draw(st.integers(0, len(values) - 1))
    ids = {value: draw(st.sampled_from(given_names)) for value in values[void:]}
    return {"names": given_names, "ids": ids, "ignore": values[:void]}


@EXAMPLES
@given(encodings())
def test_every_id_leads_to_its_class_and_all_others_to_void(content):
    encoding = read_encoding(content)
    for value in range(256):
        name = content["ids"].get(value)
        assert encoding.table[value] == (UNLABELLED if name is None else content["names"].index(name))
    assert encoding.known[[*content["ids"], *content["ignore"]]].all()


@EXAMPLES
@given(encodings())
def test_every_colour_leads_to_an_id_of_its_class(content):
    encoding = read_encoding(content)
    numbers = set(encoding.table[encoding.table != UNLABELLED].tolist())
    for number in numbers:
        red, green, blue = encoding.classes.colors[number]
        assert encoding.table[encoding.colors[red << 16 | green << 8 | blue]] == number


@EXAMPLES
@given(encodings(), st.integers(0, 255))
def test_a_value_that_is_a_class_and_void_is_refused(content, value):
    content = {**content, "ids": {**content["ids"], value: content["names"][0]}, "ignore": [value]}
    with pytest.raises(ConfigError, match=f"id {value} is a class .* and void at once"):
        read_encoding(content)


any_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.text("ab#0f", max_size=7)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.integers(-1, 3) | st.text("ab#0", max_size=2), inner)
    ),
    max_leaves=6,
)


@EXAMPLES
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("names", "classes", "colors", "groups", "ids", "ignore"), any_value)))
def test_whatever_stands_in_a_labels_file_is_read_or_refused_with_a_sentence(content):
    try:
        encoding = read_encoding(content)
    except ConfigError as error:
        assert str(error)
        return
    assert (encoding.table[~encoding.known] == UNLABELLED).all()


@EXAMPLES
@given(st.sampled_from(list_mappings()), st.sampled_from([CITYSCAPES, CAMVID11]), st.integers(0, 255))
def test_mapped_predictions_are_classes_or_misses(name, labels, value):
    try:
        mapping = load_mapping(name, labels)
    except ConfigError:
        assume(False)
    count = len(mapping.classes.names)
    one = np.full((1, 1), value, np.uint8)
    assert mapping.map_prediction(one)[0, 0] in {*range(count), UNLABELLED}
    assert mapping.map_truth(one)[0, 0] in {*range(count), UNLABELLED}


@EXAMPLES
@given(st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), *(st.lists(st.integers(0, 6), min_size=9, max_size=9),) * 2)))
def test_mean_over_the_truth_is_never_below_that_over_the_union(sample):
    classes, prediction, truth = sample
    matrix = ConfusionMatrix(classes)
    matrix.update(np.array([prediction], np.uint8), np.array([truth], np.uint8))
    if matrix.in_truth().any():
        assert 0.0 <= matrix.mean_iou() <= matrix.mean_iou_of_truth() <= 1.0
        assert matrix.in_truth().sum() + matrix.only_predicted().sum() == matrix.classes_present()
    else:
        assert math.isnan(matrix.mean_iou_of_truth())


# ---- stamps

steps = st.lists(st.integers(10**6, 10**9), min_size=2, max_size=20)  # nanoseconds
PICTURE = np.zeros((2, 2, 3), np.uint8)


@EXAMPLES
@given(steps, st.integers(1, 2 * 10**18))
def test_stamps_that_are_there_are_left_alone(between, start):
    stamps = start + np.cumsum([0, *between])
    source = StampSource()
    assert [source.stamp_ns(int(stamp), int(stamp) - start, PICTURE) for stamp in stamps] == stamps.tolist()


@EXAMPLES
@given(steps, st.data())
def test_missing_stamps_of_an_even_clock_lie_where_they_would_have_been(between, data):
    """Whatever the speed of the clock, as long as it is even and two stamps came before."""
    speed = data.draw(st.sampled_from([0.1, 0.5, 1.0, 2.0, 8.0]))
    received = np.cumsum([10**18, SECOND, *between])
    stamps = [int(5 * SECOND + speed * float(at - received[0])) for at in received]
    missing = data.draw(st.sets(st.integers(2, len(stamps) - 1)))
    source = StampSource()
    found = [
        source.stamp_ns(0 if index in missing else stamp, int(at), PICTURE)
        for index, (stamp, at) in enumerate(zip(stamps, received, strict=True))
    ]
    assert found == pytest.approx(stamps, abs=2_000, rel=1e-9)


@EXAMPLES
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), steps)
def test_whatever_stamps_come_time_never_stands_where_they_are_missing(given_ns, between):
    received = np.cumsum([10**18, *between])
    source = StampSource()
    before = None
    for stamp, at in zip(given_ns, received, strict=False):
        now = source.stamp_ns(stamp, int(at), PICTURE)
        if stamp == 0 and before is not None and before[0] == 0:
            assert now >= before[1]
        before = (stamp, now)


# ---- continuity

TENTH = SECOND // 10
frames = st.lists(
    st.tuples(
        st.sampled_from([TENTH, 0, 1, -1, -TENTH, -TENTH - 1, -3 * SECOND, SECOND, SECOND + 1, 3 * SECOND // 2, 4 * SECOND]),
        st.sampled_from([(4, 6, 3)] * 5 + [(8, 6, 3)]),
        st.sampled_from([""] * 5 + ["front"]),
        st.sampled_from([False] * 5 + [True]),  # requested
    ),
    min_size=1,
    max_size=25,
)
CONFIG = ContinuityConfig(gap_s=1.0, scene_cut=False, blind=False)  # pictures do not matter here


def follow(steps, config=CONFIG):
    """Each frame's judgement, from steps in time, shapes, frame ids and requests."""
    monitor, stamp, found = ContinuityMonitor(config), 10 * SECOND, []
    for step, shape, frame_id, request in steps:
        stamp += step
        if request:
            monitor.request(Discontinuity.MANUAL)
        found.append((stamp, monitor.check(np.zeros(shape, np.uint8), stamp, frame_id)))
    return found


@EXAMPLES
@given(frames)
def test_the_first_frame_is_one_and_what_clears_is_remembered(steps):
    found = follow(steps)
    assert found[0][1].discontinuity is Discontinuity.FIRST_FRAME
    assert all(one.remember for _, one in found if one.discontinuity is not None)


@EXAMPLES
@given(frames)
def test_remembered_stamps_rise_between_two_clearings(steps):
    newest = None
    for stamp, one in follow(steps):
        if one.discontinuity is not None:
            newest = stamp
        elif one.remember:
            assert 0 < stamp - newest <= CONFIG.gap_s * 1e9
            newest = stamp
        else:
            assert -CONFIG.late_s * 1e9 <= stamp - newest <= 0


@EXAMPLES
@given(frames)
def test_every_cause_is_true_of_the_frames_it_lies_between(steps):
    found = follow(steps)
    for (_, shape, frame_id, request), (_, one), before in zip(steps[1:], found[1:], steps, strict=False):
        if one.discontinuity is Discontinuity.SIZE_CHANGE:
            assert not request and any(shape != other for _, other, _, _ in steps)
        if one.discontinuity is Discontinuity.FRAME_ID_CHANGE:
            assert not request and any(frame_id != other for _, _, other, _ in steps)
        if request:
            assert one.discontinuity is Discontinuity.MANUAL
        assert before is not None


@EXAMPLES
@given(frames, st.integers(-(10**12), 10**12))
def test_only_differences_of_stamps_matter(steps, shift):
    (first, *others), moved = steps, [(steps[0][0] + shift, *steps[0][1:]), *steps[1:]]
    assert len(moved) == len(others) + 1 and moved[0][1:] == first[1:]
    assert [one for _, one in follow(steps)] == [one for _, one in follow(moved)]


@EXAMPLES
@given(frames)
def test_a_wider_gap_never_clears_more_often_for_gaps(steps):
    def gaps(gap_s):
        return sum(one.discontinuity is Discontinuity.GAP for _, one in follow(steps, replace(CONFIG, gap_s=gap_s)))

    assert gaps(10.0) == 0 and gaps(3.0) <= gaps(0.5)
