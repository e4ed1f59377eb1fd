"""`mobilevit train`: an experiment file, overrides, a work directory."""

import contextlib
import dataclasses
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from mobilevit_jax.analysis.metrics import shown
from mobilevit_jax.base import run_files
from mobilevit_jax.cli.console import TrainProgress, count, print_table, say
from mobilevit_jax.cli.options import called, read_over, refusing
from mobilevit_jax.cli.runtime import HostsOptions, start_jax
from mobilevit_jax.config import Experiment, differences, no_experiment_file, shrink, to_dict
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import plan_epoch
from mobilevit_jax.data.sources import dataset_info
from mobilevit_jax.errors import ConfigurationError, ExitStatus
from mobilevit_jax.study import load_run
from mobilevit_jax.tasks import task_of

if TYPE_CHECKING:
    from mobilevit_jax.tasks.base import DataTask
    from mobilevit_jax.training.initial_weights import InitialWeights
    from mobilevit_jax.training.loop import Outcome

# Sections of an experiment that are one task's.
_SECTIONS = {
    "augment": "classification",
    "loss": "classification",
    "detection": "detection",
    "segmentation": "segmentation",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Arguments:
    """Train, evaluate and save an experiment; the same command again resumes it.

    `mobilevit train FILE --help` shows the values of that experiment as defaults.

    Attributes:
        file: Python file with a function experiment(), such as experiments/quickstart.py.
        row: Where the file is a study, which of its rows.
        workdir: Work directory.
        tiny: Shrink the experiment to seconds on a laptop, same code path.
        deterministic: On a GPU, compute the same bits at every start, with slower operations where
            need be; CPUs and TPUs do so anyway.
        hosts: Training by several processes.
        config: The experiment, field by field.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    row: Annotated[str | None, called("NAME")] = None
    workdir: Annotated[Path | None, called("DIR", "(default: runs/<experiment's name>)")] = None
    tiny: tyro.conf.FlagCreatePairsOff[bool] = False
    deterministic: tyro.conf.FlagCreatePairsOff[bool] = False
    hosts: Annotated[HostsOptions, tyro.conf.arg(name="")] = HostsOptions()


def main(argv: list[str]) -> int:
    """Runs `mobilevit train` and returns its exit status (0 done, 3 stopped and saved).

    Raises:
        ConfigurationError: If the experiment or an option is wrong.
        MobileViTError: If data or training fail.
    """
    arguments = parse(Arguments, "train", argv)
    experiment = arguments.config
    workdir = arguments.workdir or Path("runs") / experiment.name
    start_jax(deterministic=arguments.deterministic)
    with arguments.hosts.joined():
        return run(experiment, workdir)


def parse(arguments_class: type[T], command: str, argv: list[str]) -> T:
    """Reads the experiment file that the arguments name, then the overrides of its fields.

    Without a file, as in `--help`, the defaults are those of the paper's recipe.

    Args:
        arguments_class: A dataclass with `file`, `config`, `row` and `tiny`, as `Arguments` has
            them.
        command: Such as "train", for messages.
        argv: Its arguments.

    Raises:
        ConfigurationError: If the file is no experiment, or an override is wrong.
    """
    # The overrides' defaults are in the file, so it must be found before tyro reads the rest.
    files = python_files(argv)
    experiment = load_run(files[0], _row(argv)) if files else Experiment()
    if "--tiny" in argv:
        experiment = shrink(experiment)
    arguments: Any = read_over(arguments_class, command, argv, experiment)
    if [arguments.file] != files[:1]:
        raise no_experiment_file(arguments.file)
    if arguments.tiny:
        return dataclasses.replace(arguments, config=on_its_splits(arguments.config, argv))
    return arguments


def on_its_splits(tiny: Experiment, argv: list[str]) -> Experiment:
    """Returns a tiny experiment whose evaluation splits are there.

    Those of `--tiny` are those of `shapes/tiny`; a data set that the arguments name in its place
    need not have them. Splits that the arguments name stay as they are.
    """
    if is_drawn(tiny):
        return tiny
    data, options = tiny.data, [word.partition("=")[0] for word in argv]
    there = dataset_info(data.dataset, data.data_dir).splits
    lacking = [
        role
        for role in ("validation", "test")
        if getattr(data, role) == role and role not in there and f"--data.{role}" not in options
    ]
    for role in lacking:
        say(f"{data.dataset} has no split {role}, and the run goes without")
    return dataclasses.replace(tiny, data=dataclasses.replace(data, **dict.fromkeys(lacking)))


def python_files(argv: list[str]) -> list[str]:
    """Returns the arguments that name Python files; the first one should be the experiment's."""
    return [word for word in argv if word.endswith(".py") and not word.startswith("-")]


def _row(argv: list[str]) -> str | None:
    """Returns the value of --row; tyro, which comes later, makes sure of the rest."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == "--row":
            return following
        if word.startswith("--row="):
            return word.removeprefix("--row=")
    return None


def run(experiment: Experiment, directory: Path) -> int:
    """Prepares what needs no source, trains, draws the curves, prints the result."""
    import jax

    from mobilevit_jax.fine_tuning import load_initial

    task = build_task(experiment)
    check_settings(experiment, task)
    if jax.process_count() > 1:
        _agree(experiment, task)
    # Before anything is written or compiled, so that a mistake leaves nothing and costs seconds.
    initial = load_initial(experiment, task.model, directory, task.class_names)
    with contextlib.ExitStack() as held:
        _open(directory, experiment, task, held)
        return _train(experiment, task, directory, initial)


def _train(
    experiment: Experiment, task: "DataTask", directory: Path, initial: "InitialWeights | None"
) -> int:
    """Trains in the open work directory."""
    import jax

    from mobilevit_jax.training import loop

    total = sum(task.steps_of_epochs)
    say(_summary(experiment, task, directory))
    with TrainProgress(total, epochs=experiment.epochs) as progress:
        outcome = loop.train(experiment, task, directory, progress, initial)
    for note in task.notes():
        say(note)
    if jax.process_index() == 0:
        _report(experiment, task, outcome, directory)
    if not outcome.finished:
        say("run the same command again to go on")
        return ExitStatus.STOPPED
    return ExitStatus.DONE


def _report(experiment: Experiment, task: "DataTask", outcome: "Outcome", directory: Path) -> None:
    """Writes timing and curves; prints the result of a finished run."""
    from mobilevit_jax.analysis.plots import learning_curves
    from mobilevit_jax.training import workdir

    if outcome.timing.steps:  # else nothing was trained, and an earlier file still holds
        workdir.write_json(directory / run_files.TIMING, dataclasses.asdict(outcome.timing))
    if outcome.rows:
        learning_curves(outcome.rows, directory / run_files.CURVES)
    if outcome.finished:
        _print_result(experiment, outcome, directory)
        _print_next(experiment, task, directory)


def build_task(experiment: Experiment) -> "DataTask":
    """Opens the experiment's data and model; a data set that needs no source is made first."""
    from mobilevit_jax.tasks import create_task

    if is_drawn(experiment):
        prepare(experiment.data.dataset, data_dir=experiment.data.data_dir)
    return create_task(experiment)


def check_settings(experiment: Experiment, task: "DataTask") -> None:
    """Finds settings that are wrong before anything is loaded or written."""
    from mobilevit_jax.training.optimizer import create_optimizer
    from mobilevit_jax.training.schedule import warmup_cosine

    its_task = task_of(experiment.model.name)
    changed = differences(to_dict(Experiment()), to_dict(experiment))
    options = [text.partition(":")[0] for text in changed]
    others = [one for one in options if _SECTIONS.get(one.partition(".")[0], its_task) != its_task]
    if others:
        raise ConfigurationError(
            f"set, but of no use for {experiment.model.name}, which is for {its_task}: "
            f"{', '.join(others)}; leave that out of the experiment or the command"
        )
    create_optimizer(
        experiment.optimizer,
        warmup_cosine(experiment.schedule, task.steps_of_epochs),
        freeze_backbone=experiment.model.freeze_backbone,
    )


def _agree(experiment: Experiment, task: "DataTask") -> None:
    """Refuses to begin unless all processes of the run have been given the same."""
    from mobilevit_jax.training import workdir
    from mobilevit_jax.training.multihost import hosts

    plan = plan_epoch(experiment.seed, 0, task.examples, task.table)
    sizes = str([batch[:2] for batch in plan])
    data = {
        "splits": task.fingerprints(),
        "plan": hosts.digest(sizes, *(batch.ids for batch in plan)),
    }
    facts = hosts.run_facts(to_dict(experiment), task.class_names, data, workdir.versions())
    hosts.agree("the run", facts)


def _open(
    directory: Path, experiment: Experiment, task: "DataTask", held: contextlib.ExitStack
) -> None:
    """Opens the work directory, which no other run may enter until `held` is closed."""
    import jax

    from mobilevit_jax.training import workdir
    from mobilevit_jax.training.lock import locked

    with refusing(f"the work directory {directory} cannot be made or written", "--workdir"):
        held.enter_context(locked(directory, warn=say))
        if jax.process_index() == 0:
            workdir.open_workdir(directory, experiment, task.class_names, task.examples)


def _summary(experiment: Experiment, task: "DataTask", directory: Path) -> str:
    import jax

    devices = jax.device_count()
    return (
        f"{experiment.model.name}, {len(task.class_names)} classes of {experiment.data.dataset}, "
        f"{count(experiment.epochs, 'epoch')}, {count(sum(task.steps_of_epochs), 'step')}, "
        f"{count(devices, jax.default_backend() + ' device')}; work directory {directory}"
    )


def _print_result(experiment: Experiment, outcome: "Outcome", directory: Path) -> None:
    final = {row["split"]: row for row in outcome.rows if row["split"] != "train"}
    weights = "averaged (EMA)" if experiment.ema.decay else "raw"
    if final:
        cells = {split: {"images": row["count"], **shown(row)} for split, row in final.items()}
        columns = list(next(iter(cells.values())))
        print_table(
            ["split", *columns],
            [[split, *(row.get(name, "") for name in columns)] for split, row in cells.items()],
            title=f"{experiment.name} after {count(experiment.epochs, 'epoch')}, {weights} weights",
        )
    timing = outcome.timing
    if timing.steps:
        share = timing.data_wait_seconds / max(timing.train_seconds, 1e-9)
        say(
            f"trained at {timing.images / timing.train_seconds:.0f} images/s, "
            f"waiting for data {share:.1%} of the time; curves in {directory / run_files.CURVES}"
        )


def _print_next(experiment: Experiment, task: "DataTask", directory: Path) -> None:
    """Prints the command that predicts; a data set that was drawn leaves an image to try it on."""
    image = "IMAGE"
    if is_drawn(experiment):
        path = directory / run_files.EXAMPLE
        if not path.exists():
            path.write_bytes(task.first_image())
        image = shlex.quote(os.fspath(path))
    weights = shlex.quote(os.fspath(directory))
    say(f"predict with: mobilevit predict {image} --weights {weights}")


def is_drawn(experiment: Experiment) -> bool:
    """Whether the data set is made here, from nothing."""
    return experiment.data.dataset.split("/")[0] == "shapes"
