"""What a report says of runs and sweeps: whose number is whose, and what is missing and why."""

import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mobilevit_jax.config import DataConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.studies import report
from mobilevit_jax.studies.report import collect, sections, writing
from mobilevit_jax.studies.report.html_page import to_html
from mobilevit_jax.studies.report.page import Page, escaped, grid, notice
from mobilevit_jax.studies.report.runs import is_going, number_in, numbers_in
from mobilevit_jax.studies.sweeps import RunRecord
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.lock import hold
from mobilevit_jax.training.workdir import write_json
from tests.reported import experiment, make_run, make_sweep, study, write_sweep

# The rows of a finished run, without its times.
FINISHED = "".join(
    f'{{"step": 8, "epoch": 2, "split": "{split}"}}\n' for split in ("train", "validation", "test")
)
HOSTILE = '<script>alert("x")</script> | $\\frac{ & _a_ `b`'


@pytest.fixture(autouse=True)
def without_models(monkeypatch):
    """Leaves out what is the same in every report, and takes half a minute to count and draw."""
    for name in ("_parameters", "_receptive_field"):
        monkeypatch.setattr(sections, name, lambda: ["counted elsewhere"])


def page_of(*directories):
    return report.compose(collect(directories))


def table(page, column) -> list[dict[str, str]]:
    """Returns the first table that has a column, a dictionary a row."""
    found = next(one for one in page.tables if column in one.columns)
    texts = [[cell.text for cell in row] for row in found.rows]
    return [dict(zip(found.columns, row, strict=True)) for row in texts]


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    rows = table(page_of(make_sweep(tmp_path)), "paper")
    top1 = [row for row in rows if row["number"] == "top-1"]
    assert [row["paper"] for row in top1] == ["77.3%", "76.4%", "75.5%"]
    assert [row["here"] for row in top1] == ["50.5%", "interrupted, step 4 of 8", "not run"]
    assert [row["ours is from"] for row in top1] == [
        "trained here on flowers",
        "no number yet",
        "not run",
    ]
    assert [row["seeds"] for row in top1] == ["2 of 2", "0 of 1", "0 of 1"]
    assert [row["lowest to highest"] for row in top1] == ["50.0% to 51.0%", "none", "none"]
    updates = [row for row in rows if row["number"] == "updates"]
    assert [row["paper"] for row in updates] == ["none"] * 3
    assert [row["here"] for row in updates] == ["8", "interrupted, step 4 of 8", "not run"]


def test_no_number_of_the_paper_is_ours(tmp_path):
    page = page_of(make_sweep(tmp_path))
    cells = [cell for one in page.tables for row in one.rows for cell in row]
    paper = {cell.text for cell in cells if cell.kind == "paper"}
    assert paper == {"77.3%", "76.4%", "75.5%"}
    assert not paper & {cell.text for cell in cells if cell.kind != "paper"}


def test_a_row_that_no_command_has_asked_for(tmp_path):
    rows = table(page_of(write_sweep(tmp_path, study(), [])), "paper")
    assert {row["here"] for row in rows} == {"not run"}
    assert {row["ours is from"] for row in rows} == {"not run"}
    assert {row["seeds"] for row in rows} == {"none"}


def test_some_seeds_of_a_row(tmp_path):
    sweep = make_sweep(tmp_path)
    shutil.rmtree(sweep / "weak" / "seed1")
    first = table(page_of(sweep), "paper")[0]
    assert (first["here"], first["seeds"]) == ("50.0%", "1 of 2")
    assert first["lowest to highest"] == "one seed"


def test_when_and_on_what_a_run_was_trained(tmp_path):
    make_run(tmp_path / "new", changes={"begun": "2026-11-22T10:34:24+00:00"})
    (row,) = table(page_of(tmp_path / "new"), "devices")
    assert (row["devices"], row["begun"]) == ("4 x TPU v4", "2026-11-22 10:34")
    old = make_run(tmp_path / "old", changes={"begun": None})
    timing = json.loads((old / "timing.json").read_text())
    del timing["devices"]
    write_json(old / "timing.json", timing)
    (row,) = table(page_of(old), "devices")
    assert (row["devices"], row["begun"]) == ("not recorded", "not recorded")


def test_a_number_that_finished_runs_do_not_have(tmp_path):
    made = study()
    lines = tuple(replace(line, paper=(3.5,)) for line in made.tables[0].lines)
    made = replace(made, tables=(Table("phone", "Table 9", ("latency",), lines),))
    sweep = make_sweep(tmp_path, made)
    weak, strong, strongest = table(page_of(sweep), "paper")
    assert (weak["here"], weak["ours is from"]) == ("not measured", "the runs have no such number")
    assert strong["here"] == "interrupted, step 4 of 8"
    assert strongest["here"] == "not run"


