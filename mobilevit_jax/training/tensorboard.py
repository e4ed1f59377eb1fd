"""Scalars for TensorBoard, written at once.

tensorboardX's own writer hands events to a thread through a queue of ten. The thread dies of the
first error, such as a full disk or a clock that was put back by a month, and the run would wait
for ever for a place in the queue. A row of metrics has a dozen numbers: no thread is needed.
"""

import re
import socket
import time
from pathlib import Path
from typing import Any

from mobilevit_jax.errors import naming

_STAMP = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class Board:
    """An event file in a directory, beside those of earlier parts of the run."""

    def __init__(self, directory: Path, purge_step: int | None = None) -> None:
        """Begins a new file; the directory is made if need be.

        Args:
            directory: Of the event files.
            purge_step: From this step on TensorBoard hides what earlier files hold.

        Raises:
            OSError: If the file cannot be written, here and in all methods.
        """
        from tensorboardX.proto import event_pb2  # heavy
        from tensorboardX.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"events.out.tfevents.{_stamp(directory)}.{socket.gethostname()}"
        # Generated code, which says its names at run time alone.
        self._event: Any = getattr(event_pb2, "Event")  # noqa: B009
        self._log: Any = getattr(event_pb2, "SessionLog")  # noqa: B009
        self._writer = RecordWriter(str(self.path))
        self._write(file_version="brain.Event:2", step=purge_step)
        if purge_step is not None:
            self._write(session_log=self._log(status=self._log.START), step=purge_step)
        self.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number; it is on disk after `flush`."""
        from tensorboardX.summary import scalar

        self._write(summary=scalar(name, value), step=step)

    def flush(self) -> None:
        """Brings what was added to the disk."""
        with naming(self.path):
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with naming(self.path):
            self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with naming(self.path):
            self._writer.write(event.SerializeToString())


def _stamp(directory: Path) -> int:
    """Returns the seconds that name a new file, after all that are there.

    TensorBoard reads files in the order of their names, and the clock may have gone back.
    """
    found = (_STAMP.match(path.name) for path in directory.iterdir())
    newest = max((int(match[1]) for match in found if match), default=0)
    return max(int(time.time()), newest + 1)
