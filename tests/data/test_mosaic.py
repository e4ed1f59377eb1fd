"""What stays true of boxes in mosaics, mixtures and letterboxes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.mosaic import (
    Labelled,
    MosaicConfig,
    augment_mosaic,
    count_others,
    shift_colours,
)
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.resizing import fit_within
from tests.data.test_augment_boxes import picture, some_boxes

DEFAULT = MosaicConfig()
# Nothing but the four images, the middle of their canvas seen.
STILL = MosaicConfig(
    rotation=0,
    scale=(1, 1),
    shear=0,
    translate=0,
    distort_probability=0,
    flip_probability=0,
)
NONE = np.zeros((0, 4), np.float32)


def labelled(image, boxes, start=1):
    return Labelled(image, boxes, np.arange(start, start + len(boxes), dtype=np.int32))


def plain(image):
    return labelled(image, NONE)


scenes = st.lists(
    st.tuples(st.integers(1, 120), st.integers(1, 120), some_boxes), min_size=5, max_size=5
)


@settings(max_examples=150, deadline=None)
@given(scenes, st.sampled_from([0, 3, 4]), st.integers(0, 10**6), st.integers(1, 90))
def test_what_stays_true_of_boxes(drawn, others, seed, width):
    images = [
        labelled(picture(h, w), boxes, 100 * place)
        for place, (h, w, boxes) in enumerate(drawn[: others + 1])
    ]
    before = [(one.image.copy(), one.boxes.copy()) for one in images]
    height = 64
    found = augment_mosaic(images[0], images[1:], example_rng(0, 0, seed), height, width, DEFAULT)
    assert found.image.shape == (height, width, 3) and found.image.dtype == np.uint8
    assert found.image.flags.c_contiguous
    assert found.boxes.dtype == np.float32 and found.boxes.shape == (len(found.labels), 4)
    assert (found.boxes >= 0).all() and (found.boxes <= 1).all()
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]) * [width, height]
    assert (sides > 1 - 1e-4).all()
    assert found.labels.dtype == np.int32
    known = {label for one in images for label in one.labels.tolist()}
    assert len(set(found.labels.tolist())) == len(found.labels)
    assert set(found.labels.tolist()) <= known
    for one, (image, boxes) in zip(images, before, strict=True):
        np.testing.assert_array_equal(one.image, image)
        np.testing.assert_array_equal(one.boxes, boxes)


def with_rectangle(level, height, width, box):
    """Returns a black image with a grey rectangle in it."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = level
    return Labelled(
        image,
        np.array([box], np.float32) / ([width, height] * 2),
        np.array([level], np.int32),
    )


FOUR = [
    with_rectangle(100, 375, 500, (150, 90, 390, 300)),
    with_rectangle(150, 300, 200, (20, 30, 180, 290)),
    with_rectangle(200, 200, 200, (50, 60, 150, 140)),
    with_rectangle(250, 120, 480, (100, 10, 400, 110)),
]


