"""From the outputs of the network to detections: scores, boxes, non-maximum suppression.

Everything has a fixed shape. Candidates are sorted by score once; blocks of them are then compared
with the boxes kept so far and with each other, until enough are kept or none is left. Within a
block the greedy choice is found as a fixed point: a candidate stays if no better one that stays
overlaps it. Starting from "all stay", each round settles at least the next candidate, usually
nearly all of them. The result is exactly that of going through the candidates one by one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.detection.boxes import area, clip, decode, intersection, to_corners

BLOCK = 256


@dataclass(frozen=True)
class NMSConfig:
    """What counts as a detection; some sets of values have names in `NMS_CONFIGS`.

    Two numbers are bounds that a fixed shape needs. `candidates`: (anchor, class) pairs beyond the
    best so many of an image are never looked at, which matters only if more pass
    `score_threshold` and fewer than `keep_per_image` of the best are kept; what is lost then has
    the lowest scores. `keep_per_image`: where the reference has no such limit (v0.1), the boxes
    with the lowest scores are dropped.

    Attributes:
        score_threshold: A candidate's probability must be above it.
        iou_threshold: A candidate goes if its intersection over union with a better one that is
            kept, of the same class, is above it.
        class_agnostic: Whether it goes whatever the classes.
        top_k_before: Best candidates of each class that take part, or None for all.
        keep_per_class: Detections of each class that are kept, or None for all.
        keep_per_image: Detections that are kept in all: the fixed length of the result.
        candidates: Best candidates over all classes that are looked at.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    class_agnostic: bool = False
    top_k_before: int | None = None
    keep_per_class: int | None = 200
    keep_per_image: int = 400
    candidates: int = 2048

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} must be in [0, 1]; got {getattr(self, name)}")
        for name in ("top_k_before", "keep_per_class", "keep_per_image", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {value}")


NMS_CONFIGS: dict[str, NMSConfig] = {
    # CVNets v0.1's command line; its sum over classes has no limit, ours is 400.
    "v0.1": NMSConfig(),
    # Later CVNets, and what its help text advises for COCO's mAP.
    "later": NMSConfig(
        score_threshold=0.01, top_k_before=400, keep_per_class=None, keep_per_image=200
    ),
    # YOLOX's, which looks at every cell: 33,600 at 1280x1280.
    "yolox": NMSConfig(
        score_threshold=0.01,
        iou_threshold=0.65,
        keep_per_class=None,
        keep_per_image=300,
        candidates=33_600,
    ),
}


class Detections(NamedTuple):
    """Detections of one image, best first, or of a batch with one more axis in front.

    Attributes:
        boxes: float32 [K, 4], corners, inside the image; 0 where not valid.
        scores: float32 [K], probabilities; 0 where not valid.
        labels: int32 [K], classes from 1; 0 where not valid.
        valid: bool [K].
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array


def detect(
    class_logits: jax.Array, offsets: jax.Array, anchors: jax.Array, *, config: NMSConfig
) -> Detections:
    """Turns the outputs for one image into detections; `detect_batch` does so for many.

    Args:
        class_logits: [A, classes], class 0 the background.
        offsets: [A, 4].
        anchors: [A, 4], centres.
        config: Thresholds and limits.

    Returns:
        `config.keep_per_image` rows, sorted by score; of equal scores the lower anchor is first,
        then the lower class. Scores and boxes that are not finite are no candidates. Overlaps are
        those of the boxes before they are clipped to the image, as in CVNets; clipping may leave a
        box without area at the border.
    """
    scores = jax.nn.softmax(class_logits.astype(jnp.float32))[:, 1:]
    boxes = to_corners(decode(offsets.astype(jnp.float32), anchors))
    eligible = (scores > config.score_threshold) & jnp.isfinite(boxes).all(-1, keepdims=True)
    count = min(config.candidates, scores.size)
    best, index = jax.lax.top_k(jnp.where(eligible, scores, 0).ravel(), count)
    anchor, label = jnp.divmod(index, scores.shape[1])
    return keep_best(boxes[anchor], label + 1, best, scores.shape[1], config)


def detect_batch(
    class_logits: jax.Array, offsets: jax.Array, anchors: jax.Array, *, config: NMSConfig
) -> Detections:
    """Returns `detect` of every image: [b, A, classes], [b, A, 4], [A, 4] -> [b, K, ...]."""
    return jax.vmap(lambda logits, offset: detect(logits, offset, anchors, config=config))(
        class_logits, offsets
    )


def keep_best(
    boxes: jax.Array, labels: jax.Array, scores: jax.Array, classes: int, config: NMSConfig
) -> Detections:
    """Suppresses candidates of one image that overlap better ones.

    Args:
        boxes: [n, 4], corners as shares of the image.
        labels: int [n], from 1.
        scores: [n], the highest first; those of 0 take no part.
        classes: Number of classes.
        config: Thresholds and limits.

    Returns:
        `config.keep_per_image` rows, sorted by score.
    """
    candidates = _Candidates(boxes, jnp.where(scores > 0, labels, 0))
    kept = _suppress(candidates, classes + 1, config)
    take = {"mode": "fill", "fill_value": 0}
    return Detections(
        boxes=clip(candidates.boxes.at[kept].get(**take)),
        scores=scores.at[kept].get(**take),
        labels=candidates.labels.at[kept].get(**take).astype(jnp.int32),
        valid=kept < len(scores),
    )


class _Candidates(NamedTuple):
    """Sorted by score; label 0 for those that take no part, which come last."""

    boxes: jax.Array
    labels: jax.Array


class _State(NamedTuple):
    """What one block of candidates leaves to the next.

    `kept` [K] holds indices of candidates, past the last candidate where there is none yet; `seen`
    and `taken` [classes] count the candidates met and the detections kept of each class.
    """

    start: jax.Array
    kept: jax.Array
    total: jax.Array
    seen: jax.Array
    taken: jax.Array


def _suppress(candidates: _Candidates, classes: int, config: NMSConfig) -> jax.Array:
    """Returns the indices of the candidates that stay [K]; the length of the list for none."""
    count = len(candidates.labels)
    block = min(BLOCK, count)
    padding = -count % block
    padded = _Candidates(
        jnp.pad(candidates.boxes, ((0, padding), (0, 0))), jnp.pad(candidates.labels, (0, padding))
    )

    def unfinished(state: _State) -> jax.Array:
        more = padded.labels.at[state.start].get(mode="fill", fill_value=0) > 0
        return more & (state.total < config.keep_per_image)

    def one_block(state: _State) -> _State:
        part = _Candidates(*(jax.lax.dynamic_slice_in_dim(x, state.start, block) for x in padded))
        keep, seen, taken = _keep_of_block(part, padded, state, config)
        place = jnp.where(keep, state.total + jnp.cumsum(keep) - 1, config.keep_per_image)
        index = state.start + jnp.arange(block)
        kept = state.kept.at[place].set(index, mode="drop")
        return _State(state.start + block, kept, state.total + keep.sum(), seen, taken)

    none = jnp.zeros((), jnp.int32)
    empty = jnp.full(config.keep_per_image, count + padding, jnp.int32)
    counts = jnp.zeros(classes, jnp.int32)
    state = jax.lax.while_loop(unfinished, one_block, _State(none, empty, none, counts, counts))
    return jnp.where(state.kept < count, state.kept, count)


def _keep_of_block(
    part: _Candidates, candidates: _Candidates, state: _State, config: NMSConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns which candidates of a block stay [block], and the new counts by class."""
    earlier = _Candidates(*(x.at[state.kept].get(mode="fill", fill_value=0) for x in candidates))
    size = len(part.labels)
    before = jnp.tri(size, k=-1, dtype=bool)
    same = part.labels[:, None] == part.labels[None]

    def limit(flags: jax.Array, counts: jax.Array, most: int | None) -> jax.Array:
        """Drops flagged candidates beyond `most` of their class, earlier blocks included."""
        if most is None:
            return flags
        place = counts[part.labels] + (same & before & flags[None]).sum(1)
        return flags & (place < most)

    active = part.labels > 0
    seen = state.seen.at[part.labels].add(active)
    active = limit(active, state.seen, config.top_k_before)
    active &= ~_clash(part, earlier, config).any(1)
    rivals = _clash(part, part, config) & before
    keep = limit(_settle(active, rivals), state.taken, config.keep_per_class)
    return keep, seen, state.taken.at[part.labels].add(keep)


def _settle(active: jax.Array, rivals: jax.Array) -> jax.Array:
    """Finds who stays when each goes that has a rival who stays.

    Args:
        active: bool [n].
        rivals: bool [n, n], row i true at the better candidates that overlap i.
    """

    def again(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = pair
        return active & ~(rivals & keep[None]).any(1), keep

    keep, _ = jax.lax.while_loop(
        lambda pair: (pair[0] != pair[1]).any(), again, (active, jnp.zeros_like(active))
    )
    return keep


def _clash(a: _Candidates, b: _Candidates, config: NMSConfig) -> jax.Array:
    """Returns which of `a` [n] and `b` [m] rival for one object, bool [n, m]."""
    common = intersection(a.boxes, b.boxes)
    union = area(a.boxes)[:, None] + area(b.boxes)[None] - common
    # Not as a quotient, which two boxes without area do not have.
    overlap = common > config.iou_threshold * union
    return overlap if config.class_agnostic else overlap & (a.labels[:, None] == b.labels[None])
