"""A model's `config.json`, in three forms: this package's own, transformers' and timm's.

What changes the result of a model and has no place in a form is refused by name, on the way out as
on the way in. What only matters in training is left out where a form has no place for it:
`ffn_dropout` (transformers), every dropout (timm), and in all three how a run was made
(`bn_axis_name`, `bn_unbiased`, `remat`, `freeze_backbone`, `dtype`).
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilevit_jax import __version__
from mobilevit_jax.convert.fields import checked, class_count, ordered_labels
from mobilevit_jax.convert.timm_config import from_timm, timm_processor, to_timm
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import VARIANTS, Variant, create_model
from mobilevit_jax.models.mobilevit import MobileViT
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

# How a run was made; a model that is loaded takes the defaults.
_MACHINERY = {"bn_axis_name", "bn_unbiased", "remat", "freeze_backbone", "dtype", "parent", "name"}
# The format has no field for the depths: transformers' code has these numbers in it.
_HUGGINGFACE_DEPTHS = (2, 4, 3)
# What transformers' MobileViTConfig assumes for a field that a file does not have.
_HUGGINGFACE_DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "patch_size": 2,
    "hidden_sizes": (144, 192, 240),
    "neck_hidden_sizes": (16, 32, 64, 96, 128, 160, 640),
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "expand_ratio": 4.0,
    "hidden_act": "silu",
    "conv_kernel_size": 3,
    "output_stride": 32,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "layer_norm_eps": 1e-5,
    "qkv_bias": True,
}


@dataclass(frozen=True)
class Configured:
    """What a `config.json` says.

    Attributes:
        layout: Whose form it has, which is also whose names the weights beside it have.
        model: The module.
        class_names: In the order of the logits; empty if nobody named the classes.
        processor: What images go through, if the file says so (timm's does).
    """

    layout: Literal["native", "huggingface", "timm"]
    model: MobileViT
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
        raise DataError(f"{path}: {error}") from error
    raise DataError(
        f"{path}: describes no model; expected the config.json of mobilevit_jax ('library'), of "
        "transformers ('model_type') or of timm ('architecture')"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: holds no JSON object")
    return config


def to_native(model: MobileViT, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns our own form, which holds every model.

    Args:
        model: The model.
        class_names: In the order of the logits, if known.

    Raises:
        ConfigurationError: If it is no classifier, or there are more or fewer names than classes.
    """
    if not isinstance(model, MobileViT):
        raise ConfigurationError(f"only classifiers have this form, not {type(model).__name__}")
    names = class_count(class_names, model.num_classes)
    fields = {"type": MobileViT.__name__} | {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in _MACHINERY
    }
    fields["variant"] = dataclasses.asdict(model.variant)
    config = {"library": LIBRARY, "version": __version__, "model": fields}
    if names:
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
    # Tuples become lists, as they will in the file.
    return json.loads(json.dumps(config))


def from_native(config: Mapping[str, Any]) -> tuple[MobileViT, tuple[str, ...]]:
    """Builds the model that `to_native` described, and returns it with its class names.

    A field that is absent, since the version that wrote the file did not have it, has its default.

    Raises:
        DataError: If a field is unknown or invalid.
    """
    stored = config.get("model")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("variant"), Mapping):
        raise DataError("'model' and its 'variant' are missing")
    if stored.get("type") != MobileViT.__name__:
        raise DataError(f"describes a model of the type {stored.get('type')!r}, not 'MobileViT'")
    variant = _read_fields(stored["variant"], VARIANTS["s"], config, set())
    _check_variant(variant)
    template = create_model("mobilevit_s", dropout=variant.dropout, variant=variant)
    rest = {name: value for name, value in stored.items() if name not in ("type", "variant")}
    model = _read_fields(rest, template, config, _MACHINERY)
    names = _class_names(config.get("id2label"), model.num_classes)
    return _created(model), names


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


def _created(model: MobileViT) -> MobileViT:
    """Has `create_model` look at the values of a model."""
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return _create({name: v for name, v in fields.items() if name not in ("parent", "name")})


def _create(fields: Mapping[str, Any]) -> MobileViT:
    try:
        return create_model("mobilevit_s", **fields)
    except ConfigurationError as error:
        raise DataError(str(error)) from error


