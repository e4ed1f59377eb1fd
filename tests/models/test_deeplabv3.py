"""The segmentation model: sizes, options, dropout, auxiliary head; goldens: `test_goldens`."""

# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax.analysis.counts import stages, total_macs, total_parameters
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.heads.deeplabv3 import ASPP, DeepLabV3
from mobilevit_jax.models.patches import resize_bilinear
from tests import reference
from tests.small import TINY, random_variables

# Parameters with 21 classes, and millions of multiply-adds at 512x512, as instantiated and counted
# from the reference's code.
PUBLISHED = {"xxs": (1_854_853, 3952.8), "xs": (2_944_069, 7378.4), "s": (6_357_941, 13693.5)}
# Later CVNets: output stride 8 and a wider pyramid; without the auxiliary head, and with it.
LATER = {"output_stride": 8, "aspp_features": 512, "aspp_rates": (12, 24, 36), "aux_width": 128}
IMAGES = np.random.default_rng(0).random((2, 48, 80, 3), np.float32)


def tiny_segmenter(num_classes=4, **options: Any) -> DeepLabV3:
    options = {"variant": TINY, "aspp_features": 8, "aux_width": 8, **options}
    return create_model("deeplabv3_mobilevit_xxs", num_classes=num_classes, **options)


def compiled(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    model = create_model(f"deeplabv3_mobilevit_{size}")
    assert total_parameters(model) == PUBLISHED[size][0]
    assert round(total_macs(model, 512) / 1e6, 1) == PUBLISHED[size][1]


@pytest.mark.parametrize(
    ("size", "aux_head", "parameters"),
    [("s", False, 8_537_269), ("s", True, 8_687_690), ("xs", True, 4_743_386)],
)
def test_sizes_of_later_cvnets(size, aux_head, parameters):
    model = create_model(f"deeplabv3_mobilevit_{size}", aux_head=aux_head, **LATER)
    assert total_parameters(model) == parameters


def test_parameter_paths_are_the_committed_ones():
    committed = json.loads((reference.GOLDEN / "head_paths.json").read_text())
    model = create_model("deeplabv3_mobilevit_s", aux_head=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    flat: Any = traverse_util.flatten_dict(variables, sep="/")
    found = {path: list(x.shape) for path, x in flat.items() if "/backbone/" not in path}
    assert found == committed["deeplabv3_mobilevit_s"]


@pytest.mark.parametrize(("stride", "sides"), [(32, (2, 3)), (16, (3, 5)), (8, (6, 10))])
@pytest.mark.parametrize("upsample", [True, False])
def test_sizes(stride, sides, upsample):
    model = tiny_segmenter(output_stride=stride, upsample=upsample)
    logits, features = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True)[0], IMAGES
    )
    assert logits.shape == (2, *(IMAGES.shape[1:3] if upsample else sides), 4)
    assert logits.dtype == jnp.float32
    assert features["aspp"].shape == (2, *sides, 8)
    assert features["layer_5"].shape[1:3] == sides


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampled_logits_are_the_small_ones_resized(align_corners):
    model = tiny_segmenter(align_corners=align_corners)
    variables = random_variables(model)
    small, large = compiled(
        lambda: (
            model.clone(upsample=False).apply(variables, IMAGES),
            model.apply(variables, IMAGES),
        )
    )()
    expected = resize_bilinear(small, IMAGES.shape[1:3], align_corners=align_corners)
    np.testing.assert_allclose(large, expected, atol=1e-5)
    at_corners = [large[:, i, j] - small[:, i, j] for i in (0, -1) for j in (0, -1)]
    assert np.abs(at_corners).max() < 1e-5


def test_pyramid_by_hand():
    """Each branch sees its own neighbourhood: an impulse comes out at the taps of its rate."""
    module = ASPP(features=1, rates=(1, 2, 3), dropout=0.0)
    x = np.zeros((1, 9, 9, 1), np.float32)
    x[0, 4, 4] = 81
    abstract = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract)
    flat: Any = traverse_util.flatten_dict(variables)
    # Norms that change nothing.
    for path in flat:
        if path[-1] in ("bias", "mean"):
            flat[path] = np.zeros(1, np.float32)
        if path[-1] == "var":
            flat[path] = np.full(1, 1 - 1e-5, np.float32)
    weights = np.array([1, 10, 100, 1000, 10000], np.float32)
    flat["params", "project", "conv", "kernel"] = weights.reshape(1, 1, 5, 1)
    y = module.apply(traverse_util.unflatten_dict(flat), x)[0, ..., 0]
    expected = np.full((9, 9), 10000.0)
    expected[4, 4] += 81
    for rate, weight in zip((1, 2, 3), (10, 100, 1000), strict=True):
        expected[4 - rate : 5 + rate : rate, 4 - rate : 5 + rate : rate] += 81 * weight
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def draws(model, key):
    variables = random_variables(model)

    def draw(seed):
        rngs = {"dropout": jax.random.key(seed)}
        outputs, maps = model.apply(
            variables, IMAGES, True, features=True, rngs=rngs, mutable=["batch_stats"]
        )[0]
        return outputs, maps["aspp"]

    return compiled(draw)(key)


