"""Measurements one after the other, each in a process of its own that is ended at its time limit, whatever it does by then.

A part is a function that yields rows. Its process writes each row down at once, so that a part that hangs (in a kernel, in a
driver), raises or dies keeps what it had, and the parts after it run all the same. `python -m` this module is such a process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lmanet_core.process import prepare_process

_MODULE = "lmanet_core.experiments.timed_parts"
_ROOT = Path(__file__).parents[2]  # where the package is, also for a process in another folder
_ENDING_S = 5.0  # for a process to end once it was told to
_SAID = 2000  # characters kept of what a part that failed wrote last


@dataclass(frozen=True)
class Part:
    """A measurement.

    Attributes:
        name: unique among the parts.
        function: "module:name" of a function that yields rows: dictionaries that JSON can hold.
        arguments: of the function, by name; what JSON can hold.
        limit_s: seconds after which its process is ended, imports included.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Attributes:
        status: "done", "failed: why", "stopped after N s" or "not started: why".
        seconds: that it took.
        rows: that it yielded until then.
        said: the end of what it wrote to standard output and error, where it is not done.
    """

    status: str
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    said: str = ""

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return self.status == "done"

    def as_record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def run_parts(parts: Sequence[Part], limit_s: float) -> Iterator[tuple[Part, Outcome]]:
    """Run them in order, each as soon as it is asked for; one that fails keeps no other from running.

    Args:
        parts: most useful first.
        limit_s: seconds for all of them together: a part gets what is left of these at most.
    """
    end = time.monotonic() + limit_s
    for part in parts:
        left = end - time.monotonic()
        if left <= 0:
            yield part, Outcome(f"not started: the {limit_s:g} s for all parts are over")
        else:
            yield part, run_part(part, min(part.limit_s, left))


def run_part(part: Part, limit_s: float) -> Outcome:
    """Run a part in a process of its own, and end that with all it started after `limit_s` seconds."""
    with tempfile.TemporaryDirectory(prefix="lmanet_part_") as folder:
        rows, said = Path(folder, "rows"), Path(folder, "said")
        command = [sys.executable, "-m", _MODULE, part.function, json.dumps(part.arguments), str(rows), str(limit_s)]
        start = time.monotonic()
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )
            try:
                status = _describe_end(process.wait(limit_s))
            except subprocess.TimeoutExpired:
                status = f"stopped after {limit_s:.0f} s"
            finally:
                _end(process)
        seconds = time.monotonic() - start
        written, error = _read_rows(rows)
        if error is not None:
            status = f"failed: {error}"
        last_words = "" if status == "done" else said.read_text(errors="replace")[-_SAID:]
        return Outcome(status, round(seconds, 1), written, last_words)


def _environment() -> dict[str, str]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _describe_end(code: int) -> str:
    if code < 0:
        return f"failed: its process was ended by {signal.Signals(-code).name}"
    return "done" if code == 0 else f"failed: its process ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started; a driver may hold it for good, which must not hold the other parts."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Whole rows, and what was raised; the last line may be half of one."""
    rows: list[dict[str, Any]] = []
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    for line in lines:
        written = json.loads(line)
        if "raised" in written:
            return rows, str(written["raised"])
        rows.append(written["row"])
    return rows, None


def _compute(function: str, arguments: dict[str, Any], path: Path) -> int:
    """Write the rows of a function down; returns the exit code."""
    with path.open("w") as file:

        def write(kind: str, value: object) -> None:
            print(json.dumps({kind: value}), file=file, flush=True)

        try:
            module, name = function.split(":")
            for row in getattr(import_module(module), name)(**arguments):
                write("row", row)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            write("raised", f"{type(error).__name__}: {first}".removesuffix(": "))
            raise
    return 0


if __name__ == "__main__":
    _, _function, _arguments, _rows, _limit = sys.argv
    # should nobody be left to end this process; it says where it hung
    faulthandler.dump_traceback_later(float(_limit) + _ENDING_S, exit=True)
    prepare_process()
    sys.exit(_compute(_function, json.loads(_arguments), Path(_rows)))
