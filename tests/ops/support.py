"""What the tests of operations share: drawn arrays, and gradients in a form that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.ops import use_form


def normal(*shape, seed=0):
    """Draws float32 from a normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_and_gradients(form, function, *operands):
    """Returns the output and, for a drawn cotangent, the gradients of all operands."""

    def run(*operands):
        with use_form(form):
            y, pull = jax.vjp(function, *operands)
            return y, *pull(jnp.asarray(normal(*y.shape, seed=9), y.dtype))

    return jax.jit(run)(*operands)


def planned_bytes(loss, *operands):
    """Returns what XLA plans for temporary arrays when it computes the gradients of operands."""
    gradients = jax.jit(jax.grad(loss, tuple(range(len(operands)))))
    analysis = gradients.lower(*operands).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes
