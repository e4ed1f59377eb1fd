"""What is read of a sweep: which runs are finished, and their numbers."""

import json

import pytest

from mobilevit_jax.config import DataConfig, Experiment, to_dict
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import DataError
from mobilevit_jax.studies.sweeps import (
    RunRecord,
    Sweep,
    SweepRecord,
    evaluations,
    numbers_of,
    read_record,
    read_run,
)
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.state import EMAConfig

EXPERIMENT = Experiment(
    epochs=2,
    data=DataConfig("d", test=None),
    sampler=SamplerConfig(batch_size=16, base_size=32, sizes=(32,), reference_devices=1),
)
TRAIN = {"split": "train", "step_seconds": 1.0, "data_wait_seconds": 0.0}
ROWS = [
    {"step": 3, "epoch": 1, **TRAIN},
    {"step": 4, "epoch": 1, **TRAIN, "step_seconds": 3.0},
    {"step": 4, "epoch": 1, "split": "validation", "top1": 0.1, "count": 9},
    {"step": 8, "epoch": 2, **TRAIN},
    {"step": 8, "epoch": 2, "split": "validation", "top1": 0.2, "raw_top1": 0.3, "loss": None},
]
RECORD = RunRecord("a", 0, "a/seed0")


def make(directory, rows=ROWS, steps=(8,), experiment=EXPERIMENT):
    directory.mkdir(parents=True)
    record = {"experiment": to_dict(experiment), "class_names": [], "examples": 64}
    (directory / "experiment.json").write_text(json.dumps(record))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in steps:
        (directory / "checkpoints" / str(step)).mkdir(parents=True)
    return directory


def test_the_numbers_of_a_finished_run(tmp_path):
    run = read_run(make(tmp_path / "run"), RECORD)
    assert (run.finished, run.step, run.total, run.state) == (True, 8, 8, "done")
    # 3 steps of 1 s, one of 3 s, 4 of 1 s, in two epochs.
    assert run.numbers == {"top1": 0.2, "raw_top1": 0.3, "updates": 8.0, "epoch_seconds": 5.0}


@pytest.mark.parametrize(
    ("rows", "steps", "state"),
    [
        (ROWS, (4,), "step 8 of 8"),
        (ROWS[:4], (8,), "step 8 of 8"),
        (ROWS[:3], (4,), "step 4 of 8"),
        ([], (), "step 0 of 8"),
    ],
)
def test_a_run_that_is_not_finished(tmp_path, rows, steps, state):
    run = read_run(make(tmp_path / "run", rows, steps), RECORD)
    assert (run.finished, run.state, run.numbers) == (False, state, {})


def test_a_run_that_has_not_begun(tmp_path):
    assert read_run(tmp_path / "run", RECORD).state == "not run"
    failed = RunRecord("a", 0, "a/seed0", "failed", "why")
    assert read_run(tmp_path / "run", failed).state == "failed"


def test_evaluations_at_other_sizes(tmp_path):
    run = make(tmp_path / "run")
    for name, split, size, top1 in (
        ("evaluation-d-validation-48", "validation", 48, 0.4),
        ("evaluation-d-validation-64-raw", "validation", 64, 0.5),
        ("evaluation-d-train-80", "train", 80, 0.6),
        ("evaluation-d-validation-32x48", "validation", "32x48", 0.7),
    ):
        result = {"dataset": "d", "split": split, "size": size, "top1": top1, "count": 3}
        (run / f"{name}.json").write_text(json.dumps(result))
    assert list(evaluations(run)) == [48]
    assert numbers_of(run)["top1@48"] == 0.4
    (run / "evaluation-x.json").write_text("[]")
    assert "evaluation-x.json cannot be read" in read_run(run, RECORD).problem


def sweep_of(tmp_path, ema, states):
    """Returns a sweep of a row for each state: whether a run is finished."""
    experiment = Experiment(ema=EMAConfig(ema))
    lines = (Line("raw", "a", (0.5,), raw=True), Line("averaged", "a", (None,)))
    table = Table("t", "", ("top1",), lines)
    study = Study("s", "", (Row("a", experiment),), (table,))
    runs = []
    for seed, finished in enumerate(states):
        record = RunRecord("a", seed, f"a/seed{seed}")
        rows = [{**row, "top1": 0.2 + seed / 10} if "top1" in row else row for row in ROWS]
        runs.append(read_run(make(tmp_path / str(seed), rows, (8,) if finished else (4,)), record))
    record = SweepRecord(study, "s.py", False, tuple(run.record for run in runs))
    return Sweep(record, tuple(runs)).cells(table)


def test_cells_of_raw_and_averaged_weights(tmp_path):
    (_, _, raw), (_, _, averaged) = sweep_of(tmp_path / "ema", 0.9, [True, True])
    assert (raw.paper, raw.values, raw.state) == (0.5, (0.3, 0.3), "")
    assert (averaged.paper, averaged.mean) == (None, pytest.approx(0.25))
    # A run without an average has its raw numbers under the plain names.
    (_, _, raw), _ = sweep_of(tmp_path / "none", 0.0, [True])
    assert raw.values == (0.2,)


def test_cells_of_what_is_missing(tmp_path):
    _, (_, _, cell) = sweep_of(tmp_path / "some", 0.9, [True, False])
    assert (cell.values, cell.state) == ((0.2,), "1 of 2 runs")
    _, (_, _, cell) = sweep_of(tmp_path / "none", 0.9, [False, False])
    assert (cell.values, cell.mean, cell.state) == ((), None, "step 8 of 8")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"study": 3}'])
def test_a_damaged_record(tmp_path, text):
    path = tmp_path / "sweep-s.json"
    with pytest.raises(DataError, match="no sweep is recorded"):
        read_record(path)
    path.write_text(text)
    with pytest.raises(DataError, match="sweep-s.json cannot be read"):
        read_record(path)
