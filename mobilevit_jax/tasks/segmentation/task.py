"""Segmentation: how a record becomes an example, its loss, its metrics; see `tasks.base`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.augment_masks import augment_mask
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.masks import mask_class_names, to_segmentation
from mobilevit_jax.data.sampler import PlannedBatch, Scale
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.base import Arrays, DataTask, LoadExample
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.evaluation import SegmentationEvaluator
from mobilevit_jax.tasks.segmentation.maps import check_size, read_mask
from mobilevit_jax.tasks.segmentation.predict import Segmenter
from mobilevit_jax.training import parallel

if TYPE_CHECKING:
    from mobilevit_jax.config import Experiment
    from mobilevit_jax.pretrained import Pretrained


@dataclass(frozen=True)
class SegmentationObjective:
    """Cross-entropy of the labelled pixels, as the steps take it.

    Attributes:
        config: Weight and convention of the auxiliary classifier's loss.
    """

    config: SegmentationConfig = field(default_factory=SegmentationConfig)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sums."""
        return ("loss", "pixel_accuracy")

    def prepare(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the batch as it is."""
        return batch

    def normaliser(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Returns the number of labelled pixels of each image [b]: the loss is a pixel's mean."""
        return jnp.sum(batch["mask"] != VOID, axis=(1, 2), dtype=jnp.float32)

    def loss(
        self, outputs: Any, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns sums over pixels: losses [b], and {"loss", "pixel_accuracy"}, each [b].

        Args:
            outputs: Logits [b, h, w, classes], or a pair of them with those of the auxiliary
                classifier, of the same shape.
            batch: "mask" uint8 [b, h, w]; pixels of 255 count nowhere.
        """
        if not isinstance(outputs, tuple):
            metrics = pixel_sums(outputs, batch["mask"])
            return metrics["loss"], metrics
        metrics = pixel_sums(outputs[0], batch["mask"])
        auxiliary = pixel_sums(outputs[1], batch["mask"])["loss"]
        losses = metrics["loss"] + self.config.aux_weight * auxiliary
        if self.config.convention == "v0.1":
            losses = 0.5 * losses
        return losses, metrics | {"loss": losses}

    def evaluate(self, outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns {"loss", "pixel_accuracy"}, sums over the pixels of each image [b]."""
        return pixel_sums(outputs, batch["mask"])


def pixel_sums(logits: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums the cross-entropy and the right answers over the labelled pixels of each image.

    Written as reductions over the classes, so that nothing of the logits' size is kept beside them
    and their gradient. Of equal scores the lower class counts as higher; a pixel with NaN is wrong.

    Args:
        logits: [b, h, w, classes], float32.
        mask: uint8 [b, h, w], 255 for void.

    Returns:
        {"loss", "pixel_accuracy"}, each [b].
    """
    labels = mask.astype(jnp.int32)[..., None]
    classes = jnp.arange(logits.shape[-1]).reshape(1, 1, 1, -1)
    own = jnp.sum(jnp.where(classes == labels, logits, 0), axis=-1)
    total = jax.nn.logsumexp(logits, axis=-1)
    score = own[..., None]
    ahead = (logits > score) | ((logits == score) & (classes < labels))
    labelled = mask != VOID
    right = labelled & ~jnp.any(ahead, axis=-1) & ~jnp.isnan(total)
    return {
        "loss": jnp.sum(jnp.where(labelled, total - own, 0), axis=(1, 2)),
        "pixel_accuracy": jnp.sum(right, axis=(1, 2), dtype=jnp.float32),
    }


class SegmentationTask(DataTask):
    """Segmentation; see `DataTask`. Class names begin with the background's."""

    main_metric = "miou"

    def _names_of(self, info: DatasetInfo) -> tuple[str, ...]:
        return mask_class_names(info)

    def _make_model(self, experiment: "Experiment", info: DatasetInfo) -> nn.Module:
        names = mask_class_names(info)
        model = experiment.model.build(len(names), parallel.AXIS)
        check_classes(model.num_classes, len(names), info.name)
        return model

    def _make_objective(self, experiment: "Experiment") -> SegmentationObjective:
        return SegmentationObjective(experiment.segmentation)

    @property
    def evaluation_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that `evaluate` gives, besides "count"."""
        return ("miou", "pixel_accuracy")

    @functools.cached_property
    def _evaluator(self) -> SegmentationEvaluator:
        experiment = self._experiment
        return SegmentationEvaluator(
            self.model, experiment.processor, experiment.segmentation, self.class_names
        )

    def zero_targets(self, scale: Scale, rows: int) -> Arrays:
        """Returns masks [rows, h, w]."""
        return {"mask": np.zeros((rows, scale.height, scale.width), np.uint8)}

    def training_examples(self, epoch: int) -> LoadExample:
        """Returns the function that turns a record into an augmented image and mask."""
        experiment = self._experiment
        return training_examples(
            experiment.segmentation,
            experiment.processor,
            len(self.class_names),
            seed=experiment.seed,
            epoch=epoch,
        )

    def evaluate(
        self, variables: Any, split: str, poll: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Returns {"miou", "pixel_accuracy", "count"} on "validation" or "test"."""
        experiment = self._experiment
        return self._evaluator(
            variables,
            self._splits[split],
            experiment.evaluation.batch_size,
            experiment.loader,
            poll=poll,
        )


def create_task(experiment: "Experiment") -> SegmentationTask:
    """Opens an experiment's data and builds its model."""
    return SegmentationTask(experiment)


def class_names_of(info: DatasetInfo) -> tuple[str, ...]:
    """Returns the names of a data set's classes, the background's first."""
    return mask_class_names(info)


def create_evaluator(
    loaded: "Pretrained", info: DatasetInfo, processor: ImageProcessor, **settings: Any
) -> SegmentationEvaluator:
    """Builds the evaluation of weights on a data set of as many classes, by their run's settings.

    Raises:
        ConfigurationError: If it has another number of classes.
    """
    names = mask_class_names(info)
    check_classes(loaded.model.num_classes, len(names), info.name)
    return SegmentationEvaluator(loaded.model, processor, _config_of(loaded, settings), names)


def create_predictor(loaded: "Pretrained", processor: ImageProcessor) -> Segmenter:
    """Builds what answers for images."""
    return Segmenter(loaded.model, loaded.variables, processor, loaded.class_names)


def training_examples(
    config: SegmentationConfig,
    processor: ImageProcessor,
    num_classes: int,
    *,
    seed: int,
    epoch: int,
) -> LoadExample:
    """Returns the function that turns a record into an augmented image and mask.

    Random draws are a function of (seed, epoch, record id) alone.
    """
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        found = to_segmentation(record)
        image = decode_image(found["image"], name=found["name"], channel_order=order)
        mask = read_mask(found["mask"], num_classes, name=found["name"])
        check_size(mask, image, name=found["name"])
        rng = example_rng(seed, epoch, record_id)
        image, mask = augment_mask(image, mask, rng, planned.height, planned.width, config.augment)
        return {"image": image, "mask": mask}

    return load


def check_classes(num_classes: int, there: int, dataset: str) -> None:
    """Checks that a model has as many classes as a data set's masks.

    Raises:
        ConfigurationError: If it has not, or there are more than a mask can tell.
    """
    if num_classes != there:
        raise ConfigurationError(
            f"the model has {num_classes} classes, but the masks of {dataset} have {there}, with "
            "the background; leave model.num_classes out to take the data set's"
        )
    if there > VOID:
        raise ConfigurationError(f"{dataset} has {there} classes; a mask can hold {VOID}")


def _config_of(loaded: "Pretrained", settings: dict[str, Any]) -> SegmentationConfig:
    config = loaded.experiment.segmentation if loaded.experiment else SegmentationConfig()
    return replace(config, **settings)
