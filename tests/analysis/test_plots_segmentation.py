"""Pictures of masks: colours on their regions, a legend of what is there, any size of image."""

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.analysis.plots_segmentation import compare, grid, overlay
from mobilevit_jax.data.voc_names import VOC_CLASSES, voc_palette

GREY = 100


def scene(height=480, width=640):
    """Returns a grey image and a mask with a cat (8) on the left and a dog (12) below."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, : width // 2] = 8
    mask[height // 2 :, :] = 12
    return np.full((height, width, 3), GREY, np.uint8), mask


def count_colour(picture, index):
    return int((picture == voc_palette()[index]).all(-1).sum())


def test_the_background_stays_and_classes_are_tinted():
    image, mask = scene()
    before = image.copy()
    picture = overlay(image, mask, VOC_CLASSES)
    np.testing.assert_array_equal(image, before)
    assert picture.dtype == np.uint8 and picture.shape[1] == 640 and picture.shape[0] > 480
    assert (picture[:480][mask == 0] == GREY).all()
    inside = picture[180, 100].astype(int), picture[400, 300].astype(int)
    for colour, index in zip(inside, (8, 12), strict=True):
        towards = voc_palette()[index].astype(int) - GREY
        moved = colour - GREY
        assert (np.sign(moved) == np.sign(towards)).all()
        assert (np.abs(moved) < np.abs(towards)).all()


def test_regions_have_an_outline_and_an_entry():
    image, mask = scene()
    picture = overlay(image, mask, VOC_CLASSES)
    for index in (8, 12):
        assert count_colour(picture[:480], index) > 300  # the outline
        assert count_colour(picture[480:], index) > 100  # the legend
    assert count_colour(picture[480:], 15) == 0


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (64, 64), (900, 60), (60, 900), (1500, 2000)])
def test_text_has_room_at_any_size(size):
    image, mask = scene(*size)
    mask[0, 0] = 8
    names = [*VOC_CLASSES[:8], "a cat whose name is longer than most of the pictures are wide" * 2]
    names += VOC_CLASSES[9:]
    picture = overlay(image, mask, names)
    scale = -(-480 // max(size)) if max(size) < 480 else 1
    drawn = size[0] * scale
    legend = picture[drawn:]
    assert picture.shape[1] >= size[1] * scale and legend.shape[0] >= 20
    dark = (legend < 90).all(-1)
    assert dark.sum() > 30  # letters
    # They end before the edges.
    edges = [legend[:, :2], legend[:, -2:], legend[-1:]]
    assert all((edge == 255).all() for edge in edges)


def test_a_given_side():
    image, mask = scene()
    assert overlay(image, mask, VOC_CLASSES, side=320).shape[1] == 320


def test_background_alone_void_and_numbers():
    image, mask = scene()
    nothing = overlay(image, np.zeros_like(mask), VOC_CLASSES)
    assert (nothing[:480] == GREY).all() and (nothing[480:] < 90).any()
    void = overlay(image, np.where(mask == 8, 255, mask).astype(np.uint8), VOC_CLASSES)
    assert count_colour(void[480:], 255) > 100
    unnamed = overlay(image, mask, ["background"])
    assert unnamed.shape[1] == 640


def test_a_class_0_that_is_no_background_is_painted():
    image, mask = scene()
    names = ["sky", *VOC_CLASSES[1:]]
    picture = overlay(image, mask, names)
    sky = voc_palette()[1]
    assert (picture[50, 50] != GREY).any()  # tinted
    legend = (picture[480:] == sky).all(-1)
    assert legend.sum() > 100
    assert count_colour(picture[480:], 9) > 100 and count_colour(picture[480:], 8) == 0
    np.testing.assert_array_equal(compare(image, mask, names)[-5:], 255)


def test_panels_side_by_side():
    image, mask = scene()
    two = compare(image, mask, VOC_CLASSES)
    three = compare(image, mask, VOC_CLASSES, np.zeros_like(mask) + np.uint8(15))
    assert 2 * 640 < two.shape[1] < 2 * 640 + 40 and 3 * 640 < three.shape[1] < 3 * 640 + 60
    top = 480 * 3 // 4
    assert (two[top, 100] == GREY).all() and (two[top, 900] != GREY).any()
    legend = three[-60:]
    assert all(count_colour(legend, index) > 50 for index in (8, 12, 15))


def test_a_grid_is_written(tmp_path):
    grid([overlay(*scene(), VOC_CLASSES, side=100 + 50 * i) for i in range(3)], tmp_path / "g.png")
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"


def test_another_size_than_the_image():
    image, mask = scene()
    with pytest.raises(ValueError, match="the mask is 640x470, the image 640x480"):
        overlay(image, mask[10:], VOC_CLASSES)
