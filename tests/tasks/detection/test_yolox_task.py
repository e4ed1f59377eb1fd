"""The task of a YOLOX: its examples, its step and its evaluation."""

# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.config import shrink
from mobilevit_jax.data.augment_boxes import BoxAugmentConfig
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.mosaic import MosaicConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.average_precision import METRICS
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.evaluation import DetectionEvaluator
from mobilevit_jax.tasks.detection.predict import Detector
from mobilevit_jax.tasks.detection.task import DetectionTask
from mobilevit_jax.tasks.detection.timed import timed_parts
from mobilevit_jax.tasks.detection.yolox.objective import YoloxObjective
from mobilevit_jax.training import parallel
from mobilevit_jax.training.state import EMAConfig, create_state
from mobilevit_jax.training.step import make_train_step
from tests.small import random_variables, tiny_experiment
from tests.tasks.detection.stand_ins import MemorySplit, SmallYolox, build_small_yolox

MODEL = ModelConfig("yolox_mobilevit_xxs")
PROCESSOR = ImageProcessor(size=(32, 32), crop_size=(32, 32), do_pad=True)
OBJECTIVE = YoloxObjective(SmallYolox())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ModelConfig, "build", build_small_yolox)


def make_task(data_dir, close_mosaic=1, **options) -> DetectionTask:
    options = {"detection": DetectionConfig(close_mosaic=close_mosaic), **options}
    return DetectionTask(
        tiny_experiment(data_dir, **{"model": MODEL, "processor": PROCESSOR, **options})
    )


