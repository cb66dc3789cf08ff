"""Every encoding, against pixels worked out by hand."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

from lmanet_core.errors import InputError
from lmanet_core.media import camera_info_from_message, image_from_compressed_message, image_from_message

RED, BLUE = (255, 0, 0), (0, 0, 255)
RED_YUV, BLUE_YUV = (81, 90, 240), (41, 240, 110)  # BT.601, the textbook values


def halves(height=4, width=8):
    """(H, W, 3) RGB: left half red, right half blue."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, BLUE
    return image


def planes(height=4, width=8):
    yuv = np.empty((height, width, 3), np.uint8)
    yuv[:, : width // 2], yuv[:, width // 2 :] = RED_YUV, BLUE_YUV
    return yuv[:, :, 0], yuv[:, ::2, 1], yuv[:, ::2, 2]  # chroma is halved along rows


def pad_rows(data, padding):
    """Rows with garbage behind each."""
    return np.concatenate([data, np.full((data.shape[0], padding), 0xAA, np.uint8)], axis=1)


@pytest.mark.parametrize("encoding, order", [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("8UC3", [2, 1, 0])])
def test_three_channels(ros2, random_image, encoding, order):
    image = random_image(3, 5)
    assert np.array_equal(image_from_message(ros2.image(image[:, :, order], encoding=encoding)), image)


@pytest.mark.parametrize("encoding, order", [("rgba8", [0, 1, 2]), ("bgra8", [2, 1, 0]), ("8UC4", [2, 1, 0])])
def test_four_channels_lose_alpha(ros2, random_image, encoding, order):
    image = random_image(3, 5)
    pixels = np.dstack([image[:, :, order], np.full((3, 5), 1, np.uint8)])
    assert np.array_equal(image_from_message(ros2.image(pixels, encoding=encoding)), image)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(ros2, encoding):
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    assert np.array_equal(image_from_message(ros2.image(pixels, encoding=encoding)), np.stack([pixels] * 3, axis=2))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 6])
def test_16_bit_grey_in_both_byte_orders(ros2, encoding, byte_order, padding):
    pixels = np.array([[0x0102, 0x8000, 0xFFFF], [0x00FF, 0x1000, 0x7F80]])
    data = pad_rows(pixels.astype(f"{byte_order}u2").view(np.uint8), padding)
    message = ros2.image(
        pixels, encoding=encoding, is_bigendian=int(byte_order == ">"), step=data.shape[1], data=data.reshape(-1)
    )
    assert image_from_message(message)[:, :, 0].tolist() == [[0x01, 0x80, 0xFF], [0x00, 0x10, 0x7F]]


def test_16_bit_colour_big_endian(ros2, random_image):
    image = random_image(3, 5)
    pixels = (image.astype(np.uint16) * 256 + 17)[:, :, ::-1].astype(">u2")
    assert np.array_equal(image_from_message(ros2.image(pixels, encoding="bgr16", is_bigendian=1)), image)


