"""What holds of any boxes: overlaps, coding, matching and suppression."""

# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import functools

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.tasks.detection import boxes
from mobilevit_jax.tasks.detection.matching import match
from mobilevit_jax.tasks.detection.nms import NMSConfig, detect

ROWS, ANCHORS = 6, 40
# Also far outside, reversed, without area, and not finite.
NUMBER = st.floats(-2, 3, width=32) | st.sampled_from([0.0, 1.0, 0.5, np.nan, np.inf, -np.inf])
CORNERS = st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), min_size=ROWS, max_size=ROWS)
SHARE = st.floats(0, 1, width=32)
SIZE = st.floats(np.float32(1e-3), 1, width=32)
CENTRES = st.lists(st.tuples(SHARE, SHARE, SIZE, SIZE), min_size=ROWS, max_size=ROWS)
SEED = st.integers(0, 10**6)

IOU, MATCH = jax.jit(boxes.iou), jax.jit(match)
ENCODE, DECODE = jax.jit(boxes.encode), jax.jit(boxes.decode)
AREA, FORMED, CLIP = jax.jit(boxes.area), jax.jit(boxes.well_formed), jax.jit(boxes.clip)
CORNERS_OF = jax.jit(boxes.to_corners)


def anchors_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.random((ANCHORS, 2)), rng.uniform(0.05, 0.8, (ANCHORS, 2))], 1
    ).astype(np.float32)


@given(CENTRES, CENTRES)
def test_overlap_is_symmetric_and_a_share(first, second):
    a, b = (np.asarray(CORNERS_OF(np.asarray(rows, np.float32))) for rows in (first, second))
    found = np.asarray(IOU(a, b))
    np.testing.assert_array_equal(found, np.asarray(IOU(b, a)).T)
    assert (found >= 0).all() and (found < 1).all()


@given(CORNERS)
def test_area_and_form_of_anything(corners):
    corners = np.asarray(corners, np.float32)
    area, formed, clipped = (np.asarray(f(corners)) for f in (AREA, FORMED, CLIP))
    assert not (area < 0).any()
    assert np.isfinite(corners[formed]).all() and (area[formed] > 0).all()
    assert ((clipped[formed] >= 0) & (clipped[formed] <= 1)).all()


@given(CENTRES, CENTRES)
def test_coding_is_undone_at_any_size(found, anchors):
    found, anchors = np.asarray(found, np.float32), np.asarray(anchors, np.float32)
    offsets = np.asarray(ENCODE(found, anchors))
    assert np.isfinite(offsets).all()
    # Offsets are in anchor sizes: what rounding costs grows with them.
    tolerance = 1e-5 * (1 + np.abs(offsets).max())
    np.testing.assert_allclose(DECODE(offsets, anchors), found, rtol=tolerance, atol=1e-5)


@given(CORNERS, st.lists(st.integers(0, 5), min_size=ROWS, max_size=ROWS), SEED)
def test_what_matching_promises(corners, labels, seed):
    corners, labels, anchors = (
        np.asarray(corners, np.float32),
        np.asarray(labels, np.int32),
        anchors_of(seed),
    )
    offsets, found = map(np.asarray, MATCH(corners, labels, anchors))
    assert np.isfinite(offsets).all()
    usable = (labels > 0) & np.asarray(FORMED(corners))
    assert set(found.tolist()) <= {0, *labels[usable].tolist()}
    if not usable.any():
        assert not offsets.any()
        return
    overlap = np.asarray(IOU(corners[usable], np.asarray(CORNERS_OF(anchors))))
    overlap = np.nan_to_num(overlap)
    # Who overlaps a box by the threshold answers for one, and who overlaps none does not.
    assert (found[overlap.max(0) >= 0.5] > 0).all()
    assert (found[overlap.max(0) <= 0] == 0).all()
    # Every box has its best anchor, unless a later box took it.
    best = overlap.argmax(1)
    for row in np.flatnonzero(overlap.max(1) > 0):
        rivals = [other for other in range(row + 1, len(best)) if best[other] == best[row]]
        rivals = [other for other in rivals if overlap[other].max() > 0]
        taker = rivals[-1] if rivals else row
        assert found[best[row]] == labels[usable][taker]


@functools.partial(jax.jit, static_argnames="config")
def suppress(logits, offsets, anchors, config):
    return detect(logits, offsets, anchors, config=config)


@given(SEED, st.floats(0.1, 30), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0]))
def test_what_suppression_promises(seed, sharpness, oddity):
    rng = np.random.default_rng(seed)
    logits = (sharpness * rng.standard_normal((ANCHORS, 4))).astype(np.float32)
    offsets = rng.standard_normal((ANCHORS, 4)).astype(np.float32)
    logits[0, 1], offsets[1, 2] = oddity, oddity
    config = NMSConfig(score_threshold=0.1, iou_threshold=0.3, keep_per_image=30)
    found = [np.asarray(x) for x in suppress(logits, offsets, anchors_of(seed), config)]
    corners, scores, labels, valid = found
    count = int(valid.sum())
    assert valid[:count].all() and not any(part[count:].any() for part in found)
    assert np.isfinite(corners).all() and ((corners >= 0) & (corners <= 1)).all()
    assert (scores[:count] > 0.1).all() and (np.diff(scores[:count]) <= 0).all()
    assert set(labels[:count].tolist()) <= {1, 2, 3}
    pairs = set(zip(labels[:count].tolist(), map(bytes, corners[:count]), strict=True))
    areas = np.asarray(AREA(corners))[:count]
    assert len(pairs) == count or (areas == 0).any()  # two of one class never lie on one another
