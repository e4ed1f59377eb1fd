"""The tables of a report: the paper's numbers beside ours, and where each is from."""

from collections import Counter
from collections.abc import Sequence

from mobilevit_jax.analysis.metrics import HEADINGS, label_of, number
from mobilevit_jax.data.sampler import Scale, scale_table
from mobilevit_jax.errors import count
from mobilevit_jax.studies.report.page import Block, Cell, Grid, escaped, grid
from mobilevit_jax.studies.report.runs import Collected, Entry, SweepEntry, number_in, numbers_in
from mobilevit_jax.studies.sweeps import Cell as Numbers
from mobilevit_jax.study import Line, Table

NOT_RUN = Cell("not run", "missing")
NONE = Cell("none", "missing")
NOT_RECORDED = Cell("not recorded", "missing")
_WHY_MISSING = {"not run": "not run", "not measured": "the runs have no such number"}
_COMMIT = 10  # digits of a commit that are shown


def study_tables(entry: SweepEntry) -> list[Block]:
    """Returns the tables of a study, each with what its runs are of."""
    tables = entry.sweep.record.study.tables
    return [block for t in tables for block in (_study_table(entry, t), *_origins(entry, t))]


def _study_table(entry: SweepEntry, table: Table) -> Grid:
    """Returns a row for each line and number."""
    return grid(
        ("row", "number", "paper", "here", "lowest to highest", "seeds", "ours is from"),
        [_study_row(entry, *numbers) for numbers in entry.sweep.cells(table)],
        title=table.title,
        note=f"Paper: {table.source}; none where it gives no number.",
        words=("number", "ours is from"),
    )


def _study_row(entry: SweepEntry, line: Line, metric: str, cell: Numbers) -> list[str | Cell]:
    runs = _runs_of(entry, line)
    paper = NONE if cell.paper is None else Cell(number(metric, cell.paper), "paper")
    if cell.mean is None:
        ours, spread = Cell(_missing(runs), "missing"), NONE
        where = Cell(_WHY_MISSING.get(ours.text, "no number yet"), "missing")
    else:
        ours, spread = Cell(number(metric, cell.mean), "ours"), Cell(_spread(metric, cell))
        where = Cell(_data(next(one for one in runs if one.run.finished), entry.tiny))
    return [
        line.label or line.row,
        label_of(metric) + (" (raw)" if line.raw else ""),
        *(paper, ours, spread),
        f"{len(cell.values)} of {len(runs)}" if runs else NONE,
        where,
    ]


def _runs_of(entry: SweepEntry, line: Line) -> list[Entry]:
    return [one for one in entry.entries if one.run.record.row == line.row]


def _missing(runs: Sequence[Entry]) -> str:
    """Says why there is no number of ours: how far a run is, "not measured", or "not run"."""
    begun = [one.state for one in runs if one.begun and not one.run.finished]
    if begun:
        return begun[0].partition(":")[0]
    return "not measured" if any(one.run.finished for one in runs) else "not run"


def _data(entry: Entry, tiny: bool) -> str:
    """Says on what data a run was trained."""
    dataset = entry.experiment.data.dataset if entry.experiment else "data that are not known"
    return f"trained here on {dataset}" + (", tiny form" if tiny else "")


def _origins(entry: SweepEntry, table: Table) -> list[Block]:
    """Returns what the finished runs of a table are of, the rows of equal ones together."""
    found: dict[str, list[str]] = {}
    for line in table.lines:
        for one in _runs_of(entry, line)[:1]:
            if one.run.finished:
                found.setdefault(_where(one), []).append(line.label or line.row)
    return [escaped(f"{'; '.join(labels)}: {where}.") for where, labels in found.items()]


def _marked(text: str, entry: Entry) -> str:
    """Says of what is told of a run that it was one in tiny form."""
    return f"{text} (tiny form)" if entry.tiny else text


def _spread(metric: str, cell: Numbers) -> str:
    if len(cell.values) == 1:
        return "one seed"
    low, high = (number(metric, end(cell.values)) for end in (min, max))
    return f"{low} to {high}"


def _where(entry: Entry) -> str:
    """Says of what and on what data a run's numbers are."""
    experiment = entry.experiment
    if experiment is None:
        return "trained here; on what is not known"
    data, size = experiment.data, experiment.processor.crop_size
    epochs = count(experiment.epochs, "epoch")
    measured = data.test or data.validation
    form = "tiny form, " if entry.tiny else ""
    split = f"measured on {measured}" if measured else "unmeasured"
    return (
        f"trained here, {form}{experiment.model.name}, {epochs} of {data.dataset} {data.train}, "
        f"{split} at {size[0]}x{size[1]}"
    )


