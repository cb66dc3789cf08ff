"""What a frame takes on a CPU that others use too, by how the threads of OpenMP wait.

    python benchmarks/shared_cpu.py --rounds 3 --json benchmarks/results/shared_cpu.json

Each cell is a process of its own: ERFNet with random weights at 480×272, float32, beside the company named in the column.
Ratios are against the best of the column. `ours` is what our executables set (`lmanet_core.process`).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from recording import describe_run, write_json

FRAMES = 40
_STREAM = """
import sys, time
if sys.argv[2] == "ours":
    from lmanet_core.process import prepare_process
    prepare_process()
import numpy as np, torch
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import ERFNet, LMANet
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.weights.checkpoint import Model, ModelConfig
from lmanet_core.weights.runtime import prepare
torch.manual_seed(0)
model = Model(LMANet(ERFNet(20)), ModelConfig("erfnet", 20, CITYSCAPES))
segmenter = VideoSegmenter(prepare(model, "cpu", "fp32"))
image = np.kron(np.random.default_rng(0).integers(0, 256, (17, 30, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
times = []
for number in range(int(sys.argv[1])):
    start = time.perf_counter()
    segmenter.step(image, number * 100_000_000)
    times.append((time.perf_counter() - start) * 1e3)
print(*times[5:])
"""
_BUSY = "while True: pass"
_LOW_PRIORITY = """
import os, torch
os.nice(10)
a, b, c = torch.randn(400, 400), torch.randn(1, 32, 64, 64), torch.nn.Conv2d(32, 32, 3)
while True:
    a @ a, c(b), a.exp()
"""
SETTINGS: dict[str, dict[str, str]] = {
    "as PyTorch comes": {},
    "ours": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
COMPANIES = ("nothing else", "one busy loop", "two busy loops", "a second stream", "another program's PyTorch at low priority")


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A Python process in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def company(name: str, setting: str) -> list[subprocess.Popen[str]]:
    """What runs beside the stream; it has had time to start."""
    if name == COMPANIES[0]:
        return []
    if name == COMPANIES[3]:
        beside = [start(_STREAM, "1000000", setting, **SETTINGS[setting])]
    elif name == COMPANIES[4]:
        beside = [start(_LOW_PRIORITY)]
    else:
        return [start(_BUSY) for _ in range(1 + (name == COMPANIES[2]))]
    time.sleep(5.0)
    return beside


def measure(setting: str, name: str) -> list[float]:
    """Times of frames, milliseconds."""
    beside = company(name, setting)
    try:
        stream = start(_STREAM, str(FRAMES), setting, **SETTINGS[setting])
        return [float(word) for word in stream.communicate()[0].split()]
    finally:
        for process in beside:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="each cell is measured so often, in turn")
    parser.add_argument("--json", type=Path, help="also record it here")
    options = parser.parse_args()
    times: dict[str, dict[str, list[list[float]]]] = {setting: {name: [] for name in COMPANIES} for setting in SETTINGS}
    for _ in range(options.rounds):
        for name in COMPANIES:
            for setting in SETTINGS:
                times[setting][name].append(measure(setting, name))
    p50 = {
        setting: {name: statistics.median(statistics.median(run) for run in runs) for name, runs in cells.items()}
        for setting, cells in times.items()
    }
    p95 = {
        setting: {name: statistics.median(sorted(run)[int(0.95 * len(run))] for run in runs) for name, runs in cells.items()}
        for setting, cells in times.items()
    }
    best = {name: min(p50[setting][name] for setting in SETTINGS) for name in COMPANIES}
    for setting in SETTINGS:
        cells = (f"{p50[setting][name]:6.0f} ({p50[setting][name] / best[name]:.2f})" for name in COMPANIES)
        print(f"{setting:26}", *cells)
    if options.json:
        write_json(options.json, {**describe_run(), "p50_ms": p50, "p95_ms": p95, "rounds": options.rounds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