def test_no_cell_is_blank():
    with pytest.raises(ValueError, match="a text in each cell"):
        grid(("a", "b"), [("x", " ")])
    with pytest.raises(ValueError, match="a text in each cell"):
        grid(("a", "b"), [("x",)])


def test_how_far_the_runs_are(tmp_path):
    sweep = make_sweep(tmp_path)
    page = page_of(sweep)
    states = {row["run"]: row["state"] for row in table(page, "state")}
    assert states == {
        f"{sweep}/weak/seed0": "done",
        f"{sweep}/weak/seed1": "done",
        f"{sweep}/strong/seed0": "interrupted, step 4 of 8",
        f"{sweep}/strongest/seed0": "not run",
    }
    assert f"{sweep}/strong/seed0: interrupted, step 4 of 8" in page.notices
    assert "1 run of 4 not run yet" in page.notices


def test_a_run_and_a_sweep_that_are_still_going(tmp_path):
    sweep = make_sweep(tmp_path)
    run = sweep / "strong" / "seed0"
    with hold(run, print), hold(sweep, print):
        assert is_going(run)
        page = page_of(sweep)
    assert f"{run}: still going, step 4 of 8" in page.notices
    assert f"the sweep decay in {sweep} is still going" in page.notices
    assert table(page, "paper")[2]["here"] == "still going, step 4 of 8"
    assert not is_going(run)  # what is left of the lock means nothing


def test_a_run_that_failed(tmp_path):
    runs = [RunRecord("weak", 0, "weak/seed0", "failed", "the disk has gone")]
    page = page_of(write_sweep(tmp_path, study(), runs))
    assert table(page, "paper")[0]["here"] == "failed, before the first step"
    assert f"{tmp_path}/weak/seed0: failed, before the first step: the disk has gone" in (
        page.notices
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("experiment.json", "{"),
        ("experiment.json", '{"experiment": {"epochs": "many"}}'),
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", '{"step": 8, "epoch": 2, "split": "train"}\n'),
        ("metrics.jsonl", '{"step": "x", "epoch": 2, "split": "test", "top1": "y"}\n'),
        ("metrics.jsonl", FINISHED),
        ("metrics.jsonl", FINISHED.replace("{", '{"step_seconds": 1, "top1": "y", ')),
        ("evaluation-x.json", "[]"),
    ],
)
def test_a_damaged_run_is_told_and_hides_no_other(tmp_path, name, content):
    sweep = make_sweep(tmp_path)
    (sweep / "weak" / "seed1" / name).write_text(content)
    page = page_of(sweep)
    state = {row["run"]: row["state"] for row in table(page, "state")}[f"{sweep}/weak/seed1"]
    assert state.startswith(("unreadable: ", "interrupted")), state
    assert any("weak/seed1" in notice for notice in page.notices)
    assert table(page, "paper")[0]["here"] == "50.0%"


@pytest.mark.parametrize("content", ["", "[]", '{"images": "many", "compile_seconds": 3}'])
def test_damaged_times_are_not_recorded(tmp_path, content):
    run = make_run(tmp_path / "run")
    (run / "timing.json").write_text(content)
    (run / "benchmark.json").write_text(content)
    page = page_of(run)
    assert table(page, "images/s")[0]["images/s"] == "not recorded"
    assert table(page, "scale")[0]["step, ms"] == "not recorded"


def test_runs_of_different_code(tmp_path):
    runs = [make_run(tmp_path / name, changes={"commit": name * 40}) for name in "ab"]
    assert "Code of the runs" not in str(page_of(runs[0]))
    page = page_of(*runs)
    assert any("different code" in notice for notice in page.notices)
    differs = table(page, "what differs")
    assert [(row["what differs"], row["version"], row["runs"]) for row in differs] == [
        ("commit", "a" * 10, "1"),
        ("commit", "b" * 10, "1"),
    ]
    assert [row["commit"] for row in table(page, "commit")] == ["a" * 10, "b" * 10]


def test_other_versions_of_a_package_and_changes_without_a_commit(tmp_path):
    one = make_run(tmp_path / "a", changes={"commit": "c" * 40 + "-dirty", "versions": {"jax": 1}})
    two = make_run(tmp_path / "b", changes={"commit": None, "versions": {"jax": "2"}})
    page = page_of(one, two)
    assert any(notice.startswith("1 run of code with changes") for notice in page.notices)
    assert [row["commit"] for row in table(page, "commit")] == [
        "c" * 10 + ", with changes",
        "not recorded",
    ]
    versions = [row["version"] for row in table(page, "what differs")]
    assert versions == ["c" * 10 + ", with changes", "not recorded", "1", "2"]


