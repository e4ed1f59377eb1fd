"""Values out of other people's JSON, with their type made sure of, and models made of them."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mobilevit_jax.base.json_dataclasses import parse
from mobilevit_jax.errors import ConfigurationError, DataError, quoted
from mobilevit_jax.models.model import Family, Head
from mobilevit_jax.models.registry import build

_MOST_BLOCKS, _WIDEST = 100, 2**16


def checked(name: str, value: Any, example: Any) -> Any:
    """Returns a value if it is of the same type as the example.

    Args:
        name: Of the field, for the message.
        value: As JSON has it; whole numbers are also numbers, and lists are tuples. NaN and
            Infinity, which Python's JSON has beside, are no numbers.
        example: bool, int, float, str, or a tuple of one of these, whose length counts.

    Raises:
        DataError: If it is not.
    """
    kind = hint = type(example)
    if isinstance(example, tuple):
        kind = type(example[0])
        hint = tuple[(kind,) * len(example)]
    for number in value if isinstance(value, list | tuple) else (value,):
        # NaN is not below anything; a whole number may have hundreds of digits.
        if kind is float and isinstance(number, int | float):
            if not abs(number) <= sys.float_info.max:
                raise DataError(f"{name} must be a finite number, not {quoted(number, 40)}")
    try:
        return parse(hint, value, name)
    except ConfigurationError as error:
        raise DataError(str(error)) from error


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Returns a value if it is a mapping, an empty one for None.

    Args:
        name: Of the field, for the message.
        value: As JSON has it.

    Raises:
        DataError: If it is something else.
    """
    if value is not None and not isinstance(value, Mapping):
        raise DataError(f"{name} must be a mapping, not {value!r}")
    return value or {}


def ordered_labels(name: str, labels: Any, count: int) -> tuple[str, ...]:
    """Returns class names in the order of the logits.

    Args:
        name: Of the field, for the message.
        labels: A list, or a mapping from the index (a text in JSON) to the name.
        count: How many there must be.

    Raises:
        DataError: If there are more or fewer, or the indices have gaps.
    """
    if isinstance(labels, Mapping):
        labels = {str(index): label for index, label in labels.items()}
        # The count first: it may be any number, and what is compared next is as long.
        if len(labels) != count or any(str(index) not in labels for index in range(count)):
            raise DataError(f"{name} must have one name for each index from 0 to {count - 1}")
        labels = [labels[str(index)] for index in range(count)]
    if not isinstance(labels, list | tuple) or len(labels) != count:
        raise DataError(f"{name} must name {count} classes")
    return tuple(checked(name, label, "") for label in labels)


def class_count(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Returns the class names, () for none.

    Raises:
        ConfigurationError: If there are more or fewer names than classes, or one is no text.
    """
    names = tuple(class_names or ())
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"class names must be a list of texts; got {quoted(class_names)}")
    if names and len(names) != num_classes:
        raise ConfigurationError(
            f"{len(names)} class names were given for a model of {num_classes} classes"
        )
    return names


def placeholders(num_classes: int) -> tuple[str, ...]:
    """Returns what transformers calls classes that nobody named."""
    return tuple(f"LABEL_{index}" for index in range(num_classes))


def named_classes(labels: Any, num_classes: int) -> tuple[str, ...]:
    """Reads `id2label`; transformers' placeholders, LABEL_0 and so on, are no names.

    Raises:
        DataError: As `ordered_labels`.
    """
    if labels is None or not num_classes:
        return ()
    names = ordered_labels("id2label", labels, num_classes)
    return () if names == placeholders(num_classes) else names


def check_widths(variant: Any) -> None:
    """Makes sure that a model can have these widths and depths, whole numbers and tuples of them.

    Raises:
        DataError: If it cannot.
    """
    for field in dataclasses.fields(variant):
        value = getattr(variant, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, int) for number in numbers):
            continue
        # Nobody's models are near; tracing one of a billion blocks would not end.
        most = _MOST_BLOCKS if field.name == "depths" else _WIDEST
        if min(numbers) < 1 or max(numbers) > most:
            raise DataError(f"{field.name} must be from 1 to {most}, not {value}")


def created(head: Head, family: Family, options: Mapping[str, Any]) -> Any:
    """Returns the model with all its options, their values looked at.

    Raises:
        DataError: If `create_model` would refuse them.
    """
    try:
        return build(head, family, options, f"{head.prefix}{family.name}")
    except ConfigurationError as error:
        raise DataError(str(error)) from error
