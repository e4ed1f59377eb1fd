import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import create_model
from mobilevit_jax.models.initial import initialise

MODELS = {
    "classifier": create_model("mobilevit_xxs", num_classes=5, fusion=False, kernel_size=1),
    "features": create_model("mobilevit_xxs", num_classes=0),
    "detector": create_model("ssdlite_mobilevit_xxs", num_classes=3),
    "yolox": create_model("yolox_mobilevit_xxs", num_classes=3),
    "segmenter": create_model("deeplabv3_mobilevit_xxs", num_classes=4, aspp_features=8),
}
KERNEL = ("params", "classifier", "kernel")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_same_as_the_models_own(model):
    key = jax.random.key(3)
    drawn = initialise(model, key)
    kernels = [path for path in drawn if path[-1] == "kernel"]
    some = [path for path in drawn if path not in kernels] + kernels[::11] + kernels[-3:]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def init(key):
        variables = traverse_util.flatten_dict(model.init(key, jnp.zeros((1, 32, 32, 3))))
        assert drawn.keys() == variables.keys()
        return [variables[path] for path in some]  # of all, compiling would take long

    for path, expected in zip(some, init(key), strict=True):
        assert drawn[path].dtype == np.float32
        np.testing.assert_allclose(drawn[path], expected, 1e-6, 1e-7, err_msg=str(path))


def test_those_asked_for_do_not_depend_on_the_others():
    model = MODELS["classifier"]
    drawn = initialise(model, jax.random.key(0), [KERNEL])
    assert list(drawn) == [KERNEL]
    np.testing.assert_array_equal(drawn[KERNEL], initialise(model, jax.random.key(0))[KERNEL])
    other = initialise(model, jax.random.key(1), [KERNEL])[KERNEL]
    assert np.abs(drawn[KERNEL] - other).max() > 0.01
    assert initialise(model, jax.random.key(0), []) == {}


def test_any_generator_of_random_numbers():
    """Another one than JAX's default may begin longer arrays otherwise, but draws the same law."""
    kernel = initialise(MODELS["classifier"], jax.random.key(0, impl="rbg"), [KERNEL])[KERNEL]
    assert kernel.std() == pytest.approx(0.02, rel=0.1)
