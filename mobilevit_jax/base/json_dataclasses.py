"""Dataclasses into JSON and out of it, every value's type made sure of by its annotation."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from mobilevit_jax.errors import ConfigurationError, nearest, shortened

T = TypeVar("T")

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
}


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Makes a dataclass of nested dictionaries, as `config.to_dict` writes them.

    Args:
        cls: The dataclass; its fields may be dataclasses, tuples, unions and literals.
        values: Its fields; those left out take their defaults. Lists stand for tuples, and whole
            numbers are numbers too.
        where: Path of the fields, for messages.

    Raises:
        ConfigurationError: If a field is unknown (the nearest known one is named), or a value is
            of another type or not allowed.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            unknown = shortened(f"{where}{name}", 80)
            raise ConfigurationError(f"unknown field {unknown}{nearest(name[:80], fields)}")
        arguments[name] = parse(hints[name], value, f"{where}{name}")
    try:
        return cls(**arguments)
    except ConfigurationError as error:
        raise ConfigurationError(shortened(error, 600)) from error


def parse(hint: Any, value: Any, where: str) -> Any:
    """Returns a value of JSON in the type of an annotation.

    Args:
        hint: bool, int, float, str or None; a dataclass, tuple, union or literal of these.
        value: As JSON has it; lists stand for tuples, and whole numbers are numbers too.
        where: What to call it in an error.

    Raises:
        ConfigurationError: If it is of another type, or NaN.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _parse_union(inner, value, where)
    if origin is Literal:
        # 1 is no True here, though they are equal.
        if any(type(value) is type(choice) and value == choice for choice in inner):
            return value
        raise _wrong(where, f"one of {', '.join(map(repr, inner))}", value)
    if origin is tuple:
        return _parse_tuple(inner, value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return from_dict(typing.cast(Any, hint), value, f"{where}.")
        raise _wrong(where, "an object with its fields", value)
    if hint is type(None) and value is None:
        return value
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _wrong(where, "a number that a float can hold", value) from None
    if type(value) is not hint or (hint is float and math.isnan(value)):
        raise _wrong(where, _KINDS.get(hint, "null"), value)
    return value


def _parse_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """Returns the value as one of several types, of which no two have values in common in JSON."""
    if isinstance(value, list | tuple):
        fitting = [choice for choice in choices if typing.get_origin(choice) is tuple]
    else:  # the type itself goes before those that a whole number fits as well
        fitting = sorted(choices, key=lambda choice: choice is not type(value))
    for choice in fitting:
        try:
            return parse(choice, value, where)
        except ConfigurationError:
            if len(fitting) == 1:
                raise  # it tells best what is wrong
    kinds = (_KINDS.get(typing.get_origin(choice) or choice, "null") for choice in choices)
    raise _wrong(where, " or ".join(kinds), value)


def _parse_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if inner[-1:] == (Ellipsis,):
        inner = inner[:1] * len(value)
    if len(value) != len(inner):
        raise _wrong(where, f"a list of {len(inner)}", value)
    places = enumerate(zip(inner, value, strict=True))
    return tuple(parse(hint, item, f"{where}[{place}]") for place, (hint, item) in places)


def _wrong(where: str, wanted: str, value: Any) -> ConfigurationError:
    return ConfigurationError(f"{where} must be {wanted}, not {shortened(repr(value), 80)}")


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as nested dictionaries, as JSON gives them back (tuples as lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """Lists the fields in which two `to_dict` forms differ, as "name: old -> new"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{where}{name}.")
        elif before != after:
            found.append(f"{where}{name}: {before!r} -> {after!r}")
    return found
