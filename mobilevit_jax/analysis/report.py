"""A report of runs and sweeps: one page that stands alone, Markdown, and the figures as files.

Nothing is trained or evaluated for it: what a run has not left is said to be missing.
"""

import functools
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mobilevit_jax
from mobilevit_jax.analysis import report_costs, report_tables
from mobilevit_jax.analysis.metrics import label_of
from mobilevit_jax.analysis.plots import COLOURS, Row, learning_curves
from mobilevit_jax.analysis.plots_receptive_field import receptive_fields
from mobilevit_jax.analysis.report_figures import Curves, curves, draw_curves, draw_sizes
from mobilevit_jax.analysis.report_html import to_html
from mobilevit_jax.analysis.report_markdown import to_markdown
from mobilevit_jax.analysis.report_page import (
    Block,
    Gallery,
    Notice,
    Page,
    Picture,
    Section,
    Text,
)
from mobilevit_jax.analysis.report_runs import Collected, Entry, SweepEntry, trouble
from mobilevit_jax.errors import count, naming

INDEX, TABLES = "index.html", "tables.md"


def compose(collected: Collected) -> Page:
    """Returns what the report of runs and sweeps says; nothing is drawn or written yet."""
    sections = [
        *(_study(entry) for entry in collected.sweeps),
        *([_singles(collected.singles)] if collected.singles else []),
        _curves(collected),
        _sizes(collected),
        _parameters(),
        _receptive_field(),
        _speed(collected),
        _runs(collected),
    ]
    return Page("MobileViT: report of runs", _head(collected), tuple(sections))


def _head(collected: Collected) -> tuple[Block, ...]:
    entries = collected.entries
    done = sum(entry.run.finished for entry in entries)
    said = Text(
        f"{count(len(entries), 'run')}, {done} finished; "
        f"{count(len(collected.sweeps), 'study', 'studies')}; made with mobilevit-jax "
        f"{mobilevit_jax.__version__}. A number is the paper's or from a run here; where there is "
        "none, its place says why."
    )
    return said, *(Notice(text) for text in notices(collected))


def notices(collected: Collected) -> list[str]:
    """Returns what of the runs must not be overlooked, a line each."""
    entries = collected.entries
    found = [
        f"the sweep {sweep.sweep.record.study.name} in {sweep.directory} is still going"
        for sweep in collected.sweeps
        if sweep.going
    ]
    found += [text for entry in entries if (text := trouble(entry))]
    missing = sum(not entry.begun for entry in entries)
    if missing:
        found.append(f"{count(missing, 'run')} of {len(entries)} not run yet")
    if any(sweep.tiny for sweep in collected.sweeps) or any(e.tiny for e in entries):
        found.append(
            "some runs are of the tiny form, which only shows that the code works: their numbers "
            "say nothing about the model"
        )
    if report_tables.code(entries):
        found.append("the runs are of different code, side by side; see Runs and code")
    changed = sum("-dirty" in entry.commit for entry in entries)
    if changed:
        found.append(f"{count(changed, 'run')} of code with changes that no commit holds")
    return found


def _study(entry: SweepEntry) -> Section:
    record = entry.sweep.record
    tiny = Notice("Tiny form: these numbers say nothing about the model.")
    return Section(
        f"Study {record.study.name}",
        (
            Text(f"Claim: {record.study.claim.rstrip('.')}."),
            Text(f"From {record.file}, in {entry.directory}. Means over the finished seeds."),
            *([tiny] if entry.tiny else []),
            *(report_tables.study_tables(entry) or [Text("The study has no table.")]),
        ),
    )


def _singles(entries: Sequence[Entry]) -> Section:
    return Section("Runs outside of studies", (report_tables.results(entries),))


def _curves(collected: Collected) -> Section:
    blocks: list[Block] = []
    for sweep in collected.sweeps:
        rows: dict[str, list[Sequence[Row]]] = {}
        for entry in sweep.entries:
            rows.setdefault(entry.run.record.row, []).append(entry.rows)
        name = sweep.sweep.record.study.name
        blocks += _compared(name, f"study {name}", rows, sweep.tiny)
    for entry in collected.singles:
        blocks += _own(entry)
    drawn = _named_apart(blocks)
    none = Text("not run: no run has left a row of metrics")
    return Section("Learning curves", drawn or (none,))


def _compared(
    name: str, title: str, rows: Mapping[str, Sequence[Sequence[Row]]], tiny: bool
) -> list[Block]:
    """Returns training loss, validation loss and metric of runs beside one another."""
    pictures = []
    for split, metric in (
        ("train", "loss"),
        ("validation", "loss"),
        *(("validation", metric) for metric in ("top1", "map", "miou")),
    ):
        lines = curves(rows, split, metric)
        if lines:
            what = f"{'training' if split == 'train' else split} {label_of(metric)}"
            draw = functools.partial(_draw_curves, lines, metric, what)
            form = ", tiny form" if tiny else ""
            caption = f"{title}{form}: {what} against the epoch, a line a run, a colour a row"
            pictures.append(Picture(f"{name}-{split}-{metric}", caption, draw))
    return [Gallery(tuple(pictures))] if pictures else []


def _draw_curves(lines: tuple[Curves, ...], metric: str, title: str, path: Path) -> None:
    draw_curves(lines, path, metric=metric, title=title)


