"""The detector: levels, anchors, outputs; its goldens are in `test_goldens`."""

# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

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
from mobilevit_jax.models.anchors import AnchorConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.heads.ssdlite import LEVELS, SSDLite, level_sizes
from tests import reference
from tests.small import SMALL_RESNET, TINY, random_variables

# Parameters with 81 classes, and millions of multiply-adds at 320x320, as instantiated and counted
# from the reference's code.
PUBLISHED = {"xxs": (1_755_050, 842.0), "xs": (2_742_042, 1845.4), "s": (5_738_826, 3426.7)}


def tiny_detector(num_classes=5, **options: Any) -> SSDLite:
    return create_model("ssdlite_mobilevit_xxs", variant=TINY, num_classes=num_classes, **options)


def compiled(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def outputs_of(model, height, width, batch=2):
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True)[0], images
    )


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    model = create_model(f"ssdlite_mobilevit_{size}")
    assert total_parameters(model) == PUBLISHED[size][0]
    assert round(total_macs(model, 320) / 1e6, 1) == PUBLISHED[size][1]


def test_parameter_paths_are_the_committed_ones():
    committed = json.loads((reference.GOLDEN / "head_paths.json").read_text())
    variables = jax.eval_shape(
        create_model("ssdlite_mobilevit_s").init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    flat: Any = traverse_util.flatten_dict(variables, sep="/")
    found = {path: list(x.shape) for path, x in flat.items() if "/backbone/" not in path}
    assert found == committed["ssdlite_mobilevit_s"]


def test_levels_of_the_published_size():
    model = create_model("ssdlite_mobilevit_xs")
    assert level_sizes(model.backbone, 320, 320) == [
        (20, 20),
        (10, 10),
        (5, 5),
        (3, 3),
        (2, 2),
        (1, 1),
    ]
    assert model.anchors(320, 320).shape == (3232, 4)


# Sides that divide by nothing, and maps of one pixel from the second extra level on.
@pytest.mark.parametrize(("height", "width"), [(96, 96), (1, 33), (131, 250)])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_there_is_an_anchor_for_every_row_of_the_outputs(height, width, stride):
    model = tiny_detector(output_stride=stride)
    (logits, offsets), features = outputs_of(model, height, width)
    count = len(model.anchors(height, width))
    assert logits.shape == (2, count, 5) and logits.dtype == jnp.float32
    assert offsets.shape == (2, count, 4) and offsets.dtype == jnp.float32
    names = ["layer_4", "layer_5", *(level.name for level in LEVELS[2:])]
    sizes = [features[name].shape[1:3] for name in names]
    assert sizes == level_sizes(model.backbone, height, width)


def test_rows_are_in_the_order_of_the_anchors():
    """What one predictor says of one place is where that place's anchors are."""
    model = tiny_detector()
    variables = jax.tree.map(np.zeros_like, random_variables(model))
    # Numbers 0 to 53 for the 6 anchors of a place of level 1, 9 each.
    variables["params"]["head_1"]["predict"]["bias"] = np.arange(54, dtype=np.float32)
    logits, offsets = compiled(model.apply)(variables, np.zeros((1, 64, 96, 3), np.float32))
    anchors = model.anchors(64, 96)
    first, second = 4 * 6 * 6, 2 * 3 * 6
    found = np.concatenate([offsets, logits], -1)[0]
    assert not found[:first].any() and not found[first + second :].any()
    expected = np.tile(np.arange(54).reshape(6, 9), (6, 1))
    np.testing.assert_array_equal(found[first : first + second], expected)
    centres = anchors[first : first + second : 6, :2]
    np.testing.assert_allclose(centres[:4, 0], [1 / 6, 3 / 6, 5 / 6, 1 / 6], rtol=1e-6)
    np.testing.assert_allclose(centres[:4, 1], [1 / 4, 1 / 4, 1 / 4, 3 / 4], rtol=1e-6)


def test_anchors_as_data():
    config = AnchorConfig(0.2, 0.9, ((2,),) * 6)
    model = tiny_detector(anchor_config=config)
    (logits, _), _ = outputs_of(model, 64, 64)
    anchors = model.anchors(64, 64)
    assert len(anchors) == logits.shape[1] == 4 * (16 + 4 + 1 + 1 + 1 + 1)
    np.testing.assert_allclose(anchors[0], [0.125, 0.125, 0.2, 0.2], rtol=1e-6)
    stated = ModelConfig(
        "ssdlite_mobilevit_s", anchor_scales=(0.2, 0.9), anchor_ratios=((2.0,),) * 6
    )
    assert stated.build(5, "devices").anchor_config == config


@pytest.mark.slow
def test_training_moves_statistics_and_reaches_every_parameter():
    model = create_model("ssdlite_resnet18", variant=SMALL_RESNET, num_classes=5)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)

    def loss(params):
        (logits, offsets), updates = model.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return jnp.mean(logits**2) + jnp.mean(offsets**2), updates["batch_stats"]

    gradients, statistics = compiled(jax.grad(loss, has_aux=True))(variables["params"])
    heads = {name for name in gradients if name != "backbone"}
    assert heads == {f"head_{i}" for i in range(6)} | {level.name for level in LEVELS[2:]}
    for name in heads:
        parts = gradients[name]
        # ReLU may be off for a channel, but not for a whole layer; a predictor has none behind it.
        kernels = [part for part in jax.tree.leaves(parts) if part.ndim == 4]
        assert kernels and all(np.any(kernel) for kernel in kernels)
        assert "predict" not in parts or np.all(parts["predict"]["bias"])
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(statistics), strict=True
    ):
        assert np.abs(old - new).max() > 0


