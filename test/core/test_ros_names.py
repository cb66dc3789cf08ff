"""Every name taken from ROS exists in every distribution that is meant to run the node, Humble among them.

`ros_names.json` lists what they offer; `test/collect_ros_names.py` makes it from their public sources, and for Kilted from the
wheels of rclpy and the messages on PyPI. Kilted's launch and launch_ros are rolling's of five months before it came out.
"""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFERED = json.loads((Path(__file__).parent / "ros_names.json").read_text())
PACKAGES = {name.split(".")[0] for offered in OFFERED.values() for name in offered["names"]}
SOURCES = sorted([*(ROOT / "lmanet_ros").glob("*.py"), *(ROOT / "launch").glob("*.py")])

#: Where distributions differ: each of these modules tries one place after the other.
MAY_TRY = {"compatibility.py"}
#: Methods of a node that are asked for with `hasattr` before they are called.
ASKED_FOR = {"add_post_set_parameters_callback"}


def taken(source: str) -> set[tuple[str, str]]:
    """(module, name) for each name imported from ROS."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def inherited(source: str) -> set[str]:
    """What classes derived from a ROS node use of themselves without defining it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not {"Node", "LifecycleNode"} & {ast.unparse(base) for base in node.bases}:
            continue
        used, defined = set(), {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                (defined if isinstance(part.ctx, ast.Store) else used).add(part.attr)
        found |= used - defined
    return found


@pytest.mark.parametrize("distribution", OFFERED)
def test_imported_names_exist(distribution):
    names = OFFERED[distribution]["names"]
    missing = [
        f"{path.name}: from {module} import {name}"
        for path in SOURCES
        if path.name not in MAY_TRY
        for module, name in sorted(taken(path.read_text()))
        if name not in names.get(module, ()) and f"{module}.{name}" not in names
    ]
    assert not missing


@pytest.mark.parametrize("distribution", OFFERED)
@pytest.mark.parametrize("file", sorted(MAY_TRY))
def test_one_of_the_places_that_are_tried_exists(distribution, file):
    names = OFFERED[distribution]["names"]
    places: dict[str, list[bool]] = {}
    for module, name in taken((ROOT / "lmanet_ros" / file).read_text()):
        places.setdefault(name, []).append(name in names.get(module, ()))
    assert places
    assert all(any(found) for found in places.values()), places


@pytest.mark.parametrize("distribution", OFFERED)
def test_inherited_methods_exist(distribution):
    used = {name for path in SOURCES for name in inherited(path.read_text())}
    assert {"create_subscription", "get_logger", "create_service"} <= used
    assert used - ASKED_FOR <= set(OFFERED[distribution]["node"])


def test_the_list_tells_distributions_apart():
    assert set(OFFERED) == {"humble", "jazzy", "kilted", "rolling"}
    assert "qos_profile_rosout_default" in OFFERED["kilted"]["names"]["rclpy.node"]
    assert "qos_profile_rosout_default" not in OFFERED["jazzy"]["names"]["rclpy.node"]
    assert "rclpy.event_handler" not in OFFERED["humble"]["names"]
    assert "add_post_set_parameters_callback" not in OFFERED["humble"]["node"]
    assert taken("from rclpy.event_handler import SubscriptionEventCallbacks") == {
        ("rclpy.event_handler", "SubscriptionEventCallbacks")
    }


@pytest.mark.parametrize("place", ["event_handler", "qos_event"])
def test_event_callbacks_are_found_in_either_place(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", ModuleType("rclpy"))
    module = ModuleType(f"rclpy.{place}")
    module.SubscriptionEventCallbacks = object()
    for name in ("event_handler", "qos_event"):
        monkeypatch.setitem(sys.modules, f"rclpy.{name}", module if name == place else None)
    found = runpy.run_path(str(ROOT / "lmanet_ros/compatibility.py"))
    assert found["SubscriptionEventCallbacks"] is module.SubscriptionEventCallbacks
