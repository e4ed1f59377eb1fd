import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import DataError, TrainingError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training import loop, parallel, workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.compile import compile_scales
from mobilevit_jax.training.compile_counts import Compilations
from mobilevit_jax.training.metrics_log import read_metrics
from mobilevit_jax.training.schedule import ScheduleConfig, warmup_cosine
from mobilevit_jax.training.setup import begin
from mobilevit_jax.training.timing import ScaleClock, Timing
from tests.small import build_small_net, tiny_experiment

CLOCK = ("_seconds", "_per_second", "_bytes")
STEPS = 8  # two epochs of four; rows of the log after steps 3, 4, 6 and 8


class Reporter:
    """Remembers what it is told; sends this process a signal at one step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.said, self.rows, self.updates = stop_at, [], [], []
        self.begun: int | None = None
        self.losses: list[float | None] = []

    def say(self, message):
        self.said.append(message)

    def begin(self, first_step):
        self.begun = first_step

    def update(self, step, *, epoch, loss=None, images_per_second=None):
        self.updates.append((step, epoch))
        self.losses.append(loss)
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def log(self, row):
        self.rows.append(dict(row))


def run(
    experiment: Experiment,
    directory: Path,
    stop_at: int | None = None,
    reporter: Reporter | None = None,
):
    """Trains as the command line does, with a small network in place of MobileViT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "build", build_small_net)
        task = ClassificationTask(experiment)
        workdir.open_workdir(directory, experiment, task.class_names)
        reporter = reporter or Reporter(stop_at)
        return loop.train(experiment, task, directory, reporter), reporter


def without_clock(directory):
    return [
        {name: value for name, value in row.items() if not name.endswith(CLOCK)}
        for row in read_metrics(directory)
    ]


def saved(directory, step):
    """Returns a checkpoint's arrays."""
    with Checkpoints.reader(directory / workdir.CHECKPOINTS) as checkpoints:
        return checkpoints.restore(step, checkpoints.structure(step))


