"""The training loop: state, compiled steps, loop, checkpoints, final evaluation, top to bottom."""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from mobilevit_jax.config import Experiment
from mobilevit_jax.data.sampler import Scale
from mobilevit_jax.errors import TrainingError
from mobilevit_jax.training import parallel, workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.initial import InitialWeights, load_initial, start_from
from mobilevit_jax.training.optimizer import create_optimizer
from mobilevit_jax.training.records import MetricsLog, read_metrics
from mobilevit_jax.training.schedule import Schedule, warmup_cosine
from mobilevit_jax.training.signals import StopRequest
from mobilevit_jax.training.state import NEVER, TrainState, create_state, empty_meter
from mobilevit_jax.training.step import Objective, make_train_step
from mobilevit_jax.training.timing import RowClock, Timing

TrainStep = Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, dict[str, jax.Array]]]


# A signal may reach hosts at different steps, and they must stop after the same one.
_STEPS_BETWEEN_QUESTIONS = 8


class Task(Protocol):
    """What the loop needs of a task; `tasks.classification.ClassificationTask` is one."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    @property
    def objective(self) -> Objective:
        """Loss and metrics."""
        ...

    @property
    def main_metric(self) -> str:
        """The metric that ranks checkpoints unless the experiment names another."""
        ...

    @property
    def table(self) -> tuple[Scale, ...]:
        """The scales of the run."""
        ...

    @property
    def steps_of_epochs(self) -> list[int]:
        """Steps of each epoch."""
        ...

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Those of "validation" and "test" that there are."""
        ...

    def zero_batch(self, scale: Scale) -> dict[str, np.ndarray]:
        """Returns this host's rows of a batch, to compile a scale with."""
        ...

    def training_batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this host's rows from a step of the run to its end."""
        ...

    def evaluate(self, variables: Any, split: str) -> dict[str, float]:
        """Measures weights on "validation" or "test"."""
        ...

    def timed_parts(self) -> dict[str, Callable[[], Any]]:
        """Returns what else the benchmark times, by name."""
        ...


class Reporter(Protocol):
    """Where progress is shown."""

    def say(self, message: str) -> None:
        """Shows one line."""
        ...

    def begin(self, first_step: int) -> None:
        """Starts the clock, at the step that the run goes on from."""
        ...

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Moves the progress to `step` of the run."""
        ...

    def log(self, row: Mapping[str, object]) -> None:
        """Shows a row of metrics."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: False if a signal stopped it (its state is saved).
        rows: All rows of metrics.jsonl.
        timing: Of this process.
    """

    finished: bool
    rows: list[dict[str, Any]]
    timing: Timing


@dataclass(frozen=True)
class _Run:
    """What stays the same during a run."""

    experiment: Experiment
    task: Task
    learning_rate: Schedule
    checkpoints: Checkpoints
    log: MetricsLog
    reporter: Reporter
    timing: Timing

    @property
    def boundaries(self) -> list[int]:
        """Number of steps done at the end of each epoch."""
        return list(itertools.accumulate(self.task.steps_of_epochs))


def train(
    experiment: Experiment,
    task: Task,
    directory: Path,
    reporter: Reporter,
    initial: InitialWeights | None = None,
) -> Outcome:
    """Trains, evaluates and saves an experiment, from where its work directory stands.

    Args:
        experiment: The resolved experiment.
        task: Its data, model and objective.
        directory: The work directory, opened by `workdir.open_workdir`.
        reporter: Where progress is shown.
        initial: Weights to start from, if they are loaded already; else `experiment.init_from`
            is loaded here. A checkpoint in the work directory goes before them.

    Raises:
        ConfigurationError: If `experiment.init_from` does not fit the experiment.
        TrainingError: If loss or gradient is not finite; step and last checkpoint are named.
        DataError: If an image or a checkpoint cannot be read or written.
    """
    learning_rate = warmup_cosine(experiment.schedule, task.steps_of_epochs)
    initial = initial or load_initial(experiment, task.model, directory)
    state, step = begin(experiment, task, learning_rate)
    keep = experiment.checkpoint
    timing = Timing()
    with (
        StopRequest() as stop,
        Checkpoints(
            directory / workdir.CHECKPOINTS,
            metric=keep.metric or task.main_metric,
            mode=keep.mode,
            keep_best=keep.keep_best,
        ) as checkpoints,
    ):
        latest = checkpoints.latest()
        if latest is not None:
            state = checkpoints.restore(latest, state)
            reporter.say(f"resuming from step {latest} in {directory}")
        elif initial is not None:
            state = start_from(state, initial)
            for note in initial.notes:
                reporter.say(note)
        state = parallel.replicate(state)
        first = latest or 0
        with MetricsLog(directory, resume_step=latest, active=parallel.is_first_host()) as log:
            run = _Run(experiment, task, learning_rate, checkpoints, log, reporter, timing)
            if first < run.boundaries[-1]:
                compile_scales(step, state, task, reporter, timing)
            state, finished = _loop(run, step, state, first, stop)
            if finished:
                _final_evaluation(run, state, _rows(directory))
    return Outcome(finished, _rows(directory), timing)


def _rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the rows written so far; only the first host writes any."""
    return read_metrics(directory) if parallel.is_first_host() else []


