"""`mobilevit sweep`: rows in processes of their own, which here mostly are not trainings at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilevit_jax.cli import study_row as row
from mobilevit_jax.cli.commands import sweep
from mobilevit_jax.config import Experiment
from mobilevit_jax.studies.sweeps import find_sweeps, read_sweep
from mobilevit_jax.training.lock import hold

ROOT = Path(__file__).parents[2]

STUDY = """
from dataclasses import replace
from mobilevit_jax.config import DataConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.study import Line, Row, Study, Table


def study():
    recipe = Experiment(
        epochs=1,
        model=ModelConfig("mobilevit_xxs"),
        data=DataConfig("shapes/tiny", test="test"),
        processor=ImageProcessor(size=32, crop_size=(32, 32)),
        sampler=SamplerConfig(batch_size=16, base_size=32, sizes=(32,), reference_devices=1),
    )
    strong = replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=0.5))
    lines = (Line("weak", "recipe", (0.7, None)), Line("strong", "strong", (0.6, 5)))
    return Study(
        "decay",
        "weak is best",
        (Row("recipe", recipe), Row("strong", strong SIZES)),
        (Table("decay", "Figure 0", ("top1", "updates"), lines),),
    )
"""

# A training of no time that leaves what a finished run leaves.
PRETENCE = """
import json, os, pathlib, signal, sys, time
order = json.load(sys.stdin)
name, seed = order["experiment"]["name"], order["experiment"]["seed"]
directory = pathlib.Path(order["directory"])
directory.mkdir(parents=True, exist_ok=True)
with (directory / "starts").open("a") as file:
    file.write("started\\n")
how = os.environ.get("PRETENCE_" + name, "")
if how == "fail":
    print("mobilevit: error: the disk has gone", file=sys.stderr)
    sys.exit(1)
if how == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "signal":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    os.kill(os.getppid(), int(os.environ["PRETENCE_SIGNAL"]))
    time.sleep(30)
if how == "deaf":
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(30)
record = {"experiment": order["experiment"], "class_names": ["a", "b"], "examples": 64}
(directory / "experiment.json").write_text(json.dumps(record))
rows = [
    {"step": 4, "epoch": 1, "split": "train", "step_seconds": 0.5, "top1": 0.1},
    {"step": 4, "epoch": 1, "split": "validation", "top1": 0.2},
    {"step": 4, "epoch": 1, "split": "test", "top1": 0.5 + 0.01 * seed, "count": 32},
]
if how == "lazy":
    rows.pop()
(directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
(directory / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)
print(f"did {name}")
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "decay.py"
    path.write_text(STUDY.replace("SIZES", ""))
    return path


@pytest.fixture(autouse=True)
def pretence(tmp_path, monkeypatch):
    """Has rows only pretend to train; returns a function that makes one of them misbehave."""
    script = tmp_path / "pretence.py"
    script.write_text(PRETENCE)
    monkeypatch.setattr(sweep, "_CHILD", (sys.executable, "-S", str(script)))
    return lambda name, how: monkeypatch.setenv(f"PRETENCE_{name}", how)


def starts(directory):
    """Returns how often each run was started."""
    return {
        str(path.parent.relative_to(directory)): len(path.read_text().splitlines())
        for path in sorted(directory.glob("*/*/starts"))
    }


def states(directory):
    record = json.loads((directory / "sweep-decay.json").read_text())
    return {run["directory"]: run["state"] for run in record["runs"]}


def cells(ran):
    """Returns the lines of the tables as lists of their cells."""
    lines = [line.split("  ") for line in ran.out.splitlines()]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


def test_all_rows_with_the_papers_numbers_beside_ours(mobilevit, study, tmp_path):
    ran = mobilevit("sweep", study, "--seeds", 2)
    assert ran.status == 0, ran.err
    directory = tmp_path / "runs" / "decay"
    runs = ["recipe/seed0", "recipe/seed1", "strong/seed0", "strong/seed1"]
    assert starts(directory) == dict.fromkeys(runs, 1)
    assert states(directory) == dict.fromkeys(runs, "done")
    assert ran.out.startswith("decay; paper: Figure 0\n")
    assert cells(ran)[2:] == [
        ["row", "number", "paper", "here"],
        cells(ran)[3],
        ["weak", "top-1", "70.0%", "50.5% (50.0% to 51.0%)"],
        ["weak", "updates", "-", "4 (4 to 4)"],
        ["strong", "top-1", "60.0%", "50.5% (50.0% to 51.0%)"],
        ["strong", "updates", "5", "4 (4 to 4)"],
        [],
    ]
    err = ran.err.splitlines()
    assert err[0] == f"[1/4] recipe, seed 0: {Path('runs/decay/recipe/seed0')}"
    assert err[1] == "did recipe"
    assert [line[:5] for line in err[::2]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]", "4 run"]
    assert [line.split()[1] for line in err[:8:2]] == ["recipe,", "strong,"] * 2
    trained = json.loads((directory / "strong" / "seed1" / "experiment.json").read_text())
    assert trained["experiment"]["seed"] == 1 and trained["experiment"]["name"] == "strong"
    assert trained["experiment"]["optimizer"]["weight_decay"] == 0.5


def test_rows_that_are_done_are_skipped(mobilevit, study, tmp_path):
    first = mobilevit("sweep", study)
    again = mobilevit("sweep", study)
    assert (first.status, again.status) == (0, 0)
    assert again.out == first.out
    assert again.err.splitlines()[0] == "[1/2] recipe, seed 0: done before"
    more = mobilevit("sweep", study, "--seeds", 2)
    assert more.status == 0
    directory = tmp_path / "runs" / "decay"
    assert set(starts(directory).values()) == {1} and len(starts(directory)) == 4


def test_a_failing_row_takes_no_other_with_it(mobilevit, study, tmp_path, pretence):
    pretence("recipe", "fail")
    ran = mobilevit("sweep", study)
    assert ran.status == 1
    directory = tmp_path / "runs" / "decay"
    assert states(directory) == {"recipe/seed0": "failed", "strong/seed0": "done"}
    assert ran.err.splitlines()[-2:] == [
        "1 run of 2 done",
        "failed: recipe, seed 0: the disk has gone",
    ]
    assert ["weak", "top-1", "70.0%", "failed"] in cells(ran)
    assert ["strong", "top-1", "60.0%", "50.0%"] in cells(ran)
    pretence("recipe", "")
    again = mobilevit("sweep", study)
    assert again.status == 0
    assert starts(directory) == {"recipe/seed0": 2, "strong/seed0": 1}
    assert states(directory) == {"recipe/seed0": "done", "strong/seed0": "done"}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("crash", "ended by SIGKILL; was the memory used up?"),
        ("lazy", "exit status 0; what it printed above may say why"),
    ],
)
def test_a_row_that_ends_oddly(mobilevit, study, pretence, how, why):
    pretence("recipe", how)
    ran = mobilevit("sweep", study)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == f"failed: recipe, seed 0: {why}"


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_stops_the_run_and_the_sweep(
    mobilevit, study, tmp_path, pretence, monkeypatch, number
):
    pretence("recipe", "signal")
    monkeypatch.setenv("PRETENCE_SIGNAL", str(number))
    ran = mobilevit("sweep", study)
    assert ran.status == 3
    assert ran.err.endswith("stopped by a signal; run the same command again to go on\n")
    directory = tmp_path / "runs" / "decay"
    assert states(directory) == {"recipe/seed0": "stopped", "strong/seed0": "waiting"}
    pretence("recipe", "")
    assert mobilevit("sweep", study).status == 0
    assert starts(directory) == {"recipe/seed0": 2, "strong/seed0": 1}


