"""Make `test/core/ros_names.json`: what ROS 2 distributions offer of the modules that this project imports from.

    python test/collect_ros_names.py FOLDER

FOLDER holds clones of ros2/rclpy, ros2/launch, ros2/launch_ros, ros2/common_interfaces, ros2/rcl_interfaces and
ros-perception/vision_msgs, each under its own name, with the branches of the distributions. Run it anew when the project
imports from another module of theirs, or when a distribution comes out.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

DISTRIBUTIONS = ("humble", "jazzy", "rolling")
BRANCHES = {"vision_msgs": "ros2"}  # that are the same for all distributions

MODULES = {
    "rclpy": (
        "rclpy/rclpy",
        ("clock", "duration", "event_handler", "exceptions", "executors", "impl.implementation_singleton", "lifecycle", "node",
         "parameter", "qos", "qos_event", "qos_overriding_options", "signals", "utilities"),
    ),
    "launch": (
        "launch/launch",
        ("actions", "event_handlers", "events", "launch_description_sources", "logging", "substitutions"),
    ),
    "launch_ros": ("launch_ros/launch_ros", ("actions",)),
}  # fmt: skip
MESSAGES = {
    "common_interfaces": ("sensor_msgs", "std_msgs", "std_srvs", "diagnostic_msgs"),
    "rcl_interfaces": ("rcl_interfaces", "builtin_interfaces"),
    "vision_msgs": ("vision_msgs",),
}
#: Classes whose methods the project calls on itself.
NODES = (("rclpy/rclpy/node.py", "Node"), ("rclpy/rclpy/lifecycle/node.py", "LifecycleNodeMixin"))


def git(clone: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails."""
    return subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False).stdout


def names_of(source: str) -> set[str]:
    """Everything that a module's source defines or imports at its top level, in either branch of a condition."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.If | ast.Try | ast.ExceptHandler):
            waiting += ast.iter_child_nodes(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def methods_of(source: str, name: str) -> set[str]:
    """Methods and attributes of a class."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            found |= {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
            found |= {
                part.attr
                for part in ast.walk(node)
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self"
            }
    return found


def collect(clones: Path, distribution: str) -> dict[str, object]:
    """Revision of each repository, names by module, and methods of a node."""
    revisions: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    methods: set[str] = set()
    for repository in (*MODULES, *MESSAGES):
        clone = clones / repository
        branch = BRANCHES.get(repository, distribution)
        revisions[repository] = git(clone, "log", "-1", "--format=%h of %as", branch).strip()
        listing = git(clone, "ls-tree", "-r", "--name-only", branch).splitlines()
        if repository in MODULES:
            root, modules = MODULES[repository]
            for module in modules:
                stem = f"{root}/{module.replace('.', '/')}"
                path = next((one for one in (f"{stem}.py", f"{stem}/__init__.py") if one in listing), None)
                if path is not None:
                    names[f"{repository}.{module}"] = sorted(names_of(git(clone, "show", f"{branch}:{path}")))
            if f"{root}/__init__.py" in listing:
                names[repository] = sorted(names_of(git(clone, "show", f"{branch}:{root}/__init__.py")))
        if repository == "rclpy":
            for path, name in NODES:
                methods |= methods_of(git(clone, "show", f"{branch}:{path}"), name)
        for package in MESSAGES.get(repository, ()):
            for kind in ("msg", "srv"):
                folder = f"{package}/{kind}/"
                found = [Path(path).stem for path in listing if path.startswith(folder) and path.endswith(f".{kind}")]
                if found:
                    names[f"{package}.{kind}"] = sorted(found)
    return {"revisions": revisions, "names": names, "node": sorted(methods)}


def _text(made: dict[str, dict[str, object]]) -> str:
    """As JSON with one module a line."""
    lines = []
    for distribution, found in made.items():
        names = ",\n".join(f"   {json.dumps(module)}: {json.dumps(content)}" for module, content in found["names"].items())
        lines.append(
            f' {json.dumps(distribution)}: {{\n  "revisions": {json.dumps(found["revisions"])},\n'
            f'  "node": {json.dumps(found["node"])},\n  "names": {{\n{names}\n  }}\n }}'
        )
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    made = {distribution: collect(Path(sys.argv[1]), distribution) for distribution in DISTRIBUTIONS}
    target = Path(__file__).parent / "core" / "ros_names.json"
    target.write_text(_text(made))
    print(target, {distribution: len(found["names"]) for distribution, found in made.items()})
