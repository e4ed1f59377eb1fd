"""What the sections of a report say; nothing is drawn or written yet."""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import mobilevit_jax
from mobilevit_jax.analysis.metrics import label_of
from mobilevit_jax.analysis.plots import COLOURS, Row, learning_curves
from mobilevit_jax.analysis.plots_receptive_field import receptive_fields
from mobilevit_jax.errors import count, shortened
from mobilevit_jax.studies.report import costs, tables
from mobilevit_jax.studies.report.figures import Curves, curves, draw_lines
from mobilevit_jax.studies.report.page import Block, Page, Picture, escaped, heading, notice
from mobilevit_jax.studies.report.runs import Collected, Entry, SweepEntry


def compose(collected: Collected) -> Page:
    """Returns what the report of runs and sweeps says; its pictures are not drawn yet."""
    found = tuple(notices(collected))
    blocks = [
        escaped(_summary(collected)),
        *map(notice, found),
        *(block for entry in collected.sweeps for block in _study(entry)),
        *_singles(collected.singles),
        *_curves(collected),
        *_sizes(collected.entries),
        *_parameters(),
        *_receptive_field(),
        heading("Step times"),
        tables.whole_steps(collected.entries),
        tables.scales(collected.entries),
        *_runs(collected),
    ]
    return Page("MobileViT: report of runs", found, tuple(_named_apart(blocks)))


def _summary(collected: Collected) -> str:
    entries = collected.entries
    done = sum(entry.run.finished for entry in entries)
    return (
        f"{count(len(entries), 'run')}, {done} finished; "
        f"{count(len(collected.sweeps), 'study', 'studies')}; made with mobilevit-jax "
        f"{mobilevit_jax.__version__}. A number is the paper's or from a run here; where there is "
        "none, its place says why."
    )


def notices(collected: Collected) -> list[str]:
    """Returns what of the runs must not be overlooked, a line each."""
    entries = collected.entries
    found = [
        f"the sweep {sweep.sweep.record.study.name} in {sweep.directory} is still going"
        for sweep in collected.sweeps
        if sweep.going
    ]
    troubled = [entry for entry in entries if entry.state not in ("done", "not run")]
    found += [f"{entry.name}: {shortened(entry.state)}" for entry in troubled]
    missing = sum(not entry.begun for entry in entries)
    if missing:
        found.append(f"{count(missing, 'run')} of {len(entries)} not run yet")
    if any(sweep.tiny for sweep in collected.sweeps) or any(e.tiny for e in entries):
        found.append(
            "some runs are of the tiny form, which only shows that the code works: their numbers "
            "say nothing about the model"
        )
    if tables.code(entries):
        found.append("the runs are of different code, side by side; see Runs and code")
    changed = sum("-dirty" in entry.commit for entry in entries)
    if changed:
        found.append(f"{count(changed, 'run')} of code with changes that no commit holds")
    return found


def _study(entry: SweepEntry) -> list[Block]:
    study = entry.sweep.record.study
    tiny = notice("Tiny form: these numbers say nothing about the model.")
    return [
        heading(f"Study {study.name}"),
        escaped(f"Claim: {study.claim.rstrip('.')}."),
        escaped(
            f"From {entry.sweep.record.file}, in {entry.directory}. Means over the finished seeds."
        ),
        *([tiny] if entry.tiny else []),
        *(tables.study_tables(entry) or ["The study has no table."]),
    ]


def _singles(entries: Sequence[Entry]) -> list[Block]:
    return [heading("Runs outside of studies"), tables.results(entries)] if entries else []


def _curves(collected: Collected) -> list[Block]:
    pictures: list[Picture] = []
    for sweep in collected.sweeps:
        rows: dict[str, list[Sequence[Row]]] = {}
        for entry in sweep.entries:
            rows.setdefault(entry.run.record.row, []).append(entry.rows)
        pictures += _compared(sweep.sweep.record.study.name, rows, sweep.tiny)
    for entry in collected.singles:
        pictures += _own(entry)
    none = "not run: no run has left a row of metrics"
    return [heading("Learning curves"), *(pictures or [none])]


