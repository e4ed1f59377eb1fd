"""MobileNetV2 and ResNet: torchvision's numbers and outputs, by weights drawn from their names."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.analysis.counts import stages, total_macs, total_parameters
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model, kind_of, list_models, model_name
from mobilevit_jax.models.fuse import fuse_batch_norm
from mobilevit_jax.models.trunk import dilated
from mobilevit_jax.ops.dispatch import use_form
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import EMAConfig, create_state
from tests import reference
from tests.models.test_every_backbone import SMALL
from tests.parity.support import compiled
from tests.small import random_variables

# Parameters, and millions of multiply-adds at 224x224, as instantiated and counted from
# torchvision's code and, in widths 0.35 and 1.4, timm's.
PUBLISHED = {
    "mobilenetv2_025": (1_519_112, 37.201),
    "mobilenetv2_035": (1_677_128, 59.286),
    "mobilenetv2_050": (1_968_680, 97.132),
    "mobilenetv2_075": (2_636_424, 209.069),
    "mobilenetv2_100": (3_504_872, 300.774),
    "mobilenetv2_140": (6_108_776, 582.196),
    "resnet18": (11_689_512, 1814.073),
    "resnet34": (21_797_672, 3663.761),
    "resnet50": (25_557_032, 4089.184),
    "resnet101": (44_549_160, 7801.405),
}
STAGES = ("conv_1", "layer_1", "layer_2", "layer_3", "layer_4", "layer_5")
# By stage as CVNets v0.1 has it, whose ResNet has another stem.
PARTS = {
    "mobilenetv2_100": (928, 896, 13_968, 39_696, 487_040, 1_269_184, 412_160, 1_281_000),
    "resnet50": (1_856, 704, 215_808, 1_219_584, 7_098_368, 14_964_736, 2_049_000),
}
TINY = {
    "mobilenetv2_100": SMALL["mobilenetv2"],
    "resnet50": SMALL["resnet"],
    "resnet18": replace(SMALL["resnet"], expansion=1),
}


def tiny(name, **options: Any) -> Any:
    """Returns a model of the name's kind that compiles at once."""
    return create_model(name, variant=TINY[name], num_classes=5, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    model = create_model(name)
    assert total_parameters(model) == PUBLISHED[name][0]
    assert total_macs(model, 224) / 1e6 == pytest.approx(PUBLISHED[name][1], abs=1e-3)
    assert (model_name(model), kind_of(model)) == (name, name.rstrip("0123456789").rstrip("_"))


@pytest.mark.parametrize(
    ("name", "options"), [("mobilenetv2_100", {}), ("resnet50", {"stem": "cvnets"})]
)
def test_parameters_of_every_stage(name, options):
    model = create_model(name, **options)
    assert tuple(stage.parameters for stage in stages(model, 224)) == PARTS[name]
    assert sum(PARTS[name]) == {"mobilenetv2_100": 3_504_872, "resnet50": 25_550_056}[name]


def close(found, expected):
    """Both within 1e-5 of the largest value, as a residual stack of random weights grows."""
    largest = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=1e-5)


def means(features):
    return np.mean(features, (1, 2)), np.abs(features).mean((1, 2))


def features_of(name, images):
    model = create_model(name)
    variables = convert.load_state_dict(model, reference.torchvision_state_dict(name))
    return jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, images)


@pytest.mark.slow
def test_mobilenetv2_is_torchvisions():
    expected = reference.golden("mobilenet_v2_224")
    logits, features = features_of("mobilenetv2_100", reference.images(1, 2, 224, 224))
    close(logits, expected["logits"])
    # Which of torchvision's parts end in the maps of ours.
    parts = dict(zip((*STAGES, "conv_1x1_exp"), (0, 1, 3, 6, 13, 17, 18), strict=True))
    for name, part in parts.items():
        mean, size = means(features[name])
        close(mean, expected[f"features_{part}_mean"])
        close(size, expected[f"features_{part}_absmean"])


@pytest.mark.slow
def test_resnet50_is_torchvisions():
    expected = reference.golden("resnet50_224")
    logits, features = features_of("resnet50", reference.images(1, 2, 224, 224))
    close(logits, expected["logits"])
    close(means(features["layer_1"])[0], expected["stem_mean"])
    for number in range(1, 5):  # every second channel is in the file
        mean, size = means(features[f"layer_{number + 1}"][..., ::2])
        close(mean, expected[f"layer{number}_mean"])
        close(size, expected[f"layer{number}_absmean"])


def test_dilation_behind_strides_that_are_taken_out():
    strides = (2, 2, 1, 2, 2, 2)
    kept = [(2, 1, 1), (2, 1, 1), (1, 1, 1)]
    assert dilated(strides, 32) == [*kept, (2, 1, 1), (2, 1, 1), (2, 1, 1)]
    assert dilated(strides, 16) == [*kept, (2, 1, 1), (2, 1, 1), (1, 1, 2)]
    assert dilated(strides, 8) == [*kept, (2, 1, 1), (1, 1, 2), (1, 2, 4)]


