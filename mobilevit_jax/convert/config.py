"""A model's `config.json`, in three forms: this package's own, transformers' and timm's.

What changes the result of a model and has no place in a form is refused by name, on the way out as
on the way in. What only matters in training is left out where a form has no place for it:
`ffn_dropout` and `channel_dropout` (transformers), every dropout (timm), and in all three how a run
was made (`bn_axis_name`, `bn_unbiased`, `remat`, `freeze_backbone`, `dtype`).
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilevit_jax import __version__
from mobilevit_jax.convert.config_fields import (
    check_variant,
    checked,
    class_count,
    created,
    named_classes,
)
from mobilevit_jax.convert.huggingface_config import from_huggingface, to_huggingface
from mobilevit_jax.convert.timm_config import from_timm, timm_processor, to_timm
from mobilevit_jax.errors import ConfigurationError, DataError, shortened
from mobilevit_jax.models import KINDS, VARIANTS, BackboneModel, SSDLite, kind_of
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.anchors import AnchorConfig

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

# How a run was made; a model that is loaded takes the defaults.
_MACHINERY = {"bn_axis_name", "bn_unbiased", "remat", "freeze_backbone", "dtype", "parent", "name"}


@dataclass(frozen=True)
class Configured:
    """What a `config.json` says.

    Attributes:
        layout: Whose form it has, which is also whose names the weights beside it have.
        model: The module, a `MobileViT`, `SSDLite` or `DeepLabV3`.
        class_names: In the order of the logits, of a detector without the background; empty if
            nobody named the classes.
        processor: What images go through, if the file says so (timm's does).
    """

    layout: Literal["native", "huggingface", "timm"]
    model: Any
    class_names: tuple[str, ...]
    processor: ImageProcessor | None = None


def read_config(directory: str | Path) -> Configured:
    """Reads `config.json` of a directory, whichever of the three forms it has.

    Raises:
        DataError: If the file is missing, no JSON object, about another kind of model, or asks for
            what our model does not do. The message has the path.
    """
    path = Path(directory) / CONFIG_NAME
    config = _read_json(path)
    try:
        if config.get("library") == LIBRARY:
            return Configured("native", *from_native(config))
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: holds no JSON object")
    return config


def to_native(model: BackboneModel, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns our own form, which holds every model.

    Args:
        model: The model.
        class_names: In the order of the logits, if known; of a detector without the background.

    Raises:
        ConfigurationError: If there are more or fewer names than classes.
    """
    first = _first_named(model)
    names = class_count(class_names, model.num_classes - first)
    fields = {"type": KINDS[kind_of(model)].__name__} | {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in _MACHINERY
    }
    fields["variant"] = dataclasses.asdict(model.variant)
    if isinstance(model, SSDLite):
        fields["anchor_config"] = dataclasses.asdict(model.anchor_config)
    config = {"library": LIBRARY, "version": __version__, "model": fields}
    if names:
        config["id2label"] = {str(index): name for index, name in enumerate(names, first)}
    # Tuples become lists, as they will in the file.
    return json.loads(json.dumps(config))


def from_native(config: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Builds the model that `to_native` described, and returns it with its class names.

    A field that is absent, since the version that wrote the file did not have it, has its default.

    Returns:
        (a `MobileViT`, `SSDLite` or `DeepLabV3`, names).

    Raises:
        DataError: If a field is unknown or invalid.
    """
    stored = config.get("model")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("variant"), Mapping):
        raise DataError("'model' and its 'variant' are missing")
    kinds = {module.__name__: kind for kind, module in KINDS.items()}
    if (kind := kinds.get(str(stored.get("type")))) is None:
        raise DataError(
            f"describes a model of the type {stored.get('type')!r}, none of {', '.join(kinds)}"
        )
    variant = _read_fields(stored["variant"], VARIANTS["s"], config, set())
    check_variant(variant)
    model = created(kind, {"dropout": variant.dropout, "variant": variant})
    rest = {name: value for name, value in stored.items() if name not in ("type", "variant")}
    if isinstance(model, SSDLite) and "anchor_config" in rest:
        model = model.clone(anchor_config=_read_anchors(rest.pop("anchor_config")))
    model = _read_fields(rest, model, config, _MACHINERY)
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    model = created(kind, {k: v for k, v in fields.items() if k not in ("parent", "name")})
    labels = config.get("id2label")
    if _first_named(model) and isinstance(labels, Mapping):
        labels = {"0": "LABEL_0", **labels}
    return model, named_classes(labels, model.num_classes)[_first_named(model) :]


def _first_named(model: BackboneModel) -> int:
    """Returns the index of the first class that has a name: a detector's background has none."""
    return 1 if isinstance(model, SSDLite) else 0


def _read_fields(
    stored: Mapping[str, Any], template: Any, config: Mapping[str, Any], left_out: Iterable[str]
) -> Any:
    """Returns the dataclass `template` with the fields that a file has, each of the same type."""
    known = {field.name for field in dataclasses.fields(template)} - set(left_out)
    unknown = sorted(stored.keys() - known)
    if unknown:
        raise DataError(
            f"{', '.join(unknown)}: not known to mobilevit_jax {__version__}; the file was written "
            f"by version {config.get('version')}, so update the package"
        )
    values = {name: checked(name, v, getattr(template, name)) for name, v in stored.items()}
    return dataclasses.replace(template, **values)


def _read_anchors(stored: Any) -> AnchorConfig:
    ratios = stored.get("aspect_ratios") if isinstance(stored, Mapping) else None
    if not isinstance(ratios, list) or not all(isinstance(level, list) for level in ratios):
        raise DataError("anchor_config must have aspect_ratios, a list of numbers for each level")
    example = AnchorConfig()
    scales = {
        name: checked(name, stored.get(name), getattr(example, name))
        for name in ("min_scale", "max_scale")
    }
    levels = tuple(
        tuple(checked("aspect_ratios", ratio, 0.0) for ratio in level) for level in ratios
    )
    try:
        return AnchorConfig(**scales, aspect_ratios=levels)
    except ConfigurationError as error:
        raise DataError(str(error)) from error
