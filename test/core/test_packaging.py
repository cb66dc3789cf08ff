"""The package installs the same way with pip and with colcon, and says the same about itself everywhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml

import lmanet_core
from lmanet_core.commands.main import COMMANDS, main, make_parser

ROOT = Path(__file__).resolve().parents[2]


def test_one_version_everywhere():
    package = ET.parse(ROOT / "package.xml").getroot()
    setup = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    changelog = re.search(r"^(\d+\.\d+\.\d+) \(", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)[1]
    assert package.findtext("version") == setup == changelog == lmanet_core.__version__


def test_package_xml_is_one_that_colcon_takes_for_ament_python():
    # An invalid one fails silently: colcon then builds a plain Python package, and ros2 launch finds nothing.
    package = ET.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == "lmanet_ros"
    assert package.findtext("export/build_type") == "ament_python"
    assert re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", package.find("maintainer").get("email"))
    assert package.findtext("license") == "Apache-2.0"


def test_resource_marker_is_there():
    assert (ROOT / "resource/lmanet_ros").is_file()


def test_no_init_file_shadows_a_module():
    # test/__init__.py would shadow the standard library's test, launch/__init__.py ROS's launch.
    for folder in ("test", "launch", "config"):
        assert not list((ROOT / folder).rglob("__init__.py"))


def test_every_file_that_is_no_module_is_installed():
    patterns = re.search(r'package_data=\{"lmanet_core": \[(.*?)\]\}', (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    core = ROOT / "lmanet_core"
    installed = {path for pattern in re.findall(r'"([^"]+)"', patterns) for path in core.glob(pattern)}
    files = {path for path in core.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert core / "evaluation/page.html.j2" in files and files == installed


def test_pins_lie_within_the_ranges_of_setup():
    setup = (ROOT / "setup.py").read_text()
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    ranges = re.findall(r'"([\w-]+)((?:[<>]=?[\d.]+,?)+)"', setup)
    assert len(ranges) >= 9
    for name, limits in ranges:
        version = _parts(pins[name])
        for operator, limit in re.findall(r"([<>]=?)([\d.]+)", limits):
            assert version >= _parts(limit) if operator == ">=" else version < _parts(limit), (name, limits)


def test_what_the_docs_install_is_as_new_as_setup_wants():
    # Without a lower limit pip leaves a distribution's own NumPy in place, however old.
    least = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "setup.py").read_text()))
    for page in ("README.md", "docs/ros.md"):
        line = re.search(r'pip install ("numpy.*)', (ROOT / page).read_text())[1]
        given = dict(re.findall(r'"([\w-]+)>=([\d.]+)', line))
        assert {"numpy", "opencv-python-headless", "rosbags"} <= given.keys(), page
        for name, version in given.items():
            assert _parts(version) >= _parts(least[name]), (page, name)


def test_offline_config_has_only_options_that_exist(tmp_path, capsys):
    options = yaml.safe_load((ROOT / "config/segment_offline.yaml").read_text())
    arguments = ["in", "--weights", "w", "--out", "o", "--config", str(ROOT / "config/segment_offline.yaml")]
    parsed = make_parser("segment").parse_args(arguments)
    for name, value in options.items():
        assert parsed[name] == value
    assert main(["segment", str(tmp_path / "none"), *arguments[1:]]) == 3  # the config was taken, the input is missing


def test_every_command_is_a_module_and_the_other_way_round():
    shared = {"__init__", "__main__", "main", "options", "process", "terminal"}
    modules = {path.stem for path in (ROOT / "lmanet_core/commands").glob("*.py")} - shared
    assert modules == set(COMMANDS)
    assert all(callable(make_parser(name).parse_args) for name in COMMANDS)


def test_version_and_help_import_nothing_large():
    code = (
        "import sys\nfrom lmanet_core.commands.main import main\n"
        "assert main(['--version']) == main(['--help']) == 0\n"
        "large = {'torch', 'cv2', 'numpy', 'jsonargparse', 'rosbags', 'rich'} & set(sys.modules)\n"
        "assert not large, large\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_setup_runs_from_another_folder_through_a_link(tmp_path):
    # colcon build --symlink-install does: it links setup.py into its build folder and runs it there.
    (tmp_path / "setup.py").symlink_to(ROOT / "setup.py")
    done = subprocess.run(
        [sys.executable, "setup.py", "--name", "--long-description"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["lmanet_ros", (ROOT / "README.md").read_text().splitlines()[0]]


def test_what_is_installed_beside_the_packages_is_named_relative_to_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given: dict[str, object] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    installed = dict(given["data_files"])
    assert installed["share/lmanet_ros/launch"] == ["launch/replay.launch.py", "launch/segment.launch.py"]
    assert "config/segment.yaml" in installed["share/lmanet_ros/config"]
    assert all((ROOT / path).is_file() for paths in installed.values() for path in paths)


def test_without_pytorch_all_tests_are_skipped_and_the_reason_is_told():
    """As where `colcon test` runs with the system's interpreter."""
    program = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "-q", "-rs", "-p", "no:cacheprovider", "test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout and "has no torch: run the tests in the environment of docs/ros.md" in done.stdout
