from __future__ import annotations

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media import decode_image, to_rgb
from lmanet_core.media.pixels import SampleDepth


def encode(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


def test_rgb_passes_without_a_copy(random_image):
    image = random_image()
    assert np.shares_memory(to_rgb(image), image)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_becomes_three_equal_channels(shape):
    image = np.arange(6, dtype=np.uint8).reshape(shape)
    assert np.array_equal(to_rgb(image), np.stack([image.reshape(2, 3)] * 3, axis=2))


def test_alpha_is_dropped(random_image):
    image = random_image()
    rgba = np.dstack([image, np.full((4, 6), 9, np.uint8)])
    assert np.array_equal(to_rgb(rgba), image)
    assert to_rgb(rgba).flags.c_contiguous


def test_16_bit_is_divided_by_256():
    assert to_rgb(np.array([[0, 255, 256, 65535]], np.uint16))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(("bits", "upper"), [(8, 255), (9, 127), (16, 0)])
def test_a_camera_fills_8_to_16_bits(bits, upper):
    assert SampleDepth(bits).to_8_bit(np.array([255], np.uint16)).tolist() == [upper]


@pytest.mark.parametrize("bits", [-1, 0, 7, 17])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ConfigError, match=f"bits must be 8 to 16, got {bits}"):
        SampleDepth(bits)


def test_one_pixel_is_an_image():
    assert to_rgb(np.full((1, 1), 7, np.uint8)).tolist() == [[[7, 7, 7]]]


def test_float_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"uint8 or uint16, got float32; multiply values of 0–1 by 255"):
        to_rgb(np.zeros((2, 2, 3), np.float32))


@pytest.mark.parametrize("dtype", [bool, np.int16, np.int32])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match="must be uint8 or uint16"):
        to_rgb(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4, 3), (4, 0, 3)])
def test_no_pixels_is_refused(shape):
    with pytest.raises(InputError, match="at least one pixel"):
        to_rgb(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (1, 4, 4, 3), (4, 4, 5)])
def test_shapes_that_are_no_image_are_refused(shape):
    with pytest.raises(InputError, match="an image is"):
        to_rgb(np.zeros(shape, np.uint8))


def test_channels_first_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="move the channels last"):
        to_rgb(np.zeros((3, 20, 30), np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_files_decode_to_the_same_rgb(random_image, suffix):
    image = random_image(5, 7)
    assert np.array_equal(decode_image(encode(suffix, image[:, :, ::-1])), image)


def test_rgba_png_decodes_to_rgb(random_image):
    image = random_image()
    bgra = np.dstack([image[:, :, ::-1], np.full((4, 6), 3, np.uint8)])
    assert np.array_equal(decode_image(encode(".png", bgra)), image)


def test_16_bit_png_decodes_to_its_upper_byte():
    image = np.array([[0x1234, 0xFEDC]], np.uint16)
    assert decode_image(encode(".png", image))[0, :, 0].tolist() == [0x12, 0xFE]


def test_grey_jpeg_decodes():
    assert decode_image(encode(".jpg", np.full((8, 8), 77, np.uint8))).tolist() == np.full((8, 8, 3), 77).tolist()


def test_exif_orientation_is_applied_only_on_request():
    jpeg = encode(".jpg", np.zeros((8, 16, 3), np.uint8))
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    jpeg = jpeg[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + jpeg[2:]
    assert decode_image(jpeg).shape == (8, 16, 3)
    assert decode_image(jpeg, upright=True).shape == (16, 8, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_cut_off_files_are_refused(random_image, suffix, share):
    data = encode(suffix, random_image(64, 64))
    with pytest.raises(InputError, match="cut off"):
        decode_image(data[: int(len(data) * share)])


def test_cut_off_jpeg_with_thumbnail_is_refused(random_image):
    thumbnail, data = encode(".jpg", random_image(8, 8)), encode(".jpg", random_image(64, 64))
    data = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    assert decode_image(data).shape == (64, 64, 3)
    with pytest.raises(InputError, match="cut off"):
        decode_image(data[: len(data) * 3 // 4])


def test_no_data_is_said_to_be_none():
    with pytest.raises(InputError, match="an encoded image was expected, got 0 bytes"):
        decode_image(b"")


@pytest.mark.parametrize("data", [b"hello", bytes(1000), b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(InputError):
        decode_image(data)
