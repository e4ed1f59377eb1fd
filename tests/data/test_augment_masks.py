"""Augmentation of image and mask together: they stay on one another, and the mask's values stay."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.augment_masks import (
    MaskAugmentConfig,
    augment_mask,
    cut_out_image,
    cut_out_mask,
    largest_share,
    random_size,
)
from mobilevit_jax.errors import ConfigurationError

SAME = MaskAugmentConfig(short_side=(1.0, 1.0), flip_probability=0.0)


def pair(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.choice(np.array([0, 3, 20, 255], np.uint8), (height, width))


def halves(height, width, rows):
    """Returns an image that is 200 in one half, and a mask that is 1 there."""
    mask = np.zeros((height, width), np.uint8)
    mask[np.s_[height // 2 :] if rows else np.s_[:, width // 2 :]] = 1
    return np.repeat(200 * mask[:, :, None], 3, 2), mask


def test_result_is_a_function_of_the_generator_alone():
    image, mask = pair(50, 70)
    before = image.copy(), mask.copy()
    first = augment_mask(image, mask, example_rng(1, 2, 3), 32, 48, MaskAugmentConfig())
    again = augment_mask(image, mask, example_rng(1, 2, 3), 32, 48, MaskAugmentConfig())
    other = augment_mask(image, mask, example_rng(1, 2, 4), 32, 48, MaskAugmentConfig())
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.uint8 and one.flags.c_contiguous
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert first[0].shape == (32, 48, 3) and first[1].shape == (32, 48)
    assert (first[0] != other[0]).any()


def test_an_image_of_the_crops_size_is_unchanged():
    image, mask = pair(32, 32)
    found = augment_mask(image, mask, example_rng(0, 0, 0), 32, 32, SAME)
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)


def test_both_are_mirrored_together():
    image, mask = pair(32, 32)
    config = MaskAugmentConfig((1.0, 1.0), flip_probability=1.0)
    found = augment_mask(image, mask, example_rng(0, 0, 0), 32, 32, config)
    np.testing.assert_array_equal(found[0], image[:, ::-1])
    np.testing.assert_array_equal(found[1], mask[:, ::-1])
    assert found[0].flags.c_contiguous and found[1].flags.c_contiguous


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    record=st.integers(0, 10**6),
    pad=st.booleans(),
)
def test_values_of_the_mask_stay(height, width, record, pad):
    image, mask = pair(height, width)
    config = MaskAugmentConfig(pad=pad)
    _, found = augment_mask(image, mask, example_rng(0, 0, record), 48, 32, config)
    assert found.shape == (48, 32)
    assert set(np.unique(found)) <= set(np.unique(mask)) | ({255} if pad else set())


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("size", [(97, 120), (200, 161), (61, 93)])
def test_the_mask_lies_on_its_image(size, rows):
    image, mask = halves(size[0], size[1], rows)
    both = 0
    for record in range(20):
        rng = example_rng(0, 0, record)
        cut, found = augment_mask(image, mask, rng, 64, 64, MaskAugmentConfig())
        # Halfway between two pixels is where the one ends and the other begins, to 1/32 of a pixel.
        sure = np.abs(cut[:, :, 0].astype(int) - 100) > 200 / 16
        np.testing.assert_array_equal((cut[:, :, 0] > 100)[sure], found[sure] == 1)
        assert sure.mean() > 0.9
        both += 0 < found.mean() < 1
    assert both > 5


@pytest.mark.parametrize("resized", [(53, 71), (160, 240), (77, 115), (300, 31)])
def test_a_part_is_that_of_the_whole_image_resized(resized):
    image, mask = pair(80, 120)
    height, width = min(30, resized[0]), min(31, resized[1])
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 3
    window = np.s_[top : top + height, left : left + width]
    whole = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)[window]
    part = cut_out_image(image, resized, top, left, height, width)
    # Places are rounded to 1/32 of a pixel, between neighbours that differ by up to 255.
    assert np.abs(whole.astype(int) - part).max() <= 16
    assert np.abs(whole.astype(float) - part).mean() < 2
    nearest = np.asarray(Image.fromarray(mask).resize(resized[::-1], Image.Resampling.NEAREST))
    found = cut_out_mask(mask, resized, top, left, height, width)
    # A centre that falls between two pixels is on either of them by a rounding error.
    rows, columns = (
        np.abs((np.arange(start, start + count) + 0.5) * source / size % 1 - 0.5) < 0.499
        for start, count, source, size in zip(
            (top, left), (height, width), mask.shape, resized, strict=True
        )
    )
    assert rows.mean() > 0.8 and columns.mean() > 0.8
    unclear = ~(rows[:, None] & columns)
    np.testing.assert_array_equal(found[~unclear], nearest[window][~unclear])


@given(
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    record=st.integers(0, 10**6),
    crop=st.tuples(st.integers(1, 600), st.integers(1, 600)),
)
def test_a_resized_image_covers_the_crop(height, width, record, crop):
    found = random_size(
        height, width, example_rng(0, 0, record), crop[0], crop[1], MaskAugmentConfig()
    )
    assert found[0] >= crop[0] and found[1] >= crop[1]


def test_the_short_side_is_drawn_evenly_and_the_aspect_ratio_kept():
    config = MaskAugmentConfig(pad=True)
    sizes = [random_size(375, 500, example_rng(0, 0, i), 512, 512, config) for i in range(3000)]
    short, long = np.array(sizes).T
    assert short.min() == 256 and short.max() == 1024
    assert abs(short.mean() - 640) < 15
    assert np.abs(long / short - 4 / 3).max() < 0.006


def test_small_ones_are_enlarged_to_the_crop():
    config = MaskAugmentConfig(short_side=(0.5, 0.5))
    assert random_size(375, 500, example_rng(0, 0, 0), 512, 512, config) == (512, 682)
    padded = MaskAugmentConfig(short_side=(0.5, 0.5), pad=True)
    assert random_size(375, 500, example_rng(0, 0, 0), 512, 512, padded) == (256, 341)


def test_the_long_side_is_limited():
    config = MaskAugmentConfig(short_side=(2.0, 2.0), long_side=2.0, pad=True)
    assert random_size(250, 500, example_rng(0, 0, 0), 512, 512, config) == (512, 1024)


def test_padding_is_zero_and_void():
    image, mask = pair(20, 40)
    config = MaskAugmentConfig((0.5, 0.5), pad=True, flip_probability=0.0)
    cut, found = augment_mask(image + 1 | 1, mask, example_rng(0, 0, 0), 64, 64, config)
    assert (cut[32:] == 0).all() and (found[32:] == 255).all()
    assert cut[:32].all() and (found[:32] != 255).any()


def test_crops_of_one_class_are_drawn_again():
    mask = np.zeros((64, 256), np.uint8)
    mask[:, 200:] = 1
    image = np.zeros((64, 256, 3), np.uint8)
    shares = {
        limit: np.mean(
            [
                largest_share(
                    augment_mask(
                        image,
                        mask,
                        example_rng(0, 0, i),
                        64,
                        64,
                        MaskAugmentConfig((1.0, 1.0), class_share=limit),
                    )[1]
                )
                <= 0.75
                for i in range(100)
            ]
        )
        for limit in (1.0, 0.75)
    }
    assert shares[1.0] < 0.3 and shares[0.75] > 0.6


def test_share_of_the_labelled_pixels():
    assert largest_share(np.array([[0, 0, 0, 1]], np.uint8)) == 0.75
    assert largest_share(np.array([[255, 0, 1, 255]], np.uint8)) == 0.5
    assert largest_share(np.full((2, 2), 255, np.uint8)) == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (3, 2)])
def test_odd_sizes(size):
    image, mask = pair(*size)
    cut, found = augment_mask(image, mask, example_rng(0, 0, 5), 128, 96, MaskAugmentConfig())
    assert cut.shape == (128, 96, 3) and found.shape == (128, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": (0.0, 1.0)}, "short_side"),
        ({"short_side": (2.0, 1.0)}, "short_side"),
        ({"long_side": 0.0}, "long_side"),
        ({"class_share": 0.0}, "class_share"),
        ({"class_share": 1.1}, "class_share"),
        ({"flip_probability": -0.1}, "flip_probability"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        MaskAugmentConfig(**options)
