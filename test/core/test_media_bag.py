"""Bags of every kind, whole and damaged."""

from __future__ import annotations

import logging
import sqlite3

import cv2
import numpy as np
import pytest

from lmanet_core.errors import InputError
from lmanet_core.geometry import CameraInfo
from lmanet_core.media import open_frames

SECOND = 10**9
TOPIC = "/camera/image_raw"


def jpeg(image):
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def pixels_of(frames):
    return [frame.image.tolist() for frame in frames]


@pytest.fixture
def image_messages(random_image):
    """`count` messages of TOPIC, a second apart, the n-th with pixels of seed n."""

    def make(maker, count=3, **size):
        images = [maker.image(random_image(**size, seed=n), stamp_ns=(n + 1) * SECOND) for n in range(count)]
        return [(TOPIC, (100 + n) * SECOND, image) for n, image in enumerate(images)]

    return make


@pytest.fixture(params=["mcap", "sqlite3", "mcap file", "db3 file", "ros1", "ros1 in mcap", "ros1 in ros2 mcap"])
def write_any_bag(request, tmp_path, ros1, ros2, write_ros1_mcap):
    """Writes messages made by a function of a BagMaker as one of the kinds of bags."""

    def write(make):
        if request.param == "ros1":
            return ros1.write(tmp_path / "x.bag", make(ros1))
        if request.param.startswith("ros1 in"):
            return write_ros1_mcap(tmp_path / "x.mcap", make(ros1), profile="ros2" if "ros2" in request.param else "ros1")
        storage = "mcap" if "mcap" in request.param else "sqlite3"
        folder = ros2.write(tmp_path / "x", make(ros2), storage)
        return next(folder.glob("x.*")) if "file" in request.param else folder

    return write


def test_every_kind_of_bag_gives_pixels_stamps_and_frame_id(write_any_bag, image_messages, random_image):
    with open_frames(write_any_bag(image_messages)) as source:
        frames = list(source)
    assert (source.kind, source.topic, source.expected_frames, source.skipped, source.fps) == ("bag", TOPIC, 3, 0, None)
    assert pixels_of(frames) == [random_image(seed=n).tolist() for n in range(3)]
    assert [frame.stamp_ns for frame in frames] == [SECOND, 2 * SECOND, 3 * SECOND]
    assert [(frame.frame_id, frame.name) for frame in frames] == [("camera", f"00000{n}") for n in range(3)]


def test_every_kind_of_bag_attaches_the_latest_camera_info(write_any_bag, random_image):
    def make(maker):
        image = maker.image(random_image())
        info = "/camera/camera_info"
        return [(TOPIC, 1, image), (info, 2, maker.camera_info(500.0)), (TOPIC, 3, image), (info, 4, maker.camera_info(600.0)),
                (TOPIC, 5, image), ("/other/camera_info", 6, maker.camera_info(1.0)), (TOPIC, 7, image)]  # fmt: skip

    frames = list(open_frames(write_any_bag(make)))
    infos = [frame.camera_info for frame in frames]
    assert [frame.name for frame in frames] == ["000000", "000001", "000002", "000003"]
    assert [info.k[0] for info in infos] == [500.0, 500.0, 600.0, 600.0]
    assert isinstance(infos[0], CameraInfo)


def test_compressed_topic_finds_its_camera_info(tmp_path, ros2, random_image):
    compressed = ros2.compressed(jpeg(random_image(16, 16)))
    infos = [("/camera/camera_info", 2, ros2.camera_info(500.0)), (f"{TOPIC}/camera_info", 2, ros2.camera_info(1.0))]
    messages = [(f"{TOPIC}/compressed", 1, compressed), *infos]
    (frame,) = open_frames(ros2.write(tmp_path / "x", messages))
    assert frame.camera_info is not None and frame.camera_info.k[0] == 500.0


def test_compressed_images_decode(tmp_path, ros2):
    image = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    path = ros2.write(tmp_path / "x", [("/c/compressed", 1, ros2.compressed(jpeg(image), stamp_ns=5))])
    (frame,) = open_frames(path)
    assert np.abs(frame.image.astype(int) - image).max() <= 3  # JPEG
    assert frame.stamp_ns == 5


