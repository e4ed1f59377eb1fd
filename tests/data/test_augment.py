import dataclasses
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilevit_jax.data.augment import (
    AugmentConfig,
    augment,
    decode_and_augment,
    example_rng,
    random_crop,
)
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.random_augment import rand_augment, random_erase
from mobilevit_jax.errors import ConfigurationError, DataError

WHOLE = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
EVERYTHING = AugmentConfig(interpolation="bicubic", rand_augment=3, erase_probability=0.5)


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
        ({"interpolation": "cubic"}, "augment.interpolation must be bilinear or bicubic"),
        ({"rand_augment": -1}, "augment.rand_augment must be 0 or more; got -1"),
        ({"rand_augment": 2, "rand_augment_magnitude": 31}, "must be from 0 to 30; got 31"),
        ({"erase_probability": math.nan}, r"augment.erase_probability must be in \[0, 1\]"),
        ({"erase_probability": 1, "erase_scale": (0.4, 0.3)}, "augment.erase_scale must be"),
        ({"erase_probability": 1, "erase_ratio": (0, 3)}, "augment.erase_ratio must be"),
        ({"mixup_alpha": -1}, "augment.mixup_alpha must be 0.01 or more, or 0 for none; got -1"),
        ({"mixup_alpha": 0.001}, "augment.mixup_alpha must be 0.01 or more"),
        ({"cutmix_alpha": math.inf}, "augment.cutmix_alpha must be"),
        ({"cutmix_alpha": 1, "cutmix_probability": 2}, "augment.cutmix_probability must be"),
        # What would have no effect.
        ({"rand_augment_magnitude": 5}, "no effect while augment.rand_augment is 0: set rand_aug"),
        ({"erase_scale": (0.1, 0.2)}, "augment.erase_scale has no effect while augment.erase_prob"),
        ({"mixup_probability": 1.0}, "no effect while augment.mixup_alpha is 0"),
        ({"mixup_alpha": 1.0, "cutmix_probability": 1.0}, "while augment.cutmix_alpha is 0"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AugmentConfig(**options)


def test_options_that_are_off_draw_nothing():
    """So that runs of the paper's recipe are the same as before there were any."""
    image, rng, other = noise(50, 70), example_rng(1, 2, 3), example_rng(1, 2, 3)
    augment(image, rng, 32, 48, AugmentConfig(interpolation="bicubic", mixup_alpha=1.0))
    other.random()
    random_crop(50, 70, other, AugmentConfig())
    assert rng.random() == other.random()


def test_options_follow_the_crop_in_the_order_of_cvnets():
    image = noise(50, 70)
    config = AugmentConfig(rand_augment=2, erase_probability=0.5)
    erased = 0
    for record in range(20):
        rng = example_rng(1, 2, record)
        expected = augment(image, rng, 32, 48, AugmentConfig())
        expected = rand_augment(expected, rng, 2, 9, "bgr")
        if rng.random() < 0.5:
            expected = random_erase(expected, rng, config.erase_scale, config.erase_ratio)
            erased += 1
        found = augment(image, example_rng(1, 2, record), 32, 48, config)
        np.testing.assert_array_equal(found, expected)
        assert found.shape == (32, 48, 3) and found.flags.c_contiguous
    assert 3 < erased < 17


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_bicubic_is_pillows_of_the_crop(flip):
    image = noise(90, 70)
    config = AugmentConfig((0.2, 0.4), flip_probability=flip, interpolation="bicubic")
    rng = example_rng(0, 0, 1)
    rng.random()
    top, left, h, w = random_crop(90, 70, rng, config)
    crop = Image.fromarray(image[top : top + h, left : left + w])
    expected = np.asarray(crop.resize((20, 16), Image.Resampling.BICUBIC))
    found = augment(image, example_rng(0, 0, 1), 16, 20, config)
    np.testing.assert_array_equal(found, expected[:, ::-1] if flip else expected)


def test_everything_is_the_same_in_either_order_of_channels():
    data = photograph(90, 70)
    for record in range(40):
        bgr, rgb = (
            decode_and_augment(
                data, example_rng(0, 0, record), 32, 24, EVERYTHING, name="x", channel_order=order
            )
            for order in ("bgr", "rgb")
        )
        np.testing.assert_array_equal(bgr, rgb[..., ::-1])


def test_everything_follows_from_seed_epoch_and_record_alone():
    data = photograph(90, 70)
    keys = [(seed, epoch, record) for seed in (0, 1) for epoch in (0, 3) for record in range(8)]
    made, again = (
        {
            key: decode_and_augment(data, example_rng(*key), 32, 24, EVERYTHING, name="x").tobytes()
            for key in order
        }
        for order in (keys, keys[::-1])
    )
    assert made == again and len(set(made.values())) == len(keys)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(0, 10**6))
