"""What the builders share that read files of a user's own: names of classes, notes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilevit_jax.data.builders.base import Item
from mobilevit_jax.data.builders.class_names import class_name
from mobilevit_jax.data.files import read_text
from mobilevit_jax.errors import ConfigurationError, DataError, shortened

CLASSES = "classes.txt"
_IN_TRAIN = "images that are in train, too"


def check_source(source: Path | None, builder: str, layout: str) -> Path:
    """Returns the source, which must be there.

    Raises:
        ConfigurationError: If none is given.
        DataError: If it is no directory.
    """
    if source is None:
        raise ConfigurationError(f"{builder} needs --source, a directory of {layout}")
    if not source.is_dir():
        raise DataError(f"the source {source} is not a directory; it must hold {layout}")
    return source


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text in UTF-8; raises as `read_text`."""
    return read_text(path).splitlines()


def read_names(path: Path) -> list[str]:
    """Returns the names of the classes, one a line; empty lines at the end do not count.

    Raises:
        DataError: As `read_lines` and `check_names`.
    """
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return check_names(lines, path)


def check_names(names: Sequence[Any], where: object) -> list[str]:
    """Returns names of classes as they are stored.

    Raises:
        DataError: If there are none, one is empty or no single line, or stands there twice.
    """
    stripped = [
        class_name(str(name), f"{where}: class {index}") for index, name in enumerate(names)
    ]
    if not stripped:
        raise DataError(f"{where} names no classes")
    seen: dict[str, int] = {}
    for index, name in enumerate(stripped):
        if name in seen:
            raise DataError(
                f"{where}: the classes {seen[name]} and {index} are both {shortened(name, 40)!r}"
            )
        seen[name] = index
    return stripped


def in_train_too(items: Mapping[str, Sequence[Item]]) -> dict[str, dict[str, int]]:
    """Returns notes of how many images of each split are in train as well, by their keys."""
    training = {item.key for item in items.get("train", ())}
    return {
        split: {_IN_TRAIN: sum(item.key in training for item in its_items)}
        for split, its_items in items.items()
        if split != "train"
    }


def add_notes(notes: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    """Adds notes to those of each split, and drops what counts nothing."""
    for split in {**notes, **more}:
        merged = {**notes.pop(split, {}), **more.get(split, {})}
        counted = {note: number for note, number in merged.items() if number}
        if counted:
            notes[split] = counted
