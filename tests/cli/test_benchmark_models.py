"""`mobilevit benchmark MODEL...`: the table, the file, and what is left when it is cut short."""

import gc
import json
from pathlib import Path

import jax
import pytest

from mobilevit_jax.analysis import memory, programs, speed
from mobilevit_jax.cli.commands import benchmark_models
from mobilevit_jax.models import create_model
from mobilevit_jax.models.heads.classifier import HEAD
from tests.small import SmallNet


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Puts a network that compiles in a second in the place of each, and small ceilings.

    Garbage is looked for around what is timed, but not among all that a long session has made.
    """

    def create(name, **options):
        create_model(name, **options)
        return SmallNet(10)

    monkeypatch.setattr(programs, "create_model", create)
    monkeypatch.setattr(programs, "head_of", lambda model: HEAD)
    monkeypatch.setattr(programs, "total_macs", lambda model, size: 1000 * size**2)
    monkeypatch.setattr(speed, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(speed, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(speed, "_COPIED", {"cpu": 2**16})
    gc.freeze()
    yield
    gc.unfreeze()


OPTIONS = ("--sizes", 32, "--batches", 8, 4, "--rounds", 1)


@pytest.mark.slow
def test_every_combination_is_shown_and_written(mobilevit, tmp_path):
    output = tmp_path / "new" / "speed.json"
    work = ("--work", "forward", "train")
    ran = mobilevit("benchmark", "mobilevit_xxs", *OPTIONS, *work, "--output", output)
    assert ran.status == 0, ran.err
    report = json.loads(output.read_text())
    assert report["complete"] is True
    assert report["machine"]["platform"] == "cpu" and report["machine"]["versions"]["jax"]
    rows = report["rows"]
    assert [(row["work"], row["size"], row["batch"]) for row in rows] == [
        ("forward", 32, 8),
        ("forward", 32, 4),
        ("train", 32, 8),
        ("train", 32, 4),
    ]
    assert ran.out.startswith("mobilevit_xxs, float32: matmul ")
    shown = [line.split() for line in ran.out.splitlines() if " 32 x" in line]
    for cells, row in zip(shown, rows, strict=True):
        assert cells[:3] == [row["work"], "32", f"x{row['batch']}"]
        seconds = row["seconds"]["median"]
        assert float(cells[3].replace(",", "")) == pytest.approx(1e3 * seconds, rel=1e-3)
        assert float(cells[5].replace(",", "")) == pytest.approx(row["batch"] / seconds, rel=1e-3)
        told = sum(row[f"{part}_bytes"] for part in ("argument", "output", "temporary"))
        if row["held_bytes"] is None:
            held = f"({benchmark_models._megabytes(told)})"
        else:
            assert row["held_bytes"] == row["peak_bytes"] - row["bytes_before"]
            held = benchmark_models._megabytes(row["held_bytes"])
        assert cells[7] == held
        ceiling = row["ceilings"]["operations_per_second"]
        share = 2 * row["multiply_adds"] / seconds / ceiling
        assert row["share_of_matmul"] == pytest.approx(share)
        assert float(cells[8].rstrip("%")) == pytest.approx(100 * share, abs=0.051)
        assert cells[6].endswith("*") == row["from_cache"]
    assert ran.err.endswith(f"written to {output}\n")
    assert [path.name for path in output.parent.iterdir()] == ["speed.json"]


@pytest.mark.slow
def test_the_table_fits_80_characters(mobilevit):
    ran = mobilevit("benchmark", "mobilevit_xxs", *OPTIONS)
    assert max(len(line.rstrip()) for line in ran.out.splitlines()) <= 80


@pytest.mark.slow
def test_compiling_anew(mobilevit):
    cold = mobilevit("benchmark", "mobilevit_xxs", *OPTIONS, "--cold")
    assert cold.status == 0, cold.err
    (line, _) = (line for line in cold.out.splitlines() if line.startswith("  forward"))
    assert "*" not in line
    assert getattr(jax.config, benchmark_models._CACHE)


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C while the second row is measured."""
    measure, calls = speed.measure, []

    def second(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(speed, "measure", second)


@pytest.mark.slow
@pytest.mark.usefixtures("interrupted")
def test_an_interrupted_run_leaves_what_it_had(mobilevit, tmp_path):
    output = tmp_path / "speed.json"
    ran = mobilevit("benchmark", "mobilevit_xxs", *OPTIONS, "--output", output)
    assert ran.status == 1
    assert ran.err.endswith(
        f"1 row of 2 measured\nwritten to {output}\nmobilevit: error: interrupted\n"
    )
    report = json.loads(output.read_text())
    assert [row["batch"] for row in report["rows"]] == [8]
    assert report["complete"] is False
    assert sum(line.startswith("  forward") for line in ran.out.splitlines()) == 1


def test_nothing_starts_if_the_last_does_not_fit(mobilevit, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    monkeypatch.setattr(speed, "measure", lambda *_, **__: pytest.fail("it was started"))
    output = tmp_path / "speed.json"
    options = ("--sizes", 32, "--batches", 1, 10**6, "--output", output)
    ran = mobilevit("benchmark", "mobilevit_xxs", *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == (
        "mobilevit: error: mobilevit_xxs forward 32x32, batch 1000000, float32 needs 12.3 GB of "
        "memory, and there are 1.0 GB; choose a smaller batch or size"
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mobilevit_sx"], "unknown model 'mobilevit_sx' (did you mean 'mobilevit_s"),
        (["mobilevit_s", "--sizes", 256, 0], "--sizes must be at least 1; got 0"),
        (["mobilevit_s", "--batches", -1], "--batches must be at least 1; got -1"),
        (["mobilevit_s", "--dtypes", "float16"], "unknown dtype 'float16' (did you mean"),
        (["mobilevit_s", "--work", "trian"], "unknown work 'trian' (did you mean 'train'?)"),
        (["mobilevit_s", "--rounds", 0], "--rounds must be at least 1; got 0"),
        (["mobilevit_s", "--work", "train", "--batches", 6], "6 does not divide by 4 devices"),
        (["mobilevit_s", "--output", "."], "--output . is a directory; name a file in it"),
        ([], "name a model, such as mobilevit_s, or an experiment (FILE.py)"),
    ],
)
def test_bad_input_is_one_line(mobilevit, words, message):
    ran = mobilevit("benchmark", *words)
    assert ran.status == (1 if "--output" in words else 2)
    assert ran.out == ""
    assert ran.err.startswith("mobilevit: error: ") and ran.err.count("\n") == 1
    assert message in ran.err


def test_a_file_that_cannot_be_written(mobilevit, tmp_path):
    (tmp_path / "file").write_text("")
    ran = mobilevit("benchmark", "mobilevit_s", "--output", tmp_path / "file" / "speed.json")
    assert ran.status == 1
    assert ran.err.startswith("mobilevit: error: ") and str(tmp_path / "file") in ran.err
    assert ran.err.count("\n") == 1  # before anything was compiled


def test_an_experiment_without_its_ending(mobilevit, tmp_path):
    Path("mine.py").write_text("")
    ran = mobilevit("benchmark", "mine")
    assert ran.status == 2
    assert ran.err.endswith("; for the experiment, name mine.py\n")


def test_help_tells_of_both_forms(mobilevit, quickstart):
    ran = mobilevit("benchmark", "--help")
    assert ran.status == 0
    assert "mobilevit benchmark MODEL..." in ran.out and "mobilevit benchmark FILE.py" in ran.out
    assert "--batches" in ran.out and "--steps" not in ran.out
    ran = mobilevit("benchmark", quickstart, "--help")
    assert ran.status == 0
    assert "--steps" in ran.out and "--batches" not in ran.out
