"""Try what people really have on the command line, and write down what happens. Run from the repository root:

    python benchmarks/inputs.py

Every input of `input_recordings.py` and `input_others.py` is made in a folder of its own and given to `lmanet` here.
What must happen is written beside each: exit code, words that must be said, frames, and how the pictures look that were read.
In every case also: nothing that was there before is changed or gone, an error is one line on standard error, a run that failed
does not call its result complete, and none leaves a traceback. `benchmarks/inputs.md` is written anew.

Exits 1 where there is a silent failure (exit code 0, but a result that is wrong, lacks something or lacks the words that say
so), a traceback, or anything else that is not as promised. Needs what tests need (requirements.txt). Takes a minute or two.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import numpy.typing as npt
import torch
from input_makers import COLORS, MEMORY, Case, publish, save_random_weights
from input_others import OTHERS
from input_recordings import RECORDINGS
from recording import ROOT

from lmanet_core.commands.main import main as lmanet

CASES = [*RECORDINGS, *OTHERS]
#: Given to each command where the case does not say otherwise. With opacity 0 the overlay is the picture that was read.
DEFAULTS = {
    "segment": {"--weights": "../weights.safetensors", "--out": "out", "--save": "labels,overlay_images", "--opacity": "0"},
    "evaluate": {"--weights": "../weights.safetensors", "--out": "out", "--compare": "none", "--save": "none"},
}
SMALL = {"--network-size": "64x32", "--device": "cpu", "--precision": "fp32"}
OFF_BY = 45  # mean of a quadrant's middle against its colour; lossy codecs and dark pictures with 12 bits come to 30

#: Quadrants of the pictures that are read, as one reads, from those that were made.
LOOKS = {
    "colour": COLORS,
    "grey": tuple((round(0.299 * r + 0.587 * g + 0.114 * b),) * 3 for r, g, b in COLORS),
}
#: What is left out of the table: the time of day, progress, what differs from run to run, and what is always the same.
_CHATTER = re.compile(
    r"^\[\d[\d/]+ [\d:]+\] +|^(WARNING|INFO) +|^(segmenting|evaluating).*|\d+ ms a frame \(p95 \d+\); |"
    r"^.* on cpu in fp32; memory .*; label memory .*$|^memory on$|^[a-z_0-9]+ +[\d.–]+$|^hash of the results.*|^note: "
)


@dataclass
class Outcome:
    """What a case came to."""

    case: Case
    code: int | None  # None: an exception came out of the command
    said: str  # standard error, then standard output
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """yes, or in which way it is not as promised."""
        if self.code is None or "Traceback" in self.said:
            return "traceback"
        if not self.problems:
            return "yes"
        return "silent failure" if self.code == 0 else "no"


def make_weights(folder: Path) -> None:
    """What the cases share: weights with a memory of ours, and a published single-frame file."""
    save_random_weights(folder / "weights.safetensors", MEMORY)
    publish(save_random_weights(folder / "single.safetensors", None), folder / "erfnet.pth")


def run_case(case: Case, folder: Path) -> Outcome:
    """Make the input in `folder`, beside which `make_weights` has been, run the command there and judge what came out."""
    folder.mkdir()
    with _inside(folder):
        case.make()
        if case.before:
            _run(case.before)
            case.meanwhile()
        before = _hashes()
        outcome = Outcome(case, *_run(case.command))
        outcome.problems += _judge(outcome, before)
    return outcome


def _run(typed: str) -> tuple[int | None, str]:
    """Exit code, None for an exception, and what was said."""
    typed, _, piped = typed.partition(" < ")
    command, *given = shlex.split(typed)
    if command in DEFAULTS:
        options = {**DEFAULTS[command], **SMALL}
        given += [word for name, value in options.items() if name not in given for word in (name, value)]
    errors, output = io.StringIO(), io.StringIO()
    pipe = SimpleNamespace(buffer=io.BytesIO(Path(piped).read_bytes() if piped else b""), isatty=lambda: not piped)
    code: int | None = None
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(output),
        mock.patch("sys.stdin", pipe),
        mock.patch.object(logging.getLogger(), "handlers", []),  # the command makes its own, for this standard error
    ):
        try:
            code = lmanet([command, *given])
        except SystemExit as left:  # of --help and SIGTERM
            code = left.code if isinstance(left.code, int) else 1
        except Exception:
            traceback.print_exc()
    return code, f"{errors.getvalue()}\n{output.getvalue()}"


def _judge(outcome: Outcome, before: dict[str, str]) -> Iterator[str]:
    """What is not as the case or every case wants it, in words; in the folder of the case."""
    case, said = outcome.case, " ".join(outcome.said.split())
    if outcome.code != case.code:
        yield f"exit code {outcome.code}, wanted {case.code}"
    yield from (f"does not say {words!r}" for words in case.says if words not in said)
    now = _hashes()
    for name in before:
        if now.get(name) != before[name] and not name.startswith(case.replaces or "\0"):
            yield f"{name} was changed" if name in now else f"{name} is gone"
    if outcome.code and said.count("error:") != 1 and case.code != 1:
        yield f"an error in {said.count('error:')} lines"
    summaries = [
        json.loads(path.read_text()) for path in Path("out").rglob("summary.json") if now[str(path)] != before.get(str(path))
    ]
    if outcome.code and any(summary.get("complete") for summary in summaries):
        yield "a failed run says that its result is complete"
    if case.frames is not None:
        labels = sorted(path for path in Path("out").rglob("labels/**/*.png"))
        if len(labels) != case.frames:
            yield f"{len(labels)} label maps, wanted {case.frames}"
    if case.command.startswith("segment ") and case.code == 0:
        complete = all(summary["complete"] for summary in summaries)
        if complete == case.partial:
            yield f"summary.json says complete: {complete}"
        if case.looks is not None:
            yield from _look(case)
    yield from (f"no {name}" for name in case.files if not Path(name).exists())
    yield from (f"{name} must not be there" for name in case.absent if Path(name).exists())


def _look(case: Case) -> Iterator[str]:
    """Whether the first and the last picture that were read look as they must."""
    shown = sorted(Path("out").rglob("overlay/*.png"))
    if not shown:
        yield "no overlays"
        return
    for path in (shown[0], shown[-1]):
        image = cv2.imread(str(path))[:, :, ::-1]
        height, width = image.shape[:2]
        if case.size is not None and (width, height) != case.size:
            yield f"{path.name} is {width}x{height}, wanted {case.size[0]}x{case.size[1]}"
        for number, color in enumerate(LOOKS[str(case.looks)]):
            rows = np.array_split(np.arange(height), 2)[number // 2]
            columns = np.array_split(np.arange(width), 2)[number % 2]
            mean = image[np.ix_(_inner(rows), _inner(columns))].mean(axis=(0, 1))
            if np.abs(mean - color).max() > OFF_BY:
                yield f"quadrant {number} of {path.name} is {mean.round().astype(int).tolist()}, wanted about {list(color)}"


def _inner(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Without a quarter at both ends."""
    return places[len(places) // 4 : len(places) - len(places) // 4]


def _hashes() -> dict[str, str]:
    """Name → hash of each file in the working directory."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path().rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# ---- the table


def own_words(said: str) -> str:
    """What was said, without bars and times, in one line."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    while lines != (lines := [_CHATTER.sub("", line).strip() for line in lines]):
        pass
    return "; ".join(dict.fromkeys(line for line in lines if line))


def write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """The Markdown of all cases, group by group."""
    lines = [
        "# What happens with what people have",
        "",
        "Written by `python benchmarks/inputs.py`, which makes every input, gives it to the command line and looks at exit",
        f"code, words, files and pixels. {summarize(outcomes)}",
    ]
    for group in dict.fromkeys(outcome.case.group for outcome in outcomes):
        lines += ["", f"## {group}", "", "| input | command | what happens | as promised? |", "|---|---|---|---|"]
        for outcome in (one for one in outcomes if one.case.group == group):
            words = own_words(outcome.said) if outcome.verdict != "traceback" else outcome.said.strip().splitlines()[-1]
            happens = f"exit {outcome.code}: {words}"
            verdict = outcome.verdict if not outcome.problems else f"**{outcome.verdict}**: {'; '.join(outcome.problems)}"
            row = (outcome.case.name, f"`lmanet {outcome.case.command}`", happens, verdict)
            lines.append("| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |")
    path.write_text("\n".join(lines) + "\n")


def summarize(outcomes: Sequence[Outcome]) -> str:
    """The counts in one line."""
    count = {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in ("silent failure", "traceback", "no")
    }
    return (
        f"**{len(outcomes)} inputs: {count['silent failure']} silent failures, {count['traceback']} tracebacks, "
        f"{count['no']} others that are not as promised.**"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "inputs.md", help="the table")
    parser.add_argument("--only", default="", help="cases whose name has this; prints what they say and writes no table")
    options = parser.parse_args()
    os.environ["COLUMNS"] = "2000"  # what is said is not folded
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    start, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory() as temporary:
        make_weights(Path(temporary))
        for number, case in enumerate(CASES):
            if options.only in case.name:
                outcome = run_case(case, Path(temporary) / f"{number:03d}")
                outcomes.append(outcome)
                if options.only or outcome.problems or outcome.verdict != "yes":
                    print(f"{case.name}: {outcome.verdict}; {'; '.join(outcome.problems)}")
                    print(f"    {outcome.code}: {own_words(outcome.said)}")
                if options.only and outcome.verdict == "traceback":
                    print(outcome.said)
    if not options.only:
        write_table(outcomes, options.out)
    print(summarize(outcomes), f"{time.monotonic() - start:.0f} s")
    return 0 if all(outcome.verdict == "yes" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
