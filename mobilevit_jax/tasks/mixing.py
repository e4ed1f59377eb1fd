"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): pairs of training images, as CVNets v0.2.

Pure functions, computed inside the training step. Each device draws once a step for all its images:
which of the two (if both are on), whether at all, and how much. A pair is an image and the one
before it in the batch.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.step import Batch, to_float


def mix_pairs(
    batch: Batch, key: jax.Array, config: AugmentConfig, processor: ImageProcessor | None = None
) -> Batch:
    """Mixes each image of a batch with another one by chance.

    Args:
        batch: "image" [b, h, w, 3], "label" [b], "weight" [b]; rows of weight 0 are mixed into no
            other.
        key: The source of the draws.
        config: The fields of Mixup and CutMix; at least one is on.
        processor: Has the mean and standard deviation of uint8 images.

    Returns:
        The batch, "image" float32 as the model takes it; "other_label" [b], of the images that were
        mixed in; and "share" [b], the weight of "label": the share of the pixels, or of each pixel,
        that is the image's own.
    """
    images = to_float(batch["image"], processor)
    other = _partners(batch["weight"])
    own, share = _draw_shares(key, images.shape[1], images.shape[2], config)
    mask = own[None, :, :, None]
    return batch | {
        "image": images * mask + images[other] * (1 - mask),
        "other_label": batch["label"][other],
        "share": jnp.full_like(batch["weight"], share),
    }


def _partners(weight: jax.Array) -> jax.Array:
    """Returns the row of weight above 0 before each row, for the first one the last, [b]."""
    rows = jnp.where(weight > 0, jnp.arange(len(weight)), -1)
    latest = lax.cummax(rows)
    before = jnp.concatenate([jnp.full(1, -1), latest[:-1]])
    return jnp.where(before < 0, latest[-1], before)


def _draw_shares(
    key: jax.Array, height: int, width: int, config: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    """Draws the share of an image in its own pixels [h, w], and its mean."""
    which, whether, how_much, where = jax.random.split(key, 4)
    both = config.mixup_alpha and config.cutmix_alpha
    cut = jax.random.bernoulli(which) if both else jnp.asarray(config.cutmix_alpha > 0)
    alpha = jnp.where(cut, config.cutmix_alpha, config.mixup_alpha)
    mixed = jax.random.uniform(whether) < jnp.where(
        cut, config.cutmix_probability, config.mixup_probability
    )
    share = jax.random.beta(how_much, alpha, alpha)
    outside, left = _outside_of_box(where, share, height, width)
    own = jnp.where(cut, outside, share)
    return jnp.where(mixed, own, 1.0), jnp.where(mixed, jnp.where(cut, left, share), 1.0)


def _outside_of_box(
    key: jax.Array, share: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the middle of a box; what lies beyond the image's edges is lost.

    Args:
        key: The source of the draws.
        share: Of the area, what a box that loses nothing leaves.
        height: Of the image.
        width: Of the image.

    Returns:
        1.0 outside of the box and 0.0 inside [h, w], and the share of the area outside.
    """
    half = 0.5 * jnp.sqrt(1 - share)
    spans = []
    for size, axis_key in zip((height, width), jax.random.split(key), strict=True):
        middle = jax.random.randint(axis_key, (), 0, size)
        reach = jnp.floor(half * size).astype(jnp.int32)
        pixels = jnp.arange(size)
        spans.append((middle - reach <= pixels) & (pixels < middle + reach))
    inside = spans[0][:, None] & spans[1][None]
    area = jnp.sum(spans[0]) * jnp.sum(spans[1])
    return jnp.float32(~inside), 1 - area / (height * width)
