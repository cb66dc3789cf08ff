"""Launch command lines that are wrong, and what must happen: a sentence, exit code 1, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")]

ROOT = Path(__file__).resolve().parents[2]
HAS_RVIZ = shutil.which("rviz2") is not None

#: launch file, arguments ({tmp}: a folder with the files below), words of what is said.
REFUSED = [
    ("segment", {"params_file": "/nowhere.yaml"}, "params_file:=/nowhere.yaml cannot be read"),
    ("segment", {"params_file": "{tmp}"}, "cannot be read"),
    ("segment", {"params_file": "{tmp}/broken.yaml"}, "cannot be read"),
    ("segment", {"params_file": "{tmp}/list.yaml"}, "must hold parameters"),
    ("segment", {"params_file": "{tmp}/other.yaml"}, "is for somebody; wanted /** or /segment_node"),
    ("segment", {"params_file": "{tmp}/other.yaml", "namespace": "r", "name": "eyes"}, "wanted /** or /r/eyes"),
    ("segment", {"rviz": "maybe"}, "rviz:=maybe must be true or false"),
    ("segment", {"demo": "2"}, "demo:=2 must be true or false"),
    ("segment", {"autostart": "x"}, "autostart:=x must be true or false"),
    ("segment", {"use_sim_time": "maybe"}, "use_sim_time:=maybe must be true or false"),
    ("segment", {"compressed": "perhaps"}, "compressed:=perhaps must be true or false"),
    ("segment", {"respawn": "often"}, "respawn:=often must be true or false"),
    ("segment", {"log_level": "warning"}, "log_level:=warning must be debug, info, warn, error, fatal; did you mean warn?"),
    ("segment", {"python": "/nowhere/python"}, "python:=/nowhere/python is no program"),
    ("segment", {"threads": "two"}, "threads:=two must be a whole number"),
    ("segment", {"depth": "depth", "edge_px": "wide"}, "edge_px:=wide must be a whole number"),
    ("segment", {"threads": "-1"}, "threads:=-1 must be a whole number"),
    ("segment", {"image_reliability": "sometimes"}, "image_reliability:=sometimes must be reliable, best_effort"),
    ("segment", {"name": "seg node"}, "name:=seg node must be letters"),
    ("segment", {"name": "1st"}, "name:=1st must be letters"),
    ("segment", {"namespace": "robot 1"}, "namespace:=robot 1 must be parts"),
    ("segment", {"cameras": "front,rear", "image": "/raw"}, "image:=/raw must hold {camera}"),
    ("segment", {"image": "/{camera}/raw"}, "there are no cameras:="),
    ("segment", {"image": "/raw/compressed", "compressed": "false"}, "compressed:=false says otherwise"),
    ("replay", {}, "bag:= is needed"),
    ("replay", {"bag": "/nowhere"}, "cannot play /nowhere"),
    ("replay", {"bag": "x", "rate": "fast"}, "rate:=fast must be a number above 0"),
    ("replay", {"bag": "x", "rate": "0"}, "rate:=0 must be a number above 0"),
    ("replay", {"bag": "x", "loop": "maybe"}, "loop:=maybe must be true or false"),
    ("replay", {"bag": "x", "rviz": "maybe"}, "rviz:=maybe must be true or false"),
    ("replay", {"bag": "x", "params_file": "/nowhere.yaml"}, "params_file:=/nowhere.yaml cannot be read"),
    ("replay", {"bag": "x", "python": "/nowhere/python"}, "python:=/nowhere/python is no program"),
    ("replay", {"bag": "x", "thresholds": "/nowhere.yaml"}, "thresholds:=/nowhere.yaml: there is no such file"),
    ("replay", {"bag": "x", "mapping": "/nowhere.yaml"}, "mapping:=/nowhere.yaml: there is no such file"),
    ("replay", {"bag": "x", "name": "a/b"}, "name:=a/b must be letters"),
]
if not HAS_RVIZ:
    REFUSED.append(("segment", {"rviz": "true", "demo": "true"}, "rviz2 is not installed"))

#: The node itself refuses these; the camera beside it must go, too.
ENDED = [
    ({"params_file": "{tmp}/window.yaml"}, "memory.window must be odd"),
    ({"network_size": "big"}, "WIDTHxHEIGHT"),
    ({"precision": "fp99"}, "wrong parameter: precision"),
    ({"output_prefix": "/seg"}, "wrong parameter: output_prefix"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "broken.yaml").write_text("{")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "other.yaml").write_text("somebody: {ros__parameters: {device: cpu}}\n")
    (folder / "window.yaml").write_text("/**: {ros__parameters: {memory.window: 4}}\n")
    return folder


def environment():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def launch_python():
    """The interpreter that `ros2 launch` runs in."""
    first = Path(shutil.which("ros2")).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first.removeprefix("#!").strip().split()[-1] if first.startswith("#!") else sys.executable


@pytest.fixture(scope="module")
def outcomes(files):
    """What each row said, and how it ended: all in one process, for starting Python takes longer than a row."""
    rows = [
        (file, {"python": sys.executable, **{name: value.replace("{tmp}", str(files)) for name, value in arguments.items()}})
        for file, arguments, _ in REFUSED
    ]
    command = [launch_python(), str(Path(__file__).parent / "launch_rows.py"), json.dumps(rows)]
    done = subprocess.run(command, env=environment(), cwd=files, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout.split("--- ")[1:]
    assert len(said) == len(rows), done.stdout + done.stderr
    return said


@pytest.mark.parametrize("row", range(len(REFUSED)), ids=[f"{file} {arguments}" for file, arguments, _ in REFUSED])
def test_what_is_wrong_is_said_before_anything_starts(outcomes, row):
    said = outcomes[row]
    assert REFUSED[row][2] in said
    assert "process started" not in said and "Traceback" not in said
    assert json.loads(said.strip().splitlines()[-1]) == {"code": 1, "left": []}


@pytest.mark.parametrize(("arguments", "words"), ENDED, ids=[str(arguments) for arguments, _ in ENDED])
def test_what_the_node_refuses_ends_the_launch_and_all_that_it_started(files, arguments, words):
    given = [f"{name}:={value.replace('{tmp}', str(files))}" for name, value in arguments.items()]
    mark = f"{os.getpid()}-{words}"
    launch = subprocess.run(
        ["ros2", "launch", str(ROOT / "launch/segment.launch.py"), f"python:={sys.executable}", "demo:=true", *given],
        env={**environment(), "LMANET_ROW": mark}, cwd=files, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = launch.stdout + launch.stderr
    assert launch.returncode == 1, said
    assert words in said and "the node ended with exit code 2" in said
    assert "Traceback" not in said
    assert left_of(mark) == []


def left_of(mark):
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if f"LMANET_ROW={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
    return found
