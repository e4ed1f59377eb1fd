"""Loss and metrics of segmentation; needs jax, flax and optax alone."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.training.step import Batch, Objective


@dataclass(frozen=True)
class SegmentationObjective(Objective):
    """Cross-entropy of the labelled pixels, as the steps take it.

    Attributes:
        aux_weight: See `SegmentationConfig`.
        convention: See `SegmentationConfig`.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "pixel_accuracy")

    aux_weight: float = 0.4
    convention: Literal["v0.1", "later"] = "v0.1"

    def normaliser(self, batch: Batch) -> jax.Array:
        """Returns the number of labelled pixels of each image [b]: the loss is a pixel's mean."""
        return jnp.sum(batch["mask"] != VOID, axis=(1, 2), dtype=jnp.float32)

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns sums over pixels: losses [b], and {"loss", "pixel_accuracy"}, each [b].

        Args:
            outputs: Logits [b, h, w, classes], or a pair of them with those of the auxiliary
                classifier, of the same shape.
            batch: "mask" uint8 [b, h, w]; pixels of 255 count nowhere.
        """
        if not isinstance(outputs, tuple):
            metrics = pixel_sums(outputs, batch["mask"])
            return metrics["loss"], metrics
        metrics = pixel_sums(outputs[0], batch["mask"])
        auxiliary = pixel_sums(outputs[1], batch["mask"])["loss"]
        losses = metrics["loss"] + self.aux_weight * auxiliary
        if self.convention == "v0.1":
            losses = 0.5 * losses
        return losses, metrics | {"loss": losses}

    def evaluate(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"loss", "pixel_accuracy"}, sums over the pixels of each image [b]."""
        return pixel_sums(outputs, batch["mask"])


def pixel_sums(logits: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums the cross-entropy and the right answers over the labelled pixels of each image.

    Written as reductions over the classes, so that nothing of the logits' size is kept beside them
    and their gradient. Of equal scores the lower class counts as higher; a pixel with NaN is wrong.

    Args:
        logits: [b, h, w, classes], float32.
        mask: uint8 [b, h, w], 255 for void.

    Returns:
        {"loss", "pixel_accuracy"}, each [b].
    """
    labels = mask.astype(jnp.int32)[..., None]
    classes = jnp.arange(logits.shape[-1]).reshape(1, 1, 1, -1)
    own = jnp.sum(jnp.where(classes == labels, logits, 0), axis=-1)
    total = jax.nn.logsumexp(logits, axis=-1)
    score = own[..., None]
    ahead = (logits > score) | ((logits == score) & (classes < labels))
    labelled = mask != VOID
    right = labelled & ~jnp.any(ahead, axis=-1) & ~jnp.isnan(total)
    return {
        "loss": jnp.sum(jnp.where(labelled, total - own, 0), axis=(1, 2)),
        "pixel_accuracy": jnp.sum(right, axis=(1, 2), dtype=jnp.float32),
    }
