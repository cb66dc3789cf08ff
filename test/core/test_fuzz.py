"""Inputs that are damaged at random: no traceback, a documented exit code, nothing partial that says it is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import lmanet_core
from lmanet_core.commands import main as main_module
from lmanet_core.errors import LmanetError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Half a minute of one core; with LMANET_FUZZ_CASES=20000 it looks farther, with LMANET_FUZZ_SEED elsewhere.
CASES = int(os.environ.get("LMANET_FUZZ_CASES", "2000"))
SEED = int(os.environ.get("LMANET_FUZZ_SEED", "0"))


def fuzz(folder, seed, cases):
    path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    return subprocess.run(
        [sys.executable, str(HERE / "fuzz_inputs.py"), str(folder), str(seed), str(cases)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # decoders of pictures and videos complain in bytes of their own
        check=False,
    )


def test_damaged_inputs_of_every_kind_end_in_order(tmp_path):
    done = fuzz(tmp_path, SEED, CASES)
    wrong = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    last = done.stderr.splitlines()[-3:]
    assert not wrong, f"{len(wrong)} of {CASES} cases, the first: {wrong[0]}"
    assert done.returncode == 0, f"exit code {done.returncode} after {last}"


def test_every_exit_code_is_documented_and_every_documented_one_exists():
    rows = [line.split("|")[1:3] for line in (ROOT / "docs/exit_codes.md").read_text().splitlines() if line.startswith("| ")]
    documented = {int(code) for code, _ in rows if code.strip().isdigit()}

    def kinds(of):
        return {of, *(kind for child in of.__subclasses__() for kind in kinds(child))}

    own = {kind.exit_code for kind in kinds(LmanetError) if kind.__module__.startswith("lmanet_")}
    assert documented == own | {0, 1, 130, 143}
    said = {int(word) for word in main_module.__doc__.replace(",", " ").replace(".", " ").split() if word.isdigit()}
    assert said == documented


@pytest.mark.parametrize("text", [b"", b"a", bytes(range(256)) * 4], ids=["nothing", "one byte", "a kilobyte"])
def test_damage_is_the_same_on_every_run_and_changes_something(text):
    fuzz_inputs = load()
    first, again = (fuzz_inputs.damage_bytes(text, np.random.default_rng(3)) for _ in range(2))
    assert first == again != text
    damaged = [
        fuzz_inputs.damage_structure(yaml.safe_dump({"a": [1, {"b": 2}]}).encode(), np.random.default_rng(n)) for n in range(9)
    ]
    assert len(set(damaged)) > 3


def load():
    import importlib.util

    spec = importlib.util.spec_from_file_location("fuzz_inputs", HERE / "fuzz_inputs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_inputs"] = module
    spec.loader.exec_module(module)
    return module


def test_a_traceback_and_a_lie_about_the_results_are_found(tmp_path):
    fuzz_inputs = load()

    def crash(path, out):
        raise ZeroDivisionError("bug")

    def make(folder):
        (folder / "x").write_bytes(b"abc")
        return folder / "x"

    for run, said in ((crash, "ZeroDivisionError: bug"), (lambda path, out: 77, "exit code 77")):
        home = tmp_path / said[:4]
        home.mkdir()
        kind = fuzz_inputs.Kind(make, run, 1)
        (home / "whole").mkdir()
        (home / "work").mkdir()
        wrong = fuzz_inputs.run_case(kind, make(home / "whole"), home / "work", np.random.default_rng(0))
        assert said in wrong
    assert lmanet_core.__version__
