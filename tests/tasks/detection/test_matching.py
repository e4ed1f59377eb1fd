# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from mobilevit_jax.models.anchors import AnchorConfig, anchors
from mobilevit_jax.tasks.detection.boxes import decode, iou, to_corners
from mobilevit_jax.tasks.detection.matching import match, match_batch
from tests.reference import golden

ANCHORS = anchors([(6, 6), (3, 3)], AnchorConfig(0.15, 0.9, ((2,), (2, 3))))
ROWS = 8
MATCH = jax.jit(match)
DECODE = jax.jit(lambda offsets, anchors: to_corners(decode(offsets, anchors)))
OVERLAP = jax.jit(lambda boxes: iou(boxes, to_corners(ANCHORS)))


def pad(boxes, labels):
    rows, names = np.zeros((ROWS, 4), np.float32), np.zeros(ROWS, np.int32)
    rows[: len(boxes)] = np.array(boxes, np.float32).reshape(-1, 4)
    names[: len(labels)] = labels
    return rows, names


def run(boxes, labels, threshold=0.5):
    offsets, found = MATCH(*pad(boxes, labels), ANCHORS, threshold)
    assert offsets.dtype == np.float32 and found.dtype == np.int32
    return np.asarray(offsets), np.asarray(found)


def one_by_one(boxes, labels, anchors, threshold=0.5):
    """The rules as loops; returns the box and the label of each anchor."""
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    sides = np.minimum(boxes[:, None, 2:], high) - np.maximum(boxes[:, None, :2], low)
    common = np.maximum(sides, 0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None] + (high - low).prod(-1)
    overlap = common / (areas - common + np.float32(1e-5))
    assigned, found = [], []
    for anchor in range(len(anchors)):
        best = int(np.argmax(overlap[:, anchor]))
        label = labels[best] if overlap[best, anchor] >= threshold else 0
        for number in range(len(boxes)):
            if int(np.argmax(overlap[number])) == anchor:
                best, label = number, labels[number]
        assigned.append(best)
        found.append(label)
    return boxes[assigned], found


def random_truth(seed, count):
    rng = np.random.default_rng(seed)
    low, size = rng.random((count, 2)) * 0.8, 0.05 + 0.6 * rng.random((count, 2))
    return np.concatenate([low, low + size], -1).astype(np.float32), rng.integers(1, 80, count)


def test_golden():
    reference = golden("ssd_s_320")
    offsets, labels = MATCH(
        reference["gt_corners"], reference["gt_labels"].astype(np.int32), reference["anchors"]
    )
    np.testing.assert_array_equal(labels, reference["matched_labels"])
    np.testing.assert_allclose(offsets, reference["matched_offsets"], rtol=1e-5, atol=1e-5)


@hypothesis.given(st.integers(0, 10**6), st.integers(1, ROWS))
@hypothesis.settings(deadline=None, max_examples=50)
def test_against_the_rules_as_loops(seed, count):
    # Whole pixels of a picture of 16x16: areas are exact, and equal overlaps abound.
    rng = np.random.default_rng(seed)
    shape, anchors = rng.integers(1, 5, (150, 2)), rng.integers(0, 8, (150, 2))
    anchors = np.float32(np.concatenate([anchors + shape, 2 * shape], -1)) / 16
    low = rng.integers(0, 10, (count, 2))
    boxes = np.float32(np.concatenate([low, low + rng.integers(1, 7, (count, 2))], -1)) / 16
    labels = rng.integers(1, 80, count)

    offsets, found = MATCH(*pad(boxes, labels), anchors)
    expected_boxes, expected_labels = one_by_one(boxes, labels, anchors)
    np.testing.assert_array_equal(found, expected_labels)
    np.testing.assert_allclose(DECODE(offsets, anchors), expected_boxes, atol=1e-4)


def test_a_box_too_small_for_any_anchor_gets_its_best():
    boxes, labels = [[0.3, 0.3, 0.31, 0.31]], [7]
    best = np.asarray(OVERLAP(pad(boxes, labels)[0]))[0]
    assert best.max() < 0.1
    _, found = run(boxes, labels)
    assert found[best.argmax()] == 7 and (found > 0).sum() == 1


def test_of_two_boxes_that_want_an_anchor_the_later_gets_it():
    box = [0.3, 0.3, 0.31, 0.31]
    assert set(run([box, box], [7, 9])[1]) == {0, 9}
    assert set(run([box, box], [9, 7])[1]) == {0, 7}


def test_without_force_the_first_of_equal_boxes_counts():
    # Large enough that several anchors pass the threshold; only one of them is forced.
    box = [0.1, 0.1, 0.8, 0.8]
    found = run([box, box], [7, 9])[1]
    assert (found == 9).sum() == 1 and (found == 7).sum() >= 1


def test_threshold():
    counts = [(run([[0.1, 0.1, 0.8, 0.8]], [3], t)[1] > 0).sum() for t in (0.3, 0.5, 0.99)]
    assert counts[0] > counts[1] > counts[2] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        [0.5, 0.2, 0.3, 0.6],
        [0.5, 0.6, 0.3, 0.2],
        [0.3, 0.3, 0.3, 0.6],
        [0.4, 0.4, 0.4, 0.4],
        [np.nan, 0.2, 0.3, 0.6],
        [0, 0, np.inf, 1],
        [1.2, 1.2, 1.6, 1.5],
    ],
    ids=["x2<x1", "both-reversed", "no-width", "point", "nan", "infinite", "outside"],
)
class TestFaults:
    def test_alone_matches_nothing(self, wrong):
        offsets, found = run([wrong], [5])
        assert not found.any()
        assert np.isfinite(offsets).all()

    def test_leaves_others_as_they_are(self, wrong):
        boxes, labels = random_truth(3, 3)
        expected = run(boxes, labels)
        for place in (0, 2, 3):
            found = run(np.insert(boxes, place, wrong, axis=0), np.insert(labels, place, 5))
            np.testing.assert_array_equal(found[1], expected[1])
            positive = expected[1] > 0
            np.testing.assert_array_equal(found[0][positive], expected[0][positive])


def test_image_without_boxes_is_background():
    offsets, found = run([], [])
    assert not offsets.any() and not found.any()


def test_padding_anywhere_and_whatever_it_holds():
    boxes, labels = random_truth(4, 3)
    expected = run(boxes, labels)
    junk = np.insert(boxes, 1, [[0.1, 0.1, 0.8, 0.8], [np.nan] * 4], axis=0)
    found = run(junk, np.insert(labels, 1, [0, 0]))
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


def test_batch_is_image_by_image():
    images = [random_truth(seed, count) for seed, count in enumerate((8, 1, 0, 5))]
    boxes, labels = (np.stack(rows) for rows in zip(*(pad(*i) for i in images), strict=True))
    offsets, found = jax.jit(match_batch)(boxes, labels, ANCHORS)
    for row, image in enumerate(images):
        expected = run(*image)
        np.testing.assert_allclose(offsets[row], expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found[row], expected[1])
