"""The node's half of a bond, which nav2's lifecycle manager asks of what it manages: heartbeats while the node is active.

The manager takes silence for death. The node does not watch the manager: the camera goes on without it. Belongs to the
executor's thread.
"""

from __future__ import annotations

import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType

from lmanet_core.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.node import Node

_PERIOD_S = 0.1
_TIMEOUT_S = 4.0  # as of nav2's own nodes


class Bond:
    """Beats from the start, until it is broken.

    Args:
        node: whose name is the bond's.

    Raises:
        ConfigError: the messages of the package bond are not installed.
    """

    def __init__(self, node: Node) -> None:
        try:
            message: Any = import_module("bond.msg").Status
        except ImportError as error:
            raise ConfigError("bond is true, but there is no package bond: sudo apt install ros-$ROS_DISTRO-bond") from error
        self._node = node
        self._status = message(
            id=node.get_name(),
            instance_id=str(uuid.uuid4()),
            active=True,
            heartbeat_timeout=_TIMEOUT_S,
            heartbeat_period=_PERIOD_S,
        )
        self._publisher = node.create_publisher(message, "bond", 5)
        self._timer = node.create_timer(_PERIOD_S, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._beat()

    def break_off(self) -> None:
        """Say that it ends, so that nobody has to wait for the silence."""
        self._node.destroy_timer(self._timer)
        self._status.active = False
        self._beat()
        self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        self._status.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(self._status)
