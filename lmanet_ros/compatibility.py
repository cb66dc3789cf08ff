"""Names that ROS 2 distributions have in different places. What is here is imported from here alone."""

from __future__ import annotations

try:
    from rclpy.event_handler import SubscriptionEventCallbacks  # Iron and newer
except ImportError:
    from rclpy.qos_event import SubscriptionEventCallbacks  # Humble

__all__ = ["SubscriptionEventCallbacks"]
