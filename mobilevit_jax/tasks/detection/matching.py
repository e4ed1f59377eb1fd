"""Which anchor answers for which ground truth (Liu et al. 2016, section 2.2; CVNets v0.1)."""

import jax
import jax.numpy as jnp

from mobilevit_jax.tasks.detection.boxes import encode, iou, to_centres, to_corners, well_formed


def match(
    boxes: jax.Array, labels: jax.Array, anchors: jax.Array, threshold: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Assigns the ground truth of one image to the anchors.

    Every anchor looks at the box that it overlaps most (the first of equals) and takes its label
    if they overlap by `threshold`. Every box besides gets the anchor that overlaps it most (the
    first of equals), however little; an anchor wanted by several goes to the last of them.

    Rows with label 0, not finite, without area or with x2 < x1 or y2 < y1 take no part. Nor is an
    anchor forced on a box that overlaps none, such as one outside the image: there CVNets would
    force the first anchor of the first level.

    Args:
        boxes: float [N, 4], corners, N at least 1.
        labels: int [N], 0 for padding.
        anchors: float [A, 4], centres.
        threshold: Least intersection over union of a match.

    Returns:
        Offsets float32 [A, 4] to the box that each anchor was assigned, also below the threshold;
        0 in an image without boxes. Labels int32 [A], 0 for background.
    """
    usable = (labels > 0) & well_formed(boxes)
    boxes = jnp.where(usable[:, None], boxes, jnp.array([[0.0, 0, 1, 1]], boxes.dtype))
    overlap = jnp.where(usable[:, None], iou(boxes, to_corners(anchors)), -1)
    highest = overlap.max(axis=0)

    rows = jnp.arange(len(boxes))
    wants = jnp.where(overlap.max(axis=1) > 0, rows, -1)
    forced = jnp.full(len(anchors), -1).at[overlap.argmax(axis=1)].max(wants)
    assigned = jnp.where(forced >= 0, forced, overlap.argmax(axis=0))

    positive = (forced >= 0) | (highest >= threshold)
    offsets = encode(to_centres(boxes[assigned]), anchors)
    # In an image without boxes -1 is the highest.
    offsets = jnp.where((highest >= 0)[:, None], offsets, 0)
    return offsets.astype(jnp.float32), jnp.where(positive, labels[assigned], 0).astype(jnp.int32)


def match_batch(
    boxes: jax.Array, labels: jax.Array, anchors: jax.Array, threshold: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Returns `match` of every image: [b, N, 4], [b, N], [A, 4] -> [b, A, 4], [b, A]."""
    return jax.vmap(lambda box, label: match(box, label, anchors, threshold))(boxes, labels)
