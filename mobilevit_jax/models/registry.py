"""Models by name: finds backbones and heads by their files, and joins them.

A name is head + backbone + variant, "deeplabv3_mobilevit_s"; classifiers have no word for the head.
"""

import dataclasses
import fnmatch
import functools
import importlib
import numbers
import os.path
import pkgutil
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn

from mobilevit_jax.errors import ConfigurationError, nearest, quoted, unknown_name
from mobilevit_jax.models import backbones, heads
from mobilevit_jax.models.layers import Common
from mobilevit_jax.models.model import Backbone, Family, Head, Model

COMMON = tuple(field.name for field in dataclasses.fields(Common))
"""Names of the options that every model has."""

# Fields of a module that are no options: Linen's own, and what a model is put together from.
_PARTS = {"parent", "name", "backbone", "common"}
# Of options by the types of their defaults; NumPy's numbers are among them.
_KINDS = {bool: bool, int: numbers.Integral, float: numbers.Real}


@functools.cache
def families() -> Mapping[str, Family]:
    """Returns the kinds of backbones by name."""
    return {module.FAMILY.name: module.FAMILY for module in _modules_of(backbones)}


@functools.cache
def all_heads() -> Mapping[str, Head]:
    """Returns the heads by name."""
    return {module.HEAD.name: module.HEAD for module in _modules_of(heads)}


def _modules_of(package: ModuleType) -> list[Any]:
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


@functools.cache
def _names() -> Mapping[str, tuple[Head, Family, str]]:
    """Returns {name of a model: (its head, its kind of backbone, the variant)}."""
    return {
        f"{head.prefix}{variant}": (head, family, variant)
        for head in all_heads().values()
        for family in families().values()
        for variant in family.variants
    }


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that `create_model` takes, those matching a shell pattern if given."""
    return sorted(fnmatch.filter(_names(), pattern))


def create_model(name: str, *, backbone: nn.Module | None = None, **options: Any) -> Any:
    """Creates a model by name; nothing is computed until `init` or `apply`.

    Args:
        name: One of `list_models()`; with `backbone`, a head: "classifier", "ssdlite", "yolox" or
            "deeplabv3".
        backbone: A Linen module of your own, with `__call__(images, train=False)` that returns
            {stage: map [b, h, w, c]}, and a property `stages` that tells {stage: (stride,
            channels)}, finest first; a map of stride s has ceil(h / s) x ceil(w / s) places (see
            `models.model.Backbone`). It sees to its own dtype, norms and recomputation; options for
            those are the head's.
        **options: Of the head, the backbone and all models, such as `num_classes`, `patch_sizes`,
            `fusion`, `kernel_size`, `output_stride`, `dtype`.

    Returns:
        The Linen module: a `Classifier`, `SSDLite`, `YOLOX` or `DeepLabV3`.

    Raises:
        ConfigurationError: If the name or an option is unknown, or an option's value is not
            allowed; the nearest known name is suggested. If a backbone is not as said above.
    """
    if backbone is not None:
        if name not in all_heads():
            raise unknown_name("head for a backbone", name, all_heads())
        return _on(all_heads()[name], backbone, name, options)
    if name not in _names():
        hint = " (it is a head: give it a backbone=)" if name in all_heads() else ""
        raise ConfigurationError(f"{unknown_name('model', name, list_models())}{hint}")
    head, family, variant = _names()[name]
    return build(head, family, {"variant": family.variants[variant], **options}, name)


def build(head: Head, family: Family, options: Mapping[str, Any], name: str) -> Model:
    """Puts a model together.

    Args:
        head: The head.
        family: The kind of its backbone.
        options: Of both, and `COMMON`; "variant" among them.
        name: Of the model, for messages.

    Raises:
        ConfigurationError: As `create_model`.
    """
    below = [*option_names(family.module), "variant"]
    given = _known(options, {*below, *option_names(head.module), *COMMON}, name)
    kind = type(next(iter(family.variants.values())))
    if not isinstance(given["variant"], kind):
        raise ConfigurationError(
            f"variant of {name} must be a {kind.__name__} of {kind.__module__}, not "
            f"{quoted(given['variant'])}"
        )
    defaults = _only(head.backbone_defaults, below) | family.defaults(given["variant"])
    fields = defaults | _only(given, below)
    # Without a parent: `create_model` may be called inside a module of the caller's own.
    backbone = family.module(**fields, common=Common(**_only(given, COMMON)), parent=None)
    _check_kinds(backbone)
    family.check(backbone)
    return _joined(head, backbone, {**family.head_defaults.get(head.name, {}), **given})


def _on(head: Head, backbone: nn.Module, name: str, options: Mapping[str, Any]) -> Model:
    """Puts a head on a backbone that the caller has made."""
    if not isinstance(backbone, nn.Module) or not isinstance(backbone, Backbone):
        raise ConfigurationError(
            f"backbone must be a Linen module that has `stages` and can be called, not {backbone!r}"
        )
    if any(type(backbone) is family.module for family in families().values()):
        raise ConfigurationError(
            f"{type(backbone).__name__} is a backbone of this package: name a model of "
            "list_models() and give its options, such as variant"
        )
    strides = [stride for stride, _ in backbone.stages.values()]
    if not strides or strides != sorted(strides):
        raise ConfigurationError(
            f"{type(backbone).__name__}.stages must tell (stride, channels) of each stage, finest "
            f"first; got {dict(backbone.stages)!r}"
        )
    # Recomputing activations is for the stages to do, which are the caller's.
    allowed = {*option_names(head.module), *COMMON} - {"remat"}
    return _joined(head, backbone, _known(options, allowed, f"{name} on {type(backbone).__name__}"))


def _joined(head: Head, backbone: nn.Module, options: Mapping[str, Any]) -> Model:
    common, own = _only(options, COMMON), _only(options, option_names(head.module))
    beside = {name: of(backbone) for name, of in head.defaults.items()}
    model = head.module(backbone=backbone, common=Common(**common), **beside | own)
    _check_kinds(model.common)
    _check_kinds(model)
    head.check(model)
    return model


def _check_kinds(part: Any) -> None:
    """Raises ConfigurationError for an option that is no number, or not yes or no, but must be."""
    for option in dataclasses.fields(part):
        value, kind = getattr(part, option.name), type(option.default)
        fits = isinstance(value, _KINDS.get(kind, object))
        if kind in _KINDS and (not fits or isinstance(value, bool) is not (kind is bool)):
            raise ConfigurationError(
                f"{option.name} must be of the type {kind.__name__}, such as {option.default}; got "
                f"{value!r}"
            )


def _only(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _tupled(value: Any) -> Any:
    """Lists, as JSON has them, become tuples, which a module can be hashed with."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _known(options: Mapping[str, Any], allowed: Collection[str], name: str) -> dict[str, Any]:
    """Returns the options as modules take them, and refuses others than the allowed ones."""
    allowed = sorted(allowed)
    for option in options:
        if option in allowed:
            continue
        owners = [part for part, module in _parts().items() if option in option_names(module)]
        hint = f" (an option of {' and '.join(owners)})" if owners else nearest(option, allowed)
        raise ConfigurationError(
            f"unknown option {option!r} of {name}{hint}; known: {', '.join(allowed)}"
        )
    return {option: _tupled(value) for option, value in options.items()}


