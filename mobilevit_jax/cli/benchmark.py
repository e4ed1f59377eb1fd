"""`mobilevit benchmark`: images/s of an experiment's loader, of its steps and of both."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mobilevit_jax.cli.console import TrainProgress, print_table, say
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.train import build_task, experiment_default
from mobilevit_jax.config import Experiment
from mobilevit_jax.training.workdir import write_json


@dataclass(frozen=True)
class Arguments:
    """Measure the speed of an experiment's loader, of its step at each scale, and of both.

    Attributes:
        file: Python file with a function experiment().
        config: The experiment, field by field.
        steps: Steps of the loader's and of the whole run.
        tiny: Shrink the experiment to seconds on a laptop, same code path.
        output: Write the numbers into this JSON file.
    """

    file: tyro.conf.Positional[str]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    steps: int = 20
    tiny: bool = False
    output: Path | None = None


def main(argv: list[str]) -> int:
    """Runs `mobilevit benchmark` and returns its exit status."""
    arguments = tyro.cli(
        tyro.conf.AvoidSubcommands[Arguments],
        prog="mobilevit benchmark",
        args=argv,
        default=Arguments(file=tyro.MISSING, config=experiment_default(argv)),
    )
    start_jax()
    from mobilevit_jax.analysis.benchmark import measure

    experiment = arguments.config
    task = build_task(experiment)
    with TrainProgress(arguments.steps, epochs=experiment.epochs) as progress:
        report = measure(experiment, task, arguments.steps, progress)
    rows = [
        [f"step at {name}", report.step[name], report.step_seconds[name] * 1e3, compiled]
        for name, compiled in report.compile_seconds.items()
    ]
    print_table(
        ["what", "images/s", "ms a step", "first call, s"],
        [
            ["loader alone", report.loader, "", ""],
            *rows,
            ["whole run", report.run, "", ""],
            ["steps of the run, no waiting", report.expected, "", ""],
        ],
        title=f"{experiment.name}: {experiment.model.name}, {arguments.steps} steps",
    )
    say(f"the run waits for data {report.data_wait:.1%} of its time")
    if arguments.output:
        write_json(arguments.output, dataclasses.asdict(report))
        say(f"written to {arguments.output}")
    return 0
