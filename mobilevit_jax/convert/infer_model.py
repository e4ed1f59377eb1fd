"""The model that a bare state dict belongs to, told by the names and shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mobilevit_jax.convert.layouts import detect
from mobilevit_jax.models.names import Shape, Tensors
from mobilevit_jax.models.registry import build


@dataclass(frozen=True)
class Recognised:
    """What tensors tell of their model.

    Patch sizes, dropout and the number of heads leave no trace in them, nor do output stride and
    the dilations of a pyramid: 4 heads are assumed, and for the rest what the published models of
    the implementation have.

    Attributes:
        layout: The naming, as `detect_layout` returns it.
        kind: The model's name without its size.
        name: The model's name if the size is a published one, else None.
        options: Of the model, "variant" among them.
        model: The model.
        channel_order: Of the images that the implementation's published weights take.
    """

    layout: str
    kind: str
    name: str | None
    options: Mapping[str, Any]
    model: Any
    channel_order: Literal["bgr", "rgb"] = "bgr"


def recognise(shapes: Mapping[str, Shape]) -> Recognised:
    """Tells the model from its tensors.

    Args:
        shapes: {name: shape} of a state dict in any of the layouts, PyTorch's order of axes.

    Raises:
        DataError: If the names are of none of the layouts, or what is there does not make up a
            model.
        ConfigurationError: If it would be one that `create_model` refuses.
    """
    layout, prefix = detect(shapes)
    found = ((layout.find_path(name, prefix), shape) for name, shape in shapes.items())
    tensors = Tensors({"/".join(hit[0]): shape for hit, shape in found if hit})
    variant, options = layout.family.recognise(tensors)
    assumed = {**layout.below.assumed, **layout.above.assumed}
    options = {**assumed, **options, **layout.head.recognise(tensors)}
    return Recognised(
        layout.name,
        layout.kind,
        f"{layout.head.prefix}{variant}" if variant else None,
        options,
        build(layout.head, layout.family, options, layout.kind),
        layout.channel_order,
    )
