import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.convert.cvnets import name_of
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import create_model
from tests import reference

DEPTHS = {"layer_3": 2, "layer_4": 4, "layer_5": 3}


@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
def test_there_and_back_is_exact(size):
    model, state_dict = create_model(f"mobilevit_{size}"), reference.state_dict(size)
    back = convert.to_state_dict(model, convert.load_state_dict(model, state_dict))
    assert back.keys() == state_dict.keys() and len(back) == 311
    for name, array in state_dict.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array, err_msg=name)
        assert back[name].flags.c_contiguous


def test_layouts():
    model, state_dict = create_model("mobilevit_xxs"), reference.state_dict("xxs")
    params = convert.load_state_dict(model, state_dict)["params"]
    stem = state_dict["conv_1.block.conv.weight"]
    np.testing.assert_array_equal(
        params["backbone"]["conv_1"]["conv"]["kernel"], stem.transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        params["classifier"]["kernel"], state_dict["classifier.fc.weight"].T
    )
    depthwise = params["backbone"]["layer_1"]["block_0"]["conv_3x3"]["conv"]["kernel"]
    assert depthwise.shape == (3, 3, 1, 32)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("backbone/conv_1/norm/mean", "conv_1.block.norm.running_mean"),
        (
            "backbone/layer_2/block_1/reduce_1x1/conv/kernel",
            "layer_2.1.block.red_1x1.block.conv.weight",
        ),
        (
            "backbone/layer_4/mobilevit/local_conv/norm/scale",
            "layer_4.1.local_rep.conv_5x5.block.norm.weight",
        ),
        (
            "backbone/layer_3/mobilevit/transformer_1/attention/qkv/bias",
            "layer_3.1.global_rep.1.pre_norm_mha.1.qkv_proj.bias",
        ),
        ("backbone/layer_5/mobilevit/final_norm/scale", "layer_5.1.global_rep.3.weight"),
        ("classifier/bias", "classifier.fc.bias"),
    ],
)
def test_names(path, name):
    assert name_of(tuple(path.split("/")), depths=DEPTHS, kernel_size=5) == name


def test_a_path_without_a_name():
    with pytest.raises(ValueError, match="head/kernel has no name in CVNets v0.1"):
        name_of(("head", "kernel"), depths=DEPTHS, kernel_size=3)


def test_options_change_what_is_expected():
    state_dict = reference.state_dict("xxs", fusion=False)
    variables = convert.load_state_dict(create_model("mobilevit_xxs", fusion=False), state_dict)
    assert "fusion" not in variables["params"]["backbone"]["layer_3"]["mobilevit"]
    headless = create_model("mobilevit_xxs", num_classes=0)
    with pytest.raises(DataError, match="unexpected: classifier.fc.bias, classifier.fc.weight"):
        convert.load_state_dict(headless, reference.state_dict("xxs"))


def test_misfits_are_all_listed():
    state_dict = reference.state_dict("xxs")
    del state_dict["conv_1.block.conv.weight"]
    state_dict["extra.weight"] = np.zeros(3, np.float32)
    state_dict["classifier.fc.weight"] = np.zeros((10, 320), np.float32)
    with pytest.raises(DataError) as caught:
        convert.load_state_dict(create_model("mobilevit_xxs"), state_dict)
    message = str(caught.value)
    assert "missing: conv_1.block.conv.weight;" in message
    assert "unexpected: extra.weight;" in message
    assert "of another shape: classifier.fc.weight (320, 10) instead of (320, 1000)" in message


def test_unknown_layout():
    model = create_model("mobilevit_xxs")
    with pytest.raises(ValueError, match="unknown layout 'keras'"):
        convert.to_state_dict(model, {}, "keras")
