"""The settings of a generated street, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lmanet_core.errors import ConfigError

Degradation = Literal["none", "noise", "fog", "rain", "night", "blur", "occlusion", "mixed"]

DEGRADATIONS: tuple[Degradation, ...] = get_args(Degradation)
MAX_LEVEL = 3
_SIDES = range(32, 4097)
_MAX_DENSITY = 2.0


@dataclass(frozen=True)
class StreetConfig:
    """Which town, seen by which camera, in which weather.

    Raises:
        ConfigError: a value out of range; the message says which, what was wanted and what came.
    """

    width: int = 512  # pixels
    height: int = 256  # pixels
    fps: float = 10.0  # frames a second of simulated time
    seed: int = 0  # one seed is one town with its traffic and its weather
    degradation: Degradation = "none"  # what the camera suffers; images only, labels stay true
    level: int = 2  # 0 clean … 3 heavy
    traffic: float = 1.0  # vehicles on the road and parked, 0 none … 2 twice as many
    pedestrians: float = 1.0  # people on the pavements, 0 none … 2 twice as many
    focal_scale: float = 1.1  # focal length as a multiple of the image width; 1.1 sees 49° across
    camera_height_m: float = 1.4  # above the road
    vibration: float = 1.0  # pitch and roll from driving, 0 none; 1 is about ±0.3°

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not _is_int(side) or side not in _SIDES:
                raise ConfigError(f"street {name} must be a whole number of {_SIDES[0]}–{_SIDES[-1]} pixels, got {side!r}")
        if not _is_int(self.seed) or self.seed < 0:
            raise ConfigError(f"street seed must be a whole number from 0 up, got {self.seed!r}")
        if self.degradation not in DEGRADATIONS:
            raise ConfigError(f"street degradation must be one of {', '.join(DEGRADATIONS)}, got {self.degradation!r}")
        if not _is_int(self.level) or not 0 <= self.level <= MAX_LEVEL:
            raise ConfigError(f"street level must be 0 (clean) to {MAX_LEVEL} (heavy), got {self.level!r}")
        _check_range("fps", self.fps, 0.1, 1000.0, "frames a second")
        _check_range("traffic", self.traffic, 0.0, _MAX_DENSITY, "times the usual")
        _check_range("pedestrians", self.pedestrians, 0.0, _MAX_DENSITY, "times the usual")
        _check_range("focal_scale", self.focal_scale, 0.4, 4.0, "image widths")
        _check_range("camera_height_m", self.camera_height_m, 0.5, 4.0, "metres")
        _check_range("vibration", self.vibration, 0.0, 5.0, "times the usual")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigError(f"street {name} must be {low:g}–{high:g} {unit}, got {value!r}")
