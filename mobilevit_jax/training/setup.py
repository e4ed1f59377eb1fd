"""From settings to what a run begins with: the state of step 0, and the step over devices."""

import functools
from collections.abc import Callable

from mobilevit_jax.training import parallel
from mobilevit_jax.training.contracts import Task, TrainStep
from mobilevit_jax.training.optimizer import create_optimizer
from mobilevit_jax.training.schedule import Schedule
from mobilevit_jax.training.settings import TrainingSettings
from mobilevit_jax.training.state import TrainState, create_state
from mobilevit_jax.training.step import make_train_step


def begin(
    settings: TrainingSettings, task: Task, learning_rate: Schedule
) -> tuple[Callable[[], TrainState], TrainStep]:
    """Returns what makes the state of step 0, not placed on devices, and the step over them."""
    optimizer = create_optimizer(
        settings.optimizer, learning_rate, freeze_backbone=settings.freeze_backbone
    )
    create = functools.partial(
        create_state,
        task.model,
        optimizer,
        settings.ema,
        task.objective.metrics,
        settings.seed,
    )
    step = parallel.pmap_train(
        make_train_step(
            task.model,
            optimizer,
            task.objective,
            settings.ema,
            seed=settings.seed,
            accumulation=settings.optimizer.accumulation,
        )
    )
    return create, step
