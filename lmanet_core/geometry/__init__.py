"""From the camera's image to the network's input and back: sizes, resizing, calibration."""

from lmanet_core.geometry.calibration import CameraInfo
from lmanet_core.geometry.plan import LETTERBOX_GREY, GeometryPlan, ResizeMode, Taps, plan_geometry, resize_image
from lmanet_core.geometry.size import Size, feature_grid, fit_network_size, parse_size
from lmanet_core.geometry.turning import TurnedPlan, turn_plan, turn_size

__all__ = [
    "LETTERBOX_GREY",
    "CameraInfo",
    "GeometryPlan",
    "ResizeMode",
    "Size",
    "Taps",
    "TurnedPlan",
    "feature_grid",
    "fit_network_size",
    "parse_size",
    "plan_geometry",
    "resize_image",
    "turn_plan",
    "turn_size",
]
