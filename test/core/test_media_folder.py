from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media import open_frames
from lmanet_core.media.folder import FolderSource


def save(path, value=0, size=(4, 6)):
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def test_images_come_in_natural_order_at_the_given_rate(tmp_path):
    for number in (10, 2, 1):
        save(tmp_path / f"frame{number}.png", number)
    with open_frames(tmp_path, fps=4.0) as source:
        frames = list(source)
    assert [(frame.name, int(frame.image[0, 0, 0])) for frame in frames] == [("frame1", 1), ("frame2", 2), ("frame10", 10)]
    assert [frame.stamp_ns for frame in frames] == [0, 250_000_000, 500_000_000]
    assert (source.kind, source.expected_frames, source.fps) == ("folder", 3, 4.0)


def test_every_image_suffix_is_read(tmp_path):
    suffixes = ["png", "jpg", "JPEG", "bmp", "tif", "tiff", "webp", "pgm", "ppm"]
    for suffix in suffixes:
        encoded = cv2.imencode(f".{suffix.lower()}", np.full((4, 4) if suffix == "pgm" else (4, 4, 3), 200, np.uint8))[1]
        (tmp_path / f"{suffix.lower()}.{suffix}").write_bytes(encoded.tobytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._png.png").write_text("what a Mac leaves behind")
    with open_frames(tmp_path) as source:
        assert sorted(frame.name for frame in source) == sorted(suffix.lower() for suffix in suffixes)
    assert source.skipped == 0


def test_mixed_sizes_and_pixel_types_keep_their_own_size(tmp_path):
    save(tmp_path / "a.png", size=(4, 6))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((1, 1), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.full((9, 5, 4), 0x0700, np.uint16))
    frames = list(open_frames(tmp_path))
    assert [frame.image.shape for frame in frames] == [(4, 6, 3), (1, 1, 3), (9, 5, 3)]
    assert [int(frame.image.max()) for frame in frames[1:]] == [7, 7]


def test_same_stem_gives_different_names(tmp_path):
    for name in ("a.png", "a.bmp", "a_png.png"):
        save(tmp_path / name)
    names = [frame.name for frame in open_frames(tmp_path)]
    assert len(set(names)) == 3


def test_files_of_one_name_in_several_folders_are_numbered(tmp_path):
    files = [tmp_path / side / "a.png" for side in ("left", "middle", "right")]
    for file in files:
        file.parent.mkdir()
        save(file)
    assert [frame.name for frame in FolderSource("three", files=files)] == ["a_png", "a_png_2", "a_png_3"]


def test_photographs_are_upright(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8))[1].tobytes()
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + jpeg[2:])
    assert [frame.image.shape for frame in open_frames(tmp_path)] == [(16, 8, 3)]


def test_unreadable_image_is_skipped_counted_and_leaves_a_hole_in_time(tmp_path, caplog):
    for name in "abc":
        save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING), open_frames(tmp_path) as source:
        assert [(frame.name, frame.stamp_ns) for frame in source] == [("a", 0), ("c", 200_000_000)]
    assert source.skipped == 1
    assert "skipped b.png: 7 bytes are not an image" in caplog.text


def test_link_to_an_image_that_is_gone_is_counted(tmp_path, caplog):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with caplog.at_level(logging.WARNING), open_frames(tmp_path) as source:
        assert len(list(source)) == 1
    assert source.skipped == 1
    assert "skipped b.png" in caplog.text


def test_warnings_about_damage_are_few(tmp_path, caplog):
    save(tmp_path / "a.png")
    for number in range(20):
        (tmp_path / f"x{number}.png").write_bytes(b"damaged")
    with open_frames(tmp_path) as source:
        list(source)
    assert source.skipped == 20
    assert len(caplog.records) == 7  # five and the sixth that says so, then the sum
    assert "1 frames read, 20 damaged" in caplog.records[-1].getMessage()


def test_folder_of_damage_only_is_an_input_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"no image could be read, 1 damaged; the first was a\.png"):
        list(open_frames(tmp_path))


def test_empty_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"wanted images .* got an empty folder"):
        open_frames(tmp_path)


def test_folder_of_folders_says_which_to_name(tmp_path):
    (tmp_path / "left").mkdir()
    with pytest.raises(InputError, match="images inside left/ are not looked for"):
        open_frames(tmp_path)


def test_single_image_is_one_frame(tmp_path):
    save(tmp_path / "only.png", 9)
    save(tmp_path / "other.png")
    (frame,) = open_frames(tmp_path / "only.png")
    assert (frame.name, frame.stamp_ns, int(frame.image[0, 0, 0])) == ("only", 0, 9)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_rate_that_is_not_positive_is_refused(tmp_path, fps):
    save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="fps must be a positive number"):
        open_frames(tmp_path, fps=fps)


def test_names_that_are_times_give_stamps_and_order(tmp_path, random_image):
    for name in ("1700000005_5", "1700000000_25", "1700000000_066667"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), random_image())
    with open_frames(tmp_path) as source:
        assert [frame.stamp_ns - 1_700_000_000 * 10**9 for frame in source] == [66_667_000, 250_000_000, 5_500_000_000]
    assert source.fps is None
    assert [frame.stamp_ns for frame in open_frames(tmp_path, fps=2.0)] == [0, 500_000_000, 1_000_000_000]


def test_one_name_that_is_no_time_makes_all_of_them_names(tmp_path, random_image):
    for name in ("1700000005_5", "last"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), random_image())
    assert [frame.stamp_ns for frame in open_frames(tmp_path)] == [0, 100_000_000]


def test_avif_is_an_image(tmp_path):
    image = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    if not cv2.imwrite(str(tmp_path / "a.avif"), image[:, :, ::-1]):
        pytest.skip("this OpenCV writes no AVIF")
    (frame,) = open_frames(tmp_path)
    assert np.abs(frame.image.astype(int) - image).max() < 12


def test_heic_without_its_decoder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for name in "ab":
        (tmp_path / f"{name}.heic").write_bytes(b"no matter what")
    with pytest.raises(InputError, match=r"HEIC images need pi-heif.* pip install pi-heif, the extra heic"):
        open_frames(tmp_path)


def test_heic_is_decoded_by_pi_heif_and_damage_is_counted(tmp_path, monkeypatch, random_image):
    def open_heif(file, convert_hdr_to_8bit):
        assert convert_hdr_to_8bit
        if file.name == "b.heic":
            raise ValueError("not a HEIF file")
        return random_image()

    monkeypatch.setitem(sys.modules, "pi_heif", SimpleNamespace(open_heif=open_heif))
    for name in "ab":
        (tmp_path / f"{name}.heic").write_bytes(b"")
    with open_frames(tmp_path) as source:
        (frame,) = source
    assert frame.image.tolist() == random_image().tolist()
    assert source.skipped == 1
