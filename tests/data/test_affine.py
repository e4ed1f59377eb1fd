"""Images and boxes move together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.data.affine import map_boxes, random_affine, warp

STILL = {"rotation": 0.0, "scale": (1.0, 1.0), "shear": 0.0, "translate": 0.0}


def drawn(seed, source=(80, 60), target=(40, 50), **options):
    return random_affine(np.random.default_rng(seed), source, target, **(STILL | options))


def test_the_centre_stays_the_centre():
    matrix = drawn(0, rotation=30.0, scale=(0.5, 2.0), shear=20.0)
    np.testing.assert_allclose(matrix @ [30, 40, 1], [25, 20])
    np.testing.assert_allclose(drawn(0), [[1, 0, -5], [0, 1, -20]])


def test_what_is_drawn_stays_in_its_ranges():
    maps = [drawn(i, rotation=10.0, scale=(0.5, 1.5), translate=0.1) for i in range(300)]
    factors = np.sqrt([np.linalg.det(matrix[:, :2]) for matrix in maps])
    angles = np.degrees([np.arctan2(matrix[0, 1], matrix[0, 0]) for matrix in maps])
    shifts = np.array([matrix @ [30, 40, 1] for matrix in maps]) - [25, 20]
    for values, low, high in [
        (factors, 0.5, 1.5),
        (angles, -10, 10),
        (shifts[:, 0], -5, 5),
        (shifts[:, 1], -4, 4),
    ]:
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    sheared = np.array([drawn(i, shear=2.0)[:, :2] for i in range(300)])
    most = np.tan(np.radians(2))
    assert (sheared[:, [0, 1], [0, 1]] == 1).all()
    assert 0.95 * most < np.abs(sheared[:, [0, 1], [1, 0]]).max() <= most


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], lambda image: image),
        ([[-1, 0, 7], [0, 1, 0]], lambda image: image[:, ::-1]),
        ([[0, 1, 0], [-1, 0, 7]], np.rot90),
    ],
)
def test_maps_that_only_move_pixels_are_exact(matrix, expected):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    wanted = expected(image)
    height, width = wanted.shape[:2]
    found = warp(image, np.array(matrix, np.float64), height, width, 114)
    np.testing.assert_array_equal(found, wanted)


def test_what_the_image_does_not_reach():
    found = warp(np.zeros((4, 4, 3), np.uint8), np.array([[1.0, 0, 2], [0, 1, 0]]), 4, 8, 114)
    assert (found[:, :2] == 114).all() and (found[:, 6:] == 114).all()
    assert (found[:, 2:6] == 0).all()


def test_boxes_are_cut_off_at_the_edges():
    boxes = np.array([[0, 0, 10, 20], [30, 10, 50, 15]], np.float64)
    shifted = np.array([[1.0, 0, -5], [0, 2, 0]])
    found = map_boxes(boxes, shifted, 30, 40)
    np.testing.assert_array_equal(found, [[0, 0, 5, 30], [25, 20, 40, 30]])
    assert map_boxes(boxes[:0], shifted, 30, 40).shape == (0, 4)


@given(
    st.integers(0, 10**6),
    st.floats(0, 180),
    st.floats(0, 40),
    st.lists(st.floats(0, 80), min_size=4, max_size=4),
)
def test_the_hull_holds_every_place_of_a_box(seed, rotation, shear, numbers):
    x1, x2 = sorted(numbers[:2])
    y1, y2 = sorted(numbers[2:])
    matrix = drawn(seed, rotation=rotation, shear=shear, scale=(0.2, 2.0))
    wide = matrix + [[0, 0, 1000], [0, 0, 1000]]  # so that nothing is cut off
    found = map_boxes(np.array([[x1, y1, x2, y2]]), wide, 4000, 4000)[0]
    share = np.random.default_rng(seed).random((20, 2))
    places = share * [x2 - x1, y2 - y1] + [x1, y1]
    mapped = places @ wide[:, :2].T + wide[:, 2]
    assert (mapped >= found[:2] - 1e-9).all() and (mapped <= found[2:] + 1e-9).all()
    corners = np.array([[x, y, 1] for x in (x1, x2) for y in (y1, y2)]) @ wide.T
    np.testing.assert_allclose([*corners.min(0), *corners.max(0)], found)
