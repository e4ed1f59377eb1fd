"""Parameters, multiply-adds and feature shapes of a model, counted from the modules themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from mobilevit_jax.models.attention import MultiHeadAttention
from mobilevit_jax.models.backbone import BackboneModel
from mobilevit_jax.models.layers import Conv, Dense
from mobilevit_jax.models.shapes import variable_shapes

Convention = Literal["true", "paper"]

PUBLISHED_SIZES = {"mobilevit": 256, "ssdlite_mobilevit": 320, "deeplabv3_mobilevit": 512}
"""Sides of the images that the published models were evaluated on, by the kind of model."""


@dataclass(frozen=True)
class Stage:
    """One part of a model.

    Attributes:
        name: "conv_1", "layer_1", ..., or the head's own name.
        parameters: Trainable numbers.
        macs: Multiply-adds for one image; 0 for an auxiliary head, which only training has.
        shape: Output [h, w, c] of one image, () where there is no map.
    """

    name: str
    parameters: int
    macs: int
    shape: tuple[int, ...]


def stages(
    model: nn.Module,
    height: int = 256,
    width: int | None = None,
    *,
    convention: Convention = "true",
) -> list[Stage]:
    """Counts a model stage by stage, in order of use, without computing anything.

    Multiply-adds are those of convolutions, linear layers, QK^T and AV. Resizing, norms and
    activations are not counted. The paper's "FLOPs" are those of CVNets v0.1's profiler, which
    prices QK^T and AV at N d^2 each instead of N^2 d, and counts a bias as a multiply-add. The
    convention "paper" gives its figures for classifiers and segmentation models, and 0.1% more for
    detectors.

    Args:
        model: A model of `create_model`.
        height: Image height in pixels.
        width: Image width in pixels; the height if None.
        convention: "true", or "paper" for the profiler's.
    """
    image = jax.ShapeDtypeStruct((1, height, width or height, 3), np.float32)
    macs: dict[str, int] = {}

    def count(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_call(*args, **kwargs)
        if context.method_name == "__call__" and (
            more := _macs(context.module, args[0], output, convention) if args else 0
        ):
            stage = _stage(context.module.path)
            macs[stage] = macs.get(stage, 0) + more
        return output

    variables = _variables(model, image)
    with nn.intercept_methods(count):
        _, features = jax.eval_shape(
            lambda v, x: model.apply(v, x, features=True), variables, image
        )
    parameters: dict[str, int] = {}
    for path, leaf in _leaves(variables["params"]):
        stage = _stage(path)
        parameters[stage] = parameters.get(stage, 0) + leaf.size
    # Every stage has a layer, so that those are in order of use; what evaluation leaves out is
    # last.
    order = [*macs, *sorted(parameters.keys() - macs.keys())]
    return [
        Stage(
            name,
            parameters[name],
            macs.get(name, 0),
            features[name].shape[1:] if name in features else (),
        )
        for name in order
    ]


def total_parameters(model: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(stage.parameters for stage in stages(model, 32))


def total_macs(
    model: nn.Module,
    height: int = 256,
    width: int | None = None,
    *,
    convention: Convention = "true",
) -> int:
    """Returns the multiply-adds of one image; see `stages`."""
    return sum(stage.macs for stage in stages(model, height, width, convention=convention))


def _macs(module: nn.Module, x: Any, output: Any, convention: Convention) -> int:
    """Multiply-adds of one call of a layer; 0 for modules that only hold layers."""
    biased = convention == "paper"
    if isinstance(module, Conv):
        inputs = 1 if module.depthwise else x.shape[-1]
        return output.size * (inputs * module.kernel_size**2 + (biased and module.use_bias))
    if isinstance(module, Dense):
        return output.size * (x.shape[-1] + biased)
    if isinstance(module, MultiHeadAttention):
        # QK^T and AV over n tokens of width d each.
        return 2 * x.size * x.shape[-1 if convention == "paper" else -2]
    return 0


def _stage(path: tuple[str, ...]) -> str:
    """The part of a parameter path that names its stage."""
    return path[1] if path[0] == "backbone" else path[0]


def _variables(model: nn.Module, image: jax.ShapeDtypeStruct) -> Any:
    if not isinstance(model, BackboneModel):
        return jax.eval_shape(model.init, jax.random.key(0), image)
    shapes = variable_shapes(model).items()  # tracing would double the time
    return traverse_util.unflatten_dict(
        {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes}
    )


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(key.key for key in path), leaf
