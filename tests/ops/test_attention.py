import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import attention, attention_map, use_form
from tests.ops.support import normal, value_and_gradients

# The last one's 24 maps of 1 MiB are taken in parts by a CPU.
SHAPES = [(2, 4, 3, 10, 5), (6, 8), (1, 1, 1, 1, 2), (2, 3, 2, 130, 5), (130, 8), (3, 2, 4, 512, 3)]


def tokens(*shape, dtype=np.float32):
    return tuple(jnp.asarray(normal(*shape, seed=seed), dtype) for seed in range(3))


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forms_agree_with_the_definition(form, shape):
    operands = tokens(*shape)

    def definition(query, key, value):
        scores = jnp.einsum("...qd,...kd->...qk", query, key)
        return jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(scores, -1), value)

    with use_form(form):
        inference = attention(*operands)
    expected = value_and_gradients(form, definition, *operands)
    np.testing.assert_allclose(inference, expected[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(value_and_gradients(form, attention, *operands), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maps", [0.5, 1, 3, 5, 100])
def test_any_number_of_maps_at_once(monkeypatch, maps):
    query, key, value = tokens(2, 2, 3, 9, 5)
    expected = value_and_gradients("accelerator", attention, query, key, value)
    module = importlib.import_module("mobilevit_jax.ops.attention")  # the package has the function
    for limit in ("_CACHED", "_KEPT"):
        monkeypatch.setattr(module, limit, int(maps * 9 * 9 * 4))
    found = value_and_gradients("cpu", attention, query, key, value)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
@pytest.mark.parametrize("length", [6, 130])
def test_large_scores_do_not_overflow(form, length):
    query, key, value = tokens(2, length, 4)
    with use_form(form):
        y = attention(200 * query, 200 * key, value)
    large = 200 * query, 200 * key, value
    assert all(jnp.isfinite(x).all() for x in value_and_gradients(form, attention, *large))
    best = jnp.argmax(query @ jnp.swapaxes(key, -1, -2), -1)
    np.testing.assert_allclose(y, jnp.take_along_axis(value, best[..., None], 1), atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
@pytest.mark.parametrize("length", [6, 130])
def test_bfloat16_stays(form, length):
    operands = tokens(2, length, 4, dtype=jnp.bfloat16)

    exact = value_and_gradients(form, attention, *(x.astype(jnp.float32) for x in operands))
    for a, b in zip(value_and_gradients(form, attention, *operands), exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.1, atol=0.05)


def test_the_map_sums_to_one():
    query, key, _ = tokens(2, 6, 4, dtype=jnp.bfloat16)
    weights = attention_map(query, key)
    assert weights.dtype == jnp.float32 and weights.shape == (2, 6, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_no_map_is_kept(form):
    with use_form(form):
        _, pull = jax.vjp(attention, *tokens(2, 2, 4, 64, 8))
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) == 2 * 2 * 4 * 64 * 8
