"""Layer norm that keeps its input and two numbers a row, or a map, for the backward pass.

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


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, whole: bool = False
) -> jax.Array:
    """Normalises the last axis, then multiplies and adds; the variance takes two passes.

    Args:
        x: [..., c].
        scale: [c], float32.
        bias: [c], float32.
        eps: Added to the variance.
        whole: Whether all axes but the first are normalised together, [b, ..., c] (group norm of a
            single group).

    Returns:
        [..., c], float32.
    """
    return _layer_norm(x, scale, bias, eps, whole, current_form())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _layer_norm(x, scale, bias, eps, whole, form):
    return _forward(x, scale, bias, eps, whole, form)[0]


def _forward(x, scale, bias, eps, whole, form):
    exact = x.astype(jnp.float32)
    mean = apart(_mean(exact, whole, form), form)
    variance = _mean(lax.square(exact - mean), whole, form)
    factor = apart(lax.rsqrt(variance + eps), form)
    y = (exact - mean) * (factor * _row(scale, x)) + _row(bias, x)
    return y, (x, mean, factor, scale)


def _backward(eps, whole, form, residuals, gradient):
    x, mean, factor, scale = residuals
    mean, factor, scale = (after(gradient, y, form) for y in (mean, factor, _row(scale, x)))
    normalised = (x.astype(jnp.float32) - mean) * factor
    inside = gradient * scale
    along = _mean(inside * normalised, whole, form)
    to_x = factor * (inside - _mean(inside, whole, form) - normalised * along)
    rows = tuple(range(x.ndim - 1))
    return to_x.astype(x.dtype), jnp.sum(gradient * normalised, rows), jnp.sum(gradient, rows)


_layer_norm.defvjp(_forward, _backward)


def _mean(x, whole, form):
    if whole:  # a sum over the channels too would take one number at a time
        x = apart(jnp.mean(x, tuple(range(1, x.ndim - 1)), keepdims=True), form)
    return jnp.mean(x, -1, keepdims=True)


def _row(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
