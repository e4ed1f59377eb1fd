"""Reads texts and JSON as users have them; what cannot be read is named by its path."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilevit_jax.errors import DataError, shortened


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        DataError: If it cannot be read; the message has the path.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Reads a text in UTF-8, with or without a byte-order mark.

    Raises:
        DataError: If it cannot be read, or is no such text; names the path and the line.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
        if "\0" not in text:
            return text
        start = data.index(0)
    except UnicodeDecodeError as error:
        start = error.start
    line = data.count(b"\n", 0, start) + 1
    raise DataError(f"{path} is not text in UTF-8 (see line {line}); save it in that encoding")


def read_json(path: Path, change: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """Reads JSON in UTF-8.

    Args:
        path: The file.
        change: Makes of each object what stands in its place.

    Raises:
        DataError: As `read_text`, or if it is no JSON, or a key stands twice in an object; names
            the object by its id if it has one.
    """

    def join(pairs: list[tuple[str, Any]]) -> Any:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            twice = ascii(Counter(key for key, _ in pairs).most_common(1)[0][0])
            what = f": the entry of id {shortened(entry['id'], 40)}" if "id" in entry else ""
            raise DataError(f"{path}{what} has the key {shortened(twice, 40)} twice; keep one")
        return change(entry)

    try:
        return json.loads(read_text(path), object_pairs_hook=join)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({shortened(error)})") from error


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text in UTF-8; raises as `read_text`."""
    return read_text(path).splitlines()


def to_number(text: str) -> float:
    """Returns a number as programs write them, which may not be finite.

    Raises:
        ValueError: If it is none, also of Python's own 1_000.
    """
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def read_object(path: Path) -> dict[str, Any]:
    """Reads JSON as `read_json`; raises `DataError` if it is no object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object")
    return content
