"""SimOTA, the loss and the detections of YOLOX, against outputs of the reference."""

# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.models.points import decode, encode
from mobilevit_jax.tasks.detection.boxes import pair_iou, to_corners
from mobilevit_jax.tasks.detection.nms import NMS_CONFIGS, keep_best
from mobilevit_jax.tasks.detection.yolox.detect import detect_cells
from mobilevit_jax.tasks.detection.yolox.objective import YoloxObjective, assign_batch
from tests import reference
from tests.tasks.detection.stand_ins import SmallYolox

SIZE = 128


POINTS = SmallYolox().points(SIZE, SIZE)


OBJECTIVE = YoloxObjective(SmallYolox())
DETECT = jax.jit(
    functools.partial(detect_cells, config=NMS_CONFIGS["yolox"]), static_argnames="size"
)


def batch_of(labels, truth, l1=1.0):
    """A batch of centres in pixels, as shares of the image."""
    corners = np.asarray(to_corners(truth)) / SIZE
    rows = len(labels)
    return {
        "image": np.zeros((rows, SIZE, SIZE, 3), np.uint8),
        "boxes": corners.astype(np.float32),
        "labels": labels.astype(np.int32),
        "weight": np.ones(rows, np.float32),
        "l1": np.full(rows, l1, np.float32),
    }


def golden_batch(l1=1.0):
    """The reference's objects: rows of zeros are padding, and classes count from 0 there."""
    rows = reference.golden("yolox_simota")["labels"]
    labels = np.where(rows[..., 3] > 0, rows[..., 0] + 1, 0)
    return batch_of(labels, rows[..., 1:], l1)


def outputs_of(raw):
    return raw[..., 5:], raw[..., :4], raw[..., 4]


@jax.jit
def losses(raw, batch):
    """The loss of the batch, and the sums over it divided as the step does."""
    _, metrics = OBJECTIVE.loss(outputs_of(raw), OBJECTIVE.prepare(batch, None))
    count = jnp.maximum(metrics["count"].sum(), 1)
    means = {name: value.sum() / count for name, value in metrics.items()}
    return means["loss"], means


@jax.jit
def assigned(raw, batch):
    classes, boxes, objectness = outputs_of(raw)
    truth = OBJECTIVE.prepare(batch, None)["boxes"]
    return assign_batch(classes, boxes, objectness, POINTS, truth, batch["labels"])


def test_assignment_of_the_reference():
    expected = reference.golden("yolox_simota")
    found = assigned(expected["raw"], golden_batch())
    np.testing.assert_array_equal(found.foreground, expected["foreground"])
    index = np.where(found.foreground, found.index, -1)
    np.testing.assert_array_equal(index, expected["matched_gt"])
    np.testing.assert_allclose(found.overlap, expected["matched_iou"], atol=1e-6)
    assert not found.foreground[2].any()  # the image without objects


@pytest.mark.parametrize("l1", [0.0, 1.0])
def test_losses_and_gradient_of_the_reference(l1):
    expected = reference.golden("yolox_simota")
    (_, means), gradient = jax.value_and_grad(losses, has_aux=True)(
        jnp.asarray(expected["raw"]), golden_batch(l1)
    )
    total, iou, objectness, classes, distance, _ = expected["losses" if l1 else "losses_without_l1"]
    found = [float(means[name]) for name in OBJECTIVE.metrics]
    distance = distance if l1 else 0
    np.testing.assert_allclose(found, [total, iou, objectness, classes, distance], rtol=1e-5)
    if l1:
        np.testing.assert_allclose(
            gradient[:, ::4], expected["grad_every4th_anchor"], rtol=1e-4, atol=1e-6
        )
        sums = np.abs(gradient).sum((0, 1))
        np.testing.assert_allclose(sums, expected["grad_abs_sum_per_channel"], rtol=1e-5)


