"""Median times, and memory beside a result, for `lmanet bench`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def time_cpu(run: Callable[[], object], rounds: int) -> float:
    """Median wall time, ms, after one round more."""
    times = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        run()
        if number:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def time_cuda(run: Callable[[], object]) -> float:
    """Median device time, ms, in a CUDA graph, so that launching costs nothing."""
    from triton.testing import do_bench_cudagraph

    for _ in range(3):  # compile, choose tiles, allocate
        run()
    torch.cuda.synchronize()
    return float(do_bench_cudagraph(run, rep=100, return_mode="median"))


def time_on(device: str, run: Callable[[], object]) -> float:
    """Median time on a device, ms; on a CPU of three rounds."""
    return time_cpu(run, 3) if device == "cpu" else time_cuda(run)


def extra_megabytes(read: Callable[[], torch.Tensor]) -> float:
    """Device memory that a read takes at most beside its result, MB (10⁶ bytes)."""
    read()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = read()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before - out.untyped_storage().nbytes()) / 1e6
