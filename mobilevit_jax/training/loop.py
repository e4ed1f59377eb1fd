"""The training loop: state, compiled steps, loop, checkpoints, final evaluation, top to bottom."""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mobilevit_jax.allocator import return_freed_memory
from mobilevit_jax.base.run_files import CHECKPOINTS
from mobilevit_jax.errors import ConfigurationError, TrainingError
from mobilevit_jax.training import parallel
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.compile import compile_scales
from mobilevit_jax.training.contracts import Reporter, Task, TrainStep
from mobilevit_jax.training.initial_weights import InitialWeights, start_from
from mobilevit_jax.training.metrics_log import MetricsLog, read_metrics
from mobilevit_jax.training.multihost import hosts
from mobilevit_jax.training.recovery import skip_to
from mobilevit_jax.training.schedule import Schedule, warmup_cosine
from mobilevit_jax.training.settings import TrainingSettings
from mobilevit_jax.training.setup import begin
from mobilevit_jax.training.signals import Stopped, StopRequest
from mobilevit_jax.training.state import NEVER, TrainState, empty_meter
from mobilevit_jax.training.timing import RowClock, ScaleClock, Timing
from mobilevit_jax.training.workdir import saved_steps

# A signal may reach hosts at different steps, and they must stop after the same one.
_STEPS_BETWEEN_QUESTIONS = 8

# By then a step finds the place of the last one's memory; see `allocator.return_freed_memory`.
_STEPS_TO_SETTLE = 10


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

    settings: TrainingSettings
    task: Task
    learning_rate: Schedule
    first_state: Callable[[], TrainState]
    checkpoints: Checkpoints
    log: MetricsLog
    reporter: Reporter
    timing: Timing
    stop: StopRequest
    times_skipped: Counter[int] = field(default_factory=Counter)

    @functools.cached_property
    def boundaries(self) -> list[int]:
        """Number of steps done at the end of each epoch."""
        return list(itertools.accumulate(self.task.steps_of_epochs))

    def epoch_of(self, done: int) -> int:
        """The epoch, from 1, of the last of so many steps."""
        return int(np.searchsorted(self.boundaries, done)) + 1


def train(
    settings: TrainingSettings,
    task: Task,
    directory: Path,
    reporter: Reporter,
    initial: InitialWeights | None = None,
) -> Outcome:
    """Trains, evaluates and saves a run, from where its work directory stands.

    Args:
        settings: Of the run, such as an experiment.
        task: Its data, model and objective.
        directory: The work directory, opened by `workdir.open_workdir`.
        reporter: Where progress is shown.
        initial: Weights to start from, see `fine_tuning.load_initial`; None starts from scratch. A
            checkpoint in the work directory goes before them.

    Raises:
        ConfigurationError: If `settings.init_from` names weights, and none are given.
        TrainingError: If loss or gradient is not finite; step and last checkpoint are named.
        DataError: If an image or a checkpoint cannot be read or written.
    """
    if settings.init_from and initial is None and not saved_steps(directory):
        raise ConfigurationError(
            f"init_from names {settings.init_from}, but no weights were loaded: give the loop what "
            "fine_tuning.load_initial returns"
        )
    learning_rate = warmup_cosine(settings.schedule, task.steps_of_epochs)
    create, step = begin(settings, task, learning_rate)

    def first_state() -> TrainState:
        return create() if initial is None else start_from(create(), initial)

    timing, finished = Timing(devices=parallel.describe_devices()), False
    with StopRequest() as stop, _open_checkpoints(settings, task, directory) as checkpoints:
        state, resumed, pending = _restore_or_start(
            checkpoints, first_state, initial, directory, reporter
        )
        with MetricsLog(
            directory, resume_step=resumed, pending=pending, active=parallel.is_first_host()
        ) as log:
            run = _Run(
                settings=settings,
                task=task,
                learning_rate=learning_rate,
                first_state=first_state,
                checkpoints=checkpoints,
                log=log,
                reporter=reporter,
                timing=timing,
                stop=stop,
            )
            with contextlib.suppress(Stopped):
                finished = _go_on(run, step, state, resumed or 0, pending, directory)
    return Outcome(finished, _rows(directory), timing)


def _open_checkpoints(settings: TrainingSettings, task: Task, directory: Path) -> Checkpoints:
    keep = settings.checkpoint
    return Checkpoints(
        directory / CHECKPOINTS,
        metric=keep.metric or task.main_metric,
        mode=keep.mode,
        keep_best=keep.keep_best,
    )


