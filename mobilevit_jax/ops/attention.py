"""Attention among the tokens of a patch's place, in the form that is fast on each platform.

Training keeps no map: the backward pass computes it again, as Dao et al. (2022), "FlashAttention",
do. A CPU takes as many maps at a time as stay in its cache, and its products are turned so that the
tokens, not the few channels of a head, are what is contiguous. A TPU has a kernel of its own
(`ops/flash.py`) where the tokens suit it; other accelerators have plain products.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.dispatch import by_platform, current_form
from mobilevit_jax.ops.flash import flash_attention, flash_gradients, suits_flash

# Bytes of maps that stay in a CPU's cache, and that the memory allocator keeps for the next time
# for any thread: pieces of more than 64 MiB it keeps for the main one alone.
_CACHED, _KEPT = 2**23, 2**24


def self_attention(qkv: jax.Array, heads: int) -> jax.Array:
    """Computes softmax(query key^T / sqrt(d)) value for each head.

    Args:
        qkv: [..., n, 3 * heads * d]: query, key and value one after another, in each the heads.
        heads: How many there are.

    Returns:
        [..., n, heads * d] in the type of `qkv`; the softmax is float32.
    """
    return _self_attention(qkv, heads, current_form())


def attention_map(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns softmax(query key^T), float32 [..., n, n]."""
    return jax.nn.softmax(_product(query, key.mT), axis=-1)


def split_heads(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns query, times d ** -0.5, key and value, [..., heads, n, d] each; see above."""
    parts = qkv.reshape(*qkv.shape[:-1], 3, heads, qkv.shape[-1] // (3 * heads))
    query, key, value = jnp.moveaxis(parts, (-3, -2), (0, -3))
    return query * query.shape[-1] ** -0.5, key, value


def join_heads(x: jax.Array) -> jax.Array:
    """Returns [..., heads, n, d] as [..., n, heads * d]."""
    x = jnp.swapaxes(x, -3, -2)
    return x.reshape(*x.shape[:-2], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _self_attention(qkv, heads, form):
    return _forward(qkv, heads, form)[0]


def _forward(qkv, heads, form):
    split = split_heads(qkv, heads)

    def cpu(qkv, *split):
        return join_heads(_in_parts(_divided_last, _KEPT)(*split))

    def accelerator(qkv, query, key, value):
        return join_heads(attention_map(query, key).astype(value.dtype) @ value)

    def tpu(qkv, *split):
        return _turned(flash_attention(_turned(qkv), heads), qkv)

    output = by_platform(form, cpu, accelerator, qkv, *split, tpu=_if_flash(tpu, accelerator, qkv))
    # Nobody needs both `qkv` and what it was split into, and XLA leaves out what nobody needs.
    return output, (qkv, split, output)


def _backward(heads, form, residuals, gradient):
    qkv, split, output = residuals

    def joined(function):
        def gradients(qkv, query, key, value, output, gradient):
            sent, received = (_by_head(x, heads) for x in (gradient, output))
            along = jnp.sum(sent * received, -1, dtype=jnp.float32)
            # What splitting does to a gradient does not depend on what is split.
            _, join = jax.vjp(lambda x: split_heads(x, heads), jnp.zeros_like(qkv))
            return join(function(query, key, value, along, sent))[0]

        return gradients

    def tpu(qkv, _query, _key, _value, output, gradient):
        turned, received, sent = (_turned(x) for x in (qkv, output, gradient))
        return _turned(flash_gradients(turned, received, sent, heads), qkv)

    cpu, accelerator = joined(_in_parts(_turned_gradients, _CACHED)), joined(_plain_gradients)
    chosen = _if_flash(tpu, accelerator, qkv)
    return (by_platform(form, cpu, accelerator, qkv, *split, output, gradient, tpu=chosen),)


_self_attention.defvjp(_forward, _backward)


def _if_flash(tpu, other, qkv):
    return tpu if suits_flash(qkv) else other


def _turned(x, like=None):
    """Returns [..., n, c] as [m, c, n]; with `like`, [m, c, n] as so many axes as that has."""
    if like is not None:
        return x.mT.reshape(*like.shape[:-1], x.shape[1])
    return x.mT.reshape(-1, x.shape[-1], x.shape[-2])


def _by_head(x, heads):
    """Returns [..., n, heads * d] as [..., heads, n, d]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -3, -2)


def _plain_gradients(query, key, value, along, gradient):
    weights = attention_map(query, key)
    to_scores = weights * (_product(gradient, value.mT) - along[..., None])
    to_scores = to_scores.astype(query.dtype)
    to_value = weights.astype(value.dtype).mT @ gradient
    return to_scores @ key, to_scores.mT @ query, to_value


def _turned_gradients(query, key, value, along, gradient):
    weights = jax.nn.softmax(_product(key, query.mT), -2)  # [..., key, query]
    to_scores = (weights * (_product(value, gradient.mT) - along[..., None, :])).astype(query.dtype)
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


def _divided_last(query, key, value):
    scores = _product(query, key.mT)
    weights = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    total = jnp.sum(weights, -1, keepdims=True)
    return (_product(weights.astype(value.dtype), value) / total).astype(value.dtype)


def _product(x, y):
    return (x @ y).astype(jnp.float32)
