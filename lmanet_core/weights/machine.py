"""What a result was computed with: machine, versions, commit. The doctor, reports and benchmarks all say it from here."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lmanet_core import __version__

_ROOT = Path(__file__).parents[2]


def describe_run(command: str, paths: Sequence[str] = ("lmanet_core",)) -> dict[str, Any]:
    """Command, commit, versions and machine, for the record of a benchmark.

    Args:
        command: as it was typed.
        paths: of the checkout; whether any of these has uncommitted changes is noted.
    """

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git here
            return ""

    return {
        "command": command,
        "commit": git("rev-parse", "HEAD") or "none: not a checkout",
        "uncommitted_changes": bool(git("status", "--porcelain", "--", *paths)),
        **describe_versions(),
        **describe_machine(),
    }


def describe_versions() -> dict[str, str]:
    """Of everything that labels depend on."""
    return {
        "lmanet_ros": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def describe_machine() -> dict[str, Any]:
    """Processor, cores, threads, GPU (None: none) and how busy it is."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def processor_name() -> str:
    """The processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, MB (10⁶ bytes); None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)