def extent(seen):
    """Returns the corners, in pixels, of what is seen."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def found_and_carried(config, seed):
    """Yields, of the rectangle in each of four images, where it is and its box, in pixels."""
    for place, one in enumerate(FOUR):
        four = [plain(np.zeros_like(other.image)) for other in FOUR]
        four[place] = one
        made = augment_mosaic(
            four[0], four[1:], example_rng(1, 0, seed), 240, 320, config, pad_value=0
        )
        seen = made.image[:, :, 0] > one.labels[0] / 2
        if len(made.labels) and seen.any():
            yield extent(seen), made.boxes[0] * [320, 240, 320, 240]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_rectangle_is_where_its_box_is(flip):
    config = replace(DEFAULT, rotation=0, shear=0, distort_probability=0, flip_probability=flip)
    seen = 0
    for seed in range(40):
        for pixels, box in found_and_carried(config, seed):
            np.testing.assert_allclose(pixels, box, atol=1.01)
            seen += 1
    assert seen > 80


def test_the_box_of_a_turned_rectangle_holds_it():
    config = replace(DEFAULT, rotation=25, shear=8, distort_probability=0)
    seen = 0
    for seed in range(40):
        for pixels, box in found_and_carried(config, seed):
            assert (pixels[:2] >= box[:2] - 1).all() and (pixels[2:] <= box[2:] + 1).all()
            seen += 1
    assert seen > 80


def test_what_the_canvas_cuts_off_does_not_come_back():
    """A box that lies beyond its edge has no area there, but its hull would have after a turn."""
    config = replace(STILL, rotation=40, scale=(0.5, 0.5))
    first = with_rectangle(250, 100, 100, (0, 0, 6, 100))
    rest = [plain(np.zeros((100, 100, 3), np.uint8))] * 3
    kept = 0
    for seed in range(40):
        made = augment_mosaic(first, rest, example_rng(0, 0, seed), 100, 100, config, pad_value=0)
        assert len(made.labels) == 0 or (made.image > 125).any()
        kept += not np.array_equal(made.image, first.image)  # which is what is left without boxes
    assert 5 < kept < 35


def test_the_layout_of_a_mosaic():
    """Four images of the result's shape fill it; their corners meet in it, anywhere."""
    images = [plain(np.full((32, 48, 3), level, np.uint8)) for level in (10, 20, 30, 40)]
    meetings = []
    for seed in range(200):
        found = augment_mosaic(images[0], images[1:], example_rng(0, 0, seed), 64, 96, STILL)
        grey = found.image[:, :, 0]
        across, down = np.isin(grey[0], [10, 30]).sum(), np.isin(grey[:, 0], [10, 20]).sum()
        rows = np.repeat([[10, 20], [30, 40]], [down, 64 - down], axis=0)
        np.testing.assert_array_equal(grey, np.repeat(rows, [across, 96 - across], axis=1))
        meetings.append((across, down))
    low, high = np.min(meetings, 0), np.max(meetings, 0)
    assert (low < 3).all() and (high > [92, 60]).all()


def test_images_are_shown_whole_in_the_canvas_of_a_small_mosaic():
    """At half the size the whole canvas is seen, with grey where no image is."""
    config = replace(STILL, scale=(0.5, 0.5))
    images = [plain(np.full((64, 64, 3), 10, np.uint8))] * 4
    shares = []
    for seed in range(100):
        found = augment_mosaic(images[0], images[1:], example_rng(0, 0, seed), 64, 64, config)
        assert set(np.unique(found.image)) <= set(range(10, 115))
        shares.append(np.mean(found.image < 62))
    # Cut off where the centre is not in the middle: (1 - 1/8)^2 on average.
    assert np.mean(shares) == pytest.approx(0.766, abs=0.03)


def test_mixup():
    """Half of the mosaic and half of the other image, whose objects are added."""
    config = replace(STILL, mixup_probability=1.0, flip_probability=0.5)
    black = [plain(np.zeros((64, 64, 3), np.uint8))] * 4
    for seed in range(40):
        made = augment_mosaic(
            black[0], [*black[1:], FOUR[2]], example_rng(2, 0, seed), 128, 128, config, pad_value=0
        )
        assert set(np.unique(made.image)) <= set(range(101))
        if len(made.labels):
            pixels = extent(made.image[:, :, 0] > 50)
            np.testing.assert_allclose(pixels, made.boxes[0] * 128, atol=1.01)
            assert made.labels.tolist() == [200]
    # A smaller one is seen whole, of a larger one all is covered.
    white = plain(np.full((64, 64, 3), 255, np.uint8))
    for factor, share in [(0.5, 1 / 4), (1.5, 1)]:
        config = replace(config, mixup_scale=(factor, factor))
        for seed in range(20):
            made = augment_mosaic(
                black[0], [*black[1:], white], example_rng(2, 0, seed), 64, 64, config, pad_value=0
            )
            assert np.mean(made.image) / 127.5 == pytest.approx(share, abs=0.02)
    # At its own size it lies where a letterbox has it.
    config = replace(STILL, mixup_probability=1.0, mixup_scale=(1, 1))
    both = augment_mosaic(FOUR[1], [*FOUR[1:], FOUR[0]], example_rng(2, 0, 0), 320, 320, config)
    assert both.labels.tolist().count(100) == 1 and both.labels[-1] == 100
    np.testing.assert_allclose(both.boxes[-1] * 500, [150, 90, 390, 300], rtol=1e-5)


