"""What a CPU computes again in the backward pass, for memory; accelerators are left to choose.

`jax.checkpoint` parts what it computes again from everything around it. A CPU, which fuses little,
loses nothing by that; a TPU's compiler would fuse across, and copies maps between layouts where it
may not. So it has the plain gradient, of which it computes again what it finds cheap.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from mobilevit_jax.ops.dispatch import by_platform, current_form


def recomputed(function: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """Returns `function(*operands)`; its gradient keeps nothing but the operands.

    Args:
        function: Pure, of arrays alone.
        operands: Its arguments.
    """
    return _recomputed(function, current_form(), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recomputed(function, form, *operands):
    return function(*operands)


def _forward(function, form, *operands):
    return function(*operands), operands


def _backward(function, form, operands, gradient):
    return pull_back(function, form, gradient, *operands)


_recomputed.defvjp(_forward, _backward)


def pull_back(function: Any, form: Any, gradient: jax.Array, *operands: jax.Array) -> Any:
    """Returns the gradients by the operands, from that by the result of a function.

    Args:
        function: Of the operands.
        form: See `by_platform`.
        gradient: Of the result.
        operands: What the result was computed from.
    """

    def plain(function):
        return lambda gradient, *operands: jax.vjp(function, *operands)[1](gradient)

    cpu = plain(jax.checkpoint(function))
    return by_platform(form, cpu, plain(function), gradient, *operands)
