"""Errors that a user can mend: each message is one line with what, where and how to mend it."""

import contextlib
import difflib
import enum
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from os import PathLike
from typing import Any, NoReturn

# Characters that steer a terminal, turn the order of what follows, or are halves of others.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ExitStatus(enum.IntEnum):
    """How commands end."""

    DONE = 0
    FAILED = 1
    USAGE = 2  # or configuration
    STOPPED = 3  # by a signal, and saved

    @classmethod
    def of(cls, error: BaseException) -> "ExitStatus":
        """Returns that of a command that an error ends."""
        return cls.USAGE if isinstance(error, ConfigurationError) else cls.FAILED


class MobileViTError(ValueError):
    """Base of the errors below; the command line prints their message and no traceback."""


class ConfigurationError(MobileViTError):
    """Bad usage, option or configuration (exit status 2)."""


class DataError(MobileViTError):
    """A file, data set or checkpoint that cannot be used as it is (exit status 1)."""


class TrainingError(MobileViTError):
    """A run that cannot go on, for example because its loss is not finite (exit status 1)."""


def exit_at_once(status: int) -> NoReturn:
    """Ends the process, whatever its threads are at."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
    """Adds a path to an OSError that has none, such as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check_local(path: str | PathLike[str], option: str) -> None:
    """Raises ConfigurationError for an address, "gs://bucket", that would become a directory here.

    Args:
        path: What is to be a local path.
        option: Where it was given, for the message.
    """
    # A path object has one slash left of two; one letter is a drive of Windows.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ConfigurationError(
            f"{option} {path} is an address, and only local paths work: copy the files, or name a "
            "directory where it is mounted"
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the closest allowed name, or ""."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {quoted(close[0])}?)" if close else ""


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> ConfigurationError:
    """Builds the error for a name that is not in a table, with the nearest one that is.

    Args:
        kind: What the name stands for, such as "model".
        name: The name that was given.
        allowed: The names that exist.
    """
    allowed = sorted(allowed)
    shown = ", ".join(allowed[:12]) + (", ..." if len(allowed) > 12 else "")
    return ConfigurationError(f"unknown {kind} {name!r}{nearest(name, allowed)}; known: {shown}")


def check_fields(config: object, section: str = "", **allowed: tuple[bool, str]) -> None:
    """Raises ConfigurationError for the first field of a configuration that is out of range.

    Args:
        config: A dataclass.
        section: Where it stands in an experiment, such as "optimizer."; begins the message.
        **allowed: By field, whether its value is allowed, and what is, for the message.
    """
    for name, (holds, what) in allowed.items():
        if not holds:
            value = getattr(config, name)
            raise ConfigurationError(f"{section}{name} must be {what}; got {value!r}")


def check_parts(config: Any, parts: Mapping[str, Iterable[str]], section: str = "") -> None:
    """Raises ConfigurationError for a field that has no effect since what it is a part of is off.

    Args:
        config: A dataclass.
        parts: By field, those that have no effect while it is 0.
        section: Where it stands in an experiment; see `check_fields`.
    """
    defaults = {field.name: field.default for field in fields(config)}
    for whole, own in parts.items():
        for part in own:
            if not getattr(config, whole) and getattr(config, part) != defaults[part]:
                raise ConfigurationError(
                    f"{section}{part} has no effect while {section}{whole} is 0: set {whole}, or "
                    f"leave {part} at {defaults[part]}"
                )


def count(number: int, noun: str, plural: str = "") -> str:
    """Returns "1 image" or "2 images", for a message."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def shortened(text: object, limit: int = 200) -> str:
    """Returns a text in one line of at most `limit` characters, for a message.

    What libraries say about a damaged file may quote all of it.

    Args:
        text: A string, or an exception, whose message is taken.
        limit: Characters, at least 5.
    """
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


def quoted(value: object, limit: int = 80) -> str:
    """Returns what `repr` gives of a value, shortened; a text keeps its spaces and both quotes.

    Args:
        value: For instance a name out of a file, which may have any length.
        limit: Characters, at least 6.
    """
    text = repr(value)
    if not isinstance(value, str):
        return shortened(text, limit)
    return text if len(text) <= limit else f"{text[: limit - 5]} ...{text[-1]}"


def visible(text: str) -> str:
    """Returns a text as one line that a terminal may have: names of files can hold anything."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)
