"""A mutation run: the code is changed at random, one place at a time, and the tests have to notice (test/MUTATIONS.md).

Needs `pip install cosmic-ray`, whose operators make the changes. Draws mutants of each module in proportion to what it offers,
in an order that the seed fixes, and runs each in a process of its own on a copy of the checkout: first the tests that import
the module, then, where these pass, those that import what uses it. A run that was stopped goes on; several may share OUT.

    python benchmarks/mutations.py lmanet_core/stream lmanet_core/ops/api.py --total 300 --out mutations
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import cosmic_ray.plugins
import cv2  # noqa: F401  (what tests import is loaded once, before the processes part)
import hypothesis  # noqa: F401
import pytest
import rosbags.highlevel  # noqa: F401
import torch  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast, is_number
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
LEAST = 6  # mutants of each module
FAST_S, SLOW_S = 120, 600  # time of a processor for a test file; a mutant that takes longer is noticed
SLOW = re.compile("test_(adapt|cli|cuda_graph|documented|evaluation_command|training_run)")  # files that take long
NEAR = {  # tests of modules that have no file of their own, or that need more
    "api": ("ops", "ops_gradients"), "temporal": ("metrics_temporal", "evaluation_measures"), "confusion": ("metrics",),
    "label_evidence": ("label_memory",), "label_memory": ("label_memory", "export"), "likeness": ("scene_cut",),
    "step": ("segmenter", "label_memory"), "segmenter": ("segmenter", "label_memory"), "memory": ("memory",),
    "attention_view": ("segmenter", "evaluation_parts"), "export_check": ("export",), "exported_step": ("export",),
    "planes": ("export",), "resampling": ("cuda_graph",), "loop": ("stream",), "segmenter_config": ("settings", "segmenter"),
    "stream_plan": ("segmenter",), "resuming": ("stream",), "continuity": ("continuity", "blindness"), "export": ("export",),
}  # fmt: skip
LARGE = 1000  # numbers from here on are not changed by 1
ARITHMETIC, BITS = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"RShift", "LShift", "BitOr", "BitAnd", "BitXor"}
PYTEST = ("-x", "-q", "-p", "no:launch_testing", "-p", "no:launch_ros", "-p", "no:cacheprovider")


def operators() -> list[str]:
    """Those of cosmic-ray, but for what always raises (bits of floats), `is` in place of `==`, and what wants names."""
    kept = []
    for name in sorted(cosmic_ray.plugins.operator_names()):
        kind, *change = name.split("/")[1].split("_")
        same = kind != "ReplaceBinaryOperator" or set(change) <= ARITHMETIC or set(change) <= BITS
        same = same and (kind != "ReplaceComparisonOperator" or len({"Is", "IsNot"} & set(change)) != 1)
        if same and kind not in ("VariableReplacer", "VariableInserter", "RemoveDecorator"):
            kept.append(name)
    return kept


def draw(path: Path, seed: int) -> list[tuple[str, int, int]]:
    """(operator, occurrence, line) of all changes of a module outside of annotations, in the order in which they are tried."""
    text = path.read_text()
    told = [getattr(node, kind, None) for node in ast.walk(ast.parse(text)) for kind in ("annotation", "returns")]
    spans = [((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)) for one in told if isinstance(one, ast.expr)]
    nodes = list(ast_nodes(get_ast(text)))
    changes = []
    for name in operators():
        operator = cosmic_ray.plugins.get_operator(name)()
        places = [(node, place[0]) for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (node, start) in enumerate(places):
            large = is_number(node) and abs(ast.literal_eval(node.value)) >= LARGE
            if not large and not any(first <= start < last for first, last in spans):
                changes.append((name, occurrence, start[0]))
    random.Random(f"{seed} {path.relative_to(ROOT)}").shuffle(changes)
    return changes


def change(text: str, operator: str, occurrence: int) -> str | None:
    """The module with the change; None where that is no Python, or the same."""
    after = mutate_code(text, cosmic_ray.plugins.get_operator(operator)(), occurrence)
    with contextlib.suppress(SyntaxError):
        return after if after and ast.dump(ast.parse(after)) != ast.dump(ast.parse(text)) else None
    return None


def tests_of(module: Path) -> tuple[list[str], list[str]]:
    """Test files near a module, by `NEAR` or by their name, and others that import it, what uses it, or its room."""
    sources = {path: path.read_text() for path in sorted(ROOT.glob("lmanet_core/**/*.py"))}
    tests = {
        path: path.read_text() for path in sorted([*ROOT.glob("test/core/test_*.py"), *ROOT.glob("test/golden/test_*.py")])
    }

    def importers(texts: dict[Path, str], path: Path) -> list[Path]:
        package, stem = ".".join(path.relative_to(ROOT).parent.parts), path.stem
        door = f"|from {package} import" if f"{package}.{stem} " in sources.get(path.with_name("__init__.py"), "") else ""
        pattern = re.compile(rf"{package}\.{stem} import|from {package} import [^\n]*\b{stem}\b{door}")
        return [one for one, text in texts.items() if pattern.search(text)]

    room = re.compile(rf"{'.'.join(module.relative_to(ROOT).parts[:2])}\b|import VideoSegmenter|lmanet_core import main")
    users = [test for user in importers(sources, module) for test in importers(tests, user)]
    ranks = {test: 3 for test, text in tests.items() if room.search(text)} | dict.fromkeys(users, 2)
    ranks |= dict.fromkeys(importers(tests, module), 1) | {test: 0 for test in tests if module.stem in test.stem}
    order = sorted(ranks, key=lambda test: (bool(SLOW.match(test.stem)), ranks[test], test.stat().st_size))
    names = NEAR.get(module.stem, ())
    near = [test for test in tests if test.stem[len("test_") :] in names] or [test for test in order if ranks[test] < 1]
    return [str(test.relative_to(ROOT)) for test in near], [str(test.relative_to(ROOT)) for test in order if test not in near]


def run_tests(copy: Path, test: str, log: Path) -> str:
    """One test file in a process of its own: "passed", "timeout", or the test that failed."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.chdir(copy)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        limit = SLOW_S if SLOW.match(Path(test).stem) else FAST_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        sys.path[0] = str(copy)
        os.environ |= {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        os._exit(pytest.main([*PYTEST, test]))
    until = time.monotonic() + 5 * SLOW_S
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what its tests have started
    if status[0] == 0:
        os.waitpid(child, 0)
    if status[0] == 0 or os.WIFSIGNALED(status[1]):
        return "timeout"
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.M)
    return "passed" if status[1] == 0 else failed[0] if failed else f"{test} (no tests)"


