"""What the node publishes: the same labels as the command line, in every form that somebody subscribes to."""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
import pytest

from lmanet_core.commands.main import main
from lmanet_core.geometry import CameraInfo
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_ros.conversions import camera_info_from_ros, camera_info_to_message
from lmanet_ros.publishers import RateCap

pytestmark = pytest.mark.ros

SECOND = 10**9
TENTH = SECOND // 10


def pixels(message):
    shape = (message.height, message.width) + ((3,) if message.encoding == "rgb8" else ())
    return np.frombuffer(message.data, np.uint8).reshape(shape)


def write_bag(path, images, stamps):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        for receive, (image, stamp) in enumerate(zip(images, stamps, strict=True)):
            time_ = types["builtin_interfaces/msg/Time"](*divmod(stamp, SECOND))
            header = types["std_msgs/msg/Header"](stamp=time_, frame_id="camera")
            height, width = image.shape[:2]
            message = types["sensor_msgs/msg/Image"](header, height, width, "rgb8", 0, 3 * width, image.ravel())
            bag.write(connection, SECOND + receive, store.serialize_cdr(message, message.__msgtype__))


def test_labels_equal_the_command_lines_pixel_for_pixel(robot, drive, video_weights, tmp_path):
    # With a looped part, a gap, a late frame and a repeated one, so that the memory has something to decide.
    images = drive(40)[::4]  # far enough apart for labels of random weights to differ
    stamps = [SECOND + TENTH * n for n in (0, 1, 2, 3, 3, 20, 21, 22, 5, 6)]
    write_bag(tmp_path / "bag", images, stamps)
    out = tmp_path / "out"
    arguments = ["segment", str(tmp_path / "bag"), "--weights", str(video_weights), "--out", str(out), "--save", "[labels]"]
    assert main(arguments) == 0
    expected = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((out / "labels").glob("*.png"))]
    assert len(expected) == len(images)
    node = robot()
    for image, stamp, wanted in zip(images, stamps, expected, strict=True):
        np.testing.assert_array_equal(pixels(node.step(image, stamp)), wanted)
    assert node.resets() == {"first_frame": 1, "gap": 1, "backward_stamp": 1}
    assert len({labels.tobytes() for labels in expected}) > 5  # they do differ


def test_every_topic_of_one_frame(robot, drive, video_weights):
    LabelInfo = pytest.importorskip("vision_msgs.msg", reason="no package vision_msgs").LabelInfo

    outputs = ("labels", "color", "overlay", "confidence", "mask/drivable", "mask/person", "mask/vehicle")
    node = robot(outputs=(*outputs, "labels/compressed", "camera_info"))
    info = CameraInfo(width=64, height=32, k=(50.0, 0, 32, 0, 50, 16, 0, 0, 1), p=(50.0, 0, 32, 0, 0, 50, 16, 0, 0, 0, 1, 0))
    calibrate(node, info)
    image = drive(1)[0]
    stamp = 12 * SECOND + 345678901
    node.step(image, stamp, frame_id="front")
    node.wait(lambda: all(node.received.values()), "every topic")
    segmenter = VideoSegmenter.from_weights(video_weights)
    result, labels = segmenter.step(image, stamp), segmenter.labels
    got = {topic.removeprefix("segmentation/"): messages[-1] for topic, messages in node.received.items()}
    assert {(m.header.stamp.sec, m.header.stamp.nanosec, m.header.frame_id) for m in got.values()} == {(12, 345678901, "front")}
    wanted = {
        "labels": result.labels,
        "color": labels.colorize(result.labels),
        "overlay": labels.overlay(image, result.labels),
        "confidence": result.confidence,
        **{f"mask/{group}": labels.mask(result.labels, group) for group in ("drivable", "person", "vehicle")},
    }
    for name, plane in wanted.items():
        assert got[name].encoding == ("mono8" if plane.ndim == 2 else "rgb8")
        assert got[name].step == plane.shape[1] * (3 if plane.ndim == 3 else 1)
        np.testing.assert_array_equal(pixels(got[name]), plane, name)
    png = got["labels/compressed"]
    assert png.format.startswith("mono8; png")
    np.testing.assert_array_equal(cv2.imdecode(np.array(png.data), cv2.IMREAD_UNCHANGED), result.labels)
    assert camera_info_from_ros(got["camera_info"]) == info
    from rclpy.qos import DurabilityPolicy, QoSProfile

    node.listen("segmentation/label_info", LabelInfo, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    node.wait(lambda: node.received["segmentation/label_info"], "latched label_info for a late subscriber")
    classes = node.received["segmentation/label_info"][0].class_map
    assert [(entry.class_id, entry.class_name) for entry in classes] == list(enumerate(labels.names))


def test_without_vision_msgs_only_the_table_of_classes_is_missing(robot, drive, monkeypatch):
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)
    node = robot()
    node.wait(lambda: node.said("segmentation/label_info is not published", "warn"), "the reason")
    assert node.said("sudo apt install ros-$ROS_DISTRO-vision-msgs", "warn")
    assert node.step(drive(1)[0], SECOND).encoding == "mono8"
    assert not node.other.count_publishers("segmentation/label_info")
    assert node.transition("deactivate") and node.transition("cleanup")


