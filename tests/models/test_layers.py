# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.models import create_model
from mobilevit_jax.models.layers import BatchNorm, Conv, ConvBlock, InvertedResidual

AXIS = "devices"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm_variables(channels):
    return {
        "params": {"scale": 1 + normal(channels), "bias": normal(channels, seed=1)},
        "batch_stats": {"mean": normal(channels, seed=2), "var": 1 + normal(channels, seed=3) ** 2},
    }


class TestBatchNorm:
    @pytest.mark.parametrize("train", [False, True])
    def test_equals_flax_where_defined_alike(self, train):
        variables, x = norm_variables(5), normal(3, 4, 6, 5) * 2 + 1
        theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
        expected = theirs.apply(variables, x, mutable=["batch_stats"])
        actual = BatchNorm(unbiased=False).apply(variables, x, train, mutable=["batch_stats"])
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    def test_running_variance_is_unbiased_as_in_pytorch(self):
        variables, x = norm_variables(3), normal(2, 3, 2, 3)
        _, updates = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
        old, new = variables["batch_stats"], updates["batch_stats"]
        flat = x.reshape(-1, 3)
        np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * flat.mean(0), rtol=1e-5)
        expected = 0.9 * old["var"] + 0.1 * flat.var(0, ddof=1)
        np.testing.assert_allclose(new["var"], expected, rtol=1e-5)

    def test_the_batch_is_normalised_by_the_biased_variance(self):
        variables, x = norm_variables(3), normal(2, 3, 2, 3)
        y, _ = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
        params, flat = variables["params"], x.reshape(-1, 3)
        expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
        np.testing.assert_allclose(y, expected * params["scale"] + params["bias"], atol=1e-5)

    def test_running_statistics_stay_in_evaluation_and_initialisation(self):
        x = normal(2, 3, 2, 3)
        _, updates = BatchNorm().apply(norm_variables(3), x, mutable=["batch_stats"])
        np.testing.assert_array_equal(
            updates["batch_stats"]["var"], norm_variables(3)["batch_stats"]["var"]
        )
        fresh = BatchNorm().init(jax.random.key(0), x, True)["batch_stats"]
        np.testing.assert_array_equal(fresh["mean"], np.zeros(3))
        np.testing.assert_array_equal(fresh["var"], np.ones(3))

    def test_synchronised_equals_one_device_with_the_whole_batch(self):
        variables, x = norm_variables(4), normal(8, 3, 3, 4)
        x[:4] += 2  # so that the devices' own statistics would differ

        def on_device(x):
            return BatchNorm(axis_name=AXIS).apply(variables, x, True, mutable=["batch_stats"])

        y, updates = jax.pmap(on_device, axis_name=AXIS)(x.reshape(4, 2, 3, 3, 4))
        whole, expected = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
        np.testing.assert_allclose(y.reshape(x.shape), whole, atol=1e-5)
        for name, value in updates["batch_stats"].items():
            for device in range(4):
                np.testing.assert_allclose(
                    value[device], expected["batch_stats"][name], rtol=1e-5, atol=1e-6
                )

    def test_a_single_value_divides_by_nothing(self):
        x = np.ones((1, 1, 1, 3), np.float32)
        y, updates = BatchNorm().apply(norm_variables(3), x, True, mutable=["batch_stats"])
        old = norm_variables(3)["batch_stats"]["var"]
        np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * old, rtol=1e-6)
        assert np.isfinite(y).all()

    def test_bfloat16_keeps_its_type_and_float32_statistics(self):
        x = jnp.asarray(normal(2, 3, 2, 3), jnp.bfloat16)
        module = BatchNorm(dtype=jnp.bfloat16)
        y, updates = module.apply(norm_variables(3), x, True, mutable=["batch_stats"])
        assert y.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float32")}


