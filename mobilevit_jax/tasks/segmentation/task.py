"""Segmentation: how a record becomes an example; see `tasks.base`. `objective` has the loss."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import numpy as np

from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.augment_masks import augment_mask
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.masks import check_size, mask_class_names, to_segmentation
from mobilevit_jax.data.sampler import PlannedBatch, Scale
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.base import Arrays, DataTask, LoadExample
from mobilevit_jax.tasks.pretrained import Pretrained
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.evaluation import SegmentationEvaluator
from mobilevit_jax.tasks.segmentation.maps import read_mask, whole_images
from mobilevit_jax.tasks.segmentation.objective import SegmentationObjective
from mobilevit_jax.tasks.segmentation.predict import Segmenter
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel


class SegmentationTask(DataTask):
    """Segmentation; see `DataTask`. Class names are those of the masks' values."""

    main_metric = "miou"

    @staticmethod
    def class_names_of(info: DatasetInfo) -> tuple[str, ...]:
        """Returns the names of a data set's classes, the background's first."""
        return mask_class_names(info)

    @staticmethod
    def create_evaluator(
        loaded: Pretrained, info: DatasetInfo, processor: ImageProcessor, **settings: Any
    ) -> SegmentationEvaluator:
        """Builds the evaluation of weights on a data set of as many classes.

        Raises:
            ConfigurationError: If it has another number of classes.
        """
        names = mask_class_names(info)
        _check_classes(loaded.model.num_classes, len(names), info.name)
        config = replace((loaded.experiment or TaskSettings()).segmentation, **settings)
        return SegmentationEvaluator(loaded.model, processor, config, names)

    @staticmethod
    def create_predictor(loaded: Pretrained, processor: ImageProcessor) -> Segmenter:
        """Builds what answers for images."""
        return Segmenter(loaded.model, loaded.variables, processor, loaded.class_names)

    def _make_model(self, settings: TaskSettings, info: DatasetInfo) -> nn.Module:
        whole_images(settings.processor)  # refuses a letterbox now, not at the first evaluation
        model = settings.model.build(len(self.class_names), parallel.AXIS)
        _check_classes(model.num_classes, len(self.class_names), info.name)
        return model

    def _make_objective(self, settings: TaskSettings) -> SegmentationObjective:
        options = settings.segmentation
        return SegmentationObjective(options.aux_weight, options.convention)

    @property
    def evaluation_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that `evaluate` gives, besides "count"."""
        return ("miou", "pixel_accuracy")

    def _make_evaluator(self) -> SegmentationEvaluator:
        settings = self._settings
        return SegmentationEvaluator(
            self.model, settings.processor, settings.segmentation, self.class_names
        )

    def zero_targets(self, scale: Scale, rows: int) -> Arrays:
        """Returns masks [rows, h, w]."""
        return {"mask": np.zeros((rows, scale.height, scale.width), np.uint8)}

    def training_examples(self) -> LoadExample:
        """Returns the function that turns a record into an augmented image and mask."""
        settings = self._settings
        return training_examples(
            settings.segmentation,
            settings.processor,
            len(self.class_names),
            seed=settings.seed,
        )


def training_examples(
    config: SegmentationConfig,
    processor: ImageProcessor,
    num_classes: int,
    *,
    seed: int,
) -> LoadExample:
    """Returns the function that turns a record into an augmented image and mask.

    Random draws are a function of (seed, epoch, record id) alone.
    """
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        found = to_segmentation(record)
        image = decode_image(found["image"], name=found["name"], channel_order=order)
        mask = read_mask(found["mask"], num_classes, name=found["name"])
        check_size(mask, image, name=f"mask of {found['name']}")
        rng = example_rng(seed, planned.epoch, record_id)
        image, mask = augment_mask(image, mask, rng, planned.height, planned.width, config.augment)
        return {"image": image, "mask": mask}

    return load


def _check_classes(num_classes: int, there: int, dataset: str) -> None:
    """Checks that a model has as many classes as a data set's masks, and a mask can tell them."""
    if num_classes != there:
        raise ConfigurationError(
            f"the model has {num_classes} classes, but the masks of {dataset} have {there}; leave "
            "model.num_classes out to take the data set's"
        )
    if there > VOID:
        raise ConfigurationError(f"{dataset} has {there} classes; a mask can hold {VOID}")
