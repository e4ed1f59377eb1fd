"""The loss of the single-shot detector (Liu et al. 2016, equations 1 to 3) with hard negatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class MultiboxLoss(NamedTuple):
    """Sums over the anchors of each image, to be divided by the positives of the whole batch.

    Attributes:
        classification: [b], cross-entropy of positives and of hard negatives.
        localisation: [b], Smooth-L1 of positives.
        positives: float32 [b], anchors that were matched to an object.
    """

    classification: jax.Array
    localisation: jax.Array
    positives: jax.Array


def multibox_loss(
    class_logits: jax.Array,
    offsets: jax.Array,
    target_labels: jax.Array,
    target_offsets: jax.Array,
    *,
    negative_ratio: int = 3,
) -> MultiboxLoss:
    """Computes both parts of the loss, not yet divided.

    The loss of a batch is (sum of classification + sum of localisation) / positives of the global
    batch. Divide by at least 1: a batch without an object then has loss 0, where CVNets v0.1
    divides by zero (later versions do not). v0.1 moreover counts the positives of each device's
    own share, so that its loss depends on the number of devices.

    Args:
        class_logits: [b, A, classes], class 0 the background.
        offsets: [b, A, 4].
        target_labels: int [b, A], 0 for background.
        target_offsets: [b, A, 4], looked at for positives only.
        negative_ratio: Background anchors kept for each positive of the same image.

    Returns:
        The sums, float32; an image without objects adds nothing.
    """
    logits = class_logits.astype(jnp.float32)
    positive = target_labels > 0
    background = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.zeros_like(target_labels)
    )
    kept = positive | hard_negatives(background, positive, negative_ratio)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target_labels)
    # Before the loss, so that no gradient comes from targets of the background.
    error = jnp.where(positive[..., None], offsets.astype(jnp.float32) - target_offsets, 0)
    return MultiboxLoss(
        classification=jnp.where(kept, losses, 0).sum(-1),
        localisation=optax.huber_loss(error, delta=1.0).sum((-2, -1)),
        positives=positive.sum(-1).astype(jnp.float32),
    )


def hard_negatives(losses: jax.Array, positive: jax.Array, ratio: int) -> jax.Array:
    """Chooses the background anchors that look least like background.

    Args:
        losses: [b, A], cross-entropy of every anchor as background. NaN counts as the highest, so
            that a broken output is not passed over.
        positive: bool [b, A], anchors with an object, never chosen.
        ratio: How many to choose for each positive of the image.

    Returns:
        bool [b, A]. Of equal losses the anchor with the lower index is chosen.
    """
    losses = jax.lax.stop_gradient(losses)
    losses = jnp.where(jnp.isnan(losses), jnp.inf, losses)
    losses = jnp.where(positive, -jnp.inf, losses)
    # The place of each anchor when sorted; both sorts are stable.
    rank = jnp.argsort(jnp.argsort(-losses, axis=-1), axis=-1)
    wanted = ratio * positive.sum(-1, keepdims=True)
    return (rank < wanted) & ~positive
