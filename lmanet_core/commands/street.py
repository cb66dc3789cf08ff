"""`lmanet street`: record a drive through a generated street, with its true labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from lmanet_core.commands.terminal import progress
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import parse_size
from lmanet_core.street import DEGRADATIONS, StreetConfig
from lmanet_core.street.recording import record_street


def make_parser() -> ArgumentParser:
    """Options of `lmanet street`."""
    parser = ArgumentParser(
        description="Record a drive through a generated street as a ROS 2 bag: images, camera_info, true labels.",
        exit_on_error=False,
    )
    parser.add_argument("--out", type=str, required=True, help="drive.mcap for one file, any other name for a bag folder")
    parser.add_argument("--frames", type=int, default=200, help="how many frames")
    parser.add_argument("--size", type=str, default="512x256", help="WxH of the images")
    parser.add_argument("--fps", type=float, default=StreetConfig.fps, help="frames a second")
    parser.add_argument("--seed", type=int, default=0, help="one seed is one town with its traffic and weather")
    parser.add_argument("--degradation", type=Literal[DEGRADATIONS], default="none", help="what the camera suffers")
    parser.add_argument("--level", type=int, default=2, help="of the degradation, 0 clean to 3 heavy")
    return parser


def run(options: Namespace) -> int:
    """Record the drive; returns the exit code.

    Raises:
        ConfigError: a setting out of range.
        OutputError: the bag exists, or cannot be written.
    """
    if options.frames < 1:
        raise ConfigError(f"--frames must be 1 or more, got {options.frames}")
    size = parse_size(options.size)
    config = StreetConfig(
        width=size.width,
        height=size.height,
        fps=options.fps,
        seed=options.seed,
        degradation=options.degradation,
        level=options.level,
    )
    with progress("recording") as advance:
        advance.expect(options.frames)
        record_street(Path(options.out), config, options.frames, advance)
    print(f"{options.out}: {options.frames} frames of {size}, seed {config.seed}")
    return 0
