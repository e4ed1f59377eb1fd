import jax
import numpy as np
import pytest

from mobilevit_jax.convert import to_state_dict
from mobilevit_jax.convert.native import flatten_checked, from_native, to_native
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import create_model
from tests.small import random_variables, tiny_model

OPTIONS = {"fusion": False, "kernel_size": 1, "patch_sizes": (8, 4, 2)}


@pytest.fixture(scope="module")
def variables():
    return random_variables(tiny_model(**OPTIONS))


@pytest.fixture
def tensors(variables):
    return to_native(variables)


def test_there_and_back_is_exact(variables, tensors):
    """Also for what no layout of others can express."""
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in tensors.values())
    back = from_native(tiny_model(**OPTIONS), tensors)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_names_and_axes(variables, tensors):
    name = "params/backbone/conv_1/conv/kernel"
    np.testing.assert_array_equal(
        tensors[name], variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
    )
    assert "batch_stats/conv_1x1_exp/norm/var" in tensors


def test_another_model(tensors):
    with pytest.raises(DataError) as caught:
        from_native(tiny_model(3, **OPTIONS | {"fusion": True}), tensors)
    message = str(caught.value)
    assert "missing: params/backbone/layer_3/mobilevit/fusion/conv/kernel, " in message
    assert "params/classifier/kernel (16, 6) instead of (16, 3)" in message
    tensors["params/extra"] = np.zeros(3, np.float32)
    with pytest.raises(DataError, match="do not fit the model; unexpected: params/extra$"):
        from_native(tiny_model(**OPTIONS), tensors)


def test_numbers_are_checked(tensors):
    tensors["params/classifier/bias"] = np.full(6, np.nan, np.float32)
    with pytest.raises(DataError, match="NaN or infinite values in params/classifier/bias"):
        from_native(tiny_model(**OPTIONS), tensors)


def test_half_precision_is_widened_when_allowed(variables, tensors):
    name = "params/classifier/kernel"
    tensors[name] = half = tensors[name].astype(np.float16)
    model = tiny_model(**OPTIONS)
    with pytest.raises(DataError, match=f"float16 in {name}; allow it with allow_half=True"):
        from_native(model, tensors)
    kernel = from_native(model, tensors, allow_half=True)["params"]["classifier"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, half)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_what_could_not_be_read_again_is_refused(value):
    model = create_model("mobilevit_xxs", num_classes=6)
    variables = random_variables(model)
    classifier = variables["params"]["classifier"]
    classifier["bias"] = np.where(np.arange(6) == 2, value, classifier["bias"].astype(float))
    with pytest.raises(DataError, match="NaN or infinite values in params/classifier/bias;"):
        flatten_checked(model, variables)
    with pytest.raises(DataError, match="NaN or infinite values in params/classifier/bias;"):
        to_state_dict(model, variables, "timm")


def test_another_layout():
    with pytest.raises(DataError, match="missing: params/backbone/conv_1/conv/kernel"):
        from_native(create_model("mobilevit_xxs"), {"conv_stem.weight": np.zeros(3)})
