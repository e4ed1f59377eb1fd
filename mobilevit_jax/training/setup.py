"""From settings to what a run begins with: the state of step 0, and the step over devices."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from mobilevit_jax.training import parallel
from mobilevit_jax.training.contracts import Task, TrainStep
from mobilevit_jax.training.optimizer import create_optimizer
from mobilevit_jax.training.schedule import Schedule
from mobilevit_jax.training.settings import TrainingSettings
from mobilevit_jax.training.state import TrainState, create_state, state_from
from mobilevit_jax.training.step import make_train_step


def begin(
    settings: TrainingSettings, task: Task, learning_rate: Schedule
) -> tuple[Callable[[], TrainState], TrainStep]:
    """Returns what makes the state of step 0, not placed on devices, and the step over them."""
    optimizer = _optimizer(settings, learning_rate)
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
            processor=task.processor,
        )
    )
    return create, step


def abstract_state(settings: TrainingSettings, task: Task, learning_rate: Schedule) -> TrainState:
    """Returns the shapes of the state that `begin` makes, without drawing a weight."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    optimizer, metrics = _optimizer(settings, learning_rate), task.objective.metrics
    variables = jax.eval_shape(task.model.init, jax.random.key(0), image)
    return jax.eval_shape(lambda v: state_from(v, optimizer, settings.ema, metrics), variables)


def _optimizer(settings: TrainingSettings, learning_rate: Schedule) -> optax.GradientTransformation:
    return create_optimizer(
        settings.optimizer, learning_rate, freeze_backbone=settings.freeze_backbone
    )
