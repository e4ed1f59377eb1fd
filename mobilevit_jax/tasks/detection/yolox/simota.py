"""SimOTA: which cells answer for which object (Ge et al. 2021, YOLOX, section 2.1).

An object takes the cells near its centre that see it best already: about as many as the boxes of
all cells near some object overlap it in sum, from one to ten, the cheapest by classification and
overlap. Everything has a fixed shape, and no more than the overlaps has one number for each object
and cell: near an object are at most 27 cells.

The reference lets an object have other objects' cells, at a cost of 1e6, where it has too few near
by. That cannot be: an object inside an image of 64 pixels or more has at least twelve.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mobilevit_jax.tasks.detection.boxes import pair_iou

RADIUS = 1.5  # strides from an object's centre to those of its cells
_MOST = 10  # cells of an object
_OVERLAP_COST = 3.0
_LOG_FLOOR = -100.0  # where PyTorch's binary cross-entropy stops, and with it the reference
_GROUP = 64  # cells of which the largest overlap is looked for first


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
    points: np.ndarray,
    truth: jax.Array,
    labels: jax.Array,
) -> Assignment:
    """Assigns the objects of one image to its cells; no gradient passes.

    Candidates are the cells whose centre lies within 1.5 strides of the centre of some object, in
    both directions. A cell that several objects want goes to the cheapest of all near it. Of equal
    costs the first object takes a cell, and an object takes the first cell; an object may end
    without.

    Args:
        class_logits: [A, classes].
        boxes: [A, 4], (cx, cy, w, h) in pixels, as the cells see them.
        objectness_logits: [A].
        points: [A, 3], (column, row, stride) of each cell, level after level, row after row.
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
    cells = _near(points, truth, real)
    near = cells < len(points)
    at = jnp.where(near, cells, 0)
    overlap = pair_iou(truth[:, None], boxes[at])
    cost = _class_cost(class_logits, objectness_logits, labels, at)
    cost -= _OVERLAP_COST * jnp.log(overlap + 1e-8)
    # An output that is not finite is nobody's choice; the loss will tell.
    cost = jnp.where(near & jnp.isfinite(cost), cost, jnp.inf)
    taken = _rank(cost) < _wanted(points, boxes, truth, cells)[:, None]
    index, foreground = _settle(cells, cost, taken & jnp.isfinite(cost), len(points))
    found = pair_iou(truth[index], boxes)
    return Assignment(index, foreground, jnp.where(foreground, found, 0.0))


def _near(points: np.ndarray, truth: jax.Array, real: jax.Array) -> jax.Array:
    """Returns the cells near each object [N, 27], in their order; A where there is none."""
    found, first = [], 0
    for stride in sorted(set(points[:, 2].tolist())):
        level = points[points[:, 2] == stride]
        columns, rows = (int(side) + 1 for side in level[:, :2].max(0))
        centre = truth[:, None, :2] / stride
        reach = jnp.floor(centre) + jnp.array([-1.0, 0, 1])[None, :, None]  # [N, 3, 2]
        inside = (jnp.abs(reach + 0.5 - centre) < RADIUS) & (reach >= 0)
        inside &= reach < jnp.array([[[columns, rows]]], jnp.float32)
        x, y = reach[..., 0].astype(jnp.int32), reach[..., 1].astype(jnp.int32)
        cell = first + y[:, :, None] * columns + x[:, None]
        there = inside[:, :, None, 1] & inside[:, None, :, 0] & real[:, None, None]
        found.append(jnp.where(there, cell, len(points)).reshape(len(truth), -1))
        first += len(level)
    return jnp.concatenate(found, axis=1)


def _class_cost(
    class_logits: jax.Array, objectness: jax.Array, labels: jax.Array, at: jax.Array
) -> jax.Array:
    """Returns the cross-entropy of classes at cells [N, 27] with that of each object, [N, 27].

    Summed over classes, of the roots of the scores, one class at 1: what all of them cost at 0, and
    the difference for the one.
    """
    score = jnp.sqrt(jax.nn.sigmoid(class_logits) * jax.nn.sigmoid(objectness)[:, None])
    absent = -jnp.maximum(jnp.log1p(-score), _LOG_FLOOR)
    present = -jnp.maximum(jnp.log(score), _LOG_FLOOR)
    label = jnp.maximum(labels - 1, 0)[:, None]
    return absent.sum(-1)[at] + (present - absent)[at, label]


def _rank(cost: jax.Array) -> jax.Array:
    """Returns the place of each cost in its row when sorted, [N, 27]; of equal ones in order."""
    before = jnp.tri(cost.shape[1], k=-1, dtype=bool)[None]
    mine, other = cost[:, :, None], cost[:, None]
    return ((other < mine) | ((other == mine) & before)).sum(-1)


def _wanted(points: np.ndarray, boxes: jax.Array, truth: jax.Array, cells: jax.Array) -> jax.Array:
    """Returns how many cells each object takes [N]: the sum of its ten largest overlaps, cut off.

    Of all cells that are near some object. The ten largest of all are among the ten groups with the
    largest ones, so that fewer need sorting.
    """
    count = len(points)
    candidate = jnp.zeros(count, bool).at[cells.ravel()].set(True, mode="drop")
    overlap = jnp.where(candidate[None], pair_iou(truth[:, None], boxes[None]), 0)
    overlap = jnp.where(jnp.isfinite(overlap), overlap, 0)
    grouped = jnp.pad(overlap, ((0, 0), (0, -count % _GROUP))).reshape(len(truth), -1, _GROUP)
    _, places = lax.top_k(grouped.max(-1), min(_MOST, grouped.shape[1]))
    best = jnp.take_along_axis(grouped, places[..., None], axis=1).reshape(len(truth), -1)
    largest, _ = lax.top_k(best, _MOST)
    return jnp.maximum(largest.sum(-1).astype(jnp.int32), 1)


def _settle(
    cells: jax.Array, cost: jax.Array, taken: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Lets each cell settle on one of the objects that take it.

    Args:
        cells: [N, 27], those near each object; `count` for none.
        cost: [N, 27].
        taken: bool [N, 27].
        count: Number of cells.

    Returns:
        The object of each cell, int32 [count], 0 for none; and which have one, bool [count].
    """
    objects = jnp.broadcast_to(jnp.arange(len(cells), dtype=jnp.int32)[:, None], cells.shape)
    none = jnp.int32(len(cells))
    claims = jnp.zeros(count, jnp.int32).at[cells].add(taken.astype(jnp.int32), mode="drop")
    least = jnp.full(count, jnp.inf).at[cells].min(cost, mode="drop")
    is_least = cost == least.at[cells].get(mode="fill", fill_value=-jnp.inf)

    def first(chosen: jax.Array) -> jax.Array:
        return jnp.full(count, none).at[cells].min(jnp.where(chosen, objects, none), mode="drop")

    index = jnp.where(claims > 1, first(is_least), first(taken))
    foreground = claims > 0
    return jnp.where(foreground, index, 0), foreground
