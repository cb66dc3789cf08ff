"""Images and label maps from files, at a wanted size, with errors that name the file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.geometry import Size, plan_geometry, resize_image
from lmanet_core.media.label_images import decode_label_ids

_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path) -> UInt8Array:
    """(H, W, 3) uint8 RGB; raises InputError for a file that is missing or no image."""
    image = cv2.imdecode(_read(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: not an image that can be read; make it anew or leave it out")
    return np.asarray(image[:, :, ::-1], np.uint8)


def read_label_ids(path: Path, colors: Mapping[int, int] | None = None) -> UInt8Array:
    """(H, W) uint8 ids of a label image, see `decode_label_ids`; raises InputError where it is none."""
    return decode_label_ids(_read(path), str(path), colors)


def image_size(path: Path) -> Size:
    """Height and width of an image file; from the header alone for PNG."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(head) == 24 and head[:8] == _PNG:
        width, height = struct.unpack(">II", head[16:24])
        return Size(height, width)
    return Size(*read_image(path).shape[:2])


def check_same_size(image: Path, image_is: Size, labels: Path, labels_are: Size) -> None:
    """Raises InputError unless an image and its label map have one size."""
    if image_is != labels_are:
        raise InputError(
            f"image and label map must have one size: {image} is {image_is}, {labels} is {labels_are}; make one of them anew"
        )


def resize_labels(labels: UInt8Array, size: Size) -> UInt8Array:
    """(H, W) → (h, w), nearest pixel."""
    own = Size(*labels.shape)
    return labels if own == size else plan_geometry(own, own, f"{size}").labels_to_output(labels)


def fit_image(image: UInt8Array, size: Size) -> UInt8Array:
    """(H, W, 3) → (h, w, 3), averaged where it shrinks."""
    return resize_image(image, size)


def _read(path: Path) -> UInt8Array:
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
