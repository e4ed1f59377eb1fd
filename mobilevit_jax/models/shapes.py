"""Shapes of a model's variables, read from its fields: tracing `init` would take most of a second.

Each function yields what one module holds, in the order of use, under the module's own names.
"""

import itertools
from collections.abc import Iterator

from mobilevit_jax.models.backbone import BackboneModel
from mobilevit_jax.models.deeplabv3 import DeepLabV3
from mobilevit_jax.models.ssdlite import LEVELS, SSDLite
from mobilevit_jax.models.variants import Variant
from mobilevit_jax.tasks.detection.anchors import anchors_per_location

Shape = tuple[int, ...]
Path = tuple[str, ...]
# (collection, path inside it, shape)
_Variable = tuple[str, Path, Shape]


def variable_shapes(model: BackboneModel) -> dict[Path, Shape]:
    """Returns the shape of every variable that `model.init` makes.

    Args:
        model: A model of `create_model`.

    Returns:
        {("params", "backbone", "conv_1", "conv", "kernel"): (3, 3, 3, 16), ...} and the same under
        "batch_stats", in the order of use: norms stand beside their convolutions.
    """
    head: Iterator[_Variable]
    if isinstance(model, SSDLite):
        head = _ssdlite_head(model)
    elif isinstance(model, DeepLabV3):
        head = _deeplabv3_head(model)
    else:
        head = _classifier_head(model)
    backbone = _backbone(model.variant, fusion=model.fusion, kernel_size=model.kernel_size)
    variables = itertools.chain(_within("backbone", backbone), head)
    return {(collection, *path): shape for collection, path, shape in variables}


def _classifier_head(model: BackboneModel) -> Iterator[_Variable]:
    variant = model.variant
    block = _conv_block(variant.channels[5], variant.exp_channels)
    yield from _within("conv_1x1_exp", block)
    if model.num_classes:
        yield from _within("classifier", _dense(variant.exp_channels, model.num_classes))


def _ssdlite_head(model: SSDLite) -> Iterator[_Variable]:
    """The extra levels, then the predictor of each level (`ssdlite.LEVELS`)."""
    found = {"layer_4": model.variant.channels[4], "layer_5": model.variant.channels[5]}
    inputs = found["layer_5"]
    for level in LEVELS[2:]:
        if level is LEVELS[-1]:
            yield from _within(level.name, _conv(inputs, level.features))
        else:
            yield from _within(level.name, _depthwise(inputs))
            pointwise = _conv_block(inputs, level.features)
            yield from _within(level.name, _within("pointwise", pointwise))
        found[level.name] = inputs = level.features
    for index, count in enumerate(anchors_per_location(model.anchor_config)):
        level, scope = LEVELS[index], f"head_{index}"
        if found[level.name] != level.width:
            project = _conv_block(found[level.name], level.width)
            yield from _within(scope, _within("project", project))
        if level is not LEVELS[-1]:
            yield from _within(scope, _depthwise(level.width))
        predict = _conv(level.width, count * (4 + model.num_classes), bias=True)
        yield from _within(scope, _within("predict", predict))


def _deeplabv3_head(model: DeepLabV3) -> Iterator[_Variable]:
    """The pyramid, the classifier and the auxiliary head (`deeplabv3.DeepLabV3`)."""
    inputs, features = model.variant.channels[5], model.aspp_features
    blocks = {"conv_0": _conv_block(inputs, features)}
    blocks |= {f"conv_{index}": _conv_block(inputs, features, 3) for index in (1, 2, 3)}
    blocks["pool"] = _conv_block(inputs, features)
    blocks["project"] = _conv_block(5 * features, features)
    for name, block in blocks.items():
        yield from _within("aspp", _within(name, block))
    yield from _within("classifier", _conv(features, model.num_classes, bias=True))
    if model.aux_head:
        inputs = model.variant.channels[4]
        width = max(inputs // 4, model.aux_width)
        yield from _within("aux_conv", _conv_block(inputs, width, 3))
        yield from _within("aux_classifier", _conv(width, model.num_classes, bias=True))


def _backbone(variant: Variant, *, fusion: bool, kernel_size: int) -> Iterator[_Variable]:
    """conv_1 and layer_1 to layer_5 (`backbone.Backbone`)."""
    channels = variant.channels
    yield from _within("conv_1", _conv_block(3, channels[0], 3))
    for number in range(1, 6):
        stage, inputs, features = f"layer_{number}", channels[number - 1], channels[number]
        for index in range(3 if number == 2 else 1):
            residual = _inverted_residual(features if index else inputs, features, variant)
            yield from _within(stage, _within(f"block_{index}", residual))
        if number >= 3:
            block = _mobilevit_block(features, number - 3, variant, fusion, kernel_size)
            yield from _within(stage, _within("mobilevit", block))


def _inverted_residual(inputs: int, features: int, variant: Variant) -> Iterator[_Variable]:
    hidden = inputs * variant.expansion
    yield from _within("expand_1x1", _conv_block(inputs, hidden))
    yield from _within("conv_3x3", _conv_block(1, hidden, 3))  # depthwise
    yield from _within("reduce_1x1", _conv_block(hidden, features))


def _mobilevit_block(
    channels: int, index: int, variant: Variant, fusion: bool, kernel_size: int
) -> Iterator[_Variable]:
    dim = variant.dims[index]
    yield from _within("local_conv", _conv_block(channels, channels, kernel_size))
    yield from _within("local_project", _conv(channels, dim))
    for layer in range(variant.depths[index]):
        transformer = _transformer(dim, dim * variant.ffn_multiplier)
        yield from _within(f"transformer_{layer}", transformer)
    yield from _within("final_norm", _norm(dim))
    yield from _within("project", _conv_block(dim, channels))
    if fusion:
        yield from _within("fusion", _conv_block(2 * channels, channels, kernel_size))


def _transformer(dim: int, ffn_dim: int) -> Iterator[_Variable]:
    yield from _within("attention_norm", _norm(dim))
    yield from _within("attention", _within("qkv", _dense(dim, 3 * dim)))
    yield from _within("attention", _within("out", _dense(dim, dim)))
    yield from _within("ffn_norm", _norm(dim))
    yield from _within("ffn_expand", _dense(dim, ffn_dim))
    yield from _within("ffn_reduce", _dense(ffn_dim, dim))


def _conv_block(inputs: int, features: int, kernel_size: int = 1) -> Iterator[_Variable]:
    """Convolution without bias, batch norm with running statistics."""
    yield from _within("conv", _conv(inputs, features, kernel_size))
    yield from _within("norm", _norm(features))
    for statistic in ("mean", "var"):
        yield "batch_stats", ("norm", statistic), (features,)


def _depthwise(features: int) -> Iterator[_Variable]:
    return _within("depthwise", _conv_block(1, features, 3))


def _conv(
    inputs: int, features: int, kernel_size: int = 1, *, bias: bool = False
) -> Iterator[_Variable]:
    yield "params", ("kernel",), (kernel_size, kernel_size, inputs, features)
    if bias:
        yield "params", ("bias",), (features,)


def _dense(inputs: int, features: int) -> Iterator[_Variable]:
    yield "params", ("kernel",), (inputs, features)
    yield "params", ("bias",), (features,)


def _norm(features: int) -> Iterator[_Variable]:
    yield "params", ("scale",), (features,)
    yield "params", ("bias",), (features,)


def _within(name: str, variables: Iterator[_Variable]) -> Iterator[_Variable]:
    """Puts a module's variables under its name."""
    return ((collection, (name, *path), shape) for collection, path, shape in variables)
