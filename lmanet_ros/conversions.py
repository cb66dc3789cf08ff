"""ROS messages ↔ arrays and the core's values. Pure functions; any thread.

Incoming images go through cv_bridge where it imports and where it converts right: cv_bridge shears rows whose padding is no
multiple of a pixel, scales 16-bit images by its own rule and knows no nv12. All of those, and everything where cv_bridge is
missing or NumPy is 2 or newer, go through `lmanet_core.media`. A test holds that both give the same pixels.

Outgoing data is filled in place, in one copy: messages copy what they are given, up to twice, and look at every element of
anything but an `array.array`.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo as CameraInfoMessage
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.geometry import CameraInfo
from lmanet_core.labels import LabelSet
from lmanet_core.media.pixels import SIXTEEN_BITS, SampleDepth
from lmanet_core.media.ros_images import camera_info_from_message, image_from_compressed_message, image_from_message

if TYPE_CHECKING:
    from vision_msgs.msg import LabelInfo

CvBridge: Any = None
if np.__version__.startswith("1."):  # one that was built on NumPy 1 may import beside NumPy 2, and then crashes the process
    with contextlib.suppress(Exception):  # built for another NumPy it fails with more than ImportError
        CvBridge = import_module("cv_bridge").CvBridge

_Message = TypeVar("_Message", Image, CompressedImage)

_BRIDGE = CvBridge() if CvBridge is not None else None
_BYTES_PER_PIXEL = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "yuv422": 2, "yuv422_yuy2": 2,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
}  # fmt: skip


def uses_cv_bridge() -> bool:
    """Whether cv_bridge was found."""
    return _BRIDGE is not None


def rgb_from_image(message: Image | CompressedImage, depth: SampleDepth = SIXTEEN_BITS) -> UInt8Array:
    """The picture in a message.

    Args:
        message: plain, or compressed picture by picture.
        depth: of 16 bits.

    Returns:
        (H, W, 3) uint8 RGB. For rgb8 a view of the message's own data.

    Raises:
        InputError: no pixels, an unknown encoding, too little data, damaged compression.
    """
    if isinstance(message, CompressedImage):
        return image_from_compressed_message(message, depth)
    if not _is_plain(message):
        return image_from_message(message, depth)
    if message.encoding == "rgb8":
        return np.frombuffer(message.data, np.uint8)[: message.height * message.step].reshape(message.height, message.width, 3)
    if _BRIDGE is None:
        return image_from_message(message, depth)
    try:
        return np.ascontiguousarray(_BRIDGE.imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except Exception as error:  # cv_bridge lets OpenCV's and NumPy's errors through
        raise InputError(f"an image in {message.encoding} cannot be converted: {error}") from error


def _is_plain(message: Image) -> bool:
    """Whether rows are packed and complete, in an encoding that cv_bridge and `lmanet_core.media` convert alike."""
    pixel = _BYTES_PER_PIXEL.get(message.encoding)
    patterned = message.encoding.startswith(("bayer", "yuv"))
    smallest = 3 if patterned else 1
    return (
        pixel is not None
        and not message.is_bigendian
        and message.height >= smallest
        and message.width >= smallest
        and not (patterned and message.width % 2)
        and message.step == message.width * pixel
        and len(message.data) >= message.height * message.step
    )


def image_to_message(pixels: UInt8Array | Float32Array, header: Header) -> Image:
    """(H, W) uint8 → mono8, (H, W, 3) uint8 → rgb8, (H, W) float32 → 32FC1; rows packed, the header as it is."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    message = Image(
        header=header,
        height=height,
        width=width,
        encoding="32FC1" if pixels.dtype == np.float32 else "mono8" if channels == 1 else "rgb8",
        is_bigendian=int(pixels.itemsize > 1 and sys.byteorder == "big"),
        step=width * channels * pixels.itemsize,
    )
    return fill(message, pixels)


def labels_to_png_message(labels: UInt8Array, header: Header, level: int) -> CompressedImage:
    """(H, W) uint8 → PNG, in the words that image_transport's `compressed` understands.

    Args:
        labels: class ids.
        header: copied.
        level: 0 fast … 9 small.
    """
    _, png = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    return fill(CompressedImage(header=header, format="mono8; png compressed "), png)


def color_to_png_message(pixels: UInt8Array, header: Header, level: int) -> CompressedImage:
    """(H, W, 3) uint8 RGB → PNG, exact; `level` as of `labels_to_png_message`."""
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, level])
    return fill(CompressedImage(header=header, format="rgb8; png compressed bgr8"), png)


def color_to_jpeg_message(pixels: UInt8Array, header: Header, quality: int) -> CompressedImage:
    """(H, W, 3) uint8 RGB → JPEG of a quality of 1–100: for people, not for reading classes."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return fill(CompressedImage(header=header, format="rgb8; jpeg compressed bgr8"), jpeg)


def label_info_to_message(labels: LabelSet, stamp: Time) -> LabelInfo:
    """Ids and names of the classes; 255 is unlabelled and not listed. Needs the package vision_msgs."""
    from vision_msgs.msg import LabelInfo, VisionClass

    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(labels.names)]
    return LabelInfo(header=Header(stamp=stamp), class_map=classes, threshold=0.0)


def camera_info_from_ros(message: CameraInfoMessage) -> CameraInfo:
    """The core's calibration of a message."""
    return camera_info_from_message(message)


def camera_info_to_message(info: CameraInfo, header: Header) -> CameraInfoMessage:
    """The inverse, with a header of choice."""
    x_offset, y_offset, height, width, do_rectify = info.roi
    return CameraInfoMessage(
        header=header,
        height=info.height,
        width=info.width,
        distortion_model=info.distortion_model,
        d=info.d,
        k=info.k,
        r=info.r,
        p=info.p,
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=RegionOfInterest(x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=do_rectify),
    )


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds; 0 where the driver left it out."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def fill(message: _Message, data: npt.NDArray[Any]) -> _Message:
    """Append an array's bytes to a message's `data`; returns the message."""
    message.data.frombytes(np.ascontiguousarray(data).data.cast("B"))
    return message