def test_the_tiny_form_says_nothing(tmp_path):
    sweep = page_of(make_sweep(tmp_path / "sweep", tiny=True))
    shapes = replace(experiment(), data=DataConfig("shapes/tiny", test="test"))
    single = page_of(make_run(tmp_path / "run", shapes))
    for page in (sweep, single):
        assert any("say nothing about the model" in notice for notice in page.notices)
    assert table(sweep, "paper")[0]["ours is from"] == "trained here on flowers, tiny form"
    assert "tiny form" in table(single, "where they are from")[0]["where they are from"]
    assert "tiny form" not in str(page_of(make_run(tmp_path / "other")))


def test_a_run_outside_of_studies(tmp_path):
    run = make_run(tmp_path / "run", metric="miou", top1=0.6)
    page = page_of(run, run)
    (row,) = table(page, "where they are from")
    assert row["mIoU"] == "60.0%" and row["run"] == str(run)
    assert row["where they are from"] == (
        "trained here, mobilevit_xxs, 2 epochs of flowers train, measured on test at 32x32"
    )
    assert [p.name for p in page.pictures] == ["run-loss", "run-miou", "run-learning_rate"]
    half = make_run(tmp_path / "half", steps=4)
    row, _ = table(page_of(half, run), "where they are from")
    assert row["mIoU"] == row["where they are from"] == "interrupted, step 4 of 8"


def test_a_run_of_a_sweep_that_is_named_besides(tmp_path):
    sweep = make_sweep(tmp_path)
    collected = collect([sweep, sweep / "weak" / "seed0"])
    assert (len(collected.entries), collected.singles) == (4, ())


def test_studies_that_share_runs(tmp_path):
    sweep = make_sweep(tmp_path)
    write_sweep(sweep, study("other", "none"), [RunRecord("weak", 0, "weak/seed0", "done")])
    collected = collect([sweep])
    assert [one.sweep.record.study.name for one in collected.sweeps] == ["decay", "other"]
    assert len(collected.entries) == 4
    names = [picture.name for picture in report.compose(collected).pictures]
    assert len(set(names)) == len(names)


def test_accuracy_against_resolution(tmp_path):
    page = page_of(make_sweep(tmp_path / "sweep"), make_run(tmp_path / "run"))
    rows = table(page, "at 48")
    assert [(row["at 32"], row["at 48"]) for row in rows] == [
        ("50.0%", "52.0%"),
        ("51.0%", "53.0%"),
    ]
    assert "resolution-top1" in [picture.name for picture in page.pictures]
    page = page_of(tmp_path / "run")
    assert "## Accuracy against resolution\n\nnot run: " in str(page)


def test_step_times_are_those_that_were_measured(tmp_path):
    sampler = SamplerConfig(batch_size=16, base_size=32, sizes=(32, 64), reference_devices=1)
    several = make_run(tmp_path / "several", replace(experiment(), sampler=sampler))
    rows = table(page_of(several), "scale")
    assert [row["scale"] for row in rows] == ["32x32", "64x64"]
    # 8 steps of one scale in 2 s, none of the other.
    assert [row["step, ms"] for row in rows] == ["250.0", "not recorded"]
    assert rows[0]["where it is from"].startswith("mean of 8 steps")
    assert [row["compiling, s"] for row in rows] == ["1.2", "not recorded"]
    write_json(several / "benchmark.json", {"step_seconds": {"32x32": 0.1, "64x64": 0.4}})
    rows = table(page_of(several), "scale")
    assert [row["step, ms"] for row in rows] == ["100.0", "400.0"]
    assert {row["where it is from"] for row in rows} == {"mobilevit benchmark"}


