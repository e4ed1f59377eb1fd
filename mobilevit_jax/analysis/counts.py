"""Parameters, multiply-adds and feature shapes of a model, counted from the modules themselves."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.attention import LayerNorm, MultiHeadAttention
from mobilevit_jax.models.layers import BatchNorm, Conv, Dense, Pending
from mobilevit_jax.models.registry import head_of
from mobilevit_jax.ops.dispatch import use_form

Convention = Literal["true", "paper"]
_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


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
    counted: dict[str, _Layer] = {}
    seen: set[tuple[str, ...]] = set()  # modules whose parameters are counted
    used: dict[tuple[str, ...], nn.Module] = {}

    def count(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, method = context.module, context.method_name
        output, layer = _count(module, method, args, lambda: next_call(*args, **kwargs), convention)
        if layer is not None:
            name = _stage(module.path)
            before = counted.get(name, _Layer(0, 0))
            parameters = 0 if module.path in seen else layer.parameters
            counted[name] = _Layer(before.parameters + parameters, before.macs + layer.macs)
            seen.add(module.path)
        elif _own(module):
            used[module.path] = module
        return output

    key = jax.random.key(0)
    with use_form("accelerator"), nn.intercept_methods(count):
        (_, features), _ = jax.eval_shape(
            lambda x: model.init_with_output(key, x, features=True), image
        )
    for path in used.keys() - seen:
        raise _unknown(used[path])
    unused = head_of(model).training_only
    return [
        Stage(
            name,
            layer.parameters,
            0 if name in unused else layer.macs,
            features[name].shape[1:] if name in features else (),
        )
        # What evaluation leaves out is last.
        for name, layer in sorted(counted.items(), key=lambda item: item[0] in unused)
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


class _Layer(NamedTuple):
    """What a call of a layer counts."""

    parameters: int
    macs: int


def _count(
    module: nn.Module, method: str, args: Any, call: Callable[[], Any], convention: Convention
) -> tuple[Any, _Layer | None]:
    """Returns the output of a method, and what it counts if the module is a layer.

    Of this package's layers only the shapes are made, since tracing what they compute takes most of
    the time.

    Raises:
        ConfigurationError: For a layer of an unknown kind with parameters of its own.
    """
    biased = convention == "paper"
    x: Any = args[0] if args else None
    if isinstance(module, BatchNorm) and method == "pending":
        return Pending(x), _Layer(2 * x.shape[-1], 0)
    if method != "__call__" or isinstance(module, BatchNorm):
        return call(), None
    if isinstance(module, LayerNorm):
        return x, _Layer(2 * x.shape[-1], 0)
    if isinstance(module, Conv | Dense):
        inputs, shape, use_bias = x.shape[-1], (*x.shape[:-1], module.features), True
        if isinstance(module, Conv):
            sides = (-(-side // module.stride) for side in x.shape[1:3])
            shape, use_bias = (x.shape[0], *sides, module.features), module.use_bias
            inputs = (1 if module.depthwise else inputs) * module.kernel_size**2
        macs = math.prod(shape) * (inputs + (biased and use_bias))
        parameters = module.features * (inputs + use_bias)
        return jnp.zeros(shape, x.dtype), _Layer(parameters, macs)
    output = call()
    own = _own(module)
    parameters = sum(parameter.size for parameter in own)
    if isinstance(module, MultiHeadAttention):
        # QK^T and AV over n tokens of width d each; the projections are layers of their own.
        return output, _Layer(0, 2 * x.size * x.shape[-1 if biased else -2])
    if isinstance(module, nn.Conv | nn.Dense):
        # The last axis of a kernel is its outputs, each a sum over all the others.
        kernel = max(own, key=lambda parameter: parameter.ndim)
        one = math.prod(kernel.shape[:-1]) + (biased and len(own) > 1)
        return output, _Layer(parameters, output.size * one)
    if own and not isinstance(module, _NORMS):
        raise _unknown(module)
    return output, _Layer(parameters, 0) if own else None


def _own(module: nn.Module) -> list[Any]:
    """Returns the parameters of a module that are not those of modules in it."""
    params = module.variables.get("params", {})
    return [parameter for parameter in params.values() if not isinstance(parameter, Mapping)]


def _unknown(module: nn.Module) -> ConfigurationError:
    return ConfigurationError(
        f"the multiply-adds of a {type(module).__name__} ({'/'.join(module.path)}) are not known; "
        "only calls of convolutions, linear layers, attention and norms are counted"
    )


def _stage(path: tuple[str, ...]) -> str:
    """The part of a parameter path that names its stage."""
    return path[1] if path[0] == "backbone" else path[0]
