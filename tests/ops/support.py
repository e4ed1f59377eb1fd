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
