"""What every task shares: the splits, the plan of the epochs, batches for training.

A task is a data transform, a loss, metrics and an evaluation. `DataTask` has all that does not
depend on which; `classification`, `detection` and `segmentation` add the rest.
"""

import abc
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from mobilevit_jax.data.batches import LoadExample
from mobilevit_jax.data.loader import SkippedImages, load_batches
from mobilevit_jax.data.sampler import RunPlan, Scale, check_devices, scale_table
from mobilevit_jax.data.sources import DatasetInfo, Split, dataset_info, open_split
from mobilevit_jax.errors import count, unknown_name
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.evaluation import SplitEvaluator
from mobilevit_jax.tasks.pretrained import Pretrained
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel
from mobilevit_jax.training.contracts import Task
from mobilevit_jax.training.multihost import hosts
from mobilevit_jax.training.step import Objective

if TYPE_CHECKING:
    from mobilevit_jax.tasks.classifier import Classifier
    from mobilevit_jax.tasks.detection.predict import Detector
    from mobilevit_jax.tasks.segmentation.predict import Segmenter

    Predictor = Classifier | Detector | Segmenter

Arrays = dict[str, np.ndarray]
_LOOKED_AT = 16  # records of a split, by which hosts see whether they have the same


class DataTask(Task, abc.ABC):
    """Joins data, model and objective for the training loop.

    Attributes:
        class_names: Of the data set.
        examples: Number of training examples.
        skipped: Images that could not be decoded, if the run skips them.
    """

    def __init__(self, settings: TaskSettings, info: DatasetInfo | None = None) -> None:
        """Opens the splits and builds the model.

        Args:
            settings: The experiment.
            info: Describes a data set that is not here: no split is opened, and the task serves to
                compile its steps.

        Raises:
            ConfigurationError: If data set, split, model or batch do not fit together.
            DataError: If the data set cannot be read.
        """
        data = settings.data
        is_here = info is None
        info = info or dataset_info(data.dataset, data.data_dir)
        self._settings = settings
        self.processor = settings.processor
        self.class_names = self.class_names_of(info)
        self.model = self._make_model(settings, info)
        self.objective = self._make_objective(settings)
        _check_metric(settings, self.evaluation_metrics)
        self.table = scale_table(settings.sampler)
        check_devices(self.table, parallel.device_count(), settings.optimizer.accumulation)
        names = {"train": data.train, "validation": data.validation, "test": data.test}
        self._splits: dict[str, Split] = {
            role: open_split(data.dataset, name, data.data_dir)
            for role, name in names.items()
            if name and is_here
        }
        self.examples = len(self._splits["train"]) if is_here else info.splits[data.train]
        self._plan = RunPlan(settings.seed, settings.epochs, self.examples, self.table)
        self.steps_of_epochs = self._plan.steps_of_epochs
        self.skipped = SkippedImages()

    @staticmethod
    def class_names_of(info: DatasetInfo) -> tuple[str, ...]:
        """Returns the names of a data set's classes that weights are kept with."""
        return info.class_names

    @staticmethod
    @abc.abstractmethod
    def create_evaluator(
        loaded: Pretrained, info: DatasetInfo, processor: ImageProcessor, **settings: Any
    ) -> SplitEvaluator:
        """Builds the evaluation of weights on a data set; see `tasks.create_evaluator`."""

    @staticmethod
    @abc.abstractmethod
    def create_predictor(
        loaded: Pretrained, processor: ImageProcessor, **settings: Any
    ) -> "Predictor":
        """Builds what answers for images; see `tasks.create_predictor`."""

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """See `Task`."""
        return tuple(role for role in self._splits if role != "train")

    @property
    def evaluation_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that `evaluate` gives, besides "count"."""
        return self.objective.metrics

    def first_image(self) -> bytes:
        """Returns an encoded image to try prediction on: the first of the last split named."""
        return list(self._splits.values())[-1].records([0])[0]["image"]

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Returns the size of each split and a digest of a few records, to compare hosts by."""
        return {role: _fingerprint(split) for role, split in self._splits.items()}

    def zero_batch(self, scale: Scale) -> Arrays:
        """See `Task`."""
        rows = scale.batch_size // jax.process_count()
        return {
            "image": np.zeros((rows, scale.height, scale.width, 3), np.uint8),
            **self.zero_targets(scale, rows),
            "weight": np.ones(rows, np.float32),
        }

    def training_batches(self, first_step: int) -> Iterator[Arrays]:
        """See `Task`."""
        with load_batches(
            self._splits["train"],
            self._plan,
            self.training_examples(),
            self._settings.loader,
            start=first_step,
            host=jax.process_index(),
            hosts=jax.process_count(),
            skipped=self.skipped,
        ) as batches:
            yield from batches

    @functools.cached_property
    def evaluator(self) -> SplitEvaluator[Any]:
        """What measures the model's weights."""
        return self._make_evaluator()

    def evaluate(
        self, variables: Any, split: str, poll: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Returns `evaluation_metrics` and "count"; see `Task`."""
        settings = self._settings
        return self.evaluator(
            variables,
            self._splits[split],
            settings.evaluation.batch_size,
            settings.loader,
            poll=poll,
        )

    def notes(self) -> list[str]:
        """Returns what to tell the user of the data when training ends, such as images skipped."""
        skipped = self.skipped.count
        return [f"skipped {count(skipped, 'image')} that could not be decoded"] if skipped else []

    def timed_parts(self) -> dict[str, Callable[[], Any]]:
        """Returns what the task computes besides the training step, for the benchmark to time."""
        return {}

    @abc.abstractmethod
    def _make_model(self, settings: TaskSettings, info: DatasetInfo) -> nn.Module:
        """Builds the model for the classes of a data set."""

    @abc.abstractmethod
    def _make_objective(self, settings: TaskSettings) -> Objective:
        """Builds loss and metrics; the model is there already."""

    @abc.abstractmethod
    def zero_targets(self, scale: Scale, rows: int) -> Arrays:
        """Returns zeros in the form of what an example holds besides image and weight."""

    @abc.abstractmethod
    def training_examples(self) -> LoadExample:
        """Returns the function that turns a record into an augmented example.

        Its random draws are a function of (seed, epoch, record id) alone.
        """

    @abc.abstractmethod
    def _make_evaluator(self) -> SplitEvaluator:
        """Builds what measures the model's weights."""


def _fingerprint(split: Split) -> dict[str, Any]:
    ids = np.linspace(0, len(split) - 1, min(len(split), _LOOKED_AT)).astype(int)
    seen = [part for r in split.records(ids) for part in (r["image"], str(r.get("label")))]
    return {"examples": len(split), "digest": hosts.digest(*seen)}


def _check_metric(settings: TaskSettings, metrics: tuple[str, ...]) -> None:
    raw = settings.evaluation.raw_weights and settings.ema.decay
    allowed = [*metrics, *(f"raw_{name}" for name in metrics if raw)]
    named = settings.checkpoint.metric
    if named is not None and named not in allowed:
        raise unknown_name("checkpoint.metric", named, allowed)