def _restore_or_start(
    checkpoints: Checkpoints,
    first_state: Callable[[], TrainState],
    initial: InitialWeights | None,
    directory: Path,
    reporter: Reporter,
) -> tuple[TrainState, int | None, bool]:
    """Says where the run begins, once all hosts agree on that.

    Returns:
        The state, placed on the devices; the step that it is resumed from, None for a new run; and
        whether the evaluation after that step is still to come.
    """
    state, resumed, pending = first_state(), None, False
    found = checkpoints.restore_newest(state, warn=reporter.say)
    if found is not None:
        state, resumed = found.state, found.step
        pending = found.metadata.get("pending", False)
        reporter.say(f"resuming from step {resumed} in {directory}")
    elif initial is not None:
        for note in initial.notes:
            reporter.say(note)
    weights = hosts.digest(*jax.tree.leaves(state.params))
    hosts.agree("where to begin", {"step": int(state.step), "weights": weights})
    return parallel.replicate(state), resumed, pending


def _go_on(
    run: _Run, step: TrainStep, state: TrainState, first: int, pending: bool, directory: Path
) -> bool:
    """Does what is left of a run; returns whether it got to the end.

    Raises:
        Stopped: If a signal came while there was nothing new to save.
    """
    try:
        if pending:
            _end_epoch(run, state, first, run.epoch_of(first), replace=True)
        if first < run.boundaries[-1]:
            compile_scales(step, state, run.task, run.reporter, run.timing, run.stop)
        state, finished = _loop(run, step, state, first)
        if finished:
            _final_evaluation(run, state, _rows(directory))
        return finished
    except Stopped:
        latest = run.checkpoints.latest()
        where = "before the first step" if latest is None else f"after step {latest}, saved before"
        run.reporter.say(f"stopped by a signal {where}")
        raise


