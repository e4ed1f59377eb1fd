"""Image classification: how a record becomes an example, and how weights are evaluated."""

import collections
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import numpy as np

from mobilevit_jax.data.augment import AugmentConfig, decode_and_augment, example_rng
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.record_parser import record_name
from mobilevit_jax.data.sampler import PlannedBatch, Scale
from mobilevit_jax.data.sources import DatasetInfo, Split
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.problem_types import SINGLE_LABEL, problem_type_of
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.base import Arrays, DataTask, LoadExample
from mobilevit_jax.tasks.classification_objective import ClassificationObjective
from mobilevit_jax.tasks.classifier import Classifier
from mobilevit_jax.tasks.evaluation import Outputs, SplitEvaluator, image_examples
from mobilevit_jax.tasks.mixing import mix_pairs
from mobilevit_jax.tasks.pretrained import Pretrained
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel
from mobilevit_jax.training.step import Objective, make_evaluation_step


class ClassificationTask(DataTask):
    """Classification; see `DataTask`."""

    main_metric = "top1"

    def _make_model(self, settings: TaskSettings, info: DatasetInfo) -> nn.Module:
        model = settings.model.build(len(info.class_names), parallel.AXIS)
        _check_classes(model.num_classes, info.class_names, settings.data.dataset)
        return model

    def _make_objective(self, settings: TaskSettings) -> ClassificationObjective:
        augment, mix = settings.augment, None
        if augment.mixup_alpha or augment.cutmix_alpha:
            mix = functools.partial(mix_pairs, config=augment, processor=settings.processor)
        return ClassificationObjective(settings.loss.label_smoothing, mix)

    def _make_evaluator(self) -> "Evaluator":
        return Evaluator(self.model, self.objective, self._settings.processor)

    def zero_targets(self, scale: Scale, rows: int) -> Arrays:
        """Returns labels [rows]."""
        return {"label": np.zeros(rows, np.int32)}

    def training_examples(self) -> LoadExample:
        """Returns the function that turns a record into an augmented example."""
        settings = self._settings
        return training_examples(settings.augment, settings.processor, seed=settings.seed)

    @staticmethod
    def create_evaluator(
        loaded: Pretrained, info: DatasetInfo, processor: ImageProcessor
    ) -> "Evaluator":
        """Builds the evaluation of weights on a data set of as many classes.

        Raises:
            ConfigurationError: If the weights do not choose one class for each image.
        """
        if (meaning := problem_type_of(loaded.model)) != SINGLE_LABEL:
            raise ConfigurationError(
                f"the weights have problem_type={meaning!r}, and evaluation measures only "
                "classifiers that choose one class for each image; use predict"
            )
        return Evaluator(loaded.model, ClassificationObjective(), processor)

    @staticmethod
    def create_predictor(loaded: Pretrained, processor: ImageProcessor) -> Classifier:
        """Builds what answers for images."""
        return Classifier(loaded.model, loaded.variables, processor, loaded.class_names)


class Evaluator(SplitEvaluator[dict[str, float]]):
    """Measures "loss", "top1" and "top5"."""

    _fields = {"label": ()}

    def __init__(self, model: nn.Module, objective: Objective, processor: ImageProcessor) -> None:
        """Compiles nothing yet; the first call does."""
        super().__init__(
            parallel.pmap_evaluate(make_evaluation_step(model, objective, processor)),
            evaluation_examples(processor),
            processor.crop_size,
        )

    def _read(self, outputs: Outputs) -> dict[str, float]:
        return {name: float(value) for name, value in outputs.items()}

    def _metrics(
        self, batches: Iterator[dict[str, float]], split: Split, loader: LoaderConfig
    ) -> dict[str, float]:
        """Returns {"loss", "top1", "top5"} as means, and "count"."""
        total: dict[str, float] = collections.defaultdict(float)
        for sums in batches:
            for name, value in sums.items():
                total[name] += value
        count = total.pop("count")
        means = {name: value / max(count, 1) for name, value in total.items()}
        return means | {"count": int(count)}


def training_examples(
    config: AugmentConfig, processor: ImageProcessor, *, seed: int
) -> LoadExample:
    """Returns the function that turns a record into an augmented example.

    Random draws are a function of (seed, epoch, record id) alone.
    """
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        image = decode_and_augment(
            record["image"],
            example_rng(seed, planned.epoch, record_id),
            planned.height,
            planned.width,
            config,
            name=record_name(record, record_id),
            channel_order=order,
        )
        return {"image": image, "label": _label(record, record_id)}

    return load


def evaluation_examples(processor: ImageProcessor) -> LoadExample:
    """Returns the function that turns a record into an example as `predict` would see it."""
    load_image = image_examples(processor)

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        image = load_image(record, record_id, planned)["image"]
        return {"image": image, "label": _label(record, record_id)}

    return load


def _label(record: dict[str, Any], record_id: int) -> np.int32:
    """Returns the record's class; not a DataError without one, which would count as a bad image."""
    label = record.get("label")
    if label is None or label < 0:
        raise ConfigurationError(
            f"{record_name(record, record_id)} has no label (it says {label}), as in a "
            "test split whose labels are kept secret; choose another split or data set"
        )
    return np.int32(label)


def _check_classes(num_classes: int, class_names: tuple[str, ...], dataset: str) -> None:
    if num_classes < max(len(class_names), 1):
        raise ConfigurationError(
            f"model.num_classes is {num_classes}, but {dataset} has {len(class_names)} classes; "
            "leave it out to take the data set's"
        )
