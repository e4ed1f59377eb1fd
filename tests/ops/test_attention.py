import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import attention_map, join_heads, self_attention, split_heads, use_form
from tests.ops.support import normal, value_and_gradients

# [..., n, heads, d]. The last one's 24 maps of 1 MiB are taken in parts by a CPU.
SHAPES = [(2, 4, 10, 3, 5), (6, 1, 8), (1, 1, 1, 1, 2), (2, 3, 130, 2, 5), (3, 2, 512, 4, 3)]


def projected(*shape, dtype=np.float32, scale=1.0):
    """Draws query, key and value of a shape [..., n, heads, d], as one projection leaves them."""
    *places, heads, depth = shape
    return jnp.asarray(scale * normal(*places, 3 * heads * depth), dtype)


def attend(heads):
    return lambda qkv: self_attention(qkv, heads)


def definition(heads):
    """Multi-head attention as Vaswani et al. (2017) write it."""

    def attention(qkv):
        query, key, value = (
            x.reshape(*x.shape[:-1], heads, -1) for x in jnp.split(qkv, 3, axis=-1)
        )
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / query.shape[-1] ** 0.5
        y = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores, -1), value)
        return y.reshape(*y.shape[:-2], -1)

    return attention


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forms_agree_with_the_definition(form, shape):
    qkv, heads = projected(*shape), shape[-2]
    with use_form(form):
        inference = self_attention(qkv, heads)
    expected = value_and_gradients(form, definition(heads), qkv)
    np.testing.assert_allclose(inference, expected[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(value_and_gradients(form, attend(heads), qkv), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maps", [0.5, 1, 3, 5, 100])
def test_any_number_of_maps_at_once(monkeypatch, maps):
    qkv = projected(2, 2, 9, 3, 5)
    expected = value_and_gradients("accelerator", attend(3), qkv)
    module = importlib.import_module("mobilevit_jax.ops.attention")
    for limit in ("_CACHED", "_KEPT"):
        monkeypatch.setattr(module, limit, int(maps * 9 * 9 * 4))
    found = value_and_gradients("cpu", attend(3), qkv)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
@pytest.mark.parametrize("length", [6, 130])
def test_large_scores_do_not_overflow(form, length):
    large = projected(2, length, 1, 4, scale=1e4)
    with use_form(form):
        y = self_attention(large, 1)
    assert all(jnp.isfinite(x).all() for x in value_and_gradients(form, attend(1), large))
    query, key, value = (x[:, 0] for x in split_heads(large, 1))
    best = jnp.argmax(query @ key.mT, -1)
    np.testing.assert_allclose(y, jnp.take_along_axis(value, best[..., None], 1), rtol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
@pytest.mark.parametrize("length", [6, 130])
def test_bfloat16_stays(form, length):
    qkv = projected(2, length, 2, 4, dtype=jnp.bfloat16)

    exact = value_and_gradients(form, attend(2), qkv.astype(jnp.float32))
    for a, b in zip(value_and_gradients(form, attend(2), qkv), exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.1, atol=0.05)


def test_the_map_sums_to_one():
    query, key, _ = split_heads(projected(2, 6, 2, 4, dtype=jnp.bfloat16), 2)
    weights = attention_map(query, key)
    assert weights.dtype == jnp.float32 and weights.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_heads_are_joined_as_they_were_split():
    qkv = projected(2, 3, 6, 2, 4)
    np.testing.assert_array_equal(join_heads(split_heads(qkv, 2)[2]), qkv[..., 16:])


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_no_map_is_kept(form):
    qkv = projected(2, 2, 64, 4, 8)
    with use_form(form):
        _, pull = jax.vjp(attend(4), qkv)
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) == qkv.size
