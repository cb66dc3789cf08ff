"""Answers to lifecycle transitions that a state does not have.

rclpy of Humble and Jazzy raises there, and whoever asked waits for ever; Kilted's answers by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.impl.implementation_singleton import rclpy_implementation

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Have a node's `~/change_state` answer that such a transition was not made, as nodes in C++ do."""
    for service in node.services:
        if service.srv_name.endswith("/change_state"):
            service.callback = partial(_change_or_refuse, node, service.callback)


def _change_or_refuse(node: LifecycleNode, change: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
    try:
        return change(request, response)
    except rclpy_implementation.RCLError:
        asked = request.transition.label or request.transition.id
        node.get_logger().warning(f"transition {asked} refused: this state has none such, see ros2 lifecycle list")
        response.success = False
        return response
