"""The `lmanet` command: looks at the first word, and imports the module of that command and nothing else.

Exit codes: 0 done, 1 a check failed or training diverged, 2 wrong arguments or settings, 3 unreadable input, 4 unusable
weights, 5 results that cannot be written, 6 too little memory on the device, 130 stopped with Ctrl-C, 143 terminated. Results
so far are complete files in every case.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from lmanet_core import __version__
from lmanet_core.errors import ConfigError, LmanetError, suggest_name
from lmanet_core.process import always_leave_quietly, leave_quietly, prepare_process, stopping

if TYPE_CHECKING:
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

#: Name of a command, which is also that of its module → what it does.
COMMANDS = {
    "segment": "segment a video, a folder of images or a bag",
    "train": "train the backbone, the memory, or the memory and the decoder",
    "adapt": "adapt weights to a camera from its recordings, without labels",
    "evaluate": "accuracy, steadiness, latency and a verdict from recordings",
    "compare": "what differs between two evaluations",
    "explain": "which past labels hold, and where the memory is read",
    "experiment": "the paper's experiments on any data set",
    "demo": "drive a generated street and compare without and with memories",
    "street": "record a drive through a generated street, with its labels",
    "doctor": "say what this machine will run on",
    "export": "write a network as ONNX or pt2, for other programs",
    "weights": "look at weights, or convert them to our format",
    "bench": "measure the memory read and a streamed frame here",
}


def script() -> int:
    """`main` as a process of its own, which Ctrl-C and SIGTERM end without a traceback at any time."""
    always_leave_quietly()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("--version", "-V"):
        print(f"lmanet_ros {__version__}")
        return 0
    if name in ("--help", "-h"):
        print(_usage())
        return 0 if arguments else ConfigError.exit_code
    if name not in COMMANDS:
        hint = suggest_name(name, COMMANDS, "wanted one of")
        print(f"error: lmanet has no command {name!r}{hint}", file=sys.stderr)
        return ConfigError.exit_code
    prepare_process()
    return _run(name, arguments[1:])


def make_parser(command: str) -> ArgumentParser:
    """The options of a command, also for completion and documentation."""
    parser: ArgumentParser = import_module(f"lmanet_core.commands.{command}").make_parser()
    parser.prog = f"lmanet {command}"
    return parser


def _run(name: str, arguments: list[str]) -> int:
    try:
        return _run_command(name, arguments)
    except KeyboardInterrupt:
        from lmanet_core.commands.terminal import console

        console.print("stopped")
        return 130


def _run_command(name: str, arguments: list[str]) -> int:
    with leave_quietly():
        import logging
        from argparse import ArgumentError

        from rich.logging import RichHandler

        from lmanet_core.commands.terminal import console

        command = import_module(f"lmanet_core.commands.{name}")
        logging.basicConfig(
            level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
        )
    try:
        with stopping():
            parser = make_parser(name)
            options = parser.parse_args(_config_first(arguments, parser))
            return int(command.run(options))
    except LmanetError as error:
        return _fail(str(error), error.exit_code)
    except ArgumentError as error:
        return _fail(f"{_in_short(error)}; see lmanet {name} --help", ConfigError.exit_code)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        (
            "usage: lmanet [--help] [--version] COMMAND …",
            "",
            "Video semantic segmentation with a local attention memory.",
            "",
            *lines,
            "",
            "lmanet COMMAND --help tells the options of a command.",
        )
    )


def _fail(message: str, exit_code: int) -> int:
    """One line, whatever the message was."""
    from lmanet_core.commands.terminal import console

    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(line.strip() for line in message.splitlines()), highlight=False, soft_wrap=True)
    return exit_code


def _in_short(error: ArgumentError) -> str:
    """What jsonargparse says in many lines about a value of the wrong type: the option, what was wanted, what came."""
    first, *lines = (line.strip(" -") for line in str(error).splitlines())
    wanted = [line for line in lines if line.startswith("Expected a") and "NoneType" not in line]
    given = [line for line in lines if line.startswith("Given value:")]
    return f"{first} {'; '.join(wanted + given)}".strip(" .")


def _config_first(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The files given as `--config` come first, for jsonargparse lets the later win, and the command line is to win.

    Raises:
        ConfigError: a file that cannot be read, or a key that is no option: file, key and the nearest known key are named.
    """
    files: list[str] = []
    others: list[str] = []
    for argument in arguments:
        if others[-1:] == ["--config"]:
            others.pop()
            files.append(argument)
        elif argument.startswith("--config="):
            files.append(argument.partition("=")[2])
        else:
            others.append(argument)
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]
    return [*(argument for file in files for argument in _read_config(file, known)), *others]


def _read_config(file: str, known: Sequence[str]) -> list[str]:
    """The arguments that a file stands for: one of ours by its name, a node's parameter file by what it says."""
    from lmanet_core.settings import read_options, refuse_unknown

    content = read_options(file)
    for node in content.values():
        if isinstance(node, dict) and isinstance(node.get("ros__parameters"), dict) and "resize" in known:
            from lmanet_core.commands.options import options_from_node

            return options_from_node(node["ros__parameters"], file)
    refuse_unknown(file, content, known)
    return [f"--config={file}"]


if __name__ == "__main__":
    sys.exit(script())
