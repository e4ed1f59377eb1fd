# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.detection.boxes import decode, encode, to_centres, to_corners
from mobilevit_jax.tasks.detection.nms import NMS_CONFIGS, Detections, NMSConfig, detect_batch

CLASSES = 6
DETECT = jax.jit(detect_batch, static_argnames="config")


def run(logits, offsets, anchors, config) -> list[Detections]:
    """Detects in a batch; returns the valid rows of each image, after a look at the others."""
    found = DETECT(logits, offsets, anchors, config=config)
    images = []
    for row in range(len(logits)):
        image = Detections(*(np.asarray(part[row]) for part in found))
        assert image.boxes.shape == (config.keep_per_image, 4)
        count = image.valid.sum()
        assert image.valid[:count].all()
        assert not any(part[count:].any() for part in image)
        images.append(Detections(*(part[:count] for part in image)))
    return images


def overlap(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - common
    return common / np.maximum(union, 1e-30)


def greedy(rows, threshold):
    """Goes through (score, anchor, label, box) of one class, best first."""
    kept = []
    for row in rows:
        better = np.array([other[3] for other in kept]).reshape(-1, 4)
        if (overlap(row[3], better) <= threshold).all():
            kept.append(row)
    return kept


def one_by_one(logits, offsets, anchors, config):
    """The reference for one image, without bounds on the image as a whole."""
    boxes = np.asarray(to_corners(decode(offsets, anchors)))
    scores = np.asarray(jax.nn.softmax(logits))
    result = []
    for label in range(1, logits.shape[-1]):
        rows = [
            (score, anchor, label, boxes[anchor])
            for anchor, score in enumerate(scores[:, label])
            if score > config.score_threshold
        ]
        rows = sorted(rows, key=lambda row: (-row[0], row[1]))[: config.top_k_before]
        result += greedy(rows, config.iou_threshold)[: config.keep_per_class]
    return sorted(result, key=lambda row: (-row[0], row[1], row[2]))


def assert_same(found, expected):
    assert found.labels.tolist() == [row[2] for row in expected]
    np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-5)
    boxes = np.array([np.clip(row[3], 0, 1) for row in expected]).reshape(-1, 4)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)


def random_outputs(seed, images=2, anchors=300, size=0.2, sharpness=2.0):
    """Outputs that overlap a great deal, and decode to boxes partly outside the image."""
    rng = np.random.default_rng(seed)
    centres = rng.random((anchors, 2))
    sizes = size * (0.5 + rng.random((anchors, 2)))
    boxes = np.concatenate([centres, sizes], -1).astype(np.float32)
    logits = sharpness * rng.standard_normal((images, anchors, CLASSES)).astype(np.float32)
    return logits, rng.standard_normal((images, anchors, 4)).astype(np.float32), boxes


# As many candidates as anchors and classes make, over several blocks.
EVERYTHING = NMSConfig(
    score_threshold=0.0, iou_threshold=0.5, keep_per_class=None, keep_per_image=1500
)


@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        dataclasses.replace(EVERYTHING, iou_threshold=0.1),
        dataclasses.replace(EVERYTHING, score_threshold=0.3),
        dataclasses.replace(EVERYTHING, top_k_before=90),
        dataclasses.replace(EVERYTHING, keep_per_class=37),
        dataclasses.replace(EVERYTHING, top_k_before=150, keep_per_class=60, iou_threshold=0.3),
        *NMS_CONFIGS.values(),
    ],
    ids=["all", "iou", "score", "before", "per-class", "both", *NMS_CONFIGS],
)
def test_against_the_reference(config):
    logits, offsets, anchors = random_outputs(0)
    for row, found in enumerate(run(logits, offsets, anchors, config)):
        expected = one_by_one(logits[row], offsets[row], anchors, config)
        assert len(expected) > 30
        assert_same(found, expected[: config.keep_per_image])


