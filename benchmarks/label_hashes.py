"""Whether two revisions give the same label maps, bit for bit: what a change that is meant to change nothing must show.

    python benchmarks/label_hashes.py --before 7c37232 --json benchmarks/results/label_hashes.json

Segments the same recordings with the code of a revision and with the code at hand, through the command line, and compares the
SHA-256 of all label maps of each run. Runs that need recordings or weights from DATA are left out where it is missing. Both
compute on this machine: other processors round otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
from recording import describe_run, write_json

ROOT = Path(__file__).resolve().parents[1]
CAMVID, MOTORWAY, ERFNET = "bags/camvid_0016E5_15hz_mcap", "video/solidWhiteRight.mp4", "weights/erfnet_cityscapes.pth"

#: name → input, weights, further options. `street` is a generated drive.
RUNS: dict[str, tuple[str, str, list[str]]] = {
    "street": ("street", "", []),
    "street, float32": ("street", "", ["--precision", "fp32"]),
    "street, memory off": ("street", "", ["--memory", "false"]),
    "street, one frame remembered, window 5": ("street", "", ["--memory-frames", "1", "--window", "5"]),
    "street, every 0.3 s": ("street", "", ["--memory-interval", "0.3"]),
    "street, letterbox": ("street", "", ["--resize", "letterbox", "--network-size", "256x256"]),
    "street, crop, output at another size": (
        "street", "", ["--resize", "crop", "--network-size", "256x160", "--output-size", "200x100"]
    ),
    "street, logits upsampled": ("street", "", ["--upsample", "logits", "--network-size", "256x128"]),
    "CamVid, ERFNet": (CAMVID, ERFNET, ["--network-size", "640x480", "--max-frames", "40"]),
    "CamVid, street weights": (CAMVID, "", ["--max-frames", "40"]),
    "motorway, ERFNet": (MOTORWAY, ERFNET, ["--network-size", "480x272", "--max-frames", "60"]),
    "motorway, street weights": (MOTORWAY, "", ["--max-frames", "60"]),
}  # fmt: skip

_MAIN = """
import sys
try:
    from lmanet_core.commands.main import main
except ImportError:
    from lmanet_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def lmanet(code: Path, *arguments: str) -> None:
    """Run the command line of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run([sys.executable, "-c", _MAIN, *arguments], env=environment, cwd=code, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lmanet {' '.join(arguments)} in {code} failed:\n{done.stderr}")


def hash_labels(folder: Path) -> str:
    """SHA-256 over the pixels of all label maps of a folder, in the order of their names."""
    digest = hashlib.sha256()
    paths = sorted(folder.glob("*.png"))
    for path in paths:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        digest.update(f"{path.name} {pixels.shape} {pixels.dtype}".encode())
        digest.update(pixels.tobytes())
    return f"{digest.hexdigest()[:32]} of {len(paths)}"


def hash_runs(code: Path, data: Path, street: Path) -> dict[str, str]:
    """The hash of every run that can be made here, with the code of a checkout."""
    found = {}
    network_alone = ["--label-memory", "false"] if (code / "lmanet_core/stream/label_memory.py").exists() else []
    for name, (source, weights, options) in RUNS.items():
        path = street if source == "street" else data / source
        if not path.exists() or (weights and not (data / weights).exists()):
            continue
        with tempfile.TemporaryDirectory() as out:
            chosen = ["--weights", str(data / weights)] if weights else []
            lmanet(code, "segment", str(path), "--out", f"{out}/result", "--save", "labels", *chosen, *network_alone, *options)
            found[name] = hash_labels(Path(out) / "result" / "labels")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="7c37232", help="revision to compare with")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="recordings and weights")
    parser.add_argument("--json", type=Path, help="also record it here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, street = Path(folder) / "before", Path(folder) / "drive.mcap"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(before), options.before], cwd=ROOT, check=True)
        try:
            lmanet(before, "street", "--out", str(street), "--frames", "30", "--degradation", "mixed", "--level", "3")
            was = hash_runs(before, options.data, street)
            now = hash_runs(ROOT, options.data, street)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    for name in was:
        print("same" if was[name] == now[name] else "DIFFERS", was[name], now[name], name)
    if options.json:
        record = {"before": options.before, "hashes_before": was, "hashes_now": now}
        write_json(options.json, {**describe_run(), **record})
    return 0 if was == now else 1


if __name__ == "__main__":
    sys.exit(main())
