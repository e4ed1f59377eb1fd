import dataclasses
import json
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model, kind_of, list_models, model_name
from mobilevit_jax.models.backbones.mobilevit import MobileViTBlock
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.layers import InvertedResidual
from mobilevit_jax.models.model import map_sizes
from mobilevit_jax.models.trunk import Stage
from tests import reference
from tests.small import TINY, random_variables, tiny_model

SIZES = ("xxs", "xs", "s")
STAGES = ("conv_1", "layer_1", "layer_2", "layer_3", "layer_4", "layer_5", "conv_1x1_exp")


def abstract_variables(model, size=32):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def abstract_outputs(model, height, width=None, batch=2):
    images = jax.ShapeDtypeStruct((batch, height, width or height, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True)[0], images
    )


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Trainable parameters, as instantiated from the reference's code.
PARAMETERS = {
    "xxs": (464, 1_472, 7_696, 139_888, 341_824, 433_440, 26_240, 321_000, 1_272_024),
    "xs": (464, 3_968, 54_048, 297_152, 699_152, 840_432, 37_632, 385_000, 2_317_848),
    "s": (464, 3_968, 86_528, 656_768, 1_772_032, 2_314_192, 103_680, 641_000, 5_578_632),
}
# Of them in one-dimensional tensors; and elements of running statistics.
ONE_DIMENSIONAL = {"xxs": (13_688, 4_112), "xs": (22_312, 8_448), "s": (33_944, 12_256)}


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_every_stage(size):
    variables = abstract_variables(create_model(f"mobilevit_{size}"))
    params = variables["params"]
    stages = {**params["backbone"], **params}
    found = [count(stages[name]) for name in (*STAGES, "classifier")]
    assert (*found, count(params)) == PARAMETERS[size]
    flat = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 1]
    assert (count(flat), count(variables["batch_stats"])) == ONE_DIMENSIONAL[size]


@pytest.mark.parametrize("size", SIZES)
def test_parameter_paths_are_the_committed_ones(size):
    """Paths and shapes are public: checkpoints and conversions depend on them."""
    committed = json.loads((reference.GOLDEN / "parameter_paths.json").read_text())
    variables = abstract_variables(create_model(f"mobilevit_{size}"))
    flat: Any = traverse_util.flatten_dict(variables, sep="/")
    assert {path: list(leaf.shape) for path, leaf in flat.items()} == committed[size]


@pytest.mark.parametrize("size", SIZES)
def test_feature_maps(size):
    model = create_model(f"mobilevit_{size}")
    logits, features = abstract_outputs(model, 224)
    channels = (*model.backbone.variant.channels, model.backbone.exp_channels)
    sides = (112, 112, 56, 28, 14, 7, 7)
    assert {name: f.shape for name, f in features.items()} == {
        name: (2, side, side, c) for name, side, c in zip(STAGES, sides, channels, strict=True)
    }
    assert logits.shape == (2, 1000) and logits.dtype == jnp.float32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (33, 47), (160, 160)])