def test_everything_takes_images_of_any_size(height, width, size, record):
    image = noise(height, width)
    before = image.copy()
    found = augment(image, example_rng(0, 0, record), size, size + 1, EVERYTHING)
    assert (found.shape, found.dtype) == ((size, size + 1, 3), np.uint8)
    np.testing.assert_array_equal(image, before)


def photograph(height, width, orientation=1, **options):
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * x + 1), np.cos(7 * y), np.sin(5 * (x + y))]
    image = Image.fromarray((np.stack(waves, -1) * 100 + 128).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif, **options)
    return buffer.getvalue()


class TestScaledDecoding:
    CONFIG = AugmentConfig(scaled_decoding=True)

    def both(self, data, record, size=32, config=CONFIG):
        plain = dataclasses.replace(config, scaled_decoding=False)
        return [
            decode_and_augment(data, example_rng(0, 0, record), size, size, one, name="x")
            for one in (config, plain)
        ]

    def test_without_it_the_pixels_are_those_of_the_recipe(self):
        data = photograph(300, 410)
        _, plain = self.both(data, 3)
        image = decode_image(data, name="x")
        np.testing.assert_array_equal(
            plain, augment(image, example_rng(0, 0, 3), 32, 32, AugmentConfig())
        )

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_same_crop(self, orientation):
        data = photograph(403, 301, orientation)
        for record in range(8):
            scaled, plain = self.both(data, record)
            assert scaled.shape == plain.shape and scaled.flags.c_contiguous
            # A crop from elsewhere, or mirrored otherwise, differs by tens.
            assert np.abs(scaled.astype(int) - plain).mean() < 12

    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_rows_below_the_crop_change_nothing(self, subsampling, capfd):
        plain = AugmentConfig()
        for height, width, options in (
            (203, 170, {}),
            (300, 33, {"progressive": True}),
            (211, 97, {"restart_marker_rows": 1}),
            (180, 5, {}),
        ):
            data = photograph(height, width, subsampling=subsampling, **options)
            whole = decode_image(data, name="x")
            for record in range(12):
                np.testing.assert_array_equal(
                    decode_and_augment(data, example_rng(0, 0, record), 24, 24, plain, name="x"),
                    augment(whole, example_rng(0, 0, record), 24, 24, plain),
                )
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(("size", "reduction"), [(32, 8), (33, 4), (64, 4), (128, 2), (129, 1)])
    def test_never_fewer_pixels_than_the_result(self, size, reduction, monkeypatch):
        asked = []

        def decode(data, *, reduction, **options):
            asked.append(reduction)
            return decode_image(data, reduction=reduction, **options)

        monkeypatch.setattr("mobilevit_jax.data.augment.decode_image", decode)
        whole = dataclasses.replace(WHOLE, scaled_decoding=True)
        image = decode_and_augment(
            photograph(256, 256), example_rng(0, 0, 0), size, size, whole, name="x"
        )
        assert asked == [reduction] and image.shape == (size, size, 3)

    @pytest.mark.parametrize("mode", ["PNG", "CMYK"])
    def test_other_files_are_as_without(self, mode):
        buffer = io.BytesIO()
        image = Image.fromarray(noise(200, 200))
        image = image.convert("CMYK") if mode == "CMYK" else image
        image.save(buffer, "PNG" if mode == "PNG" else "JPEG")
        scaled, plain = self.both(buffer.getvalue(), 0)
        np.testing.assert_array_equal(scaled, plain)

    def test_files_that_are_cut_short_are_named(self):
        data = photograph(200, 200)
        for part in (data[:10], data[: len(data) // 2], b""):
            with pytest.raises(DataError, match="^cat: "):
                decode_and_augment(part, example_rng(0, 0, 0), 32, 32, self.CONFIG, name="cat")

    def test_damaged_orientation(self):
        data = photograph(403, 301, 6)
        damaged = data.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x09", 1)
        assert damaged != data
        for record in range(8):  # whatever the two readers make of it, a crop comes out
            for image in self.both(damaged, record):
                assert image.shape == (32, 32, 3)

    @given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 1000))
    @settings(max_examples=40)
    def test_images_of_any_size(self, height, width, size, record):
        scaled, plain = self.both(photograph(height, width), record, size)
        assert scaled.shape == plain.shape == (size, size, 3)
