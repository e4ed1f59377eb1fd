"""Loss, examples and task of segmentation."""

# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportIndexIssue=false

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.config import CheckpointConfig, DataConfig
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.masks import encode_mask
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.pretrained import Pretrained
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.objective import SegmentationObjective, pixel_sums
from mobilevit_jax.tasks.segmentation.task import SegmentationTask, training_examples
from mobilevit_jax.training import parallel
from mobilevit_jax.training.schedule import ScheduleConfig, warmup_cosine
from mobilevit_jax.training.setup import begin
from tests.data.street_scenes import NAMES as STREET_NAMES
from tests.data.street_scenes import SIZE, draw_street, write_streets
from tests.small import tiny_experiment
from tests.tasks.segmentation.stand_ins import (
    NAMES,
    MemorySplit,
    PixelNet,
    build_pixel_net,
    info_of,
    variables_of,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 5, 7, 4)).astype(np.float32)
MASK = RNG.choice(np.array([0, 1, 2, 3, 255], np.uint8), (3, 5, 7))


sums_of = jax.jit(pixel_sums)


class TestLoss:
    def test_sums_over_labelled_pixels(self):
        labelled = MASK != 255
        labels = np.where(labelled, MASK, 0).astype(int)
        losses = optax.softmax_cross_entropy_with_integer_labels(LOGITS, labels)
        right = (LOGITS.argmax(-1) == labels) & labelled
        found = sums_of(LOGITS, MASK)
        np.testing.assert_allclose(found["loss"], (losses * labelled).sum((1, 2)), rtol=1e-5)
        np.testing.assert_array_equal(found["pixel_accuracy"], right.sum((1, 2)))
        normaliser = SegmentationObjective().normaliser({"mask": MASK})
        np.testing.assert_array_equal(normaliser, labelled.sum((1, 2)))

    def test_void_has_no_gradient(self):
        gradient = jax.grad(lambda x: sums_of(x, MASK)["loss"].sum())(LOGITS)
        assert (np.asarray(gradient)[MASK == 255] == 0).all()
        assert np.abs(np.asarray(gradient)[MASK != 255]).min() > 0

    def test_an_image_of_void_alone(self):
        void = np.full((1, 2, 2), 255, np.uint8)
        found = sums_of(LOGITS[:1, :2, :2], void)
        assert found["loss"] == 0 and found["pixel_accuracy"] == 0

    def test_of_equal_scores_the_lower_class_wins(self):
        found = sums_of(
            np.zeros((1, 1, 4, 4), np.float32), np.arange(4, dtype=np.uint8)[None, None]
        )
        assert found["pixel_accuracy"] == 1

    def test_nan_is_never_right(self):
        logits = np.zeros((1, 1, 2, 4), np.float32)
        logits[0, 0, :, 3] = np.nan
        assert sums_of(logits, np.zeros((1, 1, 2), np.uint8))["pixel_accuracy"] == 0

    @pytest.mark.parametrize(("convention", "factor"), [("v0.1", 0.5), ("later", 1.0)])
    def test_auxiliary_classifier(self, convention, factor):
        objective = SegmentationObjective(0.4, convention)
        main = np.asarray(pixel_sums(LOGITS, MASK)["loss"])
        auxiliary = np.asarray(pixel_sums(-LOGITS, MASK)["loss"])
        losses, metrics = objective.loss(
            (jnp.asarray(LOGITS), jnp.asarray(-LOGITS)), {"mask": MASK}
        )
        np.testing.assert_allclose(losses, factor * (main + 0.4 * auxiliary), rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], losses)
        alone, _ = objective.loss(LOGITS, {"mask": MASK})
        np.testing.assert_allclose(alone, main, rtol=1e-6)

    def test_memory_of_the_gradient(self):
        """Beside the logits and their gradient there is no room for a third such array."""
        shape = (2, 64, 64, 21)
        logits = jax.ShapeDtypeStruct(shape, np.float32)
        mask = jax.ShapeDtypeStruct(shape[:3], np.uint8)
        function = jax.jit(jax.grad(lambda x, m: pixel_sums(x, m)["loss"].sum()))
        memory = function.lower(logits, mask).compile().memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < np.prod(shape) * 4


def record_of(image_size=(40, 50), mask=None):
    height, width = image_size
    mask = np.zeros(image_size, np.uint8) if mask is None else mask
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200  # red, in OpenCV's order
    data = cv2.imencode(".png", image)[1].tobytes()
    return {"image": data, "mask": encode_mask(mask), "name": "photo.png"}


