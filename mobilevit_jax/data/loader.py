"""Reads planned batches ahead of the training loop, with Grain's threads.

The plan says what is in every batch, so threads decide only when a batch is made, never what is in
it. A thread makes a whole batch: it reads the records in one call, decodes and augments them one
by one (OpenCV leaves the GIL meanwhile) and writes them into the batch's arrays.

Threads and read-ahead are set from the machine and a memory budget, since Grain's own defaults
(16 threads, 500 elements read ahead) would be tens of gigabytes of whole batches.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from mobilevit_jax.data.sampler import PlannedBatch, RunPlan, Scale
from mobilevit_jax.errors import ConfigurationError, DataError

Batch = dict[str, np.ndarray]
Plan = Sequence[PlannedBatch] | Sequence[tuple[PlannedBatch, np.ndarray]] | RunPlan

# Added to the pixels of an image for its encoded record, which is there while it is decoded.
_RECORD_BYTES = 128 * 1024
# Records tried when a host's part of a batch has no good image at all.
_STAND_INS = 100


class Records(Protocol):
    """What the loader needs of a split: its records by number, from several threads at once."""

    def records(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records with these ids, in their order."""
        ...


LoadExample = Callable[[dict[str, Any], int, PlannedBatch], Mapping[str, Any]]


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
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads must be at least 1, not {self.threads}")
        if not self.memory_gib > 0:
            raise ConfigurationError(f"memory_gib must be more than 0, not {self.memory_gib}")


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
    maker = _BatchMaker(split, plan, load_example, config.skip_bad_images, host, hosts)
    pixels = (b // hosts * (height * width * 3 + _RECORD_BYTES) for height, width, b in scales)
    threads, read_ahead = choose_threads(max(pixels, default=1), config)
    skipped = SkippedImages() if skipped is None else skipped
    return BatchIterator(maker, start, threads, read_ahead, skipped, poll)


def _scales(plan: Plan) -> set[Scale]:
    """Returns the sizes of the plan's batches."""
    if isinstance(plan, RunPlan):
        return set(plan.table)
    steps = (_weighted(plan, step)[0] for step in range(len(plan)))
    return {Scale(planned.height, planned.width, len(planned.ids)) for planned in steps}


def _weighted(plan: Plan, step: int) -> tuple[PlannedBatch, np.ndarray | None]:
    """Returns a step of the plan with its weights; None where all are 1."""
    planned = plan[step]
    return (planned, None) if isinstance(planned, PlannedBatch) else planned


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
    threads = min(config.threads or _cpu_cores(), affordable)
    return threads, min(2 * threads, affordable)


def _cpu_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BatchIterator:
    """Iterates over the batches of a plan; also a context manager that stops its threads.

    Attributes:
        skipped: Bad images in the batches handed out so far.
    """

    def __init__(
        self,
        maker: "_BatchMaker",
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
        if isinstance(made, _Stopped):
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


class _Stopped(Exception):
    """The iterator was closed while a batch was being made."""


class _Made(NamedTuple):
    """A finished batch, and the (record id, message) of each bad image that it should have had."""

    arrays: Batch
    bad: list[tuple[int, str]]


class _BatchMaker:
    """Makes the batch of one step: a function of the step alone, called from several threads."""

    def __init__(
        self,
        split: Records,
        plan: Plan,
        load_example: LoadExample,
        skip_bad_images: bool,
        host: int,
        hosts: int,
    ) -> None:
        self.plan = plan
        self.stop = threading.Event()
        self._split = split
        self._load_example = load_example
        self._skip_bad_images = skip_bad_images
        self._host = host
        self._hosts = hosts

    def __call__(self, step: int) -> _Made | Exception:
        """Returns the batch, or what went wrong, to be raised where the batch is taken."""
        try:
            return self._make(step)
        except Exception as error:
            return error

    def _make(self, step: int) -> _Made:
        planned, weight = _weighted(self.plan, step)
        count = len(planned.ids) // self._hosts
        rows = slice(count * self._host, count * (self._host + 1))
        ids = planned.ids[rows].tolist()
        real = np.ones(count, np.float32) if weight is None else weight[rows].astype(np.float32)
        wanted = np.flatnonzero(real).tolist()
        arrays: Batch = {}
        good: list[int] = []
        bad: list[tuple[int, str]] = []
        records = self._read([ids[row] for row in wanted])
        for row, record in zip(wanted, records, strict=True):
            if self.stop.is_set():
                raise _Stopped  # for a thread that still waits for this batch
            try:
                example = self._load(record, ids[row], planned)
            except DataError as error:
                if not self._skip_bad_images:
                    raise
                bad.append((ids[row], str(error)))
                continue
            _put(arrays, row, example, count)
            good.append(row)
        if not good:
            _put(arrays, 0, self._stand_in(step), count)
        _fill_rest(arrays, good or [0], count)
        arrays["weight"] = np.zeros(count, np.float32)
        arrays["weight"][good] = real[good]
        return _Made(arrays, bad)

    def _read(self, ids: list[int]) -> Sequence[dict[str, Any] | DataError]:
        """Reads records, all in one call unless one of them is bad and may be skipped."""
        if not ids:
            return []
        try:
            return self._split.records(ids)
        except DataError:
            if not self._skip_bad_images:
                raise
        return [self._read_one(record_id) for record_id in ids]

    def _read_one(self, record_id: int) -> dict[str, Any] | DataError:
        try:
            return self._split.records([record_id])[0]
        except DataError as error:
            return error

    def _load(
        self, record: dict[str, Any] | DataError, record_id: int, planned: PlannedBatch
    ) -> Mapping[str, Any]:
        """Makes an example; an unexpected exception gets a note of what was being made."""
        if isinstance(record, DataError):
            raise record
        try:
            return self._load_example(record, record_id, planned)
        except DataError:
            raise
        except Exception as error:
            name = record.get("name", "without a name")
            error.add_note(f"while record {record_id} ({name}) was being made into an example")
            raise

    def _stand_in(self, step: int) -> Mapping[str, Any]:
        """Loads any good example at the size of a step, for a host that has none of its own."""
        planned, _ = _weighted(self.plan, step)
        steps = (_weighted(self.plan, other)[0] for other in range(len(self.plan)))
        ids = itertools.chain(planned.ids, itertools.chain.from_iterable(p.ids for p in steps))
        first_error: DataError | None = None
        for record_id in itertools.islice(_once(map(int, ids)), _STAND_INS):
            try:
                return self._load(self._read([record_id])[0], record_id, planned)
            except DataError as error:
                if not self._skip_bad_images:
                    raise
                first_error = first_error or error
        raise DataError(f"no image could be decoded in {_STAND_INS} tries; first: {first_error}")


def _put(arrays: Batch, row: int, example: Mapping[str, Any], count: int) -> None:
    """Writes an example into a row of the batch's arrays; the first one shapes them."""
    if not arrays:
        for key, value in example.items():
            value = np.asarray(value)
            arrays[key] = np.empty((count, *value.shape), value.dtype)
    if example.keys() != arrays.keys() or "weight" in example:
        raise ValueError(
            f"load_example must return the same keys for every example, and no 'weight'; got "
            f"{sorted(example)} after {sorted(arrays)}"
        )
    for key, value in example.items():
        value = np.asarray(value)
        if value.shape != arrays[key].shape[1:] or value.dtype != arrays[key].dtype:
            raise ValueError(
                f"load_example returned {key!r} as {value.dtype} {value.shape} after "
                f"{arrays[key].dtype} {arrays[key].shape[1:]} in the same batch"
            )
        arrays[key][row] = value


def _once(ids: Iterable[int]) -> Iterator[int]:
    """Yields each id the first time that it comes."""
    seen: set[int] = set()
    for record_id in ids:
        if record_id not in seen:
            seen.add(record_id)
            yield record_id


def _fill_rest(arrays: Batch, good: list[int], count: int) -> None:
    """Repeats good rows in the others, so that these hold valid values that weigh nothing."""
    rest = sorted(set(range(count)) - set(good))
    sources = [good[i % len(good)] for i in range(len(rest))]
    if rest:
        for array in arrays.values():
            array[rest] = array[sources]
