"""Shapes of a model's variables, read from its fields: tracing `init` would take most of a second.

Each function yields what one module holds, in the order of use, under the module's own names.
"""

from collections.abc import Iterator

from mobilevit_jax.models.mobilevit import MobileViT
from mobilevit_jax.models.variants import Variant

Shape = tuple[int, ...]
Path = tuple[str, ...]
# (collection, path inside it, shape)
_Variable = tuple[str, Path, Shape]


def variable_shapes(model: MobileViT) -> dict[Path, Shape]:
    """Returns the shape of every variable that `model.init` makes.

    Args:
        model: A model of `create_model`.

    Returns:
        {("params", "backbone", "conv_1", "conv", "kernel"): (3, 3, 3, 16), ...} and the same under
        "batch_stats", in the order of use: norms stand beside their convolutions.
    """
    return {(collection, *path): shape for collection, path, shape in _classifier(model)}


def _classifier(model: MobileViT) -> Iterator[_Variable]:
    variant = model.variant
    backbone = _backbone(variant, fusion=model.fusion, kernel_size=model.kernel_size)
    yield from _within("backbone", backbone)
    block = _conv_block(variant.channels[5], variant.exp_channels)
    yield from _within("conv_1x1_exp", block)
    if model.num_classes:
        yield from _within("classifier", _dense(variant.exp_channels, model.num_classes))


def _backbone(variant: Variant, *, fusion: bool, kernel_size: int) -> Iterator[_Variable]:
    """conv_1 and layer_1 to layer_5 (`mobilevit.Backbone`)."""
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
    yield "params", ("local_project", "kernel"), (1, 1, channels, dim)
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
    yield "params", ("conv", "kernel"), (kernel_size, kernel_size, inputs, features)
    yield from _within("norm", _norm(features))
    for statistic in ("mean", "var"):
        yield "batch_stats", ("norm", statistic), (features,)


def _dense(inputs: int, features: int) -> Iterator[_Variable]:
    yield "params", ("kernel",), (inputs, features)
    yield "params", ("bias",), (features,)


def _norm(features: int) -> Iterator[_Variable]:
    yield "params", ("scale",), (features,)
    yield "params", ("bias",), (features,)


def _within(name: str, variables: Iterator[_Variable]) -> Iterator[_Variable]:
    """Puts a module's variables under its name."""
    return ((collection, (name, *path), shape) for collection, path, shape in variables)
