"""The picture for people: camera, overlay, legend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmanet_core.errors import OutputError
from lmanet_core.labels import CITYSCAPES, LabelSet
from lmanet_core.media import decode_image
from lmanet_core.media.picture import draw_legend, draw_picture, write_image

RED, BLUE = (200, 0, 0), (0, 0, 200)
TWO = LabelSet(("road", "car"), (RED, BLUE))
WHITE = (255, 255, 255)


@pytest.fixture
def draw(make_result, random_image):
    def draw(labels, label_set=TWO, **options):
        labels = np.asarray(labels, np.uint8)
        image = random_image(*labels.shape)
        made = make_result(labels, image=image)
        return image, draw_picture(made.frame, made.result, label_set, **options)

    return draw


def colors_in(image):
    return {tuple(color) for color in image.reshape(-1, 3).tolist()}


def test_camera_is_left_and_overlay_right(draw):
    labels = np.zeros((32, 48), np.uint8)
    labels[:, 24:] = 1
    image, picture = draw(labels, opacity=1.0)
    assert picture.dtype == np.uint8 and picture.shape[1] == 96
    assert np.array_equal(picture[:32, :48], image)
    assert np.array_equal(picture[:32, 48:], TWO.colorize(labels))


def test_opacity_is_the_share_of_the_colour(draw):
    image, picture = draw(np.zeros((16, 16), np.uint8), opacity=0.0)
    assert np.array_equal(picture[:16, 16:], image)


def test_legend_shows_the_classes_that_are_seen_and_no_others(draw):
    legend = draw(np.zeros((64, 200), np.uint8))[1][64:]
    assert len(legend) > 0
    assert RED in colors_in(legend) and BLUE not in colors_in(legend)
    assert any(max(color) < 100 for color in colors_in(legend))  # its name, in dark letters


def test_class_on_hardly_any_pixel_is_not_listed(draw):
    labels = np.zeros((50, 100), np.uint8)
    labels[0, :4] = 1  # 0.08 %
    assert BLUE not in colors_in(draw(labels)[1][50:])
    labels[0, :5] = 1  # 0.1 %
    assert BLUE in colors_in(draw(labels)[1][50:])


def test_frequent_classes_come_first(draw):
    labels = np.zeros((50, 200), np.uint8)
    labels[:40] = 1
    legend = draw(labels)[1][50:]
    first = {color: np.argwhere((legend == color).all(2))[:, 1].min() for color in (RED, BLUE)}
    assert first[BLUE] < first[RED]


def test_unlabelled_image_has_an_empty_legend(draw):
    image, picture = draw(np.full((32, 48), 255, np.uint8))
    assert np.array_equal(picture[:32, 48:], image)
    assert colors_in(picture[32:]) == {WHITE}


def test_many_classes_wrap_and_every_one_is_shown(draw):
    labels = np.arange(19, dtype=np.uint8).repeat(2)[None].repeat(20, 0)  # (20, 38): much too narrow for one line
    picture = draw(labels, CITYSCAPES)[1]
    assert colors_in(picture[20:]) >= set(CITYSCAPES.colors)


@pytest.mark.parametrize(("width", "second"), [(60, (20, 7)), (130, (5, 56))])
def test_legend_is_lines_of_a_swatch_and_a_name_in_grey_on_white(width, second):
    """15 pixels a line where the picture is small, a third of a line above the first; half a line and more between entries."""
    labels = np.zeros((10, 60), np.uint8)
    labels[:4] = 1
    legend = draw_legend(labels, TWO, width)
    assert legend.shape == (second[0] + 15, width, 3)
    for color, (top, left) in ((RED, (5, 7)), (BLUE, second)):
        assert (legend[top : top + 10, left : left + 11] == color).all()
        legend[top : top + 10, left : left + 11] = WHITE
    assert (legend == legend[:, :, :1]).all()  # what is left are names
    rows, columns = np.nonzero(legend[:, :, 0] < 255)
    assert rows.min() >= 5 and columns.min() > 7 + 11


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_picture_of_any_size_is_drawn(draw, size):
    assert draw(np.zeros(size, np.uint8))[1].shape[1] == 2 * size[1]


@pytest.mark.parametrize(("output", "shape"), [("network", (8, 8)), ("20x10", (10, 20))])
def test_picture_has_the_size_of_the_labels_not_of_the_camera(make_result, random_image, output, shape):
    made = make_result(np.zeros((16, 24), np.uint8), image=random_image(16, 24), output=output)
    result = replace(made.result, labels=np.zeros(shape, np.uint8))
    picture = draw_picture(made.frame, result, TWO)
    assert picture.shape[1] == 2 * shape[1] and picture.shape[0] > shape[0]


def test_picture_is_written_in_the_format_of_its_name(tmp_path, random_image):
    image = random_image()
    write_image(tmp_path / "p.png", image)
    assert np.array_equal(decode_image((tmp_path / "p.png").read_bytes()), image)
    with pytest.raises(OutputError, match=r"cannot write .*missing/p\.png"):
        write_image(tmp_path / "missing/p.png", image)
