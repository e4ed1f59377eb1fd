"""An experiment: the frozen dataclasses that the rooms own, composed; files and JSON.

An experiment file is a Python file with a function `experiment() -> Experiment`. Its docstring
holds the claim, the number, the time and the command.
"""

import runpy
from dataclasses import dataclass, replace
from pathlib import Path

from mobilevit_jax.base.json_dataclasses import differences, from_dict, to_dict
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import ConfigurationError, nearest
from mobilevit_jax.models.registry import head_named
from mobilevit_jax.tasks.settings import DataConfig, TaskSettings
from mobilevit_jax.training.settings import CheckpointConfig, EvaluationConfig
from mobilevit_jax.training.workdir import read_settings

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "check_experiment",
    "differences",
    "from_dict",
    "load_experiment",
    "made_by",
    "no_experiment_file",
    "read_experiment",
    "shrink",
    "to_dict",
]


@dataclass(frozen=True)
class Experiment(TaskSettings):
    """A run; everything that it computes follows from this.

    Its fields are those of `TrainingSettings` and `TaskSettings`.
    """


def read_experiment(workdir: Path) -> tuple[Experiment, tuple[str, ...]]:
    """Returns the experiment of a work directory and the class names of its data set.

    Raises:
        DataError: If the directory has none, or its record cannot be read.
    """
    return read_settings(workdir, Experiment)


def load_experiment(path: str | Path) -> Experiment:
    """Runs an experiment file and returns what its `experiment()` returns.

    Raises:
        ConfigurationError: If there is no such file, or it does not hold an experiment.
    """
    return check_experiment(path, made_by(path, "experiment").get("experiment"))


def check_experiment(path: str | Path, experiment: object) -> Experiment:
    """Returns what a file's `experiment()` made, if it is one; the error names the file."""
    if not isinstance(experiment, Experiment):
        raise ConfigurationError(
            f"{path} needs a function experiment() that returns a mobilevit_jax.config.Experiment"
        )
    return experiment


def made_by(path: str | Path, *names: str) -> dict[str, object]:
    """Runs a Python file and calls those of its functions of these names that there are.

    Returns:
        Their results, by name.

    Raises:
        ConfigurationError: If there is no such file, or its code raises.
    """
    path = Path(path)
    if not path.is_file():
        raise no_experiment_file(path)
    try:
        found = runpy.run_path(str(path))
        return {name: found[name]() for name in names if callable(found.get(name))}
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except Exception as error:  # whatever the user's code raises
        raise ConfigurationError(f"{path}: {type(error).__name__}: {error}") from error


def no_experiment_file(path: str | Path) -> ConfigurationError:
    """Builds the error for a path that is no Python file, with the nearest one beside it."""
    folder = Path(path).parent
    beside = [str(p) for p in folder.glob("*.py")] if folder.is_dir() else []
    hint = nearest(str(path), beside)
    return ConfigurationError(f"no experiment file {path}{hint}; name a Python file (.py)")


# Side in pixels of the images of the `--tiny` form.
TINY_SIZE = 64


def shrink(experiment: Experiment) -> Experiment:
    """Returns the experiment's `--tiny` form: the same code path in seconds on a laptop.

    The data become `shapes/tiny` (64 training images of 64 pixels), the sizes 32 and 64, the
    batches 16 images at 64 pixels, the run one epoch; model, optimizer, loss and rules stay.
    """
    several = experiment.sampler.sizes is None or len(experiment.sampler.sizes) > 1
    detection = experiment.detection
    if head_named(experiment.model.name).letterboxed:  # the last epochs have no mosaics
        detection = replace(detection, close_mosaic=0)
    return replace(
        experiment,
        name=f"{experiment.name}-tiny",
        epochs=1,
        log_every=2,
        model=replace(experiment.model, num_classes=None),
        data=replace(
            experiment.data,
            dataset="shapes/tiny",
            train="train",
            validation="validation",
            test="test",
        ),
        processor=replace(experiment.processor, size=TINY_SIZE, crop_size=(TINY_SIZE, TINY_SIZE)),
        sampler=SamplerConfig(
            batch_size=16,
            base_size=TINY_SIZE,
            sizes=(32, TINY_SIZE) if several else (TINY_SIZE,),
            rule=experiment.sampler.rule,
            reference_devices=1,
        ),
        detection=detection,
        schedule=replace(experiment.schedule, warmup_steps=1, hold_epochs=0),
        evaluation=replace(experiment.evaluation, batch_size=16),
    )
