"""What detection computes besides the network, and the network beside it, for the benchmark."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kinds import kind_of

IMAGES = 32
# Spread of the logits: a detector's scores are as uneven, so that many candidates pass.
_SPREAD = 3.0
_BOXES = 1  # their place among the outputs


def timed_parts(
    model: Any, config: DetectionConfig, height: int, width: int
) -> dict[str, Callable[[], Any]]:
    """Returns the parts of detection as functions of nothing, compiled at their first call.

    Each works on 32 drawn images of `height` x `width` pixels on one device: the network's forward
    pass; assignment of `config.max_boxes` objects an image to anchors or cells; decoding and
    non-maximum suppression of drawn outputs.

    Returns:
        {name of the part: function that returns what it computed}.
    """
    kind = kind_of(model)
    nms, size = kind.nms(config), (height, width)
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.uniform(keys[0], (IMAGES, height, width, 3))
    variables = jax.jit(model.init)(keys[1], images[:1])
    limit = config.max_boxes
    low, sides = jnp.split(jax.random.uniform(keys[2], (IMAGES, limit, 4)), 2, axis=-1)
    boxes = jnp.concatenate([low, low + sides * (1 - low)], axis=-1)
    labels = jax.random.randint(keys[3], (IMAGES, limit), 1, model.num_classes + 1 - kind.unnamed)
    outputs = _drawn(jax.eval_shape(model.apply, variables, images))

    forward = jax.jit(model.apply)
    assign = jax.jit(lambda *drawn: kind.assign(model, config, size, *drawn))
    detect = jax.jit(lambda drawn: kind.detect(model, drawn, size, nms))
    return {
        f"forward pass of {IMAGES} images": lambda: forward(variables, images),
        f"matching {limit} objects in each of {IMAGES} images": lambda: assign(
            outputs, boxes, labels
        ),
        f"decoding and NMS of {IMAGES} images": lambda: detect(outputs),
    }


def _drawn(shapes: Any) -> Any:
    """Draws outputs: logits as uneven as a detector's, and numbers of boxes near 0."""
    keys = jax.random.split(jax.random.key(1), len(shapes))
    return tuple(
        jax.random.normal(key, one.shape) * (1 if place == _BOXES else _SPREAD)
        for place, (key, one) in enumerate(zip(keys, shapes, strict=True))
    )
