"""The clock of the machine jumps: rows, weights and the order of checkpoints do not."""

import itertools
import re
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import mobilevit_jax
from mobilevit_jax.training.metrics_log import read_metrics
from mobilevit_jax.training.timing import RowClock, Timing
from tests.small import tiny_experiment
from tests.training.test_loop import run, saved, steps_saved, without_clock


@pytest.fixture
def jumping(monkeypatch):
    """Makes `time.time` go back by an hour at each call, by months in a run.

    (When the clock is put forward by twenty minutes while a checkpoint is being written, Orbax
    gives that up, and the run ends with an error that says so.)
    """
    calls = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1.8e9 - 3600.0 * next(calls))
    return calls


def test_a_run_does_not_notice(data_dir, tmp_path, jumping, monkeypatch):
    experiment = tiny_experiment(data_dir)
    outcome, _ = run(experiment, tmp_path / "jumping")
    assert outcome.finished and next(jumping) > 10
    monkeypatch.undo()
    run(experiment, tmp_path / "steady")
    assert without_clock(tmp_path / "jumping") == without_clock(tmp_path / "steady")
    steps = steps_saved(tmp_path / "steady")
    assert steps_saved(tmp_path / "jumping") == steps == [4, 8]
    states = [saved(tmp_path / name, steps[-1]) for name in ("jumping", "steady")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    for row in read_metrics(tmp_path / "jumping"):
        clock = [value for name, value in row.items() if name.endswith(("_seconds", "_per_second"))]
        assert clock and all(0 <= value < 1e6 for value in clock)


def test_a_row_s_times_are_those_of_a_clock_that_never_goes_back(jumping):
    timing = Timing()
    clock = RowClock(timing)
    clock.count(8)
    clock.wait(0.5)
    numbers = clock.read()
    assert 0 < numbers["step_seconds"] < 60 and numbers["images_per_second"] > 1
    assert (timing.images, timing.steps, timing.data_wait_seconds) == (8, 1, 0.5)
    assert next(jumping) == 0


# The age of files that another process left, what TensorBoard shows, and when a run was begun are
# times of day.
ALLOWED = {"saving.py", "tensorboard.py", "workdir.py"}


def test_durations_are_not_taken_from_the_time_of_day():
    package = Path(mobilevit_jax.__file__).parent
    found = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.(now|utcnow|today)\(", path.read_text())
    }
    assert found <= ALLOWED
