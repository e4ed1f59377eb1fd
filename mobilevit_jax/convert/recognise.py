"""The model that a bare state dict belongs to, told by the names and shapes of its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mobilevit_jax.convert.detect import detect
from mobilevit_jax.errors import DataError
from mobilevit_jax.models.variants import VARIANTS, Variant

Shape = tuple[int, ...]

# Leaves no trace in the tensors; all published sizes have as many.
_HEADS = 4


@dataclass(frozen=True)
class Recognised:
    """What tensors tell of their model.

    Patch sizes, output stride and dropout leave no trace in them, and the number of heads neither:
    4 are assumed.

    Attributes:
        layout: The naming, as `detect_layout` returns it.
        variant: Widths and depths.
        name: The model's name if the size is a published one, else None.
        num_classes: Classes, 0 if there is no classifier.
        fusion: Whether the blocks have fusion convolutions.
        kernel_size: Side of the blocks' local convolutions.
    """

    layout: str
    variant: Variant
    name: str | None
    num_classes: int
    fusion: bool
    kernel_size: int


def recognise(shapes: Mapping[str, Shape]) -> Recognised:
    """Tells the model from a classifier's tensors.

    Args:
        shapes: {name: shape} of a state dict in any of the layouts, PyTorch's order of axes.

    Raises:
        DataError: If the names are of none of the layouts, or what is there does not make up a
            MobileViT.
    """
    layout, prefix = detect(shapes)
    found = ((layout.find_path(name, prefix), shape) for name, shape in shapes.items())
    tensors = _Tensors({"/".join(hit[0]): shape for hit, shape in found if hit})
    variant = _variant(tensors)
    size = next((size for size, known in VARIANTS.items() if same_tensors(known, variant)), None)
    local = tensors["backbone/layer_3/mobilevit/local_conv/conv/kernel"]
    return Recognised(
        layout.name,
        VARIANTS[size] if size else variant,
        f"mobilevit_{size}" if size else None,
        tensors.outputs("classifier/kernel") if "classifier/kernel" in tensors else 0,
        "backbone/layer_3/mobilevit/fusion/conv/kernel" in tensors,
        local[-1],
    )


class _Tensors(dict[str, Shape]):
    """Shapes under our paths; one that is not there is an error of the data."""

    def __missing__(self, path: str) -> Shape:
        raise DataError(f"cannot tell the model's size: the tensors of {path} are missing")

    def outputs(self, path: str) -> int:
        """Returns the output channels of a convolution or linear layer."""
        shape = self[path]
        if len(shape) not in (2, 4):
            raise DataError(f"the tensor of {path} has shape {shape}, not that of a layer's kernel")
        return shape[0]


def _variant(tensors: _Tensors) -> Variant:
    stages = [f"backbone/layer_{number}" for number in range(1, 6)]
    blocks = [f"{stage}/mobilevit" for stage in stages[2:]]
    channels = [tensors.outputs("backbone/conv_1/conv/kernel")]
    channels += [tensors.outputs(f"{stage}/block_0/reduce_1x1/conv/kernel") for stage in stages]
    hidden = tensors.outputs(f"{stages[0]}/block_0/expand_1x1/conv/kernel")
    dims = [tensors.outputs(f"{block}/local_project/kernel") for block in blocks]
    ffn_dim = tensors.outputs(f"{blocks[0]}/transformer_0/ffn_expand/kernel")
    if any(dim % _HEADS for dim in dims):
        raise DataError(
            f"cannot tell the number of attention heads: {_HEADS} were assumed, and token widths "
            f"{', '.join(map(str, dims))} are no multiples; create the model with its variant"
        )
    return Variant(
        (channels[0], channels[1], channels[2], channels[3], channels[4], channels[5]),
        (dims[0], dims[1], dims[2]),
        _ratio(hidden, channels[0], "expansion"),
        tensors.outputs("conv_1x1_exp/conv/kernel"),
        dropout=0.1,
        depths=(_depth(tensors, blocks[0]), _depth(tensors, blocks[1]), _depth(tensors, blocks[2])),
        heads=_HEADS,
        ffn_multiplier=_ratio(ffn_dim, dims[0], "ffn_multiplier"),
    )


def _depth(tensors: _Tensors, block: str) -> int:
    """Counts the transformer layers of a block."""

    def numbers() -> Iterator[int]:
        for path in tensors:
            if path.startswith(f"{block}/transformer_"):
                yield int(path.removeprefix(f"{block}/transformer_").partition("/")[0])

    return max(numbers(), default=-1) + 1


def _ratio(wide: int, narrow: int, field: str) -> int:
    if narrow < 1 or wide < 1 or wide % narrow:
        raise DataError(
            f"the tensors' {field} would be {wide} / {narrow}; only whole ones are known"
        )
    return wide // narrow


def same_tensors(one: Variant, other: Variant) -> bool:
    """Whether two variants have tensors of the same names and shapes."""
    return replace(one, dropout=other.dropout, heads=other.heads) == other
