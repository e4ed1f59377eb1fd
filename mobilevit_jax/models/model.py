"""What a model is made of: a backbone that maps images to maps, and a head on it.

A backbone is any Linen module with `__call__(images, train=False) -> {stage: map}` and a property
`stages`, see `Backbone`; nothing else is asked of it, so that it need not come from this package.
A file of `models/backbones/` has a `FAMILY`, one of `models/heads/` a `HEAD`; `models/registry.py`
finds both. Nothing else in the package names either, but for the formats of other libraries.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jax import lax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.huggingface_form import HuggingFaceForm
from mobilevit_jax.models.layers import Common
from mobilevit_jax.models.names import BackboneNames, HeadNames, Tensors

Stages = Mapping[str, tuple[int, int]]


@runtime_checkable
class Backbone(Protocol):
    """What a head asks of the network that it stands on."""

    @property
    def stages(self) -> Stages:
        """{stage: (stride, channels)} of the maps, finest first.

        A map of stride s has ceil(height / s) x ceil(width / s) places, unless the backbone has a
        method `map_sizes(height, width)` too, which then tells {stage: (height, width)}.
        """
        ...

    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images [b, h, w, 3] to {stage: map [b, h', w', channels]}."""
        ...


@dataclass(frozen=True)
class Accuracy:
    """What others report of a classifier on the validation images of ImageNet-1k.

    Attributes:
        variant: One of the family's.
        top1: A fraction.
        source: Where the figure stands.
        options: Of `create_model`, where the network is not the one that the name alone makes.
    """

    variant: str
    top1: float
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Backbones of one architecture.

    Attributes:
        name: Such as "mobilevit".
        module: The Linen module; `module(variant=..., common=...)`, and its other fields are
            options of `create_model`.
        variants: {name: widths and depths}, such as "mobilevit_xxs".
        defaults: Options that a variant has in place of the module's own.
        check: Raises ConfigurationError for options that it cannot be built with.
        names: {layout: names}, its tensors in other implementations.
        published: Returns the name of a variant in `variants`, whatever its rates; or None.
        same_tensors: Whether two variants have tensors of the same names and shapes.
        recognise: Returns of tensors the name in `variants`, or None for a size of nobody's table,
            and the options that follow from them; raises DataError.
        head_defaults: {head: options} that published models have in place of the head's own.
        huggingface: Its fields in transformers' `config.json`, None if it has no such form.
        timm: Fields of timm's `pretrained_cfg` where a file is silent and this family is not like
            the others; None if timm does not have it.
        accuracies: What is known of its classifiers, one figure for each network.
    """

    name: str
    module: Any
    variants: Mapping[str, Any]
    defaults: Callable[[Any], dict[str, Any]]
    check: Callable[[Any], None]
    names: Mapping[str, BackboneNames]
    published: Callable[[Any], str | None]
    same_tensors: Callable[[Any, Any], bool]
    recognise: Callable[[Tensors], tuple[str | None, dict[str, Any]]]
    head_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    huggingface: HuggingFaceForm | None = None
    timm: Mapping[str, Any] | None = None
    accuracies: tuple[Accuracy, ...] = ()


@dataclass(frozen=True)
class Spelled:
    """Fields of a configuration that stand together for one option of a head.

    Attributes:
        replaces: The option.
        owner: A dataclass whose fields are those of the configuration, None where not given.
        make: Makes the option of an instance of `owner`.
    """

    replaces: str
    owner: Any
    make: Callable[[Any], Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields."""
        return tuple(field.name for field in dataclasses.fields(self.owner))

    def option(self, **given: Any) -> dict[str, Any]:
        """Returns the option, by its name."""
        return {self.replaces: self.make(self.owner(**given))}


