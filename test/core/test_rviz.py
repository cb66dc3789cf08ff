"""Configurations for RViz and Foxglove. No ROS needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmanet_ros.rviz import CameraView, arrange, window_state, with_fixed_frame

ROOT = Path(__file__).resolve().parents[2]
BASE = yaml.safe_load((ROOT / "config/segment.rviz").read_text())
ONLY = CameraView("", "/camera/image_raw", "/segmentation")
FRONT = CameraView("front", "/r/front/image_raw", "/r/front/seg")
REAR = CameraView("rear", "/r/rear/image_raw/compressed", "/r/rear/seg")


class State:
    """Reads what Qt's `QMainWindow.restoreState` would: (name, width or height) of panels, nested as they are."""

    def __init__(self, state: bytes) -> None:
        self._left = state
        assert self._take(">iiB") == (0xFF, 0, 0xFD)
        self.areas = {}
        for _ in range(self._take(">i")[0]):
            position, *size = self._take(">iii")
            assert self._take(">B") == (0xFC,)
            self.areas[position] = (tuple(size), self._sequence())
        self.scene = self._take(">ii")
        assert self._take(">iiii") == (4, 4, 8, 8)
        assert self._take(">Biii") == (0xFC, 1, 2, 1)
        assert self._text() == "Tools" and self._take(">Biiii") == (1, 0, -1, 0, 0)
        assert not self._left

    def _take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        taken, self._left = struct.unpack(form, self._left[:size]), self._left[size:]
        return taken

    def _text(self) -> str:
        (size,) = self._take(">i")
        text, self._left = self._left[:size].decode("utf-16-be"), self._left[size:]
        return text

    def _sequence(self) -> list[Any]:
        direction, count = self._take(">Bi")
        found: list[Any] = [{1: "row", 2: "column"}[direction]]
        start = 0
        for _ in range(count):
            (kind,) = self._take(">B")
            item: Any = ()
            if kind == 0xFB:
                item = self._text()
                assert self._take(">B") == (1,)  # visible
            place, size, _, _ = self._take(">iiii")
            assert place == start
            start += size
            if kind == 0xFC:
                assert self._take(">B") == (0xFC,)
                item = self._sequence()
            found.append((item, size))
        return found


def displays_of(config: dict[str, Any], kind: str) -> dict[str, str]:
    displays = config["Visualization Manager"]["Displays"]
    return {each["Name"]: each["Topic"]["Value"] for each in displays if each["Class"] == f"rviz_default_plugins/{kind}"}


def state_of(config: dict[str, Any]) -> State:
    return State(bytes.fromhex(config["Window Geometry"]["QMainWindow State"]))


def test_the_file_is_what_is_made_for_one_camera_with_points() -> None:
    assert arrange(BASE, [ONLY], points=True) == BASE


def test_one_camera_without_depth_has_no_display_for_points_and_its_images_fill_the_window() -> None:
    made = arrange(BASE, [ONLY], points=False)
    assert displays_of(made, "PointCloud2") == {}
    assert displays_of(made, "Image") == displays_of(BASE, "Image")
    (width, _), right = state_of(made).areas[1]
    assert right == [
        "row",
        (["column", ("Camera", 355), ("Labels", 355)], 485),
        (["column", ("Overlay", 355), ("Confidence", 355)], 485),
    ]
    assert width > 3 * state_of(made).scene[0]


def test_every_camera_has_its_displays_under_its_name_and_topics() -> None:
    made = arrange(BASE, [FRONT, REAR], points=True)
    assert displays_of(made, "Image") == {
        "front camera": "/r/front/image_raw",
        "front overlay": "/r/front/seg/overlay",
        "front labels": "/r/front/seg/color",
        "front confidence": "/r/front/seg/confidence",
        "rear camera": "/r/rear/image_raw/compressed",
        "rear overlay": "/r/rear/seg/overlay",
        "rear labels": "/r/rear/seg/color",
        "rear confidence": "/r/rear/seg/confidence",
    }
    assert displays_of(made, "PointCloud2") == {"front points": "/r/front/seg/points", "rear points": "/r/rear/seg/points"}
    assert [one for one in made["Visualization Manager"]["Displays"] if "Topic" not in one] == [
        one for one in BASE["Visualization Manager"]["Displays"] if "Topic" not in one
    ]


def test_panels_stand_in_a_column_for_each_camera_beside_the_list_of_displays() -> None:
    state = state_of(arrange(BASE, [FRONT, REAR], points=True))
    assert state.areas[0] == ((250, 710), ["column", ("Displays", 710)])
    columns = [
        (["column", *((f"{name} {kind}", 177) for kind in ("camera", "overlay", "labels", "confidence"))], 330)
        for name in ("front", "rear")
    ]
    assert state.areas[1] == ((660, 710), ["row", *columns])
    assert state.scene == (1280 - 250 - 660, 710)


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_cameras_fits_into_the_window(count: int, points: bool) -> None:
    cameras = [CameraView(f"c{number}", f"/c{number}/image_raw", f"/c{number}/segmentation") for number in range(count)]
    made = arrange(BASE, cameras, points)
    state = state_of(made)
    assert state.areas[0][0][0] + state.areas[1][0][0] + state.scene[0] == made["Window Geometry"]["Width"]
    assert state.scene[0] >= 60
    panels = [panel for column, _ in state.areas[1][1][1:] for panel, _ in column[1:]]
    assert sorted(panels) == sorted(displays_of(made, "Image"))
    assert {"Displays", *panels} <= made["Window Geometry"].keys()


def test_making_one_leaves_the_base_as_it_was() -> None:
    before = yaml.safe_dump(BASE)
    arrange(BASE, [FRONT, REAR], points=False)
    with_fixed_frame(BASE, "other")
    assert yaml.safe_dump(BASE) == before


def test_the_fixed_frame_is_set_and_nothing_else() -> None:
    made = with_fixed_frame(BASE, "oak_rgb_camera_optical_frame")
    assert made["Visualization Manager"]["Global Options"].pop("Fixed Frame") == "oak_rgb_camera_optical_frame"
    base = yaml.safe_load((ROOT / "config/segment.rviz").read_text())
    del base["Visualization Manager"]["Global Options"]["Fixed Frame"]
    assert made == base


def test_names_of_panels_are_written_as_qt_writes_text() -> None:
    assert "Kamera für ß".encode("utf-16-be") in window_state("Displays", [["Kamera für ß"]], 1, 1, 3, 1)


def panels_of(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    assert node["direction"] in ("row", "column") and 0 < node.get("splitPercentage", 50) < 100
    return panels_of(node["first"]) + panels_of(node["second"])


def test_foxglove_has_a_configuration_for_each_panel_of_its_layout() -> None:
    layout = json.loads((ROOT / "config/foxglove.json").read_text())
    assert {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"} == layout.keys()
    assert sorted(panels_of(layout["layout"])) == sorted(layout["configById"])
    assert {name.split("!")[0] for name in layout["configById"]} == {"Image", "3D", "DiagnosticSummary", "RawMessages"}
