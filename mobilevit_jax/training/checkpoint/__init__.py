"""Checkpoints of a run: which are kept, which is the best, and which one to go on from.

Every process of a run makes the same calls, and what the first one finds on disk counts. Arrays
are saved as host copies of what each device holds identically.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from flax import traverse_util

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.training.checkpoint.storage import DamagedCheckpoint, Reader, Writer
from mobilevit_jax.training.multihost import consensus
from mobilevit_jax.training.pytree import (
    LeafPath,
    describe,
    fill,
    leaves,
    params_first,
    place,
    show,
    to_host,
)


class Ranked(NamedTuple):
    """A checkpoint and the number that it is ranked by."""

    step: int
    value: float


class Restored(NamedTuple):
    """A checkpoint as it was saved."""

    step: int
    state: Any
    metadata: dict[str, Any]


class _Known(NamedTuple):
    """What retention depends on."""

    metrics: dict[str, float]
    extra: bool


class Checkpoints:
    """The checkpoints in one directory; use it as a context manager, or saves may be lost.

    A checkpoint is scheduled, which is to say that the configuration asked for it, or extra: saved
    because the run was stopped. The newest of all, the newest scheduled one and the `keep_best`
    best by `metric` are kept.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        metric: str,
        mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
    ) -> None:
        """Opens a directory for saving, making it if need be.

        What an earlier process left half-written there is removed.

        Args:
            directory: Where the checkpoints are.
            metric: The name, among the metrics given to `save`, to rank by.
            mode: Whether the highest or the lowest value is the best.
            keep_best: How many of the best to keep besides the newest; 0 or more.

        Raises:
            ConfigurationError: If `mode` or `keep_best` is not one of the allowed values.
            OSError: If the directory cannot be made or written.
        """
        if mode not in ("max", "min"):
            raise ConfigurationError(f"mode is {mode!r}; it must be 'max' or 'min'")
        if keep_best < 0:
            raise ConfigurationError(f"keep_best is {keep_best}; it must be 0 or more")
        self._metric, self._mode, self._keep_best = metric, mode, keep_best
        self._known: dict[int, _Known] = {}
        self._writer = self._files = Writer(Path(directory), lambda: self._known)
        self.directory = self._files.directory
        self._known = self._look()

    @classmethod
    def reader(cls, directory: str | Path) -> Self:
        """Opens a directory for reading alone, ranked as its newest checkpoint says.

        Safe beside a process that is saving there: nothing is made, changed or removed.

        Raises:
            DataError: If there is no checkpoint in the directory.
        """
        self = cls.__new__(cls)
        self._writer, self._files = None, Reader(Path(directory))
        self.directory = self._files.directory
        self._keep_best = 0
        try:
            self._metric, self._mode = self._ranking(directory)
        except DataError:
            self.close()
            raise
        self._known = self._look()
        return self

    def _ranking(self, directory: str | Path) -> tuple[str, Literal["max", "min"]]:
        steps, found = self._files.steps(), None
        for step in steps:
            with contextlib.suppress(DataError):
                record = self._files.record(step)
                found = record["metric"], record["mode"]
        steps, found = consensus.from_first_host((steps, found))
        if not steps:
            raise DataError(f"no checkpoint in {directory}")
        if found is None:
            raise DataError(f"the checkpoints in {directory} are damaged or of another program")
        return tuple(found)

    def _look(self) -> dict[int, _Known]:
        """Reads what there is; of a damaged checkpoint, no more than that it is there."""
        found = []
        for step in self._files.steps():
            try:
                record = self._files.record(step)
                found.append((step, record["metrics"], record.get("extra", False)))
            except DataError:
                found.append((step, {}, False))
        return {step: _Known(*known) for step, *known in consensus.from_first_host(found)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.close()
        except DataError:
            # The error that ended the block says more than a save that failed because of it.
            if error is None:
                raise

    def close(self) -> None:
        """Finishes what is being saved and frees the threads.

        Raises:
            DataError: If a save in the background failed.
        """
        self._files.close()

    def save(
        self,
        step: int,
        state: Any,
        *,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        extra: bool = False,
        replace: bool = False,
    ) -> None:
        """Starts saving a checkpoint; returns as soon as the arrays are copied.

        Args:
            step: The step that the state is from.
            state: A pytree of arrays, such as a flax dataclass. None and empty parts are left out.
            metadata: What JSON can hold, given back by `metadata`.
            metrics: What the state scored, if it was measured.
            extra: Whether it is saved because the run was stopped, and not by the configuration.
            replace: Whether this state may be saved already, to say anew what it is. Its arrays
                are not written again, so that it is complete at any moment.

        Raises:
            DataError: If this save, or an earlier one in the background, failed, or if there is a
                checkpoint of this step that is not to be replaced, or is of another state. Those
                that were complete before are still there.
        """
        writer = self._writing()
        record = self._record(metadata, metrics, extra)
        arrays = to_host(leaves(state))
        self.wait()
        there = step in self._known
        if there and not replace:
            raise DataError(f"{self.directory} already has a checkpoint of step {step}")
        self._known[step] = _Known(record["metrics"], extra)
        if there:  # what is kept follows at the next save
            consensus.first_process_does(
                lambda: writer.amend(step, arrays, record),
                DataError(f"the first process could not write to {self.directory}"),
            )
            return
        kept = self._kept()
        self._known = {step: known for step, known in self._known.items() if step in kept}
        writer.save(step, arrays, record)

    def _writing(self) -> Writer:
        if self._writer is None:
            raise ValueError(f"{self.directory} was opened with Checkpoints.reader")
        return self._writer

    def _record(
        self, metadata: Mapping[str, Any], metrics: Mapping[str, float] | None, extra: bool
    ) -> dict[str, Any]:
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        return {
            "metric": self._metric,
            "mode": self._mode,
            # JSON has no NaN; a value that is not finite is no value to rank by either.
            "metrics": {name: x for name, x in numbers.items() if math.isfinite(x)},
            "metadata": dict(metadata),
            "extra": extra,
        }

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            DataError: If a save in the background failed.
        """
        if self._writer is not None:
            self._writer.wait()

    def steps(self, *, scheduled: bool = False) -> list[int]:
        """Returns the steps of the checkpoints, lowest first, but for those found damaged."""
        return sorted(s for s, known in self._known.items() if not (scheduled and known.extra))

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> list[Ranked]:
        """Returns the checkpoints that have the metric, best first; of equals, the newest first."""
        ranked = [
            Ranked(step, known.metrics[self._metric])
            for step, known in self._known.items()
            if self._metric in known.metrics
        ]
        sign = -1 if self._mode == "max" else 1
        return sorted(ranked, key=lambda item: (sign * item.value, -item.step))

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns what `save` was given as metadata."""
        self._check_known(step)
        return self._files.record(step)["metadata"]

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the finite numbers that `save` was given as metrics."""
        self._check_known(step)
        return self._files.record(step)["metrics"]

    def structure(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint holds: nested dicts of `jax.ShapeDtypeStruct`."""
        self._check_known(step)
        return traverse_util.unflatten_dict(self._files.structure(step))

    def restore(self, step: int, abstract: Any, *, partial: bool = False) -> Any:
        """Reads a checkpoint into the form of another pytree.

        Args:
            step: The step of the checkpoint.
            abstract: A pytree of arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes that
                are expected. Leaves with a sharding become `jax.Array`s placed so; the others
                become NumPy arrays.
            partial: Whether the checkpoint may hold more than `abstract`.

        Returns:
            `abstract` with the saved values.

        Raises:
            DataError: If there is no such checkpoint, if it is damaged, or if it holds other
                arrays than `abstract`.
        """
        self._check_known(step)
        wanted = leaves(abstract)
        self._compare(step, wanted, self._files.structure(step), partial)
        like = {path: describe(leaf) for path, leaf in wanted.items()}
        values = self._files.arrays(step, like)
        return fill(abstract, {path: place(values[path], leaf) for path, leaf in wanted.items()})

    def restore_newest(
        self, abstract: Any, *, scheduled: bool = False, warn: Callable[[str], None]
    ) -> Restored | None:
        """Reads the newest checkpoint that can be read; a damaged one is passed over.

        It is passed over by all processes if one of them cannot read it, and forgotten: its step
        may be saved again, and its files are removed with the next save.

        Args:
            abstract: As for `restore`.
            scheduled: Whether to look at scheduled checkpoints alone.
            warn: Told in one line of each checkpoint that was passed over.

        Returns:
            The checkpoint, or None if there is none.

        Raises:
            DataError: If there are some and none can be read, or if the newest one that can holds
                other arrays than `abstract`.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps(scheduled=scheduled)):
            restored, reason = self._try(step, abstract)
            if restored is None:
                damaged[step] = reason
                continue
            for other, why in damaged.items():
                warn(
                    f"checkpoint {other} in {self.directory} is damaged ({why}); going on from "
                    f"that of step {step}"
                )
                del self._known[other]
            return restored
        if damaged:
            newest, why = next(iter(damaged.items()))
            raise DataError(
                f"no checkpoint in {self.directory} can be read ({newest}: {why}); put back a "
                "copy, or remove the directory to start anew"
            )
        return None

    def _try(self, step: int, abstract: Any) -> tuple[Restored | None, str]:
        """Restores a checkpoint, or tells what is wrong with it in this or another process."""
        error: DataError | None = None
        restored = None
        try:
            restored = Restored(step, self.restore(step, abstract), self.metadata(step))
        except DataError as caught:
            error = caught
        damaged = isinstance(error, DamagedCheckpoint)
        worst = consensus.highest(0 if error is None else 1 if damaged else 2)
        if worst == 2:  # it is whole, and of another model
            raise error or DataError(f"another process could not use checkpoint {step}")
        if worst == 1:
            return None, error.reason if damaged else "another process could not read it"
        return restored, ""

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes stop after this step because one of their machines will go.

        The notice is JAX's: SIGTERM, where `jax.distributed` runs and nothing else handles that
        signal. Every process asks at every step, from the same one on.
        """
        return self._writing().reached_preemption(step)

    def _kept(self) -> set[int]:
        best = [ranked.step for ranked in self.best()[: self._keep_best]]
        return {*self.steps()[-1:], *self.steps(scheduled=True)[-1:], *best}

    def _check_known(self, step: int) -> None:
        self.wait()
        if step not in self._known:
            known = ", ".join(map(str, self.steps())) or "none"
            raise DataError(f"no checkpoint of step {step} in {self.directory}; there are: {known}")

    def _compare(
        self,
        step: int,
        wanted: Mapping[LeafPath, Any],
        stored: Mapping[LeafPath, Any],
        partial: bool,
    ) -> None:
        paths = wanted.keys() if partial else wanted.keys() | stored.keys()
        there, here = ({p: show(x) for p, x in tree.items()} for tree in (stored, wanted))
        wrong = params_first(path for path in paths if there.get(path) != here.get(path))
        if wrong:
            path, others = wrong[0], len(wrong) - 1
            raise DataError(
                f"checkpoint {step} in {self.directory} does not fit: {'/'.join(path)} is "
                f"{there.get(path, 'absent')} in it and {here.get(path, 'absent')} here"
                + (f" (and {others} more)" if others else "")
                + "; was it saved with another model or optimizer?"
            )