@dataclass(frozen=True)
class Head:
    """A head, and what belongs to it wherever models are used.

    Attributes:
        name: Such as "ssdlite"; `create_model(name, backbone=...)` takes it.
        prefix: What stands in front of a backbone's name in the name of a model.
        module: The Linen module; its fields but `backbone` and `common` are options of
            `create_model`.
        task: "classification", "detection" or "segmentation".
        input_size: Side in pixels of the images that published models were evaluated on.
        first_named: Index of the first class that has a name: the background of SSDLite has none.
        letterboxed: Whether it is trained on letterboxed images.
        check: Raises ConfigurationError for options that it cannot be built with.
        saved_as: What `config.json` calls it, by the name that it had first.
        recognise: Returns of tensors the options that follow from them; raises DataError.
        class_modules: Names of its modules whose outputs are one for each class, or several such
            rows.
        beside_classes: Outputs in front of the classes of each row.
        backbone_defaults: Options of backbones that it has in place of their own.
        defaults: Options that go with the backbone, such as widths, and what tells them of it.
        names: {layout: names}, its tensors in other implementations; of two of one layout, the
            first is written.
        spelled: How configurations spell an option that is no plain value.
        training_only: Its modules that only training computes.
        unstated: Options that experiments do not have, since training needs the default.
    """

    name: str
    prefix: str
    module: Any
    task: str
    input_size: int
    first_named: int
    check: Callable[[Any], None]
    saved_as: str
    recognise: Callable[[Tensors], dict[str, Any]]
    class_modules: tuple[str, ...]
    letterboxed: bool = False
    beside_classes: int = 0
    backbone_defaults: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    names: Mapping[str, tuple[HeadNames, ...]] = field(default_factory=dict)
    spelled: Spelled | None = None
    training_only: frozenset[str] = frozenset()
    unstated: frozenset[str] = frozenset()


class Model(nn.Module):
    """What all heads share; `create_model` builds them by name.

    Attributes:
        backbone: The network below; its variables stand under "backbone".
        num_classes: Classes; what else it may be is for the head to say.
        common: What its layers share.
    """

    backbone: nn.Module
    num_classes: int = 1000
    common: Common = Common()

    def maps(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Runs the backbone; called inside a compact `__call__`.

        Args:
            images: [b, h, w, 3].
            train: Whether the model is being trained; a frozen backbone is not.

        Returns:
            {stage: map [b, h, w, c]}.
        """
        frozen = train and self.common.freeze_backbone
        found = self.backbone(images, train and not frozen)
        return lax.stop_gradient(found) if frozen else found


def deepest(stages: Stages, stride: int, before: str | None = None) -> str:
    """Returns the deepest stage of a stride, or of a finer one where the backbone has no such.

    Args:
        stages: Of a backbone.
        stride: 32, 16 or 8: the image's size over that of the map.
        before: A stage that it must come before, so that two levels are two stages also where a
            backbone keeps its resolution (`output_stride`).

    Raises:
        ConfigurationError: If there is none.
    """
    names = list(stages)
    names = names[: names.index(before)] if before else names
    for name in reversed(names):
        if stages[name][0] <= stride:
            return name
    strides = ", ".join(str(found) for found, _ in stages.values())
    raise ConfigurationError(
        f"the head needs a map of stride {stride}{f' before {before}' if before else ''}, and the "
        f"backbone's stages have the strides {strides or 'of none'}; choose another backbone or "
        "head"
    )


def map_sizes(backbone: Any, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Returns (height, width) of the map of each stage of a backbone for an image.

    Odd sides round up where the backbone does not tell otherwise.
    """
    if own := getattr(backbone, "map_sizes", None):
        return own(height, width)
    return {name: (-(-height // s), -(-width // s)) for name, (s, _) in backbone.stages.items()}


def check_rates(module: nn.Module) -> None:
    """Raises ConfigurationError for a field called "..._dropout" that is no rate."""
    for option in dataclasses.fields(module):
        value = getattr(module, option.name)
        is_rate = option.name.rpartition("_")[2] == "dropout"
        if is_rate and not isinstance(option.default, bool) and not 0 <= value < 1:
            raise ConfigurationError(f"{option.name} must be in [0, 1); got {value!r}")


def check_classes(model: Model) -> None:
    """Raises ConfigurationError if there is no class beside the background."""
    if model.num_classes < 2:
        raise ConfigurationError(
            "num_classes must be 2 or more, the background and at least one class; got "
            f"{model.num_classes!r}"
        )


def check_triple(name: str, values: Any, what: str) -> None:
    """Raises ConfigurationError for anything but three positive integers."""
    whole = isinstance(values, tuple) and all(isinstance(v, int) and v > 0 for v in values)
    if not whole or len(values) != 3:
        raise ConfigurationError(f"{name} must be three positive integers, {what}; got {values!r}")