def test_images_of_any_size(height, width):
    logits, features = abstract_outputs(tiny_model(), height, width)
    assert logits.shape == (2, 6)
    expected = (2, -(-height // 32), -(-width // 32), TINY.channels[5])
    assert features["layer_5"].shape == expected


@pytest.mark.parametrize("patch_sizes", [(8, 4, 2), (3, 3, 3), [4, 2, 1]])
def test_patch_sizes_change_no_parameter(patch_sizes):
    model = tiny_model(patch_sizes=patch_sizes)
    assert abstract_variables(model) == abstract_variables(tiny_model())
    assert abstract_outputs(model, 160)[0].shape == (2, 6)


def test_no_fusion_drops_its_convolution():
    params = abstract_variables(tiny_model(fusion=False))["params"]["backbone"]
    for stage in ("layer_3", "layer_4", "layer_5"):
        assert "fusion" not in params[stage]["mobilevit"]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_kernel_size_of_local_and_fusion_convolutions(kernel_size):
    model = tiny_model(kernel_size=kernel_size)
    block = abstract_variables(model)["params"]["backbone"]["layer_4"]["mobilevit"]
    k = (kernel_size, kernel_size)
    assert block["local_conv"]["conv"]["kernel"].shape == (*k, 8, 8)
    assert block["fusion"]["conv"]["kernel"].shape == (*k, 16, 8)
    assert abstract_outputs(model, 64)[1]["layer_4"].shape == (2, 4, 4, 8)


@pytest.mark.parametrize(("stride", "sides"), [(32, (4, 2)), (16, (4, 4)), (8, (8, 8))])
def test_output_stride(stride, sides):
    _, features = abstract_outputs(tiny_model(output_stride=stride), 64)
    assert (features["layer_4"].shape[1], features["layer_5"].shape[1]) == sides


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (1, 7), (131, 250)])
def test_sizes_of_features_need_no_model(stride, height, width):
    model = tiny_model(output_stride=stride)
    _, features = abstract_outputs(model, height, width)
    del features["conv_1x1_exp"]
    found = {name: feature.shape[1:3] for name, feature in features.items()}
    assert found == map_sizes(model.backbone, height, width)


@pytest.mark.parametrize(("stride", "dilations"), [(32, (1, 1)), (16, (1, 1)), (8, (1, 2))])
def test_output_stride_dilates_what_stood_behind_a_removed_stride(stride, dilations):
    """CVNets v0.1 gives a stage the dilation from before its own stride was taken out."""
    found = {}

    def watch(call, arguments, options, context):
        if isinstance(context.module, InvertedResidual):
            found[context.module.path[1:]] = context.module.dilation
        return call(*arguments, **options)

    with nn.intercept_methods(watch):
        abstract_variables(tiny_model(output_stride=stride))
    assert (found["layer_4", "block_0"], found["layer_5", "block_0"]) == dilations
    assert {d for path, d in found.items() if path[0] < "layer_4"} == {1}


def test_no_classifier_gives_pooled_features():
    model = tiny_model(num_classes=0)
    variables = abstract_variables(model)
    assert "classifier" not in variables["params"]
    assert abstract_outputs(model, 64)[0].shape == (2, TINY.exp_channels)


IMAGES = np.random.default_rng(0).random((2, 33, 47, 3), np.float32)


def pooled_and_features(**options):
    model = tiny_model(num_classes=0, **options)
    variables = random_variables(model)
    return jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, IMAGES)


@pytest.fixture(scope="module")
def outputs():
    return pooled_and_features()


def test_pooled_features_are_means(outputs):
    pooled, features = outputs
    np.testing.assert_allclose(pooled, features["conv_1x1_exp"].mean((1, 2)), atol=1e-6)
    assert np.isfinite(pooled).all()


@pytest.mark.slow
def test_bfloat16_gives_float32_outputs_close_by(outputs):
    pooled, features = pooled_and_features(dtype=jnp.bfloat16)
    assert pooled.dtype == jnp.float32
    assert {f.dtype for f in features.values()} == {jnp.dtype(jnp.bfloat16)}
    difference = np.abs(pooled - outputs[0]).max()
    assert 0 < difference < 0.05 * np.abs(outputs[0]).max()


@pytest.mark.slow
def test_rematerialisation_changes_neither_values_nor_gradients():
    residual = {"features": 8, "expansion": 1, "stride": 2}
    block = {"dim": 8, "depth": 1, "heads": 2, "ffn_dim": 8, "dropout": 0.0}
    x = np.random.default_rng(0).random((2, 8, 8, 8), np.float32)
    results = {}
    for remat in (False, True):
        stage = Stage((residual,), MobileViTBlock, block, remat)
        variables = random_variables_of(stage, x)

        def loss(params, stage=stage, variables=variables):
            y, updates = stage.apply(
                {**variables, "params": params},
                x,
                True,
                mutable=["batch_stats"],
            )
            return (y**2).mean(), updates

        results[remat] = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def random_variables_of(module, x):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda leaf: np.float32(0.5 + 0.3 * rng.standard_normal(leaf.shape)), abstract
    )


