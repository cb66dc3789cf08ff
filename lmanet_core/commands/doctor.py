"""What this machine will do: one look at interpreter, libraries, device and precision before something is asked of them."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lmanet_core.commands.terminal import plain_table
from lmanet_core.errors import LmanetError
from lmanet_core.ops import auto_implementation, available_implementations
from lmanet_core.process import describe_waiting
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.compiling import disk_cache, why_not_compile
from lmanet_core.weights.machine import describe_versions, processor_name
from lmanet_core.weights.runtime import choose_compile, choose_device, choose_precision, cpu_computes_bfloat16


def make_parser() -> ArgumentParser:
    """Options of `lmanet doctor`."""
    parser = ArgumentParser(
        description="Interpreter, libraries, device, precision, ROS; exit code 1 where something is wrong.", exit_on_error=False
    )
    parser.add_argument("--weights", type=str | None, default=None, help="also try to load these")
    return parser


def run(options: Namespace) -> int:
    """Print what was found; returns 1 where there is a problem."""
    rows, problems = examine(None if options.weights is None else Path(options.weights))
    table = plain_table()
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True, markup=False).print(table)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("ready" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return 1 if problems else 0


def examine(weights: Path | None = None) -> tuple[list[tuple[str, str]], list[str]]:
    """Look around.

    Args:
        weights: a file to load as well.

    Returns:
        Rows of (what, found), and problems in words; no problems means ready.
    """
    device = choose_device()
    dtype = choose_precision("auto", device)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    attention = f"{', '.join(available_implementations(device))}; {auto_implementation(device, dtype, 16)} chosen by auto"
    versions = describe_versions()
    rows = [
        ("lmanet_ros", versions["lmanet_ros"]),
        ("python", f"{versions['python']} ({sys.executable})"),
        ("torch", f"{versions['torch']}, {torch.get_num_threads()} threads; {describe_waiting()}"),
        ("device", _device_name(device)),
        ("precision", f"{precision} chosen by auto" + (_why_precision() if device.type == "cpu" else "")),
        ("local attention", attention),
        ("compile", _compile(device)),
        ("opencv", versions["opencv"]),
        ("numpy", versions["numpy"]),
        ("rosbags", f"{_version('rosbags')}, rosbags-image {_version('rosbags-image')}"),
        ("ROS", _ros()),
    ]
    problems = []
    if int(cv2.__version__.split(".")[0]) >= 5:
        problems.append("OpenCV 5 breaks cv_bridge: install 'opencv-python-headless>=4.8,<5'")
    if os.environ.get("ROS_DISTRO") and find_spec("rclpy") is None:
        problems.append("ROS is sourced, but this interpreter cannot import rclpy: use the interpreter that ROS was built for")
    if weights is not None:
        try:
            model = load_model(weights)
            memory = model.config.memory
            what = "single frame, no memory" if memory is None else f"memory of {memory.memory_frames} frames"
            rows.append(("weights", f"{weights}: {model.source}, {model.parameters / 1e6:.2f} M parameters, {what}"))
        except LmanetError as error:
            problems.append(str(error))
    return rows, problems


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
    return f"cpu ({processor_name()}, {os.cpu_count()} cores)"


def _compile(device: torch.device) -> str:
    missing = why_not_compile(device)
    can = f"can be switched on, code is kept in {disk_cache()}" if missing is None else f"not possible: {missing}"
    return f"{'on' if choose_compile('auto') else 'off'} chosen by auto; {can}"


def _why_precision() -> str:
    return ", the CPU multiplies bfloat16" if cpu_computes_bfloat16() else ", the CPU does not multiply bfloat16"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ros() -> str:
    distro = os.environ.get("ROS_DISTRO")
    if distro is None:
        return "not sourced (not needed for lmanet)"
    return f"{distro}, rclpy {'found' if find_spec('rclpy') else 'missing'}"
