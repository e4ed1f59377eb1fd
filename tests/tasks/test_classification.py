# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportIndexIssue=false

import dataclasses
import itertools

import cv2
import jax
import numpy as np
import pytest

from mobilevit_jax.config import DataConfig
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sampler import SamplerConfig, Scale, plan_epoch
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.classification import ClassificationTask, Evaluator
from mobilevit_jax.tasks.classification_objective import ClassificationObjective, hits
from mobilevit_jax.training.optimizer import OptimizerConfig
from tests.small import SmallNet, build_small_net, random_variables, tiny_experiment

PROCESSOR = ImageProcessor(size=20, crop_size=(16, 16))


class TestHits:
    def of(self, logits, labels):
        found = hits(np.array(logits, np.float32), np.array(labels))
        return np.asarray(found["top1"]).tolist(), np.asarray(found["top5"]).tolist()

    def test_ranks(self):
        logits = np.arange(8.0)[None].repeat(4, 0)
        assert self.of(logits, [7, 6, 3, 2]) == ([1, 0, 0, 0], [1, 1, 1, 0])

    def test_of_equal_scores_the_lower_index_wins(self):
        assert self.of(np.zeros((3, 8)), [0, 4, 5]) == ([1, 0, 0], [1, 1, 0])

    def test_nan_is_never_right(self):
        logits = np.zeros((2, 8))
        logits[0, 3] = np.nan
        logits[1] = np.nan
        assert self.of(logits, [0, 0]) == ([0, 0], [0, 0])

    def test_infinity_ranks_as_a_number(self):
        logits = np.zeros((2, 8))
        logits[:, 3] = np.inf
        assert self.of(logits, [3, 0]) == ([1, 0], [1, 1])

    def test_fewer_than_five_classes(self):
        assert self.of([[0, 1, 2], [0, 1, 2]], [2, 0]) == ([1, 0], [1, 1])


def test_objective_smooths_in_training_only():
    objective = ClassificationObjective(0.2)
    logits = np.array([[3.0, 0, 0], [0, 1, 0]], np.float32)
    batch = {"label": np.array([0, 2])}
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -logs[np.arange(2), batch["label"]]
    losses, metrics = objective.loss(logits, batch)
    assert tuple(metrics) == objective.metrics
    np.testing.assert_allclose(losses, 0.8 * nll - 0.2 / 3 * logs.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses)
    np.testing.assert_allclose(objective.evaluate(logits, batch)["loss"], nll, rtol=1e-5)


class MemorySplit:
    """Images in memory; those whose ids are in `bad` are cut short."""

    def __init__(self, count, bad=()):
        self.images = []
        for number in range(count):
            rng = np.random.default_rng(number)
            pixels = np.full((24, 30, 3), rng.integers(0, 256, 3), np.uint8)
            self.images.append(cv2.imencode(".png", pixels)[1].tobytes())
        for number in bad:
            self.images[number] = self.images[number][:20]

    def __len__(self):
        return len(self.images)

    def records(self, ids):
        return [{"image": self.images[i], "label": i % 6, "name": f"{i}.png"} for i in ids]


class TestEvaluator:
    model = SmallNet()
    variables = random_variables(model)
    evaluator = Evaluator(model, ClassificationObjective(), PROCESSOR)

    def measure(self, split, batch_size, **options):
        return self.evaluator(self.variables, split, batch_size, LoaderConfig(**options))

    def expected(self, numbers):
        """Computes the metrics of images one by one, without batches, devices or padding."""
        records = MemorySplit(max(numbers) + 1).records(numbers)
        rows = []
        for record in records:
            image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
            pixels = np.float32(PROCESSOR.pixels(image)) / 255
            logits = np.asarray(self.model.apply(self.variables, pixels[None])[0], np.float64)
            rank = (logits > logits[record["label"]]).sum()
            loss = np.log(np.exp(logits).sum()) - logits[record["label"]]
            rows.append((loss, rank < 1, rank < 5))
        return np.mean(rows, 0)

    @pytest.mark.parametrize(
        ("count", "batch_size"), [(7, 4), (7, 100), (16, 8), (33, 12), (33, 1), (1, 8)]
    )
    def test_every_image_counts_once(self, count, batch_size):
        assert jax.device_count() == 4
        found = self.measure(MemorySplit(count), batch_size)
        assert found["count"] == count and isinstance(found["count"], int)
        np.testing.assert_allclose(
            [found[name] for name in ("loss", "top1", "top5")],
            self.expected(range(count)),
            rtol=1e-5,
            atol=1e-7,
        )

    def test_bad_images_are_left_out_if_asked(self):
        found = self.measure(MemorySplit(9, bad=(2, 8)), 4, skip_bad_images=True)
        assert found["count"] == 7
        expected = self.expected([0, 1, 3, 4, 5, 6, 7])
        np.testing.assert_allclose(
            [found[name] for name in ("loss", "top1", "top5")], expected, rtol=1e-5, atol=1e-7
        )

    def test_a_bad_image_is_named(self):
        with pytest.raises(DataError, match=r"8\.png"):
            self.measure(MemorySplit(9, bad=(8,)), 4)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ModelConfig, "build", build_small_net)


