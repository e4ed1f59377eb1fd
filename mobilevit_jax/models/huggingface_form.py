"""How transformers' `config.json` spells a backbone; `convert` reads and writes the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mobilevit_jax.errors import DataError

ImageSize = int | tuple[int, int]


@dataclass(frozen=True)
class HuggingFaceForm:
    """A backbone's fields.

    Attributes:
        model_type: As the file has it.
        classes: What the names of its classes begin with, such as "MobileViT".
        defaults: What transformers assumes for a field that a file does not have.
        segmentation: The same of fields that only its segmentation models have a use for.
        fixed: {field: values} of those that are no options, with what they may be.
        fields: Returns the fields of a backbone, where they are not the defaults.
        options: Returns the options that fields stand for, "variant" among them; raises DataError.
        beyond: Returns what of a backbone transformers does not do for images of a size, which is
            None if it is not known.
    """

    model_type: str
    classes: str
    defaults: Mapping[str, Any]
    segmentation: Mapping[str, Any]
    fixed: Mapping[str, tuple[Any, ...]]
    fields: Callable[[Any], dict[str, Any]]
    options: Callable[[Mapping[str, Any]], dict[str, Any]]
    beyond: Callable[[Any, ImageSize | None], list[str]]


def whole(name: str, value: float) -> int:
    """Returns a number as an integer.

    Raises:
        DataError: If it is none; `name` is that of the field.
    """
    if value != int(value):
        raise DataError(f"{name}={value!r} is not supported, only whole numbers")
    return int(value)


def rounded_widths(channels: tuple[int, ...], expansion: int) -> list[str]:
    """Names hidden widths of inverted residuals that transformers would round."""
    hidden = [width * expansion for width in channels[:5]]
    if any(width % 8 for width in hidden):
        return [f"hidden widths of {hidden} in inverted residuals (only multiples of 8)"]
    return []
