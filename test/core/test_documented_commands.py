"""Every `lmanet` command of README and docs is one that there is, with options that there are."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from lmanet_core.commands.main import COMMANDS, make_parser
from lmanet_core.experiments.paper import EXPERIMENTS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented():
    """(command, options) of every command in a block or between backticks."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        spans = re.findall(r"`(lmanet [^`]*?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.DOTALL)
        for line in (*text.splitlines(), *spans):
            match = re.match(r"lmanet (\w+) ?([^#;]*)", " ".join(line.split()))
            if match and match[1] in COMMANDS:
                yield pytest.param(match[1], match[2], id=f"{page.name}: lmanet {match[1]} {match[2][:60]}")


@functools.cache
def options_of(command):
    """Long options of a command and of the commands within it."""
    parser = make_parser(command)
    within = [one for action in parser._actions for one in (getattr(action, "_name_parser_map", None) or {}).values()]
    return {option for one in (parser, *within) for action in one._actions for option in action.option_strings}


@pytest.mark.parametrize(("command", "options"), list(documented()))
def test_documented_options_exist(command, options):
    assert {word.partition("=")[0] for word in re.findall(r"--[\w-]+(?:=\S*)?", options)} <= options_of(command)


def test_an_experiment_is_named_as_it_is_called():
    names = {one.values[1].split()[0] for one in documented() if one.values[0] == "experiment" and one.values[1]}
    assert {name for name in names if name.islower()} <= {*EXPERIMENTS, "memory-gain"}


def test_there_are_documented_commands_of_every_kind():
    assert {one.values[0] for one in documented()} | {"demo"} == set(COMMANDS)  # that one stands there as `make demo`
