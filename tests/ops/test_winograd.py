import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mobilevit_jax.ops import conv
from mobilevit_jax.ops.winograd import (
    tiles,
    winograd_conv,
    winograd_input_gradient,
    winograd_kernel_gradient,
)
from tests.ops.support import normal, value_and_gradients


def _exact(x, kernel):
    """The convolution in double precision, tap by tap."""
    height, width = x.shape[1:3]
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


@jax.jit
def _ours(x, kernel, gradient):
    return (
        winograd_conv(x, kernel),
        winograd_input_gradient(gradient, kernel),
        winograd_kernel_gradient(x, gradient),
    )


@jax.jit
def _plain(x, kernel, gradient):
    def convolved(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    y, pull = jax.vjp(convolved, x, kernel)
    return y, *pull(gradient)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 6), (5, 4), (7, 7), (8, 6)])
def test_value_and_gradients_of_any_size(height, width):
    x, kernel = normal(2, height, width, 5), normal(3, 3, 5, 4, seed=1)
    gradient = normal(2, height, width, 4, seed=2)
    for a, b in zip(_ours(x, kernel, gradient), _plain(x, kernel, gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_rounding_is_a_few_units_of_the_largest_value():
    x, kernel = jnp.asarray(normal(1, 32, 32, 96)), jnp.asarray(normal(3, 3, 96, 48, seed=1))
    expected = _exact(x, kernel)
    ours = np.asarray(jax.jit(winograd_conv)(x, kernel))
    error = np.abs(ours - expected).max() / np.abs(expected).max()
    assert 0 < error < 5e-6


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 17)])
def test_both_forms_of_conv_agree_where_there_are_many_tiles(height, width):
    x, kernel = normal(2, height, width, 8), normal(3, 3, 8, 6, seed=1)
    assert tiles(x.shape) >= 64
    ours, plain, chosen = (
        value_and_gradients(form, conv, x, kernel) for form in ("cpu", "accelerator", "auto")
    )
    for a, b, c in zip(ours, plain, chosen, strict=True):
        largest = np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)
        np.testing.assert_allclose(c, b, atol=1e-5 * largest)


def _convolutions(platform, x, kernel, dilation=1):
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k, 1, dilation) ** 2), (0, 1)))
    text = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution")


def test_only_a_cpu_and_what_suits_get_it():
    x, kernel = jnp.zeros((1, 16, 16, 4)), jnp.zeros((3, 3, 4, 4))
    assert _convolutions("cpu", x, kernel) == 0
    assert _convolutions("cuda", x, kernel) == _convolutions("tpu", x, kernel) == 3
    # Few tiles, taps further apart, other kernels, fewer digits.
    assert _convolutions("cpu", x[:, :14], kernel) == 2
    assert _convolutions("cpu", x, kernel, dilation=2) == 2
    assert _convolutions("cpu", x, jnp.zeros((5, 5, 4, 4))) == 2
    assert _convolutions("cpu", x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)) == 2
