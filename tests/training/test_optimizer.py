from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer

RATE = 0.1
PARAMS = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}


def updates_of(config, gradients, steps=1):
    optimizer = create_optimizer(config, lambda step: jnp.float32(RATE))
    state = optimizer.init(PARAMS)
    updates: Any = {}
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, PARAMS)
    return updates, state


def full(value):
    return {name: jnp.full(leaf.shape, value) for name, leaf in PARAMS.items()}


def test_every_tensor_decays_by_default():
    updates, _ = updates_of(OptimizerConfig(weight_decay=0.5), full(0.0))
    for update in updates.values():
        np.testing.assert_allclose(update, -RATE * 0.5 * 3.0, rtol=1e-6)


def test_one_dimensional_tensors_may_be_exempt():
    config = OptimizerConfig(weight_decay=0.5, decay_one_dimensional=False)
    updates, _ = updates_of(config, full(0.0))
    np.testing.assert_allclose(updates["kernel"], -RATE * 0.5 * 3.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_adam_by_hand():
    config = OptimizerConfig(weight_decay=0.01, beta1=0.8, beta2=0.9, eps=1e-3)
    updates, _ = updates_of(config, full(2.0), steps=2)
    # Equal gradients make both moments exact after their correction.
    expected = -RATE * (2.0 / (2.0 + 1e-3) + 0.01 * 3.0)
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(("value", "expected"), [(4.0, 0.5 / 6**0.5), (0.01, 0.01)])
def test_clipping_by_the_global_norm(value, expected):
    """Six equal elements of `value` are scaled to a norm of 0.5 if theirs is larger."""
    config = OptimizerConfig(weight_decay=0.0, clip_norm=0.5)
    _, state = updates_of(config, full(value))
    first_moment = optax.tree.get(state, "mu")
    np.testing.assert_allclose(first_moment["bias"], 0.1 * expected, rtol=1e-5)


class TestSGD:
    """By its definition, which is PyTorch's: v = m v + g + d p; the step is v, or g + d p + m v."""

    @pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
    def test_by_hand(self, momentum, nesterov):
        config = OptimizerConfig("sgd", weight_decay=0.5, momentum=momentum, nesterov=nesterov)
        gradient = 2.0 + 0.5 * 3.0
        velocity = momentum * gradient + gradient
        step = gradient + momentum * velocity if nesterov else velocity
        for update in updates_of(config, full(2.0), steps=2)[0].values():
            np.testing.assert_allclose(update, -RATE * step, rtol=1e-6)

    def test_norms_and_biases_may_be_exempt_from_decay(self):
        config = OptimizerConfig("sgd", weight_decay=0.5, decay_one_dimensional=False)
        updates, _ = updates_of(config, full(0.0))
        np.testing.assert_allclose(updates["kernel"], -RATE * 0.5 * 3.0, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0)

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parity
    def test_five_steps_are_those_of_pytorch(self, nesterov):
        torch = pytest.importorskip("torch")
        start, gradients = np.random.default_rng(0).standard_normal((2, 5, 3, 4), np.float32)
        config = OptimizerConfig("sgd", weight_decay=0.1, momentum=0.8, nesterov=nesterov)
        rates = (0.1, 0.3, 0.2, 0.05, 0.4)
        optimizer = create_optimizer(config, lambda step: jnp.asarray(rates)[step])
        ours: Any = jnp.asarray(start[0])
        state = optimizer.init(ours)
        theirs = torch.nn.Parameter(torch.from_numpy(start[0].copy()))
        sgd = torch.optim.SGD([theirs], 1.0, 0.8, weight_decay=0.1, nesterov=nesterov)
        for rate, gradient in zip(rates, gradients, strict=True):
            updates, state = optimizer.update(jnp.asarray(gradient), state, ours)
            ours = optax.apply_updates(ours, updates)
            sgd.param_groups[0]["lr"], theirs.grad = rate, torch.from_numpy(gradient)
            sgd.step()
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "sgdm"}, r"unknown optimizer.name 'sgdm' \(did you mean 'sgd'\?\)"),
            ({"name": "sgd", "beta1": 0.8}, "optimizer.beta1 is an option of adamw, .* 'sgd'"),
            ({"momentum": 0.8}, "optimizer.momentum is an option of sgd, .* got momentum 0.8"),
            ({"nesterov": True}, "optimizer.nesterov is an option of sgd"),
            ({"name": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\); got 1.0"),
            (
                {"name": "sgd", "momentum": 0.0, "nesterov": True},
                "nesterov must be off without momentum; got True",
            ),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ConfigurationError, match=message):
            create_optimizer(OptimizerConfig(**options), lambda step: jnp.float32(RATE))


PARTS = {
    "backbone": {"conv": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}},
    "conv_1x1_exp": {"kernel": jnp.full((2, 2), -2.0)},
    "classifier": {"kernel": jnp.full((2, 3), 1.5), "bias": jnp.zeros(3)},
}
RNG = np.random.default_rng(0)
GRADIENTS = jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal(p.shape), p.dtype), PARTS)


