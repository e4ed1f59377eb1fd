"""From an image to a mask of its own size, and to a PNG with VOC's palette."""

# pyright: reportArgumentType=false

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.masks import decode_mask, mask_palette
from mobilevit_jax.data.voc_names import voc_palette
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.segmentation.predict import Segmenter, save_palette_png
from tests.tasks.segmentation.stand_ins import NAMES, PixelNet

PROCESSOR = ImageProcessor(size=40, crop_size=(32, 32))


def by_channel():
    """Returns weights that tell blue (1), green (2), red (3) and black (0); channels are BGR."""
    kernel = np.zeros((1, 1, 3, 4), np.float32)
    kernel[0, 0, [0, 1, 2], [1, 2, 3]] = 1
    norm = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    bias = np.float32([0.5, 0, 0, 0])
    stats = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
    return {
        "params": {"norm": norm, "classifier": {"kernel": kernel, "bias": bias}},
        "batch_stats": {"norm": stats},
    }


SEGMENTER = Segmenter(PixelNet(), by_channel(), PROCESSOR, NAMES)


def flag(height=64, width=96):
    """Returns an image in RGB, red above on the left and blue below, black elsewhere; its mask."""
    image, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    image[: height // 2, : width // 2, 0], mask[: height // 2, : width // 2] = 255, 3
    image[height // 2 :, :, 2], mask[height // 2 :, :] = 255, 1
    return image, mask


def test_letterboxes_are_refused():
    processor = ImageProcessor(do_pad=True, size=32, crop_size=(32, 32))
    with pytest.raises(ConfigurationError, match="pads none: set do_pad of the processor to false"):
        Segmenter(PixelNet(), by_channel(), processor, NAMES)


def test_an_array_a_path_and_a_pillow_image(tmp_path):
    image, mask = flag()
    cv2.imwrite(str(tmp_path / "flag.png"), image[:, :, ::-1])
    sources = [image, tmp_path / "flag.png", str(tmp_path / "flag.png"), Image.fromarray(image)]
    for source in sources:
        found = SEGMENTER(source)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask)


def test_images_of_different_sizes_at_once():
    pairs = [flag(64, 96), flag(32, 32), flag(128, 64)]
    found = SEGMENTER([image for image, _ in pairs], batch=4)
    for (_, mask), answer in zip(pairs, found, strict=True):
        np.testing.assert_array_equal(answer, mask)


def test_the_edges_of_the_image_are_seen():
    image = np.zeros((50, 90, 3), np.uint8)
    image[:8, :12, 1] = 255
    found = SEGMENTER(image)
    assert found[0, 0] == 2 and found[-1, -1] == 0


def test_what_is_no_image(tmp_path):
    with pytest.raises(DataError, match="nothing.png"):
        SEGMENTER(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="image 1: an array must be uint8"):
        SEGMENTER([flag()[0], np.zeros((5, 5))])
    with pytest.raises(DataError, match="no images"):
        SEGMENTER([])


class TestPalette:
    mask = np.random.default_rng(0).integers(0, 256, (31, 17)).astype(np.uint8)

    def test_indices_and_colours(self, tmp_path):
        path = tmp_path / "a" / "mask.png"
        save_palette_png(self.mask, path)
        np.testing.assert_array_equal(decode_mask(path.read_bytes(), name="m"), self.mask)
        with Image.open(path) as image:
            assert image.mode == "P"
            colours = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(colours, voc_palette()[self.mask])
        assert [p.name for p in path.parent.iterdir()] == ["mask.png"]

    def test_class_0_is_black_only_if_it_is_a_background(self, tmp_path):
        save_palette_png(self.mask, tmp_path / "mask.png", ("sky", "road"))
        with Image.open(tmp_path / "mask.png") as image:
            assert (np.asarray(image) == self.mask).all()
            colours = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(colours, mask_palette(("sky", "road"))[self.mask])

    def test_few_classes_are_written_alike(self, tmp_path):
        save_palette_png(self.mask % 2, tmp_path / "mask.png")
        data = (tmp_path / "mask.png").read_bytes()
        np.testing.assert_array_equal(decode_mask(data, name="m"), self.mask % 2)

    def test_a_mask_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match="uint8 .h, w."):
            save_palette_png(self.mask.astype(int), tmp_path / "mask.png")

    def test_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "mask.png").mkdir()
        with pytest.raises(OSError):
            save_palette_png(self.mask, tmp_path / "mask.png")
        assert [p.name for p in tmp_path.iterdir()] == ["mask.png"]


def test_more_images_than_a_batch():
    image, mask = flag(32, 48)
    found = SEGMENTER([image] * 35)
    assert len(found) == 35
    for answer in found:
        np.testing.assert_array_equal(answer, mask)