def _rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the rows written so far; only the first host writes any."""
    return read_metrics(directory) if parallel.is_first_host() else []


def _loop(run: _Run, step: TrainStep, state: TrainState, first: int) -> tuple[TrainState, bool]:
    """Runs from step `first` to the end; returns the state and whether it got there."""
    boundaries, every_steps = run.boundaries, run.settings.checkpoint.every_steps
    run.reporter.begin(first)
    row, scales = RowClock(run.timing), ScaleClock(run.timing)
    before: jax.Array | None = None
    scale = ""
    with contextlib.closing(parallel.prefetch(run.task.training_batches(first))) as batches:
        for done in range(first + 1, boundaries[-1] + 1):
            epoch = run.epoch_of(done)
            since = time.perf_counter()
            batch = next(batches)
            if before is None or parallel.is_ready(before):  # else the devices were still busy
                row.wait(time.perf_counter() - since)
            state, metrics = step(state, batch)
            row.count(batch["weight"].size * jax.process_count())
            if done - first == _STEPS_TO_SETTLE:
                return_freed_memory()
            if before is not None:  # the devices work at most one step ahead of this loop
                loss = float(before)
                scales.ended(scale)
                speed = row.images_per_second
                run.reporter.update(done, epoch=epoch, loss=loss, images_per_second=speed)
            height, width = batch["image"].shape[2:4]
            before, scale = metrics["loss"], f"{height}x{width}"
            ends_epoch = done == boundaries[epoch - 1]
            is_due = every_steps is not None and done % every_steps == 0
            if ends_epoch or is_due or done % run.settings.log_every == 0:
                state = _checked(run, state, done)
                scales.interrupt()
            if ends_epoch or done % run.settings.log_every == 0:
                state = _write_train_row(run, state, done, epoch, row)
            if ends_epoch:
                try:
                    _end_epoch(run, state, done, epoch)
                except Stopped:
                    _stop(run, state, done, epoch, pending=True)
                    return state, False
                row.restart()
            elif is_due:
                run.checkpoints.save(done, state, metadata={"epoch": epoch})
            if done < boundaries[-1] and (
                run.checkpoints.reached_preemption(done) or _agreed(run, done)
            ):
                row.read()
                _stop(run, _checked(run, state, done), done, epoch)
                return state, False
    return state, True


def _agreed(run: _Run, done: int) -> bool:
    """Whether to stop after this step: several hosts ask one another now and then."""
    if jax.process_count() == 1:
        return run.stop.requested
    return done % _STEPS_BETWEEN_QUESTIONS == 0 and parallel.on_any_host(run.stop.requested)


def _write_train_row(
    run: _Run, state: TrainState, done: int, epoch: int, row: RowClock
) -> TrainState:
    """Writes the averages since the last row; returns the state with its meter at zero."""
    sums = {name: float(value) for name, value in state.meter.items()}
    steps, skipped = int(sums["steps"]), int(sums["skipped_steps"])
    count = max(sums["count"], 1) if steps else np.nan  # all of them skipped: no average
    numbers = {
        **{name: sums[name] / count for name in run.task.objective.metrics},
        "gradient_norm": sums["gradient_norm"] / steps if steps else np.nan,
        **({"skipped_steps": skipped} if skipped else {}),
        "learning_rate": float(run.learning_rate(done - 1)),
        **row.read(),
    }
    _write(run, done, epoch, "train", numbers)
    meter = parallel.replicate(empty_meter(run.task.objective.metrics))
    return dataclasses.replace(state, meter=meter)


def _checked(run: _Run, state: TrainState, done: int) -> TrainState:
    """Returns the state if every loss and gradient in its meter was finite, else an earlier one.

    Raises:
        TrainingError: If one was not, and the experiment does not ask to skip it.
    """
    bad = int(state.meter["bad_step"])
    if bad == NEVER:
        return state
    problem = f"the loss or gradient of step {bad} (from 0) is not finite"
    recovery = run.settings.recovery
    if recovery.non_finite == "stop":
        latest = run.checkpoints.latest()
        good = (
            f"the last good checkpoint is {run.checkpoints.directory / str(latest)}"
            if latest is not None
            else "no checkpoint was saved before"
        )
        raise TrainingError(
            f"{problem}; {good}; try a lower schedule.peak, optimizer.clip_norm or float32, in "
            "another --workdir, or --recovery.non-finite skip"
        )
    found = run.checkpoints.restore_newest(state, scheduled=True, warn=run.reporter.say)
    start = found.step if found else 0
    run.times_skipped[start] += 1
    if run.times_skipped[start] > recovery.attempts:
        raise TrainingError(
            f"{problem}, and so it was {recovery.attempts} times since step {start}; try a lower "
            "schedule.peak or optimizer.clip_norm, in another --workdir"
        )
    run.reporter.say(f"{problem}: back to step {start}, the batches up to step {done} are skipped")
    return parallel.replicate(skip_to(found.state if found else run.first_state(), done))


def _end_epoch(
    run: _Run, state: TrainState, done: int, epoch: int, *, replace: bool = False
) -> None:
    """Evaluates and saves, if it is this epoch's turn.

    `replace` tells that the state was saved when a signal came before its evaluation was done.

    Raises:
        Stopped: If a signal came during the evaluation.
    """
    last = epoch == run.settings.epochs
    metrics = None
    if "validation" in run.task.evaluation_splits and (
        last or epoch % run.settings.evaluation.every_epochs == 0
    ):
        metrics = _evaluate(run, state, done, epoch, "validation")
    if last or epoch % run.settings.checkpoint.every_epochs == 0:
        run.checkpoints.save(
            done, state, metadata={"epoch": epoch}, metrics=metrics, replace=replace
        )


def _evaluate(run: _Run, state: TrainState, done: int, epoch: int, split: str) -> dict[str, float]:
    """Writes the row of a split: of the averaged weights if there are any, else the raw ones."""
    start = time.perf_counter()
    batches = itertools.count(1)

    def poll() -> None:
        if _agreed(run, next(batches)):
            raise Stopped

    metrics = run.task.evaluate(state.ema or state.variables, split, poll)
    if run.settings.evaluation.raw_weights and state.ema:
        raw = run.task.evaluate(state.variables, split, poll)
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
    there = parallel.on_any_host(any((r["split"], r["step"]) == ("test", done) for r in rows))
    if "test" in run.task.evaluation_splits and not there:
        _evaluate(run, state, done, run.settings.epochs, "test")


def _stop(run: _Run, state: TrainState, done: int, epoch: int, *, pending: bool = False) -> None:
    """Saves because a signal came; the meter is part of the state, so no row is lost.

    `pending` tells that the evaluation after this step is still to come.
    """
    if done not in run.checkpoints.steps():
        metadata = {"epoch": epoch} | ({"pending": True} if pending else {})
        run.checkpoints.save(done, state, metadata=metadata, extra=True)
    run.checkpoints.wait()
    run.reporter.say(f"stopped by a signal after step {done}; saved")
