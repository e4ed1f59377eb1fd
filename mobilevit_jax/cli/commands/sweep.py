"""`mobilevit sweep`: all rows of a study, each a run of its own, resumed where they stopped."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from mobilevit_jax.analysis.metrics import label_of, number
from mobilevit_jax.cli.commands.train import on_its_splits, python_files
from mobilevit_jax.cli.console import count, print_table, say
from mobilevit_jax.cli.options import called, read_over, refusing
from mobilevit_jax.cli.study_row import Order
from mobilevit_jax.config import Experiment, no_experiment_file, to_dict
from mobilevit_jax.errors import ConfigurationError, ExitStatus, MobileViTError, check_local
from mobilevit_jax.studies import sweeps
from mobilevit_jax.studies.sweeps import RunRecord, Sweep, SweepRecord
from mobilevit_jax.study import Study, check_different, load_study, shrink_study
from mobilevit_jax.training import workdir
from mobilevit_jax.training.lock import hold

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What runs one row; it reads an `Order`.
_CHILD = (sys.executable, "-m", "mobilevit_jax.cli.study_row")
_ERROR = "mobilevit: error: "


@dataclass(frozen=True)
class Arguments:
    """Train all rows of a study, and print their numbers beside the paper's.

    Each row is a run in a process and a work directory of its own. The same command again goes on
    where it stopped: rows that are done are skipped, the others resumed. A row that fails is
    reported, and the others go on. Fields of the experiment hold for all rows. On several hosts run
    the rows one by one, with `mobilevit train FILE --row NAME`.

    Attributes:
        file: Python file with a function study(), such as experiments/ablations/weight_decay.py.
        workdir: Directory of the sweep; studies in the same one share the rows of equal names.
        rows: Only these rows, by name; all of them if not given.
        seeds: Runs of each row, with seeds from --seed on.
        tiny: Shrink each row to a minute or two on a laptop, same code path.
        deterministic: As in `mobilevit train`.
        config: The experiment of every row, field by field; the defaults shown are the first row's.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Annotated[Path | None, called("DIR", "(default: runs/<study's name>)")] = None
    rows: Annotated[tuple[str, ...], called("NAME...", "(default: all)")] = ()
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    tiny: tyro.conf.FlagCreatePairsOff[bool] = False
    deterministic: tyro.conf.FlagCreatePairsOff[bool] = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit sweep`; returns 0 if all is done, 1 if a row failed, 3 if stopped.

    Raises:
        ConfigurationError: If the study or an option is wrong.
        DataError: If what an earlier sweep left cannot be read.
    """
    arguments, study = parse(argv)
    name = f"{study.name}-tiny" if arguments.tiny else study.name
    directory = arguments.workdir or Path("runs") / name
    check_local(directory, "--workdir")
    refused = refusing(f"the sweep's directory {directory} cannot be made or written", "--workdir")
    with refused, hold(directory, say):
        record = _record(arguments, study, directory)
        return _Sweep(directory, record, arguments.deterministic).run(_chosen(arguments, study))


def parse(argv: list[str]) -> tuple[Arguments, Study]:
    """Reads the study file that the arguments name, then the overrides of all rows.

    Raises:
        ConfigurationError: If the file is no study, a row is unknown, or the overrides undo what
            the study varies.
    """
    files = python_files(argv)
    study = load_study(files[0]) if files else None
    if study is not None and "--tiny" in argv:
        study = shrink_study(study)
    experiments = [row.experiment for row in study.rows] if study else [Experiment()]
    parsed = [read_over(Arguments, "sweep", argv, experiment) for experiment in experiments]
    arguments = parsed[0]
    if study is None or [arguments.file] != files[:1]:
        raise no_experiment_file(arguments.file)
    if arguments.seeds < 1:
        raise ConfigurationError(f"--seeds must be at least 1; got {arguments.seeds}")
    configs = [one.config for one in parsed]
    if arguments.tiny:
        configs = [on_its_splits(config, argv) for config in configs]
    rows = zip(study.rows, configs, strict=True)
    study = replace(study, rows=tuple(replace(row, experiment=config) for row, config in rows))
    check_different(study.rows)
    return arguments, study


def _chosen(arguments: Arguments, study: Study) -> list[tuple[str, int]]:
    """Returns the runs to do as (row, seed), all rows of a seed before the next seed."""
    names = [study.row(name).name for name in arguments.rows]
    rows = [row for row in study.rows if not names or row.name in names]
    return [
        (row.name, row.experiment.seed + seed) for seed in range(arguments.seeds) for row in rows
    ]


def _record(arguments: Arguments, study: Study, directory: Path) -> SweepRecord:
    """Returns the record of the sweep: the runs of the arguments and those of earlier commands.

    Raises:
        ConfigurationError: If a run was begun as another experiment.
    """
    path = directory / sweeps.RECORD.format(study.name)
    earlier = sweeps.read_record(path).runs if path.exists() else ()
    order = [row.name for row in study.rows]
    known = {(run.row, run.seed): run for run in earlier if run.row in order}
    for row, seed in _chosen(arguments, study):
        known.setdefault((row, seed), RunRecord(row, seed, f"{row}/seed{seed}"))
    for run in known.values():
        workdir.check_same(directory / run.directory, _experiment(study, run))
    runs = sorted(known.values(), key=lambda run: (order.index(run.row), run.seed))
    return SweepRecord(study, arguments.file, arguments.tiny, tuple(runs))


def _experiment(study: Study, run: RunRecord) -> Experiment:
    return replace(study.row(run.row).experiment, seed=run.seed)


class _Sweep:
    """Does the runs of a record one after another, in processes of their own."""

    def __init__(self, directory: Path, record: SweepRecord, deterministic: bool) -> None:
        self.directory, self.record, self.deterministic = directory, record, deterministic
        self.path = directory / sweeps.RECORD.format(record.study.name)
        self.runs = {(run.row, run.seed): run for run in record.runs}
        self.stopped = False
        self.process: subprocess.Popen[str] | None = None

    def run(self, chosen: list[tuple[str, int]]) -> int:
        """Does the chosen ones; returns the exit status."""
        self._write()
        failed = 0
        with self._listening():
            for index, key in enumerate(chosen, 1):
                run = self.runs[key]
                title = f"[{index}/{len(chosen)}] {run.row}, seed {run.seed}"
                if self._missing(run) == ():
                    self._set(run, "done")
                    say(f"{title}: done before")
                    continue
                if self.stopped:
                    break
                say(f"{title}: {self.directory / run.directory}")
                failed += self._do(run) == "failed"
        show(sweeps.read_sweep(self.path))
        if self.stopped:
            say("stopped by a signal; run the same command again to go on")
            return ExitStatus.STOPPED
        for run in self.runs.values() if failed else ():
            if run.state == "failed":
                say(f"failed: {run.row}, seed {run.seed}: {run.error}")
        return ExitStatus.FAILED if failed else ExitStatus.DONE

    def _missing(self, run: RunRecord) -> tuple[int, ...] | None:
        """Returns the sizes to evaluate, None if there is training to do; () if all is done."""
        directory = self.directory / run.directory
        try:
            there = sweeps.evaluations(directory)
        except MobileViTError:  # the run itself will tell what is wrong
            return None
        if not sweeps.read_run(directory, run).finished:
            return None
        return tuple(s for s in self.record.study.row(run.row).sizes if s not in there)

    def _do(self, run: RunRecord) -> str:
        """Runs one; returns its state, which the record has then, too."""
        self._set(run, "running")
        missing = self._missing(run)
        row = self.record.study.row(run.row)
        order = Order(
            _experiment(self.record.study, run),
            str(self.directory / run.directory),
            row.sizes if missing is None else missing,
            self.deterministic,
            os.getpid(),
        )
        status, error = self._start(order)
        if status == ExitStatus.STOPPED or (self.stopped and status != ExitStatus.DONE):
            self.stopped = True  # also if the run alone was told
            return self._set(run, "stopped")
        if status == ExitStatus.DONE and self._missing(run) == ():
            return self._set(run, "done")
        return self._set(run, "failed", error or _reason(status))

    def _start(self, order: Order) -> tuple[int, str]:
        """Runs an order in a process; returns its exit status and the error that it printed."""
        error = ""
        with subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # a Ctrl-C is for the sweep, which passes it on once
        ) as process:
            self.process = process
            if self.stopped:  # the signal came before there was a process
                process.send_signal(signal.SIGTERM)
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                process.stdin.write(order.as_json())
                process.stdin.close()
            for line in process.stdout:
                say(line.rstrip("\n"))
                error = line.strip().removeprefix(_ERROR) if line.startswith(_ERROR) else error
        self.process = None
        return process.returncode, error

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Passes signals on to the run, whose own answer to the first is to save and stop."""
        before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def _set(self, run: RunRecord, state: sweeps.State, error: str = "") -> str:
        """Writes a run's state into the record."""
        self.runs[run.row, run.seed] = replace(run, state=state, error=error)
        self._write()
        return state

    def _write(self) -> None:
        record = replace(self.record, runs=tuple(self.runs.values()))
        workdir.write_json(self.path, to_dict(record))


def show(sweep: Sweep) -> None:
    """Prints the tables of a sweep on stdout."""
    for table in sweep.record.study.tables:
        rows = [
            [line.label, label_of(metric), number(metric, cell.paper), _ours(metric, cell)]
            for line, metric, cell in sweep.cells(table)
        ]
        here = "; here: tiny form" if sweep.record.tiny else ""
        title = f"{table.title}; paper: {table.source}{here}"
        print_table(["row", "number", "paper", "here"], rows, title=title)
    runs = sweep.runs
    done = sum(run.finished for run in runs)
    say(f"{count(done, 'run')} of {len(runs)} done")


def _ours(metric: str, cell: sweeps.Cell) -> str:
    """Returns the mean, the range over the seeds, and what is missing."""
    shown = [cell.state] if cell.state else []
    if len(cell.values) > 1:
        low, high = (number(metric, end(cell.values)) for end in (min, max))
        shown.insert(0, f"{low} to {high}")
    text = ", ".join(shown)
    if cell.mean is None:
        return text
    return number(metric, cell.mean) + (f" ({text})" if text else "")


def _reason(status: int) -> str:
    """Says how a process ended that printed no error."""
    if status >= 0:
        return f"exit status {status}; what it printed above may say why"
    name = signal.Signals(-status).name
    hint = "; was the memory used up?" if name == "SIGKILL" else ""
    return f"ended by {name}{hint}"