def calibrate(node, info):
    node.infos[""].publish(camera_info_to_message(info, node.header(SECOND)))
    node.wait(lambda: node.node._cameras[""].calibration is not None, "camera_info")


def test_camera_info_scales_with_the_output(robot, drive):
    node = robot({"output_size": "32x16"}, outputs=("labels", "camera_info"))
    k, p = (50.0, 0, 31.5, 0, 50, 15.5, 0, 0, 1), (50.0, 0, 31.5, 0, 0, 50, 15.5, 0, 0, 0, 1, 0)
    info = CameraInfo(width=64, height=32, k=k, p=p)
    calibrate(node, info)
    labels = node.step(drive(1)[0], SECOND)
    node.wait(lambda: node.received["segmentation/camera_info"], "camera_info")
    out = node.received["segmentation/camera_info"][0]
    assert (labels.width, labels.height) == (out.width, out.height) == (32, 16)
    assert list(out.k) == [25.0, 0, 15.5, 0, 25, 7.5, 0, 0, 1]


def test_calibration_goes_out_with_every_frame_and_without_a_word(robot, drive):
    node = robot(outputs=("labels", "camera_info"))
    calibrate(node, CameraInfo(width=64, height=32))
    for index, image in enumerate(drive(3)):
        node.step(image, SECOND + index * TENTH)
    node.wait(lambda: len(node.received["segmentation/camera_info"]) == 3, "one for each frame", timeout_s=5.0)
    assert not node.said("camera_info is for")


def test_calibration_of_another_size_is_not_passed_on_and_said_once(robot, drive):
    node = robot(outputs=("labels", "camera_info"))
    calibrate(node, CameraInfo(width=128, height=64))
    for index, image in enumerate(drive(3)):
        node.step(image, SECOND + index * TENTH)
    node.wait(lambda: node.said("the images are 64x32", "warn"), "the warning")
    assert len(node.said("camera_info is for")) == 1
    assert not node.received["segmentation/camera_info"]


def test_calibration_of_a_binned_window_of_the_sensor_becomes_the_images_own(robot, drive):
    node = robot(outputs=("labels", "camera_info"))
    # 128x64 pixels of 640x480 from column 200 and row 100 on, 2x2 merged.
    k = (100.0, 0, 263.5, 0, 100, 131.5, 0, 0, 1)
    info = CameraInfo(width=640, height=480, k=k, binning_x=2, binning_y=2, roi=(200, 100, 64, 128, False))
    calibrate(node, info)
    node.step(drive(1)[0], SECOND)
    node.wait(lambda: node.received["segmentation/camera_info"], "camera_info")
    out = camera_info_from_ros(node.received["segmentation/camera_info"][0])
    assert (out.width, out.height, out.binning_x, out.roi) == (64, 32, 0, (0, 0, 0, 0, False))
    assert out.k == (50.0, 0, 31.5, 0, 50, 15.5, 0, 0, 1)


