"""Makes the batch of a planned step: reads its records, decodes and augments, stacks.

A function of the step alone, called from several threads at once; `loader` does that ahead of the
training loop.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mobilevit_jax.data.sampler import PlannedBatch, RunPlan
from mobilevit_jax.errors import DataError

Batch = dict[str, np.ndarray]
Plan = Sequence[PlannedBatch] | Sequence[tuple[PlannedBatch, np.ndarray]] | RunPlan

# Records tried when a host's part of a batch has no good image at all.
_STAND_INS = 100


class Records(Protocol):
    """What the loader needs of a split: its records by number, from several threads at once."""

    def records(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records with these ids, in their order."""
        ...


LoadExample = Callable[[dict[str, Any], int, PlannedBatch], Mapping[str, Any]]


def weighted_step(plan: Plan, step: int) -> tuple[PlannedBatch, np.ndarray | None]:
    """Returns a step of the plan with its weights; None where all are 1."""
    planned = plan[step]
    return (planned, None) if isinstance(planned, PlannedBatch) else planned


class Stopped(Exception):
    """The iterator was closed while a batch was being made."""


class Made(NamedTuple):
    """A finished batch, and the (record id, message) of each bad image that it should have had."""

    arrays: Batch
    bad: list[tuple[int, str]]


class BatchMaker:
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

    def __call__(self, step: int) -> Made | Exception:
        """Returns the batch, or what went wrong, to be raised where the batch is taken."""
        try:
            return self._make(step)
        except Exception as error:
            return error

    def _make(self, step: int) -> Made:
        planned, weight = weighted_step(self.plan, step)
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
                raise Stopped  # for a thread that still waits for this batch
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
        return Made(arrays, bad)

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
        planned, _ = weighted_step(self.plan, step)
        steps = (weighted_step(self.plan, other)[0] for other in range(len(self.plan)))
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
