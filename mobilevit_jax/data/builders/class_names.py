"""Names of classes as they are stored: one a line, without space around, in one form of Unicode."""

import unicodedata

from mobilevit_jax.errors import DataError

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
        raise DataError(f"{where} has the name {name!a}; a class needs a name of one line")
    return plain


def fits_a_line(text: str) -> bool:
    """Whether a text has neither line breaks nor other characters that cannot be printed."""
    return not any(unicodedata.category(letter) in _UNFIT for letter in text)


def appearance(name: str) -> str:
    """Returns what people may take two names for the same by: no capitals, no invisible letters."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in letters if unicodedata.category(c) != "Cf").split())
