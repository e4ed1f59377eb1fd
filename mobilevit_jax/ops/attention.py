"""Attention among the tokens of a patch's place, in the form that is fast on each platform.

Training keeps no map of long sequences: the backward pass computes it again from the softmax's
sums, as Dao et al. (2022), "FlashAttention", do. A CPU then takes as many rows at a time as have
maps that stay in its cache, and products are turned so that the tokens, not the few channels of a
head, are what is contiguous. Of short sequences the maps are kept.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.forms import by_platform, current_form

_LONG = 128  # tokens from which on computing a map again is cheaper than keeping it
# Bytes of maps that stay in a CPU's cache, and that the memory allocator keeps for the next time
# for any thread: pieces of more than 64 MiB it keeps for the main one alone.
_CACHED, _KEPT = 2**22, 2**24


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
    return by_platform(form, _in_parts(_divided_last, _KEPT), _plain, query, key, value)


def _recomputing_forward(query, key, value, form):
    results = by_platform(form, _in_parts(_with_sums, _CACHED), _with_sums, query, key, value)
    return results[0], (query, key, value, *results)


def _recomputing_backward(form, residuals, gradient):
    return by_platform(form, _in_parts(_gradients, _CACHED), _gradients, *residuals, gradient)


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


def _in_parts(function, most_bytes):
    """Takes as many rows in front of the heads' at once as have maps of so many bytes."""

    def part_by_part(query, *others):
        if query.ndim <= 3:
            return function(query, *others)
        *rows, heads, tokens, _ = query.shape
        count, most = math.prod(rows), most_bytes // (heads * tokens**2 * 4)
        at_once = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))
        if at_once == count:
            return function(query, *others)
        parts = [x.reshape(-1, at_once, *x.shape[len(rows) :]) for x in (query, *others)]
        outputs = lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda x: x.reshape(*rows, *x.shape[2:]), outputs)

    return part_by_part


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
