# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.models import attention_maps
from mobilevit_jax.models.attention import MultiHeadAttention, TransformerLayer
from tests.small import random_variables, tiny_model


def variables_of(module, tokens, seed=0):
    rng = np.random.default_rng(seed)
    abstract = jax.eval_shape(module.init, jax.random.key(0), tokens)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) * 0.5, abstract
    )


def tokens_of(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def softmax(scores):
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_attention_against_a_loop_over_heads():
    heads, dim, x = 2, 6, tokens_of(2, 3, 5, 6)
    module = MultiHeadAttention(heads)
    params = variables_of(module, x)["params"]
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    width, parts = dim // heads, []
    for head in range(heads):
        query, key, value = (
            qkv[..., i * dim + head * width : i * dim + (head + 1) * width] for i in range(3)
        )
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(width)
        parts.append(softmax(scores) @ value)
    expected = np.concatenate(parts, -1) @ params["out"]["kernel"] + params["out"]["bias"]
    actual = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_attention_stays_inside_a_place_of_the_patch():
    module, x = MultiHeadAttention(2), tokens_of(1, 2, 4, 4)
    variables = variables_of(module, x)
    apply = jax.jit(module.apply)
    changed = x.copy()
    changed[:, 1] += 1
    before, after = apply(variables, x), apply(variables, changed)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.abs(before[:, 1] - after[:, 1]).min() > 1e-3


def test_attention_does_not_know_the_order_of_patches():
    module, x = TransformerLayer(heads=2, ffn_dim=8), tokens_of(1, 2, 4, 4)
    variables = variables_of(module, x)
    order = np.array([2, 0, 3, 1])
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(
        apply(variables, x[:, :, order]), np.asarray(apply(variables, x))[:, :, order], atol=1e-5
    )


def test_layer_is_pre_norm_with_silu():
    module, x = TransformerLayer(heads=1, ffn_dim=8), tokens_of(1, 1, 3, 4)
    params = variables_of(module, x)["params"]

    def norm(y, p):
        centred = y - y.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]
        )

    attention = MultiHeadAttention(1).apply(
        {"params": params["attention"]}, norm(x, params["attention_norm"])
    )
    y = x + np.asarray(attention)
    hidden = norm(y, params["ffn_norm"]) @ params["ffn_expand"]["kernel"]
    hidden = hidden + params["ffn_expand"]["bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    expected = y + hidden @ params["ffn_reduce"]["kernel"] + params["ffn_reduce"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=2e-5)


@pytest.mark.parametrize("rates", [(0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)])
def test_each_dropout_works_in_training_only(rates):
    module, x = TransformerLayer(2, 8, *rates), tokens_of(1, 2, 4, 4)
    variables = variables_of(module, x)

    def run(seed, train):
        return module.apply(variables, x, train, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(run(0, False), run(1, False))
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert np.abs(run(0, True) - run(1, True)).max() > 1e-3


def test_bfloat16_keeps_its_type_and_softmax_in_float32():
    module, x = MultiHeadAttention(2, dtype=jnp.bfloat16), tokens_of(1, 2, 4, 4)
    variables = variables_of(module, x)

    def run(x):
        return module.apply(variables, x, mutable=["intermediates"])

    y, state = jax.eval_shape(run, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert state["intermediates"]["attention"][0].dtype == jnp.float32


def test_attention_maps_of_a_model():
    model = tiny_model(patch_sizes=(4, 2, 2))
    variables = random_variables(model)
    maps = jax.jit(lambda v, x: attention_maps(model, v, x))(variables, np.ones((2, 64, 32, 3)))
    # Maps of 8x4, 4x2 and 2x1 pixels, the last resized to 2x2.
    shapes = {"layer_3": (2, 16, 2, 2, 2), "layer_4": (2, 4, 2, 2, 2), "layer_5": (2, 4, 2, 1, 1)}
    assert {stage: [m.shape for m in found] for stage, found in maps.items()} == {
        stage: [shape] for stage, shape in shapes.items()
    }
    for found in jax.tree.leaves(maps):
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
        assert found.min() >= 0


def test_attention_maps_with_rematerialisation():
    model = tiny_model(remat=True)
    variables = random_variables(model)
    maps = jax.eval_shape(lambda x: attention_maps(model, variables, x), jnp.ones((1, 64, 64, 3)))
    assert [m.shape for m in maps["layer_3"]] == [(1, 4, 2, 16, 16)]
