"""A model's `config.json`, in three forms: this package's own, transformers' and timm's.

What changes the result of a model and has no place in a form is refused by name, on the way out as
on the way in. What only matters in training is left out where a form has no place for it:
`ffn_dropout` and `channel_dropout` (transformers), every dropout (timm), and in all three how a run
was made (`bn_axis_name`, `bn_unbiased`, `remat`, `freeze_backbone`, `dtype`).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn

from mobilevit_jax._version import __version__
from mobilevit_jax.base.json_dataclasses import from_dict
from mobilevit_jax.base.texts import read_object
from mobilevit_jax.convert.config_fields import (
    check_widths,
    checked,
    class_count,
    created,
    named_classes,
)
from mobilevit_jax.convert.huggingface_config import from_huggingface, to_huggingface
from mobilevit_jax.convert.timm_config import from_timm, timm_processor, to_timm
from mobilevit_jax.errors import ConfigurationError, DataError, quoted, shortened
from mobilevit_jax.models.model import Head, Model
from mobilevit_jax.models.registry import (
    COMMON,
    all_heads,
    create_model,
    families,
    family_of,
    head_of,
    options_of,
)
from mobilevit_jax.processing import ImageProcessor

__all__ = [
    "Configured",
    "from_huggingface",
    "from_native",
    "from_timm",
    "read_config",
    "timm_processor",
    "to_huggingface",
    "to_native",
    "to_timm",
]

CONFIG_NAME = "config.json"
LIBRARY = "mobilevit_jax"
# The field that names a backbone which the package does not have.
_OWN = "own_backbone"

# The only family that there was when files named none.
_FIRST = "mobilevit"


@dataclass(frozen=True)
class Configured:
    """What a `config.json` says.

    Attributes:
        layout: Whose form it has, which is also whose names the weights beside it have.
        model: The module.
        class_names: In the order of the logits, of a detector without the background; empty if
            nobody named the classes.
        processor: What images go through, if the file says so (timm's does).
    """

    layout: Literal["native", "huggingface", "timm"]
    model: Any
    class_names: tuple[str, ...]
    processor: ImageProcessor | None = None


def read_config(directory: str | Path, backbone: nn.Module | None = None) -> Configured:
    """Reads `config.json` of a directory, whichever of the three forms it has.

    Args:
        directory: The directory.
        backbone: See `from_native`.

    Raises:
        DataError: If the file is missing, no JSON object, about another kind of model, or asks for
            what our model does not do. The message has the path.
    """
    path = Path(directory) / CONFIG_NAME
    config = read_object(path)
    try:
        if config.get("library") == LIBRARY:
            return Configured("native", *from_native(config, backbone))
        if "model_type" in config:
            return Configured("huggingface", *from_huggingface(config))
        if "architecture" in config:
            return Configured("timm", *from_timm(config))
    except (ConfigurationError, DataError) as error:
        raise DataError(f"{path}: {shortened(error, 600)}") from error
    raise DataError(
        f"{path}: describes no model; expected the config.json of mobilevit_jax ('library'), of "
        "transformers ('model_type') or of timm ('architecture')"
    )


def to_native(model: Model, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns our own form, which holds every model.

    Of a backbone of the caller's own it has the class's name alone: whoever reads the file has to
    bring the module.

    Args:
        model: The model.
        class_names: In the order of the logits, if known; of a detector without the background.

    Raises:
        ConfigurationError: If there are more or fewer names than classes.
    """
    head, family = head_of(model), family_of(model)
    names = class_count(class_names, model.num_classes - head.first_named)
    # How a run was made is left out; a model that is loaded takes the defaults.
    options = {name: value for name, value in options_of(model).items() if name not in COMMON}
    below = {"backbone": family.name} if family else {_OWN: type(model.backbone).__name__}
    fields = {"type": head.saved_as, **below, **options}
    config = {"library": LIBRARY, "version": __version__, "model": fields}
    if names:
        config["id2label"] = {str(i): name for i, name in enumerate(names, head.first_named)}
    # Tuples become lists, and dataclasses objects, as they will in the file.
    return json.loads(json.dumps(config, default=dataclasses.asdict))


def from_native(
    config: Mapping[str, Any], backbone: nn.Module | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Builds the model that `to_native` described, and returns it with its class names.

    A field that is absent, since the version that wrote the file did not have it, has its default.

    Args:
        config: What `to_native` returned.
        backbone: The backbone of a model that was made with one of the caller's own.

    Returns:
        (model, names).

    Raises:
        DataError: If a field is unknown or invalid, or a backbone is missing.
        ConfigurationError: If a backbone is given that the model has no use for.
    """
    stored = config.get("model")
    if not isinstance(stored, Mapping):
        raise DataError("'model' is missing")
    heads = {head.saved_as: head for head in all_heads().values()}
    if (head := heads.get(str(stored.get("type")))) is None:
        raise DataError(
            f"describes a model of the type {stored.get('type')!r}, none of {', '.join(heads)}"
        )
    rest = {name: value for name, value in stored.items() if name != "type"}
    if _OWN in rest:
        model = _on_own(head, rest, config, backbone)
    else:
        model = _on_ours(head, rest, config)
        if backbone is not None:
            raise ConfigurationError(
                "a backbone was given, but the weights are of one of this package; leave it out"
            )
    labels = config.get("id2label")
    if head.first_named and isinstance(labels, Mapping):
        labels = {"0": "LABEL_0", **labels}
    return model, named_classes(labels, model.num_classes)[head.first_named :]


def _on_ours(head: Head, stored: dict[str, Any], config: Mapping[str, Any]) -> Any:
    family = families().get(name := str(stored.pop("backbone", _FIRST)))
    if family is None:
        raise DataError(f"describes a backbone {name!r}, none of {', '.join(families())}")
    if not isinstance(stored.get("variant"), Mapping):
        raise DataError("'model' and its 'variant' are missing")
    *_, example = family.variants.values()
    variant = _read_fields(stored.pop("variant"), vars(example), config)
    variant = dataclasses.replace(example, **variant)
    check_widths(variant)
    model = created(head, family, {"variant": variant})
    return created(head, family, {"variant": variant, **_read_options(model, stored, config)})


def _on_own(
    head: Head, stored: dict[str, Any], config: Mapping[str, Any], backbone: nn.Module | None
) -> Any:
    name = stored.pop(_OWN)
    if backbone is None:
        raise DataError(
            f"the model stands on a backbone of its maker's own, {quoted(name)}; give it: "
            "from_pretrained(..., backbone=module)"
        )
    try:
        model = create_model(head.name, backbone=backbone)
        options = _read_options(model, stored, config)
        return create_model(head.name, backbone=backbone, **options)
    except ConfigurationError as error:
        raise DataError(str(error)) from error


def _read_options(
    model: Model, stored: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    options = options_of(model)
    known = {n: value for n, value in options.items() if n not in COMMON and n != "variant"}
    return _read_fields(stored, known, config)


def _read_fields(
    stored: Mapping[str, Any], examples: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields that a file has, each of the same type as its example."""
    unknown = sorted(stored.keys() - examples.keys())
    if unknown:
        raise DataError(
            f"{', '.join(unknown)}: not known to mobilevit_jax {__version__}; the file was written "
            f"by version {config.get('version')}, so update the package"
        )
    return {name: _read(name, value, examples[name]) for name, value in stored.items()}


def _read(name: str, value: Any, example: Any) -> Any:
    if not dataclasses.is_dataclass(example):
        return checked(name, value, example)
    if not isinstance(value, Mapping):
        raise DataError(f"{name} must be an object with its fields, not {quoted(value)}")
    try:
        return from_dict(type(example), value, f"{name}.")
    except ConfigurationError as error:
        raise DataError(str(error)) from error
