import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.augment_boxes import (
    BoxAugmentConfig,
    augment_boxes,
    crop_boxes,
    distort,
    draw_crop,
    flip_boxes,
)
from mobilevit_jax.errors import ConfigurationError

DEFAULT = BoxAugmentConfig()
OFF: dict[str, Any] = {
    "contrast": (1, 1),
    "brightness": (0, 0),
    "saturation": (1, 1),
    "hue": (0, 0),
}
PLAIN = BoxAugmentConfig(crop=False, distort_probability=0, flip_probability=0)


def boxes_from(numbers: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Returns corners inside the image from (x, y, width, height), each a share of what is left."""
    array = np.array(numbers, np.float64).reshape(-1, 4)
    start = 0.95 * array[:, :2]
    size = (1 - start) * (0.02 + 0.98 * array[:, 2:])
    return np.concatenate([start, start + size], axis=1).clip(0, 1).astype(np.float32)


share = st.floats(0, 1, width=32)
some_boxes = st.lists(st.tuples(share, share, share, share), max_size=8).map(boxes_from)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=150, deadline=None)
@given(some_boxes, st.integers(4, 300), st.integers(4, 300), st.integers(0, 10**6))
def test_what_stays_true_of_boxes(boxes, height, width, seed):
    labels = np.arange(1, len(boxes) + 1, dtype=np.int32)
    image = picture(height, width)
    found, moved, kept = augment_boxes(
        image, boxes, labels, example_rng(0, 0, seed), 40, 48, DEFAULT
    )
    assert found.shape == (40, 48, 3) and found.dtype == np.uint8 and found.flags.c_contiguous
    assert moved.dtype == np.float32 and kept.dtype == np.int32 and len(moved) == len(kept)
    assert (moved >= 0).all() and (moved <= 1).all()
    assert (moved[:, 2:] > moved[:, :2]).all()
    assert len(kept) > 0 or len(boxes) == 0
    assert (np.diff(kept) > 0).all()  # in their order, each once


@settings(max_examples=150, deadline=None)
@given(some_boxes, st.integers(16, 300), st.integers(16, 300), st.integers(0, 10**6))
def test_crops(boxes, height, width, seed):
    top, left, h, w = draw_crop(height, width, boxes, example_rng(0, 0, seed), DEFAULT)
    assert top >= 0 and left >= 0 and h > 0 and w > 0
    assert top + h <= height and left + w <= width
    if (h, w) == (height, width):
        return
    assert h >= int(0.3 * height) - 1 and w >= int(0.3 * width) - 1
    # Corners are rounded down after the shape was checked.
    assert (h - 1) / (w + 1) <= 2 and (h + 1) / (w - 1) >= 0.5
    pixels = boxes * np.array([width, height] * 2)
    corner = np.array([left, top, left + w, top + h])
    common = np.prod(
        np.maximum(
            np.minimum(pixels[:, 2:], corner[2:]) - np.maximum(pixels[:, :2], corner[:2]), 0
        ),
        axis=1,
    )
    union = np.prod(pixels[:, 2:] - pixels[:, :2], axis=1) + h * w - common
    assert (common / union).max() >= 0.1 - 1e-6
    centres = (pixels[:, :2] + pixels[:, 2:]) / 2
    assert ((corner[:2] < centres) & (centres < corner[2:])).all(1).any()


def test_the_overlap_that_is_asked_for():
    boxes = np.array([[0.2, 0.2, 0.8, 0.8], [0, 0, 0.1, 0.1]], np.float32)
    config = BoxAugmentConfig(crop_overlaps=(0.7,))
    corners = np.array([20, 20, 80, 80])
    for seed in range(50):
        top, left, h, w = draw_crop(100, 100, boxes, example_rng(0, 0, seed), config)
        common = np.prod(
            np.minimum([left + w, top + h], corners[2:]) - np.maximum([left, top], corners[:2])
        )
        assert (h, w) != (100, 100) and common / (3600 + h * w - common) >= 0.7


def test_overlaps_are_drawn_alike_and_all_kinds_come():
    boxes = np.array([[0.3, 0.3, 0.7, 0.7]], np.float32)
    crops = [draw_crop(200, 200, boxes, example_rng(0, 0, i), DEFAULT) for i in range(400)]
    whole = sum(crop == (0, 0, 200, 200) for crop in crops)
    # A seventh at once; so do some of the picks that nearly never fit (0.9, 1).
    assert 400 / 7 < whole < 200
    assert len(set(crops)) == 400 - whole + 1


def test_overlaps_that_nothing_has_end_with_the_whole_image():
    config = BoxAugmentConfig(crop_overlaps=(1.0,))
    boxes = np.array([[0.1, 0.1, 0.15, 0.15]], np.float32)
    assert draw_crop(100, 80, boxes, example_rng(0, 0, 0), config) == (0, 0, 100, 80)


def test_an_image_without_boxes_stays_whole():
    boxes = np.zeros((0, 4), np.float32)
    assert draw_crop(100, 80, boxes, example_rng(0, 0, 0), DEFAULT) == (0, 0, 100, 80)


def test_boxes_of_a_crop():
    boxes = np.array(
        [[0.1, 0.1, 0.5, 0.5], [0.25, 0.4, 1, 1], [0, 0, 0.2, 0.2], [0.5, 0.5, 0.6, 0.7]],
        np.float32,
    )
    labels = np.array([1, 2, 3, 4], np.int32)
    found, kept = crop_boxes(boxes, labels, (100, 200), (20, 50, 50, 100))
    # Of x from 50 to 150, y from 20 to 70. The centre of the second is below, at (125, 70).
    assert kept.tolist() == [1, 4]
    np.testing.assert_allclose(found, [[0, 0, 0.5, 0.6], [0.5, 0.6, 0.7, 1]], atol=1e-6)
    same, all_of_them = crop_boxes(boxes, labels, (100, 200), (0, 0, 100, 200))
    np.testing.assert_array_equal(same, boxes)
    assert all_of_them.tolist() == [1, 2, 3, 4]


def test_flipping_twice_changes_nothing():
    boxes = np.array([[0.125, 0.25, 0.5, 1], [0, 0, 1, 0.5]], np.float32)
    np.testing.assert_array_equal(flip_boxes(boxes)[0], [0.5, 0.25, 0.875, 1])
    np.testing.assert_array_equal(flip_boxes(flip_boxes(boxes)), boxes)


def patch(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.rint(box * np.array([width, height] * 2)).astype(int)
    return image[y1:y2, x1:x2]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_stay_on_what_they_are_around(flip):
    image = np.zeros((160, 200, 3), np.uint8)
    cv2.rectangle(image, (60, 40), (99, 79), (255, 255, 255), -1)
    cv2.rectangle(image, (150, 100), (179, 139), (90, 90, 90), -1)
    pixels = np.array([[60, 40, 100, 80], [150, 100, 180, 140]], np.float32)
    boxes, labels = pixels / np.array([200, 160] * 2, np.float32), np.array([255, 90], np.int32)
    config = BoxAugmentConfig(distort_probability=0, flip_probability=flip)
    seen = 0
    for seed in range(60):
        found, moved, kept = augment_boxes(
            image, boxes, labels, example_rng(3, 1, seed), 240, 320, config
        )
        for box, label in zip(moved, kept, strict=True):
            inside = patch(found, box)
            assert np.median(inside) == label and (inside == label).mean() > 0.85
            # Nothing of it is left outside, but for pixels that were blended at its edge.
            rest = found.copy()
            patch(rest, box)[:] = 0
            assert (rest == label).mean() < 0.02
            seen += 1
    assert seen > 60


class TestDistort:
    def once(self, image, order: Any = "bgr", **options):
        config = BoxAugmentConfig(distort_probability=1, shuffle_channels=False, **(OFF | options))
        return distort(image, example_rng(0, 0, 0), config, channel_order=order)

    def test_nothing(self):
        image = picture(30, 40)
        config = dataclasses.replace(DEFAULT, distort_probability=0)
        np.testing.assert_array_equal(distort(image, example_rng(0, 0, 0), config), image)

    def test_contrast_and_brightness(self):
        image = np.full((4, 4, 3), 100, np.uint8)  # grey has neither hue nor saturation
        assert (self.once(image, contrast=(1.5, 1.5)) == 150).all()
        assert (self.once(image, brightness=(0.2, 0.2)) == 151).all()
        assert (self.once(image, contrast=(0.5, 0.5), brightness=(-0.2, -0.2)) == 0).all()
        assert (self.once(image, brightness=(0.7, 0.7)) == 255).all()

    @pytest.mark.parametrize("order", ["bgr", "rgb"])
    def test_saturation_and_hue(self, order):
        red = np.zeros((2, 2, 3), np.uint8)
        red[..., order.index("r")] = 200
        grey = self.once(red, order=order, saturation=(1e-9, 1e-9))
        assert (grey == 200).all()
        # 60 of OpenCV's hues, 120 degrees: from red to green.
        green = self.once(red, order=order, hue=(60.5 / 255, 60.5 / 255))
        assert green[0, 0].tolist() == [0, 200, 0]
        blue = self.once(red, order=order, hue=(-60.5 / 255, -60.5 / 255))
        assert blue[0, 0].tolist() == ([0, 0, 200] if order == "rgb" else [200, 0, 0])

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_channels_change_places(self, shuffle):
        image = np.zeros((2, 2, 3), np.uint8) + np.array([60, 120, 180], np.uint8)
        config = BoxAugmentConfig(**OFF, shuffle_channels=shuffle)
        orders = {
            tuple(distort(image, example_rng(0, 0, i), config)[0, 0].argsort().tolist())
            for i in range(100)
        }
        assert len(orders) == (6 if shuffle else 1)

    def test_contrast_comes_late_where_it_did_not_come_early(self):
        image = np.full((1, 1, 3), 100, np.uint8)
        config = BoxAugmentConfig(contrast=(1.2, 1.2), brightness=(0, 0), shuffle_channels=False)
        values = [int(distort(image, example_rng(0, 0, i), config)[0, 0, 0]) for i in range(800)]
        assert set(values) == {100, 120}
        assert 0.7 < np.mean(np.array(values) == 120) < 0.8

    def test_the_image_is_left_alone(self):
        image = picture(20, 20)
        before = image.copy()
        for seed in range(20):
            distort(image, example_rng(0, 0, seed), DEFAULT)
        np.testing.assert_array_equal(image, before)


def test_without_augmentation_only_the_size_changes():
    image, boxes = picture(60, 80), boxes_from([(0.1, 0.2, 0.5, 0.5)])
    labels = np.array([7], np.int32)
    found, moved, kept = augment_boxes(image, boxes, labels, example_rng(0, 0, 0), 30, 40, PLAIN)
    np.testing.assert_array_equal(found, cv2.resize(image, (40, 30)))
    np.testing.assert_array_equal(moved, boxes)
    assert kept.tolist() == [7]


def test_draws_follow_from_the_generator_alone():
    image, boxes = picture(60, 80), boxes_from([(0.1, 0.2, 0.5, 0.5)] * 3)
    labels = np.array([1, 2, 3], np.int32)

    def made(*key):
        return augment_boxes(image, boxes, labels, example_rng(*key), 30, 40, DEFAULT)

    for a, b in zip(made(0, 1, 2), made(0, 1, 2), strict=True):
        np.testing.assert_array_equal(a, b)
    different = [made(0, epoch, record)[0] for epoch in range(3) for record in range(3)]
    assert len({image.tobytes() for image in different}) == 9


@pytest.mark.parametrize(
    "options",
    [
        {"flip_probability": 1.5},
        {"distort_probability": -0.1},
        {"crop_overlaps": ()},
        {"crop_overlaps": (0.5, 1.2)},
        {"crop_tries": 0},
        {"crop_scale": (0, 1)},
        {"crop_scale": (0.5, 1.1)},
        {"crop_ratio": (2, 0.5)},
        {"contrast": (0.5, float("inf"))},
        {"saturation": (float("nan"), 1)},
        {"brightness": (-2, 0)},
        {"hue": (0.1, -0.1)},
    ],
)
def test_what_is_refused(options):
    (name,) = options
    with pytest.raises(ConfigurationError, match=name):
        BoxAugmentConfig(**options)
