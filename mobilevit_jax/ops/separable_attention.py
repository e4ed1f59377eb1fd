"""Separable self-attention among the pixels that share their place in a patch.

Mehta & Rastegari (2022), "Separable Self-attention for Mobile Vision Transformers", section 3.2:
one score a pixel in place of a map of pixels by pixels. A place's pixels are summed where they are,
so that maps are neither unfolded nor folded, and training keeps the projections alone.
"""

import functools

import jax
import jax.numpy as jnp

from mobilevit_jax.ops.barriers import after
from mobilevit_jax.ops.dispatch import current_form

_PATCH = 2  # pixels a side


def separable_scores(query: jax.Array) -> jax.Array:
    """Returns the share that each pixel has in the context of its place.

    Args:
        query: [b, h, w, 1], sides even.

    Returns:
        float32 [b, h / 2, 2, w / 2, 2, 1]; over rows and columns of patches the sum is 1.
    """
    return jax.nn.softmax(_places(query).astype(jnp.float32), axis=(1, 3))


def separable_attention(scores: jax.Array, qkv: jax.Array) -> jax.Array:
    """Multiplies each pixel's value, if positive, by the context of its place.

    The context is the sum of the place's keys by their scores.

    Args:
        scores: As `separable_scores` returns them.
        qkv: [b, h, w, 1 + 2 c]: a query, which is not looked at, keys and values.

    Returns:
        [b, h, w, c] in the type of `qkv`; the sums are float32.
    """
    return _attention(scores, qkv, current_form())


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attention(scores, qkv, form):
    return _plain(scores, qkv)


def _forward(scores, qkv, form):
    return _plain(scores, qkv), (scores, qkv)


def _backward(form, residuals, gradient):
    scores, qkv = residuals
    # Else keys and values would be parted, and kept so, before they are needed.
    return jax.vjp(_plain, scores, after(gradient, qkv, form))[1](gradient)


_attention.defvjp(_forward, _backward)


def _plain(scores, qkv):
    dim = qkv.shape[-1] // 2
    key, value = _places(qkv[..., 1 : 1 + dim]), qkv[..., 1 + dim :]
    context = jnp.sum(scores * key, axis=(1, 3), keepdims=True, dtype=jnp.float32)
    return (jax.nn.relu(_places(value)) * context.astype(value.dtype)).reshape(value.shape)


def _places(x):
    """Views [b, h, w, c] as [b, h / 2, 2, w / 2, 2, c]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