@given(some_boxes, st.integers(1, 300), st.integers(1, 300))
def test_into_a_letterbox_and_back(boxes, height, width):
    config = replace(STILL, min_box_side=0)
    one = labelled(picture(height, width), boxes)
    found = augment_mosaic(one, [], example_rng(0, 0, 0), 96, 64, config)
    h, w = fit_within(height, width, 96, 64)
    back = found.boxes * [64 / w, 96 / h, 64 / w, 96 / h]
    np.testing.assert_allclose(back, boxes, atol=1e-5)
    np.testing.assert_array_equal(found.labels, one.labels)
    np.testing.assert_array_equal(found.image[:h, :w], cv2.resize(one.image, (w, h)))
    assert (found.image[h:] == 114).all() and (found.image[:, w:] == 114).all()


@given(some_boxes)
def test_flipping_twice_changes_nothing(boxes):
    config = replace(STILL, flip_probability=1, min_box_side=0)
    one = labelled(picture(40, 30), boxes)
    once = augment_mosaic(one, [], example_rng(0, 0, 0), 40, 30, config)
    np.testing.assert_array_equal(once.image, one.image[:, ::-1])
    twice = augment_mosaic(once, [], example_rng(0, 0, 0), 40, 30, config)
    np.testing.assert_array_equal(twice.image, one.image)
    np.testing.assert_allclose(twice.boxes, boxes, atol=1e-6)


def test_a_flipped_image_stays_in_the_corner_of_its_letterbox():
    config = replace(STILL, flip_probability=1)
    one = with_rectangle(200, 40, 20, (2, 10, 8, 30))
    found = augment_mosaic(one, [], example_rng(0, 0, 0), 80, 80, config)
    np.testing.assert_allclose(found.boxes * 80, [[24, 20, 36, 60]], atol=1e-4)
    assert (found.image[:, 40:] == 114).all()


def test_small_boxes_are_left_out():
    boxes = np.array([[0, 0, 0.5, 0.5], [0.2, 0.2, 0.21, 0.9], [0.5, 0.5, 0.53, 0.53]], np.float32)
    one = labelled(picture(50, 50), boxes)  # half a pixel wide, and one and a half
    assert augment_mosaic(one, [], example_rng(0, 0, 0), 50, 50, STILL).labels.tolist() == [1, 3]
    # It is the result's pixels that count.
    assert augment_mosaic(one, [], example_rng(0, 0, 0), 20, 20, STILL).labels.tolist() == [1]
    none = replace(STILL, min_box_side=0)
    assert augment_mosaic(one, [], example_rng(0, 0, 0), 20, 20, none).labels.tolist() == [1, 2, 3]


def test_an_image_that_loses_its_objects_is_taken_as_it_is():
    """Here the objects are in corners, which no mosaic shows at three times the size."""
    boxes = np.array([[0, 0, 0.1, 0.1]], np.float32)
    images = [labelled(picture(50, 40, i), boxes) for i in range(4)]
    config = replace(DEFAULT, scale=(6, 6), flip_probability=1, distort_probability=1)
    lost = 0
    for seed in range(30):
        found = augment_mosaic(images[0], images[1:], example_rng(0, 0, seed), 50, 50, config)
        assert len(found.labels)
        if np.array_equal(found.image[:, :40], images[0].image):
            np.testing.assert_allclose(found.boxes, [[0, 0, 0.08, 0.1]], atol=1e-6)
            lost += 1
    assert lost > 15
    # Without any objects there is nothing to lose.
    empty = [plain(one.image) for one in images]
    found = augment_mosaic(empty[0], empty[1:], example_rng(0, 0, 0), 50, 50, config)
    assert not np.array_equal(found.image[:, :40], empty[0].image) and not len(found.labels)


