# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import layer_norm
from tests.ops.support import normal, planned_bytes, value_and_gradients

EPS = 1e-5


def flax_layer_norm(x, scale, bias, dtype=jnp.float32):
    module = nn.LayerNorm(epsilon=EPS, dtype=dtype, use_fast_variance=False)
    return module.apply({"params": {"scale": scale, "bias": bias}}, x)


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_value_and_gradients_are_those_of_flax(form, shape):
    operands = 3 * normal(*shape) + 1, normal(6, seed=1), normal(6, seed=2)
    ours = value_and_gradients(form, functools.partial(layer_norm, eps=EPS), *operands)
    for a, b in zip(ours, value_and_gradients(form, flax_layer_norm, *operands), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def flax_group_norm(x, scale, bias):
    module = nn.GroupNorm(num_groups=1, epsilon=EPS, use_fast_variance=False)
    return module.apply({"params": {"scale": scale, "bias": bias}}, x)


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4, 6)])
def test_a_whole_map_has_one_mean(form, shape):
    operands = 3 * normal(*shape) + 1, normal(6, seed=1), normal(6, seed=2)
    norm = functools.partial(layer_norm, eps=EPS, whole=True)
    ours = value_and_gradients(form, norm, *operands)
    for a, b in zip(ours, value_and_gradients(form, flax_group_norm, *operands), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_statistics_of_bfloat16_are_float32():
    x = jnp.asarray(100 + normal(4, 64), jnp.bfloat16)
    scale, bias = np.ones(64, np.float32), np.zeros(64, np.float32)
    y, to_x, *_ = value_and_gradients(
        "auto", lambda x, s, b: layer_norm(x, s, b, EPS).astype(jnp.bfloat16), x, scale, bias
    )
    assert (y.dtype, to_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    expected = flax_layer_norm(x, scale, bias, jnp.bfloat16)
    np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))


def test_training_keeps_the_input_and_two_numbers_a_row():
    x, scale, bias = jnp.zeros((4, 4, 64, 64)), jnp.ones(64), jnp.zeros(64)

    def planned(norm):
        def loss(x, scale, bias):
            for _ in range(4):
                x = x + jnp.sin(norm(x, scale, bias))
            return jnp.sum(jnp.sin(x))

        return planned_bytes(loss, x, scale, bias) / x.nbytes

    ours = planned(functools.partial(layer_norm, eps=EPS))
    assert ours < planned(flax_layer_norm) / 1.5
