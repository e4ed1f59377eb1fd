"""Attention among the tokens of a patch's place, in the form that is fast on each platform.

Training keeps no map: the backward pass computes it again, as Dao et al. (2022), "FlashAttention",
do. A CPU takes as many maps at a time as stay in its cache, and its products are turned so that the
tokens, not the few channels of a head, are what is contiguous.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.dispatch import by_platform, current_form

# Bytes of maps that stay in a CPU's cache, and that the memory allocator keeps for the next time
# for any thread: pieces of more than 64 MiB it keeps for the main one alone.
_CACHED, _KEPT = 2**23, 2**24


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
    return jax.nn.softmax(_product(query, key.mT), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, form):
    return by_platform(form, _in_parts(_divided_last, _KEPT), _plain, query, key, value)


def _forward(query, key, value, form):
    output = _attention(query, key, value, form)
    return output, (query, key, value, output)


def _backward(form, residuals, gradient):
    cpu = _in_parts(_turned_gradients, _CACHED)
    return by_platform(form, cpu, _plain_gradients, *residuals, gradient)


_attention.defvjp(_forward, _backward)


def _plain_gradients(query, key, value, output, gradient):
    along = jnp.sum(gradient * output, -1, keepdims=True, dtype=jnp.float32)
    weights = attention_map(query, key)
    to_scores = (weights * (_product(gradient, value.mT) - along)).astype(query.dtype)
    to_value = weights.astype(value.dtype).mT @ gradient
    return to_scores @ key, to_scores.mT @ query, to_value


def _turned_gradients(query, key, value, output, gradient):
    along = jnp.sum(gradient * output, -1, dtype=jnp.float32)[..., None, :]
    weights = jax.nn.softmax(_product(key, query.mT), -2)  # [..., key, query]
    to_scores = (weights * (_product(value, gradient.mT) - along)).astype(query.dtype)
    key_turned = lax.optimization_barrier(key.mT)  # else the product turns it, and is slower
    to_query = (key_turned @ to_scores + _nothing(to_scores, -2)).mT
    to_key = to_scores @ query + _nothing(key, -1)
    to_value = weights.astype(value.dtype) @ gradient + _nothing(value, -1)
    return to_query, to_key, to_value


def _nothing(x, axis):
    """Returns zeros that have a sum in them.

    A product of many small matrices with one in its operation is shared among the cores: XLA's
    library of kernels takes the matrices one after another in one thread otherwise.
    """
    return 0 * jnp.sum(x, axis, keepdims=True)


def _in_parts(function, most_bytes):
    """Takes as many maps at once as have so many bytes, at least one: those of rows and heads."""

    def part_by_part(query, *others):
        *maps, tokens, _ = query.shape
        count, most = math.prod(maps), most_bytes // (tokens**2 * 4)
        at_once = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))
        if at_once == count:
            return function(query, *others)
        parts = [x.reshape(-1, at_once, *x.shape[len(maps) :]) for x in (query, *others)]
        outputs = lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda x: x.reshape(*maps, *x.shape[2:]), outputs)

    return part_by_part


def _plain(query, key, value):
    return attention_map(query, key).astype(value.dtype) @ value


def _divided_last(query, key, value):
    scores = _product(query, key.mT)
    weights = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    total = jnp.sum(weights, -1, keepdims=True)
    return (_product(weights.astype(value.dtype), value) / total).astype(value.dtype)


def _product(x, y):
    return (x @ y).astype(jnp.float32)
