"""`mobilevit report`: files, lines on the terminal and exit statuses."""

import os

import pytest

from mobilevit_jax.studies.report import sections
from tests.reported import make_run, make_sweep


@pytest.fixture
def without_models(monkeypatch):
    """Leaves out what is the same in every report, and takes half a minute to count and draw."""
    for name in ("_parameters", "_receptive_field"):
        monkeypatch.setattr(sections, name, lambda: ["counted elsewhere"])


@pytest.mark.slow
def test_a_whole_report_of_a_sweep_and_a_real_run(mobilevit, tmp_path, trained):
    sweep = make_sweep(tmp_path / "sweep")
    ran = mobilevit("report", sweep, trained.directory, "--output", tmp_path / "out")
    assert (ran.status, ran.out) == (0, ""), ran.err
    assert ran.err.splitlines()[-1] == f"written to {tmp_path / 'out' / 'index.html'}"
    assert f"note: {sweep}/strong/seed0: interrupted, step 4 of 8" in ran.err.splitlines()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"index.html", "tables.md", "parameters.png", "receptive-field.png"} <= names
    assert {"decay-validation-top1.png", "run-loss.png", "resolution-top1.png"} <= names
    tables = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    # Table 8 and Table 10, the paper's number before ours.
    assert "| layer_4 | 14x14x80 | 699,152 | 30.2% | 154.5 | 31 | 30.6 | 62 |" in tables
    assert "| MobileViT-XS, patches 2, 2, 2 | 2.3 | 2.32 | 0.7 | 0.76 | 0.77 |" in tables
    assert "trained here, tiny form, mobilevit_" in tables
    assert all(f"]({name})" in tables for name in names if name.endswith(".png"))


def test_the_usual_place(mobilevit, tmp_path, without_models):
    ran = mobilevit("report", make_run(tmp_path / "run"))
    assert ran.status == 0, ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run"]


def test_bad_input_is_one_line(mobilevit, tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["empty"], "no run in empty: it has neither experiment.json (a work directory of"),
        (["none"], "there is no directory none"),
        ([run, "empty"], "no run in empty"),
        ([], "name at least one work directory"),
    ):
        ran = mobilevit("report", *arguments)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
        assert ran.err.startswith(f"mobilevit: error: {message}")
    assert not (tmp_path / "report").exists()


def test_a_sweep_whose_record_is_damaged(mobilevit, tmp_path):
    (tmp_path / "sweep-x.json").write_text("{")
    ran = mobilevit("report", tmp_path)
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "sweep-x.json cannot be read" in ran.err


def test_a_place_that_cannot_be_written(mobilevit, tmp_path, without_models):
    run = make_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        ran = mobilevit("report", run, "--output", place)
        assert ran.status == 2, ran.err
        assert f"the report {place} cannot be written: " in ran.err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "run"]


def test_runs_are_only_read(mobilevit, tmp_path, without_models):
    sweep = make_sweep(tmp_path / "sweep")
    before = {path: path.stat().st_mtime_ns for path in sorted(sweep.rglob("*"))}
    assert mobilevit("report", sweep).status == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(sweep.rglob("*"))} == before
