import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import NEVER, EMAConfig, create_state, empty_meter, update_ema
from tests.small import LinearNet, SmallNet


def create(ema, model=None, seed=0):
    optimizer = create_optimizer(OptimizerConfig(), lambda step: jnp.float32(1e-3))
    return create_state(model or SmallNet(), optimizer, ema, ("loss", "top1"), seed)


def test_ema_by_hand():
    old, new = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 0.0])}
    moved = update_ema(EMAConfig(decay=0.9), old, new, jnp.int32(0))
    np.testing.assert_allclose(moved["w"], [1.2, 1.8], rtol=1e-6)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (10, 11 / 20), (1000, 0.9)])
def test_ema_with_warmup(step, decay):
    old, new = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
    moved = update_ema(EMAConfig(decay=0.9, warmup=True), old, new, jnp.int32(step))
    np.testing.assert_allclose(moved["w"], decay * 1 + (1 - decay) * 2, rtol=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 4.9988e-4), (1999, 0.632121), (10**6, 1.0)])
def test_ema_with_a_ramp(step, share):
    """The share of the decay that is reached after step + 1 steps, 1 - exp(-n / 2000)."""
    old, new = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
    moved = update_ema(EMAConfig(decay=0.9, ramp_steps=2000), old, new, jnp.int32(step))
    np.testing.assert_allclose(moved["w"], 2 - 0.9 * share, rtol=1e-6)
    with pytest.raises(ConfigurationError, match=r"ema.warmup must be off where ema.ramp_steps"):
        EMAConfig(warmup=True, ramp_steps=2000)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decay(decay):
    with pytest.raises(ConfigurationError, match=r"ema.decay must be in \[0, 1\)"):
        EMAConfig(decay=decay)


def test_state_from_scratch():
    state = create(EMAConfig())
    assert state.step.dtype == jnp.int32 and int(state.step) == 0
    assert state.variables == {"params": state.params, "batch_stats": state.batch_stats}
    for a, b in zip(*map(jax.tree.leaves, (state.ema, state.variables)), strict=True):
        np.testing.assert_array_equal(a, b)
    own = {"count", "gradient_norm", "steps", "skipped_steps", "bad_step"}
    assert set(state.meter) == {"loss", "top1"} | own


def test_the_seed_decides():
    first, again, other = (create(EMAConfig(), seed=seed) for seed in (1, 1, 2))
    kernels = [np.asarray(s.params["conv"]["kernel"]) for s in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1


def test_no_average_and_no_batch_norm():
    state = create(EMAConfig(decay=0.0), LinearNet())
    assert state.ema == {} and state.batch_stats == {}
    assert update_ema(EMAConfig(decay=0.0), state.ema, state.variables, state.step) == {}


def test_empty_meter():
    meter = empty_meter(("loss",))
    assert int(meter.pop("bad_step")) == NEVER
    assert {float(value) for value in meter.values()} == {0.0}
