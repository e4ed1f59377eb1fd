"""State dicts of detectors and segmentation models, in all layouts that have them."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import convert
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.variables import variable_shapes
from tests import reference
from tests.small import random_variables

# Later CVNets, whose tensors show these; see `test_recognise`.
LATER = {"aspp_features": 512, "aux_head": True, "aux_width": 128}
PUBLISHED = {
    "ssdlite_xxs": ("ssdlite_mobilevit_xxs", {}),
    "ssdlite_xs": ("ssdlite_mobilevit_xs", {}),
    "ssdlite_s": ("ssdlite_mobilevit_s", {}),
    "yolox_xxs": ("yolox_mobilevit_xxs", {}),
    "yolox_xs": ("yolox_mobilevit_xs", {}),
    "deeplabv3_s": ("deeplabv3_mobilevit_s", {}),
    "deeplabv3_s_later": ("deeplabv3_mobilevit_s", LATER),
}


def loaded(name):
    model_name, options = PUBLISHED[name]
    model, original = create_model(model_name, **options), reference.state_dict(name)
    return model, convert.load_state_dict(model, original), original


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "later" not in name])
def test_names_of_v01_there_and_back(name):
    model, variables, original = loaded(name)
    state_dict = convert.to_state_dict(model, variables, "cvnets")
    assert [*state_dict] == [*original]
    assert_equal(state_dict, original)


def test_names_of_later_versions_are_read_and_those_of_v01_written():
    model, variables, original = loaded("deeplabv3_s_later")
    state_dict = convert.to_state_dict(model, variables, "cvnets")
    changed = {
        "seg_head.classifier.block": "seg_head.classifier.classifier.block",
        "seg_head.aux_head.0.block": "seg_head.aux_head.aux_projection.block",
        "seg_head.aux_head.2.block": "seg_head.aux_head.aux_classifier.block",
    }
    expected = {}
    for name, array in original.items():
        for old, new in changed.items():
            name = name.replace(old, new)
        expected[name] = array
    assert_equal(state_dict, expected)
    again = convert.load_state_dict(model, state_dict)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_transformers_there_and_back_by_the_verified_map():
    model, variables, original = loaded("deeplabv3_s")
    state_dict = convert.to_state_dict(model, variables)
    heads = json.loads((reference.GOLDEN / "huggingface_head_names.json").read_text())
    backbone = json.loads((reference.GOLDEN / "huggingface_names.json").read_text())["s"]
    left_out = ("mobilevit.conv_1x1_exp.", "classifier.")
    names = {name: shape for name, shape in backbone.items() if not name.startswith(left_out)}
    names |= heads["deeplabv3_s"]
    assert {name: list(array.shape) for name, array in state_dict.items()} == names
    table = json.loads((reference.GOLDEN / "cvnets_to_huggingface_head.json").read_text())
    for name, (theirs,) in table.items():
        np.testing.assert_array_equal(state_dict[theirs], original[name], err_msg=name)
    again = convert.load_state_dict(model, state_dict)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("ssdlite_mobilevit_xxs", "huggingface", "'huggingface' has no names for a ssdlite_m"),
        ("ssdlite_mobilevit_xxs", "timm", "'timm' has no names for a ssdlite_mobilevit"),
        ("deeplabv3_mobilevit_xxs", "timm", "'timm' has no names for a deeplabv3_mobilevit"),
    ],
)
def test_layouts_without_such_models(name, layout, message):
    model = create_model(name)
    with pytest.raises(ConfigurationError, match=message):
        convert.to_state_dict(model, {}, layout)


class TestAuxiliaryHead:
    def test_transformers_has_none(self):
        plain, variables, _ = loaded("deeplabv3_s")
        model = plain.clone(aux_head=True)
        with pytest.raises(ConfigurationError, match=r"cannot express aux_head=True \(no aux"):
            convert.to_state_dict(model, random_variables(model))
        with pytest.raises(ConfigurationError, match="'huggingface' cannot express aux_head=True"):
            convert.load_state_dict(model, convert.to_state_dict(plain, variables))

    def test_a_model_without_one(self):
        model = create_model("deeplabv3_mobilevit_s", aspp_features=512)
        message = "unexpected: seg_head.aux_head.0.* a model with aux_head=True, aux_width=128$"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(model, reference.state_dict("deeplabv3_s_later"))


@pytest.fixture(scope="module")
def classifier():
    return convert.load_state_dict(create_model("mobilevit_xxs"), reference.state_dict("xxs"))


class TestOtherKinds:
    @pytest.mark.parametrize(
        ("name", "layout"),
        [
            ("ssdlite_mobilevit_xxs", "cvnets"),
            ("yolox_mobilevit_xxs", "cvnets"),
            ("deeplabv3_mobilevit_xxs", "cvnets"),
            ("deeplabv3_mobilevit_xxs", "huggingface"),
        ],
    )
    def test_the_backbone_of_a_classifier(self, classifier, name, layout):
        """Strictly, it does not fit; otherwise all but the head is taken over."""
        model = create_model(name, num_classes=5)
        state_dict = convert.to_state_dict(create_model("mobilevit_xxs"), classifier, layout)
        with pytest.raises(DataError, match="fit a model with the kind and size of mobilevit_xxs"):
            convert.load_state_dict(model, state_dict)
        variables, report = convert.load_state_dict(model, state_dict, strict=False)
        jax.tree.map(
            np.testing.assert_array_equal,
            variables["params"]["backbone"],
            classifier["params"]["backbone"],
        )
        heads = {path for path in variable_shapes(model) if path[1] != "backbone"}
        assert len(report.missing) == len(heads) and not report.misshapen
        classifiers = ("mobilevit.conv_1x1_exp", "conv_1x1_exp", "classifier")
        assert report.unexpected and all(n.startswith(classifiers) for n in report.unexpected)
        flat: Any = traverse_util.flatten_dict(variables)
        assert {path: leaf.shape for path, leaf in flat.items()} == variable_shapes(model)

    def test_the_backbone_of_a_detector(self):
        detector, variables, state_dict = loaded("ssdlite_xxs")
        model = create_model("mobilevit_xxs", num_classes=0)
        found, report = convert.load_state_dict(model, state_dict, strict=False)
        jax.tree.map(
            np.testing.assert_array_equal,
            found["params"]["backbone"],
            variables["params"]["backbone"],
        )
        assert all(name.startswith("encoder.conv_1x1_exp") for name in report.missing)

    def test_an_implementation_without_such_models(self, classifier):
        state_dict = convert.to_state_dict(create_model("mobilevit_xxs"), classifier, "timm")
        message = "a mobilevit in the naming of timm, which has no ssdlite_mobilevit"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(create_model("ssdlite_mobilevit_xxs"), state_dict)

    def test_another_detector(self):
        with pytest.raises(DataError, match="a model with the kind and size of ssdlite_mobilevit"):
            convert.load_state_dict(
                create_model("yolox_mobilevit_xxs"), reference.state_dict("ssdlite_xxs")
            )

    def test_other_widths(self):
        model = create_model("yolox_mobilevit_xs", head_width=32, depthwise=True)
        message = r"unexpected: .*; .* a model with head_width=96, depthwise=False$"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(model, reference.state_dict("yolox_xs"))

    def test_other_classes(self):
        model = create_model("ssdlite_mobilevit_xxs", num_classes=5)
        message = r"ssd_heads.0\S+ \(510, 512, 1, 1\) instead of .* a model with num_classes=81$"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(model, reference.state_dict("ssdlite_xxs"))
