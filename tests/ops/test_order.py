import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops.barriers import after, apart
from tests.ops.support import normal, planned_bytes


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
def test_values_stay(form):
    gradient, x = normal(2, 3), normal(4, 1, seed=1)
    np.testing.assert_array_equal(after(jnp.asarray(gradient), jnp.asarray(x), form), x)
    np.testing.assert_array_equal(apart(jnp.asarray(x), form), x)


@pytest.mark.parametrize(("platform", "waits"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_only_a_cpu_waits(platform, waits):
    traced = jax.jit(lambda g, x: apart(after(g, x, "auto"), "auto")).trace(
        jnp.zeros((2, 2)), jnp.zeros((3, 3))
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.optimization_barrier") == waits
    assert text.count("stablehlo.add") == waits


def test_what_waits_is_not_kept_from_the_forward_pass():
    """Four steps, each with a map four times its input's size that only its gradient needs."""
    x = jnp.zeros((256, 256))

    def planned(wait):
        @jax.custom_vjp
        def step(x):
            return jnp.sin(x)

        def backward(x, gradient):
            wide = jnp.sort(jnp.concatenate([wait(gradient, x)] * 4, 1), 1)
            return (gradient * jnp.cos(x) + jnp.dot(wide, jnp.ones((1024, 256))),)

        step.defvjp(lambda x: (step(x), x), backward)
        return planned_bytes(lambda x: jnp.sum(jnp.sin(step(step(step(step(x)))))), x) / x.nbytes

    at_once = planned(lambda gradient, x: x)
    assert planned(lambda gradient, x: after(gradient, x, "cpu")) < at_once - 4
