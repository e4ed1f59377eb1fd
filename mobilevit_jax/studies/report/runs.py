"""What a report is of: the runs and sweeps in directories, with what tells where each is from."""

import fcntl
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mobilevit_jax.base import run_files
from mobilevit_jax.config import Experiment, read_experiment
from mobilevit_jax.errors import ConfigurationError, DataError, MobileViTError
from mobilevit_jax.studies.sweeps import Run, RunRecord, Sweep, find_sweeps, read_run, read_sweep
from mobilevit_jax.training import metrics_log as records
from mobilevit_jax.training import workdir

TINY_DATASET = "shapes/tiny"
MAIN_METRICS = ("top1", "map", "miou")


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        name: How the report calls it: its directory.
        run: How far it is, and its numbers.
        experiment: What was trained, if that can be read.
        commit: The commit of this package that it was begun with, if that was one.
        versions: Of Python and packages, by name, likewise.
        rows: Of metrics.jsonl: finite numbers, and the three fields that say of what.
        timing: What timing.json holds: where the time of its last process went.
        benchmark: What benchmark.json holds, as `mobilevit benchmark` writes it.
        began: When it was begun, in UTC, as it has written.
        written: When its last row of metrics was written, as its file system says.
        going: Whether a process is at work in it.
    """

    name: str
    run: Run
    experiment: Experiment | None = None
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[records.Row] = ()
    timing: Mapping[str, object] = field(default_factory=dict)
    benchmark: Mapping[str, object] = field(default_factory=dict)
    began: datetime | None = None
    written: datetime | None = None
    going: bool = False

    @property
    def row(self) -> str:
        """How the report calls it and its other seeds together."""
        alone = self.run.record.directory == "."
        return self.name if alone else str(Path(self.name).parent)

    @property
    def begun(self) -> bool:
        """Whether it has left anything, be it an error."""
        return self.state != "not run"

    @property
    def tiny(self) -> bool:
        """Whether it is the `--tiny` form, whose numbers say nothing."""
        return self.experiment is not None and self.experiment.data.dataset == TINY_DATASET

    @property
    def metric(self) -> str | None:
        """The main metric of its task, if it has been evaluated."""
        found = {name for row in self.rows if row["split"] != "train" for name in row}
        return next((name for name in MAIN_METRICS if name in found), None)

    @property
    def state(self) -> str:
        """How far it is, in words."""
        run = self.run
        if run.finished:
            return "done"
        if run.problem:
            return f"unreadable: {run.problem}"
        at = f"step {run.step} of {run.total}" if run.total else "before the first step"
        if self.going:
            return f"still going, {at}"
        if run.record.state == "failed":
            return f"failed, {at}: {run.record.error or 'no reason was recorded'}"
        return f"interrupted, {at}" if run.total else "not run"


@dataclass(frozen=True)
class SweepEntry:
    """A sweep.

    Attributes:
        directory: Where it is, as named.
        sweep: Its record and runs.
        entries: One for each of its runs.
        going: Whether its command is at work.
    """

    directory: Path
    sweep: Sweep
    entries: tuple[Entry, ...]
    going: bool = False

    @property
    def tiny(self) -> bool:
        """Whether it is the `--tiny` form, whose numbers say nothing."""
        return self.sweep.record.tiny or any(entry.tiny for entry in self.entries)


@dataclass(frozen=True)
class Collected:
    """All that was found.

    Attributes:
        sweeps: The sweeps.
        singles: Runs that belong to none of them.
    """

    sweeps: tuple[SweepEntry, ...]
    singles: tuple[Entry, ...]

    @property
    def entries(self) -> list[Entry]:
        """All runs, each once, also those that several sweeps share."""
        of_sweeps = (entry for sweep in self.sweeps for entry in sweep.entries)
        return [*_by_place(itertools.chain(of_sweeps, self.singles)).values()]


def collect(directories: Sequence[Path]) -> Collected:
    """Reads the runs and sweeps in directories.

    Args:
        directories: Work directories of `mobilevit train`, directories of `mobilevit sweep`.

    Raises:
        ConfigurationError: If there is no directory, or one of them holds neither.
        DataError: If the record of a sweep cannot be read.
    """
    if not directories:
        raise ConfigurationError(
            "name at least one work directory of mobilevit train, or directory of mobilevit sweep"
        )
    sweeps, singles = [], []
    for directory in dict.fromkeys(directories):
        found = find_sweeps(directory)
        sweeps += [_sweep(directory, path) for path in found]
        if (directory / run_files.EXPERIMENT).exists():
            alone = RunRecord(directory.name, 0, ".")  # since no sweep has recorded it
            singles.append(_entry(str(directory), read_run(directory, alone)))
        elif not found:
            raise _nothing(directory)
    of_sweeps = _by_place(entry for sweep in sweeps for entry in sweep.entries)
    others = _by_place(singles)
    return Collected(tuple(sweeps), tuple(others[p] for p in others if p not in of_sweeps))


def _by_place(entries: Iterable[Entry]) -> dict[Path, Entry]:
    """Returns each run once, by where it is."""
    return {entry.run.directory.resolve(): entry for entry in entries}


def _nothing(directory: Path) -> ConfigurationError:
    """Builds the error for a path without runs, with those just below it."""
    if not directory.exists():
        return ConfigurationError(f"there is no directory {directory}")
    if not directory.is_dir():
        return ConfigurationError(
            f"{directory} is a file; name the work directory of a run, or the directory of a sweep"
        )
    marks = (run_files.EXPERIMENT, "sweep-*.json")
    below = sorted({path.parent for mark in marks for path in directory.glob(f"*/{mark}")})
    shown = ", ".join(map(str, below[:3])) + (", ..." if len(below) > 3 else "")
    return ConfigurationError(
        f"no run in {directory}: it has neither {marks[0]} (a work directory of mobilevit train) "
        f"nor {marks[1]} (mobilevit sweep)" + (f"; there are runs in {shown}" if below else "")
    )


def _sweep(directory: Path, path: Path) -> SweepEntry:
    sweep = read_sweep(path)
    entries = tuple(_entry(str(directory / run.record.directory), run) for run in sweep.runs)
    return SweepEntry(directory, sweep, entries, is_going(directory))


def _entry(name: str, run: Run) -> Entry:
    """Adds to a run what its other files tell; what they do not is left out."""
    directory = run.directory
    try:
        experiment, _ = read_experiment(directory)
        record = workdir.read_record(directory)
    except (MobileViTError, OSError):  # not begun, or `run.problem` says what is wrong
        return Entry(name, run)
    versions = record.get("versions")
    return Entry(
        name,
        run,
        experiment,
        str(record.get("commit") or ""),
        {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        _rows(directory),
        _json(directory / run_files.TIMING),
        _json(directory / run_files.BENCHMARK),
        _time(record.get("begun")),
        _written(directory / run_files.METRICS),
        is_going(directory),
    )


def _rows(directory: Path) -> list[records.Row]:
    """Returns the rows of metrics that can be drawn, with nothing but finite numbers."""
    try:
        rows = records.read_metrics(directory)
    except (DataError, OSError):
        return []
    whole = [row for row in rows if _is_count(row["step"]) and _is_count(row["epoch"])]
    return [
        {name: row[name] for name in row if name == "split" or number_in(row, name) is not None}
        for row in whole
        if row["split"] in records.SPLITS
    ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 < value < 2**53


def number_in(values: Mapping[str, object], name: str) -> float | None:
    """Returns a finite number from what a file held, None if there is none."""
    value = values.get(name)
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON has integers of any length
        return None


def numbers_in(values: Mapping[str, object], name: str) -> dict[str, float]:
    """Returns the finite numbers of a table in what a file held, by name."""
    table = values.get(name)
    if not isinstance(table, dict):
        return {}
    found = {str(key): number_in(table, key) for key in table}
    return {key: value for key, value in found.items() if value is not None}


def _json(path: Path) -> dict[str, object]:
    """Returns the object in a file, an empty one if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def is_going(directory: Path) -> bool:
    """Whether a process holds the lock of a work directory, see `training.lock`.

    It is asked for as a reader and given back at once, so that nothing is written; filelock, which
    the other rooms use, would open the file for writing.
    """
    try:
        with (directory / run_files.LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or no locks on this file system
        return False
