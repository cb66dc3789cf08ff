"""The executable `street_camera`: publish a generated street as a camera would, so that everything runs with no camera at all.

Topics `image` (rgb8), `image/compressed` (JPEG), `depth` (32FC1, metres, registered) and `camera_info`; best effort, as cameras
are. Images are made only where somebody subscribes.
"""

from __future__ import annotations

import sys

import cv2
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from lmanet_core.errors import suggest_name
from lmanet_core.street import Street, StreetConfig
from lmanet_ros.conversions import camera_info_to_message, fill, image_to_message
from lmanet_ros.running import run_node

_SETTINGS = ("width", "height", "fps", "seed", "degradation", "level")


class StreetCamera(Node):
    """A camera that drives through a made-up town.

    Parameters: width, height (pixels), fps, seed, degradation, level (see `lmanet_core.street.StreetConfig`), frame_id.

    Raises:
        ConfigError: a parameter out of range.
    """

    def __init__(self) -> None:
        super().__init__("street_camera")
        defaults = {name: getattr(StreetConfig(), name) for name in _SETTINGS} | {"frame_id": "street_camera"}
        dynamic = ParameterDescriptor(dynamic_typing=True)  # 10 is taken for 10.0; StreetConfig checks
        given = {name: self.declare_parameter(name, default, dynamic).value for name, default in defaults.items()}
        for name in self._parameter_overrides:
            if name not in given and name != "use_sim_time" and not name.startswith("qos_overrides."):
                hint = suggest_name(name, given)
                self.get_logger().warning(f"parameter {name} is not one of this node's and changes nothing{hint}")
        self._frame_id = str(given.pop("frame_id"))
        config = StreetConfig(**given)
        self._street = Street(config)
        self._index = 0
        self._image = self.create_publisher(Image, "image", qos_profile_sensor_data)
        self._compressed = self.create_publisher(CompressedImage, "image/compressed", qos_profile_sensor_data)
        self._depth = self.create_publisher(Image, "depth", qos_profile_sensor_data)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        self.create_timer(1.0 / config.fps, self._publish)
        self.get_logger().info(f"{config.width}x{config.height} at {config.fps:g} Hz on {self._image.topic_name}")

    def _publish(self) -> None:
        frame = self._street.frame(self._index)
        self._index += 1
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        if self._image.get_subscription_count():
            self._image.publish(image_to_message(frame.image, header))
        if self._compressed.get_subscription_count():
            _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            self._compressed.publish(fill(CompressedImage(header=header, format="rgb8; jpeg compressed bgr8"), jpeg))
        if self._depth.get_subscription_count():
            self._depth.publish(image_to_message(frame.depth_m, header))
        self._camera_info.publish(camera_info_to_message(frame.camera_info, header))


def main(arguments: list[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM; returns the exit code."""
    return run_node("street_camera", StreetCamera, arguments)


if __name__ == "__main__":
    sys.exit(main())
