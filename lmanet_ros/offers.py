"""Why no image arrives: who publishes on the topic, of which type and with which quality of service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSPolicyKind, ReliabilityPolicy

if TYPE_CHECKING:
    from rclpy.node import Node

_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}


def explain_silence(node: Node, topic: str, transport: str) -> str:
    """A sentence about a topic that gives nothing.

    Args:
        node: that listens.
        topic: fully resolved.
        transport: "raw" or "compressed".
    """
    asked = next((e for e in node.get_subscriptions_info_by_topic(topic) if e.node_name == node.get_name()), None)
    wanted = f"this node asks for {_qos(asked.qos_profile)}" if asked else "this node does not subscribe yet"
    offers = node.get_publishers_info_by_topic(topic)
    if not offers:
        return f"nobody publishes there, {wanted}{_elsewhere(node, topic, transport)}"
    parts = []
    for offer in offers:
        who = f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"
        kind = "" if offer.topic_type == _TYPES[transport] else f" {offer.topic_type}"
        parts.append(f"{who} offers{kind} {_qos(offer.qos_profile)}")
    return f"{', '.join(parts)}; {wanted}{_advice(topic, transport, offers, asked)}"


def name_policy(kind: Any) -> str:
    """The name of a QoS policy as an event gives it."""
    try:
        return str(QoSPolicyKind(int(kind)).name.lower())
    except ValueError:
        return "quality of service"


def _qos(profile: Any) -> str:
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"


def _advice(topic: str, transport: str, offers: list[Any], asked: Any) -> str:
    if all(offer.topic_type != _TYPES[transport] for offer in offers):
        return f"; this node wants {_TYPES[transport]}, see the parameter transport"
    if asked is None:
        return ""
    unreliable = all(offer.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for offer in offers)
    if unreliable and asked.qos_profile.reliability == ReliabilityPolicy.RELIABLE:
        return f"; set qos_overrides.{topic}.subscription.reliability to best_effort"
    hint = "; the publisher is there, but nothing arrives"
    if asked.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT:
        hint += " (large images: see docs/ros.md, 'Large images'"
        if any(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE for offer in offers):
            hint += f", or set qos_overrides.{topic}.subscription.reliability to reliable"
        hint += ")"
    return hint


def _elsewhere(node: Node, topic: str, transport: str) -> str:
    """Other topics with images, and this one's other transport."""
    found = [
        name
        for name, types in node.get_topic_names_and_types()
        if set(types) & set(_TYPES.values())
        and name != topic
        and "/segmentation/" not in name  # our own
        and node.count_publishers(name)
    ]
    return f"; images are published on {', '.join(sorted(found)[:6])}" if found else ""
