"""What detection computes besides the network, and the network beside it, for the benchmark."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.matching import match_batch
from mobilevit_jax.tasks.detection.nms import detect_batch

IMAGES = 32
# Spread of the logits: a detector's scores are as uneven, so that many candidates pass.
_SPREAD = 3.0


def timed_parts(
    model: Any, config: DetectionConfig, height: int, width: int
) -> dict[str, Callable[[], Any]]:
    """Returns the parts of detection as functions of nothing, compiled at their first call.

    Each works on 32 drawn images of `height` x `width` pixels on one device: the network's forward
    pass; matching of `config.max_boxes` objects an image with the anchors; decoding and non-maximum
    suppression of drawn scores and offsets.

    Returns:
        {name of the part: function that returns what it computed}.
    """
    keys = jax.random.split(jax.random.key(0), 6)
    images = jax.random.uniform(keys[0], (IMAGES, height, width, 3))
    variables = jax.jit(model.init)(keys[1], images[:1])
    anchors = jnp.asarray(model.anchors(height, width))
    limit = config.max_boxes
    low, sides = jnp.split(jax.random.uniform(keys[2], (IMAGES, limit, 4)), 2, axis=-1)
    boxes = jnp.concatenate([low, low + sides * (1 - low)], axis=-1)
    labels = jax.random.randint(keys[3], (IMAGES, limit), 1, model.num_classes)
    shape = (IMAGES, len(anchors))
    logits = _SPREAD * jax.random.normal(keys[4], (*shape, model.num_classes))
    offsets = jax.random.normal(keys[5], (*shape, 4))

    match = jax.jit(functools.partial(match_batch, threshold=config.match_threshold))
    detect = jax.jit(functools.partial(detect_batch, config=config.nms()))
    forward = jax.jit(model.apply)
    return {
        f"forward pass of {IMAGES} images": lambda: forward(variables, images),
        f"matching {limit} objects in each of {IMAGES} images": lambda: match(
            boxes, labels, anchors
        ),
        f"decoding and NMS of {IMAGES} images": lambda: detect(logits, offsets, anchors),
    }