def begin(
    experiment: Experiment, task: Task, learning_rate: Schedule
) -> tuple[TrainState, TrainStep]:
    """Returns the state of step 0, not placed on devices yet, and the step over all devices."""
    optimizer = create_optimizer(
        experiment.optimizer, learning_rate, freeze_backbone=experiment.model.freeze_backbone
    )
    initial = functools.partial(
        create_state,
        task.model,
        optimizer,
        experiment.ema,
        task.objective.metrics,
        experiment.seed,
    )
    # Compiled once and run once: optimising the code would take three times as long.
    state = jax.jit(initial, compiler_options={"xla_backend_optimization_level": 0})()
    step = parallel.pmap_train(
        make_train_step(
            task.model,
            optimizer,
            task.objective,
            experiment.ema,
            seed=experiment.seed,
            accumulation=experiment.optimizer.accumulation,
        )
    )
    return state, step


def compile_scales(
    step: TrainStep, state: TrainState, task: Task, reporter: Reporter, timing: Timing
) -> None:
    """Compiles the step of every scale ahead of the loop, by one call on zeros each.

    A call rather than `lower().compile()`: pmap would not use what that gives. The state is
    copied, since the step donates it.
    """
    total = time.perf_counter()
    for number, scale in enumerate(task.table, 1):
        name = f"{scale.height}x{scale.width}"
        reporter.say(f"compiling {name}, batch {scale.batch_size} ({number}/{len(task.table)})")
        start = time.perf_counter()
        batch = parallel.shard(task.zero_batch(scale))
        _, metrics = step(parallel.replicate(state), batch)
        jax.block_until_ready(metrics)
        timing.compile_seconds[name] = time.perf_counter() - start
    seconds = "  ".join(f"{name} {value:.1f} s" for name, value in timing.compile_seconds.items())
    reporter.say(f"compiled in {time.perf_counter() - total:.1f} s: {seconds}")


def _loop(
    run: _Run, step: TrainStep, state: TrainState, first: int, stop: StopRequest
) -> tuple[TrainState, bool]:
    """Runs from step `first` to the end; returns the state and whether it got there."""
    boundaries, timing = run.boundaries, run.timing
    run.reporter.begin(first)
    row = RowClock(timing)
    before: jax.Array | None = None
    with contextlib.closing(parallel.prefetch(run.task.training_batches(first))) as batches:
        for done in range(first + 1, boundaries[-1] + 1):
            epoch = int(np.searchsorted(boundaries, done)) + 1
            since = time.perf_counter()
            batch = next(batches)
            if before is None or parallel.is_ready(before):  # else the devices were still busy
                row.wait(time.perf_counter() - since)
            state, metrics = step(state, batch)
            row.count(batch["weight"].size * jax.process_count())
            if before is not None:  # the devices work at most one step ahead of this loop
                loss = float(before)
                speed = row.images_per_second
                run.reporter.update(done, epoch=epoch, loss=loss, images_per_second=speed)
            before = metrics["loss"]
            ends_epoch = done == boundaries[epoch - 1]
            if ends_epoch or done % run.experiment.log_every == 0:
                state = _write_train_row(run, state, done, epoch, row)
            if ends_epoch:
                _end_epoch(run, state, done, epoch)
                row.restart()
            if done < boundaries[-1] and _agreed(stop, done):
                row.read()
                _stop(run, state, done, epoch)
                return state, False
    return state, True