def _parts() -> dict[str, Any]:
    """Returns {how messages call it: module} of all backbones and heads."""
    found = {head.prefix and f"{head.prefix}*": head.module for head in all_heads().values()}
    found["classifiers"] = found.pop("")
    return found | {
        f"*{os.path.commonprefix(list(family.variants))}*": family.module
        for family in families().values()
    }


def option_names(module: Any) -> list[str]:
    """Returns the options of a head's or a backbone's module, sorted."""
    fields = {field.name for field in dataclasses.fields(module)}
    return sorted(fields - _PARTS - {"variant"})


def head_of(model: nn.Module) -> Head:
    """Returns the head that a model has.

    Raises:
        ConfigurationError: If it is none of `create_model`.
    """
    for head in all_heads().values():
        if type(model) is head.module:
            return head
    raise ConfigurationError(f"{type(model).__name__} is no model of create_model")


def family_of(model: nn.Module) -> Family | None:
    """Returns the kind of a model's backbone, None for one of the caller's own."""
    backbone = getattr(model, "backbone", None)
    return next((f for f in families().values() if type(backbone) is f.module), None)


def head_named(name: str) -> Head:
    """Returns the head that a model's name, or its beginning such as "ssdlite_mobilevit", tells.

    Raises:
        ConfigurationError: If no model is called so.
    """
    if name in all_heads():
        return all_heads()[name]
    for head in sorted(all_heads().values(), key=lambda head: -len(head.prefix)):
        kind = name.removeprefix(head.prefix)
        if name.startswith(head.prefix) and any(
            kind == family.name or kind in family.variants for family in families().values()
        ):
            return head
    raise unknown_name("model", name, list_models())


def kind_of(model: nn.Module) -> str:
    """Returns a model's name without its size, such as "ssdlite_mobilevit"."""
    head, family = head_of(model), family_of(model)
    return f"{head.prefix}{family.name}" if family else head.name


def model_name(model: nn.Module) -> str | None:
    """Returns the name whose widths and depths a model has, whatever its other options.

    None if they are those of no published size.
    """
    family = family_of(model)
    if family is None:
        return None
    name = family.published(model.backbone.variant)
    return f"{head_of(model).prefix}{name}" if name else None


def options_of(model: Model) -> dict[str, Any]:
    """Returns all options of a model, flat as `create_model` takes them, "variant" among them."""
    parts = [(model, option_names(type(model))), (model.common, list(COMMON))]
    if family := family_of(model):
        parts.insert(0, (model.backbone, ["variant", *option_names(family.module)]))
    return {name: getattr(part, name) for part, names in parts for name in names}


def with_options(model: Model, **changes: Any) -> Any:
    """Returns a model like another but for some options.

    Raises:
        ConfigurationError: As `create_model`.
    """
    head, family = head_of(model), family_of(model)
    options = options_of(model)
    if family is None:
        options.pop("remat")
        return _on(head, model.backbone, head.name, options | changes)
    options |= changes
    return build(head, family, options, model_name(model) or kind_of(model))
