"""Matrix product over the last axis, for 1x1 convolutions and linear layers.

On a CPU all positions become one axis first. With several, as `einsum` or `nn.Dense` leave them,
the kernel's gradient works on a transposed copy of the output's gradient, into which XLA moves the
activation's and the norm's backward pass: two to four times slower. On a TPU one axis of all
positions would be a wall: it fixes the order of the axes in memory, which the compiler chooses so
that the lanes are full, and maps would be copied from one order to the other. There it is a
convolution; elsewhere a product, whose order is the maps' own.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.convolution import plain_conv
from mobilevit_jax.ops.dispatch import by_platform, current_form


def pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiplies every position's channels by a matrix, and adds a bias.

    Args:
        x: [..., c].
        kernel: [c, features].
        bias: [features], or None for none.

    Returns:
        [..., features].
    """
    return _pointwise(x, kernel, () if bias is None else (bias,), current_form())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pointwise(x, kernel, bias, form):
    return by_platform(form, _rows, _product, x, kernel, bias, tpu=_convolution)


def _forward(x, kernel, bias, form):
    return _pointwise(x, kernel, bias, form), (x, kernel, bias)


def _backward(form, residuals, gradient):
    def gradients(function):
        return lambda *operands: jax.vjp(function, *operands[:-1])[1](operands[-1])

    forms = _rows_gradients, gradients(_product), *residuals, gradient
    return by_platform(form, *forms, tpu=gradients(_convolution))


_pointwise.defvjp(_forward, _backward)


def _rows(x, kernel, bias):
    return _product(_as_rows(x), kernel, bias).reshape(*x.shape[:-1], -1)


def _rows_gradients(x, kernel, bias, gradient):
    rows = _as_rows(gradient)
    if bias:
        # Computed once for kernel, bias and input. XLA would move a transposition that comes before
        # into the bias's sum, which then takes several times as long.
        rows = lax.optimization_barrier(rows)
    to_x, to_kernel = jax.vjp(lambda x, kernel: x @ kernel, _as_rows(x), kernel)[1](rows)
    return to_x.reshape(x.shape), to_kernel, tuple(jnp.sum(rows, 0) for _ in bias)


def _as_rows(x):
    return x.reshape(-1, x.shape[-1])


def _product(x, kernel, bias):
    return _with_bias(x @ kernel, bias)


def _convolution(x, kernel, bias):
    if x.ndim != 4:
        return _product(x, kernel, bias)
    return _with_bias(plain_conv(x, kernel[None, None], 1, 1), bias)


def _with_bias(y, bias):
    for b in bias:
        y = y + b.reshape((1,) * (y.ndim - 1) + (-1,))
    return y
