"""What a YOLOX says of boxes, relative to the places where it looks, and back (Ge et al. 2021).

A place is (column, row, stride), counted in places of its level from 0; a box is (cx, cy, w, h) in
pixels. The last axis holds them, every function takes any axes in front.
"""

import jax
import jax.numpy as jnp
import numpy as np


def decode(raw: jax.Array, points: jax.Array | np.ndarray) -> jax.Array:
    """Turns what the model says of boxes into pixels.

    Args:
        raw: [..., A, 4] as (tx, ty, tw, th): from the upper left corner of the place to the box's
            centre in strides, and the logarithm of the sides in strides.
        points: [A, 3], from the model's `points(height, width)`.

    Returns:
        Boxes [..., A, 4], float32, whatever type `raw` has.
    """
    raw = raw.astype(jnp.float32)
    points = _to_all(points, raw)
    centres, sides = raw[..., :2] + points[..., :2], jnp.exp(raw[..., 2:])
    return jnp.concatenate([centres, sides], axis=-1) * points[..., 2:]


def encode(boxes: jax.Array, points: jax.Array | np.ndarray) -> jax.Array:
    """Returns what the model should say of boxes [..., A, 4]; the inverse of `decode`."""
    points = _to_all(points, boxes)
    centres = boxes[..., :2] / points[..., 2:] - points[..., :2]
    sides = jnp.log(boxes[..., 2:] / points[..., 2:] + 1e-8)
    return jnp.concatenate([centres, sides], axis=-1)


def _to_all(points: jax.Array | np.ndarray, boxes: jax.Array) -> jax.Array:
    points = jnp.asarray(points, jnp.float32)
    return jnp.broadcast_to(points, (*boxes.shape[:-1], 3))
