"""The loss of YOLOX (Ge et al. 2021, section 2): overlap, objectness, classes, distances."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mobilevit_jax.models.points import decode, encode
from mobilevit_jax.tasks.detection.boxes import pair_iou
from mobilevit_jax.tasks.detection.yolox.simota import Assignment

OVERLAP_WEIGHT = 5.0


class YoloxLoss(NamedTuple):
    """Sums over the cells of each image, to be divided by the foreground of the whole batch.

    Attributes:
        overlap: [b], 5 (1 - IoU^2) of cells with an object.
        objectness: [b], cross-entropy of all cells.
        classification: [b], cross-entropy of cells with an object; the target of its class is the
            overlap.
        distance: [b], distances of what the network says of a box from what it should say, L1.
        foreground: [b], cells with an object.
    """

    overlap: jax.Array
    objectness: jax.Array
    classification: jax.Array
    distance: jax.Array
    foreground: jax.Array


def yolox_loss(
    class_logits: jax.Array,
    raw: jax.Array,
    objectness_logits: jax.Array,
    points: np.ndarray,
    truth: jax.Array,
    labels: jax.Array,
    assignment: Assignment,
) -> YoloxLoss:
    """Computes the parts of the loss, not yet divided.

    Args:
        class_logits: [b, A, classes].
        raw: [b, A, 4], (tx, ty, tw, th), what the network says.
        objectness_logits: [b, A].
        points: [A, 3], (column, row, stride).
        truth: [b, N, 4], (cx, cy, w, h) in pixels.
        labels: int [b, N], classes from 1, 0 for padding.
        assignment: Of the objects.

    Returns:
        The sums, float32.
    """
    foreground = assignment.foreground
    target = jnp.take_along_axis(truth, assignment.index[..., None], axis=1)
    label = jnp.take_along_axis(labels, assignment.index, axis=1)
    # Before it is decoded: 0 times the gradient of an overflow would be no number.
    raw = jnp.where(foreground[..., None], raw, 0)
    target = jnp.where(foreground[..., None], target, 1)
    overlap = OVERLAP_WEIGHT * (1 - pair_iou(decode(raw, points), target) ** 2)
    objectness = optax.sigmoid_binary_cross_entropy(
        objectness_logits, foreground.astype(jnp.float32)
    )
    # A sum that fuses with the other one; the gradient of a gather would be scattered.
    is_own = label[..., None] - 1 == jnp.arange(class_logits.shape[-1])[None, None]
    own = jnp.where(is_own, class_logits, 0).sum(-1)
    classes = jax.nn.softplus(class_logits).sum(-1) - assignment.overlap * own
    distance = jnp.abs(raw - encode(target, points)).sum(-1)

    def summed(values: jax.Array) -> jax.Array:
        return jnp.where(foreground, values, 0).sum(-1)

    return YoloxLoss(
        summed(overlap),
        objectness.sum(-1),
        summed(classes),
        summed(distance),
        foreground.sum(-1).astype(jnp.float32),
    )
