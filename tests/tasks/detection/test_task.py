# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.config import DataConfig
from mobilevit_jax.data.annotations import to_detection
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sampler import SamplerConfig, plan_epoch
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.tasks import create_task
from mobilevit_jax.tasks.detection.average_precision import METRICS
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.loss import multibox_loss
from mobilevit_jax.tasks.detection.matching import match_batch
from mobilevit_jax.tasks.detection.objective import DetectionObjective
from mobilevit_jax.tasks.detection.task import DetectionTask, LeftOutObjects
from mobilevit_jax.training import parallel
from mobilevit_jax.training.state import EMAConfig, create_state
from mobilevit_jax.training.step import make_train_step
from tests.small import random_variables, tiny_experiment
from tests.tasks.detection.stand_ins import SmallDetector, build_small_detector

MODEL = ModelConfig("ssdlite_mobilevit_xxs")
OBJECTIVE = DetectionObjective(SmallDetector())
KEY = jax.random.key(0)  # of which nothing is drawn
PREPARE = jax.jit(OBJECTIVE.prepare)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ModelConfig, "build", build_small_detector)


def make_task(data_dir, **options) -> DetectionTask:
    return DetectionTask(tiny_experiment(data_dir, **{"model": MODEL, **options}))


def batch_of(count: int, *, seed: int = 0, objects: int = 3, size: int = 32) -> dict:
    """Returns random images with `objects` objects each, padded to 5."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 0.5, (count, objects, 2))
    corners = np.concatenate([start, start + rng.uniform(0.2, 0.5, start.shape)], axis=-1)
    boxes, labels = np.zeros((count, 5, 4), np.float32), np.zeros((count, 5), np.int32)
    boxes[:, :objects] = corners
    labels[:, :objects] = rng.integers(1, 9, (count, objects))
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "boxes": boxes,
        "labels": labels,
        "weight": np.ones(count, np.float32),
    }


def train_step(accumulation=1):
    """Returns a fresh state, and a step over four devices that can be called again and again."""
    model, optimizer, ema = SmallDetector(), optax.adam(3e-3), EMAConfig(0.5)
    state = create_state(model, optimizer, ema, OBJECTIVE.metrics, 0)
    step = make_train_step(model, optimizer, OBJECTIVE, ema, seed=0, accumulation=accumulation)
    return parallel.replicate(state), parallel.pmap_train(step)


class TestObjective:
    def test_targets_are_those_of_the_matcher(self):
        batch = batch_of(4)
        prepared = PREPARE(batch, KEY)
        assert prepared.keys() == {"image", "weight", "target_offsets", "target_labels"}
        anchors = jnp.asarray(SmallDetector().anchors(32, 32))
        offsets, labels = jax.jit(match_batch)(batch["boxes"], batch["labels"], anchors, 0.5)
        np.testing.assert_array_equal(prepared["target_labels"], labels)
        np.testing.assert_allclose(prepared["target_offsets"], offsets, atol=1e-4)
        strict = jax.jit(DetectionObjective(SmallDetector(), match_threshold=0.9).prepare)(
            batch, KEY
        )
        assert (strict["target_labels"] > 0).sum() < (labels > 0).sum()
        np.testing.assert_array_equal(OBJECTIVE.normaliser(prepared), (labels > 0).sum(-1))

    def test_sums_are_those_of_the_loss(self):
        prepared = PREPARE(batch_of(4), KEY)
        rng = np.random.default_rng(1)
        shape = prepared["target_offsets"].shape
        outputs = (
            jnp.asarray(rng.normal(size=(*shape[:2], 9)), jnp.float32),
            jnp.asarray(rng.normal(size=shape), jnp.float32),
        )
        targets = prepared["target_labels"], prepared["target_offsets"]
        for ratio in (1, 3):
            objective = DetectionObjective(SmallDetector(), negative_ratio=ratio)
            losses, metrics = jax.jit(objective.loss)(outputs, prepared)
            loss = jax.jit(multibox_loss, static_argnames="negative_ratio")
            parts = loss(*outputs, *targets, negative_ratio=ratio)
            np.testing.assert_allclose(losses, parts.classification + parts.localisation, rtol=1e-5)
            assert set(metrics) == set(objective.metrics)
            for name, expected in zip(objective.metrics[1:], parts[:2], strict=True):
                np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)
            evaluated = jax.jit(objective.evaluate)(outputs, prepared)
            np.testing.assert_array_equal(evaluated["loss"], losses)

    @pytest.mark.slow
    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_the_loss_is_divided_by_the_positives_of_the_global_batch(self, accumulation):
        batch = batch_of(8)
        batch["labels"][:3] = 0  # the first device has no object at all
        batch["weight"][7] = 0
        state, step = train_step(accumulation=accumulation)
        variables = jax.device_get(state.variables)
        parts = 4 * accumulation  # batch norm sees each alone

        @jax.jit
        def sums(part):
            prepared = OBJECTIVE.prepare(part, KEY)
            images = jnp.float32(prepared["image"]) / 255
            outputs, _ = SmallDetector().apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            losses, counts = OBJECTIVE.loss(outputs, prepared)[0], OBJECTIVE.normaliser(prepared)
            return jnp.stack([losses @ part["weight"], counts @ part["weight"]])

        rows = np.split(np.arange(8), parts)
        expected, positives = np.sum(
            [sums({name: x[row] for name, x in batch.items()}) for row in rows], axis=0
        ).tolist()
        state, metrics = step(state, parallel.shard(batch))
        assert float(metrics["loss"]) == pytest.approx(expected / positives, rel=1e-4)
        assert float(state.meter["count"]) == positives

    def test_a_batch_without_objects_has_loss_zero_and_changes_little(self):
        batch = batch_of(8)
        batch["labels"][:] = 0
        state, step = train_step()
        state, metrics = step(state, parallel.shard(batch))
        assert float(metrics["loss"]) == 0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))

    def test_it_learns(self):
        batch = parallel.shard(batch_of(8, objects=2))
        state, step = train_step()
        losses = []
        for _ in range(60):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < 0.4 * losses[0]


@pytest.mark.usefixtures("small")
class TestTask:
    def test_what_the_loop_needs(self, data_dir):
        task = make_task(data_dir)
        assert isinstance(create_task(tiny_experiment(data_dir, model=MODEL)), DetectionTask)
        assert task.model.num_classes == 9 and len(task.class_names) == 8
        assert task.class_names == dataset_info("shapes/tiny", data_dir).class_names
        assert task.evaluation_metrics == METRICS and task.main_metric == "map"
        batches = list(task.training_batches(0))
        plans = [plan_epoch(0, epoch, 64, task.table) for epoch in range(2)]
        for planned, batch in zip(itertools.chain(*plans), batches, strict=True):
            assert batch["image"].shape == (len(planned.ids), planned.height, planned.width, 3)
            assert batch["boxes"].shape == (len(planned.ids), 100, 4)
            assert (batch["labels"].max(1) > 0).all()
            there = batch["labels"] > 0
            assert (batch["boxes"][there][:, 2:] > batch["boxes"][there][:, :2]).all()
            assert not batch["boxes"][~there].any()

    def test_zeros_to_compile_with_look_like_batches(self, data_dir):
        task = make_task(data_dir, detection=DetectionConfig(max_boxes=7))
        (scale,) = task.table
        zeros, batch = task.zero_batch(scale), next(iter(task.training_batches(0)))
        assert {name: (a.shape, a.dtype) for name, a in zeros.items()} == {
            name: (a.shape, a.dtype) for name, a in batch.items()
        }

    def test_batches_from_any_step_are_the_same(self, data_dir):
        whole = list(make_task(data_dir, loader=LoaderConfig(threads=1)).training_batches(0))
        task = make_task(data_dir, loader=LoaderConfig(threads=3))
        for first in (0, 3, 5):
            for a, b in zip(task.training_batches(first), whole[first:], strict=True):
                for name in a:
                    np.testing.assert_array_equal(a[name], b[name])
        assert np.abs(whole[0]["image"] - 1.0 * whole[4]["image"]).max() > 0

    def test_objects_beyond_the_limit_are_counted(self, data_dir):
        augment = dataclasses.replace(DetectionConfig().augment, crop=False)
        task = make_task(data_dir, epochs=1, detection=DetectionConfig(augment, max_boxes=1))
        assert task.notes() == []
        list(task.training_batches(0))
        split = open_split("shapes/tiny", "train", data_dir)
        objects = [
            len(to_detection(record, 0)["labels"]) for record in split.records(range(len(split)))
        ]
        left_out = sum(count - 1 for count in objects)
        assert task.left_out.count == left_out > 1
        assert task.notes() == [
            f"{left_out} objects beyond detection.max_boxes = 1 of an image took no part, the "
            "smallest ones"
        ]

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_evaluation_of_a_split(self, data_dir, split):
        task = make_task(data_dir)
        found = task.evaluate(random_variables(task.model), split)
        assert found["count"] == 32
        assert 0 <= found["map"] <= found["map50"] <= 1
        assert found.keys() <= {*METRICS, "count"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"model": ModelConfig("ssdlite_mobilevit_xxs", num_classes=8)},
                "shapes/tiny has 8 classes, but the detector 7",
            ),
            (
                {"checkpoint": {"metric": "map_smal"}},
                "unknown checkpoint.metric 'map_smal' .did you mean 'map_small'",
            ),
            ({"sampler": SamplerConfig(6, 32, sizes=(32,), reference_devices=1)}, "6 images"),
        ],
    )
    def test_what_does_not_fit(self, data_dir, options, message):
        experiment = tiny_experiment(data_dir, model=MODEL)
        options = {
            name: dataclasses.replace(getattr(experiment, name), **value)
            if isinstance(value, dict)
            else value
            for name, value in options.items()
        }
        with pytest.raises(ConfigurationError, match=message):
            DetectionTask(dataclasses.replace(experiment, **options))

    def test_data_without_objects(self, data_dir, monkeypatch):
        task = make_task(data_dir, data=DataConfig("shapes/tiny", str(data_dir)))
        load = task.training_examples()
        record = open_split("shapes/tiny", "train", data_dir).records([0])[0]
        del record["objects"]
        with pytest.raises(DataError, match="is not one for detection"):
            load(record, 0, plan_epoch(0, 0, 64, task.table)[0])


def test_objects_left_out_are_counted_from_any_thread():
    from concurrent.futures import ThreadPoolExecutor

    left_out = LeftOutObjects()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(left_out.add, [3] * 400))
    assert left_out.count == 1200