class TestExamples:
    planned = PlannedBatch(32, 48, np.arange(1))

    def load(self, record, *, order="bgr", epoch=0, record_id=0, classes=4):
        processor = ImageProcessor(do_flip_channel_order=order == "bgr")
        load = training_examples(SegmentationConfig(), processor, classes, seed=0)
        return load(record, record_id, self.planned._replace(epoch=epoch))

    @pytest.mark.parametrize(("order", "channel"), [("bgr", 2), ("rgb", 0)])
    def test_shapes_and_channels(self, order, channel):
        example = self.load(record_of(), order=order)
        assert example["image"].shape == (32, 48, 3) and example["mask"].shape == (32, 48)
        assert example["image"].dtype == example["mask"].dtype == np.uint8
        assert (example["image"][..., channel] == 200).all()

    def test_draws_follow_from_epoch_and_record(self):
        split = MemorySplit(1)
        record = split.records([0])[0]
        one = self.load(record)["image"]
        assert (one == self.load(record)["image"]).all()
        assert (one != self.load(record, epoch=1)["image"]).any()
        assert (one != self.load(record, record_id=1)["image"]).any()

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.zeros((40, 49), np.uint8), "mask of photo.png is 49x40, but its image is 50x40"),
            (np.full((40, 50), 4, np.uint8), "mask of photo.png has the value 4; .* 0 to 3"),
            (np.full((40, 50), 254, np.uint8), "mask of photo.png has the value 254"),
        ],
    )
    def test_masks_that_do_not_fit(self, mask, message):
        with pytest.raises(DataError, match=message):
            self.load(record_of(mask=mask))

    def test_void_is_allowed(self):
        example = self.load(record_of(mask=np.full((40, 50), 255, np.uint8)))
        assert (example["mask"] == 255).all()


def experiment_of(data_dir, **options):
    return tiny_experiment(data_dir, model=ModelConfig("deeplabv3_mobilevit_xxs"), **options)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ModelConfig, "build", build_pixel_net)


@pytest.mark.usefixtures("small")
class TestOwnClasses:
    """A folder of masks whose class 0 is no background."""

    @pytest.fixture
    def task(self, tmp_path):
        source = write_streets(tmp_path / "streets", count=16)
        prepare("mask_folder", source=source, data_dir=tmp_path, name="streets")
        schedule = ScheduleConfig(peak=0.3, warmup_steps=0)
        data = DataConfig("streets", str(tmp_path))
        return SegmentationTask(experiment_of(tmp_path, data=data, schedule=schedule, epochs=8))

    def test_they_are_those_of_the_masks(self, task):
        assert task.class_names == STREET_NAMES and task.model.num_classes == 11

    def test_all_are_learnt_and_void_does_not_count(self, task):
        experiment = task._settings
        rate = warmup_cosine(experiment.schedule, task.steps_of_epochs)
        create, step = begin(experiment, task, rate)
        state = parallel.replicate(create())
        losses = []
        for batch in parallel.prefetch(task.training_batches(0)):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < 0.8 * losses[0]
        found = task.evaluate(state.variables, "validation")
        assert found["count"] == 16 and 0 < found["miou"] < 1
        evaluator = task.evaluator
        assert list(evaluator.per_class) == list(STREET_NAMES)
        height, width = SIZE
        void = sum(int((draw_street(1000 + i)[1] == 255).sum()) for i in range(16))
        assert evaluator.found.matrix.sum() == 16 * height * width - void


