"""Layer norm that keeps its input and two numbers a row for the backward pass.

Of JAX's own gradient each step would keep a map as large as the input; computed again
(`jax.checkpoint`) they are computed too early, since nothing in them waits for the gradient. On a
CPU mean and factor are computed apart, or XLA would write them as large as the input.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.barriers import after, apart
from mobilevit_jax.ops.dispatch import current_form


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Normalises the last axis, then multiplies and adds; the variance takes two passes.

    Args:
        x: [..., c].
        scale: [c], float32.
        bias: [c], float32.
        eps: Added to the variance.

    Returns:
        [..., c], float32.
    """
    return _layer_norm(x, scale, bias, eps, current_form())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x, scale, bias, eps, form):
    return _forward(x, scale, bias, eps, form)[0]


def _forward(x, scale, bias, eps, form):
    exact = x.astype(jnp.float32)
    mean = apart(jnp.mean(exact, -1, keepdims=True), form)
    variance = jnp.mean(lax.square(exact - mean), -1, keepdims=True)
    factor = apart(lax.rsqrt(variance + eps), form)
    y = (exact - mean) * (factor * _row(scale, x)) + _row(bias, x)
    return y, (x, mean, factor, scale)


def _backward(eps, form, residuals, gradient):
    x, mean, factor, scale = residuals
    mean, factor, scale = (after(gradient, y, form) for y in (mean, factor, _row(scale, x)))
    normalised = (x.astype(jnp.float32) - mean) * factor
    inside = gradient * scale
    along = jnp.mean(inside * normalised, -1, keepdims=True)
    to_x = factor * (inside - jnp.mean(inside, -1, keepdims=True) - normalised * along)
    rows = tuple(range(x.ndim - 1))
    return to_x.astype(x.dtype), jnp.sum(gradient * normalised, rows), jnp.sum(gradient, rows)


_layer_norm.defvjp(_forward, _backward)


def _row(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
