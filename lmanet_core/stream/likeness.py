"""How much two pictures of a stream show the same place, whatever the camera has done in between.

A picture is reduced to a coarse thumbnail of its texture, the thumbnail is divided into blocks, and each block is looked for
in the other thumbnail, within the shift that a quickly turning vehicle causes. Local texture is what two views of *similar*
streets do not share. Where pictures seem unlike, `explained_similarity` tries what makes a going-on picture look different:
driving ahead, another exposure, blur, blocks that were lost.

Thumbnails are sampled, never shown, and independent of the network's input. Pure functions, one core, below 0.5 ms a comparison
at any image size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np

from lmanet_core.arrays import Float32Array, UInt8Array

_WIDTH, _HEIGHT = 64, 48  # thumbnail, cells; the image is stretched onto it
_SAMPLES = 4  # samples per cell along each axis; their mean takes sensor noise of sigma 25 down to about 6
_TEXTURE_SIGMA = 3.0  # cells; anything smoother (sky gradient, vignetting, exposure) is not texture
_BLOCK_WIDTH, _BLOCK_HEIGHT = 16, 12  # cells; 4 x 4 blocks
_CORNERS = [(y, x) for y in range(0, _HEIGHT, _BLOCK_HEIGHT) for x in range(0, _WIDTH, _BLOCK_WIDTH)]
_BLOCKS = len(_CORNERS)
_SHIFT_X, _SHIFT_Y = 10, 5  # cells searched to each side: 16 % of the width, 10 % of the height
_FAINT = 0.15  # a block with less than this share of its frame's texture cannot vote
_MATCHING_SHARE = 0.3  # of the blocks; so much of the picture must go on, the rest may be hidden by what drives by
_ZOOMS = (1.07, 1.15, 1.25, 1.45)  # of what was seen, as the camera drives on; the last where much time has passed
_LONG_S = 0.35  # so much
_OTHER_EXPOSURE = 8.0  # grey levels that the mean brightness must differ by
_BLURRED = 0.8  # of the texture of the other picture, or less
_BLUR_SIGMA = 1.2  # cells
_LEAST_INTACT = 0.6  # of the picture, for it to be compared without its lost blocks
_FLAT_RANGE = 2  # grey levels within a lost patch
_FLAT_WINDOW, _FLAT_PATCH, _FLAT_MARGIN = (np.ones((side, side), np.uint8) for side in (5, 9, 7))  # samples


@dataclass(frozen=True, slots=True, eq=False)
class Glimpse:
    """What is kept of a picture to compare others with.

    Attributes:
        cells: (48, 64) float32 grey levels.
        texture: (48, 64) float32, see `extract_texture`.
        samples: (192, 256, 3) or (192, 256) uint8, what the cells are made of.
        grey: (192, 256) uint8, the samples' grey levels.
    """

    cells: Float32Array
    texture: Float32Array
    samples: UInt8Array
    grey: UInt8Array

    @property
    def strength(self) -> float:
        """Of the texture: its root mean square, grey levels."""
        return rms(self.texture)


def sample(image: UInt8Array) -> UInt8Array:
    """The samples that a glimpse is made of; of samples, the same.

    Args:
        image: (H, W, 3) or (H, W) uint8, at least one pixel.

    Returns:
        (192, 256, 3) or (192, 256) uint8. The cost is that of the samples and does not grow with the image.

    Raises:
        ValueError: not an image.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0 or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"an image must be (H, W, 3) or (H, W) uint8 with pixels, got {image.shape} {image.dtype}")
    size = (_WIDTH * _SAMPLES, _HEIGHT * _SAMPLES)
    if image.shape[1::-1] == size and image.flags.c_contiguous:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def glimpse(image: UInt8Array | Glimpse) -> Glimpse:
    """See `Glimpse`; takes what `sample` takes, and raises as that. Of a glimpse, the same."""
    if isinstance(image, Glimpse):
        return image
    samples = sample(image)
    grey = samples if samples.ndim == 2 else np.asarray(cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY), np.uint8)
    cells = np.asarray(cv2.resize(grey, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA), np.float32)
    return Glimpse(cells, _texture(cells), samples, grey)


