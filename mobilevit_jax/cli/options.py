"""How commands read their options, and refuse them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from mobilevit_jax.errors import ConfigurationError

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