def test_memory_is_fed_while_nobody_listens_and_nothing_is_decoded(robot, drive, video_weights, monkeypatch):
    from sensor_msgs.msg import Image

    node = robot({"label_memory.enabled": False}, outputs=())
    images = drive(6)
    network = node.node._cameras[""].segmenter.runtime.network
    monkeypatch.setattr(network, "decode", None)  # would fail if it were called
    for index, image in enumerate(images[:5]):
        node.cameras[""].publish(node.image(image, SECOND + index * TENTH))
        node.wait(lambda: node.statistics().fed == index + 1, "the frame")  # noqa: B023
    monkeypatch.undo()
    assert (node.statistics().published, node.statistics().failed) == (0, 0)
    node.listen("segmentation/labels", Image)
    node.wait(lambda: node.node.count_subscribers("segmentation/labels"), "the listener is seen")
    labels = node.step(images[5], SECOND + 5 * TENTH)
    segmenter = VideoSegmenter.from_weights(video_weights, SegmenterConfig(label_memory=False))
    expected = [segmenter.step(image, SECOND + index * TENTH).labels for index, image in enumerate(images)]
    np.testing.assert_array_equal(pixels(labels), expected[-1])  # as if every frame had been segmented


def test_both_memories_are_fed_while_nobody_listens(robot, drive, video_weights):
    from sensor_msgs.msg import Image

    node = robot(outputs=())
    images = drive(6)
    for index, image in enumerate(images[:5]):
        node.cameras[""].publish(node.image(image, SECOND + index * TENTH))
        node.wait(lambda: node.statistics().fed == index + 1, "the frame")  # noqa: B023
    node.listen("segmentation/labels", Image)
    node.wait(lambda: node.node.count_subscribers("segmentation/labels"), "the listener is seen")
    labels = node.step(images[5], SECOND + 5 * TENTH)
    segmenter = VideoSegmenter.from_weights(video_weights)
    expected = [segmenter.step(image, SECOND + index * TENTH).labels for index, image in enumerate(images)]
    np.testing.assert_array_equal(pixels(labels), expected[-1])


def test_the_label_memory_can_be_switched_off_and_on_while_running(robot, drive, video_weights):
    node = robot(outputs=("labels",))
    images = drive(4)
    node.step(images[0], SECOND)
    segmenter = node.node._cameras[""].segmenter
    assert segmenter.label_strength == 1.0
    assert node.set_parameters(label_memory__enabled=False)[0].successful
    node.step(images[1], SECOND + TENTH)
    assert segmenter.label_strength == 0.0
    assert node.set_parameters(atomically=True, label_memory__enabled=True, label_memory__strength=0.5).successful
    node.step(images[2], SECOND + 2 * TENTH)
    assert segmenter.label_strength == 0.5


def test_a_model_of_ones_own_runs_on_the_node(robot, drive, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Conv2d(3, 4, 3, padding=1), ('floor', 'wall', 'person', 'shelf')\n"
    )
    name = f"python:{tmp_path / 'own.py'}:make"
    node = robot({"weights": name}, outputs=("labels",))
    images = drive(3)
    got = [pixels(node.step(image, SECOND + index * TENTH)) for index, image in enumerate(images)]
    segmenter = VideoSegmenter.from_weights(name)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(got[index], segmenter.step(image, SECOND + index * TENTH).labels)