def results(entries: Sequence[Entry]) -> Grid:
    """Returns the final numbers of runs that belong to no study."""
    found = {name for entry in entries for name in entry.run.numbers}
    columns = [name for name in ("loss", *HEADINGS) if name in found]
    columns += [f"raw_{name}" for name in HEADINGS if f"raw_{name}" in found]
    rows = [
        [
            entry.name,
            *(_result(entry, name) for name in columns),
            _where(entry) if entry.run.finished else entry.state,
        ]
        for entry in entries
    ]
    return grid(
        ("run", *map(label_of, columns), "where they are from"),
        rows,
        note="Of the last evaluation; averaged weights (EMA) where the run keeps an average. "
        "There are no numbers of the paper for these runs.",
        words=("where they are from",),
    )


def _result(entry: Entry, name: str) -> Cell:
    value = entry.run.numbers.get(name)
    missing = Cell(_missing([entry]), "missing")
    return missing if value is None else Cell(number(name, value), "ours")


def runs(collected: Collected) -> Grid:
    """Returns a row for each run: how far it is, and what it is of."""
    return grid(
        (
            *("run", "state", "model", "data", "epochs", "seed", "images/s", "devices"),
            *("commit", "mobilevit-jax", "begun", "metrics last written"),
        ),
        [_run_row(entry) for entry in collected.entries],
        note="Images/s are those of training in the last process of a run, on these devices, "
        "without compilation, evaluation and checkpoints. Times are UTC.",
        words=("state", "model", "data", "devices", "commit", "begun", "metrics last written"),
    )


def _run_row(entry: Entry) -> list[str | Cell]:
    experiment = entry.experiment
    state = Cell(entry.state, "plain" if entry.run.finished else "missing")
    if experiment is None:
        return [entry.name, state, *[_unknown(entry)] * 4, *[NOT_RECORDED] * 6]
    data = f"{experiment.data.dataset} {experiment.data.train}"
    return [
        entry.name,
        state,
        experiment.model.name,
        _marked(data, entry),
        str(experiment.epochs),
        str(experiment.seed),
        _images_per_second(entry),
        str(entry.timing.get("devices") or "") or NOT_RECORDED,
        commit_of(entry),
        entry.versions.get("mobilevit-jax") or NOT_RECORDED,
        *(f"{t:%Y-%m-%d %H:%M}" if t else NOT_RECORDED for t in (entry.began, entry.written)),
    ]


def _unknown(entry: Entry) -> Cell:
    """Returns what stands in place of what an experiment would tell."""
    return Cell("not known", "missing") if entry.begun else NOT_RUN


def commit_of(entry: Entry) -> str:
    """Returns the commit that a run was begun with, shortened, or that it is not known."""
    commit, dash, changed = entry.commit.partition("-dirty")
    if not commit:
        return "not recorded"
    return commit[:_COMMIT] + (", with changes" if dash else "") + changed[:_COMMIT]


def _images_per_second(entry: Entry) -> str | Cell:
    images, seconds = number_in(entry.timing, "images"), number_in(entry.timing, "train_seconds")
    return f"{images / seconds:,.0f}" if images and seconds else NOT_RECORDED


def code(entries: Sequence[Entry]) -> Grid | None:
    """Returns what differs between the code of the runs, None if nothing does."""
    begun = [entry for entry in entries if entry.experiment is not None]
    facts = {"commit": Counter(map(commit_of, begun))}
    for name in sorted({name for entry in begun for name in entry.versions}):
        facts[name] = Counter(entry.versions.get(name, "not recorded") for entry in begun)
    rows = [
        [name, value, str(count)]
        for name, counted in facts.items()
        if len(counted) > 1
        for value, count in counted.most_common()
    ]
    if not rows:
        return None
    columns = ("what differs", "version", "runs")
    return grid(columns, rows, title="Code of the runs", words=("version",))


