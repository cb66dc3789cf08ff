"""Freed memory is kept and used again; the threads of OpenMP do not spin for long."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
from lmanet_core.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
blocks = lambda: [b"x" * (3 << 20) for _ in range(10)]  # as many camera images
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_second_time_the_kernel_clears_no_pages():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "plain")
    }
    pages = 30 * 2**20 // 4096
    assert faults["plain"] > pages // 2
    assert faults["keep"] < pages // 50


_ASK = """
import os, sys
from lmanet_core.process import describe_waiting, prepare_process
if sys.argv[1:] == ["late"]:
    import torch
prepare_process()
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules, describe_waiting())
"""


def ask(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *arguments], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_threads_spin_briefly_and_pytorch_is_not_imported_for_it():
    assert ask() == "1000 False threads wait by GOMP_SPINCOUNT=1000, KMP_BLOCKTIME=0"


CHOSEN = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "200", "KMP_LIBRARY": "turnaround"}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_has_set_stands(name):
    spins = CHOSEN[name] if name == "GOMP_SPINCOUNT" else None
    assert ask(**{name: CHOSEN[name]}) == f"{spins} False threads wait by {name}={CHOSEN[name]}"


def test_nothing_is_set_once_pytorch_is_loaded():
    assert ask("late") == "None True threads spin while they wait (OpenMP's default)"


_LMANET = """
import sys
import lmanet_core.commands.main as command
def leave():
    sys.exit("torch is loaded" if "torch" in sys.modules else "torch is not loaded")
command.prepare_process = leave
command.main(["doctor"])
"""


def test_the_command_prepares_its_process_before_pytorch_is_imported():
    done = subprocess.run([sys.executable, "-c", _LMANET], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "torch is not loaded"


def test_the_node_prepares_its_process_before_pytorch_is_imported():
    source = (Path(__file__).resolve().parents[2] / "lmanet_ros/segment_node.py").read_text()
    body = source[source.index("def _run") :]
    assert body.index("prepare_process()") < body.index("import rclpy") < body.index("lmanet_ros.lifecycle_node")
    assert "torch" not in source[: source.index("def _run")].replace('"torch"', "")
