"""Compiles the step of every scale ahead of the loop, without being deaf to signals meanwhile."""

import collections
import functools
import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from mobilevit_jax.allocator import return_freed_memory
from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.data.sampler import Scale
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compile_counts import Compilations
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
    """Compiles the step of every scale, several at once, and shows a table.

    Nothing is run. The loop's calls find what was compiled, since state and batches are placed as
    they are there; shapes alone would not do. One of several processes compiles one scale after
    another, in the order of the others, in case they have to meet for it.

    Args:
        step: The step over all devices.
        state: Placed on the devices.
        task: Tells the scales.
        reporter: Where progress is shown.
        timing: Where the seconds and programs of each scale go.
        stop: Asks to stop. A single process then leaves at once, though XLA, in threads of its
            own, cannot; one of several goes on, since the others wait for it.

    Raises:
        Stopped: If a stop was asked for.
    """
    begun = time.perf_counter()
    at_once = 1 if jax.process_count() > 1 else min(len(task.table), usable_cores())

    # Traced by two threads at once, pmap would make a function for each and keep only one of them.
    tracing = threading.Lock()

    def compile_one(number: int, scale: Scale) -> tuple[float, Compilations]:
        which = f"{scale.name}, batch {scale.batch_size} ({number}/{len(task.table)})"
        reporter.say(f"compiling {which}")
        start = time.perf_counter()
        batch = parallel.shard(task.zero_batch(scale))
        with Compilations(own_thread=True) as counted:
            with tracing:
                lowered = lower(step, state, batch)
            lowered.compile()
        return time.perf_counter() - start, counted

    def poll() -> None:
        if stop is not None and stop.requested and jax.process_count() == 1:
            raise Stopped

    works = [functools.partial(compile_one, *item) for item in enumerate(task.table, 1)]
    for scale, done in zip(task.table, in_threads(works, at_once, poll), strict=True):
        timing.compile_seconds[scale.name], counted = done
        timing.programs[scale.name] = counted.programs
        timing.programs_cached[scale.name] = counted.cached
    return_freed_memory()
    timing.all_compile_seconds = time.perf_counter() - begun
    reporter.say(f"compiled in {timing.all_compile_seconds:.1f} s:")
    for line in _table(task, timing):
        reporter.say(line)


def lower(function: Any, /, *arguments: Any) -> Any:
    """Returns `function.lower(*arguments)`, without a search for garbage in the meantime.

    Tracing a step makes millions of objects, most of which stay; looking through them again and
    again would take a quarter of its time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return function.lower(*arguments)
    finally:
        if collecting:
            gc.enable()


def _table(task: Task, timing: Timing) -> list[str]:
    """Returns a heading, and a line a scale: seconds, programs, and what the cache had of them."""
    lines = [f"{'size':>10} {'batch':>7} {'seconds':>9} {'programs':>9} {'from cache':>11}"]
    for scale in task.table:
        name = scale.name
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
    """Runs work that compiles in a thread of its own; see `in_threads`."""
    return in_threads([work], 1, poll)[0]


def in_threads(
    works: Sequence[Callable[[], T]], at_once: int, poll: Callable[[], None] | None = None
) -> list[T]:
    """Runs works that compile in threads, since no signal is heard while XLA compiles.

    The threads are those that `still_compiling` knows.

    Args:
        works: What compiles. The first error comes through; what was not begun by then is left.
        at_once: Most threads.
        poll: Called now and then meanwhile; what it raises ends the wait, though not the works.

    Returns:
        What the works returned, in their order.
    """
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    waiting = collections.deque(enumerate(works))
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                number, work = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = work()
            except BaseException as error:
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=run, name=_THREAD, daemon=True) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        while not errors and (running := [one for one in threads if one.is_alive()]):
            running[0].join(_SECONDS_BETWEEN_LOOKS)
            if poll is not None:
                poll()
    finally:
        stop.set()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(works))]
