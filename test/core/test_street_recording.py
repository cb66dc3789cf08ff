"""A drive through the generated street, recorded: what comes back from the bag is what the street drew."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from lmanet_core.commands.main import main
from lmanet_core.errors import OutputError
from lmanet_core.labels import CITYSCAPES
from lmanet_core.media import open_frames
from lmanet_core.street import Street, StreetConfig
from lmanet_core.street.recording import LABEL_INFO_TOPIC, LABEL_TOPIC, START_NS, record_street

CONFIG = StreetConfig(width=96, height=48, seed=3)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp("street") / "drive.mcap"
    record_street(path, CONFIG, 3)
    return path


def messages(path, topic):
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        return [reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages(connections)]


def test_camera_is_found_by_itself_with_stamps_and_calibration(drive):
    with open_frames(drive) as frames:
        assert frames.topic == "/camera/image_raw/compressed"
        read = list(frames)
    drawn = list(Street(CONFIG).frames(0, 3))
    assert [frame.stamp_ns for frame in read] == [START_NS + frame.stamp_ns for frame in drawn]
    assert [frame.camera_info for frame in read] == [frame.camera_info for frame in drawn]
    for ours, theirs in zip(read, drawn, strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).mean() < 6  # JPEG


def test_labels_come_back_to_the_pixel(drive):
    read = [cv2.imdecode(np.asarray(message.data), cv2.IMREAD_UNCHANGED) for message in messages(drive, LABEL_TOPIC)]
    for labels, frame in zip(read, Street(CONFIG).frames(0, 3), strict=True):
        np.testing.assert_array_equal(labels, frame.labels)


def test_class_names_are_in_the_bag(drive):
    (info,) = messages(drive, LABEL_INFO_TOPIC)
    assert [entry.class_name for entry in info.class_map] == list(CITYSCAPES.names)


def test_single_file_leaves_nothing_beside_it(drive):
    assert [path.name for path in drive.parent.iterdir()] == ["drive.mcap"]


def test_other_names_become_a_bag_folder(tmp_path):
    record_street(tmp_path / "drive", CONFIG, 1)
    assert (tmp_path / "drive/metadata.yaml").is_file()
    with open_frames(tmp_path / "drive") as frames:
        assert len(list(frames)) == 1


def test_existing_recording_is_not_replaced(drive):
    before = drive.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        record_street(drive, CONFIG, 1)
    assert drive.read_bytes() == before


def test_recording_that_is_broken_off_leaves_no_file(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_street(tmp_path / "drive.mcap", CONFIG, 3, stop)
    assert list(tmp_path.iterdir()) == []


def test_command_records(tmp_path, capsys):
    out = tmp_path / "drive.mcap"
    assert main(["street", "--out", str(out), "--frames", "2", "--size", "96x48", "--seed", "5"]) == 0
    assert "2 frames of 96x48, seed 5" in capsys.readouterr().out
    assert len(messages(out, LABEL_TOPIC)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "0"], "--frames must be 1 or more, got 0"),
        (["--size", "9"], "a size is WIDTHxHEIGHT"),
        (["--level", "4"], "level must be 0"),
    ],
)
def test_command_refuses_settings_that_make_no_street(tmp_path, capsys, options, message):
    assert main(["street", "--out", str(tmp_path / "drive.mcap"), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