def _check_variant(variant: Variant) -> None:
    for field in dataclasses.fields(variant):
        value = getattr(variant, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if field.name != "dropout" and min(numbers) < 1:
            raise DataError(f"{field.name} must be at least 1, not {value}")
    if any(dim % variant.heads for dim in variant.dims):
        raise DataError(f"{variant.heads} heads do not divide token widths of {variant.dims}")


def to_huggingface(
    model: MobileViT,
    class_names: Sequence[str] | None = None,
    *,
    image_size: int | tuple[int, int] = 256,
) -> dict[str, Any]:
    """Returns the form of transformers' `MobileViTForImageClassification`.

    Args:
        model: The model.
        class_names: In the order of the logits; transformers' placeholders, LABEL_0 and so on, if
            not given.
        image_size: What the weights were made for; the model itself takes any size.

    Raises:
        ConfigurationError: If the form cannot express the model, every reason named, or if there
            are more or fewer names than classes.
    """
    _refuse(_beyond_huggingface(model))
    names = class_count(class_names, model.num_classes)
    names = names or tuple(f"LABEL_{index}" for index in range(model.num_classes))
    variant = model.variant
    config = {
        "architectures": ["MobileViTForImageClassification"],
        "model_type": "mobilevit",
        **_HUGGINGFACE_DEFAULTS,
        "image_size": image_size,
        "patch_size": model.patch_sizes[0],
        "hidden_sizes": variant.dims,
        "neck_hidden_sizes": (*variant.channels, variant.exp_channels),
        "num_attention_heads": variant.heads,
        "mlp_ratio": float(variant.ffn_multiplier),
        "expand_ratio": float(variant.expansion),
        "conv_kernel_size": model.kernel_size,
        "output_stride": model.output_stride,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "classifier_dropout_prob": model.classifier_dropout,
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(names)},
        # A name that stands twice, as two do in ImageNet, keeps the last: ids are what counts.
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return json.loads(json.dumps(config))


def _beyond_huggingface(model: MobileViT) -> list[str]:
    """Names what transformers' MobileViT cannot do."""
    if not isinstance(model, MobileViT):
        return [f"a model of the type {type(model).__name__}"]
    variant, reasons = model.variant, []
    if len(set(model.patch_sizes)) > 1:
        reasons.append(f"patch_sizes={model.patch_sizes} (it has one size for all stages)")
    if not model.fusion:
        reasons.append("fusion=False")
    if variant.depths != _HUGGINGFACE_DEPTHS:
        reasons.append(f"depths={variant.depths} (only {_HUGGINGFACE_DEPTHS})")
    hidden = [width * variant.expansion for width in variant.channels[:5]]
    if any(width % 8 for width in hidden):
        reasons.append(f"hidden widths of {hidden} in inverted residuals (only multiples of 8)")
    return reasons


def _refuse(reasons: Sequence[str]) -> None:
    if reasons:
        raise ConfigurationError(
            f"transformers' format cannot express {'; '.join(reasons)}; save with layout='native'"
        )


def from_huggingface(config: Mapping[str, Any]) -> tuple[MobileViT, tuple[str, ...]]:
    """Builds the model that a `config.json` of transformers describes; widths may be any.

    Returns:
        (model, class names). The names are empty where there are only transformers' placeholders.

    Raises:
        DataError: If it is another kind of model, or one that ours does not do, which is named.
    """
    _check_kind(config)
    fields = {
        name: checked(name, config.get(name, default), default)
        for name, default in _HUGGINGFACE_DEFAULTS.items()
    }
    _check_fixed(fields)
    neck = fields["neck_hidden_sizes"]
    variant = Variant(
        channels=neck[:6],
        dims=fields["hidden_sizes"],
        expansion=_whole("expand_ratio", fields["expand_ratio"]),
        exp_channels=neck[6],
        dropout=fields["hidden_dropout_prob"],
        depths=_HUGGINGFACE_DEPTHS,
        heads=fields["num_attention_heads"],
        ffn_multiplier=_whole("mlp_ratio", fields["mlp_ratio"]),
    )
    _check_variant(variant)
    labels = config.get("id2label")
    num_classes = _number_of_classes(config, labels)
    model = _create(
        {
            "variant": variant,
            "num_classes": num_classes,
            "patch_sizes": (fields["patch_size"],) * 3,
            "kernel_size": fields["conv_kernel_size"],
            "output_stride": fields["output_stride"],
            "dropout": fields["hidden_dropout_prob"],
            "attention_dropout": fields["attention_probs_dropout_prob"],
            "classifier_dropout": fields["classifier_dropout_prob"],
        }
    )
    reasons = _beyond_huggingface(model)
    if reasons:
        raise DataError(f"transformers rounds these up, our model does not: {'; '.join(reasons)}")
    return model, _class_names(labels, num_classes)


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind == "mobilevitv2":
        raise DataError("describes a MobileViTv2, another architecture than MobileViT")
    if kind != "mobilevit":
        raise DataError(f"describes a model of the type {kind!r}, not 'mobilevit'")
    for name in config.get("architectures") or ():
        if name not in ("MobileViTForImageClassification", "MobileViTModel"):
            raise DataError(f"describes a {name}; only MobileViTForImageClassification can be read")


def _check_fixed(fields: Mapping[str, Any]) -> None:
    """Refuses values of fields that are not options of our model."""
    fixed = {"num_channels": (3,), "hidden_act": ("silu", "swish"), "qkv_bias": (True,)}
    for name, allowed in fixed.items():
        if fields[name] not in allowed:
            raise DataError(f"{name}={fields[name]!r} is not supported, only {allowed[0]!r}")
    if not math.isclose(fields["layer_norm_eps"], 1e-5, rel_tol=1e-6):
        raise DataError(f"layer_norm_eps={fields['layer_norm_eps']!r} is not supported, only 1e-05")


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise DataError(f"{name}={value!r} is not supported, only whole numbers")
    return int(value)


def _number_of_classes(config: Mapping[str, Any], labels: Any) -> int:
    if "MobileViTModel" in (config.get("architectures") or ()):
        return 0
    if labels is not None and not isinstance(labels, Mapping | list):
        raise DataError(f"id2label must be a mapping from index to name, not {labels!r}")
    # transformers' PreTrainedConfig has two labels unless told otherwise.
    named = 2 if labels is None else len(labels)
    count = checked("num_labels", config.get("num_labels", named), 2)
    if labels is not None and named != count:
        raise DataError(f"num_labels={count}, but id2label names {named} classes")
    return count


def _class_names(labels: Any, num_classes: int) -> tuple[str, ...]:
    """Reads `id2label`; placeholders are no names."""
    if labels is None or not num_classes:
        return ()
    names = ordered_labels("id2label", labels, num_classes)
    return () if names == tuple(f"LABEL_{i}" for i in range(num_classes)) else names
