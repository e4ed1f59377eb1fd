import math

import jax
import numpy as np
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.schedule import ScheduleConfig, warmup_cosine

# CVNets v0.1 with the paper's recipe: 300 epochs, here of 1000 steps.
EPOCH = 1000
PAPER = warmup_cosine(ScheduleConfig(), [EPOCH] * 300)


def rounded(step):
    return round(float(PAPER(step)), 8)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0002), (1, 0.0002006), (1500, 0.0011), (2999, 0.0019994)]
)
def test_warmup_by_step(step, rate):
    assert rounded(step) == rate


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (3, 0.00199956),
        (4, 0.00199921),
        (50, 0.00187942),
        (100, 0.00155),
        (150, 0.0011),
        (200, 0.00065),
        (250, 0.00032058),
        (298, 0.0002002),
        (299, 0.00020005),
    ],
)
def test_cosine_is_constant_inside_an_epoch(epoch, rate):
    first = epoch * EPOCH
    assert rounded(first) == rounded(first + EPOCH // 2) == rounded(first + EPOCH - 1) == rate


def test_epochs_of_different_length():
    rate = warmup_cosine(ScheduleConfig(warmup_steps=0), [3, 1, 2])
    epochs = [0, 0, 0, 1, 2, 2]
    expected = [2e-4 + 9e-4 * (1 + math.cos(math.pi * epoch / 3)) for epoch in epochs]
    np.testing.assert_allclose([rate(step) for step in range(6)], expected, rtol=1e-5)


def test_cosine_by_step():
    config = ScheduleConfig(peak=1e-2, start=0, end=1e-3, warmup_steps=2, cosine_by="step")
    rate = warmup_cosine(config, [3, 5])
    expected = [0, 5e-3]
    expected += [1e-3 + 4.5e-3 * (1 + math.cos(math.pi * step / 8)) for step in range(2, 9)]
    np.testing.assert_allclose([rate(step) for step in range(9)], expected, rtol=1e-5, atol=1e-9)


def test_compiled_as_in_the_step():
    steps = np.array([0, 2999, 3000, 3999, 4000, 299_999])
    compiled = jax.jit(jax.vmap(PAPER))(steps)
    np.testing.assert_allclose(compiled, [PAPER(int(step)) for step in steps], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peak": 0.0}, "the peak above 0"),
        ({"end": -1e-4}, "must not be negative"),
        ({"start": -1e-4}, "must not be negative"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more; got -1"),
        ({"cosine_by": "epochs"}, "cosine_by must be 'epoch' or 'step'; got 'epochs'"),
    ],
)
def test_bad_values(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        warmup_cosine(ScheduleConfig(**fields), [10])


def test_a_run_without_a_step():
    with pytest.raises(ConfigurationError, match="the run has no step"):
        warmup_cosine(ScheduleConfig(), [])


def test_a_quadratic_warm_up_and_a_rate_that_stays():
    config = ScheduleConfig(
        peak=1.0,
        start=0.0,
        end=0.05,
        warmup_steps=10,
        warmup_power=2,
        hold_epochs=2,
        cosine_by="step",
    )
    rate = warmup_cosine(config, [20] * 10)
    assert [round(float(rate(step)), 4) for step in (0, 1, 5, 9)] == [0, 0.01, 0.25, 0.81]
    # Half of the fall is over after half of the eight epochs before the last two.
    assert float(rate(80)) == pytest.approx(0.525) and float(rate(159)) > 0.05
    assert [float(rate(step)) for step in (160, 180, 199)] == pytest.approx([0.05] * 3)
    by_epoch = warmup_cosine(ScheduleConfig(hold_epochs=2), [1000] * 10)
    assert float(by_epoch(8000)) == float(by_epoch(9999)) == pytest.approx(2e-4)
    assert float(by_epoch(7999)) > 2.1e-4


@pytest.mark.parametrize("options", [{"warmup_power": 0}, {"hold_epochs": -1}, {"hold_epochs": 10}])
def test_powers_and_epochs_that_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        warmup_cosine(ScheduleConfig(**options), [10] * 10)