def test_a_model_of_hugging_face_runs_on_the_node(robot, drive, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4, decoder_hidden_size=8,
        id2label={0: "floor", 1: "wall"}, label2id={"floor": 0, "wall": 1},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segformer")
    node = robot({"weights": f"hf:{tmp_path / 'segformer'}"}, outputs=("labels",))
    image = drive(1)[0]
    labels = pixels(node.step(image, SECOND))
    np.testing.assert_array_equal(
        labels, VideoSegmenter.from_weights(f"hf:{tmp_path / 'segformer'}").step(image, SECOND).labels
    )
    assert node.node._cameras[""].segmenter.labels.names == ("floor", "wall")


def test_camera_info_alone_is_published_without_segmenting(robot, drive, monkeypatch):
    node = robot({"label_memory.enabled": False}, outputs=("camera_info",))
    monkeypatch.setattr(node.node._cameras[""].segmenter.runtime.network, "decode", None)
    calibrate(node, CameraInfo(width=64, height=32))
    out = node.step(drive(1)[0], SECOND, output="camera_info")
    assert (out.width, out.height) == (64, 32)


def test_nothing_is_built_that_nobody_subscribes_to(robot, drive, monkeypatch):
    node = robot(outputs=("labels",))
    built = []
    original = type(node.node._cameras[""].segmenter.labels).colorize
    monkeypatch.setattr(
        type(node.node._cameras[""].segmenter.labels), "colorize", lambda *a: built.append("color") or original(*a)
    )
    wanted, step = [], VideoSegmenter.step
    monkeypatch.setattr(VideoSegmenter, "step", lambda *a, **options: wanted.append(options) or step(*a, **options))
    node.step(drive(1)[0], SECOND)
    assert not built
    assert wanted == [{"labels": True, "confidence": False}]


def test_rate_cap_thins_one_topic_and_not_the_others(robot, drive):
    node = robot({"max_rate_hz.color": 0.01}, outputs=("labels", "color"))
    for index, image in enumerate(drive(4)):
        node.step(image, SECOND + index * TENTH)
    assert len(node.received["segmentation/labels"]) == 4
    assert len(node.received["segmentation/color"]) == 1


def test_rate_cap_spares_the_segmenting_and_not_the_memory(robot, drive):
    node = robot({"max_rate_hz.labels": 0.01})
    for index, image in enumerate(drive(5)):
        node.cameras[""].publish(node.image(image, SECOND + index * TENTH))
        node.wait(lambda: node.statistics().published + node.statistics().fed == index + 1, "the frame")  # noqa: B023
    assert (node.statistics().published, node.statistics().fed) == (1, 4)
    assert node.statistics().memory_frames == 3


def test_rate_cap_keeps_the_rate():
    moments = iter(range(100))
    cap = RateCap(lambda: next(moments) / 10.0)
    assert sum(cap.allows(2.5) for _ in range(100)) == pytest.approx(25, abs=1)
    assert all(RateCap(lambda: 0.0).allows(0.0) for _ in range(3))


def test_compressed_images_give_the_labels_of_what_they_decode_to(robot, drive, video_weights):
    from sensor_msgs.msg import CompressedImage

    node = robot({"transport": "compressed"}, compressed=True)
    image = drive(1)[0]
    _, png = cv2.imencode(".png", image[:, :, ::-1])
    node.cameras[""].publish(CompressedImage(header=node.header(SECOND), format="png", data=png.tobytes()))
    node.wait(lambda: node.received["segmentation/labels"], "labels")
    expected = VideoSegmenter.from_weights(video_weights, SegmenterConfig()).step(image, SECOND).labels
    np.testing.assert_array_equal(pixels(node.received["segmentation/labels"][0]), expected)


def test_two_cameras_share_the_network_evenly_and_not_their_memory(robot, drive):
    node = robot({"cameras": ["front", "rear"], "continuity.gap_s": 1.0}, prefixes=("front/", "rear/"))
    images = {"front/": drive(60, seed=1), "rear/": drive(60, seed=2)}
    slow = node.node._cameras["front"].segmenter.runtime.network
    encode = slow.encode
    slow.encode = lambda x: (time.sleep(0.03), encode(x))[1]  # 30 images a second come, fewer can be done
    for index in range(60):
        for prefix, camera in node.cameras.items():
            camera.publish(node.image(images[prefix][index], SECOND + index * SECOND // 30, frame_id=prefix))
        time.sleep(1 / 30)
    front, rear = (len(node.received[f"{prefix}segmentation/labels"]) for prefix in node.cameras)
    assert front + rear < 100
    assert abs(front - rear) <= 0.1 * max(front, rear) + 1
    assert all(node.statistics(prefix).memory_frames == 3 for prefix in node.cameras)
    assert node.resets("front/") == node.resets("rear/") == {"first_frame": 1}


def test_groups_and_palette_of_the_parameters_are_published(robot, drive):
    node = robot({"groups": ["ground=road,sidewalk"], "palette": ["road=1,2,3"]}, outputs=("labels", "mask/ground", "color"))
    labels = pixels(node.step(drive(1)[0], SECOND))
    node.wait(lambda: all(node.received.values()), "mask and color")
    mask = pixels(node.received["segmentation/mask/ground"][0])
    np.testing.assert_array_equal(mask == 255, labels <= 1)
    color = pixels(node.received["segmentation/color"][0])
    assert {tuple(c) for c in color[labels == 0]} <= {(1, 2, 3)}