def test_rematerialisation_keeps_the_paths():
    assert abstract_variables(tiny_model(remat=True)) == abstract_variables(tiny_model())


class TestNames:
    def test_list(self):
        sizes = ("s", "xs", "xxs")
        kinds = ("deeplabv3_mobilevit", "mobilevit", "ssdlite_mobilevit", "yolox_mobilevit")
        assert list_models("*mobilevit_*") == [f"{kind}_{size}" for kind in kinds for size in sizes]
        assert list_models() == sorted(list_models())
        assert list_models("mobilevit_x*") == ["mobilevit_xs", "mobilevit_xxs"]
        assert list_models("ssd*_s") == ["ssdlite_mobilevit_s"]
        assert list_models("vgg*") == []

    @pytest.mark.parametrize("name", list_models("*mobilevit_*"))
    def test_names_of_models(self, name):
        model = create_model(name, dropout=0.3)
        assert model_name(model) == name
        assert kind_of(model) == name.rpartition("_")[0]
        assert model_name(create_model(name, variant=TINY)) is None

    def test_unknown_model(self):
        with pytest.raises(ConfigurationError, match="'mobilevit_xss'.*did you mean 'mobilevit_x"):
            create_model("mobilevit_xss")

    def test_unknown_option(self):
        with pytest.raises(ConfigurationError, match="'patch_size'.*did you mean 'patch_sizes'"):
            create_model("mobilevit_s", patch_size=(2, 2, 2))

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("patch_sizes", (2, 2)),
            ("patch_sizes", (2, 0, 2)),
            ("patch_sizes", (2, 2.5, 2)),
            ("patch_sizes", 2),
            ("output_stride", 4),
            ("kernel_size", 2),
            ("kernel_size", -1),
            ("num_classes", -1),
            ("dropout", 1.0),
            ("attention_dropout", -0.1),
            ("ffn_dropout", 2),
            ("classifier_dropout", 1),
        ],
    )
    def test_bad_values(self, option, value):
        with pytest.raises(ConfigurationError, match=f"{option} must be"):
            create_model("mobilevit_xxs", **{option: value})

    def test_dropout_of_the_size(self):
        assert [create_model(f"mobilevit_{size}").backbone.dropout for size in SIZES] == [
            0.05,
            0.1,
            0.1,
        ]
        assert create_model("mobilevit_xxs", dropout=0.3).backbone.dropout == 0.3
        with pytest.raises(ConfigurationError, match="dropout must be of the type float"):
            create_model("mobilevit_xxs", dropout=True)


class TestConfig:
    def test_published_values_by_default(self):
        model = ModelConfig("mobilevit_xxs").build(7, "devices")
        expected = create_model("mobilevit_xxs", num_classes=7, dtype=jnp.dtype("float32"))
        assert model == expected

    def test_every_field_reaches_the_model(self):
        config = ModelConfig(
            "mobilevit_xs",
            num_classes=3,
            patch_sizes=(8, 4, 2),
            fusion=False,
            kernel_size=5,
            dropout=0.2,
            attention_dropout=0.3,
            ffn_dropout=0.4,
            classifier_dropout=0.5,
            output_stride=8,
            sync_batch_norm=True,
            unbiased_variance=False,
            remat=True,
            freeze_backbone=True,
            dtype="bfloat16",
        )
        assert config.build(7, "devices") == create_model(
            "mobilevit_xs",
            num_classes=3,
            patch_sizes=(8, 4, 2),
            fusion=False,
            kernel_size=5,
            dropout=0.2,
            attention_dropout=0.3,
            ffn_dropout=0.4,
            classifier_dropout=0.5,
            output_stride=8,
            bn_axis_name="devices",
            bn_unbiased=False,
            remat=True,
            freeze_backbone=True,
            dtype=jnp.dtype("bfloat16"),
        )


def test_every_option_of_an_experiment_is_described():
    text = ModelConfig.__doc__ or ""
    for field in dataclasses.fields(ModelConfig):
        assert re.search(rf"^    {field.name}: \w.{{10}}", text, re.MULTILINE), field.name
