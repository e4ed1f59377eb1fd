"""RandAugment and random erasing: each operation against Pillow's, and the draws."""

import collections

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from mobilevit_jax.data import random_augment
from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.random_augment import OPERATIONS, rand_augment, random_erase

BILINEAR = Image.Resampling.BILINEAR
SIZE = 90, 120


def affine(image, *numbers):
    return image.transform(image.size, Image.Transform.AFFINE, numbers, BILINEAR)


# What torchvision does with a Pillow image, by the strength in the ranges of its table.
PILLOW = {
    "identity": lambda image, s: image,
    "shear_x": lambda image, s: affine(image, 1, s, 0, 0, 1, 0),
    "shear_y": lambda image, s: affine(image, 1, 0, 0, s, 1, 0),
    "translate_x": lambda image, s: affine(image, 1, 0, -int(s * image.width), 0, 1, 0),
    "translate_y": lambda image, s: affine(image, 1, 0, 0, 0, 1, -int(s * image.height)),
    "rotate": lambda image, s: image.rotate(s, BILINEAR),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + s),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + s),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(s)),
    "solarize": lambda image, s: ImageOps.solarize(image, 255 - s),
    "auto_contrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
}
SPATIAL = {"shear_x", "shear_y", "rotate"}
# torchvision's table for 31 magnitudes, at the first, the recipe's and the last one.
STRENGTHS = {
    "identity": (0, 0, 0),
    "shear_x": (0, 0.09, 0.3),
    "shear_y": (0, 0.09, 0.3),
    "translate_x": (0, 0.13595, 0.45317),
    "translate_y": (0, 0.13595, 0.45317),
    "rotate": (0, 9, 30),
    "brightness": (0, 0.27, 0.9),
    "color": (0, 0.27, 0.9),
    "contrast": (0, 0.27, 0.9),
    "sharpness": (0, 0.27, 0.9),
    "posterize": (0, 1.2, 4),
    "solarize": (0, 76.5, 255),
    "auto_contrast": (0, 0, 0),
    "equalize": (0, 0, 0),
}