def test_directories_without_a_run(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    runs = make_run(tmp_path / "runs" / "a").parent
    for path, message in (
        (empty, r"no run in .*empty: it has neither experiment.json .* nor sweep-\*.json"),
        (tmp_path / "none", "there is no directory .*none"),
        (tmp_path / "file", "file is a file"),
        (runs, "there are runs in .*runs/a"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            collect([runs / "a", path])
    with pytest.raises(ConfigurationError, match="name at least one"):
        collect([])


class Tags(HTMLParser):
    """Collects what a page would load, run or lead to; complains of what is not closed."""

    EMPTY = ("meta", "link", "img", "br", "wbr")

    def __init__(self):
        super().__init__()
        self.links, self.tags, self.open, self.texts = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def parsed(text) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


def test_the_page_stands_alone(tmp_path):
    page = page_of(make_sweep(tmp_path / "sweep"), make_run(tmp_path / "run"))
    path = report.write(page, tmp_path / "report")
    text = path.read_text(encoding="utf-8")
    tags = parsed(text)
    assert not tags.tags & {"script", "iframe", "object", "embed", "base", "form"}
    assert all(link.startswith(("#part-", "data:")) for link in tags.links)
    assert not re.search(r"url\(|@import|https?:|file:", text)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text and "overflow-x: auto" in text
    pictures = sorted(p.name for p in path.parent.glob("*.png"))
    assert len(pictures) == text.count("data:image/png;base64,") == 7
    markdown = (path.parent / "tables.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\S+)\)", markdown)) == pictures


def hostile_study() -> Study:
    made = study(claim=HOSTILE)
    line = Line(HOSTILE, "weak", (None,))
    row = Row("weak", replace(made.row("weak").experiment, data=DataConfig(HOSTILE, test="test")))
    return Study("decay", HOSTILE, (row,), (Table(HOSTILE, HOSTILE, (HOSTILE,), (line,)),))


def test_names_from_files_are_text(tmp_path):
    made = hostile_study()
    sweep = tmp_path / "_<b>$x_|"
    make_run(sweep / "weak" / "seed0", made.rows[0].experiment, changes={"commit": HOSTILE})
    write_sweep(sweep, made, [RunRecord("weak", 0, "weak/seed0", "failed", HOSTILE)])
    alone = make_run(
        tmp_path / "_$\\frac{<i>",
        replace(experiment(), data=DataConfig(HOSTILE, test="test")),
        changes={"versions": {HOSTILE: HOSTILE}},
        sizes={48: 0.5},
    )
    page = page_of(sweep, alone)
    path = report.write(page, tmp_path / "report")
    text = path.read_text(encoding="utf-8")
    tags = parsed(text)
    assert not tags.tags & {"script", "b", "i"}
    assert html.escape(HOSTILE) in text
    markdown = (path.parent / "tables.md").read_text(encoding="utf-8")
    assert "<" not in markdown.replace("&lt;", "")
    for block in markdown.split("\n\n"):
        if block.startswith("|"):  # no name adds a column or a row
            pipes = [line.replace("\\|", "").count("|") for line in block.strip().split("\n")]
            assert len(set(pipes)) == 1


@pytest.mark.parametrize(
    "name",
    [
        *(
            "# a",
            "- a",
            "1. a",
            "> a",
            "---",
            "===",
            "| a |",
            "~~a~~",
            "$a$",
            "&lt;i> &amp;",
            "a\\|b\\",
        ),
        *("__a__ _b_ *c* **d** `e`", "a_b _c d_", "![a](b.png) [c](d)", "[a]: b", "<http://a.b>"),
    ],
)
def test_any_name_is_shown_as_it_is(name):
    table = grid((name, "b"), [(name, name)], title=name, note=name)
    texts = parsed(to_html(Page(name, (), (escaped(name), notice(name), table)), {})).texts
    # Of the window and the page; paragraph, notice, title, note; heading, first cell, second cell.
    assert texts.count(name) == 2 + 4 + 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("--- a", r"\--- a"),
        ("~~a~~", r"\~~a\~~"),
        ("$a$", r"\$a\$"),
    ],
)
def test_what_more_than_the_page_understands_is_escaped_in_tables(name, shown):
    """GitHub, where people put them, knows lists, lines through words and formulas."""
    assert escaped(name) == shown
    assert escaped("-1.2") == "-1.2" and escaped("0.5 of ~/x") == "0.5 of ~/x"


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    page = page_of(make_run(tmp_path / "run"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "to_html", fail)
    with pytest.raises(OSError, match="No space"):
        report.write(page, tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    monkeypatch.setattr(writing, "to_html", to_html)
    index = report.write(page, tmp_path / "report")
    before = index.read_bytes()
    monkeypatch.setattr(writing, "to_html", fail)
    with pytest.raises(OSError, match="No space"):
        report.write(page, tmp_path / "report")
    assert index.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run"]


def test_an_earlier_report_is_replaced_and_other_files_stay(tmp_path):
    out = tmp_path / "report"
    report.write(page_of(make_run(tmp_path / "first")), out)
    (out / "notes.txt").write_text("mine")
    text = report.write(page_of(make_run(tmp_path / "second")), out).read_text(encoding="utf-8")
    assert "second" in text and "first-loss" not in text
    assert (out / "notes.txt").read_text() == "mine"


def test_numbers_in_files():
    values = {"a": 1, "b": float("nan"), "c": "1", "d": 10**400, "e": {"x": 2, "y": None}, "f": 0.0}
    found = [number_in(values, name) for name in "abcdfg"]
    assert found == [1.0, None, None, None, 0.0, None]
    assert (numbers_in(values, "e"), numbers_in(values, "a")) == ({"x": 2.0}, {})
