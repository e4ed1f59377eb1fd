"""Checkpoints of a run: saved in the background, the best and the latest kept, read by anyone.

Orbax lives in this file alone. A checkpoint is a directory `<step>/` with two items: `state`, the
arrays as plain nested dicts, and `metadata`, a JSON file; Orbax reads both without this package.

Every process of a run makes the same calls. Arrays go to disk as host copies of what each device
holds identically, because Orbax refuses arrays that span only the devices of one host.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.training.leaves import LeafPath, describe, fill, leaves, place, show, to_host


class Ranked(NamedTuple):
    """A checkpoint and the number that it is ranked by."""

    step: int
    value: float


class Checkpoints:
    """The checkpoints in one directory; use it as a context manager, or saves may be lost.

    The latest checkpoint is always kept, and the `keep_best` best ones by `metric`. Checkpoints
    saved without that metric are kept only while they are the latest.
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
            keep_best: How many of the best to keep besides the latest; 0 or more.

        Raises:
            ConfigurationError: If `mode` or `keep_best` is not one of the allowed values.
            OSError: If the directory cannot be made or written.
        """
        if mode not in ("max", "min"):
            raise ConfigurationError(f"mode is {mode!r}; it must be 'max' or 'min'")
        if keep_best < 0:
            raise ConfigurationError(f"keep_best is {keep_best}; it must be 0 or more")
        Path(directory).mkdir(parents=True, exist_ok=True)
        self._open(Path(directory), writable=True)
        self._metric, self._mode, self._keep_best = metric, mode, keep_best
        self._read_values()

    @classmethod
    def reader(cls, directory: str | Path) -> Self:
        """Opens a directory for reading alone, ranked as its newest checkpoint says.

        Safe beside a process that is saving there: nothing is made, changed or removed.

        Raises:
            DataError: If there is no checkpoint in the directory.
        """
        self = cls.__new__(cls)
        self._open(Path(directory), writable=False)
        steps = self.steps()
        if not steps:
            self.close()
            raise DataError(f"no checkpoint in {directory}")
        for step in reversed(steps):
            with contextlib.suppress(DataError):
                record = self._record(step)
                self._metric, self._mode, self._keep_best = record["metric"], record["mode"], 0
                self._read_values()
                return self
        self.close()
        raise DataError(f"the checkpoints in {directory} are damaged or of another program")

    def _open(self, directory: Path, *, writable: bool) -> None:
        self.directory = directory.absolute()
        self._writable = writable
        # Orbax logs what it also raises; errors are reported once, in one line, by the caller.
        logging.getLogger("absl").addFilter(_not_from_orbax)
        self._quiet = contextlib.ExitStack()
        if writable:  # a save may fail at any time in the background
            self._quiet.enter_context(_quiet_stragglers())
        self._values: dict[int, float] = {}
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        state, record = ocp.PyTreeCheckpointHandler(), ocp.JsonCheckpointHandler()
        registry.add("state", ocp.args.PyTreeSave, state)
        registry.add("state", ocp.args.PyTreeRestore, state)
        registry.add("metadata", ocp.args.JsonSave, record)
        registry.add("metadata", ocp.args.JsonRestore, record)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                cleanup_tmp_directories=writable,
                preservation_policy=_LatestAndBest(self._kept),
                # Values to rank by are in our own item, so that one damaged file does not
                # hide the other checkpoints.
                lightweight_initialize=True,
            ),
            handler_registry=registry,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        with self._quiet:
            try:
                self.wait()
            finally:
                self._manager.close()
                logging.getLogger("absl").removeFilter(_not_from_orbax)

    def save(
        self,
        step: int,
        state: Any,
        *,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving a checkpoint; returns as soon as the arrays are copied.

        Args:
            step: The step that the state is from.
            state: A pytree of arrays, such as a flax dataclass. None and empty parts are left out.
            metadata: What JSON can hold, given back by `metadata`.
            metrics: What the state scored, if it was measured.

        Raises:
            DataError: If this save, or an earlier one in the background, failed, or if there is a
                checkpoint of this step.
        """
        if not self._writable:
            raise ValueError(f"{self.directory} was opened with Checkpoints.reader")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        record = {
            "metric": self._metric,
            "mode": self._mode,
            # JSON has no NaN; a value that is not finite is no value to rank by either.
            "metrics": {name: x for name, x in numbers.items() if math.isfinite(x)},
            "metadata": dict(metadata),
        }
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(to_host(leaves(state)))),
            metadata=ocp.args.JsonSave(record),
        )
        self.wait()
        if step in self.steps():
            raise DataError(f"{self.directory} already has a checkpoint of step {step}")
        self._remember(step, record)
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            DataError: If a save in the background failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, lowest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> list[Ranked]:
        """Returns the checkpoints that have the metric, best first; of equals, the newest first."""
        ranked = [Ranked(step, self._values[step]) for step in self.steps() if step in self._values]
        sign = -1 if self._mode == "max" else 1
        return sorted(ranked, key=lambda item: (sign * item.value, -item.step))

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns what `save` was given as metadata."""
        return self._record(step)["metadata"]

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the finite numbers that `save` was given as metrics."""
        return self._record(step)["metrics"]

    def structure(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint holds: nested dicts of `jax.ShapeDtypeStruct`."""
        return traverse_util.unflatten_dict(self._stored(step))

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
        wanted = leaves(abstract)
        self._compare(step, wanted, self._stored(step), partial)
        item = traverse_util.unflatten_dict({path: describe(x) for path, x in wanted.items()})
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        read = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=partial)
        with self._reading(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(state=read))
        values = leaves(restored["state"])
        placed = {path: place(values[path], like) for path, like in wanted.items()}
        return fill(abstract, placed)

    def _kept(self) -> set[int]:
        best = [ranked.step for ranked in self.best()[: self._keep_best]]
        return {*self.steps()[-1:], *best}

    def _compare(
        self,
        step: int,
        wanted: Mapping[LeafPath, Any],
        stored: Mapping[LeafPath, jax.ShapeDtypeStruct],
        partial: bool,
    ) -> None:
        paths = wanted.keys() if partial else wanted.keys() | stored.keys()
        there, here = ({p: show(x) for p, x in tree.items()} for tree in (stored, wanted))
        # Parameters first: what the optimizer holds differs because they do.
        wrong = sorted(
            (path for path in paths if there.get(path) != here.get(path)),
            key=lambda path: (path[0] != "params", path),
        )
        if wrong:
            path, others = wrong[0], len(wrong) - 1
            raise DataError(
                f"checkpoint {step} in {self.directory} does not fit: {'/'.join(path)} is "
                f"{there.get(path, 'absent')} in it and {here.get(path, 'absent')} here"
                + (f" (and {others} more)" if others else "")
                + "; was it saved with another model or optimizer?"
            )

    def _stored(self, step: int) -> dict[LeafPath, jax.ShapeDtypeStruct]:
        with self._reading(step):
            tree = self._manager.item_metadata(step)["state"].tree
            return {path: describe(x) for path, x in leaves(tree).items()}

    def _record(self, step: int) -> dict[str, Any]:
        items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        with self._reading(step):
            record = self._manager.restore(step, args=items)["metadata"]
            if not {"metric", "mode", "metrics", "metadata"} <= set(record):
                raise ValueError("it was not written by this package")
        return record

    def _read_values(self) -> None:
        for step in self.steps():
            try:
                self._remember(step, self._record(step))
            except DataError:
                continue  # Whoever reads this checkpoint is told; the others are still good.

    def _remember(self, step: int, record: Mapping[str, Any]) -> None:
        if self._metric in record["metrics"]:
            self._values[step] = record["metrics"][self._metric]

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        self.wait()
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise DataError(f"no checkpoint of step {step} in {self.directory}; there are: {known}")
        try:
            with _quiet_stragglers():
                yield
        except Exception as error:
            raise DataError(
                f"checkpoint {step} in {self.directory} cannot be read ({_first_line(error)}); "
                f"remove {self.directory / str(step)} to use an earlier one"
            ) from error

    def _not_written(self, error: Exception) -> DataError:
        return DataError(
            f"could not write a checkpoint to {self.directory} ({_first_line(error)}); "
            "is there space left, and may it be written?"
        )


class _LatestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the latest and the best of `Checkpoints`; Orbax's own BestN keeps unranked ones too."""

    def __init__(self, kept: Callable[[], set[int]]) -> None:
        self._kept = kept

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        kept = self._kept()
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


@contextlib.contextmanager
def _quiet_stragglers() -> Iterator[None]:
    """Keeps reads or writes that outlive a failed one from printing tracebacks.

    Orbax handles all arrays at once and closes its event loop at the first failure; the others
    then report to a closed loop from threads of their own, shortly after.
    """
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = quiet
    try:
        yield
    except Exception:
        time.sleep(0.2)
        raise
    finally:
        sys.unraisablehook = hook


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 120 else line[:117] + "..."
