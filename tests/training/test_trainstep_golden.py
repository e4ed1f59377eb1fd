"""Three training steps of the reference implementation, reproduced by ours on four devices.

With synchronised batch norm a batch of four counts as one, however it is split.
"""

import re

import jax
import numpy as np
import optax
import pytest

from mobilevit_jax import convert
from mobilevit_jax.models import create_model
from mobilevit_jax.training import parallel
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import EMAConfig, state_from
from mobilevit_jax.training.step import make_train_step
from tests import reference
from tests.small import Objective

pytestmark = pytest.mark.slow
LEARNING_RATE, STEPS = 1e-3, 3

# Biases whose gradient is zero in theory: what follows them removes a constant. Adam turns its
# rounding noise into steps of the full learning rate, in PyTorch as here.
NOISE = re.compile(
    r"layer_(1\.0|2\.[012])\.block\.red_1x1\.block\.norm\.bias"
    r"|layer_[345]\.1\.global_rep\.\d\.bias"
    r"|.*qkv_proj\.bias"
)


def keep_gradients() -> optax.GradientTransformation:
    """Passes gradients on and keeps the latest in its state."""
    return optax.GradientTransformation(
        lambda params: optax.tree.zeros_like(params),
        lambda updates, state, params=None: (updates, updates),
    )


def create_run(model):
    optimizer = optax.chain(
        keep_gradients(),
        create_optimizer(OptimizerConfig(), lambda step: LEARNING_RATE),  # pyright: ignore
    )
    variables = convert.load_state_dict(model, reference.state_dict("xxs"))
    ema = EMAConfig(decay=0.0)
    state = state_from(variables, optimizer, ema, ("loss",))
    return state, make_train_step(model, optimizer, Objective(), ema, seed=0)


@pytest.fixture(scope="module")
def run():
    """Returns (losses, gradients of step 1 by CVNets name, tensors after the steps)."""
    model = create_model(
        "mobilevit_xxs", dropout=0.0, classifier_dropout=0.0, bn_axis_name=parallel.AXIS
    )
    state, step = create_run(model)
    state, step = parallel.replicate(state), parallel.pmap_train(step)
    batch = {
        "image": reference.images(4, 4, 128, 128),
        "label": np.array([1, 10, 100, 999], np.int32),
        "weight": np.ones(4, np.float32),
    }
    losses, gradients = [], {}
    for number in range(STEPS):
        state, metrics = step(state, parallel.shard(batch))
        losses.append(float(metrics["loss"]))
        if number == 0:
            kept = {"params": state.opt_state[0], "batch_stats": state.batch_stats}
            gradients = convert.to_state_dict(model, jax.device_get(kept), "cvnets")
    return (
        losses,
        gradients,
        convert.to_state_dict(model, jax.device_get(state.variables), "cvnets"),
    )


@pytest.fixture(scope="module")
def expected():
    return reference.golden("trainstep_xxs")


def test_losses(run, expected):
    np.testing.assert_allclose(run[0], expected["losses"], rtol=1e-4)


def test_gradient_norms(run, expected):
    names = [str(name) for name in expected["grad_names"]]
    assert len(names) == 215
    for name, norm in zip(names, expected["grad_norms"], strict=True):
        found = np.linalg.norm(run[1][name].astype(np.float64))
        if norm > 1e-5:
            assert abs(found / norm - 1) < 1e-4, name
        else:
            assert found < 1e-5, name


def test_tensors_after_three_steps(run, expected):
    names = [str(name) for name in expected["param_sum_names"]]
    assert len(names) == 215 + 64
    for name, total in zip(names, expected["param_abs_sum"], strict=True):
        array = run[2][name].astype(np.float64)
        bound = 1e-3 * total
        if NOISE.fullmatch(name):
            bound = STEPS * LEARNING_RATE * array.size
        elif name.endswith("running_mean"):
            bound = 5e-3 * total
        assert abs(np.abs(array).sum() - total) <= bound, name