def picture(height=SIZE[0], width=SIZE[1]):
    """Draws waves whose channels have different ranges, RGB."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * x + 1) * 90 + 130, np.cos(7 * y) * 60 + 80, np.sin(5 * (x + y)) * 40 + 160]
    return np.stack(waves, -1).astype(np.uint8)


def compared(name, image):
    """Returns which pixels are compared: all but those next to an edge of what was moved."""
    if name not in SPATIAL:
        return np.ones(image.shape[:2], bool)
    white = np.pad(image[1:-1, 1:-1], ((1, 1), (1, 1)))
    near = cv2.dilate(white, np.ones((5, 5))) - cv2.erode(white, np.ones((5, 5)))
    return near == 0


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name, magnitude, order):
    image = picture()
    apply, strongest, signed = OPERATIONS[name]
    strength = strongest * magnitude / 30
    assert strength == pytest.approx(STRENGTHS[name][[0, 9, 30].index(magnitude)], rel=1e-4)
    for sign in (1, -1) if signed else (1,):
        given = image if order == "rgb" else np.ascontiguousarray(image[..., ::-1])
        before = given.copy()
        found = apply(given, sign * strength, order)
        np.testing.assert_array_equal(given, before)
        found = found if order == "rgb" else found[..., ::-1]
        expected = np.asarray(PILLOW[name](Image.fromarray(image), sign * strength))
        white = Image.fromarray(np.full(SIZE, 255, np.uint8))
        here = compared(name, np.asarray(PILLOW[name](white, sign * strength)))
        assert here.mean() > 0.85
        difference = np.abs(found.astype(int) - expected)[here]
        assert difference.max() <= (2 if name in {"color", *SPATIAL} else 1)
        assert difference.mean() < 0.5


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_image_of_one_colour(name, value):
    """Which has no contrast to stretch and no levels to spread."""
    image = np.full((*SIZE, 3), value, np.uint8)
    strength = OPERATIONS[name].strongest * 0.3
    found = OPERATIONS[name].apply(image, strength, "bgr")
    expected = np.asarray(PILLOW[name](Image.fromarray(image), strength))
    assert np.mean(np.abs(found.astype(int) - expected) > 1) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)])
def test_tiny_images(size):
    for name, (apply, strongest, _) in OPERATIONS.items():
        image = picture(*size)
        found = apply(image, strongest, "rgb")
        assert (found.shape, found.dtype) == (image.shape, image.dtype), name


def test_each_operation_and_sign_is_drawn_as_often(monkeypatch):
    """By counting: an operation is drawn with 1/14, its sign with 1/2, both anew every time."""
    drawn = []
    spies = {
        name: one._replace(
            apply=lambda image, s, order, name=name: drawn.append((name, s)) or image
        )
        for name, one in OPERATIONS.items()
    }
    monkeypatch.setattr(random_augment, "OPERATIONS", spies)
    image = np.zeros((4, 4, 3), np.uint8)
    for record in range(3500):
        rand_augment(image, example_rng(0, 0, record), 2, 9, "bgr")
    assert len(drawn) == 7000
    names = collections.Counter(name for name, _ in drawn)
    assert names.keys() == OPERATIONS.keys()
    assert all(400 < count < 600 for count in names.values())
    for name, (_, strongest, signed) in OPERATIONS.items():
        strengths = collections.Counter(s for other, s in drawn if other == name)
        strength = strongest * 9 / 30
        assert strengths.keys() == ({strength, -strength} if signed else {strength})
        if signed:
            assert 0.4 < strengths[strength] / names[name] < 0.6
    pairs = collections.Counter((drawn[i][0], drawn[i + 1][0]) for i in range(0, 7000, 2))
    assert len(pairs) == 14 * 14  # the second knows nothing of the first


def test_operations_follow_one_another():
    image = picture()
    found = rand_augment(image, example_rng(0, 0, 4), 3, 9, "rgb")
    rng, expected = example_rng(0, 0, 4), image
    for _ in range(3):
        expected = rand_augment(expected, rng, 1, 9, "rgb")
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, image)


def erased_box(image, *key, scale=(0.02, 0.33), ratio=(0.3, 3.3)):
    """Returns (top, left, height, width) of what was blackened; there is no black besides."""
    before = image.copy()
    found = random_erase(image, example_rng(*key), scale, ratio)
    np.testing.assert_array_equal(image, before)
    black = (found == 0).all(-1)
    np.testing.assert_array_equal(found[~black], image[~black])
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    if not len(rows):
        return None
    assert black[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return rows[0], columns[0], len(rows), len(columns)


def test_distribution_of_what_is_erased():
    image = np.full((100, 50, 3), 9, np.uint8)
    boxes = np.array([erased_box(image, 0, 0, record) for record in range(1500)])
    top, left, height, width = boxes.T
    area, ratio = height * width / 5000, np.log(height / width)
    assert 0.018 < area.min() < 0.03 and 0.31 < area.max() < 0.34
    assert 0.155 < area.mean() < 0.18  # uniform, but for wide boxes, which do not fit
    assert np.log(0.3) - 0.1 < ratio.min() < -1 and 1 < ratio.max() < np.log(3.3) + 0.1
    for place in (top / (100 - height), left / (50 - width)):
        assert abs(place.mean() - 0.5) < 0.03 and place.min() < 0.01 and place.max() > 0.99


def test_a_box_that_never_fits_leaves_the_image():
    image = np.full((10, 90, 3), 9, np.uint8)
    assert erased_box(image, 0, 0, 0, scale=(0.9, 1.0), ratio=(1.0, 1.0)) is None


@given(height=st.integers(1, 60), width=st.integers(1, 60), record=st.integers(0, 10**6))
def test_something_always_remains(height, width, record):
    box = erased_box(np.full((height, width, 3), 9, np.uint8), 0, 0, record, scale=(0.02, 1.0))
    assert box is None or (box[2] < height and box[3] < width)
