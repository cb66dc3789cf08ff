"""The whole thing as a user starts it, segment.launch.py with demo:=true; a test for launch_testing, which pytest starts too:

launch_test test/ros/launch_demo.py [weights:=…] [python:=…]
"""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import launch_testing.actions
import launch_testing.asserts
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from lifecycle_msgs.srv import GetState
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from vision_msgs.msg import LabelInfo

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch/segment.launch.py"
TIMEOUT_S = 60.0  # a busy machine may take long to import torch
ENCODINGS = {
    "labels": "mono8", "color": "rgb8", "overlay": "rgb8", "confidence": "mono8",
    "mask/drivable": "mono8", "mask/person": "mono8", "mask/vehicle": "mono8",
}  # fmt: skip
OTHERS = {"labels/compressed": CompressedImage, "camera_info": CameraInfo, "label_info": LabelInfo}
UNLABELLED = 255


def generate_test_description():
    arguments = [DeclareLaunchArgument(name, default_value="") for name in ("weights", "python")]
    passed_on = {argument.name: LaunchConfiguration(argument.name) for argument in arguments}
    demo = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH_FILE)), launch_arguments={**passed_on, "demo": "true"}.items()
    )
    return LaunchDescription([*arguments, demo, launch_testing.actions.ReadyToTest()])


class TestDemo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        rclpy.init()
        cls.node = rclpy.create_node("listener")

    @classmethod
    def tearDownClass(cls):
        cls.node.destroy_node()
        rclpy.shutdown()

    def test_every_topic_is_published_with_the_cameras_header(self):
        came = {}
        for topic, kind in {**dict.fromkeys(ENCODINGS, Image), **OTHERS}.items():
            self.listen(
                f"/segmentation/{topic}", kind, lambda message, t=topic: came.setdefault(t, message), topic == "label_info"
            )
        self.spin_until(lambda: came.keys() == {*ENCODINGS, *OTHERS}, lambda: f"only {sorted(came)}")
        for topic, encoding in ENCODINGS.items():
            message = came[topic]
            self.assertEqual((message.encoding, message.width, message.height), (encoding, 512, 256), topic)
            self.assertEqual(len(message.data), message.step * message.height, topic)
        frame_ids = {topic: message.header.frame_id for topic, message in came.items() if topic != "label_info"}
        self.assertEqual(set(frame_ids.values()), {"street_camera"}, frame_ids)
        classes = {entry.class_id for entry in came["label_info"].class_map}
        self.assertLessEqual(set(came["labels"].data) - {UNLABELLED}, classes)
        self.assertEqual((came["camera_info"].width, came["camera_info"].height), (512, 256))

    def test_labels_keep_coming_and_the_diagnostics_are_content(self):
        stamps, last = [], {}
        self.listen("/segmentation/labels", Image, lambda m: stamps.append((m.header.stamp.sec, m.header.stamp.nanosec)))
        self.listen("/diagnostics", DiagnosticArray, lambda m: last.update({status.name: status for status in m.status}))
        self.spin_until(lambda: len(stamps) >= 20, lambda: f"{len(stamps)} label maps")
        self.assertEqual(stamps, sorted(set(stamps)))
        self.spin_until(lambda: "segment_node: camera" in last, lambda: f"only {sorted(last)}")
        self.assertEqual((last["segment_node"].level, last["segment_node"].message), (b"\0", "active"))
        values = {pair.key: pair.value for pair in last["segment_node: camera"].values}
        self.assertEqual(values["topic"], "/camera/image_raw")
        self.assertEqual(values["resets: first_frame"], "1")

    def test_lifecycle_and_reset_service_answer(self):
        self.spin_until(lambda: self.call(GetState, "/segment_node/get_state").current_state.label == "active", lambda: "state")
        self.assertTrue(self.call(Trigger, "/segment_node/reset_memory").success)

    def listen(self, topic, kind, callback, latched=False):
        qos = QoSProfile(depth=1)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.addCleanup(self.node.destroy_subscription, self.node.create_subscription(kind, topic, callback, qos))

    def call(self, kind, name):
        client = self.node.create_client(kind, name)
        self.addCleanup(self.node.destroy_client, client)
        self.assertTrue(client.wait_for_service(TIMEOUT_S), name)
        future = client.call_async(kind.Request())
        self.spin_until(future.done, lambda: f"no answer of {name}")
        return future.result()

    def spin_until(self, condition, state):
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            self.assertLess(time.monotonic(), end, state())
            rclpy.spin_once(self.node, timeout_sec=0.1)


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_every_process_ends_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
        self.assertEqual(len(proc_info.process_names()), 2)

    def test_nothing_failed_on_the_way(self, proc_output):
        for process in proc_output.processes():
            said = b"".join(output.text for output in proc_output[process]).decode()
            self.assertNotIn("Traceback", said)
            self.assertNotIn("[ERROR]", said)
