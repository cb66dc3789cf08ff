"""Messages of sensor_msgs → arrays and dataclasses, by reading attributes only: rosbags' messages and rclpy's both do.

The colour conversions are rosbags-image's. It takes every image for tightly packed 8-bit or native 16-bit data with `height`
rows, so everything else is put in that form first:

* padded rows (`step` larger than a row) are packed; rosbags-image ignores `step` and would shear the image;
* 16-bit samples, of either byte order, are brought to 8 bits on a fixed scale, see `SampleDepth`;
* nv12 and nv21 get 3/2 · height rows, luma and chroma; rosbags-image reads only `height` rows;
* 8UC1, 16UC1, 8UC3 and so on have no colour format: one channel is taken as grey, three and four as OpenCV's BGR and BGRA;
* CompressedImage is decoded by `decode_image`; rosbags-image turns images by their EXIF orientation, away from the camera's
  calibration, and has an `assert` for damaged ones. What a camera compressed as it came from the sensor, such as "bayer_rggb8;
  jpeg compressed ", is debayered, and where it says "compressed rgb8" its channels are as they stand.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.image import ImageError, image_to_cvimage

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.geometry import CameraInfo
from lmanet_core.media.pixels import SIXTEEN_BITS, SampleDepth, decode_pixels, to_rgb

_COMPRESSED_DEPTH = "compressedDepth"


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read; `data` is anything with a buffer."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read; `data` is anything with a buffer."""

    format: str
    data: Any


class _Encoding(NamedTuple):
    as_8_bit: str  # the name under which rosbags-image converts the same image in 8 bit
    channels: int
    sample_bytes: int


_ENCODINGS: dict[str, _Encoding] = {
    **{name: _Encoding(name, 1, 1) for name in ("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")},
    **{name: _Encoding(name, 2, 1) for name in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")},
    **{name: _Encoding(name, 3, 1) for name in ("rgb8", "bgr8")},
    **{name: _Encoding(name, 4, 1) for name in ("rgba8", "bgra8")},
    **{name: _Encoding(name, 1, 1) for name in ("nv12", "nv21")},
    **{f"{name}16": _Encoding(f"{name}8", 1, 2) for name in ("mono", "bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")},
    **{f"{name}16": _Encoding(f"{name}8", len(name), 2) for name in ("rgb", "bgr", "rgba", "bgra")},
    "8UC1": _Encoding("mono8", 1, 1),
    "8UC3": _Encoding("bgr8", 3, 1),
    "8UC4": _Encoding("bgra8", 4, 1),
    "16UC1": _Encoding("mono8", 1, 2),
    "16UC3": _Encoding("bgr8", 3, 2),
    "16UC4": _Encoding("bgra8", 4, 2),
}


def image_from_message(message: ImageMessage, depth: SampleDepth = SIXTEEN_BITS) -> UInt8Array:
    """Convert a sensor_msgs/Image.

    Args:
        message: any of the encodings rgb8, bgr8, rgba8, bgra8, mono8 and their 16-bit kin, the Bayer patterns in 8 and 16 bit,
            yuv422 (uyvy), yuv422_yuy2 (yuyv), nv12, nv21, and 8UC and 16UC with 1, 3 or 4 channels.
        depth: of 16 bits.

    Returns:
        (H, W, 3) uint8 RGB in memory of its own; alpha dropped.

    Raises:
        InputError: no pixels, an encoding that is not a colour or grey image, less data than height and step say.
    """
    height, width, encoding = int(message.height), int(message.width), str(message.encoding)
    if height < 1 or width < 1:
        raise InputError(f"an image needs at least one pixel, got {width}x{height}")
    known = _ENCODINGS.get(encoding)
    if known is None:
        raise InputError(f"encoding must be a colour or grey one ({', '.join(_ENCODINGS)}), got {encoding!r}")
    rows = _rows_of_nv(message) if encoding in ("nv12", "nv21") else height
    packed = _unpack(message, rows, width, known, depth)  # (rows, width · channels) uint8
    _check_pattern(encoding, rows, width)
    plain = SimpleNamespace(height=rows, width=width, encoding=known.as_8_bit, is_bigendian=0, data=packed)
    try:
        # A stand-in with the five attributes that are read; rosbags-image asks for its own message class. Bytes have no order.
        image = image_to_cvimage(cast("Any", plain), "rgb8")
    except (ImageError, cv2.error) as error:
        raise InputError(f"an image of {width}x{height} in {encoding} cannot be converted: {error}") from error
    return cast("UInt8Array", np.array(image, np.uint8, order="C"))  # (H, W, 3)


def image_from_compressed_message(message: CompressedImageMessage, depth: SampleDepth = SIXTEEN_BITS) -> UInt8Array:
    """Convert a sensor_msgs/CompressedImage (JPEG, PNG, WebP, …) to (H, W, 3) uint8 RGB.

    Args:
        message: its format may say what was compressed, as in "bayer_rggb8; jpeg compressed ".
        depth: of 16 bits.

    Raises:
        InputError: damaged or cut off, or a compressed depth image.
    """
    name = str(message.format)
    if _COMPRESSED_DEPTH in name:
        raise InputError(f"a colour or grey image is needed, got depth ({name})")
    pixels = decode_pixels(np.frombuffer(message.data, np.uint8))
    source, _, compressed = name.partition(";")
    if source.strip().startswith("bayer_") and (pixels.ndim == 2 or pixels.shape[2] == 1):
        return _debayer(pixels, source.strip(), depth)
    if "compressed rgb" in compressed and pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, 2::-1]  # it was encoded as it stood, so blue was taken for red
    return to_rgb(pixels, depth)


