"""The one place that resizes: camera image → network input → label map, planned once and inverted exactly.

A plan is made when the first image of a size arrives and used for every following one. Along each axis it is an affine map
between pixel edges, `network = scale · camera + offset`, so that the label map, the image and the camera matrix all agree to a
fraction of a pixel. Images are averaged when they shrink; labels are never interpolated (nearest pixel centre).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.geometry.calibration import CameraInfo, map_matrices
from lmanet_core.geometry.size import MAX_SIDE, Size, parse_size

if TYPE_CHECKING:
    import torch

IndexArray = npt.NDArray[np.int64]
ResizeMode = Literal["stretch", "letterbox", "crop"]

_UNLABELLED = 255
LETTERBOX_GREY = 114


@dataclass(frozen=True, slots=True)
class Axis:
    """Of a plan: `network_edge = scale · camera_edge + offset` along one axis, and the pixels that really carry image."""

    camera_start: int  # pixels of the camera that are used: [start, stop)
    camera_stop: int
    network_start: int  # where they land: [start, stop)
    network_stop: int

    @property
    def scale(self) -> float:
        """Network pixels to a camera pixel."""
        return (self.network_stop - self.network_start) / (self.camera_stop - self.camera_start)

    @property
    def offset(self) -> float:
        """Where the camera's first edge would land."""
        return self.network_start - self.scale * self.camera_start