def test_overlaps_of_the_reference():
    expected = reference.golden("yolox_iou")
    found = pair_iou(expected["pred"], expected["target"])
    np.testing.assert_allclose(1 - found**2, expected["iou_loss"], atol=1e-6)
    pairs = pair_iou(expected["target"][:8, None], expected["pred"][None])
    np.testing.assert_allclose(pairs, expected["pairwise_iou"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "score", "iou", "agnostic"),
    [
        ("conf0.01_nms0.65_per_class", 0.01, 0.65, False),
        ("conf0.3_nms0.45_per_class", 0.3, 0.45, False),
        ("conf0.3_nms0.45_agnostic", 0.3, 0.45, True),
    ],
)
@pytest.mark.parametrize("image", [0, 1])
def test_suppression_of_the_reference(image, name, score, iou, agnostic):
    expected = reference.golden("yolox_nms")
    prediction, size = expected["prediction"][image], 1000.0  # no box is clipped
    config = dataclasses.replace(
        NMS_CONFIGS["yolox"], score_threshold=score, iou_threshold=iou, class_agnostic=agnostic
    )
    objectness, classes = prediction[:, 4], prediction[:, 5:]
    scores, labels = objectness * classes.max(-1), classes.argmax(-1) + 1
    order = np.argsort(-scores, kind="stable")
    scores = np.where(scores > score, scores, 0)[order]
    shares = to_corners(prediction[:, :4])[order] / size
    found = keep_best(shares + 0.3, jnp.asarray(labels[order]), jnp.asarray(scores), 3, config)
    rows = expected[f"{name}_image{image}"]  # x1, y1, x2, y2, objectness, class score, class
    kept = np.asarray(found.valid)
    assert kept.sum() == len(rows)
    np.testing.assert_allclose((found.boxes[kept] - 0.3) * size, rows[:, :4], atol=1e-3)
    np.testing.assert_allclose(found.scores[kept], rows[:, 4] * rows[:, 5], rtol=1e-6)
    np.testing.assert_array_equal(found.labels[kept], rows[:, 6] + 1)


