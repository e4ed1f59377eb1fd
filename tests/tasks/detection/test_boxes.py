# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.tasks.detection import boxes
from tests.reference import golden

SHARE = st.floats(0, 1, width=32)
SIZE = st.floats(np.float32(0.01), 1, width=32)


def test_decoding_golden():
    reference = golden("ssd_s_320")
    found = boxes.to_corners(boxes.decode(reference["offsets"][0], reference["anchors"]))
    np.testing.assert_allclose(found[::16], reference["decoded_corners_every_16th"], atol=1e-6)


@hypothesis.given(st.tuples(SHARE, SHARE, SIZE, SIZE), st.tuples(SHARE, SHARE, SIZE, SIZE))
@hypothesis.settings(deadline=None)
def test_decoding_undoes_encoding(box, anchor):
    box, anchor = np.float32(box), np.float32(anchor)
    found = boxes.decode(boxes.encode(box, anchor), anchor)
    np.testing.assert_allclose(found, box, rtol=1e-5, atol=1e-5)


def test_encoding():
    found = boxes.encode(np.float32([0.5, 0.4, 0.2, 0.1]), np.float32([0.4, 0.6, 0.1, 0.2]))
    expected = [0.1 / 0.1 / 0.1, -0.2 / 0.2 / 0.1, np.log(2) / 0.2, -np.log(2) / 0.2]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@hypothesis.given(st.tuples(SHARE, SHARE, SIZE, SIZE))
@hypothesis.settings(deadline=None)
def test_corners_and_centres_are_inverses(box):
    box = np.float32(box)
    np.testing.assert_allclose(boxes.to_centres(boxes.to_corners(box)), box, atol=1e-6)


def test_corners():
    found = boxes.to_corners(np.float32([[0.5, 0.4, 0.2, 0.6]]))
    np.testing.assert_allclose(found, [[0.4, 0.1, 0.6, 0.7]], atol=1e-7)


def corners(rng, count):
    pairs = np.sort(rng.random((count, 2, 2), np.float32), axis=1)
    return pairs.reshape(count, 4)


class TestIoU:
    def test_by_hand(self):
        a = np.float32([[0, 0, 0.2, 0.2], [0, 0, 1, 1]])
        b = np.float32([[0.1, 0.1, 0.3, 0.3], [0.2, 0, 0.4, 0.2], [0.5, 0, 1, 1]])
        expected = [[0.01 / (0.07 + 1e-5), 0, 0], [0.04, 0.04, 0.5]]
        np.testing.assert_allclose(boxes.iou(a, b), expected, rtol=1e-4, atol=1e-7)

    def test_against_counting_pixels(self):
        rng = np.random.default_rng(0)
        grid = 64
        a, b = (np.round(corners(rng, 20) * grid).astype(int) for _ in range(2))

        def mask(box):
            canvas = np.zeros((grid, grid), bool)
            canvas[box[1] : box[3], box[0] : box[2]] = True
            return canvas

        expected = [
            [(mask(x) & mask(y)).sum() / max((mask(x) | mask(y)).sum(), 1) for y in b] for x in a
        ]
        found = boxes.iou(np.float32(a) / grid, np.float32(b) / grid)
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_symmetric_and_a_share(self):
        rng = np.random.default_rng(1)
        a, b = corners(rng, 50), corners(rng, 60)
        found = np.asarray(boxes.iou(a, b))
        np.testing.assert_array_equal(found, np.asarray(boxes.iou(b, a)).T)
        assert found.min() >= 0 and found.max() < 1

    def test_no_area_overlaps_nothing(self):
        line, reversed_corners = [0.1, 0.2, 0.1, 0.9], [0.8, 0.8, 0.2, 0.2]
        found = boxes.iou(np.float32([line, reversed_corners]), np.float32([[0, 0, 1, 1], line]))
        np.testing.assert_array_equal(found, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.1, 0.1, 0.2, 0.3], True),
        ([-1, -1, 2, 2], True),
        ([0.1, 0.1, 0.1, 0.3], False),
        ([0.2, 0.1, 0.1, 0.3], False),
        # Both sides the wrong way round: their product would be positive.
        ([0.2, 0.3, 0.1, 0.1], False),
        ([0.1, np.nan, 0.2, 0.3], False),
        ([0, 0, np.inf, 1], False),
    ],
)
def test_well_formed(box, expected):
    assert bool(boxes.well_formed(jnp.float32(box))) is expected


def test_clip():
    found = boxes.clip(np.float32([[-0.1, 0.2, 0.5, 1.3]]))
    np.testing.assert_array_equal(found, np.float32([[0, 0.2, 0.5, 1]]))