def first_update(config, **options):
    optimizer = create_optimizer(config, lambda step: jnp.float32(RATE), **options)
    updates, state = optimizer.update(GRADIENTS, optimizer.init(PARTS), PARTS)
    found: Any = updates
    return found, state


def assert_all(check, *trees):
    for leaves in zip(*map(jax.tree.leaves, trees), strict=True):
        check(*leaves)


class TestParts:
    @pytest.mark.parametrize(
        "options", [{}, {"clip_norm": 0.5}, {"decay_one_dimensional": False, "weight_decay": 0.5}]
    )
    def test_factors_on_the_rate_of_backbone_and_head(self, options):
        """Powers of two, so that the updates are exact multiples, decay and clipping included."""
        whole, _ = first_update(OptimizerConfig(**options))
        found, _ = first_update(OptimizerConfig(backbone_lr=0.25, head_lr=2.0, **options))
        for name, factor in {"backbone": 0.25, "conv_1x1_exp": 0.25, "classifier": 2.0}.items():
            scaled = jax.tree.map(lambda update, f=factor: f * update, whole[name])
            assert_all(np.testing.assert_array_equal, found[name], scaled)

    def test_all_behind_the_backbone_is_the_head(self):
        """Whatever the parts of a detector or segmentation model are called."""
        params = {name: PARTS["classifier"] for name in ("backbone", "aspp", "extra_64", "head_0")}
        optimizer = create_optimizer(OptimizerConfig(head_lr=10.0), lambda step: jnp.float32(RATE))
        found: Any = optimizer.update(params, optimizer.init(params), params)[0]
        for name in ("aspp", "extra_64", "head_0"):
            tenfold = jax.tree.map(lambda update: 10 * update, found["backbone"])
            assert_all(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found[name], tenfold
            )

    def test_factors_on_the_rate_of_sgd(self):
        whole, _ = first_update(OptimizerConfig("sgd", nesterov=True))
        found, _ = first_update(OptimizerConfig("sgd", nesterov=True, head_lr=2.0))
        twice = jax.tree.map(lambda update: 2 * update, whole["classifier"])
        assert_all(np.testing.assert_array_equal, found["classifier"], twice)
        assert_all(np.testing.assert_array_equal, found["backbone"], whole["backbone"])

    def test_one_factor_alone(self):
        whole, _ = first_update(OptimizerConfig())
        found, _ = first_update(OptimizerConfig(backbone_lr=0.1))
        assert_all(np.testing.assert_array_equal, found["classifier"], whole["classifier"])
        tenth = jax.tree.map(lambda update: 0.1 * update, whole["backbone"])
        assert_all(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found["backbone"], tenth
        )

    def test_a_frozen_backbone_neither_moves_nor_decays_nor_costs_moments(self):
        config = OptimizerConfig(weight_decay=0.5, head_lr=2.0)
        updates, state = first_update(config, freeze_backbone=True)
        for name in ("backbone", "conv_1x1_exp"):
            assert_all(lambda update: np.testing.assert_array_equal(update, 0), updates[name])
        expected, _ = first_update(config)
        assert_all(np.testing.assert_array_equal, updates["classifier"], expected["classifier"])
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape)
        assert shapes == [(2, 3), (2, 3), (3,), (3,)]

    def test_without_factors_the_state_is_plain_adamws(self):
        """Checkpoints of runs that have none go on."""
        _, state = first_update(OptimizerConfig())
        plain = optax.adamw(lambda step: jnp.float32(RATE)).init(PARTS)
        assert jax.tree.structure(state) == jax.tree.structure(plain)

    def test_a_rate_for_a_frozen_backbone(self):
        with pytest.raises(
            ConfigurationError, match="leave optimizer.backbone_lr at 1 or model.fr"
        ):
            first_update(OptimizerConfig(backbone_lr=0.1), freeze_backbone=True)

    def test_a_rate_of_0(self):
        with pytest.raises(ConfigurationError, match="backbone_lr 0 .*; set model.freeze_backbone"):
            first_update(OptimizerConfig(backbone_lr=0.0))


@pytest.mark.parametrize(
    ("field", "values", "allowed"),
    [
        ("weight_decay", (-0.1, float("nan"), float("inf")), "0 or more"),
        ("beta1", (-0.1, 1.0, float("nan")), r"in \[0, 1\)"),
        ("beta2", (-0.1, 1.0, float("nan")), r"in \[0, 1\)"),
        ("eps", (0.0, -1e-8, float("nan")), "above 0"),
        ("clip_norm", (0.0, -1.0, float("nan")), "above 0, or None"),
        ("accumulation", (0,), "1 or more"),
        ("backbone_lr", (-0.1, float("nan"), float("inf")), "above 0"),
        ("head_lr", (0.0, -0.1, float("nan")), "above 0"),
    ],
)
def test_bad_values(field, values, allowed):
    for value in values:
        message = f"optimizer.{field} must be {allowed}; got {value}"
        with pytest.raises(ConfigurationError, match=message):
            create_optimizer(OptimizerConfig(**{field: value}), lambda step: jnp.float32(RATE))
