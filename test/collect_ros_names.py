"""Make `test/core/ros_names.json`: what ROS 2 distributions offer of the modules that this project imports from.

    python test/collect_ros_names.py FOLDER kilted=PREFIX

FOLDER holds clones of ros2/rclpy, ros2/launch, ros2/launch_ros, ros2/common_interfaces, ros2/rcl_interfaces and
ros-perception/vision_msgs, each under its own name, with the branches of the distributions. PREFIX is an installed
distribution: /opt/ros/NAME, or a virtual environment with ROS's wheels. What is not installed there, is taken from the
clones, from the branch rolling. Run it anew when the project imports from another module of theirs, or when a distribution
comes out.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

DISTRIBUTIONS = ("humble", "jazzy", "rolling")  # each a branch in the clones
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


@dataclasses.dataclass(frozen=True)
class Branch:
    """A repository as it stands on a branch of its clone."""

    clone: Path
    name: str

    def git(self, *arguments: str) -> str:
        """What git prints; nothing where it fails."""
        return subprocess.run(["git", "-C", str(self.clone), *arguments], capture_output=True, text=True, check=False).stdout

    def revision(self) -> str:
        return self.git("log", "-1", "--format=%h of %as", self.name).strip()

    def files(self) -> set[str]:
        return set(self.git("ls-tree", "-r", "--name-only", self.name).splitlines())

    def read(self, path: str) -> str:
        return self.git("show", f"{self.name}:{path}")


@dataclasses.dataclass(frozen=True)
class Installed:
    """A repository's packages in an installed distribution; paths are those of the repository."""

    prefix: Path
    repository: str

    def _folders(self) -> dict[str, Path]:
        """Folder in the repository, with a slash → folder where it is installed, if it is."""
        found = {package: self.prefix / "share" / package for package in MESSAGES.get(self.repository, ())}
        if self.repository in MODULES:
            root, _ = MODULES[self.repository]
            for folder in self.prefix.glob(f"lib/python3*/site-packages/{Path(root).name}"):
                found[root] = folder
        return {f"{root}/": folder for root, folder in found.items() if folder.is_dir()}

    def revision(self) -> str:
        """Version of the first package, and that it was installed; nothing where it was not."""
        packages = [Path(root).name for root in self._folders()]
        if not packages:
            return ""
        return ElementTree.parse(self.prefix / "share" / packages[0] / "package.xml").findtext("version", "") + ", installed"

    def files(self) -> set[str]:
        return {
            root + path.relative_to(folder).as_posix()
            for root, folder in self._folders().items()
            for path in folder.rglob("*.*")
        }

    def read(self, path: str) -> str:
        root, folder = next((root, folder) for root, folder in self._folders().items() if path.startswith(root))
        return (folder / path.removeprefix(root)).read_text(encoding="utf-8")


def source(clones: Path, distribution: str, repository: str, prefix: Path | None) -> Branch | Installed:
    """Where a repository is read."""
    if prefix is not None and Installed(prefix, repository).revision():
        return Installed(prefix, repository)
    branch = "rolling" if prefix is not None else distribution
    return Branch(clones / repository, BRANCHES.get(repository, branch))


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


def collect(clones: Path, distribution: str, prefix: Path | None = None) -> dict[str, object]:
    """Revision of each repository, names by module, and methods of a node."""
    revisions: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    methods: set[str] = set()
    for repository in (*MODULES, *MESSAGES):
        place = source(clones, distribution, repository, prefix)
        revisions[repository] = place.revision()
        if isinstance(place, Branch) and place.name == "rolling" != distribution:
            revisions[repository] += ", rolling"
        listing = place.files()
        if repository in MODULES:
            root, modules = MODULES[repository]
            for module in modules:
                stem = f"{root}/{module.replace('.', '/')}"
                path = next((one for one in (f"{stem}.py", f"{stem}/__init__.py") if one in listing), None)
                if path is not None:
                    names[f"{repository}.{module}"] = sorted(names_of(place.read(path)))
            if f"{root}/__init__.py" in listing:
                names[repository] = sorted(names_of(place.read(f"{root}/__init__.py")))
        if repository == "rclpy":
            for path, name in NODES:
                methods |= methods_of(place.read(path), name)
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
    clones = Path(sys.argv[1])
    prefixes = {name: Path(prefix) for name, _, prefix in (argument.partition("=") for argument in sys.argv[2:])}
    made = {
        distribution: collect(clones, distribution, prefixes.get(distribution)) for distribution in (*DISTRIBUTIONS, *prefixes)
    }
    target = Path(__file__).parent / "core" / "ros_names.json"
    target.write_text(_text(made))
    print(target, {distribution: len(found["names"]) for distribution, found in made.items()})
