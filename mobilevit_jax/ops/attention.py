"""Attention among the tokens of a patch's place, in the form that is fast on each platform.

On a CPU, inference divides by the sums of the softmax after the product with the values, which are
far fewer than the weights, and training keeps the weights alone for its backward pass. Accelerators
get the plain formula.
"""

import functools

import jax
import jax.numpy as jnp

from mobilevit_jax.ops.forms import by_platform, current_form


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes softmax(query key^T) value.

    Args:
        query: [..., n, d], scaled already.
        key: [..., n, d].
        value: [..., n, d].

    Returns:
        [..., n, d] in the type of `value`; the softmax is float32.
    """
    return _attention(query, key, value, current_form())


def attention_map(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns softmax(query key^T), float32 [..., n, n]."""
    return jax.nn.softmax(_product(query, _turned(key)), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, form):
    return by_platform(form, _divided_last, _plain, query, key, value)


def _forward(query, key, value, form):
    weights = attention_map(query, key).astype(value.dtype)
    output = weights @ value
    return output, (query, key, value, weights, output)


def _backward(form, residuals, gradient):
    query, key, value, weights, output = residuals
    along = jnp.sum(gradient * output, -1, keepdims=True, dtype=jnp.float32)
    to_scores = weights * (_product(gradient, _turned(value)) - along)
    to_scores = to_scores.astype(query.dtype)
    return to_scores @ key, _turned(to_scores) @ query, _turned(weights) @ gradient


_attention.defvjp(_forward, _backward)


def _plain(query, key, value):
    return attention_map(query, key).astype(value.dtype) @ value


def _divided_last(query, key, value):
    scores = _product(query, _turned(key))
    weights = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    total = jnp.sum(weights, -1, keepdims=True)
    return (_product(weights.astype(value.dtype), value) / total).astype(value.dtype)


def _product(x, y):
    return (x @ y).astype(jnp.float32)


def _turned(x):
    return jnp.swapaxes(x, -1, -2)
