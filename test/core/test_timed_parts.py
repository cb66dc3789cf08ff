"""Parts that hang, raise or die keep the rows they had, and the others run: all in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmanet_core.experiments.timed_parts import Part, run_part, run_parts

PARTS = """
import os, signal, subprocess, sys, time

def good(count):
    for number in range(count):
        yield {"what": f"row {number}"}

def sleeps(pid_file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(pid_file, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    yield {"what": "before"}
    time.sleep(60)
    yield {"what": "after"}

def deaf():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    yield {"what": "before"}
    while True:
        pass

def raises():
    yield {"what": "before"}
    raise ValueError("no such kernel\\nand more")

def dies():
    yield {"what": "before"}
    os.kill(os.getpid(), signal.SIGKILL)

def leaves():
    yield {"what": "before"}
    os._exit(7)
"""


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    (tmp_path / "some_parts.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def part(name, limit_s=30.0, **arguments):
    return Part(name, f"some_parts:{name}", arguments, limit_s)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def test_rows_of_a_part_that_ends_are_kept_in_order():
    outcome = run_part(part("good", count=2), 30.0)
    assert (outcome.status, outcome.rows, outcome.said) == ("done", [{"what": "row 0"}, {"what": "row 1"}], "")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("raises", "failed: ValueError: no such kernel"),
        ("dies", "failed: its process was ended by SIGKILL"),
        ("leaves", "failed: its process ended with exit code 7"),
    ],
)
def test_part_that_fails_keeps_its_rows_and_says_why(name, status):
    outcome = run_part(part(name), 30.0)
    assert (outcome.status, outcome.rows, outcome.done) == (status, [{"what": "before"}], False)
    assert ("Traceback" in outcome.said) is (name == "raises")


def test_part_that_is_not_there_fails():
    assert run_part(Part("none", "some_parts:none", {}, 30.0), 30.0).status.startswith("failed: AttributeError")


def test_part_that_sleeps_is_ended_with_all_it_started(tmp_path):
    pids = tmp_path / "pids"
    start = time.monotonic()
    outcome = run_part(part("sleeps", pid_file=str(pids)), 3.0)
    assert (outcome.status, outcome.rows) == ("stopped after 3 s", [{"what": "before"}])
    assert time.monotonic() - start < 30
    own, child = (int(pid) for pid in pids.read_text().split())
    deadline = time.monotonic() + 10
    while (runs(own) or runs(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(own) and not runs(child)


def test_part_that_hears_no_signal_is_ended_too():
    outcome = run_part(part("deaf"), 3.0)
    assert (outcome.status, outcome.rows) == ("stopped after 3 s", [{"what": "before"}])


def test_the_others_go_on_and_every_outcome_is_there_when_its_part_ends():
    order = [part("good", count=1), part("deaf", limit_s=2.0), part("dies"), part("raises"), part("good", count=1)]
    found = [(one.name, outcome.status.split(":")[0]) for one, outcome in run_parts(order, 120.0)]
    assert found == [
        ("good", "done"), ("deaf", "stopped after 2 s"), ("dies", "failed"), ("raises", "failed"), ("good", "done"),
    ]  # fmt: skip


def test_parts_together_have_a_limit_as_well():
    start = time.monotonic()
    outcomes = [outcome for _, outcome in run_parts([part("deaf"), part("good", count=1)], 2.0)]
    assert [outcome.status for outcome in outcomes] == [
        "stopped after 2 s", "not started: the 2 s for all parts are over",
    ]  # fmt: skip
    assert time.monotonic() - start < 30


def test_part_whose_starter_is_gone_ends_by_itself(tmp_path):
    rows = tmp_path / "rows"
    command = [sys.executable, "-m", "lmanet_core.experiments.timed_parts", "some_parts:deaf", "{}", str(rows), "-4.0"]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "in deaf" in done.stderr
