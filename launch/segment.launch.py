"""Start the segmentation node, with arguments for what people change most: `ros2 launch lmanet_ros segment.launch.py -s`."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).resolve().parent.parent  # share/lmanet_ros, or a checkout

ARGUMENTS = {
    "image": ("", "image topic; of several cameras with {camera} in it. Empty: /camera/image_raw, or /{camera}/image_raw"),
    "cameras": ("", "names of several cameras, comma-separated; empty: one camera"),
    "weights": ("", "weights file or model; empty: as in params_file, else the shipped ones"),
    "params_file": (str(HERE / "config" / "segment.yaml"), "parameters as YAML"),
    "namespace": ("", "of the node and its topics"),
    "device": ("", "auto, cpu, cuda, cuda:N; empty: as in params_file"),
    "use_sim_time": ("false", "take the time from /clock"),
    "compressed": ("", "true: subscribe to <image>/compressed; empty: as in params_file"),
    "rviz": ("false", "open RViz with camera, colours, overlay and mask"),
    "autostart": ("", "false: wait for lifecycle transitions; empty: as in params_file"),
    "log_level": ("info", "debug, info, warn, error"),
    "python": ("", "interpreter that has torch, such as a virtual environment's bin/python; empty: the installed script's own"),
    "demo": ("false", "true: a generated street as the camera"),
}


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=what) for name, (default, what) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])


def make_nodes(context):
    chosen = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    namespace = chosen["namespace"]
    use_sim_time = is_true("use_sim_time", chosen["use_sim_time"])
    cameras = [name.strip() for name in chosen["cameras"].split(",") if name.strip()]
    several = len(cameras) > 1
    image = chosen["image"] or ("/{camera}/image_raw" if several else "/camera/image_raw")
    if several and "{camera}" not in image:
        raise RuntimeError(f"image:={image} must hold {{camera}} where there are several cameras")
    topics = {f"{name}/": image.format(camera=name) for name in cameras} if several else {"": image}

    parameters = {"use_sim_time": use_sim_time}
    for name in ("weights", "device"):
        if chosen[name]:
            parameters[name] = chosen[name]
    if several:
        parameters["cameras"] = cameras
    if chosen["compressed"]:
        parameters["transport"] = "compressed" if is_true("compressed", chosen["compressed"]) else "raw"
    if chosen["autostart"]:
        parameters["autostart"] = is_true("autostart", chosen["autostart"])

    remappings = []
    for prefix, topic in topics.items():
        remappings += [
            (f"{prefix}image", topic),
            (f"{prefix}image/compressed", f"{topic}/compressed"),
            (f"{prefix}camera_info", f"{topic.rpartition('/')[0]}/camera_info"),
        ]
    common = {"namespace": namespace, "output": "screen", "emulate_tty": True}
    arguments = ["--ros-args", "--log-level", chosen["log_level"]]
    nodes = [
        make_node(chosen["python"], "segment_node", arguments, common,
                  name="segment_node", parameters=[chosen["params_file"], parameters], remappings=remappings),
    ]  # fmt: skip
    if is_true("demo", chosen["demo"]):
        for number, topic in enumerate(topics.values()):
            nodes.append(
                make_node(chosen["python"], "street_camera", arguments, common, name=f"street_camera_{number}",
                          parameters=[{"seed": number}],
                          remappings=[("image", topic), ("camera_info", f"{topic.rpartition('/')[0]}/camera_info"),
                                      ("image/compressed", f"{topic}/compressed")]),
            )  # fmt: skip
    if is_true("rviz", chosen["rviz"]):
        nodes.append(
            Node(package="rviz2", executable="rviz2", arguments=["-d", str(HERE / "config" / "segment.rviz")],
                 namespace=namespace, parameters=[{"use_sim_time": use_sim_time}],
                 remappings=[("/camera/image_raw", next(iter(topics.values())))]),
        )  # fmt: skip
    return nodes


def make_node(python, executable, arguments, common, **options):
    """The installed script, or the module run by another interpreter."""
    if python:
        return Node(**{**common, **options}, executable=python, arguments=["-m", f"lmanet_ros.{executable}", *arguments])
    return Node(**{**common, **options}, package="lmanet_ros", executable=executable, arguments=arguments)


def is_true(name, text):
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise RuntimeError(f"{name}:={text} must be true or false")
