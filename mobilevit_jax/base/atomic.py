"""Files that are there whole or not at all; every room that writes one uses this."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilevit_jax.errors import naming


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name to write a file under that takes the place of another when it is whole.

    Args:
        path: The file to be; its directory is made if need be.

    Yields:
        A path in the same directory. What is there afterwards is brought to the disk and renamed;
        if the block raises, it is removed.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            yield unfinished
            to_disk(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Makes sure that what a file holds, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
