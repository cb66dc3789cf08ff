"""Result bags, read back by rosbags with the definitions that are in them."""

from __future__ import annotations

import errno
import io

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import CAMVID11, LabelSet
from lmanet_core.media import BAG_TOPICS, ResultBagSink, open_frames

SECOND = 10**9
ROAD, CAR = 3, 8
LABELS = np.array([[ROAD, CAR, 255], [0, ROAD, CAR]], np.uint8)
INFO = CameraInfo(
    width=6, height=4, distortion_model="plumb_bob", d=(0.1, 0.2), k=(500.0, 0.0, 2.5, 0.0, 400.0, 1.5, 0.0, 0.0, 1.0)
)
STREAM = {"labels", "color", "overlay", "confidence", "camera_info", *(f"mask/{group}" for group in CAMVID11.groups)}


def read(path):
    """Topic → [(bag time, message)], by the definitions in the bag alone."""
    messages = {}
    with AnyReader([path]) as reader:
        for connection, time, data in reader.messages():
            messages.setdefault(connection.topic, []).append((time, reader.deserialize(data, connection.msgtype)))
    return messages


def stamp_of(message):
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def pixels_of(message):
    shape = (message.height, message.width, 3) if message.encoding == "rgb8" else (message.height, message.width)
    assert message.step == message.data.size // message.height
    return message.data.reshape(shape)


@pytest.fixture
def written(tmp_path, make_result, random_image):
    """Two results at half the camera's size, and the folder of their bag."""
    stamps = [1_700_000_000_123_456_789, 1_700_000_001_000_000_000]
    made = [
        make_result(np.roll(LABELS, n), image=random_image(4, 6, seed=n), stamp_ns=stamp, camera_info=INFO, output="3x2")
        for n, stamp in enumerate(stamps)
    ]
    with ResultBagSink(tmp_path / "bag", CAMVID11, BAG_TOPICS) as sink:
        for one in made:
            sink.write(one.frame, one.result)
    return tmp_path / "bag", made


def test_every_topic_comes_back_with_stamp_and_frame_id(written):
    path, made = written
    messages = read(path)
    assert set(messages) == {f"/segmentation/{name}" for name in STREAM | {"label_info"}}
    for name in STREAM:
        got = messages[f"/segmentation/{name}"]
        assert [stamp_of(message) for _, message in got] == [one.frame.stamp_ns for one in made], name
        assert [time for time, _ in got] == [one.frame.stamp_ns for one in made], name
        assert {message.header.frame_id for _, message in got} == {"camera"}, name


def test_pixels_come_back(written):
    path, made = written
    messages = read(path)
    for index, one in enumerate(made):
        labels = one.result.labels

        def image(name, index=index):
            message = messages[f"/segmentation/{name}"][index][1]
            return message.encoding, pixels_of(message).tolist()

        assert image("labels") == ("mono8", labels.tolist())
        assert image("confidence") == ("mono8", one.result.confidence.tolist())
        assert image("color") == ("rgb8", CAMVID11.palette[labels].tolist())
        assert image("mask/drivable") == ("mono8", np.where(labels == ROAD, 255, 0).tolist())
        assert image("mask/vehicle") == ("mono8", np.where(labels == CAR, 255, 0).tolist())
        shrunk = one.result.geometry.image_to_output(one.frame.image)
        assert image("overlay") == ("rgb8", CAMVID11.overlay(shrunk, labels).tolist())


def test_camera_info_comes_back_at_the_output_size(written):
    path, _ = written
    message = read(path)["/segmentation/camera_info"][0][1]
    assert (message.width, message.height, message.distortion_model, message.d.tolist()) == (3, 2, "plumb_bob", [0.1, 0.2])
    assert message.k.tolist() == [250.0, 0.0, 1.0, 0.0, 200.0, 0.5, 0.0, 0.0, 1.0]  # (2.5 + ½) / 2 − ½ = 1


