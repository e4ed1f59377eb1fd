"""Checkpoints as files: written in the background and whole or not at all, checked when read.

Orbax lives in this file alone. A checkpoint is a directory `<step>/` with two items: `state`, the
arrays as plain nested dicts, and `metadata`, a JSON file; Orbax reads both without this package.
Until it is complete, the directory has another name, so that what a killed process or a full disk
leaves is never taken for a checkpoint.

Writing is a joint act of all processes of a run. Reading is not: each one reads for itself, and
who reads decides together with the others what follows if one of them could not.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # Orbax's own paths
from flax import traverse_util

from mobilevit_jax.base.atomic import replacing, to_disk
from mobilevit_jax.errors import DataError
from mobilevit_jax.training.pytree import LeafPath, describe, leaves

_UNFINISHED = "*.orbax-checkpoint-tmp*"
_STATE, _RECORD = "state", "metadata"


class DamagedCheckpoint(DataError):
    """A checkpoint that cannot be read, while others in the directory may be good.

    Attributes:
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {path.name} in {path.parent} cannot be read ({reason}); remove {path} to "
            "use an earlier one"
        )
        self.reason = reason


class Reader:
    """Reads the checkpoints in a directory; nothing is made, changed or removed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        # Orbax logs what it also raises; errors are reported once, in one line, by the caller.
        self._quieting = lambda record: "orbax" not in record.pathname
        logging.getLogger("absl").addFilter(self._quieting)
        self._arrays = ocp.PyTreeCheckpointHandler()

    def close(self) -> None:
        """Frees the threads."""
        self._arrays.close()
        logging.getLogger("absl").removeFilter(self._quieting)

    def steps(self) -> list[int]:
        """Lists the steps of the complete checkpoints on disk, damaged ones too, lowest first."""
        if not self.directory.exists():
            return []
        paths = self.directory.iterdir()
        return sorted(int(path.name) for path in paths if path.name.isdecimal() and path.is_dir())

    def structure(self, step: int) -> dict[LeafPath, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes that a checkpoint holds.

        Raises:
            DamagedCheckpoint: If it cannot be read.
        """
        with self._reading(step):
            tree = self._arrays.metadata(epath.Path(self._path(step, _STATE))).tree
            return {path: describe(x) for path, x in leaves(tree).items()}

    def arrays(
        self, step: int, wanted: Mapping[LeafPath, jax.ShapeDtypeStruct]
    ) -> dict[LeafPath, np.ndarray]:
        """Reads some arrays of a checkpoint, or all, and compares them with their checksums.

        Raises:
            DamagedCheckpoint: If one cannot be read or is not what was written.
        """
        item = traverse_util.unflatten_dict(dict(wanted))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        checksums = self.record(step).get("checksums", {})  # absent in old checkpoints
        with self._reading(step):
            found = leaves(self._arrays.restore(epath.Path(self._path(step, _STATE)), args=args))
            for name, checksum in _checksums(found).items():
                if checksums.get(name, checksum) != checksum:
                    raise ValueError(f"{name} is not what was written")
        return found

    def record(self, step: int) -> dict[str, Any]:
        """Returns what was saved as the record of a checkpoint.

        Raises:
            DamagedCheckpoint: If it cannot be read.
        """
        with self._reading(step):
            record = json.loads(self._path(step, _RECORD, "metadata").read_text(encoding="utf-8"))
            if not {"metric", "mode", "metrics", "metadata"} <= set(record):
                raise ValueError("it was not written by this package")
        return record

    def _path(self, step: int, *parts: str) -> Path:
        return self.directory.joinpath(str(step), *parts)

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            with _quiet_stragglers():
                yield
        except MemoryError:
            raise
        except Exception as error:
            raise DamagedCheckpoint(self._path(step), _first_line(error)) from error


