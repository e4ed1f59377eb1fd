"""The kernels for TPUs, interpreted here; tests/analysis compiles them for one."""

import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import self_attention
from mobilevit_jax.ops.flash import flash_attention, flash_gradients, suits_flash
from tests.ops.support import normal, value_and_gradients


@pytest.mark.parametrize(
    "shape", [(2, 64, 4, 16), (3, 100, 2, 20), (1, 300, 1, 36), (1, 513, 2, 8), (1, 7, 1, 3)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_attention(shape, dtype):
    """Of tokens in one part and in several, the last of which is smaller."""
    count, tokens, heads, depth = shape
    qkv = jnp.asarray(normal(count, tokens, 3 * heads * depth), dtype)
    y, to_qkv = value_and_gradients("accelerator", lambda x: self_attention(x, heads), qkv)
    gradient = jnp.asarray(normal(*y.shape, seed=9), dtype)
    found = flash_attention(qkv.mT, heads, interpret=True)
    back = flash_gradients(qkv.mT, y.mT, gradient.mT, heads, interpret=True)
    assert found.dtype == back.dtype == dtype
    near = 2e-5 if dtype == "float32" else 0.05
    for a, b in ((found, y), (back, to_qkv)):
        a, b = a.mT.astype(jnp.float32), b.astype(jnp.float32)
        np.testing.assert_allclose(a, b, rtol=near, atol=near)


@pytest.mark.parametrize(
    ("tokens", "channels", "dtype", "suits"),
    [
        *((256, 192, "bfloat16", True), (1024, 432, "bfloat16", True), (63, 192, "float32", False)),
        (1600, 720, "bfloat16", False),  # the compiler refuses it: 18.6 MiB of 16
    ],
)
def test_what_it_takes(tokens, channels, dtype, suits):
    assert suits_flash(jnp.zeros((1, tokens, channels), dtype)) == suits
