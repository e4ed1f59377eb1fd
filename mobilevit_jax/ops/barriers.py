"""What XLA's CPU compiler computes together, and when; elsewhere it is left to choose."""

import jax
from jax import lax

from mobilevit_jax.ops.dispatch import Form, by_platform


def apart(x: jax.Array, form: Form) -> jax.Array:
    """Returns `x`, computed once, in an operation that does nothing else."""
    return by_platform(form, lax.optimization_barrier, lambda x: x, x)


def after(gradient: jax.Array, x: jax.Array, form: Form) -> jax.Array:
    """Returns `x`, for operations of a backward pass that shall wait for the gradient.

    An operation is taken as soon as its operands are there, so that what a backward pass computes
    of kept arrays alone would be computed in the forward pass, and kept as well. One element of the
    gradient stands for all; where that is not finite, `x` becomes NaN.

    Args:
        gradient: What is waited for.
        x: As many axes.
        form: See `by_platform`.
    """

    def waiting(gradient, x):
        # `lax.optimization_barrier` of both does nothing here: XLA's CPU compiler removes barriers
        # before it puts operations in order, and plans as much memory as without one.
        first = lax.slice(gradient, (0,) * gradient.ndim, (1,) * gradient.ndim)
        return x + 0 * first.astype(x.dtype)

    return by_platform(form, waiting, lambda gradient, x: x, gradient, x)
