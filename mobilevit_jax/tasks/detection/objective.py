"""Loss and metrics of detection; needs jax, flax and optax alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mobilevit_jax.tasks.detection.loss import multibox_loss
from mobilevit_jax.tasks.detection.matching import match_batch
from mobilevit_jax.training.step import Batch, Objective


@dataclass(frozen=True)
class DetectionObjective(Objective):
    """Loss and metrics, as the steps take them.

    Attributes:
        model: The detector; tells the anchors of an image size.
        match_threshold: See `DetectionConfig`.
        negative_ratio: See `DetectionConfig`.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "classification_loss", "localization_loss")
    """Each is divided by the number of positive anchors."""

    model: Any
    match_threshold: float = 0.5
    negative_ratio: int = 3

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Matches the objects of a batch with the anchors.

        Args:
            batch: "image" [b, h, w, 3], "boxes" [b, N, 4], "labels" [b, N] and others.
            key: Draws nothing.

        Returns:
            The others, "image", "target_offsets" [b, A, 4] and "target_labels" [b, A].
        """
        anchors = jnp.asarray(self.model.anchors(*batch["image"].shape[1:3]))
        offsets, labels = match_batch(
            batch["boxes"], batch["labels"], anchors, self.match_threshold
        )
        others = {name: x for name, x in batch.items() if name not in ("boxes", "labels")}
        return others | {"target_offsets": offsets, "target_labels": labels}

    def normaliser(self, batch: Batch) -> jax.Array:
        """Returns the number of anchors with an object [b]; 0 for an image without one."""
        return jnp.sum(batch["target_labels"] > 0, axis=-1).astype(jnp.float32)

    def loss(
        self, outputs: tuple[jax.Array, jax.Array], batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns sums [b] over the anchors, and {metric: sums [b]}.

        Args:
            outputs: Class logits [b, A, classes] and box offsets [b, A, 4].
            batch: From `prepare`.
        """
        parts = multibox_loss(
            *outputs,
            batch["target_labels"],
            batch["target_offsets"],
            negative_ratio=self.negative_ratio,
        )
        losses = parts.classification + parts.localisation
        values = (losses, parts.classification, parts.localisation)
        return losses, dict(zip(self.metrics, values, strict=True))
