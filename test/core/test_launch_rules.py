"""The rule for names, and what launch files check before they start anything. No ROS needed."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lmanet_ros.launching import (
    LaunchError,
    choice,
    decimal_number,
    default_python,
    is_true,
    likely_typos,
    middleware_settings,
    read_parameters,
    require_python,
    whole_number,
)
from lmanet_ros.names import CameraTopics, camera_info_beside, of_launch, resolve, subscribed
from lmanet_ros.requirements import complaint_of_versions

ROOT = Path(__file__).resolve().parents[2]


def heard(image: str, cameras: str = "", compressed: bool | None = None, namespace: str = "") -> dict[str, tuple[str, str]]:
    """Prefix → full names of images and calibration: what a launch file makes of its arguments, and a node of that."""
    found = {}
    for prefix, topic in of_launch(image, [name for name in cameras.split(",") if name], compressed).items():
        remappings = {f"{prefix}image": topic.image, f"{prefix}camera_info": topic.camera_info}
        node = subscribed(
            prefix,
            "compressed" if topic.compressed else "raw",
            lambda name: resolve(name, namespace),
            lambda name, rules=remappings: resolve(rules.get(name, name), namespace),
        )
        assert node.compressed == topic.compressed == node.image.endswith("/compressed")
        found[prefix] = (node.image, node.camera_info)
    return found


@pytest.mark.parametrize(
    ("arguments", "image", "camera_info"),
    [
        ({}, "/camera/image_raw", "/camera/camera_info"),
        ({"namespace": "robot1"}, "/robot1/camera/image_raw", "/robot1/camera/camera_info"),
        ({"namespace": "/robot1"}, "/robot1/camera/image_raw", "/robot1/camera/camera_info"),
        ({"image": "image_raw"}, "/image_raw", "/camera_info"),
        ({"image": "image_raw", "namespace": "robot1"}, "/robot1/image_raw", "/robot1/camera_info"),
        ({"image": "/image_raw", "namespace": "robot1"}, "/image_raw", "/camera_info"),
        ({"image": "/rig/left/image"}, "/rig/left/image", "/rig/left/camera_info"),
        ({"image": "rig/left/image", "namespace": "a/b"}, "/a/b/rig/left/image", "/a/b/rig/left/camera_info"),
        ({"compressed": True}, "/camera/image_raw/compressed", "/camera/camera_info"),
        ({"compressed": False}, "/camera/image_raw", "/camera/camera_info"),
        ({"image": "/x/image_raw/compressed"}, "/x/image_raw/compressed", "/x/camera_info"),
        ({"image": "/x/image_raw/compressed", "compressed": True}, "/x/image_raw/compressed", "/x/camera_info"),
        ({"image": "image_raw/compressed", "namespace": "r"}, "/r/image_raw/compressed", "/r/camera_info"),
        ({"image": "/x/image_raw", "compressed": True}, "/x/image_raw/compressed", "/x/camera_info"),
    ],
)
def test_one_camera_is_heard_where_the_rule_says(arguments: dict[str, object], image: str, camera_info: str) -> None:
    assert heard(**{"image": "", **arguments}) == {"": (image, camera_info)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "images"),
    [
        ({"cameras": "front"}, {"front/": "/front/image_raw"}),
        ({"cameras": "front", "namespace": "r"}, {"front/": "/r/front/image_raw"}),
        ({"cameras": "front", "image": "/usb/image"}, {"front/": "/usb/image"}),
        ({"cameras": "front,rear"}, {"front/": "/front/image_raw", "rear/": "/rear/image_raw"}),
        (
            {"cameras": "front,rear", "image": "/rig/{camera}/raw", "compressed": True, "namespace": "r"},
            {"front/": "/rig/front/raw/compressed", "rear/": "/rig/rear/raw/compressed"},
        ),
        (
            {"cameras": "a,b", "image": "{camera}/raw/compressed", "namespace": "r"},
            {"a/": "/r/a/raw/compressed", "b/": "/r/b/raw/compressed"},
        ),
    ],
)
def test_named_cameras_are_heard_where_the_rule_says(arguments: dict[str, object], images: dict[str, str]) -> None:
    found = heard(**{"image": "", **arguments})  # type: ignore[arg-type]
    assert {prefix: image for prefix, (image, _) in found.items()} == images
    assert all(info == camera_info_beside(image) for image, info in found.values())


@pytest.mark.parametrize(
    ("image", "cameras", "compressed", "words"),
    [
        ("/raw", ["front", "rear"], None, "image:=/raw must hold {camera}"),
        ("/{camera}/raw", [], None, "there are no cameras:="),
        ("/raw/compressed", [], False, "compressed:=false says otherwise"),
    ],
)
def test_names_that_contradict_each_other_are_refused(
    image: str, cameras: list[str], compressed: bool | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        of_launch(image, cameras, compressed)


@pytest.mark.parametrize(
    ("transport", "remappings", "wanted"),
    [
        ("raw", {}, CameraTopics("/image", "/camera_info", False)),
        ("compressed", {}, CameraTopics("/image/compressed", "/camera_info", True)),
        ("compressed", {"image": "/cam/image_raw"}, CameraTopics("/cam/image_raw/compressed", "/cam/camera_info", True)),
        ("raw", {"image": "/cam/image_raw"}, CameraTopics("/cam/image_raw", "/cam/camera_info", False)),
        ("raw", {"image": "/cam/jpeg/compressed"}, CameraTopics("/cam/jpeg/compressed", "/cam/camera_info", True)),
        ("compressed", {"image/compressed": "/c/x/compressed"}, CameraTopics("/c/x/compressed", "/c/camera_info", True)),
        ("raw", {"image": "/cam/raw", "camera_info": "/calib"}, CameraTopics("/cam/raw", "/calib", False)),
        ("raw", {"image": "/cam/raw", "camera_info": "/info"}, CameraTopics("/cam/raw", "/info", False)),
    ],
)
def test_a_node_without_a_launch_file_hears_the_same(transport: str, remappings: dict[str, str], wanted: CameraTopics) -> None:
    found = subscribed("", transport, lambda name: resolve(name, ""), lambda name: resolve(remappings.get(name, name), ""))
    assert found == wanted


# ---- checks ---------------------------------------------------------------------------------------------------------------


def test_the_shipped_parameter_file_is_for_any_node() -> None:
    assert read_parameters(str(ROOT / "config/segment.yaml"), "robot1", "eyes")["resize"] == "stretch"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("/**: {ros__parameters: {a: 1, b: {c: 2}}}", {"a": 1, "b.c": 2}),
        ("seg: {ros__parameters: {a: 1}}", None),
        ("/r/seg: {ros__parameters: {a: 1}}", {"a": 1}),
        ("r: {seg: {ros__parameters: {a: 1}}}", {"a": 1}),
        ("/*/seg: {ros__parameters: {a: 1}}", {"a": 1}),
        ("/**/seg: {ros__parameters: {a: 1}}", {"a": 1}),
        ("/**: {ros__parameters: {a: 1}}\nother: {ros__parameters: {a: 2}}", {"a": 1}),
        ("other: {ros__parameters: {a: 2}}", None),
        ("a: 1", None),
        ("- 1", None),
        ("{", None),
    ],
)
def test_parameters_are_those_for_the_node(tmp_path: Path, content: str, wanted: dict[str, object] | None) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    if wanted is None:
        with pytest.raises(LaunchError, match="params_file"):
            read_parameters(str(file), "r", "seg")
    else:
        assert read_parameters(str(file), "r", "seg") == wanted


@pytest.mark.parametrize("namespace", ["", "r", "a/b"])
def test_two_stars_stand_for_any_number_of_namespaces(tmp_path: Path, namespace: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("/**/seg: {ros__parameters: {a: 1}}")
    assert read_parameters(str(file), namespace, "seg") == {"a": 1}


def test_a_missing_parameter_file_is_an_error() -> None:
    with pytest.raises(LaunchError, match=r"params_file:=/nowhere\.yaml cannot be read"):
        read_parameters("/nowhere.yaml", "", "segment_node")


def test_the_interpreter_of_the_active_environment_is_the_default(tmp_path: Path) -> None:
    assert default_python({}) == default_python({"VIRTUAL_ENV": str(tmp_path)}) == ""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    assert default_python({"VIRTUAL_ENV": str(tmp_path)}) == str(tmp_path / "bin/python")


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    require_python("")
    require_python(sys.executable)
    with pytest.raises(LaunchError, match="is no program"):
        require_python(str(tmp_path / "python"))


def test_values_are_checked() -> None:
    assert is_true("rviz", "On") and not is_true("rviz", "0") and whole_number("threads", "2") == 2
    assert decimal_number("rate", "0.5") == 0.5 and choice("x", "a", ("a", "b")) == "a"
    for call in (
        lambda: is_true("rviz", "maybe"), lambda: whole_number("threads", "-1"), lambda: whole_number("threads", "two"),
        lambda: decimal_number("rate", "0"), lambda: decimal_number("rate", "nan"), lambda: choice("x", "c", ("a", "b")),
    ):  # fmt: skip
        with pytest.raises(LaunchError, match=":="):
            call()


def test_arguments_that_look_like_ours_are_told() -> None:
    (told,) = likely_typos(["weigths", "bringup_of_somebody", "weights"], ["weights", "image"])
    assert told == "weigths:= is no argument here and changes nothing; did you mean weights:=?"


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        ("torch", "2.6.0", True), ("torch", "2.13.0+cpu", True), ("torch", "1.13.1", False),
        ("torch", "2.5.0a0+872d972e41.nv24.8", False),
        ("numpy", "1.21.5", False), ("numpy", "2.4.6", True), ("cv2", "4.5.4", False), ("cv2", "5.0.0", False),
    ],
)  # fmt: skip
def test_versions_are_told_in_one_sentence(name: str, version: str, fits: bool) -> None:
    said = complaint_of_versions({"torch": "2.6", "numpy": "1.26.4", "cv2": "4.10.0"} | {name: version})
    assert (said == "") == fits
    assert fits or (f"has {name} {version} (wanted" in said and "python:=" in said and "\n" not in said)


FAST_DDS = {"FASTDDS_DEFAULT_PROFILES_FILE": "fastdds.xml", "FASTRTPS_DEFAULT_PROFILES_FILE": "fastdds.xml"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, FAST_DDS),
        ({"RMW_IMPLEMENTATION": ""}, FAST_DDS),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, FAST_DDS),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_dynamic_cpp"}, FAST_DDS),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, {"CYCLONEDDS_URI": "cyclonedds.xml"}),
        ({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, {}),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "CYCLONEDDS_URI": "<CycloneDDS/>"}, {}),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, {}),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}, {}),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, {}),
    ],
)
def test_middleware_is_set_up_for_images_unless_the_user_has_done_so(environment, wanted):
    settings = middleware_settings(environment, ROOT / "config")
    paths = {name: Path(value.removeprefix("file://")) for name, value in settings.items()}
    assert {name: path.name for name, path in paths.items()} == wanted
    assert all(path.is_file() for path in paths.values())


def test_shared_memory_of_fast_dds_holds_a_colour_image_of_a_full_hd_camera():
    size = ElementTree.parse(ROOT / "config/fastdds.xml").find(".//{*}segment_size")
    assert int(size.text) >= 2 * 1920 * 1080 * 3  # one that is read, and one that is written
