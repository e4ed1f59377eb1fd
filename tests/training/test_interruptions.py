"""However a run is interrupted, it ends as if it had not been, bit for bit."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from mobilevit_jax.config import CheckpointConfig
from mobilevit_jax.errors import TrainingError
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training import workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.compile import still_compiling
from mobilevit_jax.training.metrics_log import read_metrics
from mobilevit_jax.training.recovery import RecoveryConfig
from tests.small import tiny_experiment
from tests.training.test_loop import (
    STEPS,
    Reporter,
    assert_identical,
    run,
    saved,
    steps_saved,
    without_clock,
)

EVERY_STEPS = 3  # of epochs of four steps: 3, 4, 6, 8


@pytest.fixture(scope="module")
def experiment(data_dir):
    return tiny_experiment(data_dir, checkpoint=CheckpointConfig(every_steps=EVERY_STEPS))


@pytest.fixture(scope="module")
def undisturbed(experiment, tmp_path_factory):
    """The work directory of a run that nothing happened to."""
    directory = tmp_path_factory.mktemp("undisturbed")
    outcome, _ = run(experiment, directory)
    assert outcome.finished
    return directory


def assert_same_run(directory: Path, other: Path) -> None:
    assert without_clock(directory) == without_clock(other)
    assert_identical(saved(directory, STEPS), saved(other, STEPS))


def test_checkpoints_within_an_epoch_change_nothing(undisturbed, data_dir, tmp_path):
    outcome, _ = run(tiny_experiment(data_dir), tmp_path)
    assert outcome.finished
    assert_same_run(undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("step", 6),  # in the middle of an epoch: step 7 is lost, or more
        ("evaluation", 5),  # of three batches each: in the middle of the second
        ("save", 3),  # while that of step 6 is written
    ],
)
def test_killed_without_warning(experiment, undisturbed, data_dir, tmp_path, place, count):
    command = [sys.executable, "-m", "tests.training.killed_run", str(data_dir), str(tmp_path)]
    killed = subprocess.run(
        [*command, str(EVERY_STEPS), place, str(count)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    outcome, reporter = run(experiment, tmp_path)
    assert outcome.finished
    # Saves are made in the background, and steps this small overtake them.
    assert reporter.said[0] in [f"resuming from step {step} in {tmp_path}" for step in (3, 4, 6)]
    assert_same_run(tmp_path, undisturbed)


class SignalInEvaluation:
    """Stands for `ClassificationTask.evaluate`: a signal comes before its second batch."""

    def __init__(self, patch: pytest.MonkeyPatch, evaluation: int) -> None:
        self.left = evaluation
        evaluate = ClassificationTask.evaluate

        def with_signal(task, variables, split, poll):
            self.left -= 1
            polls = 0

            def look():
                nonlocal polls
                polls += 1
                if self.left == 0 and polls == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                poll()

            return evaluate(task, variables, split, look)

        patch.setattr(ClassificationTask, "evaluate", with_signal)


@pytest.mark.parametrize(("evaluation", "step"), [(1, 4), (2, 8), (3, 8)])
def test_a_signal_during_evaluation(experiment, undisturbed, tmp_path, evaluation, step):
    """The evaluations are of validation after steps 4 and 8, and of the test split at the end."""
    with pytest.MonkeyPatch.context() as patch:
        SignalInEvaluation(patch, evaluation)
        outcome, reporter = run(experiment, tmp_path)
    assert not outcome.finished and f"stopped by a signal after step {step}" in reporter.said[-1]
    assert steps_saved(tmp_path)[-1] == step
    if evaluation == 1:  # again, while it makes up for it
        with pytest.MonkeyPatch.context() as patch:
            SignalInEvaluation(patch, 1)
            assert not run(experiment, tmp_path)[0].finished
        assert steps_saved(tmp_path)[-1] == step
    outcome, reporter = run(experiment, tmp_path)
    assert outcome.finished and reporter.said[0].startswith(f"resuming from step {step}")
    assert_same_run(tmp_path, undisturbed)
    with Checkpoints.reader(tmp_path / workdir.CHECKPOINTS) as checkpoints:
        assert checkpoints.best()[0].step in (4, STEPS)
        assert all(checkpoints.metadata(step).keys() == {"epoch"} for step in (4, STEPS))


class SignalAtCompilation(Reporter):
    def say(self, message):
        super().say(message)
        if message.startswith("compiling"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_during_compilation(experiment, undisturbed, tmp_path):
    reporter = SignalAtCompilation()
    outcome, _ = run(experiment, tmp_path, reporter=reporter)
    assert not outcome.finished
    assert reporter.said[-1] == "stopped by a signal before the first step"
    assert steps_saved_if_any(tmp_path) == []
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "compile" in thread.name:
            thread.join(60)
    assert not still_compiling()
    assert run(experiment, tmp_path)[0].finished
    assert_same_run(tmp_path, undisturbed)


def steps_saved_if_any(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in (directory / workdir.CHECKPOINTS).glob("[0-9]*"))


def test_the_last_row_cut_short(experiment, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    for step in (STEPS, 6):
        shutil.rmtree(tmp_path / workdir.CHECKPOINTS / str(step), ignore_errors=True)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert run(experiment, tmp_path)[0].finished
    assert_same_run(tmp_path, undisturbed)


class BadBatches:
    """Makes the loss of some steps not finite."""

    def __init__(self, patch: pytest.MonkeyPatch, *steps: int) -> None:
        batches = ClassificationTask.training_batches

        def spoiled(task, first_step):
            for step, batch in enumerate(batches(task, first_step), first_step):
                if step in steps:
                    batch["weight"][0] = np.nan
                yield batch

        patch.setattr(ClassificationTask, "training_batches", spoiled)


class TestSkip:
    @pytest.fixture
    def skipping(self, data_dir):
        return tiny_experiment(
            data_dir, recovery=RecoveryConfig("skip"), checkpoint=CheckpointConfig(keep_best=0)
        )

    def test_the_batches_since_the_last_checkpoint_are_left_out(self, skipping, tmp_path):
        """Step 6 (5 from 0) is bad; step 4 ended an epoch; rows are at 3, 4, 6 and 8."""
        with pytest.MonkeyPatch.context() as patch:
            BadBatches(patch, 5)
            outcome, reporter = run(skipping, tmp_path / "one")
            assert outcome.finished
            said = "the loss or gradient of step 5 (from 0) is not finite: back to step 4, the "
            assert said + "batches up to step 6 are skipped" in reporter.said
            row = next(row for row in outcome.rows if row["step"] == 6)
            assert row["loss"] is row["top1"] is row["gradient_norm"] is None
            assert row["skipped_steps"] == 2
            assert all("skipped_steps" not in row for row in outcome.rows if row["step"] != 6)
            state = saved(tmp_path / "one", STEPS)
            assert state["step"] == STEPS and np.isfinite(outcome.rows[-1]["loss"])
            counts = {path: x for path, x in flat(state["opt_state"]).items() if "count" in path}
            assert sorted(int(x) for x in counts.values()) == [6, 8]  # Adam's, the schedule's

            # A checkpoint that only a signal made is not gone back to.
            assert not run(skipping, tmp_path / "two", 5)[0].finished
            assert steps_saved(tmp_path / "two") == [4, 5]
            assert run(skipping, tmp_path / "two")[0].finished
            assert without_clock(tmp_path / "two") == without_clock(tmp_path / "one")
            assert_identical(saved(tmp_path / "two", STEPS), state)

    def test_before_the_first_checkpoint_to_the_start(self, skipping, tmp_path):
        with pytest.MonkeyPatch.context() as patch:
            BadBatches(patch, 0)
            outcome, reporter = run(skipping, tmp_path)
        assert outcome.finished and "back to step 0, the batches up to step 3" in reporter.said[-1]
        assert [row.get("skipped_steps") for row in outcome.rows[:2]] == [3, None]

    def test_not_for_ever(self, skipping, tmp_path):
        once = dataclasses.replace(skipping, recovery=RecoveryConfig("skip", attempts=1))
        with pytest.MonkeyPatch.context() as patch:
            BadBatches(patch, 4, 7)
            with pytest.raises(TrainingError, match="and so it was 1 times since step 4; try a"):
                run(once, tmp_path)
        assert steps_saved(tmp_path) == [4]
        assert [row["step"] for row in read_metrics(tmp_path)] == [3, 4, 4, 6]


def flat(tree):
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
