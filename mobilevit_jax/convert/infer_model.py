"""The model that a bare state dict belongs to, told by the names and shapes of its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mobilevit_jax.convert.layouts import detect
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.variants import VARIANTS, Variant
from mobilevit_jax.tasks.detection.anchors import anchors_per_location

Shape = tuple[int, ...]

# Leaves no trace in the tensors; all published sizes have as many.
_HEADS = 4


@dataclass(frozen=True)
class Recognised:
    """What tensors tell of their model.

    Patch sizes, dropout and the number of heads leave no trace in them, nor do output stride and
    the dilations of a pyramid: 4 heads are assumed, and for the rest what the published models of
    the implementation have.

    Attributes:
        layout: The naming, as `detect_layout` returns it.
        variant: Widths and depths.
        name: The model's name if the size is a published one, else None.
        num_classes: Classes, 0 if there is no classifier.
        fusion: Whether the blocks have fusion convolutions.
        kernel_size: Side of the blocks' local convolutions.
        kind: Which of `models.KINDS` it is.
        options: Other options of the model that follow, such as `aspp_features`.
        channel_order: Of the images that the implementation's published weights take.
    """

    layout: str
    variant: Variant
    name: str | None
    num_classes: int
    fusion: bool
    kernel_size: int
    kind: str = "mobilevit"
    options: Mapping[str, Any] = field(default_factory=dict)
    channel_order: Literal["bgr", "rgb"] = "bgr"

    def create(self) -> Any:
        """Returns the model, a `MobileViT`, `SSDLite` or `DeepLabV3`."""
        return create_model(
            self.name or f"{self.kind}_s",
            variant=self.variant,
            num_classes=self.num_classes,
            fusion=self.fusion,
            kernel_size=self.kernel_size,
            **self.options,
        )


def recognise(shapes: Mapping[str, Shape]) -> Recognised:
    """Tells the model from its tensors.

    Args:
        shapes: {name: shape} of a state dict in any of the layouts, PyTorch's order of axes.

    Raises:
        DataError: If the names are of none of the layouts, or what is there does not make up a
            MobileViT.
    """
    layout, prefix = detect(shapes)
    found = ((layout.find_path(name, prefix), shape) for name, shape in shapes.items())
    tensors = _Tensors({"/".join(hit[0]): shape for hit, shape in found if hit})
    variant = _variant(tensors, layout.kind)
    size = next((size for size, known in VARIANTS.items() if same_tensors(known, variant)), None)
    variant = VARIANTS[size] if size else variant
    local = tensors["backbone/layer_3/mobilevit/local_conv/conv/kernel"]
    options: dict[str, Any] = dict(layout.assumed)
    if layout.kind == "deeplabv3_mobilevit":
        options |= _pyramid(tensors, variant)
    return Recognised(
        layout.name,
        variant,
        f"{layout.kind}_{size}" if size else None,
        _num_classes(tensors, layout.kind),
        "backbone/layer_3/mobilevit/fusion/conv/kernel" in tensors,
        local[-1],
        layout.kind,
        options,
        layout.channel_order,
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


def _num_classes(tensors: _Tensors, kind: str) -> int:
    if kind == "ssdlite_mobilevit":
        return _classes_of_a_detector(tensors)
    if kind == "mobilevit" and "classifier/kernel" not in tensors:
        return 0
    return tensors.outputs("classifier/kernel")


def _classes_of_a_detector(tensors: _Tensors) -> int:
    """Classes with the background; each anchor has as many outputs, and 4 offsets."""
    counts = anchors_per_location()
    outputs = [tensors.outputs(f"head_{level}/predict/kernel") for level in range(len(counts))]
    classes = {found / count - 4 for found, count in zip(outputs, counts, strict=True)}
    if len(classes) > 1 or (number := classes.pop()) != int(number):
        raise DataError(
            f"cannot tell the number of classes: {', '.join(map(str, counts))} anchors at each "
            f"place of the levels were assumed, and there are {', '.join(map(str, outputs))} "
            "outputs; create the model with its anchor_config"
        )
    return int(number)


def _pyramid(tensors: _Tensors, variant: Variant) -> dict[str, Any]:
    """Options of a segmentation model's head that its tensors show."""
    options: dict[str, Any] = {"aspp_features": tensors.outputs("aspp/project/conv/kernel")}
    if "aux_conv/conv/kernel" in tensors:
        width = tensors.outputs("aux_conv/conv/kernel")
        if width < variant.channels[4] // 4:
            raise DataError(
                f"the auxiliary head has {width} channels, less than a quarter of layer_4's "
                f"{variant.channels[4]}; only wider ones are known"
            )
        options |= {"aux_head": True, "aux_width": width}
    return options


def _variant(tensors: _Tensors, kind: str) -> Variant:
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
        tensors.outputs("conv_1x1_exp/conv/kernel")
        if kind == "mobilevit"
        # Others have none; this is what a classifier of the size has.
        else min(4 * channels[5], 960),
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
