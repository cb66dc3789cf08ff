"""The interpreter that runs the tests has what they need."""

from __future__ import annotations

import sys

import pytest

from lmanet_ros.requirements import complaint_of_versions


def test_packages_are_here_in_versions_that_fit(missing):
    if missing:
        pytest.skip(
            f"{sys.executable} has no {', '.join(missing)}: run the tests in the environment of docs/ros.md, "
            "such as ~/lmanet-venv/bin/python -m pytest, after ~/lmanet-venv/bin/pip install 'pytest<9' hypothesis"
        )
    assert complaint_of_versions() == ""
