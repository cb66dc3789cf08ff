"""What OpenCV does with pictures on the host, on tensors: for pictures that are on a GPU and stay there.

Nothing here waits for the host, or has a shape that depends on what is seen. What is linear along rows and columns (areas,
blurs) is a product with small matrices, which OpenCV itself makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, max_pool2d, pad

from lmanet_core.arrays import Float32Array
from lmanet_core.geometry import Size, plan_geometry
from lmanet_core.stream.motion import thumbnail_size
from lmanet_core.stream.resampling import DeviceResampling

_GREY = (0.299, 0.587, 0.114)  # of red, green, blue
_SLOPE = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0  # Sobel's, grey levels to a pixel


class Picture(NamedTuple):
    """A thumbnail: (3, h, w) and (h, w) float32, whole numbers of 0–255."""

    colours: torch.Tensor
    grey: torch.Tensor


class Thumbnails:
    """Makes thumbnails of pictures of one size.

    Args:
        size: of the pictures.
        device: where they are.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size = thumbnail_size(size)
        self._resampling = DeviceResampling(plan_geometry(size, self.size), device)
        self._weights = torch.tensor(_GREY, device=device)[:, None, None]

    def __call__(self, picture: torch.Tensor) -> Picture:
        """(H, W, 3) float32, whole numbers of 0–255."""
        colours = self._resampling.to_network(picture).permute(2, 0, 1)
        return Picture(colours, self.grey(colours))

    def grey(self, colours: torch.Tensor) -> torch.Tensor:
        """(3, h, w) → (h, w)."""
        return (colours * self._weights).sum(0).round_()


class Separable:
    """What OpenCV does along rows and columns alike, as a product with two matrices.

    Args:
        size: of the planes that it is done to.
        operate: on an image of float32 along its rows only, as OpenCV does it.
        device: where the planes are.
    """

    def __init__(self, size: Size, operate: Callable[[Float32Array, int], npt.ArrayLike], device: torch.device) -> None:
        rows, columns = (
            np.asarray(operate(np.eye(side, dtype=np.float32), axis), np.float32) for axis, side in enumerate(size)
        )
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns).T.contiguous().to(device)

    def __call__(self, planes: torch.Tensor) -> torch.Tensor:
        """(…, h, w) → (…, h', w')."""
        return self._rows @ (planes @ self._columns)


def resized(size: Size, new: Size, device: torch.device) -> Separable:
    """As `cv2.resize`, by areas where both sides shrink and else linear."""
    shrinks = new.height <= size.height and new.width <= size.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return Separable(size, lambda eye, axis: cv2.resize(eye, (len(eye), new[axis]), interpolation=how), device)


def blurred(size: Size, sigma: float, device: torch.device) -> Separable:
    """As `cv2.GaussianBlur` of float32."""
    length = round(sigma * 8 + 1) | 1
    return Separable(size, lambda eye, _: cv2.GaussianBlur(eye, (1, length), sigma), device)


class Places:
    """Where the pixels of planes of one size are.

    Args:
        size: of the planes.
        device: where they are.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        columns, rows = (torch.arange(side, device=device).float() for side in (size.width, size.height))
        self._places = torch.stack((columns.expand(size), rows[:, None].expand(size)))
        self._last = torch.tensor([size.width - 1.0, size.height - 1.0], device=device)[:, None, None]

    def arrive(self, planes: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Planes as they are where a flow leads; outside as at the nearest border.

        Args:
            planes: (C, h, w) float32.
            flow: (2, h, w), pixels to the right and down.

        Returns:
            (C, h, w), and how many pixels inside that is, (h, w); negative outside.
        """
        places = self._places + flow
        inside = torch.minimum(places, self._last - places).amin(0)
        places = (places * (2.0 / self._last) - 1.0).permute(1, 2, 0)
        return grid_sample(planes[None], places[None], align_corners=True, padding_mode="border")[0], inside


def box(plane: torch.Tensor, side: int) -> torch.Tensor:
    """As `cv2.blur`, (h, w)."""
    return avg_pool2d(pad(plane[None, None], (side // 2,) * 4, mode="reflect"), side, 1)[0, 0]


def filtered(plane: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """As `cv2.filter2D`, (h, w) by kernels (K, 3, 3) → (K, h, w)."""
    return conv2d(pad(plane[None, None], (1, 1, 1, 1), mode="reflect"), kernels[:, None])[0]


def dilated(planes: torch.Tensor, side: int) -> torch.Tensor:
    """As `cv2.dilate` with a square of this side, (C, h, w)."""
    return max_pool2d(planes[None], side, 1, side // 2)[0]


def eroded(planes: torch.Tensor, side: int) -> torch.Tensor:
    """As `cv2.erode` with a square of this side, (C, h, w)."""
    return -dilated(-planes, side)


def slope_kernels(device: torch.device) -> torch.Tensor:
    """(2, 3, 3): grey levels to a pixel, to the right and down (Sobel)."""
    return torch.stack((_SLOPE, _SLOPE.T)).to(device)


def solved(matrix: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """x of `matrix` (n, n), symmetric and positive, times x = `wanted` (n, m), by Gauss–Jordan elimination."""
    rows = torch.cat((matrix, wanted), 1)
    for pivot, unit in enumerate(torch.eye(len(matrix), device=matrix.device)):
        rows = torch.addr(rows, rows[:, pivot] - unit, rows[pivot] / rows[pivot, pivot], alpha=-1)
    return rows[:, len(matrix) :]
