import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.data.augment import AugmentConfig, augment, example_rng, random_crop
from mobilevit_jax.errors import ConfigurationError

WHOLE = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_result_is_a_function_of_the_generator_alone():
    image = noise(50, 70)
    before = image.copy()
    first = augment(image, example_rng(1, 2, 3), 32, 48, AugmentConfig())
    again = augment(image, example_rng(1, 2, 3), 32, 48, AugmentConfig())
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert first.shape == (32, 48, 3) and first.dtype == np.uint8 and first.flags.c_contiguous


def test_streams_differ_by_seed_epoch_and_record():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**40, 0, 0), (0, 0, 2**39)]
    draws = {tuple(example_rng(*key).random(4).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_neighbouring_records_are_uncorrelated():
    draws = np.array([example_rng(0, 0, i).random(2) for i in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.05


def test_whole_image_without_flip_is_unchanged():
    image = noise(32, 32)
    np.testing.assert_array_equal(augment(image, example_rng(0, 0, 0), 32, 32, WHOLE), image)


def test_flip_mirrors_left_and_right():
    image = noise(32, 32)
    config = AugmentConfig((1.0, 1.0), (1.0, 1.0), flip_probability=1.0)
    flipped = augment(image, example_rng(0, 0, 0), 32, 32, config)
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    assert flipped.flags.c_contiguous


def test_half_of_the_images_are_flipped():
    image = noise(8, 8)
    config = AugmentConfig((1.0, 1.0), (1.0, 1.0), flip_probability=0.5)
    same = sum(
        np.array_equal(augment(image, example_rng(0, 0, i), 8, 8, config), image)
        for i in range(2000)
    )
    assert 900 < same < 1100


@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    record=st.integers(0, 10**6),
    low=st.floats(0.01, 1.0),
)
def test_crops_lie_inside_the_image(height, width, record, low):
    config = AugmentConfig(crop_scale=(low, 1.0))
    top, left, h, w = random_crop(height, width, example_rng(0, 0, record), config)
    assert h >= 1 and w >= 1 and top >= 0 and left >= 0
    assert top + h <= height and left + w <= width


def test_distribution_of_area_and_ratio():
    boxes = [random_crop(1000, 1000, example_rng(0, 0, i), AugmentConfig()) for i in range(4000)]
    height, width = np.array(boxes)[:, 2], np.array(boxes)[:, 3]
    area, ratio = height * width / 1e6, np.log(width / height)
    assert 0.079 < area.min() < 0.1 and 0.95 < area.max() <= 1
    assert ratio.min() > math.log(3 / 4) - 0.01 and ratio.max() < math.log(4 / 3) + 0.01
    assert abs(ratio.mean()) < 0.01  # log-uniform: tall as often as wide
    # Uniform but for the rejected large boxes, which do not fit with an extreme ratio.
    assert 0.45 < area.mean() < 0.54
    top_share = np.array(boxes)[:, 0] / np.maximum(1000 - height, 1)
    assert abs(top_share.mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("size", "box"),
    [((1, 1000), (0, 499, 1, 1)), ((1000, 1), (499, 0, 1, 1)), ((30, 90), (0, 25, 30, 40))],
)
def test_fallback_takes_the_centre(size, box):
    config = AugmentConfig(crop_scale=(1.0, 1.0))  # the whole area never fits in this shape
    height, width = size
    assert random_crop(height, width, example_rng(0, 0, 0), config) == box


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (3, 2)])
def test_tiny_images(size):
    image = augment(noise(*size), example_rng(0, 0, 5), 40, 24, AugmentConfig())
    assert image.shape == (40, 24, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_scale": (0.5, 0.4)}, "crop_scale"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"flip_probability": 1.5}, "flip_probability"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AugmentConfig(**options)
