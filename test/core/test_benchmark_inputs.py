"""The table of inputs that people have (benchmarks/inputs.py): some of its cases, and that what is not as promised shows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("onnx")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def inputs():
    """The module; its neighbours are found as they are where it is run as a script."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import inputs

        yield inputs
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def beside_weights(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    inputs.make_weights(folder)
    return folder


@pytest.fixture
def run(inputs, beside_weights):
    """Try a case, with changes; gives its outcome."""

    def run(name, **changes):
        (case,) = (case for case in inputs.CASES if case.name == name)
        number = len(list(beside_weights.iterdir()))
        return inputs.run_case(replace(case, **changes), beside_weights / str(number))

    return run


@pytest.mark.parametrize(
    "name",
    [
        "H.264 in MP4",
        "one frame",
        "corrupt picture in the middle",
        "a link to nothing",
        "split, a part is missing",
        "mono16 of 12 bits",
        "{'model': …} with _orig_mod.",
        "pickle that runs code",
        "masks of 0 and 255",
        "typo in --config",
        "the same with --overwrite",
    ],
)
def test_what_people_have_is_treated_as_promised(run, name):
    outcome = run(name)
    assert (outcome.verdict, outcome.problems) == ("yes", [])


@pytest.mark.parametrize(
    ("changes", "verdict", "problem"),
    [
        ({"frames": 4}, "silent failure", "3 label maps, wanted 4"),
        ({"looks": "grey"}, "silent failure", "quadrant 0 of 0.png is [200, 40, 40], wanted about [88, 88, 88]"),
        ({"size": (48, 64)}, "silent failure", "0.png is 64x48, wanted 48x64"),
        ({"partial": True}, "silent failure", "summary.json says complete: True"),
        ({"says": ("skipped",)}, "silent failure", "does not say 'skipped'"),
        ({"code": 3}, "silent failure", "exit code 0, wanted 3"),
        ({"command": "segment nowhere"}, "no", "exit code 3, wanted 0"),
        ({"files": ("out/mine",)}, "silent failure", "no out/mine"),
        ({"absent": ("out",)}, "silent failure", "out must not be there"),
        ({"before": "segment i", "command": "segment i --overwrite"}, "silent failure", "out/summary.json was changed"),
    ],
)
def test_what_is_not_as_promised_is_noticed(run, changes, verdict, problem):
    outcome = run("PNG", **changes)
    assert outcome.verdict == verdict and problem in outcome.problems


def test_traceback_is_noticed(run, inputs, monkeypatch):
    def fail(arguments):
        raise RuntimeError("not thought of")

    monkeypatch.setattr(inputs, "lmanet", fail)
    outcome = run("PNG")
    assert outcome.verdict == "traceback" and "RuntimeError: not thought of" in outcome.said


def test_table_has_a_line_for_each_case_and_counts_them(run, inputs, tmp_path):
    outcomes = [run("PNG"), run("PNG", frames=4), run("typo in --config")]
    inputs.write_table(outcomes, tmp_path / "inputs.md")
    text = (tmp_path / "inputs.md").read_text()
    assert "**3 inputs: 1 silent failures, 0 tracebacks, 0 others that are not as promised.**" in text
    assert "| PNG | `lmanet segment i` | exit 0: 3 frames; resets: 1 first_frame; in out | yes |" in text
    assert "**silent failure**: 3 label maps, wanted 4 |" in text
    assert "exit 2: error: config c.yaml: unknown option 'windw'; did you mean window? | yes |" in text
    assert str(tmp_path.parent) not in text
