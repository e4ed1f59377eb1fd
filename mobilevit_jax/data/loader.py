"""Reads planned batches ahead of the training loop, with Grain's threads.

The plan says what is in every batch, so threads decide only when a batch is made, never what is in
it. A thread makes a whole batch: it reads the records in one call, decodes and augments them one
by one (OpenCV leaves the GIL meanwhile) and writes them into the batch's arrays.

Threads and read-ahead are set from the machine and a memory budget, since Grain's own defaults
(16 threads, 500 elements read ahead) would be tens of gigabytes of whole batches.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.data.batches import (
    Batch,
    BatchMaker,
    LoadExample,
    Plan,
    Records,
    Stopped,
    weighted_step,
)
from mobilevit_jax.data.sampler import RunPlan, Scale
from mobilevit_jax.errors import ConfigurationError, check_fields

# Added to the pixels of an image for its encoded record, which is there while it is decoded.
_RECORD_BYTES = 128 * 1024


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are read ahead.

    Attributes:
        threads: Threads that make batches; None takes one for each CPU core that the process may
            use.
        memory_gib: Budget for batches in the making or waiting, in GiB on this host. It may lower
            the number of threads, but one batch at a time is always made.
        skip_bad_images: Whether an image that cannot be read or decoded is replaced with another
            of its batch, at weight 0, and counted, instead of ending the run.
    """

    threads: int | None = None
    memory_gib: float = 4.0
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            threads=(self.threads is None or self.threads >= 1, "at least 1"),
            memory_gib=(self.memory_gib > 0, "more than 0"),
        )


@dataclass
class SkippedImages:
    """Bad images in the batches handed out so far; may be read at any time from any thread.

    Attributes:
        count: How often a bad image was met; one that comes again in each epoch counts each time.
        reasons: The message about each bad record, by its id.
    """

    count: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, bad: Sequence[tuple[int, str]]) -> None:
        """Adds bad images of a batch, each as its record id and the message about it."""
        with self._lock:
            self.count += len(bad)
            self.reasons.update(bad)


def load_batches(
    split: Records,
    plan: Plan,
    load_example: LoadExample,
    config: LoaderConfig,
    *,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    skipped: SkippedImages | None = None,
    poll: Callable[[], None] | None = None,
) -> "BatchIterator":
    """Makes the batches of a plan in order, reading ahead in threads.

    Args:
        split: The records; read by several threads at once.
        plan: A `RunPlan`, or from `plan_epoch` or `plan_evaluation`.
        load_example: Turns (record, record id, planned batch) into a dictionary of arrays with
            one shape and dtype for all examples of a batch. It runs in threads and must be a
            function of its arguments alone; a `DataError` from it means a bad image. Any other
            exception ends the run, with a note that says which record it was about.
        config: Threads, memory, and what to do about bad images.
        start: Step of the plan to begin with, for resuming.
        host: Number of this host; it gets rows [b / hosts * host : b / hosts * (host + 1)] of
            each batch of b.
        hosts: Number of hosts.
        skipped: Where to count bad images, such as one object for all epochs of a run.
        poll: Called whenever a batch is asked for; what it raises ends the iteration.

    Returns:
        An iterator over dictionaries with this host's rows of each array that `load_example`
        makes, stacked, and "weight", float32 [rows]: 1, or 0 for padding and for an example that
        stands in for a bad image. Close it (or use it in a `with` statement) when leaving early.

    Raises:
        ConfigurationError: The plan does not divide among the hosts, or has no step `start`.
    """
    if not 0 <= start <= len(plan):
        raise ConfigurationError(f"cannot start at step {start} of a plan of {len(plan)} steps")
    if not 0 <= host < hosts:
        raise ConfigurationError(f"host must be from 0 to {hosts - 1}, not {host}")
    scales = _scales(plan)
    for rows in sorted({scale.batch_size for scale in scales}):
        if rows % hosts:
            raise ConfigurationError(f"a batch of {rows} does not divide among {hosts} hosts")
    maker = BatchMaker(split, plan, load_example, config.skip_bad_images, host, hosts)
    pixels = (b // hosts * (height * width * 3 + _RECORD_BYTES) for height, width, b in scales)
    threads, read_ahead = choose_threads(max(pixels, default=1), config)
    skipped = SkippedImages() if skipped is None else skipped
    return BatchIterator(maker, start, threads, read_ahead, skipped, poll)


def _scales(plan: Plan) -> set[Scale]:
    """Returns the sizes of the plan's batches."""
    if isinstance(plan, RunPlan):
        return set(plan.table)
    steps = (weighted_step(plan, step)[0] for step in range(len(plan)))
    return {Scale(planned.height, planned.width, len(planned.ids)) for planned in steps}


def choose_threads(batch_bytes: int, config: LoaderConfig) -> tuple[int, int]:
    """Sets the number of threads, and of batches in the making or waiting, by the machine.

    With n = memory_gib / (bytes of the largest batch), at least 1: threads = min(CPU cores or
    `threads`, n), batches = min(2 threads, n). So each thread has one batch in the making and
    there is one waiting for each, as far as the memory allows.

    Args:
        batch_bytes: Bytes of the largest batch on this host.
        config: Number of threads asked for, if any, and the memory budget.

    Returns:
        (threads, batches).
    """
    affordable = max(1, int(config.memory_gib * 2**30 / batch_bytes))
    threads = min(config.threads or usable_cores(), affordable)
    return threads, min(2 * threads, affordable)


class BatchIterator:
    """Iterates over the batches of a plan; also a context manager that stops its threads.

    Attributes:
        skipped: Bad images in the batches handed out so far.
    """

    def __init__(
        self,
        maker: BatchMaker,
        start: int,
        threads: int,
        read_ahead: int,
        skipped: SkippedImages,
        poll: Callable[[], None] | None = None,
    ) -> None:
        import grain  # a third of a second, which a program that only reads settings is spared

        self.skipped = skipped
        self._poll = poll
        self._stop = maker.stop
        batches = grain.MapDataset.range(start, len(maker.plan)).map(maker)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=read_ahead)
        self._batches = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Batch:
        """Returns the next batch; raises what went wrong while making it, as it was raised."""
        if self._stop.is_set():
            raise StopIteration
        if self._poll is not None:
            self._poll()
        try:
            made = next(self._batches)
        except StopIteration:
            self.close()
            raise
        except Exception:
            if self._stop.is_set():  # closed by another thread while this one waited
                raise StopIteration from None
            raise
        if isinstance(made, Stopped):
            raise StopIteration
        if isinstance(made, Exception):
            self.close()
            if isinstance(made, StopIteration):  # else the run would take it for the end
                raise RuntimeError("making a batch raised StopIteration") from made
            raise made
        self.skipped.add(made.bad)
        return made.arrays

    def close(self) -> None:
        """Stops the threads at their next image, also from another thread than the taker's.

        No batch can be taken afterwards.
        """
        self._stop.set()
        self._batches.close()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_batches"):
            self.close()
