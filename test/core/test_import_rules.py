"""Which module may know of which, held by walking the import statements (design: "Layout")."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lmanet_core"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROS = {"lmanet_ros", "rclpy", "cv_bridge", "launch", "launch_ros", "rosidl_runtime_py", "ament_index_python", "rosbag2_py"}

#: Modules and folders that resize besides geometry/, and what.
MAY_RESIZE = {
    "metrics/temporal.py": "flow, to the labels' size",
    "network/adapter.py": "logits of somebody else's network, to its input's size",
    "network/dry_run.py": "likewise, as that network itself would",
    "network/memory_read.py": "what a pooled read changes, to the features' size",
    "network/pspnet.py": "features and logits inside the network",
    "stream/label_evidence.py": "flow, where the picture is lost",
    "stream/label_memory.py": "what a thumbnail says, at the logits' size",
    "stream/planes.py": "what a thumbnail says, at the logits' size",
    "stream/dense_flow.py": "flow, from coarse to fine",
    "stream/picture_tensors.py": "as label_evidence.py and motion.py, by matrices that OpenCV makes",
    "stream/motion.py": "flow and its trust, between pixels, blocks and features",
    "stream/likeness.py": "a thumbnail that is compared and thrown away",
    "stream/blindness.py": "likewise",
    "street/": "textures, fog and samples, while a generated image is made",
}

#: What the calculating part may build on besides PyTorch: nothing that opens files or devices.
PLAIN_LIBRARY = {
    "__future__", "abc", "collections", "contextlib", "dataclasses", "functools", "itertools", "math", "threading", "types",
    "typing", "warnings",
    "os",  # the environment
}  # fmt: skip


def imports(source: str, module: str = "lmanet_core.some") -> set[str]:
    """Every module named by an import statement, at any depth; `from a import b` names a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def calls(source: str, *names: str) -> set[str]:
    """Names out of `names` that are called, as `x.name(…)` or `name(…)`."""
    functions = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    called = {f.attr if isinstance(f, ast.Attribute) else f.id for f in functions if isinstance(f, ast.Attribute | ast.Name)}
    return called & set(names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    return imports(path.read_text(), module_name(path))


def needs_ros(name: str) -> bool:
    top = name.split(".")[0]
    return top in ROS or top.endswith(("_msgs", "_interfaces"))


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_core_knows_nothing_of_ros(path):
    assert not {name for name in imports_of(path) if needs_ros(name)}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("ops", ("lmanet_core.ops", "lmanet_core.errors")),
        ("network", ("lmanet_core.network", "lmanet_core.ops", "lmanet_core.errors")),
    ],
)
def test_ops_and_network_know_nothing_of_files_video_and_training(folder, allowed):
    paths = sorted((PACKAGE / folder).glob("*.py"))
    assert len(paths) > 3
    for path in paths:
        for name in imports_of(path):
            if below(name, "lmanet_core"):
                assert below(name, *allowed), f"{path.name} imports {name}"
            else:
                assert name.split(".")[0] in {"torch", "triton", *PLAIN_LIBRARY}, f"{path.name} imports {name}"


def test_fast_operators_never_import_the_reference():
    knowing = {path.name for path in (PACKAGE / "ops").glob("*.py") if "lmanet_core.ops.reference" in imports_of(path)}
    assert knowing == {"api.py"}


def test_only_geometry_resizes():
    resizing = {path.relative_to(PACKAGE).as_posix() for path in MODULES if calls(path.read_text(), "resize", "interpolate")}
    assert "geometry/plan.py" in resizing
    assert {path for path in resizing if not path.startswith(("geometry/", *MAY_RESIZE))} == set()


#: Folders of lmanet_core that hold modules.
ROOMS = {path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE}


def room(name: str) -> str | None:
    """The folder of lmanet_core that a module is in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "lmanet_core" and parts[1] in ROOMS else None


def rooms_imported() -> dict[str, set[str]]:
    """Room → rooms that its modules import, also those imported for the type checker only."""
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in MODULES:
        here = room(module_name(path))
        if here is not None:
            graph[here] |= {other for name in imports_of(path) if (other := room(name)) not in (None, here)}
    return graph


def circle(graph: dict[str, set[str]]) -> set[str]:
    """What is left of a graph when everything that imports nothing of the rest has been taken away, again and again."""
    left = set(graph)
    while free := {name for name in left if not graph[name] & left}:
        left -= free
    return left


def test_no_two_rooms_import_each_other_in_a_circle():
    graph = rooms_imported()
    assert {"ops", "network", "weights", "media", "stream", "metrics", "evaluation", "street", "data", "training"} < ROOMS
    assert {"media", "stream", "metrics"} <= graph["evaluation"]
    assert circle(graph) == set()


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == {"a", "b", "c", "d"}


def test_nothing_below_imports_the_commands():
    graph = rooms_imported()
    assert {name for name, imported in graph.items() if "commands" in imported} == set()
    loose = [path for path in MODULES if path.parent == PACKAGE]
    assert not {path.name for path in loose for name in imports_of(path) if below(name, "lmanet_core.commands")}


def test_evaluation_knows_nothing_of_training_and_experiments():
    assert not rooms_imported()["evaluation"] & {"training", "experiments", "commands"}


def test_evaluation_and_experiments_know_nothing_of_command_lines():
    for path in (*PACKAGE.glob("evaluation/*.py"), *PACKAGE.glob("experiments/*.py")):
        assert not {name for name in imports_of(path) if below(name, "jsonargparse", "argparse")}, path.name


def test_few_modules_stand_outside_of_the_rooms():
    assert len([path for path in MODULES if path.parent == PACKAGE and path.name != "__init__.py"]) <= 6


def test_geometry_needs_no_pytorch():
    said = "import sys, lmanet_core.geometry.points; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_module_is_long():
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


def test_every_module_is_seen():
    names = {module_name(path) for path in MODULES}
    assert {"lmanet_core.commands.main", "lmanet_core.ops.blocked", "lmanet_core.network.lmanet"} <= names


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import rclpy", True),
        ("def f():\n    from sensor_msgs.msg import Image", True),
        ("if True:\n    import vision_msgs.msg as messages", True),
        ("from lmanet_ros import conversions", True),
        ("from lmanet_core.media import ros_images", False),
        ("import rosbags.rosbag2", False),
        ("text = 'import rclpy'", False),
    ],
)
def test_import_of_ros_is_found_wherever_it_stands(source, found):
    assert any(map(needs_ros, imports(source))) is found


def test_relative_imports_are_resolved():
    assert "lmanet_core.ops.reference" in imports("from .reference import x", "lmanet_core.ops.blocked")
    assert "lmanet_core.ops.reference" in imports("from . import reference", "lmanet_core.ops.blocked")
    assert "lmanet_core.weights.checkpoint" in imports("from ..weights.checkpoint import x", "lmanet_core.ops.blocked")


def test_resizing_is_found_however_it_is_called():
    assert calls("cv2.resize(a, b)", "resize", "interpolate") == {"resize"}
    assert calls("from cv2 import resize\nresize(a, b)", "resize", "interpolate") == {"resize"}
    assert calls("torch.nn.functional.interpolate(x)", "resize", "interpolate") == {"interpolate"}
    assert calls("size = plan.resize", "resize", "interpolate") == set()


def test_plain_library_is_of_the_standard_library():
    assert sys.stdlib_module_names >= PLAIN_LIBRARY