def batch_of(count: int, *, objects: int = 2, size: int = 64) -> dict:
    """Returns random images with `objects` objects each, padded to 5."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.5, (count, objects, 2))
    boxes, labels = np.zeros((count, 5, 4), np.float32), np.zeros((count, 5), np.int32)
    sides = rng.uniform(0.2, 0.5, start.shape)
    boxes[:, :objects] = np.concatenate([start, start + sides], axis=-1)
    labels[:, :objects] = rng.integers(1, 9, (count, objects))
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "boxes": boxes,
        "labels": labels,
        "weight": np.ones(count, np.float32),
        "l1": np.ones(count, np.float32),
    }


def train_step(accumulation=1):
    """Returns a fresh state, and a step over four devices that can be called again and again."""
    model, optimizer, ema = SmallYolox(), optax.adam(3e-3), EMAConfig(0.5)
    state = create_state(model, optimizer, ema, OBJECTIVE.metrics, 0)
    step = make_train_step(model, optimizer, OBJECTIVE, ema, seed=0, accumulation=accumulation)
    return parallel.replicate(state), parallel.pmap_train(step)


class Oracle(SmallYolox):
    """Finds in every image what its `answers` say: (tx, ty, tw, th, class) at cell 0."""

    answers: tuple[float, ...] = ()

    def apply(self, variables, images, **options):
        """Returns outputs that have one object each."""
        cells = len(self.points(*images.shape[1:3]))
        logits = jnp.full((len(images), cells, self.num_classes), -9.0)
        raw = jnp.zeros((len(images), cells, 4)).at[:, 0].set(jnp.array(self.answers[:4]))
        objectness = jnp.full((len(images), cells), -9.0).at[:, 0].set(9.0)
        return logits.at[:, 0, int(self.answers[4])].set(9.0), raw, objectness


def test_detections_are_placed_in_letterboxed_images(tmp_path):
    """A picture of 60x120 pixels is seen in 32x64 of 64x64, at 8/15 of its size."""
    box = (30.0, 15.0, 90.0, 45.0)
    split = MemorySplit([(60, 120)], [[(box, 2, False)]])
    seen = np.array(box) * 64 / 120
    centre, side = (seen[:2] + seen[2:]) / 2, seen[2:] - seen[:2]
    answers = (*(centre / 8).tolist(), *np.log(side / 8).tolist(), 1)
    processor = ImageProcessor(size=(64, 64), crop_size=(64, 64), do_pad=True)
    model = Oracle(3, answers=answers)
    evaluator = DetectionEvaluator(model, processor, DetectionConfig(), tmp_path / "found.json")
    metrics = evaluator({}, split, 4, LoaderConfig(threads=1))
    assert metrics["map"] == pytest.approx(1)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["category_id"] for one in found] == [2]
    np.testing.assert_allclose(found[0]["bbox"], [30, 15, 60, 30], atol=0.05)
    detector = Detector(model, {}, processor, ("a", "b", "c"))
    (detection,) = detector(np.zeros((60, 120, 3), np.uint8))
    assert detection.name == "b"
    np.testing.assert_allclose(detection.box, box, atol=0.05)
    plain = ImageProcessor(size=(64, 64), crop_size=(64, 64))
    for build in (
        lambda: Detector(model, {}, plain, ("a", "b", "c")),
        lambda: DetectionEvaluator(model, plain, DetectionConfig()),
    ):
        with pytest.raises(ConfigurationError, match="takes letterboxed images"):
            build()


class TestStep:
    @pytest.mark.slow
    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_loss_and_gradient_are_divided_by_the_foreground_of_the_global_batch(
        self, accumulation
    ):
        batch = batch_of(8)
        batch["labels"][:3] = 0  # the first device has no object at all
        batch["weight"][7] = 0
        state, step = train_step(accumulation)
        variables = jax.device_get(state.variables)
        parts = 4 * accumulation  # batch norm sees each alone

        @jax.jit
        @jax.value_and_grad
        def total(params, rows, count):
            outputs, _ = SmallYolox().apply(
                {**variables, "params": params},
                jnp.float32(rows["image"]) / 255,
                train=True,
                mutable=["batch_stats"],
            )
            losses, metrics = OBJECTIVE.loss(outputs, OBJECTIVE.prepare(rows, None))
            wanted = jnp.where(count, metrics["count"], losses)
            return wanted @ rows["weight"]

        split = [
            {name: x[rows] for name, x in batch.items()} for rows in np.split(np.arange(8), parts)
        ]
        foreground = sum(total(variables["params"], part, True)[0] for part in split)
        losses, gradients = zip(
            *(total(variables["params"], part, False) for part in split), strict=True
        )
        state, metrics = step(state, parallel.shard(batch))
        assert float(state.meter["count"]) == foreground > 4
        assert float(metrics["loss"]) == pytest.approx(float(sum(losses) / foreground), rel=1e-4)
        norm = optax.tree.norm(jax.tree.map(lambda *g: sum(g) / foreground, *gradients))
        assert float(state.meter["gradient_norm"]) == pytest.approx(float(norm), rel=1e-3)

    def test_it_learns_and_bears_a_batch_without_objects(self):
        state, step = train_step()
        nothing = batch_of(8)
        nothing["labels"][:] = 0
        state, metrics = step(state, parallel.shard(nothing))
        assert np.isfinite(float(metrics["loss"])) and float(state.meter["count"]) == 0
        batch = parallel.shard(batch_of(8))
        losses = []
        for _ in range(60):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < 0.5 * losses[0]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))


@pytest.mark.usefixtures("small")
class TestTask:
    def test_there_is_no_background(self, data_dir):
        task = make_task(data_dir)
        assert task.model.num_classes == len(task.class_names) == 8
        assert isinstance(task.objective, YoloxObjective)
        batch = next(iter(task.training_batches(0)))
        assert set(np.unique(batch["labels"])) <= set(range(9))

    def test_zeros_to_compile_with_look_like_batches(self, data_dir):
        task = make_task(data_dir)
        (scale,) = task.table
        zeros, batch = task.zero_batch(scale), next(iter(task.training_batches(0)))
        assert {name: (a.shape, a.dtype) for name, a in zeros.items()} == {
            name: (a.shape, a.dtype) for name, a in batch.items()
        }

    def test_the_last_epochs_have_whole_images_and_another_loss(self, data_dir):
        """Two epochs of four steps: what changes does so by the plan alone."""
        plain = MosaicConfig(mosaic_probability=0, distort_probability=0, flip_probability=0)
        whole = list(
            make_task(
                data_dir, detection=DetectionConfig(mosaic=plain, close_mosaic=1)
            ).training_batches(0)
        )
        still = MosaicConfig(distort_probability=0, flip_probability=0)
        batches = list(
            make_task(
                data_dir, detection=DetectionConfig(mosaic=still, close_mosaic=1)
            ).training_batches(0)
        )
        assert [batch["l1"].max() for batch in batches] == [0] * 4 + [1] * 4
        for mosaic, alone in zip(batches[:4], whole[:4], strict=True):
            assert (mosaic["image"] != alone["image"]).any((1, 2, 3)).all()
        for mosaic, alone in zip(batches[4:], whole[4:], strict=True):
            for name in mosaic:
                np.testing.assert_array_equal(mosaic[name], alone[name])

    def test_batches_from_any_step_are_the_same(self, data_dir):
        whole = list(make_task(data_dir, loader=LoaderConfig(threads=1)).training_batches(0))
        task = make_task(data_dir, loader=LoaderConfig(threads=3))
        for first in (0, 3, 5):
            for a, b in zip(task.training_batches(first), whole[first:], strict=True):
                for name in a:
                    np.testing.assert_array_equal(a[name], b[name])

    def test_objects_beyond_the_limit_are_counted(self, data_dir):
        task = make_task(data_dir, detection=DetectionConfig(close_mosaic=1, max_boxes=1))
        list(task.training_batches(0))
        assert task.left_out.count > 64 and "beyond detection.max_boxes = 1" in task.notes()[0]

    def test_evaluation(self, data_dir):
        task = make_task(data_dir)
        found = task.evaluate(random_variables(task.model), "validation")
        assert found["count"] == 32 and found.keys() <= {*METRICS, "count"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"processor": ImageProcessor(size=32, crop_size=(32, 32))},
                "takes letterboxed images",
            ),
            ({"detection": DetectionConfig()}, "the last 15 epochs have no mosaics, and the run"),
            (
                {"detection": DetectionConfig(match_threshold=0.4, close_mosaic=1)},
                "detection.match_threshold is a setting of a single-shot",
            ),
            (
                {"detection": DetectionConfig(BoxAugmentConfig(crop=False), close_mosaic=1)},
                "detection.augment is a setting of a single-shot",
            ),
            ({"model": ModelConfig("yolox_mobilevit_xxs", num_classes=9)}, "but the detector 9"),
        ],
    )
    def test_what_does_not_fit(self, data_dir, options, message):
        with pytest.raises(ConfigurationError, match=message):
            make_task(data_dir, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processor": PROCESSOR}, "leave processor.do_pad off"),
        ({"detection": DetectionConfig(close_mosaic=3)}, "close_mosaic is a setting of a YOLOX"),
    ],
)
def test_what_is_of_no_use_to_others(data_dir, options, message):
    experiment = tiny_experiment(data_dir, model=ModelConfig("ssdlite_mobilevit_xxs"), **options)
    with pytest.raises(ConfigurationError, match=message):
        DetectionTask(experiment)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SamplerConfig(16, 32, sizes=(32, 40), reference_devices=1)},
        {"processor": ImageProcessor(size=(40, 40), crop_size=(40, 40), do_pad=True)},
    ],
)
def test_sizes_that_are_none_of_the_model_are_refused_at_once(data_dir, options):
    with pytest.raises(ConfigurationError, match="multiples? of 32"):
        make_task(data_dir, **options)


def test_the_tiny_form_has_mosaics(data_dir):
    experiment = tiny_experiment(data_dir, model=MODEL, processor=PROCESSOR)
    tiny = shrink(dataclasses.replace(experiment, detection=DetectionConfig()))
    assert tiny.detection.close_mosaic == 0 and tiny.processor.do_pad


def test_the_parts_that_a_benchmark_times():
    parts = timed_parts(SmallYolox(4), DetectionConfig(max_boxes=5), 64, 96)
    forward, match, detect = (jax.device_get(part()) for part in parts.values())
    cells = len(SmallYolox().points(64, 96))
    assert [one.shape for one in forward] == [(32, cells, 4), (32, cells, 4), (32, cells)]
    assert match.foreground.shape == (32, cells) and match.foreground.any(1).all()
    assert detect.valid.any() and detect.labels.max() <= 4
