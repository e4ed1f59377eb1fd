"""`mobilevit train`: an experiment file, overrides, a work directory."""

import dataclasses
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mobilevit_jax.cli.console import TrainProgress, print_table, say
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.config import Experiment, load_experiment, shrink
from mobilevit_jax.data.prepare import prepare

if TYPE_CHECKING:
    from mobilevit_jax.tasks.classification import ClassificationTask

EXIT_DONE, EXIT_STOPPED = 0, 3


@dataclass(frozen=True)
class Arguments:
    """Train, evaluate and save an experiment; the same command again resumes it.

    Attributes:
        file: Python file with a function experiment(), such as experiments/quickstart.py.
        workdir: Work directory; runs/<name of the experiment> by default.
        tiny: Shrink the experiment to seconds on a laptop, same code path.
        config: The experiment, field by field.
    """

    file: tyro.conf.Positional[str]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Path | None = None
    tiny: bool = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit train` and returns its exit status (0 done, 3 stopped and saved).

    Raises:
        ConfigurationError: If the experiment or an option is wrong.
        MobileViTError: If data or training fail.
    """
    arguments = parse(argv)
    experiment = arguments.config
    workdir = arguments.workdir or Path("runs") / experiment.name
    start_jax()
    return run(experiment, workdir)


def parse(argv: list[str]) -> Arguments:
    """Reads the file that the arguments name, then the overrides of its fields."""
    return tyro.cli(
        tyro.conf.AvoidSubcommands[Arguments],
        prog="mobilevit train",
        args=argv,
        default=Arguments(file=tyro.MISSING, config=experiment_default(argv)),
    )


def experiment_default(argv: list[str]) -> Experiment:
    """Returns the experiment that overrides start from: that of the file, shrunk by `--tiny`.

    Without a file, as in `--help`, it is the paper's recipe.
    """
    files = [word for word in argv if word.endswith(".py") and not word.startswith("-")]
    experiment = load_experiment(files[0]) if files else Experiment()
    return shrink(experiment) if "--tiny" in argv else experiment


def run(experiment: Experiment, directory: Path) -> int:
    """Prepares what needs no source, trains, draws the curves, prints the result."""
    from mobilevit_jax.training import loop, workdir

    task = build_task(experiment)
    workdir.open_workdir(directory, experiment, task.class_names)
    total = sum(task.steps_of_epochs)
    say(_summary(experiment, task, directory))
    with TrainProgress(total, epochs=experiment.epochs) as progress:
        outcome = loop.train(experiment, task, directory, progress)
    if task.skipped.count:
        say(f"skipped {task.skipped.count} images that could not be decoded")
    workdir.write_json(directory / workdir.TIMING, dataclasses.asdict(outcome.timing))
    _draw(outcome.rows, directory / workdir.CURVES)
    if not outcome.finished:
        say("run the same command again to go on")
        return EXIT_STOPPED
    _print_result(experiment, outcome, directory)
    return EXIT_DONE


def build_task(experiment: Experiment) -> "ClassificationTask":
    """Opens the experiment's data and model; a data set that needs no source is made first."""
    from mobilevit_jax.tasks.classification import ClassificationTask

    if experiment.data.dataset.split("/")[0] == "shapes":
        prepare(experiment.data.dataset, data_dir=experiment.data.data_dir)
    return ClassificationTask(experiment)


def _summary(experiment: Experiment, task: Any, directory: Path) -> str:
    import jax

    devices = jax.device_count()
    return (
        f"{experiment.model.name}, {len(task.class_names)} classes of {experiment.data.dataset}, "
        f"{experiment.epochs} epochs, {sum(task.steps_of_epochs)} steps, "
        f"{devices} {jax.default_backend()} device{'s' * (devices > 1)}; work directory {directory}"
    )


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from mobilevit_jax.analysis.plots import learning_curves

    if rows:
        learning_curves(rows, path)


def _print_result(experiment: Experiment, outcome: Any, directory: Path) -> None:
    evaluated = [row for row in outcome.rows if row["split"] != "train"]
    final = {row["split"]: row for row in evaluated}
    weights = "averaged (EMA)" if experiment.ema.decay else "raw"
    if final:
        print_table(
            ["split", "images", "loss", "top-1", "top-5"],
            [
                [split, row["count"], row["loss"], f"{row['top1']:.2%}", f"{row['top5']:.2%}"]
                for split, row in final.items()
            ],
            title=f"{experiment.name} after {experiment.epochs} epochs, {weights} weights",
        )
    timing = outcome.timing
    if timing.steps:
        share = timing.data_wait_seconds / max(timing.train_seconds, 1e-9)
        say(
            f"trained at {timing.images / timing.train_seconds:.0f} images/s, "
            f"waiting for data {share:.1%} of the time; curves in {directory}/learning_curves.png"
        )
    say(f"predict with: mobilevit predict IMAGE --weights {shlex.quote(os.fspath(directory))}")