def _compared(
    name: str, rows: Mapping[str, Sequence[Sequence[Row]]], tiny: bool
) -> Iterator[Picture]:
    """Yields training loss, validation loss and metric of runs beside one another."""
    for split, metric in (
        ("train", "loss"),
        *(("validation", metric) for metric in ("loss", "top1", "map", "miou")),
    ):
        lines = curves(rows, split, metric)
        if lines:
            what = f"{'training' if split == 'train' else split} {label_of(metric)}"
            form = ", tiny form" if tiny else ""
            caption = f"study {name}{form}: {what} against the epoch, a line a run, a colour a row"
            draw = functools.partial(draw_lines, lines, metric=metric, title=what)
            yield Picture(f"{name}-{split}-{metric}", caption, draw)


def _own(entry: Entry) -> Iterator[Picture]:
    """Yields the curves of a run that belongs to no study, all splits in each."""
    for metric in ("loss", "top1", "map", "miou", "learning_rate"):
        # One number a row, so that one panel is drawn, in its full width.
        wanted = ("step", "epoch", "split", metric)
        rows = [{name: row[name] for name in wanted if name in row} for row in entry.rows]
        if not any(metric in row for row in rows):
            continue
        what = "learning rate" if metric == "learning_rate" else label_of(metric)
        draw = functools.partial(learning_curves, rows)
        if metric in ("map", "miou"):
            lines = [
                replace(found, label=split, colour=colour)
                for split, colour in COLOURS.items()
                for found in curves({"": [rows]}, split, metric)
            ]
            draw = functools.partial(draw_lines, lines, metric=metric, title=what)
        caption = f"{entry.name}{', tiny form' if entry.tiny else ''}: {what} against the epoch"
        yield Picture(f"{entry.run.directory.name}-{metric}", caption, draw)


def _sizes(entries: Sequence[Entry]) -> list[Block]:
    title, table = heading("Accuracy against resolution"), tables.resolutions(entries)
    if table is None:
        return [
            title,
            "not run: no finished run has been evaluated at a second size. A study does it for the "
            "rows that have sizes, mobilevit evaluate --size for any run.",
        ]
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if tables.at_sizes(entry):
            found.setdefault(entry.metric or "", []).append(entry)
    return [title, table, *(_size_picture(metric, of_it) for metric, of_it in found.items())]


def _size_picture(metric: str, entries: Sequence[Entry]) -> Picture:
    """Returns a metric of runs against the size of the images, the seeds of a row alike."""
    points: dict[str, list[tuple[tuple[float, float], ...]]] = {}
    for entry in entries:
        points.setdefault(entry.row, []).append(tuple(tables.at_sizes(entry).items()))
    lines = [Curves(row, tuple(runs)) for row, runs in points.items()]
    some = ", some in tiny form" if any(entry.tiny for entry in entries) else ""
    what = label_of(metric)
    caption = f"{what} against the side of the images{some}, a line a run"
    draw = functools.partial(draw_lines, lines, metric=metric, title=what, sizes=True)
    return Picture(f"resolution-{metric}", caption, draw)


def _parameters() -> list[Block]:
    caption = "Share of the parameters in each stage (paper: Figure 3d), counted from the modules"
    picture = Picture("parameters", caption, costs.draw_parameters)
    return [heading("Parameters and costs"), picture, costs.stages(), costs.tasks()]


def _receptive_field() -> list[Block]:
    caption = (
        "What one pixel sees through local convolution and attention, from gradients (paper: "
        "Figures 4 and 13, kernel n and patches of h = w)"
    )
    picture = Picture("receptive-field", caption, receptive_fields, wide=True)
    return [heading("Receptive field"), picture]


def _runs(collected: Collected) -> list[Block]:
    different = tables.code(collected.entries)
    code: list[Block] = ["All runs that have begun are of the same code, as far as recorded."]
    if different is not None:
        code = [notice("These runs are of different code, side by side."), different]
    return [heading("Runs and code"), tables.runs(collected), *code]


def _named_apart(blocks: Sequence[Block]) -> Iterator[Block]:
    """Gives pictures names that a file can have, each another."""
    taken: set[str] = set()
    for block in blocks:
        if isinstance(block, Picture):
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", block.name).lstrip(".")[-80:] or "figure"
            names = itertools.chain([plain], (f"{plain}-{n}" for n in itertools.count(2)))
            name = next(name for name in names if name.lower() not in taken)
            taken.add(name.lower())
            block = replace(block, name=name)
        yield block