def main() -> None:
    """Run mutants, or those that survived on more tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="modules and folders of them")
    parser.add_argument("--total", type=int, default=300, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for records, one file a mutant")
    parser.add_argument("--wide", action="store_true", help="run what survived so far on the other tests of the room")
    options = parser.parse_args()
    modules = [
        path.resolve() for given in options.paths for path in (sorted(given.glob("*.py")) if given.is_dir() else [given])
    ]
    drawn = {module: changes for module in modules if (changes := draw(module, options.seed))}
    share = options.total / sum(map(len, drawn.values()))
    options.out.mkdir(parents=True, exist_ok=True)
    clock = itertools.count(int(time.time()))
    copy = options.out.resolve() / f"copy-{os.getpid()}"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".venv", "out", options.out.name))
    for module, changes in drawn.items():
        text, place, near_far, noticed = module.read_text(), copy / module.relative_to(ROOT), tests_of(module), Counter[str]()
        wanted = max(LEAST, round(share * len(changes)))
        for operator, occurrence, line in changes:
            if wanted == 0:
                break
            mutant = change(text, operator, occurrence)
            if mutant is None:
                continue
            wanted -= 1
            record = options.out / f"{module.stem}-{operator.split('/')[1]}-{occurrence}.json"
            before = json.loads(record.read_text()) if record.is_file() else None
            if (before is not None and before["outcome"] != "survived") or options.wide != (before is not None):
                continue
            try:
                record.with_suffix(".claimed").touch(exist_ok=False)
            except FileExistsError:
                continue
            place.write_text(mutant)
            os.utime(place, (next(clock), next(clock)))  # for what Python keeps of it
            started, outcome = time.monotonic(), "passed"
            for test in sorted(near_far[options.wide], key=lambda test: -noticed[test]):  # what noticed most comes first
                outcome = run_tests(copy, test, copy / "log")
                if outcome != "passed":
                    noticed[test] += 1
                    break
            place.write_text(text)
            outcome = outcome if outcome != "passed" else "survived everywhere" if options.wide else "survived"
            lines = [
                f"{mark[0]} {mark[1:].strip()}" for mark in difflib.unified_diff(text.splitlines(), mutant.splitlines(), n=0)
            ][3:]
            told = {"module": str(module.relative_to(ROOT)), "line": line, "change": lines, "outcome": outcome}
            record.write_text(json.dumps(told | {"seconds": round(time.monotonic() - started, 1)}, indent=1))
            record.with_suffix(".claimed").unlink()
            print(told, flush=True)
    shutil.rmtree(copy)


if __name__ == "__main__":
    main()
