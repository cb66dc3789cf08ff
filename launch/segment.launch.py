"""Start the segmentation node, with arguments for what people change most: `ros2 launch lmanet_ros segment.launch.py -s`."""

import math
import os
from functools import partial
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from lmanet_ros import launching, names, rviz

HERE = Path(__file__).resolve().parent.parent  # share/lmanet_ros, or a checkout

ARGUMENTS = {
    "image": ("", "image topic, relative to the namespace or absolute; of several cameras with {camera} in it. Ending in "
                  "/compressed: compressed images. Empty: camera/image_raw, or {camera}/image_raw"),
    "camera_info": ("", "calibration topic, with {camera} where there are several; empty: camera_info beside the image"),
    "depth": ("", "depth image registered to the camera's, with {camera} where there are several; given: semantic_points runs"),
    "edge_px": ("0", "of semantic_points: so many pixels beside a nearer thing have no point"),
    "cameras": ("", "names of cameras, comma-separated; empty: one camera without a name"),
    "weights": ("", "weights file or model; empty: as in params_file, else the shipped ones"),
    "params_file": (str(HERE / "config" / "segment.yaml"), "parameters as YAML"),
    "namespace": ("", "of the node and its topics"),
    "name": ("segment_node", "of the node"),
    "device": ("", "auto, cpu, cuda, cuda:N; empty: as in params_file"),
    "precision": ("", "auto, fp32, bf16, fp16; empty: as in params_file"),
    "threads": ("", "threads of PyTorch; empty: as in params_file"),
    "network_size": ("", "WxH that the network sees; empty: as in params_file"),
    "output_prefix": ("", "results are below this name; empty: as in params_file, segmentation"),
    "image_reliability": ("", "reliable or best_effort; empty: as in params_file, best effort"),
    "use_sim_time": ("", "take the time from /clock; empty: as in params_file"),
    "compressed": ("", "true: subscribe to <image>/compressed; empty: as the image's name or params_file says"),
    "rviz": ("false", "open RViz with camera, overlay, labels, confidence and, with depth:=, points of every camera"),
    "autostart": ("", "false: wait for lifecycle transitions; empty: as in params_file"),
    "respawn": ("false", "start the node again when it has ended"),
    "log_level": ("info", "debug, info, warn, error, fatal"),
    "python": (launching.default_python(), "interpreter that has torch, such as a virtual environment's bin/python; default: "
                                           "that of $VIRTUAL_ENV; empty: the installed script's own"),
    "demo": ("false", "true: a generated street as the camera"),
}  # fmt: skip


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=what) for name, (default, what) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])


def make_nodes(context):
    """Everything is checked before anything is started."""
    chosen = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    namespace, name, python = chosen["namespace"], chosen["name"], chosen["python"]
    launching.require_python(python)
    launching.require_names(namespace, name)
    launching.choice("log_level", chosen["log_level"], ("debug", "info", "warn", "error", "fatal"))
    from_file = launching.read_parameters(chosen["params_file"], namespace, name)
    cameras = [camera.strip() for camera in chosen["cameras"].split(",") if camera.strip()]
    cameras = cameras or [camera for camera in from_file.get("cameras") or [] if camera.strip()]
    told = launching.is_true("compressed", chosen["compressed"]) if chosen["compressed"] else None
    in_file = from_file.get("transport") == "compressed" or None
    try:
        topics = names.of_launch(chosen["image"], cameras, in_file if told is None else told)
    except ValueError as error:
        raise launching.LaunchError(str(error)) from error

    parameters = make_parameters(chosen, cameras, topics)
    remappings = []
    for prefix, topic in topics.items():
        camera_info = chosen["camera_info"].replace("{camera}", prefix.rstrip("/")) or topic.camera_info
        remappings += [(f"{prefix}image", topic.image), (f"{prefix}camera_info", camera_info)]
    respawn = launching.is_true("respawn", chosen["respawn"])
    common = {"namespace": namespace, "output": "screen", "emulate_tty": True}
    arguments = ["--ros-args", "--log-level", chosen["log_level"]]
    segment_node = make_node(
        python, "segment_node", arguments, common, name=name, parameters=[chosen["params_file"], parameters],
        remappings=remappings, respawn=respawn, respawn_delay=2.0,
    )  # fmt: skip
    nodes = [segment_node]
    output = parameters.get("output_prefix", from_file.get("output_prefix", names.OUTPUT))
    if chosen["depth"]:
        nodes += make_points(chosen, topics, common, output)
    demo = launching.is_true("demo", chosen["demo"])
    if demo:
        nodes += [
            make_node(python, "street_camera", arguments, common, name=f"street_camera_{number}",
                      parameters=[{"seed": number, "frame_id": demo_frame(prefix)}],
                      remappings=demo_remappings(topic, depth_topic(chosen, prefix)))
            for number, (prefix, topic) in enumerate(topics.items())
        ]  # fmt: skip
    if launching.is_true("rviz", chosen["rviz"]):
        use_sim_time = bool(parameters.get("use_sim_time", from_file.get("use_sim_time", False)))
        nodes.append(make_rviz(chosen, topics, common, output, use_sim_time))
        nodes += make_demo_mounts(topics) if demo else []
    others = [] if respawn else [RegisterEventHandler(OnProcessExit(target_action=segment_node, on_exit=end_with_the_node))]
    typos = [LogInfo(msg=typo) for typo in launching.likely_typos(context.launch_configurations, ARGUMENTS)]
    return [*typos, *middleware(), *others, *nodes]


