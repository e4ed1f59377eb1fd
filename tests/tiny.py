"""A model small enough to compile in seconds, for tests of what is built around a model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.models import MobileViT, Variant, create_model
from mobilevit_jax.training.losses import cross_entropy

TINY = Variant((8, 8, 8, 8, 8, 8), (8, 8, 8), 1, 16, dropout=0.1, depths=(1, 1, 1), heads=2)


def tiny_model(num_classes: int = 6, **options: Any) -> MobileViT:
    """Returns a MobileViT of some 10,000 parameters with every kind of layer."""
    return create_model("mobilevit_xxs", variant=TINY, num_classes=num_classes, **options)


def without_dropout(**options: Any) -> MobileViT:
    """Returns the tiny model without dropout, so that a step is the same on any devices."""
    return tiny_model(dropout=0.0, classifier_dropout=0.0, **options)


class Objective:
    """The least that the steps ask of a task."""

    metrics = ("loss",)

    def loss(
        self, outputs: jax.Array, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Label-smoothed cross-entropy."""
        losses = cross_entropy(outputs, batch["label"], 0.1)
        return losses, {"loss": losses}

    def evaluate(self, outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Cross-entropy, and the sum of the logits to compare with."""
        return {"loss": cross_entropy(outputs, batch["label"]), "sum": jnp.sum(outputs, -1)}


def batch_of(count: int, size: int = 32, *, seed: int = 0, classes: int = 6) -> dict[str, Any]:
    """Returns `count` random images with labels and weights of 1."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((count, size, size, 3), np.float32),
        "label": rng.integers(0, classes, count, np.int32),
        "weight": np.ones(count, np.float32),
    }
