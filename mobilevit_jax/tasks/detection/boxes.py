"""Boxes: two forms, overlap, and their coding relative to anchors.

Corners are (x1, y1, x2, y2), centres are (cx, cy, w, h), both as shares of the image's width and
height. The last axis holds the four numbers; every function takes any leading axes, `iou` one.
"""

import jax
import jax.numpy as jnp

# Liu et al.'s code divides offsets by these, which brings them to about unit variance.
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def to_corners(boxes: jax.Array) -> jax.Array:
    """Returns centres as corners, [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def to_centres(boxes: jax.Array) -> jax.Array:
    """Returns corners as centres, [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) * 0.5, high - low], axis=-1)


def area(boxes: jax.Array) -> jax.Array:
    """Returns the area of corners, [...]; 0 where a corner is on the wrong side of the other."""
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def clip(boxes: jax.Array) -> jax.Array:
    """Returns corners moved into the image, [..., 4]."""
    return jnp.clip(boxes, 0, 1)


def well_formed(boxes: jax.Array) -> jax.Array:
    """Returns which corners are finite and enclose some area, bool [...]."""
    return jnp.isfinite(boxes).all(-1) & (area(boxes) > 0)


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the area that each of `a` [n, 4] shares with each of `b` [m, 4], [n, m]."""

    def along(low: int, high: int) -> jax.Array:
        end = jnp.minimum(a[:, None, high], b[None, :, high])
        return jnp.maximum(end - jnp.maximum(a[:, None, low], b[None, :, low]), 0)

    return along(0, 2) * along(1, 3)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every pair.

    Args:
        a: [n, 4], corners.
        b: [m, 4], corners.

    Returns:
        [n, m]. 1e-5 is added to the union, as CVNets does when it matches, so that no area gives 0
        and the overlap of a small box with itself stays visibly below 1.
    """
    common = intersection(a, b)
    return common / (area(a)[:, None] + area(b)[None] - common + 1e-5)


def pair_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of two centres each, in any unit, [...].

    1e-16 is added to the union, so that two boxes without area do not overlap.
    """
    low = jnp.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = jnp.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    common = jnp.where((low < high).all(-1), (high - low).prod(-1), 0)
    return common / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common + 1e-16)


def encode(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Expresses boxes relative to anchors; the inverse of `decode`.

    Args:
        boxes: [..., 4], centres with positive width and height.
        anchors: [..., 4], centres.

    Returns:
        [..., 4]: distance of the centres in anchor sizes over 0.1, and the logarithm of the ratio
        of sizes over 0.2.
    """
    centre = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:] / CENTRE_VARIANCE
    size = jnp.log(boxes[..., 2:] / anchors[..., 2:]) / SIZE_VARIANCE
    return jnp.concatenate([centre, size], axis=-1)


def decode(offsets: jax.Array, anchors: jax.Array) -> jax.Array:
    """Returns the boxes that offsets from anchors stand for, [..., 4] as centres, not clipped."""
    centre = offsets[..., :2] * CENTRE_VARIANCE * anchors[..., 2:] + anchors[..., :2]
    size = jnp.exp(offsets[..., 2:] * SIZE_VARIANCE) * anchors[..., 2:]
    return jnp.concatenate([centre, size], axis=-1)
