"""Runs launch files one after the other in this process, a JSON line each; for test_launch_table.

    python launch_rows.py '[["segment", {"rviz": "maybe"}], …]'

A line holds what `ros2 launch` would exit with, and the processes that are left: those with ROW in their environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def main() -> int:
    for number, (file, arguments) in enumerate(json.loads(sys.argv[1])):
        os.environ["LMANET_ROW"] = row = f"{os.getpid()}-{number}"
        print(f"--- {number}", flush=True)
        service = LaunchService()
        source = PythonLaunchDescriptionSource(str(LAUNCH / f"{file}.launch.py"))
        service.include_launch_description(
            LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments.items())])
        )
        code = service.run()
        sys.stdout.flush()
        sys.stderr.flush()
        print(json.dumps({"code": code, "left": left_of(row)}), flush=True)
    return 0


def left_of(row: str) -> list[str]:
    """Command lines of other processes that a row has started."""
    mark, found = f"LMANET_ROW={row}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:  # ended meanwhile, or somebody else's
                continue
    return found


if __name__ == "__main__":
    sys.exit(main())
