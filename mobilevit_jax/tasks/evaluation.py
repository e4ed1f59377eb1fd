"""The evaluation loop of all tasks: every image of a split once, for any batch size and devices."""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from mobilevit_jax.data.batches import LoadExample
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig, load_batches
from mobilevit_jax.data.record_parser import record_name
from mobilevit_jax.data.sampler import PlannedBatch, plan_evaluation
from mobilevit_jax.data.sources import Split
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import parallel

Outputs = dict[str, jax.Array]
Step = Callable[[Any, dict[str, jax.Array]], Outputs]
Read = TypeVar("Read")


class SplitEvaluator(abc.ABC, Generic[Read]):
    """Measures weights on a split; a task adds what it reads of a batch, and its metrics.

    Attributes:
        step: `step(variables, batch) -> outputs` over all devices.
        size: Height and width of the images.
    """

    # Shapes of what an example holds, int32, besides the image.
    _fields: Mapping[str, tuple[int, ...]] = {"index": (), "size": (2,)}

    def __init__(self, step: Step, load_example: LoadExample, size: tuple[int, int]) -> None:
        """Compiles nothing yet; the first call does.

        Args:
            step: From `parallel`.
            load_example: Turns a record into an example of the step's batches.
            size: Height and width of their images.
        """
        self.step = step
        self._load_example = load_example
        self.size = size

    def zero_batch(self, rows: int) -> dict[str, np.ndarray]:
        """Returns so many rows of zeros in the form of a batch, to compile the step."""
        fields = {name: np.zeros((rows, *more), np.int32) for name, more in self._fields.items()}
        image = np.zeros((rows, *self.size, 3), np.uint8)
        return {"image": image, **fields, "weight": np.ones(rows, np.float32)}

    def __call__(
        self,
        variables: Any,
        split: Split,
        batch_size: int,
        loader: LoaderConfig,
        *,
        poll: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Evaluates.

        Args:
            variables: {"params", "batch_stats"}.
            split: The data.
            batch_size: Images of a batch over all devices; lowered to what the data need, and
                rounded up to a multiple of the devices.
            loader: Threads and memory; with `skip_bad_images` they are left out of the count.
            poll: Called before each batch; what it raises ends the evaluation.

        Returns:
            The task's metrics, and "count", the number of images behind them.

        Raises:
            ConfigurationError: If the data have other classes than the model.
            DataError: If an image cannot be decoded and may not be skipped, or the data have
                nothing to measure.
        """
        batches = self._batches(variables, split, batch_size, loader, poll)
        return self._metrics(batches, split, loader)

    @property
    def per_class(self) -> dict[str, float]:
        """What the last call measured of each class, by its name; empty where that is nothing."""
        return {}

    @abc.abstractmethod
    def _read(self, outputs: Outputs) -> Read:
        """Fetches what is needed of a batch's outputs."""

    @abc.abstractmethod
    def _metrics(
        self, batches: Iterator[Read], split: Split, loader: LoaderConfig
    ) -> dict[str, float]:
        """Makes metrics of all batches."""

    def _batches(
        self,
        variables: Any,
        split: Split,
        batch_size: int,
        loader: LoaderConfig,
        poll: Callable[[], None] | None,
    ) -> Iterator[Read]:
        """Yields what is read of each batch, while the devices work on the next one."""
        devices = jax.device_count()
        rows = -(-min(batch_size, len(split)) // devices) * devices
        with load_batches(
            split,
            plan_evaluation(len(split), *self.size, rows),
            self._load_example,
            loader,
            host=jax.process_index(),
            hosts=jax.process_count(),
            poll=poll,
        ) as batches:
            running = (self.step(variables, batch) for batch in parallel.prefetch(batches))
            for outputs in parallel.one_behind(running):
                yield self._read(outputs)


def image_step(predict: Callable[[Any, jax.Array], Mapping[str, jax.Array]]) -> Step:
    """Builds the step over all devices that goes with `image_examples` and `each_image`.

    Args:
        predict: `predict(variables, images) -> answers`, of which each has a row an image. Images
            are uint8 [b, h, w, 3].
    """

    def step(variables: Any, batch: dict[str, jax.Array]) -> Outputs:
        passed_on = {name: batch[name] for name in ("index", "size", "weight")}
        return {**predict(variables, batch["image"]), **passed_on}

    return parallel.pmap_predict(step)


def image_examples(processor: ImageProcessor) -> LoadExample:
    """Returns the function that turns a record into an example as prediction would see it.

    An example holds "image", "index" (the record's place in the split, int32) and "size" (height
    and width of the stored image, int32 [2]).
    """
    order = processor.channel_order

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> dict[str, Any]:
        name = record_name(record, record_id)
        image = decode_image(record["image"], name=name, channel_order=order)
        return {
            "image": processor.pixels(image),
            "index": np.int32(record_id),
            "size": np.array(image.shape[:2], np.int32),
        }

    return load


def each_image(outputs: Outputs) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows of an `image_step`'s batch, of all hosts in every one; not the padding."""
    found = parallel.gather_rows(outputs)
    for row in np.flatnonzero(found["weight"]):
        yield {name: rows[row] for name, rows in found.items()}