@pytest.mark.parametrize("make_damage", [
    lambda maker, image: maker.image(image, data=np.zeros(10, np.uint8)),
    lambda maker, image: maker.image(image[:0, :0], step=0, height=0, width=0),
    lambda maker, image: maker.image(image, encoding="32FC1"),
], ids=["too little data", "0x0", "unknown encoding"])  # fmt: skip
def test_damaged_image_is_skipped_and_counted(tmp_path, ros2, image_messages, random_image, make_damage, caplog):
    messages = image_messages(ros2)
    messages[1] = (TOPIC, 101 * SECOND, make_damage(ros2, random_image()))
    with open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert [frame.name for frame in source] == ["000000", "000002"]
    assert source.skipped == 1
    assert f"skipped message 1 of {TOPIC}" in caplog.text


def test_damaged_camera_info_is_no_numbered_image(tmp_path, ros2, random_image, caplog):
    definition, _ = ros2.store.generate_msgdef("sensor_msgs/msg/CameraInfo", ros_version=2)
    damaged = ("/front/camera_info", 2, b"\0\1\0\0", "sensor_msgs/msg/CameraInfo", definition)
    with open_frames(ros2.write(tmp_path / "x", [("/front/a", 1, ros2.image(random_image())), damaged])) as source:
        assert len(list(source)) == 1
    assert source.skipped == 1
    assert "skipped a message of /front/camera_info" in caplog.text


