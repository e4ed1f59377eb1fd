"""Compiles the step of every scale ahead of the loop, without being deaf to signals meanwhile."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import jax

from mobilevit_jax.allocator import return_freed_memory
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compilations import Compilations
from mobilevit_jax.training.contracts import Reporter, Task, TrainStep
from mobilevit_jax.training.signals import Stopped, StopRequest
from mobilevit_jax.training.state import TrainState
from mobilevit_jax.training.timing import Timing

T = TypeVar("T")

_THREAD = "mobilevit_jax-compile"
_SECONDS_BETWEEN_LOOKS = 0.1


def compile_scales(
    step: TrainStep,
    state: TrainState,
    task: Task,
    reporter: Reporter,
    timing: Timing,
    stop: StopRequest | None = None,
) -> None:
    """Compiles the step of every scale, by one call on zeros each, and shows a table.

    A call rather than `lower().compile()`: pmap would not use what that gives. The state is
    copied, since the step donates it.

    Args:
        step: The step over all devices.
        state: The state, placed on the devices.
        task: Tells the scales.
        reporter: Where progress is shown.
        timing: Where the seconds and programs of each scale go.
        stop: Asks to stop. A single process then leaves at once, though XLA, in a thread of its
            own, cannot; one of several goes on, since the others wait for it.

    Raises:
        Stopped: If a stop was asked for.
    """
    total = time.perf_counter()
    for number, scale in enumerate(task.table, 1):
        name = f"{scale.height}x{scale.width}"
        reporter.say(f"compiling {name}, batch {scale.batch_size} ({number}/{len(task.table)})")
        start = time.perf_counter()
        batch = parallel.shard(task.zero_batch(scale))
        with Compilations() as counted:
            _call(step, state, batch, stop)
        return_freed_memory()
        timing.compile_seconds[name] = time.perf_counter() - start
        timing.programs[name] = counted.programs
        timing.programs_cached[name] = counted.cached
    reporter.say(f"compiled in {time.perf_counter() - total:.1f} s:")
    for line in _table(task, timing):
        reporter.say(line)


def _table(task: Task, timing: Timing) -> list[str]:
    """Returns a heading, and a line a scale: seconds, programs, and what the cache had of them."""
    lines = [f"{'size':>10} {'batch':>7} {'seconds':>9} {'programs':>9} {'from cache':>11}"]
    for scale in task.table:
        name = f"{scale.height}x{scale.width}"
        lines.append(
            f"{name:>10} {scale.batch_size:7} {timing.compile_seconds[name]:9.1f} "
            f"{timing.programs[name]:9} {timing.programs_cached[name]:11}"
        )
    return lines


def still_compiling() -> bool:
    """Whether a compilation that nobody waits for any more is running.

    The interpreter cannot end in order while it does.
    """
    return any(thread.name == _THREAD for thread in threading.enumerate())


def in_thread(work: Callable[[], T], poll: Callable[[], None] | None = None) -> T:
    """Runs work that compiles in a thread of its own, since no signal is heard while XLA compiles.

    The thread is one that `still_compiling` knows.

    Args:
        work: What compiles; what it returns or raises comes through.
        poll: Called now and then meanwhile; what it raises ends the wait, though not the work.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=_THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SECONDS_BETWEEN_LOOKS)
        if poll is not None:
            poll()
    if errors:
        raise errors[0]
    return results[0]


def _call(step: TrainStep, state: TrainState, batch: object, stop: StopRequest | None) -> None:
    """Calls the step on a copy of the state, in a thread, and waits for it or for a signal."""

    def work() -> None:
        _, metrics = step(parallel.replicate(state), batch)  # pyright: ignore
        jax.block_until_ready(metrics)

    def poll() -> None:
        if stop is not None and stop.requested and jax.process_count() == 1:
            raise Stopped

    in_thread(work, poll)
