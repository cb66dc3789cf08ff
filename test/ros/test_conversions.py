"""Messages and arrays: cv_bridge and rosbags-image give the same pixels, headers come through untouched."""

from __future__ import annotations

import sys
from array import array

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmanet_core.errors import InputError
from lmanet_core.media.ros_images import image_from_message
from lmanet_ros import conversions
from lmanet_ros.conversions import image_to_message, labels_to_png_message, rgb_from_image, stamp_ns

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 6, 8
BYTES = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "yuv422": 2, "yuv422_yuy2": 2, "uyvy": 2, "yuyv": 2,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4,
    "mono16": 2, "rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8, "16UC1": 2, "16UC3": 6,
    "bayer_rggb16": 2, "bayer_bggr16": 2, "bayer_gbrg16": 2, "bayer_grbg16": 2, "nv12": 1, "nv21": 1,
}  # fmt: skip
BY_BRIDGE = set(conversions._BYTES_PER_PIXEL)


def make(encoding, padding=0, big=False, height=HEIGHT, width=WIDTH, seed=0):
    rows = height * 3 // 2 if encoding.startswith("nv") else height
    step = width * BYTES[encoding] + padding
    data = np.random.default_rng(seed).integers(0, 256, rows * step, np.uint8)
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=step)
    message.data = array("B", data.tobytes())
    return message


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("padding", [0, 1, 5, 24])
@pytest.mark.parametrize("encoding", BYTES)
def test_every_encoding_gives_the_pixels_of_rosbags_image(encoding, padding, big):
    message = make(encoding, padding, big)
    image = rgb_from_image(message)
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    np.testing.assert_array_equal(image, image_from_message(message))


@pytest.mark.skipif(np.__version__.startswith("1."), reason="NumPy 1 is what cv_bridge was built on")
def test_cv_bridge_is_left_alone_beside_numpy_2():
    # Built on NumPy 1 it may import beside NumPy 2, and then crashes the process at the first image.
    assert not conversions.uses_cv_bridge() and "cv_bridge" not in sys.modules


@pytest.mark.skipif(not conversions.uses_cv_bridge(), reason="no cv_bridge, or none for this NumPy")
@pytest.mark.parametrize("encoding", sorted(BY_BRIDGE - {"rgb8"}))
def test_cv_bridge_is_really_used_and_agrees(encoding, monkeypatch):
    message = make(encoding, height=30, width=40)
    monkeypatch.setattr(conversions, "image_from_message", None)  # would fail if it were called
    image = rgb_from_image(message)
    np.testing.assert_array_equal(image, image_from_message(message))


@pytest.mark.parametrize("encoding", BYTES)
def test_without_cv_bridge_nothing_changes(encoding, monkeypatch):
    message = make(encoding)
    with_bridge = rgb_from_image(message).copy()
    monkeypatch.setattr(conversions, "_BRIDGE", None)
    np.testing.assert_array_equal(rgb_from_image(message), with_bridge)


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "yuv422", "mono8", "bgr8"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (1, 7), (5, 5)])
def test_odd_sizes_convert_alike_or_are_refused(encoding, size):
    message = make(encoding, height=size[0], width=size[1])
    try:
        expected = image_from_message(message)
    except InputError:
        with pytest.raises(InputError):
            rgb_from_image(message)
    else:
        np.testing.assert_array_equal(rgb_from_image(message), expected)


def test_known_colours():
    message = make("bgr8", height=1, width=2)
    message.data = array("B", [1, 2, 3, 4, 5, 6])
    assert rgb_from_image(message).tolist() == [[[3, 2, 1], [6, 5, 4]]]
    message = make("mono8", height=1, width=2)
    message.data = array("B", [7, 9])
    assert rgb_from_image(message).tolist() == [[[7, 7, 7], [9, 9, 9]]]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": array("B")}, {"height": 0}, {"width": 0}, {"width": 0, "step": 0}, {"encoding": "32FC1"}, {"step": 2},
        {"data": array("B", [1])},
    ],
)  # fmt: skip
def test_unusable_image_is_an_input_error(changes):
    message = make("rgb8")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(InputError):
        rgb_from_image(message)


def test_rgb8_is_not_copied():
    message = make("rgb8")
    image = rgb_from_image(message)
    message.data[0] = (message.data[0] + 1) % 256
    assert image[0, 0, 0] == message.data[0]


def test_outgoing_images_are_packed_and_round_trip():
    header = Header(stamp=Time(sec=3, nanosec=5), frame_id="front")
    for pixels in (np.arange(48, dtype=np.uint8).reshape(6, 8), np.arange(144, dtype=np.uint8).reshape(6, 8, 3)):
        view = pixels[:, ::2]  # not contiguous
        message = image_to_message(view, header)
        assert message.header == header
        assert message.step * message.height == len(message.data)
        assert isinstance(message.data, array)
        wanted = view if view.ndim == 3 else view[..., None].repeat(3, 2)
        np.testing.assert_array_equal(rgb_from_image(message), wanted)


def test_png_keeps_every_id():
    import cv2

    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for level in (0, 1, 9):
        message = labels_to_png_message(labels, Header(), level)
        np.testing.assert_array_equal(cv2.imdecode(np.array(message.data), cv2.IMREAD_UNCHANGED), labels)


def test_stamp_in_nanoseconds():
    assert stamp_ns(Header(stamp=Time(sec=1700000000, nanosec=123456789))) == 1700000000123456789
    assert stamp_ns(Header()) == 0


def test_depth_becomes_metres_as_ros_has_them():
    depth = np.array([[0.5, 2.0, np.inf], [1.0, 3.0, 4.0]], np.float32)
    message = image_to_message(depth, Header(frame_id="camera"))
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 2, 3, 12)
    assert np.array_equal(np.frombuffer(message.data, ">f4" if message.is_bigendian else "<f4").reshape(2, 3), depth)
