"""Models by name: `create_model` and `list_models` are the only registry."""

import dataclasses
import fnmatch
from typing import Any

from mobilevit_jax.errors import ConfigurationError, nearest, unknown_name
from mobilevit_jax.models.mobilevit import OUTPUT_STRIDES, MobileViT, attention_maps
from mobilevit_jax.models.variants import VARIANTS, Variant

__all__ = ["MobileViT", "VARIANTS", "Variant", "attention_maps", "create_model", "list_models"]


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that `create_model` takes, those matching a shell pattern if given."""
    return sorted(fnmatch.filter([f"mobilevit_{size}" for size in VARIANTS], pattern))


def create_model(name: str, **options: Any) -> MobileViT:
    """Creates a model by name; nothing is computed until `init` or `apply`.

    Args:
        name: One of `list_models()`.
        **options: Fields of `MobileViT`, such as `num_classes`, `patch_sizes`, `fusion`,
            `kernel_size`, `output_stride`, `dtype`.

    Returns:
        The Linen module.

    Raises:
        ConfigurationError: If the name or an option is unknown, or an option's value is not
            allowed; the nearest known name is suggested.
    """
    if name not in list_models():
        raise unknown_name("model", name, list_models())
    allowed = {field.name for field in dataclasses.fields(MobileViT)} - {"parent", "name"}
    for option in options:
        if option not in allowed:
            hint = nearest(option, allowed)
            raise ConfigurationError(
                f"unknown option {option!r} of {name}{hint}; known: {', '.join(sorted(allowed))}"
            )
    variant = options.pop("variant", VARIANTS[name.removeprefix("mobilevit_")])
    model = MobileViT(variant, **({"dropout": variant.dropout} | options))
    if isinstance(model.patch_sizes, list):
        model = model.clone(patch_sizes=tuple(model.patch_sizes))
    _check(model)
    return model


def _check(model: MobileViT) -> None:
    """Raises ConfigurationError for a field that the model cannot be built with."""
    sizes = model.patch_sizes
    if (
        not isinstance(sizes, tuple)
        or len(sizes) != 3
        or any(not isinstance(size, int) or size < 1 for size in sizes)
    ):
        raise ConfigurationError(
            f"patch_sizes must be three positive integers, for layer_3, layer_4 and layer_5; "
            f"got {sizes!r}"
        )
    if model.output_stride not in OUTPUT_STRIDES:
        raise ConfigurationError(
            f"output_stride must be one of {sorted(OUTPUT_STRIDES)}; got {model.output_stride!r}"
        )
    if model.kernel_size < 1 or model.kernel_size % 2 == 0:
        raise ConfigurationError(
            f"kernel_size must be a positive odd integer; got {model.kernel_size!r}"
        )
    if model.num_classes < 0:
        raise ConfigurationError(
            f"num_classes must be 0 (pooled features) or more; got {model.num_classes!r}"
        )
    for field in ("dropout", "attention_dropout", "ffn_dropout", "classifier_dropout"):
        if not 0 <= getattr(model, field) < 1:
            raise ConfigurationError(f"{field} must be in [0, 1); got {getattr(model, field)!r}")
