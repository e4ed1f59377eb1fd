import dataclasses
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import convert
from mobilevit_jax.convert.infer_model import recognise
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import VARIANTS, Variant, create_model
from mobilevit_jax.models.anchors import AnchorConfig
from mobilevit_jax.models.variables import variable_shapes
from tests import reference

WIDE = Variant((8, 16, 24, 32, 40, 48), (16, 24, 32), 3, 56, dropout=0.1, ffn_multiplier=3)


def shapes_of(model, layout):
    zeros = {path: np.zeros(s, np.float32) for path, s in variable_shapes(model).items()}
    state_dict = convert.to_state_dict(model, traverse_util.unflatten_dict(zeros), layout)
    return {name: array.shape for name, array in state_dict.items()}


LAYOUTS = ("huggingface", "cvnets", "timm")
ORDERS: dict[str, Any] = {"huggingface": "bgr", "cvnets": "bgr", "timm": "rgb"}


def told(found):
    return found.layout, found.kind, found.name, found.channel_order


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", VARIANTS)
def test_published(size, layout):
    model = create_model(f"mobilevit_{size}", num_classes=21)
    found = recognise(shapes_of(model, layout))
    assert told(found) == (layout, "mobilevit", f"mobilevit_{size}", ORDERS[layout])
    assert found.model == model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_widths(layout):
    model = create_model("mobilevit_s", variant=WIDE, num_classes=0, kernel_size=5)
    found = recognise(shapes_of(model, layout))
    assert told(found) == (layout, "mobilevit", None, ORDERS[layout])
    assert found.model == model


@pytest.mark.parametrize("layout", ["cvnets", "timm"])
def test_without_fusion(layout):
    found = recognise(shapes_of(create_model("mobilevit_xxs", fusion=False), layout))
    assert (found.name, found.options["fusion"]) == ("mobilevit_xxs", False)


def test_other_depths():
    variant = Variant(
        (16, 16, 24, 48, 64, 80), (64, 80, 96), 2, 320, dropout=0.1, depths=(1, 12, 3)
    )
    found = recognise(shapes_of(create_model("mobilevit_s", variant=variant), "cvnets"))
    assert (found.name, found.options["variant"]) == (None, variant)


class TestDetectors:
    @pytest.mark.parametrize("size", VARIANTS)
    def test_published(self, size):
        found = recognise(reference.names_and_shapes(f"ssdlite_{size}"))
        assert found.model == create_model(f"ssdlite_mobilevit_{size}")
        assert found.channel_order == "bgr"

    def test_other_widths_and_classes(self):
        variant = dataclasses.replace(WIDE, exp_channels=4 * 48)
        model = create_model("ssdlite_mobilevit_s", variant=variant, num_classes=5, fusion=False)
        found = recognise(shapes_of(model, "cvnets"))
        assert (found.name, found.kind) == (None, "ssdlite_mobilevit")
        assert found.model == model

    @pytest.mark.parametrize("size", ["xxs", "xs"])
    def test_published_without_anchors(self, size):
        found = recognise(reference.names_and_shapes(f"yolox_{size}"))
        assert found.name == f"yolox_mobilevit_{size}"
        assert found.model == create_model(f"yolox_mobilevit_{size}")

    def test_other_widths_without_anchors(self):
        options = {"num_classes": 5, "head_width": 24, "depthwise": True}
        model = create_model("yolox_mobilevit_s", **options)
        assert recognise(shapes_of(model, "cvnets")).model == model

    def test_other_anchors_leave_the_classes_unknown(self):
        config = AnchorConfig(aspect_ratios=((2,),) * 6)
        model = create_model("ssdlite_mobilevit_xxs", anchor_config=config)
        message = (
            "cannot tell the number of classes: 6, 6, 6, 6, 6, 4 anchors .* 340, 340, .*config"
        )
        with pytest.raises(DataError, match=message):
            recognise(shapes_of(model, "cvnets"))


class TestSegmentationModels:
    @pytest.mark.parametrize("layout", ["cvnets", "huggingface"])
    @pytest.mark.parametrize("size", VARIANTS)
    def test_published(self, size, layout):
        model = create_model(f"deeplabv3_mobilevit_{size}", num_classes=7)
        found = recognise(shapes_of(model, layout))
        assert (found.layout, found.name) == (layout, f"deeplabv3_mobilevit_{size}")
        assert found.model == model
        assert found.channel_order == "bgr"

    @pytest.mark.parametrize("aux_width", [128, 16])
    def test_options_that_the_tensors_show(self, aux_width):
        variant = dataclasses.replace(WIDE, exp_channels=4 * 48)
        options = {"aspp_features": 24, "aux_head": True, "aux_width": aux_width}
        model = create_model("deeplabv3_mobilevit_s", variant=variant, kernel_size=5, **options)
        assert recognise(shapes_of(model, "cvnets")).model == model

    def test_later_cvnets(self):
        """What leaves no trace is of the published recipe, and images are R, G, B."""
        found = recognise(reference.names_and_shapes("deeplabv3_s_later"))
        assert found.channel_order == "rgb"
        assert found.model == create_model(
            "deeplabv3_mobilevit_s",
            output_stride=8,
            aspp_features=512,
            aspp_rates=(12, 24, 36),
            channel_dropout=True,
            head_dropout=0.0,
            aux_head=True,
            aux_width=128,
            align_corners=True,
        )

    def test_a_narrow_auxiliary_head(self):
        shapes = reference.names_and_shapes("deeplabv3_s_later")
        shapes["seg_head.aux_head.0.block.conv.weight"] = (16, 128, 3, 3)
        with pytest.raises(DataError, match="16 channels, less than a quarter of the 128 below it"):
            recognise(shapes)

    def test_without_a_classifier(self):
        shapes = reference.names_and_shapes("deeplabv3_s")
        del shapes["seg_head.classifier.classifier.block.conv.weight"]
        with pytest.raises(DataError, match="the tensors of classifier/kernel are missing"):
            recognise(shapes)


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