def test_damaged_jpeg_is_skipped_and_counted(tmp_path, ros2, random_image, caplog):
    whole = jpeg(random_image(64, 64))
    datas = [whole, whole[: len(whole) // 2], b"\xff\xd8garbage\xff\xd9", b"", whole]
    messages = [("/c", n, ros2.compressed(data, stamp_ns=n)) for n, data in enumerate(datas, 1)]
    with open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert [frame.stamp_ns for frame in source] == [1, 5]
    assert source.skipped == 3
    assert "cut off" in caplog.text


def test_message_of_random_bytes_is_skipped_and_counted(tmp_path, ros2, image_messages):
    messages = image_messages(ros2)
    connection = (TOPIC, 99 * SECOND, b"\0\1\0\0" + np.random.default_rng(0).bytes(200))
    definition = ros2.store.generate_msgdef("sensor_msgs/msg/Image", ros_version=2)[0]
    messages.insert(1, (*connection, "sensor_msgs/msg/Image", definition))
    with open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert len(list(source)) == 3
    assert source.skipped == 1


def test_bag_of_damage_only_is_an_input_error(tmp_path, ros2, random_image):
    messages = [(TOPIC, 1, ros2.image(random_image(), step=1))]
    with pytest.raises(InputError, match="no image could be read, 1 damaged; the first was message 0 of"):
        list(open_frames(ros2.write(tmp_path / "x", messages)))


def test_mixed_and_tiny_sizes_keep_their_own_size(tmp_path, ros2, random_image):
    sizes = [(1, 1), (37, 53), (4, 6)]
    messages = [(TOPIC, n, ros2.image(random_image(*size))) for n, size in enumerate(sizes)]
    assert [frame.image.shape[:2] for frame in open_frames(ros2.write(tmp_path / "x", messages))] == sizes


def test_zero_stamps_give_way_to_the_time_of_recording(tmp_path, ros2, random_image, caplog):
    messages = [(TOPIC, n * SECOND, ros2.image(random_image(), stamp_ns=0)) for n in (7, 8)]
    assert [frame.stamp_ns for frame in open_frames(ros2.write(tmp_path / "x", messages))] == [7 * SECOND, 8 * SECOND]
    assert sum("header stamps that are zero" in record.getMessage() for record in caplog.records) == 1


def test_missing_stamps_of_a_simulation_are_estimated_in_its_time(tmp_path, ros2, random_image):
    given = [0, SECOND, 0, 3 * SECOND]  # the first 0 is the start of the simulation, the other one is left out
    messages = [(TOPIC, (1000 + n) * SECOND, ros2.image(random_image(), stamp_ns=stamp)) for n, stamp in enumerate(given)]
    frames = open_frames(ros2.write(tmp_path / "x", messages))
    assert [frame.stamp_ns for frame in frames] == [0, SECOND, 2 * SECOND, 3 * SECOND]


def test_stamps_that_stand_still_go_on_with_the_time_of_recording(tmp_path, ros2, random_image, caplog):
    stamp = 1_700_000_000 * SECOND
    received = [100 * SECOND + n for n in range(7)]
    messages = [(TOPIC, time, ros2.image(random_image(seed=time), stamp_ns=stamp)) for time in received]
    stamps = [frame.stamp_ns for frame in open_frames(ros2.write(tmp_path / "x", messages))]
    assert stamps == [stamp] * 4 + [stamp + n for n in (4, 5, 6)]
    assert sum("header stamps that stand still" in record.getMessage() for record in caplog.records) == 1


def test_stamps_that_run_backwards_are_delivered_as_they_are(tmp_path, ros2, random_image):
    stamps = [5 * SECOND, 6 * SECOND, 2 * SECOND, 2 * SECOND]
    messages = [(TOPIC, 100 + n, ros2.image(random_image(), stamp_ns=stamp)) for n, stamp in enumerate(stamps)]
    assert [frame.stamp_ns for frame in open_frames(ros2.write(tmp_path / "x", messages))] == stamps


# Which topic


def image_topics(maker, image, *names):
    return [(name, 1 + index, maker.image(image)) for index, name in enumerate(names)]


@pytest.mark.parametrize("other", ["/camera/labels", "/camera/depth/image", "/segmentation/color", "/rgb_Mask", "/disparity"])
def test_the_only_topic_that_may_be_a_camera_is_chosen(tmp_path, ros2, random_image, other, caplog):
    path = ros2.write(tmp_path / "x", image_topics(ros2, random_image(), other, TOPIC))
    with caplog.at_level(logging.INFO):
        assert open_frames(path).topic == TOPIC
    assert f"reading {TOPIC}" in caplog.text


def test_the_only_image_topic_is_chosen_whatever_its_name(tmp_path, ros2, random_image):
    assert open_frames(ros2.write(tmp_path / "x", image_topics(ros2, random_image(), "/depth"))).topic == "/depth"


@pytest.mark.parametrize("names", [("/left/image", "/right/image", "/depth"), ("/labels", "/depth")])
def test_several_cameras_are_listed(tmp_path, ros2, random_image, names):
    path = ros2.write(tmp_path / "x", image_topics(ros2, random_image(), *names))
    with pytest.raises(InputError, match=r"several image topics, choose one with --topic") as error:
        open_frames(path)
    assert all(f"{name} (sensor_msgs/msg/Image, 1 messages)" in str(error.value) for name in names)


@pytest.mark.parametrize("name", ["/right/image", "right/image"])
def test_named_topic_is_read(tmp_path, ros2, random_image, name):
    path = ros2.write(tmp_path / "x", image_topics(ros2, random_image(), "/left/image", "/right/image"))
    assert open_frames(path, topic=name).topic == "/right/image"


def test_wrong_topic_names_the_nearest_and_lists_all(tmp_path, ros2, random_image):
    path = ros2.write(tmp_path / "x", image_topics(ros2, random_image(), "/left/image", "/right/camera"))
    with pytest.raises(InputError, match=r"no topic /left/imgae; did you mean /left/image\?; image topics: .*/right/camera"):
        open_frames(path, topic="/left/imgae")


def test_topic_of_another_type_is_refused(tmp_path, ros2, random_image):
    path = ros2.write(tmp_path / "x", [(TOPIC, 1, ros2.image(random_image())), ("/chatter", 2, ros2.text("hello"))])
    with pytest.raises(InputError, match="topic /chatter is std_msgs/msg/String, not an image"):
        open_frames(path, topic="/chatter")


def test_bag_without_images_lists_what_it_has(tmp_path, ros2):
    path = ros2.write(tmp_path / "x", [("/chatter", 1, ros2.text("hello"))])
    with pytest.raises(InputError, match=r"the bag has /chatter \(std_msgs/msg/String, 1 messages\)"):
        open_frames(path)


@pytest.mark.parametrize("definition", ["int32 known", "nothing_msgs/Missing thing", "%&$ not a definition"])
@pytest.mark.parametrize("ros", [1, 2])
def test_unknown_types_on_other_topics_do_not_matter(tmp_path, ros1, ros2, image_messages, definition, ros):
    maker, path = (ros1, tmp_path / "x.bag") if ros == 1 else (ros2, tmp_path / "x")
    messages = [("/secret", 1, b"\0\1\0\0abcd", "acme_msgs/msg/Secret", definition), *image_messages(maker)]
    assert len(list(open_frames(maker.write(path, messages)))) == 3


# Damaged bags


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
def test_cut_off_bag_gives_what_can_be_read_and_says_so(tmp_path, ros1, ros2, image_messages, random_image, kind, caplog):
    size = {"height": 48, "width": 64}
    if kind == "ros1":
        path = file = ros1.write(tmp_path / "x.bag", image_messages(ros1, 30, **size))
    else:
        path = ros2.write(tmp_path / "x", image_messages(ros2, 30, **size), kind)
        file = next(path.glob("x.*"))
    cut(file, 0.6)
    with open_frames(path) as source:
        frames = list(source)
    assert 10 < len(frames) < 20
    assert pixels_of(frames) == [random_image(**size, seed=n).tolist() for n in range(len(frames))]
    assert source.skipped == 1
    assert "breaks off" in caplog.text


@pytest.mark.parametrize("kind", ["mcap", "ros1"])
def test_bag_that_lost_only_its_end_gives_every_frame(tmp_path, ros1, ros2, image_messages, kind, caplog):
    """What a recorder leaves that was killed."""
    if kind == "ros1":
        path = file = ros1.write(tmp_path / "x.bag", image_messages(ros1))
    else:
        path = ros2.write(tmp_path / "x", image_messages(ros2))
        (path / "metadata.yaml").unlink()
        file = path / "x.mcap"
    file.write_bytes(file.read_bytes()[:-20])
    with open_frames(path) as source:
        assert len(list(source)) == 3


@pytest.mark.parametrize("compress", [False, True])
def test_time_of_recording_in_a_ros1_bag_that_is_cut_off_is_read(tmp_path, ros1, random_image, compress):
    times = [7 * SECOND + 5, 8 * SECOND + 900_000_000]
    messages = [(TOPIC, time, ros1.image(random_image(), stamp_ns=0)) for time in times]
    path = ros1.write(tmp_path / "x.bag", messages, compress=compress)
    path.write_bytes(path.read_bytes()[:-20])
    assert [frame.stamp_ns for frame in open_frames(path)] == times


def test_unfinished_ros1_recording_is_read(tmp_path, ros1, image_messages, caplog):
    path = ros1.write(tmp_path / "x.bag", image_messages(ros1))
    content = path.read_bytes()
    start = content.index(b"index_pos=") + len(b"index_pos=")
    active = tmp_path / "x.bag.active"
    active.write_bytes(content[:start] + bytes(8) + content[start + 8 :])
    with open_frames(active) as source:
        assert len(list(source)) == 3
    assert "never closed" in caplog.text


@pytest.mark.parametrize("kind, magic", [("mcap", b"\x28\xb5\x2f\xfd"), ("ros1", b"\x04\x22\x4d\x18")])
def test_damage_in_the_middle_costs_one_chunk(tmp_path, ros1, ros2, image_messages, kind, magic, caplog):
    size = {"height": 360, "width": 480}  # half a megabyte, so that every third message ends a chunk of rosbags
    if kind == "ros1":
        path = file = ros1.write(tmp_path / "x.bag", image_messages(ros1, 9, **size), compress=True)
    else:
        path = ros2.write(tmp_path / "x", image_messages(ros2, 9, **size), compress=True)
        file = path / "x.mcap"
    content = file.read_bytes()
    second = content.index(magic, content.index(magic) + 1)
    file.write_bytes(content[:second] + bytes(4) + content[second + 4 :])
    with open_frames(path) as source:
        assert [frame.stamp_ns // SECOND for frame in source] == [1, 2, 3, 7, 8, 9]
    assert source.skipped == 1
    assert "a chunk cannot be unpacked" in caplog.text


def test_ros1_bag_without_its_first_record_was_never_closed(tmp_path, ros1, image_messages, caplog):
    path = ros1.write(tmp_path / "x.bag", image_messages(ros1))
    content = path.read_bytes()
    header = int.from_bytes(content[13:17], "little")
    padding = int.from_bytes(content[17 + header : 21 + header], "little")
    path.write_bytes(content[:13] + content[21 + header + padding :])
    with open_frames(path) as source:
        assert len(list(source)) == 3
    assert "never closed" in caplog.text


@pytest.mark.parametrize("op", [5, 6])
def test_length_that_cannot_be_is_damage(tmp_path, ros1, image_messages, write_ros1_mcap, op, caplog):
    """Of a message or of a chunk: more than any memory holds."""
    path = write_ros1_mcap(tmp_path / "x.mcap", image_messages(ros1))
    end = path.read_bytes().rindex(bytes([15, 4, 0]))
    path.write_bytes(path.read_bytes()[:end] + bytes([op]) + (2**63).to_bytes(8, "little"))
    with open_frames(path) as source:
        assert len(list(source)) == 3
    assert source.skipped == 1 and "of 9223372036854775808 bytes" in caplog.text


@pytest.mark.parametrize("name", ["x.bag", "x.mcap", "x.db3"])
@pytest.mark.parametrize("content", [b"", b"This is a text.\n" * 100])
def test_file_that_is_no_bag_is_an_input_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="wanted a ROS bag, but not one message can be read"):
        open_frames(tmp_path / name)


def test_bag_cut_before_its_first_message_is_an_input_error(tmp_path, ros2, image_messages):
    path = ros2.write(tmp_path / "x", image_messages(ros2))
    cut(path / "x.mcap", 0.01)
    with pytest.raises(InputError, match="not one message can be read"):
        open_frames(path)


def test_metadata_that_promises_too_much_is_reported(tmp_path, ros2, image_messages):
    path = ros2.write(tmp_path / "x", image_messages(ros2), "sqlite3")
    with sqlite3.connect(path / "x.db3") as database:
        database.execute("DELETE FROM messages WHERE id = 3")
    with open_frames(path) as source:
        assert len(list(source)) == 2
    assert source.skipped == 1


def test_parts_of_a_bag_without_metadata_come_in_order(tmp_path, ros2, image_messages):
    messages = image_messages(ros2, 11)
    folder = tmp_path / "x"
    folder.mkdir()
    for n, message in enumerate(messages):
        part = ros2.write(tmp_path / f"part{n}", [message])
        (part / f"part{n}.mcap").rename(folder / f"x_{n}.mcap")
    assert [frame.stamp_ns // SECOND for frame in open_frames(folder)] == list(range(1, 12))


def test_unindexed_mcap_in_disorder_is_read_in_file_order(tmp_path, ros1, random_image, write_ros1_mcap):
    receive = [5, 3, 4]
    messages = [(TOPIC, time, ros1.image(random_image(), stamp_ns=time)) for time in receive]
    assert [frame.stamp_ns for frame in open_frames(write_ros1_mcap(tmp_path / "x.mcap", messages))] == receive


def test_unmerged_journal_is_reported(tmp_path, ros2, image_messages, caplog):
    path = ros2.write(tmp_path / "x", image_messages(ros2), "sqlite3")
    (path / "x.db3-wal").write_bytes(b"messages")
    with open_frames(path) as source:
        assert len(list(source)) == 3
    assert "x.db3-wal holds messages that were never merged" in caplog.text


# Real bags


def test_camvid_bag_reads_without_a_topic(shared_data):
    with open_frames(shared_data / "bags/camvid_0016E5_15hz_mcap") as source:
        stamps = [frame.stamp_ns for frame in source]
    assert source.topic == "/camera/image_raw/compressed"
    assert stamps == [1_700_000_000 * SECOND + round(n * SECOND / 15) for n in range(101)]


def test_ros1_bag_and_its_ros2_twin_read_the_same(shared_data):
    ours = list(open_frames(shared_data / "bags/robologs_tiny_svo.bag"))
    twins = list(open_frames(shared_data / "bags/robologs_tiny_svo_ros2"))
    assert len(ours) == len(twins) == 10
    for one, twin in zip(ours, twins, strict=True):
        assert np.array_equal(one.image, twin.image)
        assert (one.stamp_ns, one.frame_id, one.camera_info) == (twin.stamp_ns, twin.frame_id, twin.camera_info)
        assert one.camera_info is not None
