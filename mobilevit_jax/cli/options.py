"""How commands read their options, and refuse them."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from mobilevit_jax.errors import ConfigurationError, DataError, naming

if TYPE_CHECKING:
    from mobilevit_jax.config import Experiment

T = TypeVar("T")


def read(arguments_class: type[T], command: str, argv: Sequence[str]) -> T:
    """Reads the arguments of `mobilevit COMMAND` into a dataclass."""
    return tyro.cli(
        arguments_class,
        prog=f"mobilevit {command}",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def read_over(
    arguments_class: type[T], command: str, argv: Sequence[str], experiment: "Experiment"
) -> T:
    """Reads those of a command whose field `config` is an experiment with these values."""
    make: Any = arguments_class
    return tyro.cli(
        make,
        prog=f"mobilevit {command}",
        args=argv,
        config=(tyro.conf.AvoidSubcommands,),
        default=make(file=tyro.MISSING, config=experiment),
    )


def called(value: str, default: str = "") -> Any:
    """Says what --help calls the value of an option, and in which words it tells the default."""
    return tyro.conf.arg(metavar=value, help_behavior_hint=default)


def check_output(path: Path, option: str = "--output") -> None:
    """Raises DataError or OSError for a file that could not be written after all the work."""
    if path.is_dir():
        raise DataError(f"{option} {path} is a directory; name a file in it")
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


@contextlib.contextmanager
def refusing(what: str, option: str) -> Iterator[None]:
    """Has an OSError say what could not be made or written, and which option names another place.

    Raises:
        ConfigurationError: In place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{what}: {error.strerror or error}; choose another with {option}"
        ) from error