def _agreed(stop: StopRequest, done: int) -> bool:
    """Whether to stop after this step: several hosts ask one another now and then."""
    if jax.process_count() == 1:
        return stop.requested
    return done % _STEPS_BETWEEN_QUESTIONS == 0 and parallel.on_any_host(stop.requested)


def _write_train_row(
    run: _Run, state: TrainState, done: int, epoch: int, row: RowClock
) -> TrainState:
    """Writes the averages since the last row; returns the state with its meter at zero."""
    sums = _checked_meter(run, state)
    clock = row.read()
    metrics = {name: sums[name] / max(sums["count"], 1) for name in run.task.objective.metrics}
    numbers = {
        **metrics,
        "gradient_norm": sums["gradient_norm"] / max(sums["steps"], 1),
        "learning_rate": float(run.learning_rate(done - 1)),
        **clock,
    }
    _write(run, done, epoch, "train", numbers)
    meter = parallel.replicate(empty_meter(run.task.objective.metrics))
    return dataclasses.replace(state, meter=meter)


def _checked_meter(run: _Run, state: TrainState) -> dict[str, float]:
    """Returns the meter's sums.

    Raises:
        TrainingError: If a loss or a gradient was not finite.
    """
    sums = {name: float(value) for name, value in state.meter.items()}
    if sums["bad_step"] < NEVER:
        latest = run.checkpoints.latest()
        good = (
            f"the last good checkpoint is {run.checkpoints.directory / str(latest)}"
            if latest is not None
            else "no checkpoint was saved before"
        )
        raise TrainingError(
            f"the loss or gradient of step {int(sums['bad_step'])} (from 0) is not finite; {good}; "
            "try a lower schedule.peak, optimizer.clip_norm or float32, in another --workdir"
        )
    return sums


def _end_epoch(run: _Run, state: TrainState, done: int, epoch: int) -> None:
    """Evaluates and saves, if it is this epoch's turn."""
    last = epoch == run.experiment.epochs
    metrics = None
    if "validation" in run.task.evaluation_splits and (
        last or epoch % run.experiment.evaluation.every_epochs == 0
    ):
        metrics = _evaluate(run, state, done, epoch, "validation")
    if last or epoch % run.experiment.checkpoint.every_epochs == 0:
        run.checkpoints.save(done, state, metadata={"epoch": epoch}, metrics=metrics)


def _evaluate(run: _Run, state: TrainState, done: int, epoch: int, split: str) -> dict[str, float]:
    """Writes the row of a split: of the averaged weights if there are any, else the raw ones."""
    start = time.perf_counter()
    metrics = run.task.evaluate(state.ema or state.variables, split)
    if run.experiment.evaluation.raw_weights and state.ema:
        raw = run.task.evaluate(state.variables, split)
        metrics |= {f"raw_{name}": value for name, value in raw.items() if name != "count"}
    seconds = {"evaluation_seconds": time.perf_counter() - start}
    _write(run, done, epoch, split, metrics | seconds)
    return metrics


def _write(run: _Run, done: int, epoch: int, split: str, numbers: dict[str, float]) -> None:
    run.log.write(step=done, epoch=epoch, split=split, numbers=numbers)
    run.reporter.log({"epoch": epoch, "step": done, "split": split, **numbers})


def _final_evaluation(run: _Run, state: TrainState, rows: list[dict[str, Any]]) -> None:
    """Evaluates the test split once, with the weights of the last step."""
    done = run.boundaries[-1]
    there = any(row["split"] == "test" and row["step"] == done for row in rows)
    there = parallel.on_any_host(there)
    if "test" in run.task.evaluation_splits and not there:
        _evaluate(run, state, done, run.experiment.epochs, "test")


def _stop(run: _Run, state: TrainState, done: int, epoch: int) -> None:
    """Saves because a signal came; the meter is part of the state, so no row is lost."""
    _checked_meter(run, state)
    if done not in run.checkpoints.steps():
        run.checkpoints.save(done, state, metadata={"epoch": epoch}, metrics=None)
    run.checkpoints.wait()
    run.reporter.say(f"stopped by a signal after step {done}; saved")
