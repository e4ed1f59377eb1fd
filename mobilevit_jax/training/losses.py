"""Losses, one value an example."""

from dataclasses import dataclass

import jax
import optax

from mobilevit_jax.errors import check_fields


@dataclass(frozen=True)
class LossConfig:
    """The classification loss.

    Attributes:
        label_smoothing: Share of the target's mass spread over all classes, in [0, 1).
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "loss.", label_smoothing=(0 <= self.label_smoothing < 1, "in [0, 1)"))


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy, label smoothing spread over all classes, the target included.

    Args:
        logits: [b, classes], float32.
        labels: [b], integers.
        label_smoothing: Share of the target's mass that is spread evenly (CVNets v0.1:
            0.9 * NLL + 0.1 / K * sum(-log p)).

    Returns:
        [b], natural logarithm.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)
