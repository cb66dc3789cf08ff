"""The node's subscriptions: to images and calibrations of its cameras, taken up and let go again while the node is active.

Where topics are is the matter of `names`. Belongs to the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lmanet_core.errors import ConfigError, nearest_name
from lmanet_ros.compatibility import SubscriptionEventCallbacks
from lmanet_ros.names import CameraTopics, subscribed
from lmanet_ros.offers import explain_silence, name_policy

if TYPE_CHECKING:
    from rclpy.node import Node

_QOS = "qos_overrides."
_OF_ROS = tuple(f"{_QOS}{topic}." for topic in ("/parameter_events", "/rosout", "/clock"))


class Listening:
    """See the module.

    Args:
        node: that subscribes.
        on_image: takes a camera's name and a message.
        on_camera_info: likewise.
    """

    def __init__(self, node: Node, on_image: Callable[[str, Any], None], on_camera_info: Callable[[str, Any], None]) -> None:
        self._node, self._on_image, self._on_camera_info = node, on_image, on_camera_info
        self._subscriptions: list[Any] = []
        self._cameras: dict[str, CameraTopics] = {}

    @property
    def is_on(self) -> bool:
        """Whether there are subscriptions now."""
        return bool(self._subscriptions)

    def topic(self, name: str) -> str:
        """The resolved image topic of a camera."""
        return self._cameras[name].image

    def transport(self, name: str) -> str:
        """Whether "raw" or "compressed" images of a camera are listened to."""
        return "compressed" if self._cameras[name].compressed else "raw"

    @property
    def topics(self) -> list[str]:
        """The image topics of all cameras."""
        return [camera.image for camera in self._cameras.values()]

    def find(self, prefixes: Mapping[str, str], transport: str) -> None:
        """Say which cameras there are.

        Args:
            prefixes: camera → prefix of its topics.
            transport: "raw" or "compressed", where the names do not say.
        """
        node = self._node
        self._cameras = {
            name: subscribed(
                prefix,
                transport,
                lambda topic: str(node.resolve_topic_name(topic, only_expand=True)),
                lambda topic: str(node.resolve_topic_name(topic)),
            )
            for name, prefix in prefixes.items()
        }

    def start(self) -> None:
        """Subscribe.

        Raises:
            ConfigError: a quality of service was given for what this node does not have.
        """
        for name, camera in self._cameras.items():
            events = SubscriptionEventCallbacks(incompatible_qos=partial(self._on_incompatible_qos, name))
            kind = CompressedImage if camera.compressed else Image
            self._subscribe(kind, camera.image, partial(self._on_image, name), event_callbacks=events)
            self._subscribe(CameraInfo, camera.camera_info, partial(self._on_camera_info, name))
        self._refuse_unknown_qos()

    def stop(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None], **options: Any) -> None:
        # Depth 1: what waits in a queue is old already.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        overriding = QoSOverridingOptions.with_default_policies()
        subscription = self._node.create_subscription(kind, topic, callback, qos, qos_overriding_options=overriding, **options)
        self._subscriptions.append(subscription)

    def _refuse_unknown_qos(self) -> None:
        node = self._node
        given = [name for name in node._parameter_overrides if name.startswith(_QOS) and not name.startswith(_OF_ROS)]
        for name in given:
            if not node.has_parameter(name):
                known = list(node.get_parameters_by_prefix(_QOS.rstrip(".")))
                near = nearest_name(name.removeprefix(_QOS), known)
                hint = f"; did you mean {_QOS}{near}?" if near else ""
                raise ConfigError(f"{name} is the quality of service of nothing that this node has{hint}")

    def _on_incompatible_qos(self, name: str, event: Any) -> None:
        topic = self.topic(name)
        self._node.get_logger().warning(
            f"{topic}: a publisher offers another {name_policy(event.last_policy_kind)} than this node asks for, "
            f"so its images do not arrive: {explain_silence(self._node, topic, self.transport(name))}"
        )
