"""Matrix product over the last axis, for 1x1 convolutions and linear layers."""

import jax

from mobilevit_jax.ops.barriers import apart
from mobilevit_jax.ops.dispatch import Form, current_form


def pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiplies every position's channels by a matrix, and adds a bias.

    All positions become one axis first. With several, as `einsum` or `nn.Dense` leave them, the
    kernel's gradient on a CPU works on a transposed copy of the output's gradient, into which XLA
    moves the activation's and the norm's backward pass: two to four times slower.

    Args:
        x: [..., c].
        kernel: [c, features].
        bias: [features], or None for none.

    Returns:
        [..., features].
    """
    rows = x.reshape(-1, x.shape[-1]) @ kernel
    if bias is not None:
        rows = _gradient_once(rows + bias.reshape(1, -1), current_form())
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def _as_it_is(rows: jax.Array, form: Form) -> jax.Array:
    """Returns the rows; on a CPU their gradient is computed once for kernel, bias and input.

    XLA would move a transposition that comes after them into the bias's sum, which then takes
    several times as long.
    """
    return rows


def _forward(rows, form):
    return rows, None


def _backward(form, _, gradient):
    return (apart(gradient, form),)


_gradient_once = jax.custom_vjp(_as_it_is, nondiff_argnums=(1,))
_gradient_once.defvjp(_forward, _backward)
