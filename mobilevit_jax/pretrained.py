"""Weights ready for use: joins experiment, checkpoint, model and processor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from mobilevit_jax.config import Experiment
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import parallel, workdir
from mobilevit_jax.training.averaging import average
from mobilevit_jax.training.checkpoint import Checkpoints

Choice = Literal["latest", "best", "average"] | int


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights and what belongs to them.

    Attributes:
        model: The module.
        variables: {"params", "batch_stats"}, NumPy arrays.
        processor: What images go through before it.
        class_names: In the order of the logits.
        experiment: The run that made the weights.
        description: Which weights these are, for reports.
    """

    model: nn.Module
    variables: dict[str, Any]
    processor: ImageProcessor
    class_names: tuple[str, ...]
    experiment: Experiment
    description: str


def from_pretrained(
    source: str | Path, *, checkpoint: Choice = "latest", raw: bool = False
) -> tuple[nn.Module, dict[str, Any], ImageProcessor]:
    """Loads a model, its variables and its image processor.

    Args:
        source: A work directory of `mobilevit train`.
        checkpoint: See `load_weights`.
        raw: See `load_weights`.

    Returns:
        (model, variables, processor), for `model.apply(variables, processor(image))`.
    """
    loaded = load_weights(source, checkpoint=checkpoint, raw=raw)
    return loaded.model, loaded.variables, loaded.processor


def load_weights(
    source: str | Path, *, checkpoint: Choice = "latest", raw: bool = False
) -> Pretrained:
    """Loads weights with all that belongs to them.

    Args:
        source: A work directory of `mobilevit train`.
        checkpoint: "latest", "best" by the validation metric, "average" of the best that were
            kept (as CVNets averages its five best), or a step.
        raw: Whether the raw weights are taken instead of their exponential moving average.

    Raises:
        ConfigurationError: If there is nothing at `source`, or no such checkpoint.
        DataError: If it is no work directory, or a checkpoint cannot be read.
    """
    directory = Path(source)
    if not directory.is_dir():
        raise ConfigurationError(f"no work directory {source}; name one that mobilevit train made")
    experiment, class_names = workdir.read_experiment(directory)
    model = experiment.model.build(len(class_names), parallel.AXIS)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), image)
    averaged = bool(experiment.ema.decay) and not raw
    wanted = {"ema": abstract} if averaged else abstract
    if not (directory / workdir.CHECKPOINTS).is_dir():
        raise DataError(f"{source} has no checkpoint yet; train it first")
    with Checkpoints.reader(directory / workdir.CHECKPOINTS) as checkpoints:
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
        experiment,
        f"averaged {which}" if len(steps) > 1 else which,
    )


def _choose(checkpoints: Checkpoints, choice: Choice, directory: Path, keep_best: int) -> list[int]:
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