def extract_texture(image: UInt8Array) -> Float32Array:
    """The local structure of an image on a coarse grid.

    Args:
        image: (H, W, 3) or (H, W) uint8.

    Returns:
        (48, 64) float32 in grey levels, about zero mean everywhere; constant brightness gives zero.

    Raises:
        ValueError: not an image.
    """
    return glimpse(image).texture


def measure_similarity(reference: Float32Array, current: Float32Array) -> float:
    """How much of `current` is found again in `reference`, whatever the gain and small motions.

    Each block of `current` is correlated with `reference` at every shift within reach (normalised, so gain does not matter) and
    keeps its best value. The result is the value that the best 30 % of the blocks with texture reach.

    Args:
        reference, current: (48, 64) float32, from `extract_texture`.

    Returns:
        −1 to 1: 1 for the same picture, about 0.4 for unrelated ones (the best of many shifts is rarely near 0); 1 where
        neither has texture.
    """
    padded = cv2.copyMakeBorder(reference, _SHIFT_Y, _SHIFT_Y, _SHIFT_X, _SHIFT_X, cv2.BORDER_CONSTANT, value=0)
    window = (_BLOCK_WIDTH, _BLOCK_HEIGHT)
    energies = cv2.boxFilter(padded * padded, -1, window, anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
    products = np.empty((_BLOCKS, 2 * _SHIFT_Y + 1, 2 * _SHIFT_X + 1), np.float32)
    candidates = np.empty_like(products)
    own = np.empty(_BLOCKS, np.float32)
    for i, (y, x) in enumerate(_CORNERS):
        block = current[y : y + _BLOCK_HEIGHT, x : x + _BLOCK_WIDTH]
        reach = padded[y : y + _BLOCK_HEIGHT + 2 * _SHIFT_Y, x : x + _BLOCK_WIDTH + 2 * _SHIFT_X]
        products[i] = cv2.matchTemplate(reach, block, cv2.TM_CCORR)
        candidates[i] = energies[y : y + 2 * _SHIFT_Y + 1, x : x + 2 * _SHIFT_X + 1]
        own[i] = np.vdot(block, block)
    # Nearly nothing correlated with nearly nothing is no match: less energy than this counts as this much.
    faint = _BLOCK_WIDTH * _BLOCK_HEIGHT * (_FAINT * rms(current)) ** 2 + 1e-3
    norms = np.sqrt(np.maximum(candidates, faint) * np.maximum(own, faint)[:, None, None])
    found = (products / norms).reshape(_BLOCKS, -1).max(axis=1)
    votes = np.sort(found[np.maximum(own, candidates[:, _SHIFT_Y, _SHIFT_X]) > faint])
    if votes.size == 0:
        return 1.0
    return float(votes[-math.ceil(_MATCHING_SHARE * votes.size)])


def explained_similarity(before: Glimpse, now: Glimpse, elapsed_s: float, enough: float) -> float:
    """The similarity of two pictures once what a camera does to a going-on picture is taken into account.

    Tried one after the other, until `enough` is reached: lost blocks are left out; the picture with the wider range of grey
    levels gets the other's exposure; the sharper one its blur; and the best of these is seen again from further ahead.

    Args:
        before, now: the pictures.
        elapsed_s: between them, seconds.
        enough: similarity that ends the search.
    """
    best = -1.0
    pair: _Pair = (before.cells, now.cells, None, None)
    for cells, other, mask, other_mask in chain([pair], _explanations(before, now)):
        measured = measure_similarity(_texture(cells, mask), _texture(other, other_mask))
        if measured > best:
            best, pair = measured, (cells, other, mask, other_mask)
        if best >= enough:
            return best
    cells, other, mask, other_mask = pair
    current = _texture(other, other_mask)
    for zoom in _ZOOMS if elapsed_s > _LONG_S else _ZOOMS[:-1]:
        nearer = _texture(_zoomed(cells, zoom), None if mask is None else np.floor(_zoomed(mask, zoom)))
        best = max(best, measure_similarity(nearer, current))
        if best >= enough:
            break
    return best


def mirrored_similarity(before: Glimpse, now: Glimpse) -> float:
    """How much `now` resembles the mirror image of `before`."""
    return measure_similarity(np.ascontiguousarray(before.texture[:, ::-1]), now.texture)


def rms(texture: Float32Array) -> float:
    """Root mean square of a texture, grey levels."""
    return math.sqrt(np.vdot(texture, texture) / texture.size)


_Pair = tuple[Float32Array, Float32Array, Float32Array | None, Float32Array | None]  # cells before and now, and their masks


def _explanations(before: Glimpse, now: Glimpse) -> Iterator[_Pair]:
    """Pairs of cells that are as alike as an explanation makes them."""
    mask, other_mask = _intact(before.samples), _intact(now.samples)
    if _LEAST_INTACT <= min(float(mask.mean()), float(other_mask.mean())) < 1.0:
        yield before.cells, now.cells, mask, other_mask
    if abs(float(before.cells.mean() - now.cells.mean())) > _OTHER_EXPOSURE:
        yield _with_levels(before.cells, now.cells), now.cells, None, None
        yield before.cells, _with_levels(now.cells, before.cells), None, None
    if now.strength < _BLURRED * before.strength:
        yield _blurred(before.cells), now.cells, None, None
    elif before.strength < _BLURRED * now.strength:
        yield before.cells, _blurred(now.cells), None, None


def _texture(cells: Float32Array, mask: Float32Array | None = None) -> Float32Array:
    """Cells less their surroundings; of masked cells, as if the surroundings went on there."""
    if mask is None:
        return np.asarray(cells - cv2.GaussianBlur(cells, (0, 0), _TEXTURE_SIGMA), np.float32)
    weight = np.maximum(cv2.GaussianBlur(mask, (0, 0), _TEXTURE_SIGMA), 1e-3)
    return np.asarray((cells - cv2.GaussianBlur(cells * mask, (0, 0), _TEXTURE_SIGMA) / weight) * mask, np.float32)


def _intact(samples: UInt8Array) -> Float32Array:
    """(48, 64) 1.0 where the picture is not of one colour over a patch, 0.0 where it is, and beside it."""
    span = cv2.subtract(cv2.dilate(samples, _FLAT_WINDOW), cv2.erode(samples, _FLAT_WINDOW))
    flat = ((span if span.ndim == 2 else span.max(2)) <= _FLAT_RANGE).astype(np.uint8)
    lost = cv2.dilate(cv2.morphologyEx(flat, cv2.MORPH_OPEN, _FLAT_PATCH), _FLAT_MARGIN).astype(np.float32)
    return (cv2.resize(lost, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA) < 0.01).astype(np.float32)


def _with_levels(cells: Float32Array, other: Float32Array) -> Float32Array:
    """The grey levels of `other`, in the order of brightness of `cells`: as if exposed alike."""
    levels = np.empty(cells.size, np.float32)
    levels[np.argsort(cells, axis=None, kind="stable")] = np.sort(other, axis=None)
    return levels.reshape(cells.shape)


def _blurred(cells: Float32Array) -> Float32Array:
    return np.asarray(cv2.GaussianBlur(cells, (0, 0), _BLUR_SIGMA), np.float32)


def _zoomed(cells: Float32Array, zoom: float) -> Float32Array:
    """Seen from further ahead."""
    centre = (_WIDTH / 2 * (1 - zoom), _HEIGHT / 2 * (1 - zoom))
    matrix = np.array([[zoom, 0, centre[0]], [0, zoom, centre[1]]], np.float32)
    size = (_WIDTH, _HEIGHT)
    return np.asarray(cv2.warpAffine(cells, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
