"""Names of classes as they are stored: one a line, without space around, in one form of Unicode."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilevit_jax.base.texts import read_lines
from mobilevit_jax.errors import DataError, shortened

CLASSES = "classes.txt"
# Control characters, halves of characters, and ends of lines.
_UNFIT = {"Cc", "Cs", "Zl", "Zp"}


def class_name(name: str, where: str) -> str:
    """Returns the name of a class as it is stored; two that look alike come out the same.

    Args:
        name: As a user wrote it.
        where: What has the name, for the message.

    Raises:
        DataError: If nothing is left of it, or it has characters that no line of text has.
    """
    plain = unicodedata.normalize("NFC", name).strip()
    if not plain or not fits_a_line(plain):
        raise DataError(f"{where} has the name {name!a:.60}; a class needs a name of one line")
    return plain


def fits_a_line(text: str) -> bool:
    """Whether a text has neither line breaks nor other characters that cannot be printed."""
    return not any(unicodedata.category(letter) in _UNFIT for letter in text)


def read_names(path: Path) -> list[str]:
    """Returns the names of the classes, one a line; empty lines at the end do not count.

    Raises:
        DataError: As `read_text` and `check_names`.
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


def look_alikes(names: Sequence[str]) -> Counter[str]:
    """Returns a note of how many classes people may take for another, and which."""
    groups = Counter(map(_appearance, names))
    alike = [name for name in names if groups[_appearance(name)] > 1]
    which = ", ".join(map(ascii, alike))
    return Counter({f"classes have names that look alike: {which}": len(alike)})


def class_names(features: Any) -> tuple[str, ...]:
    """Returns the names of a data set's classes: of its labels, its objects, or its masks."""
    objects = getattr(features["objects"], "feature", {}) if "objects" in features else {}
    for place, key in ((features, "label"), (objects, "label"), (features, "mask")):
        if key in place:
            return names_of(place, key)
    return ()


def names_of(features: Any, key: str) -> tuple[str, ...]:
    """Returns the names of the values of a label, or of a mask (`LabeledImage`), if any."""
    return tuple(getattr(features[key], "names", None) or ()) if key in features else ()


def _appearance(name: str) -> str:
    """Returns a name without capitals and invisible letters."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in letters if unicodedata.category(c) != "Cf").split())
