"""What a sweep has left: its record, how far each run is, and its numbers beside the paper's.

A sweep's directory holds `sweep-<study>.json`, which is a `SweepRecord`, and for each run a work
directory `<row>/seed<seed>`. Several studies may share a directory and the rows of equal names.
Whether a run is finished, and its numbers, are read from its own files, never from the record.
"""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mobilevit_jax.base import run_files
from mobilevit_jax.config import Experiment, from_dict, read_experiment
from mobilevit_jax.data.sampler import scale_table, steps_in_epoch
from mobilevit_jax.errors import ConfigurationError, DataError, MobileViTError, shortened
from mobilevit_jax.study import Line, Study, Table
from mobilevit_jax.training import metrics_log as records
from mobilevit_jax.training import workdir

RECORD = "sweep-{}.json"
State = Literal["waiting", "running", "done", "failed", "stopped"]

# Numbers of an evaluation that are no metric.
_NO_METRICS = ("step", "epoch", "split", "count", "evaluation_seconds")


@dataclass(frozen=True)
class RunRecord:
    """One run of a sweep as its command left it.

    Attributes:
        row: The row of the study.
        seed: The seed.
        directory: The work directory, relative to that of the sweep.
        state: "waiting" before its first start; "running" also if the command was killed.
        error: Why it failed, in a line.
    """

    row: str
    seed: int
    directory: str
    state: State = "waiting"
    error: str = ""


@dataclass(frozen=True)
class SweepRecord:
    """What `sweep-<study>.json` holds.

    Attributes:
        study: The study with its rows as they are run: shrunk if tiny, overrides applied.
        file: The study's file, as it was named.
        tiny: Whether it is the `--tiny` form.
        runs: The runs, row by row.
    """

    study: Study
    file: str
    tiny: bool
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Run:
    """One run of a sweep as its files tell it.

    Attributes:
        record: What the sweep's command left.
        directory: The work directory.
        step: Steps done, 0 if it has not begun.
        total: Steps of the whole run; 0 if it has not begun.
        finished: Whether it is trained, evaluated and saved to the end.
        numbers: What it yields by name if it is finished, see `numbers_of`.
        problem: Why its files cannot be read, in a line, if they cannot.
    """

    record: RunRecord
    directory: Path
    step: int = 0
    total: int = 0
    finished: bool = False
    numbers: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def state(self) -> str:
        """Says how far it is: "done", "failed", "unreadable", "step 10 of 200" or "not run"."""
        if self.finished:
            return "done"
        if self.problem:
            return "unreadable"
        if self.record.state == "failed":
            return "failed"
        return f"step {self.step} of {self.total}" if self.total else "not run"


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        paper: The paper's, if it has one.
        values: Ours, one for each finished run, in order of the seeds.
        state: "" if all runs are finished; else "not run", "failed", "step 10 of 200", or
            "1 of 2 runs"; "not measured" if finished runs have no such number.
    """

    paper: float | None
    values: tuple[float, ...]
    state: str

    @property
    def mean(self) -> float | None:
        """Of the values, if there are any."""
        return statistics.fmean(self.values) if self.values else None


@dataclass(frozen=True)
class Sweep:
    """A sweep's record and runs."""

    record: SweepRecord
    runs: tuple[Run, ...]

    def cells(self, table: Table) -> list[tuple[Line, str, Cell]]:
        """Returns a table's cells line by line, each with its line and metric."""
        return [
            (line, metric, self._cell(line, metric, paper))
            for line in table.lines
            for metric, paper in zip(table.metrics, line.paper, strict=True)
        ]

    def _cell(self, line: Line, metric: str, paper: float | None) -> Cell:
        runs = [run for run in self.runs if run.record.row == line.row]
        finished = [run for run in runs if run.finished]
        averaged = self.record.study.row(line.row).experiment.ema.decay > 0
        name = f"raw_{metric}" if line.raw and averaged else metric
        found = tuple(run.numbers[name] for run in finished if name in run.numbers)
        if finished and len(finished) == len(runs):
            return Cell(paper, found, "" if found else "not measured")
        if found:
            return Cell(paper, found, f"{len(finished)} of {len(runs)} runs")
        states = [run.state for run in runs if run.state != "not run"]
        return Cell(paper, (), states[0] if states else "not run")


def find_sweeps(directory: str | Path) -> list[Path]:
    """Returns the records of the sweeps in a directory, `sweep-*.json`, sorted."""
    return sorted(Path(directory).glob(RECORD.format("*")))