TWO_SCALES = SamplerConfig(batch_size=16, base_size=32, sizes=(16, 32), reference_devices=1)


def assert_same(batches, expected):
    for a, b in zip(batches, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.usefixtures("small")
class TestTask:
    def test_what_the_loop_needs(self, data_dir):
        task = ClassificationTask(tiny_experiment(data_dir, sampler=TWO_SCALES))
        assert task.table == (Scale(16, 16, 64), Scale(32, 32, 16))
        assert task.evaluation_splits == ("validation", "test")
        assert task.model.num_classes == len(task.class_names) == 8
        plans = [plan_epoch(0, epoch, 64, task.table) for epoch in range(2)]
        assert task.steps_of_epochs == [len(plan) for plan in plans]
        batches = list(task.training_batches(0))
        assert len(batches) == sum(task.steps_of_epochs)
        for planned, batch in zip(itertools.chain(*plans), batches, strict=True):
            assert batch["image"].shape == (len(planned.ids), planned.height, planned.width, 3)

    def test_zeros_to_compile_with_look_like_batches(self, data_dir):
        task = ClassificationTask(tiny_experiment(data_dir))
        (scale,) = task.table
        zeros, batch = task.zero_batch(scale), next(iter(task.training_batches(0)))
        assert {name: (a.shape, a.dtype) for name, a in zeros.items()} == {
            name: (a.shape, a.dtype) for name, a in batch.items()
        }

    def test_batches_from_any_step_are_the_same(self, data_dir):
        one = tiny_experiment(data_dir, loader=LoaderConfig(threads=1))
        whole = list(ClassificationTask(one).training_batches(0))
        several = ClassificationTask(tiny_experiment(data_dir, loader=LoaderConfig(threads=3)))
        for first in (0, 3, 4, 6, 8):
            assert_same(several.training_batches(first), whole[first:])

    def test_epochs_and_seeds_differ(self, data_dir):
        task = ClassificationTask(tiny_experiment(data_dir))
        batches = list(task.training_batches(0))
        other = next(
            iter(ClassificationTask(tiny_experiment(data_dir, seed=1)).training_batches(0))
        )
        assert np.abs(batches[0]["image"] - 1.0 * batches[4]["image"]).max() > 0
        assert np.abs(batches[0]["image"] - 1.0 * other["image"]).max() > 0

    def test_what_there_is_to_say_in_the_end(self, data_dir):
        task = ClassificationTask(tiny_experiment(data_dir))
        assert task.notes() == []
        task.skipped.add([(3, "3.png is damaged")])
        assert task.notes() == ["skipped 1 image that could not be decoded"]

    def test_splits_may_be_left_out(self, data_dir):
        data = DataConfig("shapes/tiny", str(data_dir), validation=None)
        assert ClassificationTask(tiny_experiment(data_dir, data=data)).evaluation_splits == ()

    def test_evaluation_of_a_split(self, data_dir):
        task = ClassificationTask(tiny_experiment(data_dir))
        found = task.evaluate(random_variables(task.model), "validation")
        assert found["count"] == 32
        assert found["loss"] > 0 and 0 <= found["top1"] <= found["top5"] <= 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"model": ModelConfig(num_classes=3)},
                "model.num_classes is 3, but shapes/tiny has 8",
            ),
            ({"data": {"dataset": "shapes/tinny"}}, "did you mean 'shapes/tiny'"),
            ({"data": {"train": "training"}}, "did you mean 'train'"),
            ({"data": {"validation": "test[:0]"}}, "'test.:0.' of shapes/tiny selects no image"),
            ({"optimizer": OptimizerConfig(accumulation=3)}, "16.*12"),
            (
                {"checkpoint": {"metric": "top3"}},
                "unknown checkpoint.metric 'top3'.*known: loss, top1, top5",
            ),
            ({"checkpoint": {"metric": "raw_top1"}}, "unknown checkpoint.metric 'raw_top1'"),
        ],
    )
    def test_what_does_not_fit(self, data_dir, options, message):
        experiment = tiny_experiment(data_dir)
        options = {
            name: dataclasses.replace(getattr(experiment, name), **value)
            if isinstance(value, dict)
            else value
            for name, value in options.items()
        }
        with pytest.raises((ConfigurationError, DataError), match=message):
            ClassificationTask(dataclasses.replace(experiment, **options))


@pytest.mark.parametrize("label", [None, -1])
def test_a_record_without_a_label_is_refused_by_name(label):
    from mobilevit_jax.data.sampler import PlannedBatch
    from mobilevit_jax.errors import ConfigurationError
    from mobilevit_jax.processing import ImageProcessor
    from mobilevit_jax.tasks.classification import evaluation_examples

    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    record = {"image": png, "name": "secret/17.png"} | ({} if label is None else {"label": label})
    load = evaluation_examples(ImageProcessor(size=8, crop_size=(8, 8)))
    with pytest.raises(ConfigurationError, match="secret/17.png has no label"):
        load(record, 17, PlannedBatch(8, 8, np.arange(1)))