def test_detections_are_the_best_class_of_each_cell():
    classes = np.full((len(POINTS), 3), -9.0, np.float32)
    raw = np.zeros((len(POINTS), 4), np.float32)
    objectness = np.full(len(POINTS), -9.0, np.float32)
    cell = 2 * 32 + 19
    classes[cell], objectness[cell] = (1.0, 2.0, -1.0), 0.5
    raw[cell] = (0.25, 0.5, np.log(2), np.log(4))
    size = (SIZE // 2, 2 * SIZE)  # as many cells, in other rows
    points = SmallYolox().points(*size)
    assert tuple(points[cell]) == (19, 2, 8)
    found = DETECT((classes, raw, objectness), points, size)
    assert found.valid.sum() == 1 and found.labels[0] == 2
    sigmoid = jax.nn.sigmoid
    np.testing.assert_allclose(found.scores[0], sigmoid(0.5) * sigmoid(2.0), rtol=1e-6)
    # Centre (19.25, 2.5) cells, 2 x 4 cells large, of 8 pixels.
    pixels = found.boxes[0] * jnp.array([256, 64, 256, 64])
    np.testing.assert_allclose(pixels, [146, 4, 162, 36], rtol=1e-6)


def test_outputs_that_are_not_finite_are_no_detections():
    classes = np.full((len(POINTS), 2), 5.0, np.float32)
    raw = np.zeros((len(POINTS), 4), np.float32)
    objectness = np.full(len(POINTS), -20.0, np.float32)
    objectness[:3], raw[0], raw[1, 2], classes[2] = 5.0, np.nan, 1e6, np.nan
    assert not DETECT((classes, raw, objectness), POINTS, (SIZE, SIZE)).valid.any()


@pytest.mark.parametrize("rows", [1, 200])
def test_no_object_has_a_finite_loss_that_only_objectness_makes(rows):
    raw = np.random.default_rng(0).standard_normal((2, len(POINTS), 9)).astype(np.float32)
    batch = batch_of(np.zeros((2, rows)), np.zeros((2, rows, 4)))
    (loss, means), gradient = jax.value_and_grad(losses, has_aux=True)(raw, batch)
    assert means["count"] == 0 and np.isfinite(loss) and loss == means["objectness_loss"] > 0
    assert np.isfinite(gradient).all() and not gradient[..., [0, 1, 2, 3, 5, 6, 7, 8]].any()


def test_two_hundred_objects_and_objects_without_a_cell():
    rng = np.random.default_rng(1)
    truth = np.concatenate([rng.uniform(4, 124, (200, 2)), rng.uniform(4, 40, (200, 2))], axis=1)
    truth[-3:] = (64, 64, 30, 30)  # three in one place
    truth[0, :2] = 500  # outside the image, where no cell is
    labels = rng.integers(1, 5, (1, 200))
    raw = rng.standard_normal((1, len(POINTS), 9)).astype(np.float32)
    found = assigned(raw, batch_of(labels, truth[None]))
    taken = np.unique(found.index[found.foreground])
    assert 0 not in taken and 50 < len(taken) < 200
    loss, means = losses(raw, batch_of(labels, truth[None]))
    assert np.isfinite(loss) and means["iou_loss"] > 0


def test_a_box_of_the_background_may_be_of_any_size():
    """The exponential of 90 is no float32, and a gradient through it none either."""
    expected = reference.golden("yolox_simota")
    raw = expected["raw"].copy()
    raw[0, np.flatnonzero(~expected["foreground"][0])[-1], 2] = 90
    (loss, _), gradient = jax.value_and_grad(losses, has_aux=True)(raw, golden_batch())
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_take_no_object_from_others(value):
    expected = reference.golden("yolox_simota")
    raw = expected["raw"].copy()
    broken = np.flatnonzero(expected["foreground"][3])[0]
    raw[3, broken, 5:] = value
    found = assigned(raw, golden_batch())
    assert not found.foreground[3, broken] and found.foreground[3].any()
    for image in (0, 1, 2):
        np.testing.assert_array_equal(found.foreground[image], expected["foreground"][image])


def test_equal_costs_go_to_the_first():
    """Outputs that say the same everywhere: the first cells, and of two equal objects the first."""
    raw = np.zeros((1, len(POINTS), 9), np.float32)
    truth = np.array([[[68.0, 68, 24, 24], [68, 68, 24, 24]]], np.float32)
    raw[..., :4] = encode(jnp.broadcast_to(truth[0, 0], (len(POINTS), 4)), POINTS)
    found = assigned(raw, batch_of(np.array([[2, 2]]), truth))
    cells = np.flatnonzero(found.foreground[0])
    assert len(cells) == 10 and not found.index[0, cells].any()
    near = (np.abs((POINTS[:, :2] + 0.5) * POINTS[:, 2:] - 68) < 1.5 * POINTS[:, 2:]).all(-1)
    np.testing.assert_array_equal(cells, np.flatnonzero(near)[:10])


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@hypothesis.settings(max_examples=25)
def test_what_always_holds_of_an_assignment(seed, objects):
    rng = np.random.default_rng(seed)
    truth = np.zeros((1, 12, 4), np.float32)
    truth[0, :objects] = np.concatenate(
        [rng.uniform(0, SIZE, (objects, 2)), rng.uniform(1, 90, (objects, 2))], axis=1
    )
    labels = np.zeros((1, 12), np.int32)
    labels[0, :objects] = rng.integers(1, 5, objects)
    raw = rng.standard_normal((1, len(POINTS), 9)).astype(np.float32)
    found = jax.tree.map(lambda x: np.asarray(x[0]), assigned(raw, batch_of(labels, truth)))
    assert set(found.index[found.foreground]) <= set(range(objects))
    assert np.bincount(found.index[found.foreground]).max() <= 10
    assert not found.overlap[~found.foreground].any()
    # Padding changes nothing, nor does the order of objects but for which is which.
    order = rng.permutation(12)
    turned = assigned(raw, batch_of(labels[:, order], truth[:, order]))
    np.testing.assert_array_equal(turned.foreground[0], found.foreground)
    there = found.foreground
    np.testing.assert_array_equal(order[np.asarray(turned.index[0])[there]], found.index[there])


def test_encoding_is_the_inverse_of_decoding():
    raw = np.random.default_rng(0).standard_normal((len(POINTS), 4)).astype(np.float32)
    np.testing.assert_allclose(encode(decode(raw, POINTS), POINTS), raw, atol=1e-4)