def resolutions(entries: Sequence[Entry]) -> Grid | None:
    """Returns the main metric of each run by the size of the images, None if no run has sizes."""
    found = {entry.name: entry for entry in entries if at_sizes(entry)}
    sizes = sorted({size for entry in found.values() for size in at_sizes(entry)})
    if not found:
        return None
    return grid(
        ("run", "number", *(f"at {size}" for size in sizes)),
        [
            [
                name,
                _marked(label_of(entry.metric or ""), entry),
                *(_at(entry, size) for size in sizes),
            ]
            for name, entry in found.items()
        ],
        note="Trained here; final weights on the run's own split, by the side of the images in "
        "pixels. The paper's Figures 9 and 10 are plots without numbers.",
        words=("number",),
    )


def at_sizes(entry: Entry) -> dict[int, float]:
    """Returns the main metric of a finished run by image size, {} unless there are two sizes."""
    metric, numbers = entry.metric, entry.run.numbers
    if metric is None or entry.experiment is None or metric not in numbers:
        return {}
    found = {
        int(name.partition("@")[2]): value
        for name, value in numbers.items()
        if name.startswith(f"{metric}@")
    }
    height, width = entry.experiment.processor.crop_size
    if height == width:
        found.setdefault(height, numbers[metric])
    return dict(sorted(found.items())) if len(found) > 1 else {}


def _at(entry: Entry, size: int) -> Cell:
    value = at_sizes(entry).get(size)
    return NOT_RUN if value is None else Cell(number(entry.metric or "", value), "ours")


def scales(entries: Sequence[Entry]) -> Grid:
    """Returns the times of the step at each scale of each run."""
    rows = [row for entry in entries for row in _scale_rows(entry)]
    return grid(
        ("run", "scale", "batch", "step, ms", "where it is from", "images/s", "compiling, s"),
        rows,
        note="A run records how long each scale took to compile, and the mean of its steps. "
        "The step without any waiting is what mobilevit benchmark measures: write its --output "
        "to benchmark.json in the work directory.",
        words=("where it is from",),
    )


def _scale_rows(entry: Entry) -> list[list[str | Cell]]:
    experiment = entry.experiment
    if experiment is None:
        return [[entry.name, *[_unknown(entry)] * 6]]
    return [
        [_marked(entry.name, entry), scale.name, str(scale.batch_size), *_times(entry, scale)]
        for scale in scale_table(experiment.sampler)
    ]


def _times(entry: Entry, scale: Scale) -> list[str | Cell]:
    seconds, source = _step_seconds(entry, scale.name)
    compiling = numbers_in(entry.timing, "compile_seconds").get(scale.name)
    return [
        f"{seconds * 1e3:,.1f}" if seconds else NOT_RECORDED,
        source,
        f"{scale.batch_size / seconds:,.0f}" if seconds else NOT_RECORDED,
        NOT_RECORDED if compiling is None else f"{compiling:.1f}",
    ]


def _step_seconds(entry: Entry, name: str) -> tuple[float | None, str | Cell]:
    """Returns the seconds of the step at a scale, and where they are from."""
    measured = numbers_in(entry.benchmark, "step_seconds").get(name)
    if measured:
        return measured, "mobilevit benchmark"
    seconds = numbers_in(entry.timing, "scale_seconds").get(name)
    steps = numbers_in(entry.timing, "scale_steps").get(name)
    if seconds and steps:
        return seconds / steps, f"mean of {steps:,.0f} steps, waiting for data included"
    return None, NOT_RUN


def whole_steps(entries: Sequence[Entry]) -> Grid:
    """Returns the mean step over all scales and the share of waiting, for each run."""
    return grid(
        ("run", "steps timed", "mean step, ms", "images/s", "waiting for data", "all compiled, s"),
        [_whole_row(entry) for entry in entries],
        note="Of the last process of each run, over all of its scales.",
    )


def _whole_row(entry: Entry) -> list[str | Cell]:
    timing = entry.timing
    seconds, steps = number_in(timing, "train_seconds"), number_in(timing, "steps")
    waited, compiled = (number_in(timing, f"{n}_seconds") for n in ("data_wait", "all_compile"))
    if not seconds or not steps:
        return [entry.name, *[NOT_RECORDED if entry.begun else NOT_RUN] * 5]
    return [
        _marked(entry.name, entry),
        f"{steps:,.0f}",
        f"{seconds / steps * 1e3:,.1f}",
        _images_per_second(entry),
        NOT_RECORDED if waited is None else f"{waited / seconds:.1%}",
        f"{compiled:.1f}" if compiled else NOT_RECORDED,
    ]
