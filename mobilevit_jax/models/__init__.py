"""Models by name: `create_model` and `list_models` are the only registry."""

import dataclasses
import fnmatch
from typing import Any, Literal, overload

from mobilevit_jax.errors import ConfigurationError, nearest, unknown_name
from mobilevit_jax.models.backbone import OUTPUT_STRIDES, BackboneModel
from mobilevit_jax.models.deeplabv3 import DeepLabV3
from mobilevit_jax.models.mobilevit import MobileViT, attention_maps
from mobilevit_jax.models.ssdlite import LEVELS, SSDLite
from mobilevit_jax.models.variants import VARIANTS, Variant

__all__ = [
    "KINDS",
    "VARIANTS",
    "BackboneModel",
    "DeepLabV3",
    "MobileViT",
    "SSDLite",
    "Variant",
    "attention_maps",
    "create_model",
    "kind_of",
    "list_models",
    "model_name",
    "option_names",
]

# The part of a name in front of the size, and the module.
KINDS: dict[str, type[BackboneModel]] = {
    "mobilevit": MobileViT,
    "ssdlite_mobilevit": SSDLite,
    "deeplabv3_mobilevit": DeepLabV3,
}
_TRIPLES = ("patch_sizes", "aspp_rates")
_RATES = (
    *("dropout", "attention_dropout", "ffn_dropout", "classifier_dropout"),
    *("aspp_dropout", "head_dropout", "aux_dropout"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that `create_model` takes, those matching a shell pattern if given."""
    names = [f"{kind}_{size}" for kind in KINDS for size in VARIANTS]
    return sorted(fnmatch.filter(names, pattern))


@overload
def create_model(
    name: Literal["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"], **options: Any
) -> MobileViT: ...


@overload
def create_model(
    name: Literal["ssdlite_mobilevit_xxs", "ssdlite_mobilevit_xs", "ssdlite_mobilevit_s"],
    **options: Any,
) -> SSDLite: ...


@overload
def create_model(
    name: Literal["deeplabv3_mobilevit_xxs", "deeplabv3_mobilevit_xs", "deeplabv3_mobilevit_s"],
    **options: Any,
) -> DeepLabV3: ...


@overload
def create_model(name: str, **options: Any) -> Any: ...


def create_model(name: str, **options: Any) -> Any:
    """Creates a model by name; nothing is computed until `init` or `apply`.

    Args:
        name: One of `list_models()`.
        **options: Fields of `MobileViT`, `SSDLite` or `DeepLabV3`, such as `num_classes`,
            `patch_sizes`, `fusion`, `kernel_size`, `output_stride`, `dtype`.

    Returns:
        The Linen module: `MobileViT`, or `SSDLite` or `DeepLabV3` for names that begin so.

    Raises:
        ConfigurationError: If the name or an option is unknown, or an option's value is not
            allowed; the nearest known name is suggested.
    """
    if name not in list_models():
        raise unknown_name("model", name, list_models())
    kind, _, size = name.rpartition("_")
    allowed = option_names(KINDS[kind])
    for option in options:
        if option not in allowed:
            raise _unknown_option(option, name, allowed)
    variant = options.pop("variant", VARIANTS[size])
    chosen: dict[str, Any] = {"dropout": variant.dropout, **options}
    chosen |= {key: tuple(chosen[key]) for key in _TRIPLES if isinstance(chosen.get(key), list)}
    model = KINDS[kind](variant, **chosen)
    _check(model)
    return model


def option_names(module: type[BackboneModel]) -> list[str]:
    """Returns the options of a kind of model, which are the fields of its module, sorted."""
    return sorted({field.name for field in dataclasses.fields(module)} - {"parent", "name"})


def kind_of(model: Any) -> str:
    """Returns which of `KINDS` a model is of."""
    return next(kind for kind, module in KINDS.items() if type(model) is module)


def model_name(model: Any) -> str | None:
    """Returns the name whose widths and depths a model has, whatever its rate of dropout.

    None if they are those of no published size.
    """
    for size, variant in VARIANTS.items():
        if dataclasses.replace(model.variant, dropout=variant.dropout) == variant:
            return f"{kind_of(model)}_{size}"
    return None


def _unknown_option(option: str, name: str, allowed: list[str]) -> ConfigurationError:
    hint = nearest(option, allowed)
    others = [kind for kind, module in KINDS.items() if option in option_names(module)]
    if others:
        hint = f" (an option of {' and '.join(f'{kind}_*' for kind in others)})"
    return ConfigurationError(
        f"unknown option {option!r} of {name}{hint}; known: {', '.join(allowed)}"
    )


def _check(model: Any) -> None:
    """Raises ConfigurationError for a field that the model cannot be built with."""
    _check_triple("patch_sizes", model.patch_sizes, "for layer_3, layer_4 and layer_5")
    if model.output_stride not in OUTPUT_STRIDES:
        raise ConfigurationError(
            f"output_stride must be one of {sorted(OUTPUT_STRIDES)}; got {model.output_stride!r}"
        )
    if model.kernel_size < 1 or model.kernel_size % 2 == 0:
        raise ConfigurationError(
            f"kernel_size must be a positive odd integer; got {model.kernel_size!r}"
        )
    for field in _RATES:
        if not 0 <= getattr(model, field, 0) < 1:
            raise ConfigurationError(f"{field} must be in [0, 1); got {getattr(model, field)!r}")
    if isinstance(model, MobileViT):
        if model.num_classes < 0:
            raise ConfigurationError(
                f"num_classes must be 0 (pooled features) or more; got {model.num_classes!r}"
            )
    elif model.num_classes < 2:
        raise ConfigurationError(
            "num_classes must be 2 or more, the background and at least one class; got "
            f"{model.num_classes!r}"
        )
    if isinstance(model, SSDLite):
        _check_anchors(model)
    if isinstance(model, DeepLabV3):
        _check_triple("aspp_rates", model.aspp_rates, "dilations of the pyramid")
        for field in ("aspp_features", "aux_width"):
            if getattr(model, field) < 1:
                raise ConfigurationError(
                    f"{field} must be at least 1; got {getattr(model, field)!r}"
                )


def _check_triple(field: str, values: Any, what: str) -> None:
    if (
        not isinstance(values, tuple)
        or len(values) != 3
        or any(not isinstance(value, int) or value < 1 for value in values)
    ):
        raise ConfigurationError(f"{field} must be three positive integers, {what}; got {values!r}")


def _check_anchors(model: SSDLite) -> None:
    levels = len(model.anchor_config.aspect_ratios)
    if levels != len(LEVELS):
        raise ConfigurationError(
            f"anchor_config must have the aspect ratios of {len(LEVELS)} levels; got {levels}"
        )
