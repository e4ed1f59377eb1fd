import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import pointwise
from tests.ops.support import normal, value_and_gradients

module = importlib.import_module("mobilevit_jax.ops.pointwise")  # the package has the function


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_value_and_gradients_are_those_of_the_definition(form, shape):
    operands = normal(*shape), normal(6, 7, seed=1), normal(7, seed=2)

    def definition(x, kernel, bias):
        y = jnp.einsum("...c,cf->...f", x, kernel)
        return y + jnp.broadcast_to(bias, y.shape)

    expected = value_and_gradients(form, definition, *operands)
    for a, b in zip(value_and_gradients(form, pointwise, *operands), expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    without = np.asarray(jax.jit(pointwise)(*operands[:2]))
    np.testing.assert_allclose(without + operands[2], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "barriers"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_only_a_cpu_computes_the_gradient_apart(platform, barriers):
    gradient = jax.jit(jax.grad(lambda x, k, b: jnp.sum(pointwise(x, k, b) ** 2), (0, 1, 2)))
    arrays = jnp.zeros((4, 6)), jnp.zeros((6, 7)), jnp.zeros(7)
    text = gradient.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.optimization_barrier") == barriers


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4, 6)])
def test_what_a_tpu_computes(shape):
    operands = normal(*shape), normal(6, 7, seed=1), (normal(7, seed=2),)
    found, expected = (
        value_and_gradients("auto", function, *operands)
        for function in (module._convolution, module._product)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 0), ("tpu", 1)])
def test_only_a_tpu_convolves(platform, convolutions):
    arrays = jnp.zeros((2, 3, 4, 6)), jnp.zeros((6, 7))
    text = jax.jit(pointwise).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
