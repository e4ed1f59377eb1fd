import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.ops import depthwise_conv, use_form
from tests.ops.support import normal, planned_bytes, value_and_gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation", "height", "width"),
    [
        (3, 1, 1, 7, 6),
        (3, 2, 1, 7, 6),
        (3, 2, 1, 6, 7),
        (3, 1, 2, 7, 5),
        (3, 2, 2, 9, 8),
        (5, 1, 1, 6, 7),
        (5, 2, 2, 7, 7),
        (3, 2, 1, 1, 1),
    ],
)
def test_forms_agree_in_value_and_gradients(kernel_size, stride, dilation, height, width):
    x, kernel = normal(3, height, width, 4), normal(kernel_size, kernel_size, 1, 4, seed=1)
    function = functools.partial(depthwise_conv, stride=stride, dilation=dilation)
    shifted, convolution, chosen = (
        value_and_gradients(form, function, x, kernel) for form in ("cpu", "accelerator", "auto")
    )
    assert shifted[0].shape == (3, -(-height // stride), -(-width // stride), 4)
    for a, b, c in zip(shifted, convolution, chosen, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(c, b, rtol=1e-4, atol=2e-5)


def silu_of_affine(x, factor, offset):
    return jax.nn.silu(x * factor + offset)


@pytest.mark.parametrize("form", ["cpu", "accelerator", "auto"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_what_comes_before_equals_that_by_itself(form, stride, dilation):
    def on_the_way(x, kernel, *operands):
        return depthwise_conv(x, kernel, stride, dilation, silu_of_affine, operands)

    def by_itself(x, kernel, *operands):
        return depthwise_conv(silu_of_affine(x, *operands), kernel, stride, dilation)

    shapes = (3, 7, 6, 4), (3, 3, 1, 4), (1, 1, 1, 4), (1, 1, 1, 4)
    operands = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    actual, expected = (value_and_gradients(form, f, *operands) for f in (on_the_way, by_itself))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_what_comes_before_is_not_kept_for_training():
    x, kernel = jnp.zeros((8, 32, 32, 16)), jnp.zeros((3, 3, 1, 16))
    operands = jnp.ones((1, 1, 1, 16)), jnp.zeros((1, 1, 1, 16))

    def planned(convolve):
        def loss(x, kernel):
            for _ in range(4):
                x = convolve(x, kernel)
            return jnp.sum(jnp.sin(x))

        return planned_bytes(loss, x, kernel) / x.nbytes

    on_the_way = planned(lambda x, k: depthwise_conv(x, k, 1, 1, silu_of_affine, operands))
    by_itself = planned(lambda x, k: depthwise_conv(silu_of_affine(x, *operands), k))
    assert on_the_way < by_itself - 2.5


def test_value_against_a_loop():
    x, kernel = normal(1, 5, 4, 2), normal(3, 3, 1, 2, seed=1)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = np.zeros((1, 3, 2, 2))
    for i in range(3):
        for j in range(2):
            window = padded[0, 2 * i : 2 * i + 5 : 2, 2 * j : 2 * j + 5 : 2]
            expected[0, i, j] = (window * kernel[:, :, 0]).sum((0, 1))
    for form in ("cpu", "accelerator"):
        with use_form(form):
            y = depthwise_conv(jnp.asarray(x), jnp.asarray(kernel), stride=2, dilation=2)
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_bfloat16_stays(form):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (normal(2, 5, 5, 4), normal(3, 3, 1, 4)))
    function = functools.partial(depthwise_conv, stride=2)
    exact = value_and_gradients(form, function, *map(np.float32, (x, kernel)))
    for a, b in zip(value_and_gradients(form, function, x, kernel), exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0.05, atol=0.1)


def lowered_for(platform, function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "expected"), [("tpu", True), ("cuda", True), ("cpu", False)])
def test_the_platform_chooses_the_form(platform, expected):
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))

    def loss(x, kernel):
        return jnp.sum(depthwise_conv(x, kernel, 2) ** 2)

    for function in (loss, jax.grad(loss, (0, 1))):
        text = lowered_for(platform, function, x, kernel)
        assert ("stablehlo.convolution" in text) == expected


def test_use_form_forces_and_restores():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))

    def convolves(platform):
        # A new function each time, or its trace would be remembered.
        return "stablehlo.convolution" in lowered_for(
            platform, lambda x, k: depthwise_conv(x, k), x, kernel
        )

    with use_form("accelerator"):
        assert convolves("cpu")
        with use_form("cpu"):
            assert not convolves("tpu")
        assert convolves("cpu")
    with pytest.raises(RuntimeError), use_form("cpu"):
        raise RuntimeError
    assert convolves("tpu") and not convolves("cpu")


def test_unknown_form():
    with pytest.raises(ValueError, match="unknown form 'fast'; use 'auto', 'cpu'"):
        use_form("fast").__enter__()  # pyright: ignore[reportArgumentType]


def test_works_under_vmap():
    x, kernel = normal(3, 2, 5, 5, 4), normal(3, 3, 1, 4, seed=1)
    y = jax.jit(jax.vmap(depthwise_conv, (0, None)))(x, kernel)
    expected = depthwise_conv(jnp.asarray(x.reshape(6, 5, 5, 4)), jnp.asarray(kernel))
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=1e-5)
