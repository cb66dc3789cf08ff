"""Freed memory is kept and used again."""

from __future__ import annotations

import platform
import subprocess
import sys

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