def test_a_row_that_is_killed_by_the_signal(mobilevit, study, tmp_path, pretence):
    pretence("recipe", "deaf")
    assert mobilevit("sweep", study).status == 3
    assert states(tmp_path / "runs" / "decay")["recipe/seed0"] == "stopped"


def test_a_row_alone_that_is_stopped_stops_the_sweep(mobilevit, study, tmp_path, monkeypatch):
    script = tmp_path / "stopped.py"
    script.write_text("import sys; sys.stdin.read(); sys.exit(3)")
    monkeypatch.setattr(sweep, "_CHILD", (sys.executable, "-S", str(script)))
    assert mobilevit("sweep", study).status == 3
    assert states(tmp_path / "runs" / "decay")["strong/seed0"] == "waiting"


def test_some_of_the_rows(mobilevit, study, tmp_path):
    place = ["--workdir", tmp_path / "here"]
    ran = mobilevit("sweep", study, *place, "--rows", "strong")
    assert ran.status == 0
    assert states(tmp_path / "here") == {"strong/seed0": "done"}
    assert ["weak", "top-1", "70.0%", "not run"] in cells(ran)
    assert mobilevit("sweep", study, *place, "--rows", "recipe").status == 0
    assert states(tmp_path / "here") == {"recipe/seed0": "done", "strong/seed0": "done"}


def test_two_studies_in_a_directory_share_a_row(mobilevit, study, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        study.read_text().replace('"strong"', '"stronger"').replace('"decay",', '"b",')
    )
    place = ["--workdir", tmp_path / "both"]
    assert mobilevit("sweep", study, *place).status == 0
    assert mobilevit("sweep", other, *place).status == 0
    assert set(starts(tmp_path / "both").values()) == {1}
    assert [path.name for path in find_sweeps(tmp_path / "both")] == [
        "sweep-b.json",
        "sweep-decay.json",
    ]
    for path in find_sweeps(tmp_path / "both"):
        assert [run.finished for run in read_sweep(path).runs] == [True, True]


def test_options_reach_every_row(mobilevit, study, tmp_path):
    assert mobilevit("sweep", study, "--seed", 7, "--log-every", 9).status == 0
    for name in ("recipe", "strong"):
        path = tmp_path / "runs" / "decay" / name / "seed7" / "experiment.json"
        trained = json.loads(path.read_text())["experiment"]
        assert (trained["seed"], trained["log_every"]) == (7, 9)


def test_other_options_in_the_same_directory(mobilevit, study, tmp_path):
    assert mobilevit("sweep", study, "--rows", "recipe").status == 0
    before = (tmp_path / "runs" / "decay" / "sweep-decay.json").read_bytes()
    ran = mobilevit("sweep", study, "--schedule.peak", 0.5)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "recipe/seed0 belongs to another experiment (schedule.peak: 0.002 -> 0.5)" in ran.err
    assert (tmp_path / "runs" / "decay" / "sweep-decay.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "strnog"], "unknown row of the study decay 'strnog' (did you mean 'strong'?)"),
        (["--seeds", 0], "--seeds must be at least 1; got 0"),
        (["--optimizer.weight-decay", 0.1], "rows 'recipe' and 'strong' are the same run with"),
        (["--epochs", 0], "epochs must be at least 1; got 0"),
        (["--workdir", "decay.py"], "the sweep's directory decay.py cannot be made or written"),
    ],
)
def test_wrong_options(mobilevit, study, tmp_path, options, message):
    ran = mobilevit("sweep", study, *options)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err and ran.err.count("\n") == 1
    assert starts(tmp_path) == {} and not list(tmp_path.glob("runs/*/sweep*"))


