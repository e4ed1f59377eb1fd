# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.tasks.detection.loss import hard_negatives, multibox_loss

BATCH, ANCHORS, CLASSES = 4, 60, 5


def example(seed=0, positives=(3, 0, 10, 50)):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((BATCH, ANCHORS, CLASSES)).astype(np.float32) * 2
    offsets = rng.standard_normal((BATCH, ANCHORS, 4)).astype(np.float32)
    targets = rng.standard_normal((BATCH, ANCHORS, 4)).astype(np.float32) * 2
    labels = np.zeros((BATCH, ANCHORS), np.int32)
    for row, count in enumerate(positives):
        labels[row, rng.permutation(ANCHORS)[:count]] = rng.integers(1, CLASSES, count)
    return logits, offsets, labels, targets


def one_by_one(logits, offsets, labels, targets, ratio):
    """The loss of one image as loops over anchors, in float64."""
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    negatives = sorted(np.flatnonzero(labels == 0), key=lambda a: log_p[a, 0])
    classification = -sum(log_p[a, 0] for a in negatives[: ratio * int((labels > 0).sum())])
    localisation = 0.0
    for a in np.flatnonzero(labels):
        classification -= log_p[a, labels[a]]
        for error in np.abs(np.float64(offsets[a]) - targets[a]):
            localisation += 0.5 * error**2 if error < 1 else error - 0.5
    return classification, localisation, (labels > 0).sum()


@pytest.mark.parametrize("ratio", [1, 3])
def test_against_loops(ratio):
    arrays = example()
    found = jax.jit(multibox_loss, static_argnames="negative_ratio")(*arrays, negative_ratio=ratio)
    expected = [one_by_one(*rows, ratio) for rows in zip(*arrays, strict=True)]
    np.testing.assert_allclose(np.stack(found, 1), expected, rtol=1e-5)


@jax.jit
def gradients(logits, offsets, labels, targets):
    def total(logits, offsets):
        parts = multibox_loss(logits, offsets, labels, targets)
        return parts.classification.sum() + parts.localisation.sum()

    return jax.grad(total, argnums=(0, 1))(logits, offsets)


def test_without_objects_loss_and_gradients_are_zero():
    logits, offsets, labels, _ = example(positives=(0, 0, 0, 0))
    # What a matcher that takes the logarithm of an empty box's size would give.
    targets = np.full_like(offsets, -np.inf)
    for part in multibox_loss(logits, offsets, labels, targets):
        np.testing.assert_array_equal(part, np.zeros(BATCH))
    for gradient in gradients(logits, offsets, labels, targets):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_targets_of_background_do_not_count():
    logits, offsets, labels, targets = example()
    expected = multibox_loss(logits, offsets, labels, targets)
    targets[labels == 0] = np.nan
    found = multibox_loss(logits, offsets, labels, targets)
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))
    for gradient in gradients(logits, offsets, labels, targets):
        assert np.isfinite(gradient).all()


def test_gradients_reach_positives_and_hard_negatives_only():
    arrays = example()
    for_logits, for_offsets = gradients(*arrays)
    labels = arrays[2]
    positives = (labels > 0).sum(1)
    touched = np.abs(for_logits).sum(-1) > 0
    assert (touched >= (labels > 0)).all()
    np.testing.assert_array_equal(touched.sum(1), np.minimum(4 * positives, ANCHORS))
    np.testing.assert_array_equal(np.abs(for_offsets).sum(-1) > 0, labels > 0)


class TestHardNegatives:
    def test_the_highest_of_each_image(self):
        losses = np.float32([[5, 1, 9, 3, 4, 2], [1, 2, 3, 4, 5, 6]])
        positive = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
        found = hard_negatives(losses, positive, 3)
        np.testing.assert_array_equal(found, [[1, 0, 0, 1, 1, 0], [0] * 6])

    def test_of_equal_losses_the_lower_index(self):
        positive = np.zeros((1, 40), bool)
        positive[0, 0] = True
        found = hard_negatives(np.ones((1, 40), np.float32), positive, 3)
        assert np.flatnonzero(found).tolist() == [1, 2, 3]

    def test_all_where_fewer_are_left(self):
        positive = np.array([[1, 1, 0, 1, 0]], bool)
        found = hard_negatives(np.float32([[9, 8, 0, 7, 1]]), positive, 3)
        np.testing.assert_array_equal(found, ~positive)


def test_broken_output_is_not_passed_over():
    logits, offsets, labels, targets = example()
    logits[0, np.flatnonzero(labels[0] == 0)[0]] = np.nan
    found = np.isnan(multibox_loss(logits, offsets, labels, targets).classification)
    assert found.tolist() == [True, False, False, False]


def test_a_label_past_the_classes_is_not_passed_over():
    logits, offsets, labels, targets = example()
    labels[2, 5] = CLASSES
    assert np.isnan(multibox_loss(logits, offsets, labels, targets).classification[2])


def test_half_precision_outputs_are_summed_in_float32():
    logits, offsets, labels, targets = example()
    logits, offsets = jnp.bfloat16(logits), jnp.bfloat16(offsets)
    found = multibox_loss(logits, offsets, labels, targets)
    expected = multibox_loss(np.float32(logits), np.float32(offsets), labels, targets)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
