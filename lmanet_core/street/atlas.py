"""All textures of a town in one image, each at several sizes for near and far."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.textures import SMALLEST, TEXTURES, draw_texture

_PAD = 2  # wrapped texels around each tile, for bilinear reading
_ATLAS_WIDTH = 2600


class Atlas(NamedTuple):
    """All textures at all sizes in one image.

    Attributes:
        image: (H, W, 4) uint8: r, g, b to add and m to multiply by, 128 = 1.
        x, y: (TEXTURES, levels) float32, where a tile's first texel lies.
        size: (TEXTURES, levels) float32, its side in texels.
    """

    image: UInt8Array
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]


@lru_cache(maxsize=2)
def build_atlas(seed: int) -> Atlas:
    """Draw the textures of one town. Kept, because one town is often seen in several weathers; not to be written to."""
    levels = [_shrink(draw_texture(texture, generator(seed, Topic.TEXTURE, texture))) for texture in range(TEXTURES)]
    depth = max(len(sizes) for sizes in levels)
    x, y, size = (np.zeros((TEXTURES, depth), np.float32) for _ in range(3))
    tiles = sorted(((len(tile), texture, level) for texture, row in enumerate(levels) for level, tile in enumerate(row)))
    left = top = row_height = 0
    placed = []
    for side, texture, level in reversed(tiles):
        if left + side + 2 * _PAD > _ATLAS_WIDTH:
            left, top, row_height = 0, top + row_height, 0
        placed.append((left, top, levels[texture][level]))
        x[texture, level], y[texture, level], size[texture, level] = left + _PAD, top + _PAD, side
        left, row_height = left + side + 2 * _PAD, max(row_height, side + 2 * _PAD)
    image = np.zeros((top + row_height, _ATLAS_WIDTH, 4), np.uint8)
    for tile_left, tile_top, tile in placed:
        padded = np.pad(tile, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), mode="wrap")
        image[tile_top : tile_top + len(padded), tile_left : tile_left + len(padded)] = padded
    for texture, row in enumerate(levels):
        for plane in (x, y, size):
            plane[texture, len(row) :] = plane[texture, len(row) - 1]
    image.flags.writeable = x.flags.writeable = y.flags.writeable = size.flags.writeable = False
    return Atlas(image, x, y, size)


def _shrink(tile: UInt8Array) -> list[UInt8Array]:
    sizes = [tile]
    while len(sizes[-1]) > SMALLEST:
        half = len(sizes[-1]) // 2
        sizes.append(np.asarray(cv2.resize(sizes[-1], (half, half), interpolation=cv2.INTER_AREA), np.uint8))
    return sizes
