import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import convert
from mobilevit_jax.convert.recognise import Recognised, recognise
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import VARIANTS, Variant, create_model
from mobilevit_jax.models.shapes import variable_shapes
from tests import reference

WIDE = Variant((8, 16, 24, 32, 40, 48), (16, 24, 32), 3, 56, dropout=0.1, ffn_multiplier=3)


def shapes_of(model, layout):
    zeros = {path: np.zeros(s, np.float32) for path, s in variable_shapes(model).items()}
    state_dict = convert.to_state_dict(model, traverse_util.unflatten_dict(zeros), layout)
    return {name: array.shape for name, array in state_dict.items()}


@pytest.mark.parametrize("layout", convert.LAYOUTS)
@pytest.mark.parametrize("size", VARIANTS)
def test_published(size, layout):
    model = create_model(f"mobilevit_{size}", num_classes=21)
    expected = Recognised(layout, VARIANTS[size], f"mobilevit_{size}", 21, True, 3)
    assert recognise(shapes_of(model, layout)) == expected


@pytest.mark.parametrize("layout", convert.LAYOUTS)
def test_other_widths(layout):
    model = create_model("mobilevit_s", variant=WIDE, num_classes=0, kernel_size=5)
    assert recognise(shapes_of(model, layout)) == Recognised(layout, WIDE, None, 0, True, 5)


@pytest.mark.parametrize("layout", ["cvnets", "timm"])
def test_without_fusion(layout):
    found = recognise(shapes_of(create_model("mobilevit_xxs", fusion=False), layout))
    assert (found.name, found.fusion) == ("mobilevit_xxs", False)


def test_other_depths():
    variant = Variant(
        (16, 16, 24, 48, 64, 80), (64, 80, 96), 2, 320, dropout=0.1, depths=(1, 12, 3)
    )
    found = recognise(shapes_of(create_model("mobilevit_s", variant=variant), "cvnets"))
    assert (found.name, found.variant) == (None, variant)


def test_no_trace_of_heads():
    variant = Variant((8, 8, 8, 8, 8, 8), (8, 10, 8), 2, 16, dropout=0.1, heads=2)
    shapes = shapes_of(create_model("mobilevit_s", variant=variant), "timm")
    with pytest.raises(
        DataError, match="cannot tell the number of attention heads: 4 were assumed"
    ):
        recognise(shapes)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "layer_4.1.local_rep.conv_1x1.block.conv.weight",
            None,
            "local_project/kernel are miss",
        ),
        (
            "conv_1x1_exp.block.conv.weight",
            (),
            r"1x1_exp/conv/kernel has shape \(\), not that",
        ),
        ("layer_1.0.block.exp_1x1.block.conv.weight", (40, 16, 1, 1), "expansion would be 40 / 16"),
    ],
)
def test_no_whole_model(name, shape, message):
    shapes = reference.names_and_shapes("xxs")
    del shapes[name]
    if shape is not None:
        shapes[name] = shape
    with pytest.raises(DataError, match=message):
        recognise(shapes)