class Writer(Reader):
    """Reads and writes the checkpoints in a directory; it must be closed, or a save is lost."""

    def __init__(self, directory: Path, kept: Callable[[], Collection[int]]) -> None:
        """Opens a directory, making it if need be; removes what was left half-written there.

        Args:
            directory: Where the checkpoints are.
            kept: Asked during each save for the steps, its own among them, that stay; the others
                are removed once the new one is complete.

        Raises:
            OSError: If the directory cannot be made or written.
        """
        first = jax.process_index() == 0
        directory.mkdir(parents=True, exist_ok=True)
        for unfinished in directory.glob(_UNFINISHED) if first else ():
            shutil.rmtree(unfinished)
        super().__init__(directory)
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_quiet_stragglers())  # a save may fail at any time
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        registry.add(_STATE, ocp.args.PyTreeSave, ocp.PyTreeCheckpointHandler())
        registry.add(_RECORD, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                preservation_policy=_Keep(kept),
                # Damage in one checkpoint must not hide the others.
                lightweight_initialize=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._bring_to_disk),
            ),
            handler_registry=registry,
        )

    def close(self) -> None:
        """Finishes what is being saved and frees the threads.

        Raises:
            DataError: If a save in the background failed.
        """
        with self._quiet:
            try:
                self.wait()
            except DataError:
                # Orbax stays quiet: other threads of the save may still have to report the same.
                with contextlib.suppress(Exception):
                    self._manager.close()
                self._arrays.close()
                raise
            self._manager.close()
            super().close()

    def save(
        self, step: int, arrays: Mapping[LeafPath, np.ndarray], record: Mapping[str, Any]
    ) -> None:
        """Starts saving a checkpoint; a damaged one of the same step is removed first.

        Raises:
            DataError: If it cannot be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(dict(arrays))),
            metadata=ocp.args.JsonSave({**record, "checksums": _checksums(arrays)}),
        )
        with self._writing():
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(step, args=items, force=True)

    def amend(
        self, step: int, arrays: Mapping[LeafPath, np.ndarray], record: Mapping[str, Any]
    ) -> None:
        """Writes the record of a checkpoint of these arrays anew. For one process alone.

        Raises:
            DataError: If it is of other arrays, or cannot be read or written.
        """
        checksums = _checksums(arrays)
        if self.record(step).get("checksums") != checksums:
            raise DataError(f"checkpoint {step} in {self.directory} is of another state")
        with self._writing(), replacing(self._path(step, _RECORD, "metadata")) as unfinished:
            text = json.dumps({**record, "checksums": checksums})
            unfinished.write_text(text, encoding="utf-8")

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            DataError: If a save in the background failed.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def reached_preemption(self, step: int) -> bool:
        """Whether JAX has agreed on this step as the last one before the machine goes."""
        return self._manager.reached_preemption(step)

    def _bring_to_disk(self) -> None:
        """Before a checkpoint gets its name, after which older ones are removed.

        Orbax leaves it to the system when its small files reach the disk. Were the power cut
        before that, the new checkpoint would be damaged and the older ones gone.
        """
        for unfinished in self.directory.glob(_UNFINISHED):
            for path in (*unfinished.rglob("*"), unfinished):
                try:
                    to_disk(path)
                except OSError:
                    if not path.is_dir():  # some file systems refuse it for directories
                        raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            good = f"step {steps[-1]}" if (steps := self.steps()) else "the start"
            raise DataError(
                f"could not write a checkpoint to {self.directory} ({_first_line(error)}); make "
                f"space or see why, and run the same command again to go on from {good}"
            ) from error


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps what it is told; Orbax's own BestN keeps unranked checkpoints too."""

    def __init__(self, kept: Callable[[], Collection[int]]) -> None:
        self._kept = kept

    def should_preserve(
        self,
        checkpoints: Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        kept = self._kept()
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _checksums(arrays: Mapping[LeafPath, np.ndarray]) -> dict[str, int]:
    """CRC-32 of the values; what Orbax stores them in misses about half of all changes."""
    return {
        "/".join(path): zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for path, array in arrays.items()
    }


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
    # TensorStore puts what the system said last, after long paths.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 120 else line[:117] + "..."
