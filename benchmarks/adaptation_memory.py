"""Does `lmanet adapt` take more memory for an hour of recording than for a minute?

    python benchmarks/adaptation_memory.py --minutes 60

Two made-up videos at 25 frames a second, which pan over one scene and jump to another place in it every 500 frames, are adapted
to with a student of two steps. Resident memory of the process is that of its highest moment; loading runs in that process.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from recording import ROOT, describe_run, finish, resident_mb

FPS, HEIGHT, WIDTH = 25, 128, 256
SHORT_MINUTES = 1.0
GOAL = 1.03  # times the memory that a minute takes


def write_video(path: Path, minutes: float) -> int:
    """A video of so many minutes; returns its number of frames."""
    rng, frames = np.random.default_rng(0), round(minutes * 60 * FPS)
    coarse = rng.integers(0, 256, (24, 256, 3), np.uint8)
    scene = cv2.resize(coarse, (WIDTH * 16, HEIGHT), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for number in range(frames):
        if number % 500 == 0:
            start = int(rng.integers(0, scene.shape[1] - WIDTH - 1000))
        left = start + 2 * (number % 500)
        writer.write(np.ascontiguousarray(scene[:, left : left + WIDTH]))
    writer.release()
    return frames


def adapt(video: Path, out: Path) -> dict:
    """Adapt to a video; what it took."""
    command = [sys.executable, "-m", "lmanet_core.commands", "adapt", str(video), "--out", str(out)]
    command += ["--steps=2", "--batch-size=2", "--moments=40", "--judged-frames=40", "--workers=0", "--network-size=256x128"]
    began, highest = time.monotonic(), 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):  # it has just ended
                highest = max(highest, resident_mb(process.pid))
            time.sleep(0.1)
        assert process.stderr is not None
        error = process.stderr.read()
    if process.returncode not in (0, 1):  # adopted, or no better
        raise SystemExit(f"lmanet adapt ended with {process.returncode}: {error[-2000:]}")
    return {"highest_mb": round(highest, 1), "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the long recording")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    result: dict = {"run": describe_run()}
    with tempfile.TemporaryDirectory() as folder:
        for name, minutes in (("short", SHORT_MINUTES), ("long", options.minutes)):
            video = Path(folder) / f"{name}.mp4"
            frames = write_video(video, minutes)
            result[name] = {"minutes": minutes, "frames": frames, **adapt(video, Path(folder) / f"adapted_{name}")}
            print(f"{name}: {result[name]}", flush=True)
    times = result["long"]["highest_mb"] / result["short"]["highest_mb"]
    result["long_over_short"] = round(times, 3)
    checks = {f"highest memory {times:.3f} times that of a minute, wanted {GOAL}": times <= GOAL}
    return finish(result, checks, ("long_over_short",), options.json)


if __name__ == "__main__":
    sys.exit(main())
