"""SimOTA: which cells answer for which object (Ge et al. 2021, YOLOX, section 2.1).

An object takes the cells that see it best already: about as many as their boxes overlap it in sum,
from one to ten, the cheapest by classification and overlap. Everything has a fixed shape, and the
memory is that of a few arrays of objects x cells for each image; classes multiply neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.tasks.detection.boxes import pair_iou

RADIUS = 1.5  # strides from an object's centre to those of its cells
_MOST = 10  # cells of an object
_OVERLAP_COST = 3.0
_OUTSIDE_COST = 1e6
_LOG_FLOOR = -100.0  # where PyTorch's binary cross-entropy stops, and with it the reference


class Assignment(NamedTuple):
    """The object of each cell of an image; of a batch with one more axis in front.

    Attributes:
        index: int32 [A], row of the object; 0 where there is none.
        foreground: bool [A], which cells have one.
        overlap: float32 [A], intersection over union of the cell's box with its object; else 0.
    """

    index: jax.Array
    foreground: jax.Array
    overlap: jax.Array


def assign(
    class_logits: jax.Array,
    boxes: jax.Array,
    objectness_logits: jax.Array,
    points: jax.Array,
    truth: jax.Array,
    labels: jax.Array,
) -> Assignment:
    """Assigns the objects of one image to its cells; no gradient passes.

    Candidates are the cells whose centre lies within 1.5 strides of the centre of some object, in
    both directions. A cell that several objects want goes to the cheapest of all. Of equal costs
    the first object takes a cell, and an object takes the first cell; an object may end without.

    Args:
        class_logits: [A, classes].
        boxes: [A, 4], (cx, cy, w, h) in pixels, as the cells see them.
        objectness_logits: [A].
        points: [A, 3], (column, row, stride) of each cell.
        truth: [N, 4], (cx, cy, w, h) in pixels, N at least 1.
        labels: int [N], classes from 1; 0 for padding. Rows that are not finite or have no area
            take no part either.

    Returns:
        The assignment.
    """
    arrays = (class_logits, boxes, objectness_logits, truth)
    class_logits, boxes, objectness_logits, truth = lax.stop_gradient(
        tuple(x.astype(jnp.float32) for x in arrays)
    )
    real = (labels > 0) & jnp.isfinite(truth).all(-1) & (truth[:, 2:] > 0).all(-1)
    truth = jnp.where(real[:, None], truth, 1.0)
    near = _near(points, truth) & real[:, None]
    candidates = near.any(0, keepdims=True)
    overlap = jnp.where(candidates, pair_iou(truth[:, None], boxes[None]), 0)
    cost = (
        _class_cost(class_logits, objectness_logits, labels)
        - _OVERLAP_COST * jnp.log(overlap + 1e-8)
        + jnp.where(near, 0, _OUTSIDE_COST)
    )
    # An output that is not finite is nobody's choice; the loss will tell.
    allowed = candidates & real[:, None] & jnp.isfinite(cost)
    cost = jnp.where(allowed, cost, jnp.inf)
    return _cheapest(cost, allowed, overlap)


def _near(points: jax.Array, truth: jax.Array) -> jax.Array:
    """Returns which cells [A, 3] have their centre near that of which objects [N, 4], [N, A]."""
    stride = points[None, :, 2:]
    distance = jnp.abs((points[None, :, :2] + 0.5) * stride - truth[:, None, :2])
    return (distance < RADIUS * stride).all(-1)


def _class_cost(class_logits: jax.Array, objectness: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of the cells' classes with those of the objects [N, A].

    Summed over classes, of the roots of the scores, one class at 1: what all of them cost at 0, and
    the difference for the one.
    """
    objectness = jax.nn.sigmoid(objectness)[:, None]
    score = jnp.sqrt(jax.nn.sigmoid(class_logits) * objectness)
    absent = -jnp.maximum(jnp.log1p(-score), _LOG_FLOOR)
    present = -jnp.maximum(jnp.log(score), _LOG_FLOOR)
    return absent.sum(-1)[None] + (present - absent).T[jnp.maximum(labels - 1, 0)]


def _cheapest(cost: jax.Array, allowed: jax.Array, overlap: jax.Array) -> Assignment:
    """Lets each object [N, A] take its cells, and each cell settle on one of those."""
    most = min(_MOST, cost.shape[1])
    largest, _ = lax.top_k(jnp.where(allowed, overlap, 0), most)
    wanted = jnp.maximum(largest.sum(-1).astype(jnp.int32), 1)
    _, places = lax.top_k(-cost, most)
    cells = jnp.arange(cost.shape[1])[None]
    taken = jnp.zeros(cost.shape, bool)
    for rank in range(most):
        taken |= (places[:, rank, None] == cells) & (rank < wanted[:, None])
    taken &= allowed
    claims = taken.sum(0)
    index = jnp.where(claims > 1, cost.argmin(0), taken.argmax(0)).astype(jnp.int32)
    foreground = claims > 0
    found = jnp.take_along_axis(overlap, index[None], axis=0)[0]
    return Assignment(
        jnp.where(foreground, index, 0), foreground, jnp.where(foreground, found, 0.0)
    )