def test_calibration_of_another_size_is_left_out_and_said_once(tmp_path, make_result, caplog):
    other = CameraInfo(width=12, height=8)
    with ResultBagSink(tmp_path / "bag", CAMVID11, BAG_TOPICS) as sink:
        for stamp in (SECOND, 2 * SECOND):
            made = make_result(LABELS, stamp_ns=stamp, camera_info=other)
            sink.write(made.frame, made.result)
    assert "/segmentation/camera_info" not in read(tmp_path / "bag")
    said = [record.getMessage() for record in caplog.records if "camera_info is for 12x8" in record.getMessage()]
    assert len(said) == 1
    assert "the images are 3x2" in said[0]


def test_binning_is_worked_into_the_calibration(tmp_path, make_result):
    binned = CameraInfo(width=6, height=4, k=(500.0, 0.0, 2.5, 0.0, 400.0, 1.5, 0.0, 0.0, 1.0), binning_x=2, binning_y=2)
    with ResultBagSink(tmp_path / "bag", CAMVID11, BAG_TOPICS) as sink:
        made = make_result(LABELS, camera_info=binned)
        sink.write(made.frame, made.result)
    message = read(tmp_path / "bag")["/segmentation/camera_info"][0][1]
    assert message.k.tolist() == [250.0, 0.0, 1.0, 0.0, 200.0, 0.5, 0.0, 0.0, 1.0]
    assert (message.width, message.height, message.binning_x) == (3, 2, 0)


def test_label_info_comes_first_and_once_with_the_class_names(written):
    path, made = written
    ((time, message),) = read(path)["/segmentation/label_info"]
    assert [(entry.class_id, entry.class_name) for entry in message.class_map] == list(enumerate(CAMVID11.names))
    assert (time, message.header.frame_id) == (made[0].frame.stamp_ns, "camera")
    with Reader(path) as reader:
        assert next(reader.messages())[0].topic == "/segmentation/label_info"


def test_label_info_is_latched_and_all_is_reliable(written):
    path, _ = written
    with Reader(path) as reader:
        offered = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
    assert [qos.durability for qos in offered.pop("/segmentation/label_info")] == [QosDurability.TRANSIENT_LOCAL]
    assert {(qos.durability, qos.depth) for (qos,) in offered.values()} == {(QosDurability.VOLATILE, 10)}
    assert {qos.reliability for (qos,) in offered.values()} == {QosReliability.RELIABLE}


def test_label_info_has_the_type_hash_that_ros_gives_it(written):
    """The hash that rosidl generated for vision_msgs; a wrong field, name or order changes it."""
    metadata = (written[0] / "metadata.yaml").read_text()
    assert "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783" in metadata


def test_metadata_are_those_that_humble_reads(written):
    metadata = (written[0] / "metadata.yaml").read_text()
    assert "version: 8" in metadata
    assert "durability: 1" in metadata  # numbers in a string of YAML; version 9 nests words


def test_own_bag_reads_like_any_other(written):
    path, made = written
    with open_frames(path, topic="/segmentation/labels") as source:
        frames = list(source)
    assert [frame.image[:, :, 0].tolist() for frame in frames] == [one.result.labels.tolist() for one in made]
    assert [frame.stamp_ns for frame in frames] == [one.frame.stamp_ns for one in made]
    assert frames[0].camera_info is not None and frames[0].camera_info.width == 3


def test_topics_and_prefix_are_arguments(tmp_path, make_result):
    made = make_result(LABELS)
    with ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",), prefix="/front/") as sink:
        sink.write(made.frame, made.result)
    assert set(read(tmp_path / "bag")) == {"/front/segmentation/labels"}


def test_what_a_result_does_not_have_is_left_out(tmp_path, make_result):
    made = make_result(LABELS, confidence=False)
    with ResultBagSink(tmp_path / "bag", LabelSet(("a",), ((1, 2, 3),))) as sink:
        sink.write(made.frame, made.result)
    assert set(read(tmp_path / "bag")) == {f"/segmentation/{name}" for name in ("labels", "color", "label_info")}