class Taps(NamedTuple):
    """Along one axis: each pixel is Σ_k weight[:, k] · camera[position[:, k]].

    Attributes:
        position: (n, k) int64, the camera's pixels.
        weight: (n, k) float32, each row sums to 1; whole 1/2048 where `GeometryPlan.averages` is false.
    """

    position: IndexArray
    weight: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GeometryPlan:
    """How images of one size become network input, and network labels become output.

    Attributes:
        camera_size: size of the images this plan is for.
        network_size: size the network sees.
        output_size: size of the label maps.
        output_is_network: label maps keep the network's own pixel grid.
    """

    camera_size: Size
    network_size: Size
    output_size: Size
    output_is_network: bool
    _rows: Axis
    _columns: Axis

    @property
    def upright(self) -> GeometryPlan:
        """The plan of the images as the network sees them, where the camera is mounted otherwise (`TurnedPlan`)."""
        return self

    def turn(self, image: UInt8Array) -> UInt8Array:
        """Camera image (H, W, 3) → as the `upright` plan takes it."""
        return image

    def turn_back(self, plane: UInt8Array) -> UInt8Array:
        """What the `upright` plan gives for the output (H', W', …) → as the camera sees."""
        return plane

    def to_network(self, image: UInt8Array) -> UInt8Array:
        """Camera image (H, W, 3) → network input (h, w, 3), uint8. Bars of a letterbox are grey."""
        if image.shape[:2] != self.camera_size:
            got = Size(*image.shape[:2])
            raise ValueError(f"this plan is for images of {self.camera_size}, got {got}; make a new plan")
        rows, columns = self._rows, self._columns
        used = image[rows.camera_start : rows.camera_stop, columns.camera_start : columns.camera_stop]
        landed = Size(rows.network_stop - rows.network_start, columns.network_stop - columns.network_start)
        resized = resize_image(used, landed)
        if landed == self.network_size:
            return resized
        canvas = np.full((*self.network_size, *image.shape[2:]), LETTERBOX_GREY, np.uint8)
        canvas[rows.network_start : rows.network_stop, columns.network_start : columns.network_stop] = resized
        return canvas

    def to_network_position(self, x: float, y: float) -> tuple[float, float]:
        """Where a position of the camera image (pixels, edges at whole numbers) lies in the network's input, x and y."""
        return self._columns.scale * x + self._columns.offset, self._rows.scale * y + self._rows.offset

    def labels_to_output(self, labels: UInt8Array) -> UInt8Array:
        """Network labels (h, w) → label map at the output size, nearest pixel; 255 where the network saw nothing."""
        return self._map_back(labels, _UNLABELLED)

    def confidence_to_output(self, confidence: UInt8Array) -> UInt8Array:
        """Network confidence (h, w) → at the output size, by the same pixels as the labels; 0 where nothing was seen."""
        return self._map_back(confidence, 0)

    def logits_to_output(self, logits: torch.Tensor) -> torch.Tensor:
        """Network logits (1, C, h, w) → bilinear at the size that `labels_to_output` would give the used part.

        Sharper borders than nearest labels when the output is larger than the network's map; costs C · H · W. Only for plans
        that use the whole image (`stretch`).
        """
        if self.network_size == self.output_size:
            return logits
        from torch.nn.functional import interpolate  # geometry itself needs no PyTorch

        return interpolate(logits, size=tuple(self.output_size), mode="bilinear", align_corners=False)

    def image_to_output(self, image: UInt8Array) -> UInt8Array:
        """Camera image (H, W, 3) on the pixel grid of the label map, for overlays and for consumers of both."""
        if self.output_is_network:
            return self.to_network(image)
        return resize_image(image, self.output_size)

    def scale_camera_info(self, info: CameraInfo) -> CameraInfo:
        """The calibration that belongs to the label map.

        Args:
            info: of the images themselves, see `CameraInfo.for_image`.
        """
        if self.output_is_network:
            rows, columns = ((axis.scale, axis.offset) for axis in (self._rows, self._columns))
        else:
            rows, columns = ((out / camera, 0.0) for out, camera in zip(self.output_size, self.camera_size, strict=True))
        k, p = map_matrices(info, columns, rows)
        return replace(
            info,
            width=self.output_size.width,
            height=self.output_size.height,
            k=k,
            p=p,
            binning_x=0,
            binning_y=0,
            roi=(0, 0, 0, 0, info.roi[4]),
        )

    def input_taps(self) -> tuple[Taps, Taps]:
        """What `to_network` averages, along rows and columns, for doing the same elsewhere; bars are left out."""
        rows, columns = (_taps(axis, self.averages) for axis in (self._rows, self._columns))
        return rows, columns

    @property
    def averages(self) -> bool:
        """Whether `to_network` averages over areas; else it interpolates, as OpenCV does in whole numbers."""
        return self._rows.scale <= 1.0 and self._columns.scale <= 1.0

    @property
    def landing(self) -> tuple[slice, slice]:
        """Rows and columns of the network's input that carry image; the rest is a letterbox's bars."""
        return slice(self._rows.network_start, self._rows.network_stop), slice(
            self._columns.network_start, self._columns.network_stop
        )

    @property
    def has_bars(self) -> bool:
        """Whether `landing` leaves out a part of the network's input."""
        return any(part.stop - part.start != side for part, side in zip(self.landing, self.network_size, strict=True))

    def output_sources(self) -> tuple[IndexArray, IndexArray]:
        """For each row and column of the label map, that of the network's which `labels_to_output` takes; −1 for none."""
        axes = (self._rows, self._columns)
        sides = list(zip(axes, self.camera_size, self.network_size, self.output_size, strict=True))
        whole = all(axis.camera_stop - axis.camera_start == camera for axis, camera, _, _ in sides)
        rows, columns = (
            _sources(axis, camera, network, None if self.output_is_network else output, whole)
            for axis, camera, network, output in sides
        )
        return rows, columns

    def _map_back(self, plane: UInt8Array, outside: int) -> UInt8Array:
        rows, columns = self._rows, self._columns
        seen = plane[rows.network_start : rows.network_stop, columns.network_start : columns.network_stop]
        if self.output_is_network:
            if seen.shape == plane.shape:
                return plane
            canvas = np.full(self.network_size, outside, np.uint8)
            canvas[rows.network_start : rows.network_stop, columns.network_start : columns.network_stop] = seen
            return canvas
        used = Size(rows.camera_stop - rows.camera_start, columns.camera_stop - columns.camera_start)
        if used == self.camera_size:
            return _resize_nearest(seen, self.output_size)
        canvas = np.full(self.camera_size, outside, np.uint8)
        canvas[rows.camera_start : rows.camera_stop, columns.camera_start : columns.camera_stop] = _resize_nearest(seen, used)
        return _resize_nearest(canvas, self.output_size)