def test_dilated_stages_see_what_strided_ones_see():
    """Every fourth pixel of the map at stride 8 is the map at stride 32."""
    maps = {}
    for stride in (32, 8):
        model = tiny("resnet50", output_stride=stride)
        variables = random_variables(model)
        images = np.random.default_rng(0).random((1, 128, 128, 3), np.float32)
        features = compiled(lambda v, x, m=model: m.apply(v, x, features=True)[1]["layer_5"])
        maps[stride] = np.asarray(features(variables, images))
    np.testing.assert_allclose(maps[8][:, ::4, ::4], maps[32], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet50"])
def test_both_forms_agree(name):
    """Those of a CPU and of accelerators, with their gradients."""
    model = tiny(name)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params},
            images,
            True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.sum(logits**2)

    found = []
    for form in ("cpu", "accelerator"):
        with use_form(form):
            found.append(compiled(jax.value_and_grad(loss))(variables["params"]))
    # Some gradients are zero in theory: those of what a batch norm takes away.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[0][1]))
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * largest)


def features_at_once(model, variables, images):
    return compiled(lambda v, x: model.apply(v, x, features=True)[1])(variables, images)


def test_the_pool_is_padded_with_nothing():
    """Not with zeros: an image of negative numbers keeps them at its edge."""
    model = tiny("resnet50")
    variables = random_variables(model)
    norm = variables["params"]["backbone"]["conv_1"]["norm"]
    norm["scale"], norm["bias"] = np.zeros(8, np.float32), np.full(8, 3.0, np.float32)
    images = np.zeros((1, 32, 32, 3), np.float32)
    features = features_at_once(model, variables, images)
    np.testing.assert_array_equal(features["layer_1"], 3.0)


def test_activation_is_cut_off_at_six():
    model = tiny("mobilenetv2_100")
    variables = random_variables(model)
    for name in ("conv_1", "conv_1x1_exp"):
        part = variables["params"] if name == "conv_1x1_exp" else variables["params"]["backbone"]
        part[name]["norm"]["scale"] *= 100
    images = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    features = features_at_once(model, variables, images)
    for name in ("conv_1", "conv_1x1_exp"):
        assert (features[name].min(), features[name].max()) == (0, 6), name
    assert features["layer_5"].min() < 0


@pytest.mark.parametrize("name", TINY)
def test_norms_can_be_fused(name):
    model = tiny(name)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((1, 48, 32, 3), np.float32)
    whole = compiled(model.apply)(variables, images)
    fused = compiled(model.apply)(fuse_batch_norm(model, variables), images)
    np.testing.assert_allclose(fused, whole, rtol=1e-4, atol=1e-5)


def test_rematerialisation_keeps_paths():
    for name in TINY:
        found = [
            jax.eval_shape(
                tiny(name, remat=remat).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
            )
            for remat in (False, True)
        ]
        assert found[0] == found[1]


def test_first_weights():
    """Convolutions by Kaiming's rule over their outputs, the last layer's of deviation 0.01."""
    model = create_model("resnet18")
    state = create_state(
        model, create_optimizer(OptimizerConfig(), jnp.asarray), EMAConfig(decay=0), ("loss",), 3
    )
    params = state.params
    kernel = np.asarray(params["backbone"]["layer_5"]["block_1"]["conv_2"]["conv"]["kernel"])
    assert kernel.std() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert np.asarray(params["classifier"]["kernel"]).std() == pytest.approx(0.01, rel=0.02)


def test_dropout_of_published_models():
    assert create_model("mobilenetv2_100").classifier_dropout == 0.2
    assert create_model("resnet50").classifier_dropout == 0.0
    assert create_model("resnet50", classifier_dropout=0.3).classifier_dropout == 0.3


def test_names_of_models():
    for name in list_models("*mobilenetv2_*") + list_models("*resnet*"):
        assert model_name(create_model(name)) == name
    assert model_name(tiny("resnet50")) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenetv2_110", {}, r"unknown model 'mobilenetv2_110' \(did you mean 'mobilenetv2_1"),
        ("resnet52", {}, r"unknown model 'resnet52' \(did you mean 'resnet5?"),
        ("resnet50", {"stem": "cvnet"}, r"unknown stem 'cvnet' \(did you mean 'cvnets'\?\)"),
        ("resnet50", {"output_stride": 4}, "output_stride must be one of"),
        ("mobilenetv2_100", {"output_stride": 64}, "output_stride must be one of"),
        ("mobilenetv2_100", {"stem": "cvnets"}, r"'stem' of mobilenetv2_100 \(an option of \*resn"),
    ],
)
def test_bad_input(name, options, message):
    with pytest.raises(ConfigurationError, match=message):
        create_model(name, **options)