class TestConv:
    @pytest.mark.parametrize("size", [(1, 1), (5, 6), (8, 7)])
    @pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 1, 1), (3, 1, 2)])
    def test_sizes_round_up(self, size, kernel, stride, dilation):
        module = Conv(4, kernel, stride, dilation)
        y, _ = jax.eval_shape(
            lambda x: module.init_with_output(jax.random.key(0), x), jnp.zeros((2, *size, 3))
        )
        assert y.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 4)

    def test_padding_is_symmetric_where_same_would_shift(self):
        # Only the middle tap: a stride of 2 keeps pixels 0, 2, ...; 'SAME' would keep 1, 3, ...
        kernel = np.zeros((3, 3, 1, 1), np.float32)
        kernel[1, 1] = 1
        x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        for depthwise in (False, True):
            y = Conv(1, 3, 2, depthwise=depthwise).apply({"params": {"kernel": kernel}}, x)
            np.testing.assert_array_equal(y, x[:, ::2, ::2])

    def test_pointwise_with_bias(self):
        x, kernel, bias = normal(2, 3, 4, 5), normal(1, 1, 5, 6), normal(6)
        y = Conv(6, use_bias=True).apply({"params": {"kernel": kernel, "bias": bias}}, x)
        np.testing.assert_allclose(y, x @ kernel[0, 0] + bias, atol=1e-5)

    def test_pointwise_with_stride(self):
        x, kernel = normal(1, 5, 4, 3), normal(1, 1, 3, 2)
        y = Conv(2, stride=2).apply({"params": {"kernel": kernel}}, x)
        np.testing.assert_allclose(y, x[:, ::2, ::2] @ kernel[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("features", "stride", "expected"), [(4, 1, True), (6, 1, False), (4, 2, False)]
)
def test_the_input_is_added_only_where_shapes_stay(features, stride, expected):
    module, x = InvertedResidual(features, expansion=2, stride=stride), normal(1, 4, 4, 4)
    abstract = jax.eval_shape(module.init, jax.random.key(0), x)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    y = module.apply(zeros, x)
    np.testing.assert_array_equal(y, x if expected else np.zeros(y.shape))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_pending_map_is_finished_by_the_convolution_behind_it(train, kernel_size):
    first = ConvBlock(4)
    second = ConvBlock(4, kernel_size, depthwise=kernel_size == 3)
    x = jnp.asarray(normal(2, 5, 4, 3))
    variables = [
        block.init(jax.random.key(index), y)
        for index, (block, y) in enumerate([(first, x), (second, jnp.zeros((2, 5, 4, 4)))])
    ]

    def outputs(x, method):
        y, _ = first.apply(variables[0], x, train, mutable=["batch_stats"], method=method)
        return second.apply(variables[1], y, train, mutable=["batch_stats"])

    def run(method):
        (z, updates), pull = jax.vjp(lambda x: outputs(x, method), x)
        return z, updates, pull((jnp.cos(z), jax.tree.map(jnp.zeros_like, updates)))

    for a, b in zip(*(jax.tree.leaves(run(how)) for how in ("pending", "__call__")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_block_activates_unless_told_otherwise():
    x = normal(1, 4, 4, 3)
    on, off = ConvBlock(4, 3), ConvBlock(4, 3, act=None)
    variables = on.init(jax.random.key(0), x)
    linear = off.apply(variables, x)
    np.testing.assert_allclose(on.apply(variables, x), nn.silu(linear), atol=1e-6)
    assert linear.min() < -0.5  # SiLU never is
    relu = ConvBlock(4, 3, act=nn.relu).apply(variables, x)
    np.testing.assert_array_equal(relu, np.maximum(linear, 0))


def test_block_hands_the_initialiser_to_its_convolution():
    params = ConvBlock(4, kernel_init=nn.initializers.constant(7)).init(
        jax.random.key(0), normal(1, 4, 4, 3)
    )["params"]
    np.testing.assert_array_equal(params["conv"]["kernel"], 7)


@pytest.mark.slow
def test_initialisation_of_every_tensor():
    """CVNets v0.1: kaiming by fan-out for convolutions, depthwise ones included; normal(0.02)."""
    model = create_model("mobilevit_xxs")
    # Compiled as it is, it would take ten times as long to save a second of running.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 32, 32, 3)))
    kernels = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        kind, value = path[-1].key, np.asarray(leaf)
        if kind in ("bias", "mean"):
            np.testing.assert_array_equal(value, 0)
        elif kind in ("scale", "var"):
            np.testing.assert_array_equal(value, 1)
        else:
            std = 0.02
            if value.ndim == 4:
                height, width, _, features = value.shape
                std = np.sqrt(2 / (height * width * features))
            # The spread of a measured deviation is std / sqrt(2 n); of a mean, std / sqrt(n).
            assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), path
            assert abs(value.mean() / std) < 5 / np.sqrt(value.size), path
            kernels.append(value.ravel()[:4].tobytes())
    assert len(set(kernels)) == len(kernels) > 60  # none drawn twice
