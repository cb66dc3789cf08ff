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
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from lmanet_ros import launching, names

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
    "params_file": (str(HERE.parent / "config" / "segment.yaml"), "parameters as YAML, of the node and of the evaluation"),
    "namespace": ("", "of the node and its results"),
    "name": ("segment_node", "of the node"),
    "python": (launching.default_python(), "interpreter that has torch; default: that of $VIRTUAL_ENV; empty: the installed "
                                           "scripts' own"),
}  # fmt: skip

EVALUATED = {1: "a threshold was missed", 2: "it could not be made, see above"}

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
        raise launching.LaunchError("bag:= is needed, a ROS 2 bag to play")
    launching.require_python(chosen["python"])
    launching.require_names(chosen["namespace"], chosen["name"])
    launching.decimal_number("rate", chosen["rate"])
    loop, _ = (launching.is_true(name, chosen[name]) for name in ("loop", "rviz"))
    for name in ("mapping", "thresholds"):
        if chosen[name].endswith((".yaml", ".yml")) and not Path(chosen[name]).is_file():
            raise launching.LaunchError(f"{name}:={chosen[name]}: there is no such file")
    from_file = launching.read_parameters(chosen["params_file"], chosen["namespace"], chosen["name"])
    python = chosen["python"] or sys.executable
    topic = find_topic(python, chosen["bag"], chosen["image"] and names.resolve(chosen["image"], ""))
    out = Path(chosen["out"]).absolute()
    recording = out / "recorded"
    if recording.exists():
        raise launching.LaunchError(f"out:={out} already holds a recording; choose another folder")

    passed = {name: chosen[name] for name in ("weights", "device", "params_file", "rviz", "namespace", "name") if chosen[name]}
    passed["python"] = chosen["python"]
    if not topic.endswith(names.COMPRESSED):
        passed["compressed"] = "false"
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "segment.launch.py")),
        launch_arguments={**passed, "image": topic, "use_sim_time": "true"}.items(),
    )
    arguments = [chosen["bag"], "--out", str(recording), "--image", topic, "--rate", chosen["rate"]]
    arguments += ["--also", names.camera_info_beside(topic)]
    output = from_file.get("output_prefix", names.OUTPUT)
    arguments += ["--labels", names.resolve(f"{output}/labels", chosen["namespace"])]
    if loop:
        arguments.append("--loop")
    if chosen["python"]:
        replay = Node(executable=python, arguments=["-m", "lmanet_ros.replay", *arguments], output="screen", emulate_tty=True)
    else:
        replay = Node(package="lmanet_ros", executable="replay", arguments=arguments, output="screen", emulate_tty=True)

    score = [python, "-m", "lmanet_core.commands", "evaluate", chosen["bag"], "--topic", topic, "--results", str(recording)]
    score += ["--config", chosen["params_file"], "--out", str(out / "report"), *shlex.split(chosen["options"])]
    for name in ("weights", "labels", "mapping", "thresholds"):
        if chosen[name]:
            score += [f"--{name}", chosen[name]]
    scoring = ExecuteProcess(cmd=score, output="screen", name="evaluate")  # no terminal: no progress bar

    def after_replay(event, context):
        if event.returncode and not context.is_shutdown:
            raise launching.LaunchError(f"playing ended with exit code {event.returncode}, see above")
        return [EmitEvent(event=Shutdown(reason="nothing to score"))] if loop or context.is_shutdown else [scoring]

    def after_scoring(event, context):
        if event.returncode and not context.is_shutdown:
            why = EVALUATED.get(event.returncode, "see above")
            raise launching.LaunchError(f"the evaluation ended with exit code {event.returncode}: {why}")
        return [EmitEvent(event=Shutdown(reason="scored"))]

    return [
        *(LogInfo(msg=typo) for typo in launching.likely_typos(context.launch_configurations, ARGUMENTS)),
        node,
        replay,
        RegisterEventHandler(OnProcessExit(target_action=replay, on_exit=after_replay)),
        RegisterEventHandler(OnProcessExit(target_action=scoring, on_exit=after_scoring)),
    ]


def find_topic(python, bag, image):
    """The camera's topic by the rules of `lmanet segment`, asked of an interpreter that has lmanet_core."""
    found = subprocess.run([python, "-c", WHICH_TOPIC, bag, image], capture_output=True, text=True, check=False)
    if found.returncode:
        reason = found.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise launching.LaunchError(f"cannot play {bag}: {reason[0]}")
    return found.stdout.strip()
