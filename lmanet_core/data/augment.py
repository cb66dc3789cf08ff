"""Augmentation of a clip: the same for all of its frames and for the labels, so that motion between frames stays true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.files import fit_image, resize_labels
from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size
from lmanet_core.labels import UNLABELLED

MAX_BLOCKS = 12  # lost in each frame
BLOCK_SHARE = 64 / 360  # side of a block, of the image's height


@dataclass(frozen=True)
class AugmentConfig:
    """What may happen to a clip. The defaults are the paper's.

    Raises:
        ConfigError: a value out of range.
    """

    flip: bool = True  # left and right swapped, half of the time
    shift: int = 2  # pixels, up to so many in x and y; what comes in is black and void
    crop: Size | None = None  # cut out a window and give it this size; None: the whole frame
    scale_min: float = 1.0  # the cut window shows things this much larger …
    scale_max: float = 1.0  # … to this much
    color: float = 0.0  # brightness, contrast and saturation, each by up to this share
    lost_blocks: float = 0.0  # probability that blocks of the picture are lost, others in each frame

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(f"shift must be 0 or more pixels, got {self.shift}")
        if not 0.0 < self.scale_min <= self.scale_max:
            raise ConfigError(f"scale_min must be above 0 and at most scale_max, got {self.scale_min} and {self.scale_max}")
        if self.crop is None and self.scale_max != 1.0:
            raise ConfigError("scale_min and scale_max need a crop, such as crop: 320x416")
        if not 0.0 <= self.lost_blocks <= 1.0:
            raise ConfigError(f"lost_blocks is a probability of 0–1, got {self.lost_blocks}")
        if not 0.0 <= self.color < 1.0:
            raise ConfigError(f"color must be 0 or more and below 1, got {self.color}")


def augment(
    frames: UInt8Array, labels: UInt8Array, config: AugmentConfig, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """Frames (T, H, W, 3) and label maps (N, H, W) → the same augmented, of the crop's size where there is one."""
    # First, for a camera loses them: a crop shows a share of them, as large as they are.
    if config.lost_blocks and rng.random() < config.lost_blocks:
        frames = lose_blocks(frames, rng, int(rng.integers(1, MAX_BLOCKS + 1)))
    if config.crop is not None:
        frames, labels = scale_and_crop(frames, labels, config.crop, rng.uniform(config.scale_min, config.scale_max), rng)
    if config.flip and rng.random() < 0.5:
        frames, labels = frames[:, :, ::-1], labels[:, :, ::-1]
    if config.shift:
        down, right = (int(step) for step in rng.integers(-config.shift, config.shift + 1, 2))
        frames, labels = shifted(frames, down, right, (1, 2), 0), shifted(labels, down, right, (1, 2), UNLABELLED)
    if config.color:
        frames = recolor(frames, *(float(change) for change in rng.uniform(-config.color, config.color, 3)))
    return frames, labels


def lose_blocks(frames: UInt8Array, rng: np.random.Generator, count: int) -> UInt8Array:
    """Squares of one colour (black, grey or any) instead of picture, as lost packets leave them, others in each frame.

    Args:
        frames: (T, H, W, 3).
        rng: draws places and colours.
        count: in each frame; their side is `BLOCK_SHARE` of the height.
    """
    degraded = frames.copy()
    height, width = frames.shape[1:3]
    side = max(1, round(BLOCK_SHARE * height))
    for frame in degraded:
        for _ in range(count):
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(max(1, width - side + 1)))
            colors = (np.zeros(3), np.full(3, 114), rng.integers(0, 256, 3))
            frame[top : top + side, left : left + side] = colors[int(rng.integers(3))].astype(np.uint8)
    return np.asarray(degraded, np.uint8)


def scale_and_crop(
    frames: UInt8Array, labels: UInt8Array, crop: Size, scale: float, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """A window at a random place, given the size `crop`; things in it grow by `scale`, more where the frame is too small."""
    height, width = labels.shape[1:]
    scale = max(scale, crop.height / height, crop.width / width)
    window = Size(min(height, round(crop.height / scale)), min(width, round(crop.width / scale)))
    top, left = int(rng.integers(height - window.height + 1)), int(rng.integers(width - window.width + 1))
    rows, columns = slice(top, top + window.height), slice(left, left + window.width)
    cut = np.stack([fit_image(frame[rows, columns], crop) for frame in frames])
    return cut, np.stack([resize_labels(plane[rows, columns], crop) for plane in labels])


def shifted(maps: UInt8Array, down: int, right: int, axes: tuple[int, int], fill: int) -> UInt8Array:
    """Moved by whole pixels along the axes (rows, columns); what comes in is `fill`."""
    out = np.full_like(maps, fill)
    target, source = [slice(None)] * maps.ndim, [slice(None)] * maps.ndim
    for axis, step in zip(axes, (down, right), strict=True):
        length = maps.shape[axis]
        target[axis] = slice(max(step, 0), length + min(step, 0))
        source[axis] = slice(max(-step, 0), length + min(-step, 0))
    out[tuple(target)] = maps[tuple(source)]
    return out


def recolor(frames: UInt8Array, brightness: float, contrast: float, saturation: float) -> UInt8Array:
    """Each change as a share: 0.1 is a tenth brighter, of more contrast, more colourful."""
    pixels = frames.astype(np.float32) * np.float32(1.0 + brightness)
    mean = pixels.mean(dtype=np.float32)
    pixels = (pixels - mean) * np.float32(1.0 + contrast) + mean
    grey = pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    pixels = grey[..., None] + (pixels - grey[..., None]) * np.float32(1.0 + saturation)
    return to_uint8(pixels)


def to_uint8(pixels: npt.NDArray[np.float32]) -> UInt8Array:
    """Rounded and kept within 0–255."""
    return np.asarray(np.clip(pixels.round(), 0, 255), np.uint8)
