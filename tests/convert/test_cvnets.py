from typing import Any

import pytest

from mobilevit_jax import convert
from mobilevit_jax.convert.layouts import table_of
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model
from tests import reference
from tests.small import TINY

MODEL = create_model("mobilevit_xxs", kernel_size=5)
CVNETS: Any = table_of("cvnets", MODEL)
NAMES = {
    "backbone/conv_1/norm/mean": "conv_1.block.norm.running_mean",
    "backbone/layer_2/block_1/reduce_1x1/conv/kernel": "layer_2.1.block.red_1x1.block.conv.weight",
    "backbone/layer_4/mobilevit/local_conv/norm/scale": (
        "layer_4.1.local_rep.conv_5x5.block.norm.weight"
    ),
    "backbone/layer_4/mobilevit/local_project/kernel": (
        "layer_4.1.local_rep.conv_1x1.block.conv.weight"
    ),
    "backbone/layer_3/mobilevit/transformer_1/attention/qkv/bias": (
        "layer_3.1.global_rep.1.pre_norm_mha.1.qkv_proj.bias"
    ),
    "backbone/layer_5/mobilevit/final_norm/scale": "layer_5.1.global_rep.3.weight",
    "classifier/bias": "classifier.fc.bias",
}


@pytest.mark.parametrize(("path", "name"), NAMES.items())
def test_names_in_both_directions(path, name):
    parts = tuple(path.split("/"))
    assert CVNETS.name_path(parts, MODEL.backbone) == (name,)
    assert CVNETS.find_path(name) == (parts, 0)


def test_a_path_without_a_name():
    with pytest.raises(ValueError, match="head/kernel has no name in CVNets v0.1"):
        CVNETS.name_path(("head", "kernel"), MODEL.backbone)


@pytest.mark.parametrize(
    "name", ["conv_1.conv.weight", "layer_3.1.local_rep.conv_3x5.block.conv.weight", "layer_6.x"]
)
def test_a_name_without_a_path(name):
    assert CVNETS.find_path(name) is None


def test_no_fusion():
    state_dict = reference.state_dict("xxs", fusion=False)
    model = create_model("mobilevit_xxs", fusion=False)
    variables = convert.load_state_dict(model, state_dict)
    assert "fusion" not in variables["params"]["backbone"]["layer_3"]["mobilevit"]
    assert convert.to_state_dict(model, variables, "cvnets").keys() == state_dict.keys()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"variant": TINY}, r"expansion=1 \(no expanding convolution there\)"),
        ({"kernel_size": 1}, r"kernel_size=1 \(two convolutions of one name there\)"),
    ],
)
def test_what_the_names_cannot_express(options, named):
    model = create_model("mobilevit_xxs", **options)
    with pytest.raises(ConfigurationError, match=rf"'cvnets' \(CVNets v0.1\) cannot .* {named}"):
        convert.to_state_dict(model, {}, "cvnets")


def test_one_by_one_kernels_cannot_be_read_either():
    model = create_model("mobilevit_xxs", kernel_size=1)
    with pytest.raises(ConfigurationError, match="'cvnets' cannot express kernel_size=1"):
        convert.load_state_dict(model, reference.state_dict("xxs"))
