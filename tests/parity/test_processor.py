"""Pixels of our image processor and of transformers'."""

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.processing import ImageProcessor

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Where torchvision is installed, the plain name is a second implementation, on torchvision: its
# bicubic filter and where it puts an odd row of padding are its own.
Twin = getattr(transformers, "MobileViTImageProcessorPil", transformers.MobileViTImageProcessor)

# Height and width: landscape, portrait, odd, square, to be made larger, long and thin.
SHAPES = [(300, 401), (427, 320), (333, 257), (288, 288), (97, 150), (61, 40), (40, 700)]


def picture(height: int, width: int) -> np.ndarray:
    """Returns noise on a ramp, uint8 [height, width, 3] in RGB."""
    rng = np.random.default_rng(height * width)
    ramp = np.add.outer(np.linspace(0, 90, height), np.linspace(0, 90, width))[..., None]
    return (ramp + rng.integers(0, 76, (height, width, 3))).astype(np.uint8)


def theirs(processor: ImageProcessor, image: np.ndarray, directory) -> np.ndarray:
    processor.save(directory)
    twin = Twin.from_pretrained(directory)
    pixels = twin(Image.fromarray(image), return_tensors="np")["pixel_values"]
    return np.asarray(pixels).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("resample", ["pillow_bilinear", "pillow_bicubic"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 224, "crop_size": (256, 256)},
        {"size": 129, "crop_size": (101, 128), "do_flip_channel_order": False},
        {"size": (180, 150), "do_center_crop": False},
        {"do_resize": False, "crop_size": (111, 222)},
    ],
    ids=["published", "padded", "odd", "outright", "crop_only"],
)
def test_same_pixels(options, resample, shape, tmp_path):
    processor, image = ImageProcessor(resample=resample, **options), picture(*shape)
    ours, wanted = processor(image), theirs(processor, image, tmp_path)
    assert ours.shape == wanted.shape and ours.dtype == np.float32
    assert np.abs(ours - wanted).max() <= 1.0001 / 255


def test_of_opencv_only_the_filter_differs(tmp_path):
    """transformers antialiases, OpenCV does not: the same picture, not the same pixels."""
    processor = ImageProcessor()
    smooth = np.asarray(Image.fromarray(picture(6, 8)).resize((401, 300), Image.Resampling.BICUBIC))
    ours, wanted = processor(smooth), theirs(processor, smooth, tmp_path)
    assert np.abs(ours - wanted).max() <= 2.0001 / 255
    noise = picture(600, 800)
    assert np.abs(processor(noise) - theirs(processor, noise, tmp_path)).max() > 2.0001 / 255


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_mean_and_standard_deviation(shape, tmp_path):
    processor = ImageProcessor(
        size=129,
        crop_size=(101, 128),
        do_flip_channel_order=False,
        resample="pillow_bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    image = picture(*shape)
    processor.save(tmp_path)
    twin = getattr(transformers, "BitImageProcessorPil", transformers.BitImageProcessor)
    pixels = twin.from_pretrained(tmp_path)(Image.fromarray(image), return_tensors="np")
    wanted = np.asarray(pixels["pixel_values"]).transpose(0, 2, 3, 1)
    assert np.abs(processor(image) - wanted).max() <= 1.0001 / 255 / 0.224


def test_values_are_scaled_alike(tmp_path):
    processor = ImageProcessor(do_rescale=False, resample="pillow_bilinear")
    image = picture(300, 300)
    assert np.abs(processor(image) - theirs(processor, image, tmp_path)).max() <= 1
    processor = ImageProcessor(rescale_factor=1 / 127.5, resample="pillow_bilinear")
    assert np.abs(processor(image) - theirs(processor, image, tmp_path)).max() <= 2.0001 / 255