def _own(entry: Entry) -> list[Block]:
    """Returns the curves of a run that belongs to no study, all splits in each."""
    pictures = []
    for metric in ("loss", "top1", "map", "miou", "learning_rate"):
        rows = _only(entry.rows, metric)
        if not any(metric in row for row in rows):
            continue
        what = "learning rate" if metric == "learning_rate" else label_of(metric)
        draw = functools.partial(_draw_own, rows, metric, what)
        caption = f"{entry.name}{', tiny form' * entry.tiny}: {what} against the epoch"
        pictures.append(Picture(f"{entry.run.directory.name}-{metric}", caption, draw))
    return [Gallery(tuple(pictures))] if pictures else []


def _draw_own(rows: Sequence[Row], metric: str, title: str, path: Path) -> None:
    if metric not in ("map", "miou"):
        return learning_curves(rows, path)
    lines = [
        Curves(split, found.points, colour)
        for split, colour in COLOURS.items()
        for found in curves({"": [rows]}, split, metric)
    ]
    return draw_curves(lines, path, metric=metric, title=title)


def _only(rows: Sequence[Row], metric: str) -> list[Row]:
    """Returns rows with one number each, so that one panel is drawn, in its full width."""
    wanted = ("step", "epoch", "split", metric)
    return [{name: row[name] for name in wanted if name in row} for row in rows]


def _sizes(collected: Collected) -> Section:
    title = "Accuracy against resolution"
    table = report_tables.resolutions(collected.entries)
    if table is None:
        return Section(
            title,
            (
                Text(
                    "not run: no finished run has been evaluated at a second size. A study does it "
                    "for the rows that have sizes, mobilevit evaluate --size for any run."
                ),
            ),
        )
    found: dict[str, list[Entry]] = {}
    for entry in collected.entries:
        if report_tables.at_sizes(entry):
            found.setdefault(entry.metric or "", []).append(entry)
    pictures = [_size_picture(metric, entries) for metric, entries in found.items()]
    return Section(title, (table, *_named_apart([Gallery(tuple(pictures))])))


def _size_picture(metric: str, entries: Sequence[Entry]) -> Picture:
    """Returns a metric of runs against the size of the images, the seeds of a row alike."""
    points: dict[str, list[tuple[tuple[float, float], ...]]] = {}
    for entry in entries:
        values = tuple(report_tables.at_sizes(entry).items())
        points.setdefault(entry.row, []).append(values)
    lines = tuple(Curves(row, tuple(runs)) for row, runs in points.items())
    some = ", some in tiny form" if any(entry.tiny for entry in entries) else ""
    caption = f"{label_of(metric)} against the side of the images{some}, a line a run"
    draw = functools.partial(_draw_sizes, lines, metric)
    return Picture(f"resolution-{metric}", caption, draw)


def _draw_sizes(lines: tuple[Curves, ...], metric: str, path: Path) -> None:
    draw_sizes(lines, path, metric=metric, title=label_of(metric))


def _parameters() -> Section:
    caption = "Share of the parameters in each stage (paper: Figure 3d), counted from the modules"
    picture = Picture("parameters", caption, report_costs.draw_parameters)
    blocks = (Gallery((picture,)), report_costs.stages(), report_costs.tasks())
    return Section("Parameters and costs", blocks)


def _receptive_field() -> Section:
    caption = (
        "What one pixel sees through local convolution and attention, from gradients (paper: "
        "Figures 4 and 13, kernel n and patches of h = w)"
    )
    picture = Picture("receptive-field", caption, receptive_fields, wide=True)
    return Section("Receptive field", (Gallery((picture,)),))


def _speed(collected: Collected) -> Section:
    entries = collected.entries
    return Section(
        "Step times", (report_tables.whole_steps(entries), report_tables.scales(entries))
    )


def _runs(collected: Collected) -> Section:
    different = report_tables.code(collected.entries)
    code: list[Block] = [Text("All runs that have begun are of the same code, as far as recorded.")]
    if different is not None:
        code = [Notice("These runs are of different code, side by side."), different]
    return Section("Runs and code", (report_tables.runs(collected), *code))


def _named_apart(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Gives pictures names that a file can have, each another."""
    taken: set[str] = {"parameters", "receptive-field"}

    def named(picture: Picture) -> Picture:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", picture.name).lstrip(".")[-80:] or "figure"
        name, count = plain, 1
        while name.lower() in taken:
            count += 1
            name = f"{plain}-{count}"
        taken.add(name.lower())
        return Picture(name, picture.caption, picture.draw, picture.wide)

    return tuple(
        Gallery(tuple(map(named, block.pictures))) if isinstance(block, Gallery) else block
        for block in blocks
    )


def write(page: Page, directory: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """Writes a report, whole or not at all, and returns the page's path.

    All files are made in a directory beside. A new report is that directory renamed; an earlier one
    gets its files replaced one by one, the page last, and whatever else is there is left alone.

    Args:
        page: What it says.
        directory: Where to put it; made if need be.
        say: Told what is being done.

    Raises:
        OSError: If it cannot be written.
    """
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    with naming(directory):
        try:
            unfinished.mkdir()
            _make(page, unfinished, say)
            if not directory.exists():
                unfinished.rename(directory)
            else:
                _replace(unfinished, directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return directory / INDEX


def _make(page: Page, directory: Path, say: Callable[[str], None]) -> None:
    """Writes all files into a new directory, and has them on the disk."""
    images = {}
    for picture in page.pictures:
        say(f"drawing {picture.name}.png")
        path = directory / f"{picture.name}.png"
        picture.draw(path)
        images[picture.name] = path.read_bytes()
    for name, text in ((TABLES, to_markdown(page)), (INDEX, to_html(page, images))):
        with (directory / name).open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _replace(made: Path, directory: Path) -> None:
    for path in sorted(made.iterdir(), key=lambda path: path.name == INDEX):
        path.replace(directory / path.name)