def steps_saved(directory):
    with Checkpoints.reader(directory / workdir.CHECKPOINTS) as checkpoints:
        return checkpoints.steps()


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run to its end: (experiment, work directory, outcome, reporter)."""
    experiment = tiny_experiment(data_dir)
    directory = tmp_path_factory.mktemp("run")
    return experiment, directory, *run(experiment, directory)


class TestRows:
    def test_one_for_each_step_and_split(self, finished):
        rows = read_metrics(finished[1])
        assert [(row["step"], row["epoch"], row["split"]) for row in rows] == [
            (3, 1, "train"),
            (4, 1, "train"),
            (4, 1, "validation"),
            (6, 2, "train"),
            (8, 2, "train"),
            (8, 2, "validation"),
            (8, 2, "test"),
        ]

    def test_names(self, finished):
        common = {"step", "epoch", "split", "loss", "top1", "top5"}
        for row in read_metrics(finished[1]):
            clock = {name for name in row if name.endswith(CLOCK)}
            if row["split"] == "train":
                assert row.keys() - clock == common | {"gradient_norm", "learning_rate"}
                assert clock == {"images_per_second", "step_seconds", "data_wait_seconds"}
            else:
                assert row.keys() - clock == common | {"count"}
                assert clock == {"evaluation_seconds"} and row["count"] == 32
            assert 0 <= row["top1"] <= row["top5"] <= 1

    def test_learning_rate_is_that_of_the_step(self, finished):
        rate = warmup_cosine(finished[0].schedule, [4, 4])
        for row in read_metrics(finished[1]):
            if row["split"] == "train":
                assert row["learning_rate"] == float(rate(row["step"] - 1))

    def test_reported_as_written(self, finished):
        _, directory, outcome, reporter = finished
        assert outcome.rows == read_metrics(directory) == reporter.rows
        assert [step for step, _ in reporter.updates] == list(range(2, STEPS + 1))
        assert [epoch for _, epoch in reporter.updates] == [1] * 3 + [2] * 4

    def test_averages_restart_at_each_row(self, finished):
        """An update brings the loss of the step before, so the first seven steps are known."""
        reporter = finished[3]
        train = {row["step"]: row["loss"] for row in reporter.rows if row["split"] == "train"}
        for step, steps in {3: (0, 3), 4: (3, 4), 6: (4, 6)}.items():
            assert train[step] == pytest.approx(np.mean(reporter.losses[slice(*steps)]), rel=1e-5)

    def test_timing(self, finished):
        timing = finished[2].timing
        assert (timing.steps, timing.images) == (STEPS, STEPS * 16)
        assert list(timing.compile_seconds) == ["32x32"]
        assert 0 <= timing.data_wait_seconds <= timing.train_seconds
        json.dumps(dataclasses.asdict(timing))


class TestResume:
    # In the middle of a row of the log; on one; on the last step of an epoch.
    @pytest.mark.parametrize("stop_at", [2, 6, 4])
    def test_a_stopped_run_ends_as_if_it_had_not_been(self, finished, tmp_path, stop_at):
        experiment, directory, *_ = finished
        outcome, reporter = run(experiment, tmp_path, stop_at)
        assert not outcome.finished and reporter.said[-1].startswith("stopped by a signal after")
        assert steps_saved(tmp_path)[-1] == stop_at
        outcome, reporter = run(experiment, tmp_path)
        assert outcome.finished and reporter.said[0].startswith(f"resuming from step {stop_at}")
        assert (reporter.begun, outcome.timing.steps) == (stop_at, STEPS - stop_at)
        assert without_clock(tmp_path) == without_clock(directory)
        assert_identical(saved(tmp_path, STEPS), saved(directory, STEPS))

    def test_a_killed_run_goes_on_from_its_last_checkpoint(self, finished, tmp_path):
        """Rows that are later than the checkpoint are written again, not twice."""
        experiment, directory, *_ = finished
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(tmp_path / workdir.CHECKPOINTS / str(STEPS))
        outcome, reporter = run(experiment, tmp_path)
        assert outcome.finished and reporter.said[0].startswith("resuming from step 4")
        assert without_clock(tmp_path) == without_clock(directory)
        assert_identical(saved(tmp_path, STEPS), saved(directory, STEPS))

    def test_a_finished_run_does_nothing_more(self, finished, tmp_path):
        experiment, directory, *_ = finished
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        outcome, reporter = run(experiment, tmp_path)
        assert outcome.finished and outcome.timing.steps == 0
        assert not outcome.timing.compile_seconds and not reporter.rows
        assert read_metrics(tmp_path) == read_metrics(directory)
        assert steps_saved(tmp_path) == steps_saved(directory)

    def test_a_test_row_that_is_missing_is_added(self, finished, tmp_path):
        experiment, directory, *_ = finished
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        outcome, _ = run(experiment, tmp_path)
        assert outcome.finished and outcome.timing.steps == 0
        assert without_clock(tmp_path) == without_clock(directory)

    def test_a_checkpoint_of_another_model_is_refused(self, finished, tmp_path):
        experiment, directory, *_ = finished
        shutil.copytree(directory / workdir.CHECKPOINTS, tmp_path / workdir.CHECKPOINTS)
        other = dataclasses.replace(experiment, model=ModelConfig("mobilevit_xxs", num_classes=9))
        record = json.loads((directory / workdir.EXPERIMENT).read_text())
        record["experiment"]["model"]["num_classes"] = 9
        workdir.write_json(tmp_path / workdir.EXPERIMENT, record)
        with pytest.raises(DataError, match=r"does not fit: params/classifier/bias.*\[8\].*\[9\]"):
            run(other, tmp_path)


class TestWeights:
    def test_evaluation_is_of_the_average(self, finished):
        """The last row of a split is what the saved average scores."""
        experiment, directory, *_ = finished
        state = saved(directory, STEPS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelConfig, "build", build_small_net)
            task = ClassificationTask(experiment)
        row = read_metrics(directory)[-1]
        average = task.evaluate(state["ema"], "test")
        raw = task.evaluate({name: state[name] for name in ("params", "batch_stats")}, "test")
        assert row["loss"] == average["loss"] != raw["loss"]

    def test_a_checkpoint_carries_its_epoch_and_metrics(self, finished):
        with Checkpoints.reader(finished[1] / workdir.CHECKPOINTS) as checkpoints:
            assert checkpoints.metadata(STEPS) == {"epoch": 2}
            validation = read_metrics(finished[1])[-2]
            assert checkpoints.metrics(STEPS)["top1"] == validation["top1"]


def test_other_settings_of_a_run(data_dir, tmp_path, monkeypatch):
    """Every second epoch evaluated and saved, the best kept, raw weights beside the average.

    The memory that the first ten steps left free is returned, once.
    """
    returned = []
    monkeypatch.setattr(loop, "return_freed_memory", lambda: returned.append(True))
    experiment = tiny_experiment(
        data_dir,
        epochs=5,
        log_every=100,
        data=DataConfig("shapes/tiny", str(data_dir)),
        evaluation=EvaluationConfig(every_epochs=2, raw_weights=True),
        checkpoint=CheckpointConfig(every_epochs=2, keep_best=1, metric="raw_loss", mode="min"),
    )
    outcome, _ = run(experiment, tmp_path)
    assert len(returned) == 1
    assert [(row["step"], row["split"]) for row in outcome.rows] == [
        (4, "train"),
        (8, "train"),
        (8, "validation"),
        (12, "train"),
        (16, "train"),
        (16, "validation"),
        (20, "train"),
        (20, "validation"),
    ]
    evaluated = {r["step"]: r["raw_loss"] for r in outcome.rows if r["split"] == "validation"}
    best = min(evaluated, key=lambda step: evaluated[step])
    assert steps_saved(tmp_path) == sorted({best, 20})


def test_several_scales_are_compiled_ahead(data_dir, tmp_path):
    sampler = SamplerConfig(batch_size=16, base_size=32, sizes=(16, 32), reference_devices=1)
    experiment = tiny_experiment(data_dir, epochs=1, sampler=sampler)
    outcome, reporter = run(experiment, tmp_path)
    assert list(outcome.timing.compile_seconds) == ["16x16", "32x32"]
    assert sorted(reporter.said[:2]) == [
        "compiling 16x16, batch 64 (1/2)",
        "compiling 32x32, batch 16 (2/2)",
    ]
    assert outcome.rows[-1]["split"] == "test"


@pytest.mark.slow
def test_the_steps_of_each_scale_are_timed(data_dir, tmp_path):
    sampler = SamplerConfig(batch_size=16, base_size=64, sizes=(16, 64), reference_devices=1)
    outcome, _ = run(tiny_experiment(data_dir, epochs=3, sampler=sampler, log_every=1000), tmp_path)
    timing = outcome.timing
    # The first of all and the last of each epoch are left out, and what follows nothing.
    assert 0 < sum(timing.scale_steps.values()) <= timing.steps - 3
    assert set(timing.scale_steps) == set(timing.scale_seconds) <= {"16x16", "64x64"}
    assert 0 < sum(timing.scale_seconds.values()) <= timing.train_seconds


def test_a_scale_clock_counts_from_end_to_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timing = Timing()
    clock = ScaleClock(timing)
    for at, scale in ((5.0, "a"), (6.0, "a"), (8.0, "b"), (9.5, "a")):
        now[0] = at
        clock.ended(scale)
    clock.interrupt()
    now[0] = 20.0
    clock.ended("b")
    now[0] = 23.0
    clock.ended("b")
    assert timing.scale_seconds == {"a": 2.5, "b": 5.0}
    assert timing.scale_steps == {"a": 2, "b": 2}


def test_the_loop_uses_what_was_compiled_ahead(data_dir):
    sampler = SamplerConfig(batch_size=16, base_size=32, sizes=(16, 32), reference_devices=1)
    experiment = tiny_experiment(data_dir, epochs=1, sampler=sampler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "build", build_small_net)
        task = ClassificationTask(experiment)
    learning_rate = warmup_cosine(experiment.schedule, task.steps_of_epochs)
    create, step = begin(experiment, task, learning_rate)
    state, timing = parallel.replicate(create()), Timing()
    compile_scales(step, state, task, Reporter(), timing)
    assert timing.programs == {"16x16": 1, "32x32": 1}
    batches = [parallel.shard(task.zero_batch(scale)) for scale in task.table]
    with Compilations(own_thread=True) as counted:
        for batch in batches * 2:
            state, _ = step(state, batch)
        jax.block_until_ready(state)
    assert counted.programs == 0


class TestNotFinite:
    schedule = ScheduleConfig(peak=1e30, start=1e30, warmup_steps=0)

    def test_the_first_row_stops_the_run(self, data_dir, tmp_path):
        experiment = tiny_experiment(data_dir, schedule=self.schedule)
        message = "step 1 .from 0. is not finite; no checkpoint was saved before; try a lower"
        with pytest.raises(TrainingError, match=message):
            run(experiment, tmp_path)
        assert read_metrics(tmp_path) == []

    def test_the_last_good_checkpoint_is_named(self, finished, tmp_path):
        experiment, directory, *_ = finished
        shutil.copytree(directory / workdir.CHECKPOINTS, tmp_path / workdir.CHECKPOINTS)
        shutil.rmtree(tmp_path / workdir.CHECKPOINTS / str(STEPS))
        experiment = dataclasses.replace(experiment, schedule=self.schedule)
        record = workdir.read_record(directory)
        record["experiment"] = workdir.to_dict(experiment)
        workdir.write_json(tmp_path / workdir.EXPERIMENT, record)
        with pytest.raises(TrainingError, match=r"last good checkpoint is .*/checkpoints/4;"):
            run(experiment, tmp_path)
        assert steps_saved(tmp_path) == [4]