def read_record(path: str | Path) -> SweepRecord:
    """Reads a sweep's record.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return from_dict(SweepRecord, values)
    except FileNotFoundError:
        raise DataError(f"no sweep is recorded in {path}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}); was it edited?") from error


def read_sweep(path: str | Path) -> Sweep:
    """Reads a sweep: its record, and the runs from their own files.

    Args:
        path: A `sweep-<study>.json`; its directory may have been moved with it.

    Raises:
        DataError: If the record cannot be read.
    """
    path = Path(path)
    record = read_record(path)
    return Sweep(record, tuple(read_run(path.parent / run.directory, run) for run in record.runs))


def read_run(directory: Path, record: RunRecord) -> Run:
    """Reads how far a run is, and its numbers if it is finished; see `Run.problem`."""
    try:
        return _read_run(directory, record)
    except (MobileViTError, OSError) as error:
        problem = shortened(error)
    except (ValueError, KeyError, TypeError) as error:  # a number that is none, or is missing
        problem = f"what {directory} holds cannot be read ({error!r}); was it edited?"
    return Run(record, directory, problem=problem)


def _read_run(directory: Path, record: RunRecord) -> Run:
    if not (directory / run_files.EXPERIMENT).exists():
        return Run(record, directory)
    experiment, total = _whole(directory)
    rows = _rows(directory)
    step = max((row["step"] for row in rows), default=0)
    ends = {row["split"] for row in rows if row["step"] == total}
    named = {"validation": experiment.data.validation, "test": experiment.data.test}
    splits = {"train", *(split for split, name in named.items() if name is not None)}
    finished = splits <= ends and total in workdir.saved_steps(directory)
    numbers = numbers_of(directory) if finished else {}
    return Run(record, directory, step, total, finished, numbers)


def numbers_of(directory: Path) -> dict[str, float]:
    """Returns what a run has yielded, by name.

    Metrics are those of its last evaluation, on the test split if it has one, else on the
    validation split: "top1", ..., and "raw_top1", ... where the raw weights were evaluated beside
    their average. "top1@160" is the metric at another size, from the files of `mobilevit evaluate`.
    "updates" are the steps, "epoch_seconds" the seconds of training for each epoch, without
    compilation, evaluation and checkpoints.

    Raises:
        DataError: If a file cannot be read.
    """
    rows = _rows(directory)
    last = {row["split"]: row for row in rows}
    final = last.get("test") or last.get("validation") or {}
    numbers = {
        name: float(value)
        for name, value in final.items()
        if name not in _NO_METRICS and value is not None
    }
    for size, result in evaluations(directory).items():
        numbers |= {
            f"{name}@{size}": float(value)
            for name, value in result.items()
            if isinstance(value, float) and name not in _NO_METRICS
        }
    if "train" in last:
        numbers["updates"] = float(last["train"]["step"])
        numbers["epoch_seconds"] = _train_seconds(rows) / last["train"]["epoch"]
    return numbers


def evaluations(directory: Path) -> dict[int, dict[str, Any]]:
    """Returns what `mobilevit evaluate --size` left in a work directory, by the image side.

    Only those of the final averaged weights on the run's own test split (else validation
    split) count.

    Raises:
        DataError: If a file cannot be read.
    """
    data = read_experiment(directory)[0].data
    wanted = data.dataset, data.test or data.validation
    found = {}
    for path in sorted(directory.glob(run_files.EVALUATION.format("*"))):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            size, has = result["size"], (result["dataset"], result["split"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}); was it edited?") from error
        # Names of other weights than the last averaged ones go on after the size.
        if has == wanted and isinstance(size, int) and path.stem.endswith(f"-{size}"):
            found[size] = result
    return found


def _whole(directory: Path) -> tuple[Experiment, int]:
    """Returns a run's experiment and the number of its steps, from its plan."""
    experiment, _ = read_experiment(directory)
    examples = workdir.read_record(directory).get("examples")
    if not isinstance(examples, int):
        raise DataError(f"{directory / run_files.EXPERIMENT} does not tell the number of examples")
    table = scale_table(experiment.sampler)
    epochs = range(experiment.epochs)
    try:
        total = sum(steps_in_epoch(experiment.seed, epoch, examples, table) for epoch in epochs)
    except ConfigurationError as error:
        raise DataError(f"{directory / run_files.EXPERIMENT}: {error}") from error
    return experiment, total


def _rows(directory: Path) -> list[records.Row]:
    """Returns the rows of metrics, none if the run has not got that far."""
    if not (directory / run_files.METRICS).exists():
        return []
    return records.read_metrics(directory)


def _train_seconds(rows: list[records.Row]) -> float:
    """Adds up the steps' times; a row has the mean since the one before."""
    seconds, done = 0.0, 0
    for row in rows:
        if row["split"] == "train":
            seconds += (row["step"] - done) * row["step_seconds"]
            done = row["step"]
    return seconds