@pytest.mark.parametrize("channels", [False, True])
def test_dropout_of_the_pyramid_by_elements_or_channels(channels):
    model = tiny_segmenter(
        dropout=0.0, aspp_dropout=0.5, channel_dropout=channels, head_dropout=0.0
    )
    _, pyramid = draws(model, 0)
    # ReLU has zeros of its own; compare with what comes without dropout.
    _, kept = draws(model.clone(aspp_dropout=0.0), 0)
    alive = np.asarray(kept) > 1e-4
    dropped = (np.asarray(pyramid) == 0) & alive
    np.testing.assert_allclose(pyramid[alive & ~dropped], 2 * kept[alive & ~dropped], rtol=1e-4)
    shares = [
        dropped[i, ..., c][alive[i, ..., c]].mean()
        for i in range(2)
        for c in range(8)
        if alive[i, ..., c].any()
    ]
    whole = [share in (0, 1) for share in shares]
    assert all(whole) if channels else not all(whole)
    assert 0 < np.mean(shares) < 1


@pytest.mark.parametrize("option", ["head_dropout", "aux_dropout"])
def test_dropout_in_front_of_each_classifier(option):
    rates = {"dropout": 0.0, "aspp_dropout": 0.0, "head_dropout": 0.0, "aux_dropout": 0.0}
    model = tiny_segmenter(aux_head=True, **rates | {option: 0.5})
    (first, _), (second, _) = draws(model, 0), draws(model, 1)
    changed = [np.abs(a - b).max() > 1e-4 for a, b in zip(first, second, strict=True)]
    assert changed == [option == "head_dropout", option == "aux_dropout"]


class TestAuxiliaryHead:
    def test_only_training_computes_it(self):
        model = tiny_segmenter(aux_head=True)
        variables = random_variables(model)
        assert (
            model.backbone.variant.channels[4] // 4
            < 8
            == variables["params"]["aux_classifier"]["kernel"].shape[2]
        )

        def run(train):
            return model.apply(variables, IMAGES, train, rngs=keys, mutable=["batch_stats"])[0]

        keys = {"dropout": jax.random.key(0)}
        logits, aux = jax.eval_shape(lambda: run(True))
        assert logits.shape == aux.shape == (2, 48, 80, 4)
        assert jax.eval_shape(lambda: run(False)).shape == (2, 48, 80, 4)
        assert [stage.macs for stage in stages(model, 32) if "aux" in stage.name] == [0, 0]

    def test_a_quarter_of_layer_4_or_the_width(self):
        wide = tiny_segmenter(aux_head=True, aux_width=1)
        assert random_variables(wide)["params"]["aux_conv"]["conv"]["kernel"].shape == (3, 3, 8, 2)


def test_frozen_backbone_in_training_is_evaluation():
    model = tiny_segmenter(freeze_backbone=True, dropout=0.5)
    variables = random_variables(model)

    def both():
        (_, maps), updates = model.apply(
            variables,
            IMAGES,
            True,
            features=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return maps["layer_5"], model.apply(variables, IMAGES, features=True)[1]["layer_5"], updates

    trained, evaluated, updates = compiled(both)()
    np.testing.assert_allclose(trained, evaluated, rtol=1e-4, atol=1e-5)
    old, new = variables["batch_stats"], updates["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, new["backbone"], old["backbone"])
    assert np.any(new["aspp"]["pool"]["norm"]["mean"] != old["aspp"]["pool"]["norm"]["mean"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 2 or more"),
        ({"aspp_rates": (6, 12)}, "aspp_rates must be three positive integers"),
        ({"aspp_rates": (6, 12, 0)}, "aspp_rates must be three positive integers"),
        ({"aspp_features": 0}, "aspp_features must be at least 1"),
        ({"aux_width": 0}, "aux_width must be at least 1"),
        ({"aspp_dropout": 1.0}, r"aspp_dropout must be in \[0, 1\)"),
        ({"head_dropout": -0.1}, r"head_dropout must be in \[0, 1\)"),
        ({"aux_dropout": 2}, r"aux_dropout must be in \[0, 1\)"),
        ({"anchor_config": None}, r"\(an option of ssdlite_\*\)"),
        ({"aspp_rate": (1, 2, 3)}, r"\(did you mean 'aspp_rates'\?\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        create_model("deeplabv3_mobilevit_xxs", **options)


def test_configuration_reaches_the_model():
    options = {
        "aspp_features": 512,
        "aspp_rates": (12, 24, 36),
        "aspp_dropout": 0.2,
        "channel_dropout": True,
        "head_dropout": 0.0,
        "aux_head": True,
        "aux_width": 128,
        "aux_dropout": 0.3,
        "align_corners": True,
        "output_stride": 8,
    }
    found = ModelConfig("deeplabv3_mobilevit_xs", **options).build(21, "devices")
    dtype = jnp.dtype("float32")
    assert found == create_model("deeplabv3_mobilevit_xs", dtype=dtype, **options)
    plain = ModelConfig("deeplabv3_mobilevit_xs").build(21, "devices")
    assert plain == create_model("deeplabv3_mobilevit_xs", dtype=dtype)
    assert plain.backbone.output_stride == 16


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("mobilevit_s", {"aux_head": False}),
        ("mobilevit_s", {"anchor_scales": (0.1, 1.0)}),
        ("ssdlite_mobilevit_s", {"align_corners": True}),
        ("deeplabv3_mobilevit_s", {"classifier_dropout": 0.1}),
    ],
)
def test_configuration_of_another_model_s_options(name, option):
    with pytest.raises(ConfigurationError, match=f"unknown option .* of {name} .an option of"):
        ModelConfig(name, **option).build(21, "devices")
