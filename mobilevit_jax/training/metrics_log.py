"""The record of a run: one row a measurement in `metrics.jsonl`, and the same in TensorBoard.

A row is a JSON object with `step`, `epoch` and `split` (`train`, `validation`, `test`), then
numbers. A (step, split) pair appears once. Names of what depends on the clock or the machine end in
`_seconds`, `_per_second` or `_bytes`, so that everything else is the same in a run that was
interrupted and one that was not. A number that is not finite is written as null: JSON has no NaN.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.base.run_files import METRICS, TENSORBOARD
from mobilevit_jax.errors import DataError, naming
from mobilevit_jax.training.tensorboard import Board

SPLITS = ("train", "validation", "test")

Row = dict[str, Any]


class MetricsLog:
    """Appends rows to a work directory; each is on disk when `write` returns.

    Use it as a context manager. On every process but the first of a run it is inactive: it checks
    the rows as always and touches no file.

    Write the rows of a step before its checkpoint: then a run that goes on from the checkpoint
    finds them.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        resume_step: int | None = None,
        pending: bool = False,
        active: bool = True,
    ) -> None:
        """Opens the record, starting anew or going on after a step.

        Args:
            workdir: The directory of the run; made if need be.
            resume_step: The step of the checkpoint that the run goes on from: rows of later steps
                are dropped, and so is a last line that was cut short. None starts anew and drops
                all rows.
            pending: Whether the evaluation at that step is still to come: a row of it is dropped.
            active: Whether this process writes; only one may.

        Raises:
            DataError: If the rows that are there cannot be read.
            OSError: If the directory cannot be written.
        """
        self._path = Path(workdir) / METRICS
        self._active = active
        kept: list[Row] = []
        if resume_step is not None and self._path.exists():
            kept = [row for row in _read(self._path) if row["step"] <= resume_step]
        if pending:
            kept = [r for r in kept if r["step"] != resume_step or r["split"] == "train"]
        self._seen = {(row["step"], row["split"]) for row in kept}
        if not active:
            return
        with replacing(self._path) as unfinished:
            unfinished.write_text("".join(map(_line, kept)), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        events = Path(workdir) / TENSORBOARD
        if resume_step is None:
            shutil.rmtree(events, ignore_errors=True)
        self._board = Board(events, None if resume_step is None else resume_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files."""
        if self._active:
            self._file.close()
            self._board.close()

    def write(self, *, step: int, epoch: int, split: str, numbers: Mapping[str, float]) -> Row:
        """Appends a row.

        Args:
            step: Steps done.
            epoch: The epoch of that step, counted from 1.
            split: "train", "validation" or "test".
            numbers: Name to number; NumPy and JAX scalars will do.

        Returns:
            The row, as it was written.

        Raises:
            ValueError: If the split is unknown, or the (step, split) pair is there already.
            OSError: If the disk is full.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
        if (step, split) in self._seen:
            raise ValueError(f"there is a row of step {step} and split {split!r} already")
        self._seen.add((step, split))
        values = {name: _plain(value) for name, value in numbers.items()}
        row: Row = {"step": int(step), "epoch": int(epoch), "split": split, **values}
        if self._active:
            with naming(self._path):
                self._file.write(_line(row))
                self._file.flush()
                os.fsync(self._file.fileno())
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)
            self._board.flush()
        return row


def read_metrics(workdir: str | Path) -> list[Row]:
    """Reads the rows of a run, in the order of writing.

    A last line that was cut short, because the run was killed while writing it, is left out.

    Raises:
        DataError: If there is no record, or if another line is damaged.
    """
    path = Path(workdir) / METRICS
    try:
        return _read(path)
    except FileNotFoundError:
        raise DataError(f"no {METRICS} in {workdir}; is it the directory of a run?") from None


def _read(path: Path) -> list[Row]:
    # Only a line that ends is complete: "12" may be the beginning of "123}".
    *lines, _cut = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not {"step", "epoch", "split"} <= row.keys():
                raise ValueError
        except (ValueError, AttributeError):
            raise DataError(f"line {number} of {path} is not a row of metrics") from None
        rows.append(row)
    return rows


def _plain(value: float) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
