"""Parameters and multiply-adds against those counted from the PyTorch implementations."""

import jax
import numpy as np
import pytest

from mobilevit_jax.analysis.counts import stages, total_macs, total_parameters
from mobilevit_jax.models import create_model
from tests.small import tiny_model

# Detectors and segmentation models: `tests/models`.
PARAMETERS = {"mobilevit_xxs": 1_272_024, "mobilevit_xs": 2_317_848, "mobilevit_s": 5_578_632}

# Millions, from PyTorch's FlopCounterMode (halved) on CVNets' models: convolutions, linear layers,
# QK^T and AV.
MACS = {
    ("mobilevit_xxs", 256): 407.364,
    ("mobilevit_xs", 256): 1025.912,
    ("mobilevit_s", 256): 2000.831,
    ("mobilevit_xxs", 224): 301.495,
    ("mobilevit_xs", 224): 772.340,
    ("mobilevit_s", 224): 1521.507,
    ("mobilevit_xxs", 288): 546.467,
    ("mobilevit_xs", 288): 1347.942,
    ("mobilevit_s", 288): 2619.354,
}
# The same for other patch sizes at 256 pixels; (3, 3, 3) resizes the feature maps.
PATCHES = {
    ("mobilevit_xs", (3, 3, 3)): 1020.4,
    ("mobilevit_xs", (4, 4, 4)): 938.0,
    ("mobilevit_xs", (8, 4, 2)): 919.7,
    ("mobilevit_s", (3, 3, 3)): 2043.3,
    ("mobilevit_s", (4, 4, 4)): 1867.6,
    ("mobilevit_s", (8, 4, 2)): 1840.4,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert total_parameters(create_model(name)) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "size"), MACS)
def test_macs(name, size):
    macs = total_macs(create_model(name), size)
    assert isinstance(macs, int)
    assert round(macs / 1e6, 3) == MACS[name, size]


@pytest.mark.parametrize(("name", "patch_sizes"), PATCHES)
def test_macs_of_other_patch_sizes(name, patch_sizes):
    model = create_model(name, patch_sizes=patch_sizes)
    assert round(total_macs(model) / 1e6, 1) == PATCHES[name, patch_sizes]


def test_stages_are_in_order_of_use_with_the_shapes_of_the_features():
    model = tiny_model()
    found = stages(model, 64, 96)
    names = ["conv_1", *(f"layer_{i}" for i in range(1, 6)), "conv_1x1_exp", "classifier"]
    assert [stage.name for stage in found] == names
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    _, features = jax.eval_shape(lambda v, x: model.apply(v, x, features=True), variables, image)
    shapes = {stage.name: stage.shape for stage in found}
    assert shapes.pop("classifier") == ()
    assert shapes == {name: feature.shape[1:] for name, feature in features.items()}
    leaves = jax.tree.leaves(variables["params"])
    assert sum(stage.parameters for stage in found) == sum(leaf.size for leaf in leaves)


def test_a_classifier_s_share():
    classifier = stages(tiny_model(num_classes=7), 32)[-1]
    inputs = stages(tiny_model(num_classes=7), 32)[-2].shape[-1]
    assert classifier.macs == 7 * inputs
    assert classifier.parameters == 7 * inputs + 7
    assert [stage.name for stage in stages(tiny_model(num_classes=0), 32)][-1] == "conv_1x1_exp"


def test_width_is_the_height_by_default():
    model = tiny_model()
    assert stages(model, 64) == stages(model, 64, 64)
    assert total_macs(model, 64, 32) == total_macs(model, 32, 64) < total_macs(model, 64)


def test_a_transposed_or_rematerialised_model_counts_the_same():
    plain = stages(tiny_model(), 64)
    assert stages(tiny_model(remat=True), 64) == plain
