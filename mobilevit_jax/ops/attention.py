"""Attention among the tokens of a patch's place, in the form that is fast on each platform.

Training keeps no map of long sequences: the backward pass computes it again from the softmax's
sums, as Dao et al. (2022), "FlashAttention", do. A CPU then takes one image after another, whose
maps stay in its cache, and products are turned so that the tokens, not the few channels of a head,
are what is contiguous. Of short sequences the maps are kept.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.forms import by_platform, current_form

_LONG = 128  # tokens from which on computing a map again is cheaper than keeping it


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes softmax(query key^T) value.

    Args:
        query: [..., n, d], scaled already.
        key: [..., n, d].
        value: [..., n, d].

    Returns:
        [..., n, d] in the type of `value`; the softmax is float32.
    """
    form = _recomputing if query.shape[-2] >= _LONG else _keeping
    return form(query, key, value, current_form())


def attention_map(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns softmax(query key^T), float32 [..., n, n]."""
    return jax.nn.softmax(_product(query, _turned(key)), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _keeping(query, key, value, form):
    return by_platform(form, _divided_last, _plain, query, key, value)


def _keeping_forward(query, key, value, form):
    weights = attention_map(query, key).astype(value.dtype)
    output = weights @ value
    return output, (query, key, value, weights, output)


def _keeping_backward(form, residuals, gradient):
    query, key, value, weights, output = residuals
    along = jnp.sum(gradient * output, -1, keepdims=True, dtype=jnp.float32)
    to_scores = weights * (_product(gradient, _turned(value)) - along)
    to_scores = to_scores.astype(query.dtype)
    return to_scores @ key, _turned(to_scores) @ query, _turned(weights) @ gradient


_keeping.defvjp(_keeping_forward, _keeping_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _recomputing(query, key, value, form):
    return by_platform(form, _divided_last, _plain, query, key, value)


def _recomputing_forward(query, key, value, form):
    results = by_platform(form, _each(_with_sums), _with_sums, query, key, value)
    return results[0], (query, key, value, *results)


def _recomputing_backward(form, residuals, gradient):
    return by_platform(form, _each(_gradients), _gradients, *residuals, gradient)


_recomputing.defvjp(_recomputing_forward, _recomputing_backward)


def _with_sums(query, key, value):
    """Returns the output, and what makes the map again: each query's largest score and factor.

    The factor, one over the sum, is applied behind the products. It is less work there, and keeps
    XLA from turning them back into products that walk across the rows.
    """
    scores = _product(key, _turned(query))  # [..., key, query]
    largest = jnp.max(scores, -2, keepdims=True)
    weights = jnp.exp(scores - largest)
    factor = 1 / jnp.sum(weights, -2, keepdims=True)
    output = _turned(_product(_turned(value), weights.astype(value.dtype)) * factor)
    return output.astype(value.dtype), largest, factor


def _gradients(query, key, value, output, largest, factor, gradient):
    along = jnp.sum(gradient * output, -1, dtype=jnp.float32)[..., None, :]
    weights = jnp.exp(_product(key, _turned(query)) - largest)
    to_scores = (weights * (_product(value, _turned(gradient)) - along)).astype(query.dtype)
    to_query = _turned(_product(_turned(key), to_scores) * factor)
    of_each = _turned(factor).astype(query.dtype)
    to_key = to_scores @ (query * of_each)
    to_value = weights.astype(value.dtype) @ (gradient * of_each)
    return to_query.astype(query.dtype), to_key, to_value


def _each(function):
    """Takes one after another along the first axis, if there is one in front of the heads'."""

    def one_by_one(*arrays):
        return lax.map(lambda one: function(*one), arrays)

    return lambda *arrays: (one_by_one if arrays[0].ndim > 3 else function)(*arrays)


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
