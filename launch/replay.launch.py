"""Play a bag into the segmentation node and score what it publishes: `ros2 launch lmanet_ros replay.launch.py -s`."""

import shlex
import subprocess
import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).resolve().parent

ARGUMENTS = {
    "bag": ("", "ROS 2 bag to play"),
    "image": ("", "image topic in the bag, with /compressed where it ends so; empty: the only camera"),
    "out": ("replay_report", "folder for recorded/ and report/"),
    "weights": ("", "weights file or model; empty: the shipped ones"),
    "labels": ("", "label topic of the bag or folder of PNGs; empty: no accuracy"),
    "mapping": ("", "what label ids mean, see lmanet evaluate --mapping"),
    "thresholds": ("", "YAML file of thresholds"),
    "options": ("", "further options of lmanet evaluate, as on a command line"),
    "rate": ("1.0", "how fast to play"),
    "loop": ("false", "true: play until Ctrl-C, to watch; nothing is scored"),
    "rviz": ("false", "open RViz"),
    "device": ("", "auto, cpu, cuda, cuda:N"),
    "params_file": (
        str(HERE.parent / "config" / "segment.yaml"),
        "parameters of the node as YAML; what changes labels must be told to the evaluation too, by options",
    ),
    "python": ("", "interpreter that has torch; empty: the installed scripts' own"),
}

WHICH_TOPIC = """
import sys
from lmanet_core.media import open_frames
with open_frames(sys.argv[1], topic=sys.argv[2] or None) as frames:
    print(frames.topic)
"""


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=what) for name, (default, what) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=make_processes)])


def make_processes(context):
    chosen = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not chosen["bag"]:
        raise RuntimeError("bag:= is needed, a ROS 2 bag to play")
    python = chosen["python"] or sys.executable
    topic = find_topic(python, chosen["bag"], chosen["image"])
    base = topic.removesuffix("/compressed")
    out = Path(chosen["out"]).absolute()
    recording = out / "recorded"
    if recording.exists():
        raise RuntimeError(f"out:={out} already holds a recording; choose another folder")

    passed = {name: chosen[name] for name in ("weights", "device", "params_file", "rviz", "python") if chosen[name]}
    compressed = "true" if topic != base else "false"
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "segment.launch.py")),
        launch_arguments={**passed, "image": base, "compressed": compressed, "use_sim_time": "true"}.items(),
    )
    arguments = [chosen["bag"], "--out", str(recording), "--image", topic, "--rate", chosen["rate"]]
    arguments += ["--also", f"{base.rpartition('/')[0]}/camera_info"]
    loop = chosen["loop"].lower() == "true"
    if loop:
        arguments.append("--loop")
    if chosen["python"]:
        replay = Node(executable=python, arguments=["-m", "lmanet_ros.replay", *arguments], output="screen", emulate_tty=True)
    else:
        replay = Node(package="lmanet_ros", executable="replay", arguments=arguments, output="screen", emulate_tty=True)

    score = [python, "-m", "lmanet_core.commands", "evaluate", chosen["bag"], "--topic", topic, "--results", str(recording)]
    score += ["--out", str(out / "report"), *shlex.split(chosen["options"])]
    for name in ("weights", "labels", "mapping", "thresholds"):
        if chosen[name]:
            score += [f"--{name}", chosen[name]]
    scoring = ExecuteProcess(cmd=score, output="screen", name="evaluate")  # no terminal: no progress bar

    def after_replay(event, context):
        return [scoring] if event.returncode == 0 and not loop else [EmitEvent(event=Shutdown(reason="nothing to score"))]

    return [
        node,
        replay,
        RegisterEventHandler(OnProcessExit(target_action=replay, on_exit=after_replay)),
        RegisterEventHandler(OnProcessExit(target_action=scoring, on_exit=[EmitEvent(event=Shutdown(reason="scored"))])),
    ]


def find_topic(python, bag, image):
    """The camera's topic by the rules of `lmanet segment`, asked of an interpreter that has lmanet_core."""
    found = subprocess.run([python, "-c", WHICH_TOPIC, bag, image], capture_output=True, text=True, check=False)
    if found.returncode:
        reason = found.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise RuntimeError(f"cannot play {bag}: {reason[0]}")
    return found.stdout.strip()
