"""The weights of a run, from its work directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np

from mobilevit_jax.base.run_files import CHECKPOINTS
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.registry import head_named
from mobilevit_jax.tasks.pretrained import Pretrained

if TYPE_CHECKING:
    from mobilevit_jax.training.checkpoint import Checkpoints

Choice = Literal["latest", "best", "average"] | int


def load_run(directory: Path, checkpoint: Choice, raw: bool) -> Pretrained:
    """Loads a checkpoint of a work directory, the averaged weights if it has any.

    Args:
        directory: Of `mobilevit train`.
        checkpoint: Which; see `pretrained.load_weights`.
        raw: Whether the weights themselves are wanted, not their average over the steps.

    Raises:
        ConfigurationError: If there is no such checkpoint.
        DataError: If there is none at all, or it cannot be read.
    """
    # Imported here because weights from elsewhere need neither training nor Orbax.
    from mobilevit_jax.tasks.settings import TaskSettings
    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.checkpoint import Checkpoints
    from mobilevit_jax.training.checkpoint.averaging import average
    from mobilevit_jax.training.workdir import read_settings

    experiment, class_names = read_settings(directory, TaskSettings)
    unnamed = head_named(experiment.model.name).first_named
    model = experiment.model.build(len(class_names) + unnamed, parallel.AXIS)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), image)
    averaged = bool(experiment.ema.decay) and not raw
    wanted = {"ema": abstract} if averaged else abstract
    if not (directory / CHECKPOINTS).is_dir():
        raise DataError(f"{directory} has no checkpoint yet; train it first")
    with Checkpoints.reader(directory / CHECKPOINTS) as checkpoints:
        steps = _choose(checkpoints, checkpoint, directory, experiment.checkpoint.keep_best)
        if len(steps) > 1:
            state = average(checkpoints, steps, wanted)
        else:
            state = checkpoints.restore(steps[0], wanted, partial=True)
    which = f"{'EMA' if averaged else 'raw'} weights of step {', '.join(map(str, steps))}"
    return Pretrained(
        model,
        state["ema"] if averaged else state,
        experiment.processor,
        class_names,
        experiment.model.name,
        f"averaged {which}" if len(steps) > 1 else which,
        experiment,
    )


def _choose(
    checkpoints: "Checkpoints", choice: Choice, directory: Path, keep_best: int
) -> list[int]:
    """Returns the steps that a choice stands for."""
    if choice == "latest":
        return checkpoints.steps()[-1:]
    if isinstance(choice, int):
        if choice not in checkpoints.steps():
            known = ", ".join(map(str, checkpoints.steps()))
            raise ConfigurationError(
                f"{directory} has no checkpoint of step {choice}; it has {known}"
            )
        return [choice]
    best = [ranked.step for ranked in checkpoints.best()]
    if not best:
        raise ConfigurationError(
            f"no checkpoint in {directory} was evaluated, so none is the best; use latest"
        )
    # The latest is on disk as well, and need not be among the best.
    return best[:1] if choice == "best" else best[: max(keep_best, 1)]