@pytest.mark.slow
def test_a_frozen_backbone_leaves_gradients_and_statistics_to_the_heads():
    model = tiny_detector(freeze_backbone=True, dropout=0.5)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)

    def loss(params):
        (logits, _), updates = model.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), updates["batch_stats"]

    gradients, statistics = compiled(jax.grad(loss, has_aux=True))(variables["params"])
    assert not any(np.any(gradient) for gradient in jax.tree.leaves(gradients["backbone"]))
    assert np.any(gradients["head_0"]["predict"]["kernel"])
    old = variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, statistics["backbone"], old["backbone"])
    moved = statistics["head_0"]["project"]["norm"]["mean"]
    assert np.abs(moved - old["head_0"]["project"]["norm"]["mean"]).min() > 0


def test_initialisation_of_the_detector_s_own_kernels():
    """CVNets v0.1: Glorot's uniform rule, biases zero."""
    model = create_model("ssdlite_mobilevit_xxs", num_classes=3)

    def heads():
        params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        return {name: params[name] for name in ("extra_64", "extra_pool", "head_1")}

    # Nothing but what is asked for is computed.
    drawn = compiled(heads)()
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawn):
        value = np.asarray(leaf)
        if path[-1].key == "bias":
            np.testing.assert_array_equal(value, 0)
        elif path[-1].key == "kernel":
            height, width, inputs, features = value.shape
            limit = np.sqrt(6 / (height * width * (inputs + features)))
            assert 0.95 * limit < np.abs(value).max() <= limit, path
            assert abs(value.std() / (limit / 3**0.5) - 1) < 0.1, path


def test_stages_in_order_of_use():
    names = [stage.name for stage in stages(tiny_detector(), 64)]
    extras = ["extra_64", "extra_128", "extra_256", "extra_pool"]
    assert names[5:] == ["layer_5", *extras, *(f"head_{i}" for i in range(6))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, the background and at least one"),
        ({"anchor_config": AnchorConfig(aspect_ratios=((2,),))}, "ratios of 6 levels; got 1"),
        ({"output_stride": 4}, "output_stride must be one of"),
        ({"aspp_rates": (1, 2, 3)}, r"'aspp_rates' of ssd.*\(an option of deeplabv3_\*"),
        ({"classifier_dropout": 0.1}, r"\(an option of classifiers\); known: anchor_config, att"),
        ({"anchor_confg": 1}, r"'anchor_confg' .*\(did you mean 'anchor_config'\?\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        create_model("ssdlite_mobilevit_xxs", **options)