@pytest.mark.parametrize("stamp_ns", [0, -SECOND // 2, -(2**31) * SECOND])
def test_zero_and_negative_stamps_are_kept_in_the_header(tmp_path, make_result, stamp_ns):
    made = make_result(LABELS, stamp_ns=stamp_ns)
    with ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",)) as sink:
        sink.write(made.frame, made.result)
    ((time, message),) = read(tmp_path / "bag")["/segmentation/labels"]
    assert (stamp_of(message), time) == (stamp_ns, 0)


def test_stamps_that_run_backwards_are_kept(tmp_path, make_result):
    stamps = [3 * SECOND, SECOND, 2 * SECOND]
    with ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",)) as sink:
        for stamp in stamps:
            made = make_result(LABELS, stamp_ns=stamp)
            sink.write(made.frame, made.result)
    assert sorted(stamp_of(message) for _, message in read(tmp_path / "bag")["/segmentation/labels"]) == sorted(stamps)


def test_last_stamp_that_ros_can_hold_is_kept(tmp_path, make_result):
    made = make_result(LABELS, stamp_ns=2**31 * SECOND - 1)
    with ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",)) as sink:
        sink.write(made.frame, made.result)
    ((_, message),) = read(tmp_path / "bag")["/segmentation/labels"]
    assert stamp_of(message) == 2**31 * SECOND - 1


@pytest.mark.parametrize("stamp_ns", [2**31 * SECOND, -(2**31) * SECOND - 1])
def test_stamp_that_ros_cannot_hold_is_an_output_error(tmp_path, make_result, stamp_ns):
    made = make_result(LABELS, stamp_ns=stamp_ns)
    with pytest.raises(OutputError, match="32 bits of seconds"), ResultBagSink(tmp_path / "bag", CAMVID11) as sink:
        sink.write(made.frame, made.result)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_bag_is_whole_after_an_exception(tmp_path, make_result, error):
    made = make_result(LABELS)
    with pytest.raises(error), ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",)) as sink:
        sink.write(made.frame, made.result)
        raise error
    assert len(read(tmp_path / "bag")["/segmentation/labels"]) == 1


def test_bag_without_results_is_whole(tmp_path):
    ResultBagSink(tmp_path / "bag", CAMVID11).close()
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0


def test_existing_bag_is_not_overwritten(written):
    path, _ = written
    before = (path / "bag.mcap").read_bytes()
    with pytest.raises(OutputError, match="exists already; delete it or choose another output"):
        ResultBagSink(path, CAMVID11)
    assert (path / "bag.mcap").read_bytes() == before


def test_bag_below_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="there is a file of that name"):
        ResultBagSink(tmp_path / "file" / "bag", CAMVID11)


def test_unknown_topic_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'mask'; did you mean masks\?"):
        ResultBagSink(tmp_path / "bag", CAMVID11, ("mask",))


def test_full_disk_is_an_output_error_and_the_results_so_far_can_be_read(tmp_path, make_result, random_image):
    class FullDisk(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    sink = ResultBagSink(tmp_path / "bag", CAMVID11, ("labels",))
    labels = random_image(1000, 1200)[:, :, 0]  # above a megabyte: a chunk of its own
    made = make_result(labels)
    sink.write(made.frame, made.result)
    sink._bag._writer.storage.bio.flush()
    full = sink._bag._writer.storage.bio = FullDisk(tmp_path / "bag" / "bag.mcap", "r+")
    with pytest.raises(OutputError, match="no space is left") as error:
        sink.write(made.frame, made.result)
    assert "`open_frames` reads them" in str(error.value)
    assert full.closed
    sink.close()
    with pytest.raises(OutputError, match="the bag is closed"):
        sink.write(made.frame, made.result)
    (frame,) = open_frames(tmp_path / "bag")
    assert np.array_equal(frame.image[:, :, 0], labels)
