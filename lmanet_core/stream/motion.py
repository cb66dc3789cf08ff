"""Where what was seen is now: the motion of the picture, for memories that compensate it (`MemoryConfig.motion_compensation`).

Optical flow (OpenCV DIS) on a thumbnail, trusted where the two pictures agree along it and where there is texture. A smooth
motion (quadratic in x and y, fitted robustly) fills in the rest: what a moving camera does to the whole picture. It tells where
things are that the present frame does not show, for a block of it is lost or something is in the way.

Knows nothing of networks. The thumbnail is compared and thrown away.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.geometry import Size, resize_image

_LONG_SIDE = 256  # of a thumbnail, pixels; all lengths below are in its pixels and grey levels
LEAST_SIDE = 32  # smaller pictures have no room for the flow's patches
BLOCK = 4  # flow is averaged over squares of this side
DISAGREEMENT = 4.0  # grey levels along the flow; trust falls to a third with each
BLUR = 5  # over which disagreement is averaged
TEXTURE = 8.0  # grey levels to a pixel that are half as good as any more
TOLERANCES = (9.6, 4.8, 2.4, 1.2, 1.2, 1.2, 1.2, 1.2)  # pixels from the fit, by round; the next trusts less what lay farther
RIDGE = 1e-3 * np.diag([0.0, 0.2, 0.2, 1.0, 1.0, 1.0])  # where little is trusted, motion is simple
FARTHEST = 12.0  # pixels from the fit; what moves otherwise is an error
SPREAD = 1.5  # blocks over which own motion is averaged
LEAST_TRUST = 0.05  # own motion counts half where trust is no more


class PictureMotion:
    """Measures how the picture moves from one frame to another. Keeps the flow algorithm's buffers; one thread at a time."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def measure(self, before: UInt8Array, after: UInt8Array) -> Float32Array:
        """How far each block of `before` has moved in `after`.

        Args:
            before, after: thumbnails (h, w) of one size.

        Returns:
            (2, h / 4, w / 4), down and right, as shares of the picture's height and width. Zero where nothing can be told.

        Raises:
            ValueError: sizes differ.
        """
        if before.shape != after.shape:
            raise ValueError(f"motion is between pictures of one size, got {before.shape} and {after.shape}")
        height, width = before.shape
        blocks = (max(1, width // BLOCK), max(1, height // BLOCK))
        if min(before.shape) < LEAST_SIDE:
            return np.zeros((2, blocks[1], blocks[0]), np.float32)
        flow = np.asarray(self._flow.calc(before, after, None), np.float32)  # type: ignore[call-overload]
        trust = _trust(before, after, flow)
        block_trust = np.asarray(cv2.resize(trust, blocks, interpolation=cv2.INTER_AREA), np.float32)
        weighted = np.asarray(cv2.resize(flow * trust[..., None], blocks, interpolation=cv2.INTER_AREA), np.float32)
        mean = np.asarray(weighted / np.maximum(block_trust, 1e-4)[..., None], np.float32)
        smooth = _fit(mean, block_trust)
        own = mean - smooth
        block_trust = np.where(np.hypot(own[..., 0], own[..., 1]) < FARTHEST, block_trust, np.float32(0.0))
        share = cv2.GaussianBlur(block_trust, (0, 0), SPREAD)
        own = np.asarray(cv2.GaussianBlur(own * block_trust[..., None], (0, 0), SPREAD), np.float32)
        moved = (smooth + own / (share + LEAST_TRUST)[..., None]) / np.array((width, height), np.float32)
        return np.ascontiguousarray(moved.transpose(2, 0, 1)[::-1], np.float32)


class PositionTracker:
    """Follows the cells of remembered frames through one stream. One thread at a time.

    A frame's cells start as its grid of features, and move with the picture from each remembered frame to the next, and from
    the newest of them to the present one. Frames that are not remembered leave no trace.
    """

    def __init__(self) -> None:
        self._motion = PictureMotion()
        self._newest: UInt8Array | None = None
        self._seen: tuple[UInt8Array, Size] | None = None  # what was tracked last, and its grid
        self._kept: list[Float32Array] = []  # by slot: where its cells were in the newest frame
        self._now: list[Float32Array] = []  # and are in the one that was tracked

    def clear(self) -> None:
        """Forget every frame."""
        self._newest, self._seen = None, None
        self._kept, self._now = [], []

    def track(self, image: UInt8Array, grid: Size) -> Float32Array:
        """Where the remembered frames' cells are in this image.

        Args:
            image: (H, W, 3) uint8 RGB, as the network sees it.
            grid: height and width of the features.

        Returns:
            (T, 2, h, w) float32, row and column in cells, in the order of the slots; T is 0 while nothing is remembered.
        """
        small = grey_thumbnail(image)
        self._seen, self._now = (small, grid), []
        if self._newest is not None:
            shift = _to_grid(self._motion.measure(self._newest, small), grid)
            self._now = [_moved(positions, shift) for positions in self._kept]
        return np.stack(self._now) if self._now else np.empty((0, 2, *grid), np.float32)

    def commit(self, slot: int) -> None:
        """The image that was tracked last is remembered in this slot, a new one or one that is overwritten.

        Raises:
            ValueError: none was tracked.
        """
        if self._seen is None:
            raise ValueError("there is no image to commit: track one first")
        self._newest, grid = self._seen
        self._kept, self._now = self._now, []
        self._kept[slot : slot + 1] = [np.indices(grid).astype(np.float32)]


def follow(frames: UInt8Array, grid: Size) -> list[Float32Array]:
    """Of each frame of a clip, where the cells of the frames before it are.

    Args:
        frames: (T, H, W, 3) uint8 RGB, oldest first, all of them remembered.
        grid: height and width of the features.

    Returns:
        For frame t: (t, 2, h, w), see `PositionTracker.track`.
    """
    tracker = PositionTracker()
    positions = []
    for number, frame in enumerate(frames):
        positions.append(tracker.track(frame, grid))
        tracker.commit(number)
    return positions


def thumbnail(image: UInt8Array) -> UInt8Array:
    """(H, W, 3) RGB → the same 256 pixels long at most, of the same aspect."""
    return resize_image(image, thumbnail_size(Size(*image.shape[:2])))


def thumbnail_size(size: Size) -> Size:
    """Of the thumbnail of an image."""
    shrink = min(1.0, _LONG_SIDE / max(size))
    return Size(max(1, round(size.height * shrink)), max(1, round(size.width * shrink)))


def grey_thumbnail(image: UInt8Array) -> UInt8Array:
    """(H, W, 3) RGB → (h, w) grey, as `thumbnail`."""
    return np.asarray(cv2.cvtColor(thumbnail(image), cv2.COLOR_RGB2GRAY), np.uint8)


def _trust(before: UInt8Array, after: UInt8Array, flow: Float32Array) -> Float32Array:
    """(h, w) 0–1: how sure the flow of a pixel is."""
    height, width = before.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    columns, rows = columns + flow[..., 0], rows + flow[..., 1]
    inside = (columns > 0) & (columns < width - 1) & (rows > 0) & (rows < height - 1)
    arrived = cv2.remap(after, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    disagreement = cv2.blur(cv2.absdiff(arrived, before).astype(np.float32), (BLUR, BLUR))
    slopes = (cv2.Sobel(before, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    texture = np.hypot(*slopes)
    return np.asarray(inside * np.exp(-disagreement / DISAGREEMENT) * texture / (texture + TEXTURE), np.float32)


def _fit(flow: Float32Array, trust: Float32Array) -> Float32Array:
    """The motion, quadratic in x and y, that most of a flow (h, w, 2) follows, at every block."""
    height, width = trust.shape
    terms = quadratic_terms(height, width)
    wanted = flow.reshape(-1, 2).astype(np.float64)
    weight = trust.reshape(-1).astype(np.float64) + 1e-4
    near = np.ones_like(weight)
    for tolerance in TOLERANCES:
        weighted = terms * (weight * near)[:, None]
        total = float((weight * near).sum())
        coefficients = np.linalg.solve(terms.T @ weighted + total * RIDGE + 1e-6 * np.eye(6), weighted.T @ wanted)
        near = (1.0 + np.square(wanted - terms @ coefficients).sum(1) / tolerance**2) ** -2.0
    return (terms @ coefficients).reshape(height, width, 2).astype(np.float32)


@lru_cache(maxsize=4)
def quadratic_terms(height: int, width: int) -> npt.NDArray[np.float64]:
    """1, x, y, x², xy, y² of every block, (h · w, 6)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), -1).reshape(-1, 6)


def _to_grid(shares: Float32Array, grid: Size) -> Float32Array:
    """Motion in shares of the picture → in cells, at every cell."""
    shrinks = grid.height <= shares.shape[1] and grid.width <= shares.shape[2]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    planes = (cv2.resize(plane, (grid.width, grid.height), interpolation=how) for plane in shares)
    return np.stack([plane * np.float32(side) for plane, side in zip(planes, grid, strict=True)])


def _moved(positions: Float32Array, shift: Float32Array) -> Float32Array:
    """Places (2, h, w) in one frame, in cells → the same in the next."""
    rows, columns = positions
    steps = (cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in shift)
    return np.asarray(positions + np.stack(list(steps)), np.float32)
