"""A study: experiments that differ in one thing, and tables of their numbers beside the paper's.

A study file is a Python file with a function `study() -> Study`. Its docstring holds the claim,
the paper's numbers, the command, and the time with where it is from. `mobilevit sweep FILE` runs
all rows, `mobilevit train FILE --row NAME` one of them.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mobilevit_jax.config import (
    TINY_SIZE,
    Experiment,
    check_experiment,
    differences,
    made_by,
    shrink,
    to_dict,
)
from mobilevit_jax.errors import ConfigurationError, unknown_name

# Names become directories, and words of a command line.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Row:
    """A run of a study.

    Attributes:
        name: Names its work directory. Studies that are swept into one directory share the rows
            of equal names, which must then be equal experiments.
        experiment: What is trained; loading gives it the name of the row.
        sizes: Sides in pixels of the images at which the final weights are evaluated besides.
    """

    name: str
    experiment: Experiment
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        label: What the line is of.
        row: The row whose numbers stand there.
        paper: The paper's numbers, one for each metric of the table; None where it gives none.
        raw: Whether the numbers are those of the raw weights where the run keeps an average.
    """

    label: str
    row: str
    paper: tuple[float | None, ...]
    raw: bool = False


@dataclass(frozen=True)
class Table:
    """Numbers of several rows beside the paper's.

    Attributes:
        title: What is compared.
        source: Where the paper's numbers stand, and what they are of.
        metrics: Names of the columns: metrics of the final evaluation ("top1", "loss"), "top1@160"
            for one of `Row.sizes`, "updates", "epoch_seconds", or what only the paper can have.
        lines: The lines.
    """

    title: str
    source: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.paper) != len(self.metrics):
                raise ConfigurationError(
                    f"table {self.title!r}, line {line.label!r}: {len(line.paper)} numbers of the "
                    f"paper for {len(self.metrics)} metrics; write None where it gives none"
                )


@dataclass(frozen=True)
class Study:
    """Rows, and the tables of their numbers.

    Attributes:
        name: Names the default directory, runs/<name>.
        claim: What the paper says, in a sentence.
        rows: The runs.
        tables: Their numbers; a row may stand in several tables or lines, or in none.
    """

    name: str
    claim: str
    rows: tuple[Row, ...]
    tables: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        for name in (self.name, *names):
            if not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"{name!r} cannot name a study or a row: letters, digits, and _ . + - after "
                    "the first"
                )
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"a study needs rows of different names, not {names}")
        for table in self.tables:
            for line in table.lines:
                if line.row not in names:
                    raise unknown_name(f"row of table {table.title!r}", line.row, names)

    def row(self, name: str) -> Row:
        """Returns a row by its name.

        Raises:
            ConfigurationError: If there is none, with the nearest one.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown_name(f"row of the study {self.name}", name, [row.name for row in self.rows])


def load_study(path: str | Path) -> Study:
    """Runs a study file and returns what its `study()` returns.

    Raises:
        ConfigurationError: If there is no such file, or it does not hold a study.
    """
    made = made_by(path, "study", "experiment")
    study = made.get("study")
    if not isinstance(study, Study):
        hint = "; mobilevit train runs its experiment" if "experiment" in made else ""
        raise ConfigurationError(
            f"{path} needs a function study() that returns a mobilevit_jax.study.Study{hint}"
        )
    named = [replace(row, experiment=replace(row.experiment, name=row.name)) for row in study.rows]
    return replace(study, rows=tuple(named))


def load_run(path: str | Path, row: str | None = None) -> Experiment:
    """Loads one experiment: that of an experiment file, or of a row of a study file.

    Raises:
        ConfigurationError: As `load_experiment` and `load_study` do; if a study comes without a row
            or an experiment with one; if the row is unknown.
    """
    if row is not None:
        return load_study(path).row(row).experiment
    made = made_by(path, "experiment", "study")
    if "experiment" not in made and isinstance(study := made.get("study"), Study):
        names = ", ".join(row.name for row in study.rows)
        raise ConfigurationError(
            f"{path} is a study: choose a row with --row ({names}), or run all of them with "
            "mobilevit sweep"
        )
    return check_experiment(path, made.get("experiment"))


def shrink_study(study: Study) -> Study:
    """Returns the study's `--tiny` form: that of every row, and sizes in proportion."""
    rows, names = [], {}
    for row in study.rows:
        base = row.experiment.processor.crop_size[0]
        sizes = tuple(size * TINY_SIZE // base for size in row.sizes)
        names |= {f"@{old}": f"@{new}" for old, new in zip(row.sizes, sizes, strict=True)}
        rows.append(replace(row, experiment=shrink(row.experiment), sizes=sizes))

    def renamed(metric: str) -> str:
        name, at, size = metric.partition("@")
        return name + names.get(at + size, at + size)

    tables = tuple(
        replace(table, metrics=tuple(map(renamed, table.metrics))) for table in study.tables
    )
    return replace(study, rows=tuple(rows), tables=tables)


def check_different(rows: tuple[Row, ...]) -> None:
    """Refuses rows that are the same run, which is what a wrong override makes of them.

    Raises:
        ConfigurationError: Names two of them.
    """
    seen: dict[str, Row] = {}
    for row in rows:
        plain = to_dict(replace(row.experiment, name="")), row.sizes
        other = seen.setdefault(repr(plain), row)
        if other is not row:
            raise ConfigurationError(
                f"rows {other.name!r} and {row.name!r} are the same run with these options; leave "
                "out the one that sets what the study varies"
            )


def varied(study: Study) -> list[str]:
    """Lists the fields in which the rows of a study differ from its first one, sorted."""
    first, *others = (to_dict(replace(row.experiment, name="")) for row in study.rows)
    changed = {text.split(":")[0] for other in others for text in differences(first, other)}
    return sorted(changed)
