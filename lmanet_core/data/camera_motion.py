"""Past frames for a still image: how a camera would have seen it a moment before.

The still is the last frame, untouched by motion. Going back in time, a smooth random motion of the camera (translation, zoom,
roll, perspective, as one homography a frame) moves it; exposure, noise, blur and moving occluders then degrade the images,
never the labels: they say what is behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lmanet_core.arrays import Float64Array, UInt8Array
from lmanet_core.data.augment import to_uint8
from lmanet_core.errors import ConfigError
from lmanet_core.labels import UNLABELLED


@dataclass(frozen=True)
class MotionConfig:
    """How far the camera moves in a frame and how the images suffer. Motions are standard deviations of the mean speed.

    Raises:
        ConfigError: a negative value, or a probability above 1.
    """

    translation: float = 0.01  # of the image width, a frame
    zoom: float = 0.012  # natural logarithm of the scale, a frame
    roll_deg: float = 0.25  # degrees a frame
    perspective: float = 0.004  # change of depth across the image, a frame
    unsteadiness: float = 0.3  # speed changes from frame to frame by this share
    exposure: float = 0.1  # gain of each frame, standard deviation
    noise: float = 6.0  # standard deviation in grey levels, at most
    blur_px: float = 1.0  # sigma, at most
    occluders: int = 3  # at most so many things pass before the camera
    degrade_past: float = 0.5  # probability that the frames before the last suffer
    degrade_last: float = 0.0  # probability that the last frame suffers as well

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {value}")
        for name in ("degrade_past", "degrade_last"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is a probability of 0–1, got {getattr(self, name)}")


def past_homographies(
    height: int, width: int, frames: int, stride: int, config: MotionConfig, rng: np.random.Generator
) -> list[Float64Array]:
    """(3, 3) maps from pixels of the still to pixels of each frame, oldest first; the last is the identity."""
    spread = np.array(
        (config.translation, config.translation, config.zoom, config.roll_deg, config.perspective, config.perspective)
    )
    mean = rng.normal(0.0, 1.0, 6) * spread
    place = np.zeros(6)
    maps = [np.eye(3)]
    for _ in range(frames - 1):
        place = place - stride * mean - rng.normal(0.0, 1.0, 6) * spread * config.unsteadiness * stride**0.5
        maps.append(_homography(height, width, place))
    return maps[::-1]


def _homography(height: int, width: int, place: Float64Array) -> Float64Array:
    """Roll and zoom, then perspective, then translation, in units of half a width from the centre."""
    x, y, zoom, roll_deg, lean_x, lean_y = place
    cos, sin = np.exp(zoom) * np.cos(np.radians(roll_deg)), np.exp(zoom) * np.sin(np.radians(roll_deg))
    to_center = np.array(((1, 0, -(width - 1) / 2), (0, 1, -(height - 1) / 2), (0, 0, width / 2)))
    turn = np.array(((cos, -sin, 0), (sin, cos, 0), (0, 0, 1)))
    lean = np.array(((1, 0, 0), (0, 1, 0), (lean_x, lean_y, 1)))
    move = np.array(((1, 0, 2 * x), (0, 1, 2 * y), (0, 0, 1)))
    homography = np.linalg.inv(to_center) @ move @ lean @ turn @ to_center
    return np.asarray(homography / homography[2, 2], np.float64)


def move_still(image: UInt8Array, labels: UInt8Array, homography: Float64Array) -> tuple[UInt8Array, UInt8Array]:
    """The still as a camera elsewhere sees it: image (mirrored beyond its border) and labels (void beyond it)."""
    size = labels.shape[::-1]
    moved = cv2.warpPerspective(image, homography, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    moved_labels = cv2.warpPerspective(
        labels, homography, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=UNLABELLED
    )
    return np.asarray(moved, np.uint8), np.asarray(moved_labels, np.uint8)


def degrade(frames: UInt8Array, config: MotionConfig, rng: np.random.Generator) -> UInt8Array:
    """Exposure, noise, blur and occluders over (T, H, W, 3) frames; which of them suffer is drawn first."""
    past, last = rng.random() < config.degrade_past, rng.random() < config.degrade_last
    if not past and not last:
        return frames
    degraded = _pass_occluders(frames, int(rng.integers(0, config.occluders + 1)), rng)
    noise, sigma = rng.uniform(0, config.noise), rng.uniform(0, config.blur_px)
    degraded = np.stack([_expose(frame, noise, sigma, config.exposure, rng) for frame in degraded])
    if not past:
        degraded[:-1] = frames[:-1]
    if not last:
        degraded[-1] = frames[-1]
    return degraded


def _expose(frame: UInt8Array, noise: float, sigma: float, exposure: float, rng: np.random.Generator) -> UInt8Array:
    pixels = frame.astype(np.float32)
    if sigma > 0.3:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.float32)
    pixels *= np.float32(max(0.1, rng.normal(1.0, exposure)))
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(noise)
    return to_uint8(pixels)


def _pass_occluders(frames: UInt8Array, count: int, rng: np.random.Generator) -> UInt8Array:
    """Ellipses and boxes of one colour or of another part of the image, each on a straight path."""
    count_frames, height, width = frames.shape[:3]
    covered = frames.copy()
    for _ in range(count):
        half = rng.uniform(0.03, 0.12, 2) * (width, height)
        start, speed = rng.uniform(0, (width, height)), rng.normal(0, 0.04, 2) * width
        color = rng.integers(0, 256, 3)
        lifted = int(rng.integers(1, width)) if rng.random() < 0.5 else 0
        box = rng.random() < 0.5
        for t in range(count_frames):
            x, y = start + speed * t
            mask = np.zeros((height, width), np.uint8)
            if box:
                corners = np.round(((x - half[0], y - half[1]), (x + half[0], y + half[1]))).astype(int).tolist()
                cv2.rectangle(mask, corners[0], corners[1], 1, -1)
            else:
                cv2.ellipse(mask, (round(x), round(y)), (round(half[0]), round(half[1])), 0, 0, 360, 1, -1)
            chosen = mask.astype(bool)
            covered[t][chosen] = np.roll(frames[0], lifted, 1)[chosen] if lifted else color
    return np.asarray(covered, np.uint8)
