"""Notice that the picture suddenly shows another place: a spliced video, a switched camera, a log that was cut.

Called once per frame by `continuity.ContinuityMonitor`, which owns a detector; knows nothing of stamps. A frame is reduced to a
coarse thumbnail of its texture, the thumbnail is divided into blocks, and each block is looked for in the thumbnail before,
within the shift that a quickly turning vehicle causes. Where even the best part of the blocks is not found again, the scene was
cut. Local texture is what two views of *similar* streets do not share, while exposure, noise, motion and a passing car leave
enough of it.

The thumbnail is not network input: it is sampled, never shown, and independent of the geometry plan. Below 0.5 ms per frame on
one core at any image size. Not thread-safe: one detector belongs to one stream and one thread.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

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
_FLAT = 3.0  # grey levels; a frame with less texture (root mean square) shows nothing to compare
_FAINT = 0.15  # a block with less than this share of its frame's texture cannot vote
_MATCHING_SHARE = 0.3  # of the blocks; so much of the picture must go on, the rest may be hidden by what drives by
_HISTORY = 5  # frame pairs that tell what is usual for the stream


class SceneCutDetector:
    """Compare each frame with the one before and say whether the scene was cut.

    A cut must be unlike in absolute terms (`similarity`) and stand out from the stream's own recent frame pairs (`margin`): a
    slow or shaky camera, whose frames never resemble each other much, is not cut at every frame. Until the stream has shown
    what is usual, `similarity` itself counts as usual.

    A frame without texture (black, white, a wall, fog) is neither a cut nor a reference: the frame after it is compared with
    the last one that showed something.

    Not noticed: a cut to a view that really looks alike (another stretch of the same empty motorway), or where more than about
    a sixth of the picture never changes (the vehicle's own bonnet, a logo). Noticed without need: a single damaged frame, as
    two cuts; a textureless wall in heavy noise, again and again.

    Args:
        similarity: 0–1; two frames that resemble each other at least this much are never a cut. Going on, they measure 0.7–1;
            views of different streets 0.2–0.6. `ContinuityConfig` holds the defaults.
        margin: 0–1; how far below the median of the last five pairs a cut must lie.

    Attributes:
        last_similarity: what the last frame measured, 0–1; None where there was nothing to compare.
    """

    def __init__(self, similarity: float, margin: float) -> None:
        self.last_similarity: float | None = None
        self._similarity = similarity
        self._margin = margin
        self._reference: Float32Array | None = None
        self._usual: deque[float] = deque(maxlen=_HISTORY)

    def reset(self) -> None:
        """Forget the stream; the next frame is its first."""
        self.last_similarity = None
        self._reference = None
        self._usual.clear()

    def is_cut(self, image: UInt8Array) -> bool:
        """Whether `image` does not go on from the frame before; the next frame is then compared with it.

        Args:
            image: (H, W, 3) RGB or (H, W) grey, uint8, at least one pixel. Sizes may differ from frame to frame.
        """
        texture = extract_texture(image)
        self.last_similarity = None
        if _rms(texture) < _FLAT:
            return False
        reference, self._reference = self._reference, texture
        if reference is None:
            return False
        measured = measure_similarity(reference, texture)
        self.last_similarity = measured
        usual = median(self._usual) if self._usual else self._similarity
        cut = measured < min(self._similarity, usual - self._margin)
        if cut:
            self._usual.clear()
        else:
            self._usual.append(measured)
        return cut


def extract_texture(image: UInt8Array) -> Float32Array:
    """The local structure of an image on a coarse grid.

    Args:
        image: (H, W, 3) or (H, W) uint8.

    Returns:
        (48, 64) float32 in grey levels, about zero mean everywhere; constant brightness gives zero.

    Raises:
        ValueError: not an image.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0 or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"an image must be (H, W, 3) or (H, W) uint8 with pixels, got {image.shape} {image.dtype}")
    # Sampled first: the cost is that of the samples and does not grow with the image.
    samples = cv2.resize(image, (_WIDTH * _SAMPLES, _HEIGHT * _SAMPLES), interpolation=cv2.INTER_NEAREST)
    grey = samples if samples.ndim == 2 else cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(cells - cv2.GaussianBlur(cells, (0, 0), _TEXTURE_SIGMA), np.float32)


def measure_similarity(reference: Float32Array, current: Float32Array) -> float:
    """How much of `current` is found again in `reference`, whatever the exposure and small motions.

    Each block of `current` is correlated with `reference` at every shift within reach (normalised, so gain does not matter) and
    keeps its best value. The result is the value that the best 30 % of the blocks with texture reach.

    Args:
        reference, current: (48, 64) float32, from `extract_texture`.

    Returns:
        −1 to 1: 1 for the same picture, about 0.3 for unrelated ones (the best of many shifts is rarely near 0); 1 where
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
    faint = _BLOCK_WIDTH * _BLOCK_HEIGHT * (_FAINT * _rms(current)) ** 2 + 1e-3
    norms = np.sqrt(np.maximum(candidates, faint) * np.maximum(own, faint)[:, None, None])
    found = (products / norms).reshape(_BLOCKS, -1).max(axis=1)
    votes = np.sort(found[np.maximum(own, candidates[:, _SHIFT_Y, _SHIFT_X]) > faint])
    if votes.size == 0:
        return 1.0
    return float(votes[-math.ceil(_MATCHING_SHARE * votes.size)])


def _rms(texture: Float32Array) -> float:
    return math.sqrt(np.vdot(texture, texture) / texture.size)