@hypothesis.given(st.integers(0, 10**6), st.floats(0.5, 6), st.floats(0.05, 0.6))
@hypothesis.settings(deadline=None, max_examples=15)
def test_any_outputs_against_the_reference(seed, sharpness, size):
    logits, offsets, anchors = random_outputs(seed, 2, 120, size, sharpness)
    config = NMSConfig(0.05, 0.45, top_k_before=40, keep_per_class=20, keep_per_image=90)
    for row, found in enumerate(run(logits, offsets, anchors, config)):
        expected = one_by_one(logits[row], offsets[row], anchors, config)
        assert_same(found, expected[: config.keep_per_image])
        assert found.boxes.size == 0 or (found.boxes.min() >= 0 and found.boxes.max() <= 1)


class TestBounds:
    """What the fixed shape costs, compared with the reference."""

    def test_too_many_detections_drop_those_with_the_lowest_scores(self):
        logits, offsets, anchors = random_outputs(1, size=0.02)
        config = NMS_CONFIGS["v0.1"]
        expected = one_by_one(logits[0], offsets[0], anchors, config)
        assert len(expected) > config.keep_per_image == 400
        assert_same(run(logits, offsets, anchors, config)[0], expected[:400])

    def test_too_many_candidates_drop_those_with_the_lowest_scores(self):
        logits, offsets, anchors = random_outputs(2)
        few = dataclasses.replace(EVERYTHING, candidates=500)
        expected = one_by_one(logits[0], offsets[0], anchors, EVERYTHING)
        found = run(logits, offsets, anchors, few)[0]
        scores = np.sort(np.asarray(jax.nn.softmax(logits[0]))[:, 1:].ravel())[::-1]
        within = [row for row in expected if row[0] >= scores[499]]
        assert 100 < len(within) < len(expected)
        assert_same(found, within)

    def test_candidates_do_not_matter_once_enough_are_kept(self):
        logits, offsets, anchors = random_outputs(2)
        config = dataclasses.replace(EVERYTHING, candidates=500, keep_per_image=100)
        expected = one_by_one(logits[0], offsets[0], anchors, EVERYTHING)[:100]
        assert_same(run(logits, offsets, anchors, config)[0], expected)


def outputs_for(corners, scores, classes=CLASSES):
    """Builds outputs of one image: box i has the scores {label: probability} of scores[i]."""
    corners = np.array(corners, np.float32)
    anchors = np.asarray(to_centres(corners))
    probabilities = np.full((len(corners), classes), 1e-6, np.float32)
    for row, wanted in enumerate(scores):
        for label, score in wanted.items():
            probabilities[row, label] = score
        probabilities[row, 0] = 1 - probabilities[row, 1:].sum()
    offsets = np.array(encode(anchors, anchors))
    return np.log(probabilities)[None], offsets[None], anchors


BOX, MOVED, FAR = [0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.52, 0.5], [0.6, 0.6, 0.9, 0.9]


def test_the_better_of_one_class_stays():
    outputs = outputs_for([BOX, MOVED, FAR], [{2: 0.5}, {2: 0.8}, {2: 0.3}])
    found = run(*outputs, NMSConfig())[0]
    assert found.labels.tolist() == [2, 2]
    np.testing.assert_allclose(found.boxes, [MOVED, FAR], atol=1e-6)
    np.testing.assert_allclose(found.scores, [0.8, 0.3], rtol=1e-5)


def test_classes_do_not_suppress_each_other():
    outputs = outputs_for([BOX, MOVED], [{2: 0.5}, {3: 0.3, 1: 0.6}])
    assert run(*outputs, NMSConfig())[0].labels.tolist() == [1, 2, 3]


def test_background_is_no_detection():
    outputs = outputs_for([BOX], [{4: 0.04}])
    found = DETECT(*outputs, config=NMSConfig())
    assert not any(np.asarray(part).any() for part in found)


def test_the_threshold_is_exclusive():
    # Two classes of equal logits: exactly one half each.
    logits = np.full((1, 1, 2), 3.0, np.float32)
    _, offsets, anchors = outputs_for([BOX], [{1: 0.5}])
    assert len(run(logits, offsets, anchors, NMSConfig(score_threshold=0.5))[0].labels) == 0
    assert len(run(logits, offsets, anchors, NMSConfig(score_threshold=0.49))[0].labels) == 1


