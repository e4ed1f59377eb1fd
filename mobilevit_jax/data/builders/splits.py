"""Splits of a source: which folder is which, and validation images drawn by their names."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mobilevit_jax.data.files import is_hidden
from mobilevit_jax.errors import DataError, shortened

USUAL_FOLDERS = ("train", "test", "validation", "val", "valid", "dev")
_KNOWN = re.compile(r"(train|test|val|valid|validation|dev)\d*")


class Splits(dict[str, Any]):
    """{split: what it has}.

    Attributes:
        called: {split: its name in the source}.
    """

    def __init__(self) -> None:
        """Begins without any."""
        super().__init__()
        self.called: dict[str, str] = {}


def find_split_folders(parent: Path, *, undivided: bool) -> Splits:
    """Returns the folder of each split; one called val, valid or dev is the validation split.

    Args:
        parent: The directory that holds them.
        undivided: Whether `parent` itself is the training split where no folder in it has a usual
            split's name.

    Raises:
        DataError: If a folder has a name that no split can have, or two are one split.
    """
    folders = [e for e in sorted(parent.iterdir()) if e.is_dir() and not is_hidden(e.name)]
    if undivided and not any(usual_split(folder.name) for folder in folders):
        return by_split([("train", parent)], parent)
    return by_split(((folder.name, folder) for folder in folders), parent)


def usual_split(name: str) -> str | None:
    """Returns the split that a name usually stands for, whatever its capitals; None for others."""
    match = _KNOWN.fullmatch(name.lower())
    return match and (match[1] if match[1] in ("train", "test") else "validation")


def split_name(name: str, where: object) -> str:
    """Returns the split that a folder, file or key stands for.

    "val", "valid", "validation" and "dev" are validation, and a year behind these, "train" or
    "test" goes; capitals do not count.

    Raises:
        DataError: If it cannot be a split; says `where` it stands.
    """
    if usual := usual_split(name):
        return usual
    if not name.isidentifier() or not name.isascii() or name.lower() == "all":
        raise DataError(
            f"{where}: {shortened(name, 40)!r} cannot be a split: its name must be of letters, "
            "digits and _, not 'all'"
        )
    return name


def by_split(named: Iterable[tuple[str, Any]], where: object) -> Splits:
    """Returns {split: what it has} of {name: what it has}.

    Raises:
        DataError: If a name cannot be a split, or two stand for one.
    """
    found = Splits()
    for name, content in named:
        split = split_name(name, where)
        if split in found:
            raise DataError(
                f"{where} has both {found.called[split]} and {name}, which are the split "
                f"{split!r}; keep one"
            )
        found[split], found.called[split] = content, name
    return found


def draw(names: Iterable[str], share: float) -> set[str]:
    """Draws about a share of names, each by a hash of itself alone.

    So the same are drawn on every machine, whichever way it spells accents, and more images leave
    those that are there where they are.

    Args:
        names: Paths within a source, "/" between their parts.
        share: Above 0 and below 1.
    """
    return {name for name in names if _place(name) < share}


def _place(name: str) -> float:
    """Returns a number from 0 to 1 that follows from a name, whatever its bytes are."""
    data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    # Not the hash of the stored order: the drawn ones would be the first of it.
    digest = hashlib.blake2b(data, digest_size=8, person=b"validation").digest()
    return int.from_bytes(digest, "big") / 2**64
