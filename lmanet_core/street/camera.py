"""The pinhole camera on the car: calibration, and where it is and looks at a time.

Camera coordinates are x right, y down, z forward; pixel centres lie at whole numbers (OpenCV, ROS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmanet_core.arrays import Float64Array
from lmanet_core.geometry import CameraInfo
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.drive import LANE_M, Drive
from lmanet_core.street.road import CHUNK_M, Road
from lmanet_core.street.seeding import Topic, Wobble, generator

_HORIZON = 0.46  # share of the image height above the optical axis
_FLIP_Y = np.diag([1.0, -1.0, 1.0])
_TO_ROS = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # x right, y up, z forward → x forward, y left, z up


@dataclass(frozen=True, slots=True)
class Lens:
    """Intrinsic calibration: focal length and centre, pixels."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float

    @classmethod
    def from_config(cls, config: StreetConfig) -> Lens:
        """The lens that a configuration asks for."""
        return cls(
            width=config.width,
            height=config.height,
            focal=config.focal_scale * config.width,
            cx=(config.width - 1) / 2,
            cy=config.height * _HORIZON - 0.5,
        )

    def camera_info(self) -> CameraInfo:
        """Calibration as in sensor_msgs/CameraInfo: no distortion, rectified."""
        f, cx, cy = self.focal, self.cx, self.cy
        return CameraInfo(
            width=self.width,
            height=self.height,
            distortion_model="plumb_bob",
            d=(0.0,) * 5,
            k=(f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0),
            r=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
            p=(f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0),
        )


class Transform(NamedTuple):
    """A rigid map into camera coordinates: turn @ point + shift."""

    turn: Float64Array
    shift: Float64Array

    def placed(self, x: float, y: float, z: float, heading: float) -> Transform:
        """The map for a frame that stands at (x, y, z) in this one, turned right by `heading`."""
        return Transform(self.turn @ _turn_right(heading), self.turn @ np.array([x, y, z]) + self.shift)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the camera is and looks.

    Attributes:
        along, across: in road coordinates, metres.
        chunk: the chunk it is in.
        speed: metres a second.
        into_camera: from the frame of that chunk.
        compass: turns absolute directions (x right, y up, z forward at the road's zero heading) into camera coordinates.
    """

    along: float
    across: float
    chunk: int
    speed: float
    into_camera: Transform
    compass: Float64Array


class Rig:
    """Carries the camera along the road, with the vibration of driving."""

    def __init__(self, config: StreetConfig, road: Road, drive: Drive) -> None:
        self._road, self._drive = road, drive
        self._height = config.camera_height_m
        self._vibration = config.vibration
        rng = generator(config.seed, Topic.VIBRATION)
        self._sway, self._glance = Wobble(rng, 0.03, 0.11), Wobble(rng, 0.05, 0.2)
        self._pitch, self._roll, self._heave = (Wobble(rng, 0.6, 3.2, 5) for _ in range(3))

    def pose(self, time_s: float) -> Pose:
        """The camera at a time."""
        along, speed = self._drive.driven(time_s), self._drive.speed(time_s)
        across = LANE_M - 0.1 + 0.16 * self._sway(time_s)
        place = self._road.locate(along, across)
        shake = self._vibration * min(1.0, speed / 8.0)
        pitch = 0.0042 * shake * self._pitch(time_s)
        roll = 0.005 * shake * self._roll(time_s)
        yaw = place.heading + 0.008 * min(1.0, speed / 6.0) * self._glance(time_s)
        up = self._height + 0.012 * shake * self._heave(time_s)
        look = _roll(roll) @ _pitch(pitch) @ _FLIP_Y
        turn = look @ _turn_right(-yaw)
        absolute = self._road.heading(place.chunk * CHUNK_M) + yaw
        return Pose(
            along=along,
            across=across,
            chunk=place.chunk,
            speed=speed,
            into_camera=Transform(turn, -turn @ np.array([place.x, up, place.z])),
            compass=look @ _turn_right(-absolute),
        )

    def chunk_transforms(self, pose: Pose, behind: int, ahead: int) -> dict[int, Transform]:
        """Maps into the camera from the frames of the chunks around it, nearest first."""
        found = {pose.chunk: pose.into_camera}
        for chunk in range(pose.chunk, pose.chunk + ahead):
            x, z, heading = self._road.step_to_next(chunk)
            found[chunk + 1] = found[chunk].placed(x, 0.0, z, heading)
        for chunk in range(pose.chunk - 1, pose.chunk - behind - 1, -1):
            x, z, heading = self._road.step_to_next(chunk)
            back = _turn_right(-heading) @ np.array([-x, 0.0, -z])
            found[chunk] = found[chunk + 1].placed(float(back[0]), 0.0, float(back[2]), -heading)
        return found

    def in_town(self, pose: Pose, first_chunk: int) -> Float64Array:
        """(4, 4): camera coordinates → a frame fixed in the town, see `Street.camera_pose`.

        Args:
            first_chunk: at whose start that frame lies; not after the chunk of the pose.
        """
        found = Transform(np.eye(3), np.zeros(3))
        for chunk in range(first_chunk, pose.chunk):
            x, z, heading = self._road.step_to_next(chunk)
            found = found.placed(x, 0.0, z, heading)
        turn = found.turn @ pose.into_camera.turn.T
        matrix = np.eye(4)
        matrix[:3, :3] = _TO_ROS @ turn
        matrix[:3, 3] = _TO_ROS @ (found.shift - turn @ pose.into_camera.shift)
        return matrix


def _turn_right(angle: float) -> Float64Array:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def _pitch(angle: float) -> Float64Array:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


def _roll(angle: float) -> Float64Array:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