@pytest.mark.usefixtures("small")
class TestTask:
    def test_classes_with_the_background(self, data_dir):
        task = SegmentationTask(experiment_of(data_dir))
        assert task.class_names[:2] == ("background", "circle") and len(task.class_names) == 9
        assert task.model.num_classes == 9
        assert task.evaluation_metrics == ("miou", "pixel_accuracy") and task.main_metric == "miou"

    def test_batches_and_zeros_have_one_form(self, data_dir):
        task = SegmentationTask(experiment_of(data_dir))
        (scale,) = task.table
        zeros, batch = task.zero_batch(scale), next(iter(task.training_batches(0)))
        assert {name: (a.shape, a.dtype) for name, a in zeros.items()} == {
            name: (a.shape, a.dtype) for name, a in batch.items()
        }
        assert set(batch) == {"image", "mask", "weight"}

    def test_batches_from_a_later_step_are_the_same(self, data_dir):
        task = SegmentationTask(experiment_of(data_dir))
        whole = list(task.training_batches(0))
        for one, two in zip(task.training_batches(5), whole[5:], strict=True):
            for name, array in one.items():
                np.testing.assert_array_equal(array, two[name])

    @pytest.mark.parametrize("aux_head", [None, True])
    def test_training_lowers_the_loss(self, data_dir, aux_head):
        experiment = experiment_of(data_dir, schedule=ScheduleConfig(peak=0.3, warmup_steps=0))
        model = dataclasses.replace(experiment.model, aux_head=aux_head)
        experiment = dataclasses.replace(experiment, model=model)
        task = SegmentationTask(experiment)
        create, step = begin(
            experiment, task, warmup_cosine(experiment.schedule, task.steps_of_epochs)
        )
        state = parallel.replicate(create())
        losses = []
        for batch in parallel.prefetch(task.training_batches(0)):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert np.mean(losses[-2:]) < 0.8 * losses[0]
        found = task.evaluate(state.variables, "validation")
        assert found["count"] == 32 and found["pixel_accuracy"] > 0.3
        assert 0 < found["miou"] < 1

    def test_the_loss_is_the_mean_over_labelled_pixels_of_all_devices(self, data_dir):
        experiment = experiment_of(data_dir)
        task = SegmentationTask(experiment)
        create, step = begin(
            experiment, task, warmup_cosine(experiment.schedule, task.steps_of_epochs)
        )
        state = create()
        batch = dict(next(iter(task.training_batches(0))))
        batch["mask"] = batch["mask"].copy()
        batch["mask"][:3] = 255  # one device has fewer labelled pixels than the others
        batch["weight"] = np.float32([1] * 14 + [0] * 2)
        apply = jax.jit(
            lambda v, x: task.model.apply(v, x / 255, train=True, mutable=["batch_stats"])[0]
        )
        total = count = 0.0
        for rows in np.split(np.arange(16), 4):  # batch norm is each device's own
            outputs = apply(state.variables, batch["image"][rows].astype(np.float32))
            sums = np.asarray(pixel_sums(outputs, batch["mask"][rows])["loss"])
            total += (batch["weight"][rows] * sums).sum()
            count += ((batch["mask"][rows] != 255).sum((1, 2)) * batch["weight"][rows]).sum()
        _, metrics = step(parallel.replicate(state), parallel.shard(batch))
        assert float(metrics["loss"]) == pytest.approx(total / count, rel=1e-5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"model": ModelConfig("deeplabv3_mobilevit_xxs", num_classes=8)},
                "the model has 8 classes, but the masks of shapes/tiny have 9",
            ),
            ({"checkpoint": CheckpointConfig(metric="top1")}, "unknown checkpoint.metric 'top1'"),
            (
                {"processor": ImageProcessor(do_pad=True, size=32, crop_size=(32, 32))},
                "segmentation resizes whole images and pads none: set do_pad",
            ),
        ],
    )
    def test_what_does_not_fit(self, data_dir, options, message):
        experiment = dataclasses.replace(experiment_of(data_dir), **options)
        with pytest.raises(ConfigurationError, match=message):
            SegmentationTask(experiment)

    def test_two_data_sets_as_one(self, data_dir):
        data = DataConfig(
            "shapes/tiny+shapes/tiny", str(data_dir), train="train,validation", validation=",test"
        )
        task = SegmentationTask(experiment_of(data_dir, data=data))
        assert task.examples == 96 and task.steps_of_epochs == [6, 6]
        assert next(iter(task.training_batches(0)))["image"].shape == (16, 32, 32, 3)


def pretrained(**options):
    processor = ImageProcessor(size=(24, 32), crop_size=(24, 32))
    values = (PixelNet(), variables_of(), processor, NAMES, "deeplabv3_mobilevit_xxs", "weights")
    return Pretrained(*values, **options)


def test_evaluator_and_predictor_of_weights():
    loaded = pretrained()
    info = info_of(NAMES)
    evaluator = SegmentationTask.create_evaluator(loaded, info, loaded.processor)
    found = evaluator(parallel.replicate(loaded.variables), MemorySplit(3), 8, LoaderConfig())
    assert found["count"] == 3 and set(evaluator.per_class) <= set(NAMES)
    predictor = SegmentationTask.create_predictor(loaded, loaded.processor)
    assert predictor.class_names == SegmentationTask.class_names_of(info) == NAMES
    with pytest.raises(ConfigurationError, match="the model has 4 classes, .* memory have 3"):
        SegmentationTask.create_evaluator(
            loaded, info_of(("background", "a", "b")), loaded.processor
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"convention": "v0.2"}, "convention 'v0.2'"),
        ({"protocol": "keep-aspect"}, "protocol 'keep-aspect'.*did you mean 'keep_aspect'"),
        ({"multiple": 0}, "multiple"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SegmentationConfig(**options)
