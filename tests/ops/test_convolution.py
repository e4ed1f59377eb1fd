import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import conv
from tests.ops.support import normal, value_and_gradients


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation", "height", "width"),
    [
        (3, 1, 1, 7, 6),
        (3, 2, 1, 7, 6),
        (3, 1, 6, 5, 9),
        (5, 1, 1, 6, 7),
        (5, 1, 2, 7, 7),
        (3, 1, 1, 1, 1),
    ],
)
def test_forms_agree_in_value_and_gradients(kernel_size, stride, dilation, height, width):
    x, kernel = normal(3, height, width, 4), normal(kernel_size, kernel_size, 4, 5, seed=1)
    function = functools.partial(conv, stride=stride, dilation=dilation)
    ours, plain, chosen = (
        value_and_gradients(form, function, x, kernel) for form in ("cpu", "accelerator", "auto")
    )
    assert ours[0].shape == (3, -(-height // stride), -(-width // stride), 5)
    for a, b, c in zip(ours, plain, chosen, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(c, b, rtol=1e-4, atol=1e-4)


def test_value_against_a_loop():
    x, kernel = normal(1, 4, 5, 2), normal(3, 3, 2, 3, seed=1)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = np.zeros((1, 4, 5, 3))
    for i in range(4):
        for j in range(5):
            window = padded[0, i : i + 5 : 2, j : j + 5 : 2]
            expected[0, i, j] = np.einsum("rci,rcio->o", window, kernel)
    np.testing.assert_allclose(conv(jnp.asarray(x), jnp.asarray(kernel), 1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_bfloat16_stays(form):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (normal(2, 5, 5, 4), normal(3, 3, 4, 4)))
    for array in value_and_gradients(form, conv, x, kernel):
        assert array.dtype == jnp.bfloat16


@pytest.mark.parametrize(("platform", "count"), [("tpu", 2), ("cuda", 2), ("cpu", 1)])
def test_the_platform_chooses_the_form(platform, count):
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), 1))
    text = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    # The forward pass, and where there are no products the kernel's gradient.
    assert text.count("stablehlo.convolution") == count
