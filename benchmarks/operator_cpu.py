"""The blocked operator on a CPU: against the shift-and-multiply loop, and its memory at ERFNet's and PSPNet's sizes.

Wanted: at least 10 times faster than the loop (ERFNet, S=4, R=21, float32 both); less than 64 MB beside inputs and output at
ERFNet's size; PSPNet's size (129×257, Dk 128, Dv 2048, S=3) within 2 GB altogether.

    python benchmarks/operator_cpu.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from recording import (
    describe_run,
    finish,
    median_ratio,
    peak_resident_mb,
    reset_peak,
    resident_mb,
    summarize,
    time_alternately,
)

from lmanet_core.ops import local_attention

#: name → (T, Dk, Dv, H, W)
SIZES = {"erfnet": (4, 16, 64, 64, 128), "pspnet": (3, 128, 2048, 129, 257)}
WINDOW = 21
GOAL_SPEEDUP, GOAL_EXTRA_MB, GOAL_PSPNET_MB = 10.0, 64.0, 2000.0


def make_inputs(size: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, keys and values as the memory holds them: channels-last."""
    frames, key_channels, value_channels, height, width = SIZES[size]
    torch.manual_seed(0)

    def maps(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype).movedim(-1, -3)

    return (
        maps(1, height, width, key_channels),
        maps(1, frames, height, width, key_channels),
        maps(1, frames, height, width, value_channels),
    )


def measure_memory(size: str, dtype: str) -> dict[str, float]:
    """In a process of its own: peak resident memory beside inputs and output, and altogether, MB; time of that first call."""
    command = [sys.executable, __file__, "--memory-of", size, "--dtype", dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row: dict[str, float] = json.loads(output)
    return row


def print_memory(size: str, dtype: str) -> None:
    inputs = make_inputs(size, getattr(torch, dtype))
    with torch.inference_mode():
        small = [maps[..., :24, :24] for maps in inputs]
        local_attention(*small, WINDOW, impl="blocked")  # libraries load and threads start here
        reset_peak()
        before = resident_mb()
        start = time.perf_counter()
        out = local_attention(*inputs, WINDOW, impl="blocked")
        seconds = time.perf_counter() - start
    extra = peak_resident_mb() - before - out.numel() * out.element_size() / 1e6
    print(json.dumps({"extra_mb": round(extra, 1), "process_mb": round(peak_resident_mb(), 1), "seconds": round(seconds, 2)}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--memory-of", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory(arguments.memory_of, arguments.dtype)
        return 0

    single, half = make_inputs("erfnet", torch.float32), make_inputs("erfnet", torch.bfloat16)
    with torch.inference_mode():
        times = time_alternately(
            {
                "shift-and-multiply float32": lambda: local_attention(*single, WINDOW, impl="reference"),
                "blocked float32": lambda: local_attention(*single, WINDOW, impl="blocked"),
                "blocked bfloat16": lambda: local_attention(*half, WINDOW, impl="blocked"),
            },
            arguments.rounds,
        )
    memory = {f"{size} {dtype}": measure_memory(size, dtype) for size in SIZES for dtype in ("float32", "bfloat16")}
    loop = "shift-and-multiply float32"
    speedup = {dtype: round(median_ratio(times, loop, f"blocked {dtype}"), 2) for dtype in ("float32", "bfloat16")}
    checks = {
        f"speed-up in float32 {speedup['float32']}, wanted {GOAL_SPEEDUP}": speedup["float32"] >= GOAL_SPEEDUP,
        f"extra memory {memory['erfnet float32']['extra_mb']} MB, wanted < {GOAL_EXTRA_MB}":
            memory["erfnet float32"]["extra_mb"] < GOAL_EXTRA_MB,
        f"PSPNet's size in {memory['pspnet float32']['process_mb']} MB, wanted < {GOAL_PSPNET_MB}":
            memory["pspnet float32"]["process_mb"] < GOAL_PSPNET_MB,
    }  # fmt: skip
    result = {"run": describe_run(), "erfnet": summarize(times), "speedup": speedup, "memory": memory}
    for name, row in result["erfnet"].items():
        print(f"ERFNet S=4 R=21, {name:28s} {row['median_ms']:8.1f} ms (fastest {row['fastest_ms']:.1f})")
    for name, row in memory.items():
        sizes = f"{row['extra_mb']:7.1f} MB beside inputs and output, process {row['process_mb']:7.1f} MB"
        print(f"{name:18s} {sizes}, {row['seconds']} s")
    return finish(result, checks, ("speedup",), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
