# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import numpy as np
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.losses import LossConfig, cross_entropy

LOGITS = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32) * 3
LABELS = np.array([0, 6, 3, 3])


def log_probabilities():
    logits = LOGITS.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_spread_over_all_classes(smoothing):
    logs = log_probabilities()
    nll = -logs[np.arange(4), LABELS]
    expected = (1 - smoothing) * nll + smoothing / 7 * (-logs).sum(-1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), expected, rtol=1e-5)


def test_one_loss_an_example():
    assert cross_entropy(LOGITS, LABELS).shape == (4,)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    np.testing.assert_allclose(cross_entropy(logits, np.array([0, 0])), [0, 1e4])


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_bad_smoothing(smoothing):
    with pytest.raises(ConfigurationError, match=r"loss.label_smoothing must be in \[0, 1\)"):
        LossConfig(label_smoothing=smoothing)