def make_parameters(chosen, cameras, topics):
    """Parameters of the node that arguments say; what they leave open is as in params_file."""
    parameters = {
        key: chosen[key] for key in ("weights", "device", "precision", "network_size", "output_prefix") if chosen[key]
    }
    for key in ("use_sim_time", "autostart"):
        if chosen[key]:
            parameters[key] = launching.is_true(key, chosen[key])
    if chosen["threads"]:
        parameters["threads"] = launching.whole_number("threads", chosen["threads"])
    if cameras:
        parameters["cameras"] = cameras
    parameters["transport"] = "compressed" if next(iter(topics.values())).compressed else "raw"
    if chosen["image_reliability"]:
        reliability = launching.choice("image_reliability", chosen["image_reliability"], ("reliable", "best_effort"))
        for topic in topics.values():
            full = names.resolve(topic.image, chosen["namespace"])
            parameters[f"qos_overrides.{full}.subscription.reliability"] = reliability
    return parameters


def end_with_the_node(event, context):
    """Nothing goes on without the node. Where it failed, an error ends the launch, which then has exit code 1."""
    if event.returncode and not context.is_shutdown:
        raise launching.LaunchError(f"the node ended with exit code {event.returncode}, see above")
    return [EmitEvent(event=Shutdown(reason="the node has ended"))]


def middleware():
    """What images of 1280x720 need of the middleware, unless the user has configured it."""
    settings = launching.middleware_settings(os.environ, HERE / "config")
    return [SetEnvironmentVariable(name, value) for name, value in settings.items()]


def make_points(chosen, topics, common, output):
    """One `semantic_points` for each camera."""
    arguments = ["--ros-args", "--log-level", chosen["log_level"]]
    edge_px = launching.whole_number("edge_px", chosen["edge_px"])
    return [
        make_node(chosen["python"], "semantic_points", arguments, common, name=f"semantic_points_{number}",
                  parameters=[{"output_prefix": f"{prefix}{output}", "edge_px": edge_px}],
                  remappings=[("depth", depth_topic(chosen, prefix))])
        for number, prefix in enumerate(topics)
    ]  # fmt: skip


def depth_topic(chosen, prefix):
    return chosen["depth"].replace("{camera}", prefix.rstrip("/"))


def demo_remappings(topic, depth):
    base = topic.image.removesuffix(names.COMPRESSED)
    remappings = [("image", base), ("image/compressed", f"{base}/compressed"), ("camera_info", topic.camera_info)]
    return [*remappings, ("depth", depth or topic.camera_info.removesuffix("camera_info") + "depth")]


def make_rviz(chosen, topics, common, output, use_sim_time):
    """RViz with all cameras, once one of them has sent an image; its configuration lies beside the log of this launch."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        raise launching.LaunchError("rviz:=true, but rviz2 is not installed: sudo apt install ros-$ROS_DISTRO-rviz2") from error
    full = partial(names.resolve, namespace=chosen["namespace"])
    cameras = [
        rviz.CameraView(prefix.rstrip("/"), full(topic.image), full(f"{prefix}{output}")) for prefix, topic in topics.items()
    ]
    base = yaml.safe_load((HERE / "config" / "segment.rviz").read_text(encoding="utf-8"))
    made = rviz.arrange(base, cameras, points=bool(chosen["depth"]))
    written = Path(launch_config.log_dir, f"{full(chosen['name']).strip('/').replace('/', '_')}.rviz")
    written.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    return make_node(chosen["python"], "open_rviz", [str(written), *(camera.image for camera in cameras)], common,
                     parameters=[{"use_sim_time": use_sim_time}])  # fmt: skip


def demo_frame(prefix):
    return f"{prefix.rstrip('/')}_camera" if prefix else "street_camera"


def make_demo_mounts(prefixes):
    """Where the demo's cameras are on their robot, for RViz: 1.4 m above the road, the first looks ahead, the others around."""
    mounts = []
    for number, prefix in enumerate(prefixes):
        yaw = 2 * math.pi * number / len(prefixes) - math.pi / 2
        place = {"z": 1.4, "roll": -math.pi / 2, "yaw": yaw, "frame-id": "base_link", "child-frame-id": demo_frame(prefix)}
        mounts.append(
            Node(package="tf2_ros", executable="static_transform_publisher", name=f"street_mount_{number}", output="log",
                 arguments=[word for name, value in place.items() for word in (f"--{name}", str(value))])
        )  # fmt: skip
    return mounts


def make_node(python, executable, arguments, common, **options):
    """The installed script, or the module run by another interpreter."""
    if python:
        return Node(**{**common, **options}, executable=python, arguments=["-m", f"lmanet_ros.{executable}", *arguments])
    return Node(**{**common, **options}, package="lmanet_ros", executable=executable, arguments=arguments)