def plan_geometry(
    camera_size: Size,
    network_size: Size,
    output: str = "input",
    mode: ResizeMode = "stretch",
    pixel_aspect: float = 1.0,
) -> GeometryPlan:
    """Plan how images of `camera_size` reach a network of `network_size` and come back.

    Args:
        camera_size: size of the incoming images.
        network_size: size of the network's input (see `fit_network_size`).
        output: "input" (the camera's size), "network" (the network's own grid) or "WxH".
        mode: "stretch" maps the whole image on the whole input; "letterbox" keeps the aspect and adds grey bars; "crop" keeps
            the aspect and cuts what does not fit (255 in the label map there).
        pixel_aspect: width of the camera's pixels over their height; the network's are square where the aspect is kept.

    Raises:
        InputError: an image without pixels or too large to resize.
        ConfigError: unknown output or mode.
    """
    if min(camera_size) < 1 or max(camera_size) > MAX_SIDE:
        raise InputError(f"an image must have sides of 1–{MAX_SIDE} pixels, got {camera_size}")
    if output not in ("input", "network") and not re.match(r"\s*\d", output):
        raise ConfigError(f"output size must be 'input', 'network' or WIDTHxHEIGHT, got {output!r}")
    output_size = {"input": camera_size, "network": network_size}.get(output) or parse_size(output)
    rows = Axis(0, camera_size.height, 0, network_size.height)
    columns = Axis(0, camera_size.width, 0, network_size.width)
    scales = (rows.scale, columns.scale / pixel_aspect)
    if mode == "letterbox":
        scale = min(scales)
        rows = _letterboxed(rows, scale)
        columns = _letterboxed(columns, scale * pixel_aspect)
    elif mode == "crop":
        scale = max(scales)
        rows = _cropped(rows, scale)
        columns = _cropped(columns, scale * pixel_aspect)
    elif mode != "stretch":
        raise ConfigError(f"resize mode must be stretch, letterbox or crop, got {mode!r}")
    return GeometryPlan(camera_size, network_size, output_size, output == "network", rows, columns)


def resize_image(image: UInt8Array, size: Size) -> UInt8Array:
    """Resize (H, W) or (H, W, C) uint8: average over the covered area when both sides shrink, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size.height <= image.shape[0] and size.width <= image.shape[1]
    resized = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _resize_nearest(plane: UInt8Array, size: Size) -> UInt8Array:
    if plane.shape == size:
        return plane
    resized = cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def _taps(axis: Axis, average: bool) -> Taps:
    """As `resize_image` weighs: the covered length when averaging, else the two nearest centres, with weights of 11 bits."""
    used, landed = axis.camera_stop - axis.camera_start, axis.network_stop - axis.network_start
    step = used / landed
    if average:
        begin = np.arange(landed) * step
        position = np.floor(begin).astype(np.int64)[:, None] + np.arange(math.ceil(step) + 1)
        covered = np.minimum(position + 1, (begin + step)[:, None]) - np.maximum(position, begin[:, None])
        weight = np.clip(covered, 0.0, None) / step
    else:
        center = np.clip((np.arange(landed) + 0.5) * step - 0.5, 0.0, used - 1.0).astype(np.float32)
        position = np.floor(center).astype(np.int64)[:, None] + np.arange(2)
        weight = np.rint((1.0 - np.abs(center[:, None] - position)) * 2048.0) / 2048.0
    return Taps(axis.camera_start + np.minimum(position, used - 1), weight.astype(np.float32))


def _sources(axis: Axis, camera: int, network: int, output: int | None, whole: bool) -> IndexArray:
    """Along one axis of `_map_back`, with positions in place of labels; output None: the network's own grid."""
    seen = np.arange(axis.network_start, axis.network_stop)
    if output is None:
        sources = np.full(network, -1)
        sources[axis.network_start : axis.network_stop] = seen
        return sources
    if whole:
        return _nearest(seen, output)
    sources = np.full(camera, -1)
    sources[axis.camera_start : axis.camera_stop] = _nearest(seen, axis.camera_stop - axis.camera_start)
    return _nearest(sources, output)


def _nearest(row: IndexArray, length: int) -> IndexArray:
    """What `_resize_nearest` takes of a row of positions."""
    if len(row) == length:
        return row
    picked = cv2.resize(row.astype(np.float32)[None], (length, 1), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(picked[0], np.int64)


def _letterboxed(axis: Axis, scale: float) -> Axis:
    room = axis.network_stop
    length = min(room, max(1, round(axis.camera_stop * scale)))
    start = (room - length) // 2
    return replace(axis, network_start=start, network_stop=start + length)


def _cropped(axis: Axis, scale: float) -> Axis:
    available = axis.camera_stop
    length = min(available, max(1, round(axis.network_stop / scale)))
    start = (available - length) // 2
    return replace(axis, camera_start=start, camera_stop=start + length)
