"""From what the cells of a YOLOX say to detections (Ge et al. 2021)."""

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.models.points import decode
from mobilevit_jax.tasks.detection.boxes import to_corners
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig, keep_best


def detect_cells(
    outputs: tuple[jax.Array, ...],
    points: jax.Array,
    size: tuple[int, int],
    *,
    config: NMSConfig,
) -> Detections:
    """Turns the outputs for one image into detections, of the best class of each cell.

    Args:
        outputs: Class logits [A, classes], (tx, ty, tw, th) [A, 4] and objectness logits [A].
        points: [A, 3], (column, row, stride).
        size: (height, width) of the image in pixels.
        config: Thresholds and limits; a score is that of the object times that of the class.

    Returns:
        `config.keep_per_image` rows, sorted by score, boxes as shares of the image; of equal scores
        the lower cell is first. Scores and boxes that are not finite are no candidates.
    """
    class_logits, raw, objectness_logits = outputs
    label = class_logits.argmax(-1)
    score = jax.nn.sigmoid(objectness_logits) * jax.nn.sigmoid(class_logits.max(-1))
    boxes = to_corners(decode(raw, points)) / jnp.array([[size[1], size[0]] * 2], jnp.float32)
    eligible = (score > config.score_threshold) & jnp.isfinite(boxes).all(-1)
    count = min(config.candidates, len(score))
    best, cell = lax.top_k(jnp.where(eligible, score, 0), count)
    return keep_best(boxes[cell], label[cell] + 1, best, class_logits.shape[1], config)