def test_an_unknown_field(mobilevit, study):
    ran = mobilevit("sweep", study, "--optimizer.weigth-decay", 0.1)
    assert ran.status == 2 and "--optimizer.weight-decay" in ran.err + ran.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "needs a function study() that returns a mobilevit_jax.study.Study\n"),
        ("def study(): return 3", "needs a function study() that returns"),
        ("def study(): return 1 / 0", "ZeroDivisionError: division by zero"),
        (
            "from mobilevit_jax.config import Experiment as experiment",
            "; mobilevit train runs its experiment\n",
        ),
    ],
)
def test_a_file_without_a_study(mobilevit, tmp_path, text, message):
    (tmp_path / "file.py").write_text(text)
    ran = mobilevit("sweep", tmp_path / "file.py")
    assert ran.status == 2 and message in ran.err and ran.err.count("\n") == 1


def test_no_file(mobilevit, study):
    ran = mobilevit("sweep", "decoy.py")
    assert ran.status == 2 and "no experiment file decoy.py (did you mean 'decay.py'?)" in ran.err
    assert mobilevit("sweep").status == 2


def test_two_sweeps_in_one_directory(mobilevit, study, tmp_path):
    with hold(tmp_path / "runs" / "decay", lambda message: None):
        ran = mobilevit("sweep", study)
    assert ran.status == 2 and "another run is at work in" in ran.err


def test_damage_in_one_run_hides_no_other(mobilevit, study, tmp_path):
    assert mobilevit("sweep", study).status == 0
    directory = tmp_path / "runs" / "decay"
    (directory / "recipe" / "seed0" / "metrics.jsonl").write_text("{]\n")
    recipe, strong = read_sweep(directory / "sweep-decay.json").runs
    assert (recipe.state, strong.state) == ("unreadable", "done")
    assert "line 1 of" in recipe.problem
    (directory / "sweep-decay.json").write_text("{}")
    ran = mobilevit("sweep", study)
    assert ran.status == 1 and "sweep-decay.json cannot be read" in ran.err


@pytest.mark.slow
def test_a_row_of_a_study_is_trained_alone(mobilevit, study, tmp_path):
    place = ["--workdir", tmp_path / "alone"]
    ran = mobilevit("train", study, *place)
    assert ran.status == 2
    assert "is a study: choose a row with --row (recipe, strong), or run all of them" in ran.err
    assert mobilevit("train", study, "--row", "week", *place).status == 2
    assert mobilevit("train", study, "--row=strong", "--log-every", 1, *place).status == 0
    trained = json.loads((tmp_path / "alone" / "experiment.json").read_text())["experiment"]
    assert (trained["name"], trained["optimizer"]["weight_decay"]) == ("strong", 0.5)


@pytest.mark.slow
def test_a_row_that_is_really_trained(mobilevit, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_CHILD", (sys.executable, "-m", "tests.cli.small_row"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "decay.py"
    path.write_text(STUDY.replace("SIZES", ", (32, 48)").replace('("top1"', '("top1@48"'))
    ran = mobilevit("sweep", path, "--rows", "strong")
    assert ran.status == 0, ran.err
    (record,) = find_sweeps(tmp_path / "runs" / "decay")
    (strong,) = read_sweep(record).runs
    assert strong.numbers["updates"] == strong.total == 4
    assert strong.numbers["epoch_seconds"] > 0
    # At the size of the run it is the same evaluation.
    assert strong.numbers["top1@32"] == strong.numbers["top1"]
    (line,) = [line for line in cells(ran) if line[:2] == ["strong", "top-1 at 48"]]
    assert line[3] == f"{strong.numbers['top1@48']:.1%}"
    next(strong.directory.glob("evaluation-*-48.json")).unlink()
    again = mobilevit("sweep", path, "--rows", "strong")
    assert again.status == 0 and again.out == ran.out
    assert "compiling" in ran.err and "compiling" not in again.err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of that")
def test_a_process_whose_parent_is_gone():
    code = (
        "import os; from mobilevit_jax.cli import study_row; study_row._end_with(os.getppid() + 1)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3


def test_an_order_survives_json():
    order = row.Order(Experiment(epochs=3), "runs/x", (32, 48), True, os.getpid())
    assert row.from_dict(row.Order, json.loads(order.as_json())) == order
