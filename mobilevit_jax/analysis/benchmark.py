"""How fast an experiment runs here: its loader alone, its step alone at each scale, and both."""

import itertools
import statistics
import time
from dataclasses import dataclass

import jax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.base import DataTask
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compile import compile_scales
from mobilevit_jax.training.contracts import Reporter, Task, TrainStep
from mobilevit_jax.training.schedule import warmup_cosine
from mobilevit_jax.training.setup import begin
from mobilevit_jax.training.state import TrainState
from mobilevit_jax.training.timing import Timing


@dataclass(frozen=True)
class Report:
    """Speeds on this machine.

    Attributes:
        loader: Images/s of reading, decoding and augmenting alone.
        compile_seconds: Tracing and compiling the step of each scale, "64x64"; see `Timing`.
        step_seconds: Median step of each scale, on a batch that is on the devices already.
        step: Images/s of each scale.
        run: Images/s of loader and steps together.
        data_wait: Share of that run's time spent waiting for a batch that came after the devices
            had finished their last step.
        expected: Images/s of the same mixture of scales if no step ever waited.
        parts_seconds: What else the task computes, such as a detector's matching and NMS; median.
    """

    loader: float
    compile_seconds: dict[str, float]
    step_seconds: dict[str, float]
    step: dict[str, float]
    run: float
    data_wait: float
    expected: float
    parts_seconds: dict[str, float]


def measure(experiment: TaskSettings, task: DataTask, steps: int, reporter: Reporter) -> Report:
    """Measures an experiment; nothing is saved.

    Args:
        experiment: The resolved experiment.
        task: Its data, model and objective.
        steps: Steps of the loader's and of the whole run; each scale's own is repeated five times.
        reporter: Where progress is shown.

    Raises:
        ConfigurationError: If the experiment has fewer steps.
    """
    if not 1 <= steps <= sum(task.steps_of_epochs):
        raise ConfigurationError(
            f"--steps must be from 1 to the run's {sum(task.steps_of_epochs)}; got {steps}"
        )
    learning_rate = warmup_cosine(experiment.schedule, task.steps_of_epochs)
    create, step = begin(experiment, task, learning_rate)
    state = parallel.replicate(create())
    timing = Timing()
    compile_scales(step, state, task, reporter, timing)
    reporter.say("measuring the loader")
    loader = _loader(task, steps)
    reporter.say("measuring the steps")
    state, seconds = _steps(step, state, task)
    reporter.say("measuring the run")
    run, wait, scales = _run(step, state, task, steps)
    sizes = {scale.name: scale.batch_size for scale in task.table}
    ideal = sum(seconds[name] for name in scales)
    return Report(
        loader=loader,
        compile_seconds=timing.compile_seconds,
        step_seconds=seconds,
        step={name: sizes[name] / value for name, value in seconds.items()},
        run=run,
        data_wait=wait,
        expected=sum(sizes[name] for name in scales) / ideal,
        parts_seconds=_parts(task),
    )


def _loader(task: Task, steps: int) -> float:
    """Images/s of the whole read-ahead, from a standing start."""
    start, images = time.perf_counter(), 0
    for batch in itertools.islice(task.training_batches(0), steps):
        images += len(batch["weight"])
    return images * jax.process_count() / (time.perf_counter() - start)


def _steps(
    step: TrainStep, state: TrainState, task: Task, repeats: int = 5
) -> tuple[TrainState, dict[str, float]]:
    """Median seconds of each scale's step, the scales taking turns."""
    batches = {scale.name: parallel.shard(task.zero_batch(scale)) for scale in task.table}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for name in list(batches) * repeats:
        start = time.perf_counter()
        state, metrics = step(state, batches[name])
        jax.block_until_ready(metrics)
        seconds[name].append(time.perf_counter() - start)
    return state, {name: statistics.median(values) for name, values in seconds.items()}


def _parts(task: DataTask, repeats: int = 5) -> dict[str, float]:
    """Median seconds of each of the task's parts, the parts taking turns."""
    parts = task.timed_parts()
    for part in parts.values():
        jax.block_until_ready(part())
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for name in list(parts) * repeats:
        start = time.perf_counter()
        jax.block_until_ready(parts[name]())
        seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _run(
    step: TrainStep, state: TrainState, task: Task, steps: int
) -> tuple[float, float, list[str]]:
    """Images/s, share of waiting and the scales of loader and steps together, as the loop runs."""
    batches = parallel.prefetch(itertools.islice(task.training_batches(0), steps))
    scales: list[str] = []
    images, waited, before = 0, 0.0, None
    start = time.perf_counter()
    for _ in range(steps):
        since = time.perf_counter()
        batch = next(batches)
        if before is None or parallel.is_ready(before):  # else the devices were still busy
            waited += time.perf_counter() - since
        state, metrics = step(state, batch)
        if before is not None:
            jax.block_until_ready(before)
        before = metrics["loss"]
        scales.append("x".join(map(str, batch["image"].shape[2:4])))
        images += batch["weight"].size * jax.process_count()
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return images / seconds, waited / seconds, scales
