from typing import Any

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


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_decay": -0.1},
        {"accumulation": 0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
    ],
)
def test_bad_values(fields):
    with pytest.raises(ConfigurationError, match="clip_norm above 0"):
        create_optimizer(OptimizerConfig(**fields), lambda step: jnp.float32(RATE))
