"""Cameras mounted on their side or upside down: the network sees the picture upright, labels come out as it came in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError
from lmanet_core.geometry.plan import Axis, GeometryPlan
from lmanet_core.geometry.size import Size

T = TypeVar("T", bound=npt.NDArray[Any])


@dataclass(frozen=True, slots=True)
class TurnedPlan(GeometryPlan):
    """The plan of a camera whose images are turned before the network sees them.

    Camera and output are as the camera sees, so that label maps, overlays and calibration belong to its own images; only the
    network's side is upright.

    Attributes:
        plan: of the turned images.
        degrees: 90, 180 or 270, clockwise.
    """

    plan: GeometryPlan
    degrees: int

    @property
    def upright(self) -> GeometryPlan:
        """See `GeometryPlan`."""
        return self.plan

    def turn(self, image: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`."""
        return np.ascontiguousarray(np.rot90(image, -self.degrees // 90))

    def turn_back(self, plane: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`."""
        return np.ascontiguousarray(np.rot90(plane, self.degrees // 90))

    def to_network(self, image: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`; upright."""
        return self.plan.to_network(self.turn(image))

    def to_network_position(self, x: float, y: float) -> tuple[float, float]:
        """See `GeometryPlan`; of the camera's own image."""
        width, height = self.camera_size.width, self.camera_size.height
        turned = {90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}[self.degrees]
        return self.plan.to_network_position(*turned)

    def labels_to_output(self, labels: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`."""
        return self.turn_back(self.plan.labels_to_output(labels))

    def confidence_to_output(self, confidence: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`."""
        return self.turn_back(self.plan.confidence_to_output(confidence))

    def image_to_output(self, image: UInt8Array) -> UInt8Array:
        """See `GeometryPlan`."""
        return self.turn_back(self.plan.image_to_output(self.turn(image)))


def turn_size(size: Size, degrees: int) -> Size:
    """The size of images turned by 0, 90, 180 or 270 degrees."""
    return Size(size.width, size.height) if degrees % 180 else size


def turn_plan(plan: GeometryPlan, degrees: int) -> GeometryPlan:
    """The plan for images that become those of `plan` when they are turned.

    Args:
        plan: for upright images; its output size is of upright label maps.
        degrees: 0, 90, 180 or 270, clockwise.

    Raises:
        ConfigError: other degrees.
    """
    if degrees not in (0, 90, 180, 270):
        raise ConfigError(f"rotate must be 0, 90, 180 or 270 degrees, got {degrees}")
    if degrees == 0:
        return plan
    rows, columns = plan._rows, plan._columns
    flipped_rows = _flip(rows, plan.camera_size.height, plan.network_size.height)
    flipped_columns = _flip(columns, plan.camera_size.width, plan.network_size.width)
    # Row y of the camera is column height − y of what was turned by 90°, and column y of what was turned by 270°.
    own_rows, own_columns = {
        90: (flipped_columns, rows), 180: (flipped_rows, flipped_columns), 270: (columns, flipped_rows),
    }[degrees]  # fmt: skip
    return TurnedPlan(
        camera_size=turn_size(plan.camera_size, degrees),
        network_size=plan.network_size,
        output_size=turn_size(plan.output_size, degrees),
        output_is_network=plan.output_is_network,
        _rows=own_rows,
        _columns=own_columns,
        plan=plan,
        degrees=degrees,
    )


def _flip(axis: Axis, camera: int, network: int) -> Axis:
    return replace(
        axis,
        camera_start=camera - axis.camera_stop,
        camera_stop=camera - axis.camera_start,
        network_start=network - axis.network_stop,
        network_stop=network - axis.network_start,
    )