@pytest.mark.parametrize("encoding", ["rgb8", "bgra8", "mono8"])
def test_padded_rows_do_not_shear_the_image(ros2, encoding):
    channels = {"rgb8": 3, "bgra8": 4, "mono8": 1}[encoding]
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7 * channels), np.uint8)
    tight = ros2.image(pixels.reshape(5, 7, channels), encoding=encoding)
    padded = pad_rows(pixels, 5)
    message = ros2.image(pixels.reshape(5, 7, channels), encoding=encoding, step=padded.shape[1], data=padded.reshape(-1))
    assert np.array_equal(image_from_message(message), image_from_message(tight))


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding, luma_first", [("yuv422", False), ("uyvy", False), ("yuv422_yuy2", True), ("yuyv", True)])
def test_yuv422(ros2, encoding, luma_first, padding):
    luma, u, v = planes()
    chroma = np.empty_like(luma)
    chroma[:, ::2], chroma[:, 1::2] = u, v
    pixels = np.dstack([luma, chroma] if luma_first else [chroma, luma])
    data = pad_rows(pixels.reshape(4, -1), padding)
    message = ros2.image(pixels, encoding=encoding, step=data.shape[1], data=data.reshape(-1))
    assert np.abs(image_from_message(message).astype(int) - halves()).max() <= 3  # YUV is rounded


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("counts_all_rows", [False, True])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_nv12_and_nv21(ros2, encoding, counts_all_rows, padding):
    luma, u, v = planes()
    chroma = np.empty((2, 8), np.uint8)
    chroma[:, ::2], chroma[:, 1::2] = (u[::2], v[::2]) if encoding == "nv12" else (v[::2], u[::2])
    data = pad_rows(np.vstack([luma, chroma]), padding)
    height = 6 if counts_all_rows else 4
    message = ros2.image(luma, encoding=encoding, height=height, step=data.shape[1], data=data.reshape(-1))
    image = image_from_message(message)
    assert image.shape == (4, 8, 3)
    assert np.abs(image.astype(int) - halves()).max() <= 3  # YUV is rounded


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("pattern, red_at, blue_at", [
    ("rggb", (0, 0), (1, 1)), ("bggr", (1, 1), (0, 0)), ("gbrg", (1, 0), (0, 1)), ("grbg", (0, 1), (1, 0)),
])  # fmt: skip
def test_bayer(ros2, pattern, red_at, blue_at, wide):
    mosaic = np.zeros((6, 12), np.uint8)
    mosaic[red_at[0] :: 2, red_at[1] : 6 : 2] = 255  # left half red
    mosaic[blue_at[0] :: 2, 6 + blue_at[1] :: 2] = 255  # right half blue
    pixels = mosaic.astype(np.uint16) * 257 if wide else mosaic
    image = image_from_message(ros2.image(pixels, encoding=f"bayer_{pattern}{16 if wide else 8}"))
    assert image[3, 2].tolist() == list(RED)
    assert image[3, 9].tolist() == list(BLUE)


def test_step_of_zero_means_packed(ros2, random_image):
    image = random_image()
    assert np.array_equal(image_from_message(ros2.image(image, step=0)), image)


def test_rclpy_style_data_is_accepted(ros2, random_image):
    image = random_image()
    assert np.array_equal(image_from_message(ros2.image(image, data=array.array("B", image.tobytes()))), image)


def test_result_does_not_alias_the_message(ros2, random_image):
    data = random_image().reshape(-1).copy()
    image = image_from_message(ros2.image(random_image(), data=data))
    data[:] = 0
    assert np.array_equal(image, random_image())
    assert image.flags.writeable


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 5), (37, 53)])
def test_odd_sizes(ros2, random_image, size):
    image = random_image(*size)
    assert np.array_equal(image_from_message(ros2.image(image)), image)


@pytest.mark.parametrize("changes, message", [
    ({"height": 0, "width": 0, "step": 0, "data": np.zeros(0, np.uint8)}, "at least one pixel, got 0x0"),
    ({"data": np.zeros(71, np.uint8)}, "4 rows of 18 bytes need 72 bytes of data, got 71"),
    ({"step": 17}, "step must be at least 18 bytes for 6 pixels in rgb8, got 17"),
    ({"encoding": "32FC1"}, "colour or grey one .*, got '32FC1'"),
    ({"encoding": "jello"}, "got 'jello'"),
    ({"encoding": "yuv422", "width": 5}, "even width, got 5"),
    ({"encoding": "bayer_rggb8", "height": 2}, "at least 3x3"),
    ({"encoding": "nv12", "height": 3, "step": 6}, "even height"),
])  # fmt: skip
def test_damaged_images_are_refused(ros2, random_image, changes, message):
    with pytest.raises(InputError, match=message):
        image_from_message(ros2.image(random_image(), **changes))


@pytest.mark.parametrize("grey", [False, True])
def test_compressed_image(ros2, random_image, grey):
    image = random_image()
    pixels = image[:, :, 0] if grey else image[:, :, ::-1]
    message = ros2.compressed(cv2.imencode(".png", pixels)[1].tobytes(), image_format="png")
    assert np.array_equal(image_from_compressed_message(message), np.stack([image[:, :, 0]] * 3, 2) if grey else image)


def test_compressed_depth_is_refused(ros2):
    with pytest.raises(InputError, match="got depth"):
        image_from_compressed_message(ros2.compressed(b"", image_format="16UC1; compressedDepth png"))


def test_camera_info_is_the_same_from_ros1_and_ros2(ros1, ros2):
    info = camera_info_from_message(ros2.camera_info(500.0))
    assert info == camera_info_from_message(ros1.camera_info(500.0))
    assert (info.width, info.height, info.k[0], info.k[2], info.p[5], info.d) == (6, 4, 500.0, 3.0, 500.0, (0.1,))
