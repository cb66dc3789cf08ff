"""What every benchmark records beside its figures: machine, versions, commit, command. And how it measures time and memory."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def describe_run() -> dict[str, Any]:
    """Machine, versions, commit and command of this process."""
    from lmanet_core.weights import machine  # PyTorch, which not every benchmark needs while it measures

    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    return machine.describe_run(shlex.join(["python", str(script), *sys.argv[1:]]), ("lmanet_core", "benchmarks/*.py"))


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Record a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def finish(result: dict[str, Any], checks: Mapping[str, bool], shown: Sequence[str], path: Path | None) -> int:
    """Print the named entries, say which goals were missed, record everything.

    Args:
        result: gets the entry `goals_missed`.
        checks: goal with its figure in words → reached.
        shown: entries to print.
        path: JSON to write; None writes nothing.

    Returns:
        The exit code: 1 where a goal was missed.
    """
    missed = [goal for goal, reached in checks.items() if not reached]
    result["goals_missed"] = missed
    for key in shown:
        print(f"{key}: {result[key]}")
    print("goals missed:", "; ".join(missed) or "none")
    if path is not None:
        write_json(path, result)
    return 1 if missed else 0


def time_alternately(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall time of each variant in milliseconds, one after the other in each round, so that a busy moment hits all of them.

    One more round goes before, unmeasured.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def median_ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of how many times longer `slow` took than `fast`."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def summarize(times: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and fastest per variant, milliseconds."""
    return {
        name: {"median_ms": round(statistics.median(values), 2), "fastest_ms": round(min(values), 2)}
        for name, values in times.items()
    }


def resident_mb(process: int | str = "self") -> float:
    """Resident memory now, MB (10⁶ bytes), of this process or another."""
    return _status_mb("VmRSS", process)


def peak_resident_mb() -> float:
    """Largest resident memory since the last `reset_peak`, MB."""
    return _status_mb("VmHWM")


def reset_peak() -> None:
    """Start measuring the peak anew. (`ru_maxrss` cannot, and a child process begins with its parent's.)"""
    Path("/proc/self/clear_refs").write_text("5")


def _status_mb(name: str, process: int | str = "self") -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(name + ":"))
    return int(kibibytes) * 1024 / 1e6