def _debayer(pixels: npt.NDArray[Any], encoding: str, depth: SampleDepth) -> UInt8Array:
    """RGB of a mosaic (H, W), uint8 or uint16 in the byte order of this machine; encoding such as "bayer_rggb8"."""
    height, width = pixels.shape[:2]
    mosaic = SimpleNamespace(
        height=height,
        width=width,
        encoding=f"{encoding.rstrip('0123456789')}{8 * pixels.itemsize}",
        is_bigendian=int(sys.byteorder == "big"),
        step=width * pixels.itemsize,
        data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
    )
    return image_from_message(mosaic, depth)


def camera_info_from_message(message: Any) -> CameraInfo:  # any of three generated classes: ROS 1, ROS 2, rclpy
    """Convert a sensor_msgs/CameraInfo of ROS 1 (D, K, R, P) or ROS 2 (d, k, r, p)."""

    def numbers(name: str) -> tuple[float, ...]:
        values = getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())
        return tuple(float(value) for value in values)

    roi = message.roi
    return CameraInfo(
        width=int(message.width),
        height=int(message.height),
        distortion_model=str(message.distortion_model),
        d=numbers("d"),
        k=numbers("k"),
        r=numbers("r"),
        p=numbers("p"),
        binning_x=int(message.binning_x),
        binning_y=int(message.binning_y),
        roi=(int(roi.x_offset), int(roi.y_offset), int(roi.height), int(roi.width), bool(roi.do_rectify)),
    )


def _rows_of_nv(message: ImageMessage) -> int:
    """Rows in memory of an nv12 or nv21 image: the luma's, and half as many of chroma.

    Publishers disagree: `height` is the picture's, with 3/2 · height rows of data, or already counts all rows.
    """
    step = int(message.step) or int(message.width)
    rows = int(message.height) * 3 // 2
    return rows if np.frombuffer(message.data, np.uint8).size >= step * rows else int(message.height)


def _unpack(message: ImageMessage, rows: int, width: int, encoding: _Encoding, depth: SampleDepth) -> UInt8Array:
    row_bytes = width * encoding.channels * encoding.sample_bytes
    step = int(message.step) or row_bytes  # some publishers leave it at 0
    data = np.frombuffer(message.data, np.uint8)
    if step < row_bytes:
        raise InputError(f"step must be at least {row_bytes} bytes for {width} pixels in {message.encoding}, got {step}")
    if data.size < step * rows:
        raise InputError(f"{rows} rows of {step} bytes need {step * rows} bytes of data, got {data.size}")
    packed: UInt8Array = np.ascontiguousarray(data[: step * rows].reshape(rows, step)[:, :row_bytes])
    if encoding.sample_bytes == 2:
        samples: npt.NDArray[np.uint16] = packed.view(">u2" if message.is_bigendian else "<u2")
        packed = depth.to_8_bit(samples)
    return packed


def _check_pattern(encoding: str, rows: int, width: int) -> None:
    """Refuse sizes that hold no whole pattern; OpenCV would return black or read past the end."""
    if encoding.startswith("bayer") and min(rows, width) < 3:
        raise InputError(f"a Bayer image needs at least 3x3 pixels, got {width}x{rows}")
    if encoding.startswith(("yuv", "uyvy", "yuyv", "nv")) and width % 2:
        raise InputError(f"an image in {encoding} needs an even width, got {width}")
    if encoding.startswith("nv") and rows % 3:
        raise InputError(f"an image in {encoding} needs an even height and half as many rows of chroma, got {rows} rows")
