import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import separable_attention, separable_scores
from tests.ops.support import normal, value_and_gradients

WIDTH = 5


def by_definition(qkv):
    """As the paper writes it, one place of a patch after the other."""
    y = jnp.zeros((*qkv.shape[:-1], WIDTH))
    for row, column in np.ndindex(2, 2):
        place = (slice(None), slice(row, None, 2), slice(column, None, 2))
        query, key, value = jnp.split(qkv[place], [1, 1 + WIDTH], -1)
        scores = jnp.exp(query) / jnp.exp(query).sum((1, 2), keepdims=True)
        context = (scores * key).sum((1, 2), keepdims=True)
        y = y.at[place].set(jnp.maximum(value, 0) * context)
    return y


def ours(qkv):
    return separable_attention(separable_scores(qkv[..., :1]), qkv)


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
def test_value_and_gradient_are_those_of_the_definition(form):
    qkv = normal(2, 4, 6, 1 + 2 * WIDTH)
    expected = value_and_gradients(form, by_definition, qkv)
    for a, b in zip(value_and_gradients(form, ours, qkv), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_and_its_sums_are_float32():
    qkv = jnp.asarray(normal(1, 32, 32, 1 + 2 * WIDTH), jnp.bfloat16)
    y, gradient = value_and_gradients("auto", ours, qkv)
    assert y.dtype == gradient.dtype == jnp.bfloat16
    expected = by_definition(qkv.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0.02, atol=1e-3)
