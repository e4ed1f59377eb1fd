"""A model's options as an experiment states them: those of every backbone and head, in one class.

Each option is written where it belongs, as a field of a backbone's or a head's module; here the
fields are put together, so that files, JSON and command line have them typed under one name.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp

from mobilevit_jax.models import registry


@dataclass(frozen=True)
class _Stated:
    """Which model, and its options; None takes the model's own published value.

    An option that the model does not have is refused.

    Attributes:
        name: One of `list_models()`; `mobilevit models` shows them.
        num_classes: Classes, with the background for `ssdlite_*` and segmentation models; None
            takes the data set's.
        sync_batch_norm: Whether batch statistics are averaged over devices; the paper's
            classification runs keep each device's own.
        unbiased_variance: Whether running variances are unbiased, as PyTorch keeps them.
        remat: Whether activations are computed again in the backward pass to save memory.
        freeze_backbone: Whether only the head is trained; see `init_from`.
        dtype: Type of the computation; parameters, statistics and losses stay float32.
    """

    name: str = "mobilevit_s"
    num_classes: int | None = None
    _: KW_ONLY
    sync_batch_norm: bool = False
    unbiased_variance: bool = True
    remat: bool = False
    freeze_backbone: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, num_classes: int, bn_axis_name: str) -> Any:
        """Creates the module.

        Args:
            num_classes: Classes of the data set, used if the configuration has none.
            bn_axis_name: Devices' axis that synchronised batch norm averages over.

        Returns:
            What `create_model` returns.

        Raises:
            ConfigurationError: As `create_model` does, also for an option that the model does not
                have.
        """
        return registry.create_model(
            self.name,
            num_classes=num_classes if self.num_classes is None else self.num_classes,
            bn_axis_name=bn_axis_name if self.sync_batch_norm else None,
            bn_unbiased=self.unbiased_variance,
            remat=self.remat,
            freeze_backbone=self.freeze_backbone,
            dtype=jnp.dtype(self.dtype),
            **self.options(),
        )

    def options(self) -> dict[str, Any]:
        """Returns the options of the backbone and the head that are set, as `create_model` does."""
        stated = {name: getattr(self, name) for name in _OPTIONS}
        given = {name: value for name, value in stated.items() if value != _OPTIONS[name].default}
        for head in registry.all_heads().values():
            if head.spelled and (names := set(head.spelled.names) & given.keys()):
                given |= head.spelled.option(**{name: given.pop(name) for name in names})
        return given


@dataclass(frozen=True)
class _Option:
    """A field that stands for an option of some backbones or heads."""

    hint: Any
    default: Any
    text: str


def _options() -> dict[str, _Option]:
    """Collects the options of all modules.

    One of a backbone has the value that it has in every backbone with such an option; others, and
    those of heads, are None, which leaves them to the model.
    """
    heads = registry.all_heads().values()
    hidden = {"num_classes"}.union(*(head.unstated for head in heads))
    hidden |= {head.spelled.replaces for head in heads if head.spelled}
    found: dict[str, _Option] = {}
    for family in registry.families().values():
        left_open = {name for head in heads for name in head.backbone_defaults}
        left_open |= family.defaults(next(iter(family.variants.values()))).keys()
        _add(found, family.module, registry.option_names(family.module), left_open)
    for head in heads:
        names = set(registry.option_names(head.module)) - hidden
        _add(found, head.module, names, names, head.defaults)
        if head.spelled:
            _add(found, head.spelled.owner, head.spelled.names, set(head.spelled.names))
    return found


def _add(
    found: dict[str, _Option],
    owner: Any,
    names: Collection[str],
    left_open: Collection[str],
    varying: Collection[str] = (),
) -> None:
    """Adds fields of a class; what two owners have apart is left to the model.

    Of those that vary with the backbone, the text has no value.
    """
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        if field.name not in names:
            continue
        hint = hints[field.name]
        default = None if field.name in left_open else field.default
        text = _described(field.name, owner)
        if default is None and field.default is not None and field.name not in varying:
            text = f"{text} {owner.__name__}'s own value is {field.default}."
        known = found.get(field.name, _Option(hint, default, text))
        if known.hint != hint:
            raise TypeError(f"the option {field.name} has two types, {known.hint} and {hint}")
        agreed = default if known.default == default else None
        found[field.name] = dataclasses.replace(known, default=agreed)


def _described(name: str, owner: Any) -> str:
    """Returns what a class's docstring says of a field, on one line; "" under `python -OO`."""
    text = inspect.getdoc(owner) or ""
    found = re.search(rf"^    {name}: (.*?)(?=^    \w|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _composed(options: dict[str, _Option]) -> type[_Stated]:
    """Puts the options behind the fields that every model has."""
    composed = dataclasses.make_dataclass(
        "ModelConfig",
        [
            (name, option.hint | None if option.default is None else option.hint, option.default)
            for name, option in options.items()
        ],
        bases=(_Stated,),
        frozen=True,
        kw_only=True,
    )
    lines = [f"    {name}: {option.text}" for name, option in options.items()]
    composed.__doc__ = "\n".join([inspect.getdoc(_Stated) or "", *lines])
    composed.__module__ = __name__
    return composed


_OPTIONS = _options()

if TYPE_CHECKING:

    class ModelConfig(_Stated):
        """See `_Stated`; the options of backbones and heads are fields too."""

        def __init__(self, name: str = ..., **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    ModelConfig = _composed(_OPTIONS)
