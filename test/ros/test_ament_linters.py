"""ROS's own linters, where they are installed. CONTRIBUTING says which do not apply, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ("lmanet_core", "lmanet_ros", "launch", "test", "benchmarks", "setup.py")
DOCUMENTED = ("lmanet_core", "lmanet_ros")


def lint(name, *arguments):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    # Where ROS keeps the schema of package.xml itself, nothing is fetched.
    catalogs = [Path(prefix) / "share/xsd_catalog/catalog.xml" for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":")]
    known = " ".join(str(catalog) for catalog in catalogs if catalog.is_file())
    environment = {**os.environ, **({"XML_CATALOG_FILES": known} if known else {})}
    done = subprocess.run([name, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    said = done.stdout + done.stderr
    if "failed to load external entity" in said:
        pytest.skip("the schema of package.xml cannot be fetched")
    assert done.returncode == 0, said


def test_ament_flake8_is_content():
    lint("ament_flake8", "--config", "setup.cfg", *PYTHON)


def test_ament_pep257_is_content():
    # Magic methods and __init__ are documented on their class; "key, value: …" documents two arguments; mIoU begins so.
    lint("ament_pep257", "--convention", "google", "--add-ignore", "D105", "D107", "D403", "D417", "--", *DOCUMENTED)


def test_ament_xmllint_is_content():
    lint("ament_xmllint", "package.xml", "config")
