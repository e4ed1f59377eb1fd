"""Loss and metrics of YOLOX, as the training step takes them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.models.points import decode
from mobilevit_jax.tasks.detection.boxes import to_centres
from mobilevit_jax.tasks.detection.yolox.loss import yolox_loss
from mobilevit_jax.tasks.detection.yolox.simota import Assignment, assign
from mobilevit_jax.training.step import Batch, Objective

Outputs = tuple[jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class YoloxObjective(Objective):
    """Loss and metrics.

    Attributes:
        model: The detector; tells the cells of an image size.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "loss",
        "iou_loss",
        "objectness_loss",
        "classification_loss",
        "l1_loss",
    )
    """Each is divided by the number of cells with an object; "l1_loss" is 0 until it is on."""
    weights: ClassVar[tuple[str, ...]] = ("l1",)
    counts_itself: ClassVar[bool] = True

    model: Any

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns a batch with "boxes" [b, N, 4] as (cx, cy, w, h) in pixels."""
        return batch | {"boxes": in_pixels(batch["boxes"], batch["image"].shape[1:3])}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns sums [b] over the cells, and {metric: sums [b]}, "count" among them.

        Args:
            outputs: Class logits [b, A, C], boxes [b, A, 4] and objectness logits [b, A].
            batch: From `prepare`; "l1" [b] is the weight of the distances.
        """
        class_logits, raw, objectness = outputs
        points = self.model.points(*batch["image"].shape[1:3])
        truth, labels = batch["boxes"], batch["labels"]
        assignment = assign_batch(class_logits, raw, objectness, points, truth, labels)
        parts = yolox_loss(class_logits, raw, objectness, points, truth, labels, assignment)
        distance = batch["l1"] * parts.distance
        losses = parts.overlap + parts.objectness + parts.classification + distance
        values = (losses, parts.overlap, parts.objectness, parts.classification, distance)
        return losses, {
            **dict(zip(self.metrics, values, strict=True)),
            "count": parts.foreground,
        }


def assign_batch(
    class_logits: jax.Array,
    raw: jax.Array,
    objectness_logits: jax.Array,
    points: np.ndarray,
    truth: jax.Array,
    labels: jax.Array,
) -> Assignment:
    """Returns `assign` of every image.

    Args:
        class_logits: [b, A, C].
        raw: [b, A, 4], (tx, ty, tw, th).
        objectness_logits: [b, A].
        points: [A, 3].
        truth: [b, N, 4], (cx, cy, w, h) in pixels.
        labels: int [b, N].
    """

    def one(logits, boxes, objectness, truth, labels):
        return assign(logits, boxes, objectness, points, truth, labels)

    return jax.vmap(one)(class_logits, decode(raw, points), objectness_logits, truth, labels)


def in_pixels(corners: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns corners [b, N, 4], shares of images of (height, width), as centres in pixels."""
    return to_centres(corners) * jnp.array([[[size[1], size[0]] * 2]], jnp.float32)
