"""`mobilevit benchmark FILE.py`: images/s of an experiment's loader, of its steps and of both."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mobilevit_jax.cli.commands.train import build_task, parse
from mobilevit_jax.cli.console import TrainProgress, count, print_table, say
from mobilevit_jax.cli.options import called
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.config import Experiment
from mobilevit_jax.errors import ExitStatus
from mobilevit_jax.training.workdir import write_json

_STEPS = 20


@dataclass(frozen=True)
class Arguments:
    """Measure the speed of an experiment's loader, of its step at each scale, and of both.

    `mobilevit benchmark --help` tells how models are measured without an experiment.

    Attributes:
        file: Python file with a function experiment().
        config: The experiment, field by field.
        row: Where the file is a study, which of its rows.
        steps: Steps of the loader's and of the whole run; by default 20, or the run's if fewer.
        tiny: Shrink the experiment to seconds on a laptop, same code path.
        output: Write the numbers into this JSON file.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    row: Annotated[str | None, called("NAME")] = None
    steps: Annotated[int | None, called("INT")] = None
    tiny: tyro.conf.FlagCreatePairsOff[bool] = False
    output: Annotated[Path | None, called("FILE")] = None


def main(argv: list[str]) -> int:
    """Runs `mobilevit benchmark FILE.py` and returns its exit status."""
    arguments = parse(Arguments, "benchmark", argv)
    start_jax()
    from mobilevit_jax.analysis.benchmark import measure

    experiment = arguments.config
    task = build_task(experiment)
    steps = arguments.steps
    if steps is None:
        steps = min(_STEPS, sum(task.steps_of_epochs))
    with TrainProgress(steps, epochs=experiment.epochs) as progress:
        report = measure(experiment, task, steps, progress)
    rows = [
        [f"step at {name}", report.step[name], report.step_seconds[name] * 1e3, compiled]
        for name, compiled in report.compile_seconds.items()
    ]
    print_table(
        ["what", "images/s", "ms", "compile, s"],
        [
            ["loader alone", report.loader, "", ""],
            *rows,
            ["whole run", report.run, "", ""],
            ["steps of the run, no waiting", report.expected, "", ""],
            *([name, "", seconds * 1e3, ""] for name, seconds in report.parts_seconds.items()),
        ],
        title=f"{experiment.name}: {experiment.model.name}, {count(steps, 'step')}",
    )
    say(f"the run waits for data {report.data_wait:.1%} of its time")
    if arguments.output:
        write_json(arguments.output, dataclasses.asdict(report))
        say(f"written to {arguments.output}")
    return ExitStatus.DONE
