"""Image classification: how a record becomes an example, its loss, its metrics, its evaluation."""

import collections
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.data.augment import AugmentConfig, augment, example_rng
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig, SkippedImages, load_batches
from mobilevit_jax.data.sampler import (
    PlannedBatch,
    Scale,
    check_devices,
    plan_epoch,
    plan_evaluation,
    scale_table,
    steps_in_epoch,
)
from mobilevit_jax.data.sources import Split, dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError, unknown_name
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import parallel
from mobilevit_jax.training.losses import cross_entropy
from mobilevit_jax.training.step import make_evaluation_step

if TYPE_CHECKING:
    from mobilevit_jax.config import Experiment

Arrays = dict[str, np.ndarray]
LoadExample = Callable[[dict[str, Any], int, PlannedBatch], dict[str, Any]]


@dataclass(frozen=True)
class ClassificationObjective:
    """Loss and metrics, as the steps take them.

    Attributes:
        label_smoothing: In training only; evaluation reports plain cross-entropy.
    """

    label_smoothing: float = 0.1

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sums."""
        return ("loss", "top1", "top5")

    def loss(
        self, outputs: jax.Array, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns losses [b] and {"loss", "top1", "top5"}, each [b]; `outputs` are logits."""
        losses = cross_entropy(outputs, batch["label"], self.label_smoothing)
        return losses, {"loss": losses} | hits(outputs, batch["label"])

    def evaluate(self, outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns {"loss", "top1", "top5"}, each [b], the loss without label smoothing."""
        losses = cross_entropy(outputs, batch["label"])
        return {"loss": losses} | hits(outputs, batch["label"])


def hits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Returns {"top1", "top5"}: 1.0 where the label is among the highest, [b] each.

    Of equal scores the lower index counts as higher, so that a model with constant outputs is not
    always right; nor is one whose outputs are NaN.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    index = jnp.arange(logits.shape[-1])[None]
    ahead = (logits > own) | ((logits == own) & (index < labels[:, None]))
    rank = jnp.sum(ahead, axis=-1)
    # A comparison with NaN is false.
    rank = jnp.where(jnp.isnan(logits).any(-1), logits.shape[-1], rank)
    return {"top1": jnp.float32(rank < 1), "top5": jnp.float32(rank < 5)}


class ClassificationTask:
    """Joins data, model and objective for the training loop.

    Attributes:
        class_names: Of the data set.
        model: The model.
        objective: Loss and metrics.
        table: The scales of the run.
        steps_of_epochs: Steps of each epoch.
        examples: Number of training examples.
        skipped: Images that could not be decoded, if the run skips them.
    """

    def __init__(self, experiment: "Experiment") -> None:
        """Opens the splits and builds the model.

        Raises:
            ConfigurationError: If data set, split, model or batch do not fit together.
            DataError: If the data set cannot be read.
        """
        data = experiment.data
        info = dataset_info(data.dataset, data.data_dir)
        self.class_names = info.class_names
        self.model = experiment.model.build(len(info.class_names), parallel.AXIS)
        _check_classes(self.model.num_classes, info.class_names, data.dataset)
        self.objective = ClassificationObjective(experiment.loss.label_smoothing)
        _check_metric(experiment, self.objective.metrics)
        self.table: tuple[Scale, ...] = scale_table(experiment.sampler)
        check_devices(self.table, jax.device_count(), experiment.optimizer.accumulation)
        self._experiment = experiment
        self._splits: dict[str, Split] = {
            role: open_split(data.dataset, name, data.data_dir)
            for role, name in (
                ("train", data.train),
                ("validation", data.validation),
                ("test", data.test),
            )
            if name
        }
        self.examples = len(self._splits["train"])
        self.steps_of_epochs = [
            steps_in_epoch(experiment.seed, epoch, self.examples, self.table)
            for epoch in range(experiment.epochs)
        ]
        self.skipped = SkippedImages()
        self._evaluator = Evaluator(self.model, self.objective, experiment.processor)

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Those of "validation" and "test" that the experiment names."""
        return tuple(role for role in self._splits if role != "train")

    def first_image(self) -> bytes:
        """Returns an encoded image to try prediction on: the first of the last split named."""
        return list(self._splits.values())[-1].records([0])[0]["image"]

    def zero_batch(self, scale: Scale) -> Arrays:
        """Returns this host's rows of a batch of a scale, all zero but its weights, to compile."""
        rows = scale.batch_size // jax.process_count()
        return {
            "image": np.zeros((rows, scale.height, scale.width, 3), np.uint8),
            "label": np.zeros(rows, np.int32),
            "weight": np.ones(rows, np.float32),
        }

    def training_batches(self, first_step: int) -> Iterator[Arrays]:
        """Yields this host's rows of every batch from a step of the run to its end."""
        experiment = self._experiment
        split = self._splits["train"]
        done = 0
        for epoch, steps in enumerate(self.steps_of_epochs):
            start = max(first_step - done, 0)
            done += steps
            if start >= steps:
                continue
            plan = plan_epoch(experiment.seed, epoch, len(split), self.table)
            load = training_examples(
                experiment.augment, experiment.processor, seed=experiment.seed, epoch=epoch
            )
            with load_batches(
                split,
                plan,
                load,
                experiment.loader,
                start=start,
                host=jax.process_index(),
                hosts=jax.process_count(),
                skipped=self.skipped,
            ) as batches:
                yield from batches

    def evaluate(self, variables: Any, split: str) -> dict[str, float]:
        """Returns {"loss", "top1", "top5", "count"} of weights on "validation" or "test"."""
        experiment = self._experiment
        return self._evaluator(
            variables, self._splits[split], experiment.evaluation.batch_size, experiment.loader
        )


class Evaluator:
    """Measures weights on a split: every example counted once, for any size and devices."""

    def __init__(
        self,
        model: nn.Module,
        objective: ClassificationObjective,
        processor: ImageProcessor,
    ) -> None:
        """Compiles nothing yet; the first call does."""
        self._step = parallel.pmap_evaluate(make_evaluation_step(model, objective))
        self._processor = processor

    def __call__(
        self, variables: Any, split: Split, batch_size: int, loader: LoaderConfig
    ) -> dict[str, float]:
        """Evaluates.

        Args:
            variables: {"params", "batch_stats"}.
            split: The data.
            batch_size: Images of a batch over all devices; lowered to what the data need, and
                rounded up to a multiple of the devices.
            loader: Threads and memory; with `skip_bad_images` they are left out of the count.

        Returns:
            {"loss", "top1", "top5"} as means and "count", the number of images behind them.
        """
        devices = jax.device_count()
        rows = -(-min(batch_size, len(split)) // devices) * devices
        plan = plan_evaluation(len(split), *self._processor.crop_size, rows)
        with load_batches(
            split,
            plan,
            evaluation_examples(self._processor),
            loader,
            host=jax.process_index(),
            hosts=jax.process_count(),
        ) as batches:
            parts = (self._step(variables, batch) for batch in parallel.prefetch(batches))
            total = _add_up(parts)
        count = total.pop("count")
        means = {name: value / max(count, 1) for name, value in total.items()}
        return means | {"count": int(count)}


def _add_up(parts: Iterator[dict[str, jax.Array]]) -> dict[str, float]:
    """Adds dictionaries of device scalars in float64, reading each while the next is computed."""
    total: dict[str, float] = collections.defaultdict(float)
    for before, _ in itertools.pairwise(itertools.chain(parts, [{}])):
        for name, value in before.items():
            total[name] += float(value)
    return dict(total)


def training_examples(
    config: AugmentConfig, processor: ImageProcessor, *, seed: int, epoch: int
) -> LoadExample:
    """Returns the function that turns a record into an augmented example.

    Random draws are a function of (seed, epoch, record id) alone.
    """
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        image = decode_image(record["image"], name=_name(record, record_id), channel_order=order)
        rng = example_rng(seed, epoch, record_id)
        image = augment(image, rng, planned.height, planned.width, config)
        return {"image": image, "label": _label(record, record_id)}

    return load


def evaluation_examples(processor: ImageProcessor) -> LoadExample:
    """Returns the function that turns a record into an example as `predict` would see it."""
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        image = decode_image(record["image"], name=_name(record, record_id), channel_order=order)
        return {"image": processor.pixels(image), "label": _label(record, record_id)}

    return load


def _name(record: dict[str, Any], record_id: int) -> str:
    name = record.get("name", f"record {record_id}")
    return name.decode() if isinstance(name, bytes) else str(name)


def _label(record: dict[str, Any], record_id: int) -> np.int32:
    """Returns the record's class; not a DataError without one, which would count as a bad image."""
    label = record.get("label")
    if label is None or label < 0:
        raise ConfigurationError(
            f"{_name(record, record_id)} has no label (it says {label}), as in a test split whose "
            "labels are kept secret; choose another split or data set"
        )
    return np.int32(label)


def _check_classes(num_classes: int, class_names: tuple[str, ...], dataset: str) -> None:
    if num_classes < max(len(class_names), 1):
        raise ConfigurationError(
            f"model.num_classes is {num_classes}, but {dataset} has {len(class_names)} classes; "
            "leave it out to take the data set's"
        )


def _check_metric(experiment: "Experiment", metrics: tuple[str, ...]) -> None:
    raw = experiment.evaluation.raw_weights and experiment.ema.decay
    allowed = [*metrics, *(f"raw_{name}" for name in metrics if raw)]
    if experiment.checkpoint.metric not in allowed:
        raise unknown_name("checkpoint.metric", experiment.checkpoint.metric, allowed)
