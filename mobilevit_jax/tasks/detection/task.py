"""Detection: how a record becomes an example; `objective` has the loss, `evaluation` measures."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from mobilevit_jax.data.annotations import pad_objects
from mobilevit_jax.data.sampler import PlannedBatch, Scale
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.errors import count
from mobilevit_jax.models.registry import head_named
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.base import Arrays, DataTask, LoadExample
from mobilevit_jax.tasks.detection.average_precision import METRICS
from mobilevit_jax.tasks.detection.evaluation import DetectionEvaluator, check_classes
from mobilevit_jax.tasks.detection.kinds import check_settings, kind_of
from mobilevit_jax.tasks.detection.predict import Detector
from mobilevit_jax.tasks.pretrained import Pretrained
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel
from mobilevit_jax.training.step import Objective


class LeftOutObjects:
    """Counts objects that did not fit into examples; may be used from any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, more: int) -> None:
        """Adds to the count."""
        with self._lock:
            self.count += more


class DetectionTask(DataTask):
    """Detection; see `DataTask`. Labels count from 1, whether there is a background or not.

    Attributes:
        left_out: Objects beyond `max_boxes` in the examples made so far, each time that they are
            met.
    """

    main_metric = "map"

    def __init__(self, settings: TaskSettings, info: DatasetInfo | None = None) -> None:
        """Opens the splits and builds the model; see `DataTask`."""
        super().__init__(settings, info)
        self.left_out = LeftOutObjects()

    @property
    def evaluation_metrics(self) -> tuple[str, ...]:
        """The names that `evaluate` gives; those of sizes that no object has are left out."""
        return METRICS

    @staticmethod
    def create_evaluator(
        loaded: Pretrained,
        info: DatasetInfo,
        processor: ImageProcessor,
        results: Path | None = None,
        **settings: Any,
    ) -> DetectionEvaluator:
        """Builds the evaluation of weights on a data set of as many classes."""
        check_classes(loaded.model, info)
        config = replace((loaded.experiment or TaskSettings()).detection, **settings)
        return DetectionEvaluator(loaded.model, processor, config, results)

    @staticmethod
    def create_predictor(
        loaded: Pretrained, processor: ImageProcessor, **settings: Any
    ) -> Detector:
        """Builds what finds objects in images."""
        config = replace((loaded.experiment or TaskSettings()).detection, **settings)
        return Detector(loaded.model, loaded.variables, processor, loaded.class_names, config)

    def _make_model(self, settings: TaskSettings, info: DatasetInfo) -> nn.Module:
        unnamed = head_named(settings.model.name).first_named
        model = settings.model.build(len(info.class_names) + unnamed, parallel.AXIS)
        check_settings(model, settings)
        check_classes(model, info)
        return model

    def _make_objective(self, settings: TaskSettings) -> Objective:
        return kind_of(self.model).objective(self.model, settings.detection)

    def _make_evaluator(self) -> DetectionEvaluator:
        settings = self._settings
        return DetectionEvaluator(self.model, settings.processor, settings.detection)

    def zero_targets(self, scale: Scale, rows: int) -> Arrays:
        """Returns boxes [rows, max_boxes, 4], labels [rows, max_boxes], weights [rows]."""
        limit = self._settings.detection.max_boxes
        return {
            "boxes": np.zeros((rows, limit, 4), np.float32),
            "labels": np.zeros((rows, limit), np.int32),
            **{name: np.zeros(rows, np.float32) for name in self.objective.weights},
        }

    def training_examples(self) -> LoadExample:
        """Returns the function that turns a record into an augmented example.

        Crowds and boxes without area take no part; an image without objects stays. It adds nothing
        to the loss of a single-shot detector, where CVNets leaves it out of the training data.
        """
        kind, settings, split = kind_of(self.model), self._settings, self._splits["train"]
        limit = settings.detection.max_boxes

        def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
            made = kind.example(record, record_id, planned, split, settings)
            image, boxes, labels, weights = made
            padded = pad_objects(boxes, labels, limit)
            self.left_out.add(padded.left_out)
            return {"image": image, "boxes": padded.boxes, "labels": padded.labels, **weights}

        return load

    def notes(self) -> list[str]:
        """Adds how many objects were left out."""
        notes = super().notes()
        if self.left_out.count:
            notes.append(
                f"{count(self.left_out.count, 'object')} beyond detection.max_boxes = "
                f"{self._settings.detection.max_boxes} of an image took no part, the smallest "
                "ones"
            )
        return notes

    def timed_parts(self) -> dict[str, Callable[[], Any]]:
        """Returns forward pass, matching and NMS at the size of evaluation; see `timed`."""
        from mobilevit_jax.tasks.detection.timed import timed_parts

        settings = self._settings
        return timed_parts(self.model, settings.detection, *settings.processor.crop_size)
