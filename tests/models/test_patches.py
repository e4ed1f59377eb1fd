# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit_jax.models.patches import fold, padded_size, resize_bilinear, unfold

small = st.integers(1, 4)


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@settings(deadline=None, max_examples=50)
@given(batch=small, rows=small, columns=small, down=small, across=small, channels=small)
def test_fold_undoes_unfold(batch, rows, columns, down, across, channels):
    x = numbered(batch, rows * down, columns * across, channels)
    patch = (rows, columns)
    tokens = unfold(x, patch)  # NumPy in, NumPy out: nothing to compile
    assert tokens.shape == (batch, rows * columns, down * across, channels)
    np.testing.assert_array_equal(fold(tokens, patch, x.shape[1:3]), x)


@settings(deadline=None, max_examples=50)
@given(batch=small, rows=small, columns=small, down=small, across=small, channels=small)
def test_unfold_undoes_fold(batch, rows, columns, down, across, channels):
    tokens = numbered(batch, rows * columns, down * across, channels)
    patch, size = (rows, columns), (rows * down, columns * across)
    np.testing.assert_array_equal(unfold(fold(tokens, patch, size), patch), tokens)


def test_attention_sees_pixels_of_equal_offset_in_row_major_order():
    x = numbered(2, 4, 9, 5)
    tokens = unfold(x, (2, 3))
    for place in range(6):
        for patch in range(6):
            row = patch // 3 * 2 + place // 3
            column = patch % 3 * 3 + place % 3
            np.testing.assert_array_equal(tokens[:, place, patch], x[:, row, column])


def test_unfold_on_jax_arrays_matches_numpy():
    x = numbered(1, 4, 6, 2)
    tokens = unfold(jnp.asarray(x), (2, 2))
    np.testing.assert_array_equal(tokens, unfold(x, (2, 2)))
    np.testing.assert_array_equal(fold(tokens, (2, 2), (4, 6)), x)


def test_unfold_refuses_broken_patches():
    with pytest.raises(ValueError, match=r"5x4 map .* 2x2 patches; resize it to \(6, 4\)"):
        unfold(jnp.zeros((1, 5, 4, 1)), (2, 2))


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((8, 8), (2, 2), (8, 8)),
        ((7, 9), (2, 2), (8, 10)),
        ((1, 1), (8, 8), (8, 8)),
        ((32, 33), (3, 4), (33, 36)),
    ],
)
def test_padded_size(size, patch, expected):
    assert padded_size(*size, patch) == expected


def interpolated(x, size, align_corners=False):
    """Bilinear resizing with half-pixel centres and clamped borders, one pixel at a time."""
    _, height, width, _ = x.shape

    def source(index, old, new):
        if align_corners:
            position = index * (old - 1) / max(new - 1, 1)
        else:
            position = min(max((index + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = int(position)
        return low, min(low + 1, old - 1), position - low

    result = np.zeros((x.shape[0], *size, x.shape[-1]))
    for i in range(size[0]):
        top, bottom, down = source(i, height, size[0])
        for j in range(size[1]):
            left, right, across = source(j, width, size[1])
            upper = (1 - across) * x[:, top, left] + across * x[:, top, right]
            lower = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
            result[:, i, j] = (1 - down) * upper + down * lower
    return result


@pytest.mark.parametrize(
    ("old", "new"),
    [((5, 5), (6, 6)), ((6, 6), (5, 5)), ((1, 1), (8, 8)), ((8, 8), (1, 1)), ((7, 9), (9, 8))],
)
def test_resize_bilinear_has_half_pixel_centres_and_no_antialias(old, new):
    x = np.random.default_rng(0).standard_normal((2, *old, 3)).astype(np.float32)
    resized = resize_bilinear(jnp.asarray(x), new)
    np.testing.assert_allclose(resized, interpolated(x, new), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [((5, 5), (6, 6)), ((2, 3), (32, 48)), ((1, 4), (8, 1)), ((8, 1), (1, 8)), ((7, 9), (9, 8))],
)
def test_resize_bilinear_with_corners_on_corners(old, new):
    x = np.random.default_rng(0).standard_normal((2, *old, 3)).astype(np.float32)
    resized = resize_bilinear(jnp.asarray(x), new, align_corners=True)
    np.testing.assert_allclose(resized, interpolated(x, new, True), rtol=0, atol=2e-5)


def test_resize_to_the_same_size_is_the_identity():
    x = jnp.ones((1, 3, 4, 2))
    assert resize_bilinear(x, (3, 4)) is x


def test_resize_keeps_the_type():
    shape = jax.eval_shape(
        lambda x: resize_bilinear(x, (6, 6)), jnp.zeros((1, 5, 5, 2), "bfloat16")
    )
    assert shape.dtype == jnp.bfloat16 and shape.shape == (1, 6, 6, 2)