class TestColours:
    def test_each_part_moves_as_far_as_is_allowed(self):
        hsv = np.zeros((1, 1, 3), np.uint8) + np.array([90, 128, 128], np.uint8)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        moved = []
        for seed in range(500):
            changed = shift_colours(image, example_rng(0, 0, seed), DEFAULT)
            found = cv2.cvtColor(changed, cv2.COLOR_BGR2HSV)
            moved.append(found[0, 0].astype(int) - [90, 128, 128])
        for values, most in zip(np.transpose(moved), (5, 30, 30), strict=True):
            # Seldom one more: eight bits of each colour do not hold a hue exactly.
            assert most - 2 <= np.abs(values).max() <= most + 1
            assert 0.4 < np.mean(np.abs(values) <= 1) < 0.75

    @pytest.mark.parametrize("order", ["bgr", "rgb"])
    def test_hue_is_a_circle(self, order):
        red = np.zeros((2, 2, 3), np.uint8)
        red[..., order.index("r")] = 200
        config = MosaicConfig(distort_probability=1, hue=90, saturation=0, value=0)
        found = [shift_colours(red, example_rng(0, 0, i), config, order) for i in range(50)]
        assert all(image.max() == 200 and image.min() == 0 for image in found)
        peaks = {order[int(image[0, 0].argmax())] for image in found}
        assert peaks == {"r", "g", "b"}

    def test_nothing(self):
        image = picture(20, 20)
        config = replace(DEFAULT, distort_probability=0)
        np.testing.assert_array_equal(shift_colours(image, example_rng(0, 0, 0), config), image)
        before = image.copy()
        for seed in range(10):
            shift_colours(image, example_rng(0, 0, seed), DEFAULT)
        np.testing.assert_array_equal(image, before)


def test_how_many_others():
    def counts(**options):
        config = MosaicConfig(**options)
        return [count_others(example_rng(0, 0, i), config) for i in range(400)]

    assert set(counts()) == {3}
    assert set(counts(mosaic_probability=0)) == {0}
    assert set(counts(mixup_probability=1)) == {4}
    some = counts(mosaic_probability=0.5, mixup_probability=0.25)
    assert [some.count(n) / 400 for n in (0, 3, 4)] == pytest.approx(
        [1 / 2, 3 / 8, 1 / 8], abs=0.06
    )
    with pytest.raises(ValueError, match="3 other images, 4 with mixup, or none; got 2"):
        augment_mosaic(FOUR[0], FOUR[1:3], example_rng(0, 0, 0), 32, 32, DEFAULT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mosaic_probability": 1.5}, r"mosaic_probability must be in \[0, 1\]"),
        ({"mixup_probability": float("nan")}, "mixup_probability must be"),
        ({"distort_probability": -1}, "distort_probability must be"),
        ({"flip_probability": 2}, "flip_probability must be"),
        ({"rotation": 181}, "rotation must be from 0 to 180 degrees"),
        ({"scale": (0, 1)}, "scale must be"),
        ({"scale": (1.5, 0.5)}, "scale must be"),
        ({"mixup_probability": 1, "mixup_scale": (0.5, float("inf"))}, "mixup_scale must be"),
        ({"shear": 45}, "shear must be"),
        ({"translate": -0.1}, "translate must be"),
        ({"hue": 91}, "hue must be from 0 to 90"),
        ({"saturation": -1}, "saturation must be"),
        ({"value": 256}, "value must be"),
        ({"min_box_side": -1}, "min_box_side must be"),
        (
            {"mosaic_probability": 0, "rotation": 5},
            "rotation has no effect while detection.mosaic.mosaic_probability is 0: set",
        ),
        ({"mosaic_probability": 0, "mixup_probability": 1}, "mixup_probability has no effect"),
        (
            {"mixup_scale": (0.8, 1.2)},
            "mosaic.mixup_scale has no effect while detection.mosaic.mixup_prob",
        ),
        (
            {"distort_probability": 0, "hue": 9},
            "mosaic.hue has no effect while detection.mosaic.distort_probability",
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        MosaicConfig(**options)
