"""What variables a model has, and what draws them: read off one abstract call of `init`."""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mobilevit_jax.models.attention import LayerNorm
from mobilevit_jax.models.layers import BatchNorm, Conv, Dense, Initializer
from mobilevit_jax.ops.dispatch import use_form

Shape = tuple[int, ...]
Path = tuple[str, ...]

# Of one module, in the order in which other libraries keep them.
_ORDER = ("kernel", "scale", "bias", "mean", "var")
# Exactly these: what a subclass or a lifted module draws is its own matter.
_OURS = (Conv, Dense, BatchNorm, LayerNorm)
_SIDE = 32  # pixels of the image that is traced; variables do not depend on it


@dataclass(frozen=True)
class Variables:
    """The variables of a model.

    Attributes:
        shapes: {("params", "backbone", "conv_1", "conv", "kernel"): (3, 3, 3, 16), ...} and the
            same under "batch_stats", in the order of use: norms stand beside their convolutions.
        initializers: What draws each kernel of this package's layers.
        constants: What all numbers of each other variable of theirs start as.
        eps: What is added to the variance, by the path of each batch norm without collection.
        foreign: Whether layers of others have variables too.
    """

    shapes: dict[Path, Shape]
    initializers: dict[Path, Initializer]
    constants: dict[Path, float]
    eps: dict[Path, float]
    foreign: bool


def variables_of(model: nn.Module) -> Variables:
    """Returns the variables that `model.init` makes, without computing anything.

    Args:
        model: A model of `create_model`.
    """
    try:
        return _remembered(model)
    except TypeError:  # a field of the caller's own backbone that cannot be hashed
        return _traced(model)


def _traced(model: nn.Module) -> Variables:
    modules: dict[Path, nn.Module] = {}

    def note(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        modules.setdefault(context.module.path, context.module)
        return next_call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), np.float32)
    # The form for accelerators is the one that takes least to trace.
    with use_form("accelerator"), nn.intercept_methods(note):
        tree = jax.eval_shape(model.init, jax.random.key(0), image)
    shapes: dict[Path, Shape] = {
        tuple(part.key for part in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    places = {path: place for place, path in enumerate(modules)}
    ordered = sorted(shapes, key=lambda path: (places.get(path[1:-1], len(places)), _rank(path)))
    owners: dict[Path, Any] = {path: modules.get(path[1:-1]) for path in ordered}
    initializers = {
        path: owner.kernel_init
        for path, owner in owners.items()
        if path[-1] == "kernel"
        and type(owner) in (Conv, Dense)
        # A kernel that is drawn in another way is none of ours.
        and isinstance(owner.kernel_init, Initializer)
    }
    ours = {p for p, o in owners.items() if type(o) in _OURS}
    ours -= {path for path in ours if path[-1] == "kernel" and path not in initializers}
    return Variables(
        {path: shapes[path] for path in ordered},
        initializers,
        {path: _constant(path, owners[path]) for path in ours - initializers.keys()},
        {path: module.eps for path, module in modules.items() if isinstance(module, BatchNorm)},
        foreign=ours != set(ordered),
    )


def _constant(path: Path, owner: Any) -> float:
    if path[-1] == "bias" and isinstance(owner, Conv):
        return owner.first_bias
    return float(path[-1] in ("scale", "var"))


_remembered = functools.lru_cache(maxsize=64)(_traced)


def _rank(path: Path) -> int:
    return _ORDER.index(path[-1]) if path[-1] in _ORDER else -1


def variable_shapes(model: nn.Module) -> dict[Path, Shape]:
    """Returns the shape of every variable that `model.init` makes; see `Variables.shapes`."""
    return variables_of(model).shapes