def test_who_is_suppressed_suppresses_no_one():
    # Each of a long row overlaps the next alone, so that every second one stays: many blocks of
    # candidates, each settled one by one.
    count = 600
    start = np.linspace(0, 0.9, count)
    width = 2.5 * (start[1] - start[0])
    corners = [[x, 0, x + width, 1] for x in start]
    outputs = outputs_for(corners, [{1: 0.9 - 0.001 * i} for i in range(count)])
    config = dataclasses.replace(NMSConfig(), iou_threshold=0.4, keep_per_class=None)
    found = run(*outputs, config)[0]
    np.testing.assert_allclose(found.boxes[:, 0], start[::2], atol=1e-5)


def test_of_equal_scores_the_lower_anchor_then_the_lower_class():
    logits, offsets, anchors = outputs_for([FAR, BOX, MOVED], [{1: 0.5}] * 3)
    # In each row two classes share all the probability there is.
    logits[:] = -100
    logits[0, 0, [1, 3]] = logits[0, 1:, [0, 2]] = 0
    found = run(logits, offsets, anchors, NMSConfig())[0]
    assert found.labels.tolist() == [1, 3, 2]
    np.testing.assert_allclose(found.boxes, [FAR, FAR, BOX], atol=1e-6)


class TestFaults:
    config = NMSConfig(keep_per_image=10)

    def test_broken_scores_and_boxes_are_left_out(self):
        logits, offsets, anchors = outputs_for([BOX, FAR, FAR, FAR], [{1: 0.5}] * 4)
        logits[0, 1] = np.nan
        offsets[0, 2, 0] = np.nan
        offsets[0, 3, 2] = 1e6
        found = run(logits, offsets, anchors, self.config)[0]
        np.testing.assert_allclose(found.boxes, [BOX], atol=1e-6)

    def test_all_broken(self):
        logits, offsets, anchors = outputs_for([BOX, FAR], [{1: 0.5}] * 2)
        found = run(np.full_like(logits, np.nan), offsets, anchors, self.config)[0]
        assert len(found.labels) == 0

    def test_boxes_without_area_suppress_nothing(self):
        logits, offsets, anchors = outputs_for([BOX, BOX, BOX], [{1: 0.5}, {1: 0.4}, {1: 0.3}])
        offsets[0, :2, 2] = -1e4
        found = run(logits, offsets, anchors, self.config)[0]
        assert len(found.labels) == 3

    def test_fewer_candidates_than_rows(self):
        outputs = outputs_for([BOX], [{1: 0.5}], classes=2)
        assert run(*outputs, self.config)[0].labels.tolist() == [1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"score_threshold": -0.1}, r"score_threshold must be in \[0, 1\]; got -0.1"),
            ({"iou_threshold": float("nan")}, "iou_threshold must be in"),
            ({"top_k_before": 0}, "top_k_before must be at least 1"),
            ({"keep_per_class": 0}, "keep_per_class must be at least 1"),
            ({"keep_per_image": 0}, "keep_per_image must be at least 1"),
            ({"candidates": 0}, "candidates must be at least 1"),
        ],
    )
    def test_bad_configuration(self, options, message):
        with pytest.raises(ConfigurationError, match=message):
            NMSConfig(**options)


@pytest.mark.slow
def test_crowded_and_empty_images_share_a_batch():
    logits, offsets, anchors = random_outputs(5, images=4)
    logits[[1, 3], :, 0] += 30
    logits[3, 7] = [0, 30, 0, 0, 0, 0]
    config = NMS_CONFIGS["later"]
    together = run(logits, offsets, anchors, config)
    assert [len(image.labels) for image in together] == [200, 0, 200, 1]
    for row in range(4):
        alone = run(logits[row : row + 1], offsets[row : row + 1], anchors, config)[0]
        for a, b in zip(alone, together[row], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_named_conventions():
    old, new = NMS_CONFIGS["v0.1"], NMS_CONFIGS["later"]
    assert (old.score_threshold, old.top_k_before, old.keep_per_class) == (0.05, None, 200)
    assert (new.score_threshold, new.top_k_before, new.keep_per_image) == (0.01, 400, 200)
    assert old.iou_threshold == new.iou_threshold == 0.5 and new.keep_per_class is None
