"""What the training loop needs of the rooms around it: a task, and somewhere to show progress."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from mobilevit_jax.data.sampler import Scale
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.state import TrainState
from mobilevit_jax.training.step import Objective


class TrainStep(Protocol):
    """A training step over all devices, from `parallel.pmap_train`."""

    def __call__(
        self, state: TrainState, batch: Mapping[str, Any], /
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns the state after the step, and metrics."""
        ...

    def lower(self, state: TrainState, batch: Mapping[str, Any], /) -> jax.stages.Lowered:
        """Traces the step for these shapes."""
        ...


class Task(Protocol):
    """What the loop needs of a task; `tasks.base.DataTask` has all that tasks share.

    Attributes:
        model: The model.
        objective: Loss and metrics.
        processor: What its images go through; uint8 images of batches are normalised on the device.
        main_metric: The metric that ranks checkpoints unless the experiment names another.
        table: The scales of the run.
        steps_of_epochs: Steps of each epoch.
    """

    model: nn.Module
    objective: Objective
    processor: ImageProcessor
    main_metric: str
    table: tuple[Scale, ...]
    steps_of_epochs: list[int]

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Those of "validation" and "test" that the experiment names."""
        ...

    def zero_batch(self, scale: Scale) -> dict[str, np.ndarray]:
        """Returns this host's rows of a batch of a scale, all zero but its weights, to compile."""
        ...

    def training_batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this host's rows of every batch from a step of the run to its end."""
        ...

    def evaluate(
        self, variables: Any, split: str, poll: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Returns the metrics and "count" of weights on "validation" or "test".

        What `poll`, called before each batch, raises ends the evaluation.
        """
        ...


class Reporter(Protocol):
    """Where progress is shown."""

    def say(self, message: str) -> None:
        """Shows one line."""
        ...

    def begin(self, first_step: int) -> None:
        """Starts the clock, at the step that the run goes on from."""
        ...

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Moves the progress to `step` of the run."""
        ...

    def log(self, row: Mapping[str, object]) -> None:
        """Shows a row of metrics."""
        ...
