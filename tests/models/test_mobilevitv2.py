"""MobileViTv2: counts, options, outputs of the reference implementation, memory."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.analysis.counts import stages, total_macs, total_parameters
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import VARIANTS, create_model, kind_of, list_models, model_name
from mobilevit_jax.models.backbones import mobilevitv2
from mobilevit_jax.models.backbones.mobilevitv2.network import MobileViTv2Block, SeparableAttention
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.layers import ConvBlock, InvertedResidual
from mobilevit_jax.models.variables import variable_shapes
from tests import reference
from tests.models.test_every_backbone import SMALL
from tests.ops.support import normal, planned_bytes
from tests.small import random_variables

TINY = SMALL["mobilevitv2"]
# As instantiated from the reference's code: conv_1, layer_1 to layer_5, classifier, all.
PARAMETERS = {
    "050": (464, 2_016, 25_280, 103_426, 387_460, 594_947, 257_000, 1_370_593),
    "075": (696, 4_176, 54_816, 228_866, 863_812, 1_328_643, 385_000, 2_866_009),
    "100": (928, 7_104, 95_616, 403_458, 1_528_580, 2_353_155, 513_000, 4_901_841),
    "125": (1_160, 10_800, 147_680, 627_202, 2_381_764, 3_668_483, 641_000, 7_478_089),
    "150": (1_392, 15_264, 211_008, 900_098, 3_423_364, 5_274_627, 769_000, 10_594_753),
    "175": (1_624, 20_496, 285_600, 1_222_146, 4_653_380, 7_171_587, 897_000, 14_251_833),
    "200": (1_856, 26_496, 371_456, 1_593_346, 6_071_812, 9_359_363, 1_025_000, 18_449_329),
}
# Millions at 256, 224 (where layer_5 is enlarged) and 288 pixels.
MACS = {
    "050": (464.595, 361.950, 595.768),
    "075": (1027.980, 801.022, 1318.523),
    "100": (1812.091, 1412.159, 2324.523),
    "125": (2816.927, 2195.360, 3613.771),
    "150": (4042.488, 3150.627, 5186.264),
    "175": (5488.774, 4277.958, 7042.005),
    "200": (7155.786, 5577.354, 9180.992),
}
# Of DeepLabv3 with 21 classes, without and with the auxiliary head.
SEGMENTATION = {
    "050": (6_242_318, 6_466_467),
    "075": (9_510_278, 9_845_019),
    "100": (13_318_654, 13_763_987),
    "125": (17_667_446, 18_223_371),
    "150": (22_556_654, 23_306_483),
    "175": (27_986_278, 29_006_227),
    "200": (33_956_318, 35_287_859),
}
MILLIONS_OF_DETECTORS = dict(zip(PARAMETERS, (2.0, 3.6, 5.6, 8.2, 11.3, 14.9, 19.1), strict=True))


@pytest.mark.parametrize("width", PARAMETERS)
def test_counts(width):
    model = create_model(f"mobilevitv2_{width}")
    found = [stage.parameters for stage in stages(model, 32)]
    assert (*found, sum(found)) == PARAMETERS[width]
    sizes = zip((256, 224, 288), MACS[width], strict=True)
    for size, millions in sizes:
        assert total_macs(model, size) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("width", PARAMETERS)
def test_counts_of_other_heads(width):
    counts = tuple(
        total_parameters(create_model(f"deeplabv3_mobilevitv2_{width}", aux_head=aux))
        for aux in (False, True)
    )
    assert counts == SEGMENTATION[width]
    detector = total_parameters(create_model(f"ssdlite_mobilevitv2_{width}"))
    assert detector / 1e6 == pytest.approx(MILLIONS_OF_DETECTORS[width], abs=0.05)


def test_parameter_paths_are_the_committed_ones():
    """Paths and shapes are public: checkpoints and conversions depend on them."""
    committed = json.loads((reference.GOLDEN / "mobilevitv2_names.json").read_text())
    shapes = variable_shapes(create_model("mobilevitv2_050"))
    # Those of PyTorch have the outputs first.
    expected = {path: sorted(shape) for path, *_, shape in committed["mobilevitv2_050"]}
    assert {"/".join(path): sorted(shape) for path, shape in shapes.items()} == expected


@pytest.mark.parametrize("name", list_models("*mobilevitv2*"))
def test_names(name):
    model = create_model(name, ffn_dropout=0.3)
    assert model_name(model) == name
    assert kind_of(model) == name.rpartition("_")[0]
    assert model_name(create_model(name, variant=TINY)) is None


class TestOptions:
    def test_published_values(self):
        classifier, segmenter = (create_model(f"{h}mobilevitv2_100") for h in ("", "deeplabv3_"))
        assert classifier.classifier_dropout == classifier.backbone.dropout == 0
        assert (segmenter.aspp_features, segmenter.aux_width) == (512, 128)
        assert segmenter.aspp_rates == (6, 12, 18) and segmenter.backbone.output_stride == 16
        assert segmenter.align_corners and segmenter.channel_dropout
        assert create_model("deeplabv3_mobilevitv2_100", aspp_features=64).aspp_features == 64

    def test_experiments_have_them(self):
        config = ModelConfig("mobilevitv2_050", implementation="transformers", ffn_dropout=0.1)
        found = config.build(7, "devices")
        assert (found.backbone.implementation, found.backbone.ffn_dropout) == ("transformers", 0.1)
        assert ModelConfig("mobilevitv2_050").build(7, "devices") == create_model(
            "mobilevitv2_050", num_classes=7, dtype=jnp.dtype("float32")
        )

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("mobilevitv2_110", {}, r"unknown model 'mobilevitv2_110' \(did you mean 'mobilevitv2"),
            ("mobilevitv2", {}, "unknown model 'mobilevitv2' .did you mean 'mobilevitv2_"),
            ("mobilevitv2_100", {"variant": VARIANTS["s"]}, "variant of mobilevitv2_100 must be a"),
            ("mobilevit_s", {"variant": TINY}, "variant of mobilevit_s must be a Variant of"),
            ("mobilevitv2_100", {"patch_sizes": (2, 2, 2)}, r"an option of \*mobilevit_\*"),
            ("mobilevit_s", {"implementation": "cvnets"}, r"an option of \*mobilevitv2_\*"),
            ("mobilevitv2_100", {"implementation": "cvnet"}, "'cvnet' .did you mean 'cvnets'"),
            ("mobilevitv2_100", {"output_stride": 4}, "output_stride must be one of"),
            ("mobilevitv2_100", {"ffn_dropout": 1.0}, r"ffn_dropout must be in \[0, 1\)"),
            (
                "mobilevitv2_100",
                {"variant": mobilevitv2.Variant((8, 8, 8, 8, 8, 8), (4, 4, 4))},
                "ffn_multiplier=2 leaves units of width 4 no hidden layer",
            ),
        ],
    )
    def test_bad(self, name, options, message):
        with pytest.raises(ConfigurationError, match=message):
            create_model(name, **options)


@pytest.mark.parametrize(
    ("stride", "implementation", "residuals", "blocks"),
    [
        (32, "cvnets", (1, 1), (1, 1)),
        (16, "cvnets", (1, 1), (1, 2)),
        (8, "cvnets", (1, 2), (2, 4)),
        (16, "transformers", (1, 1), (1, 1)),
        (8, "transformers", (1, 2), (1, 1)),
    ],
)
def test_dilations(stride, implementation, residuals, blocks):
    found = {}

    def watch(call, arguments, options, context):
        if isinstance(module := context.module, InvertedResidual | ConvBlock):
            found[module.path[1:]] = module.dilation
        return call(*arguments, **options)

    model = create_model(
        "mobilevitv2_050", variant=TINY, output_stride=stride, implementation=implementation
    )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    with nn.intercept_methods(watch):
        jax.eval_shape(model.init, jax.random.key(0), images)
    last = ("layer_4", "layer_5")
    assert tuple(found[stage, "block_0"] for stage in last) == residuals
    assert tuple(found[stage, "mobilevit", "local_conv"] for stage in last) == blocks
    assert found["layer_3", "mobilevit", "local_conv"] == 1


class TestImplementations:
    def maps(self, x):
        for name in ("cvnets", "transformers"):
            block = MobileViTv2Block(8, depth=1, ffn_dim=16, implementation=name)
            yield np.asarray(jax.jit(block.apply)(random_variables_of(block, x), x))

    def test_they_agree_where_all_sides_are_even(self):
        ours, theirs = self.maps(normal(1, 4, 6, 8))
        np.testing.assert_array_equal(ours, theirs)

    def test_odd_sides_are_enlarged_or_left_out(self):
        enlarged, cut = self.maps(normal(1, 4, 5, 8))
        assert (enlarged.shape, cut.shape) == ((1, 4, 6, 8), (1, 4, 5, 8))
        # What was left out is zeros, of which the projection makes one pixel.
        assert len(np.unique(cut[0, :, 4], axis=0)) == 1
        assert len(np.unique(cut[0, :, 3], axis=0)) == 4

    def test_less_than_a_patch(self):
        model = create_model("mobilevitv2_050", variant=TINY, implementation="transformers")
        images = np.zeros((1, 32, 64, 3), np.float32)
        with pytest.raises(ConfigurationError, match='"transformers" has no .* 1x2 pixels, less'):
            jax.eval_shape(model.apply, random_variables(model), images)


def test_attention_is_that_of_its_definition():
    x = normal(2, 4, 6, 8)
    module = SeparableAttention()
    variables = random_variables_of(module, x)
    qkv, out = variables["params"]["qkv"], variables["params"]["out"]
    rows = x @ qkv["kernel"][0, 0] + qkv["bias"]
    expected = np.empty_like(x)
    for place in np.ndindex(2, 2):  # pixels of a patch
        query, key, value = np.split(rows[:, place[0] :: 2, place[1] :: 2], [1, 9], -1)
        scores = np.exp(query) / np.exp(query).sum((1, 2), keepdims=True)
        context = (scores * key).sum((1, 2), keepdims=True)
        expected[:, place[0] :: 2, place[1] :: 2] = np.maximum(value, 0) * context
    expected = expected @ out["kernel"][0, 0] + out["bias"]
    found = np.asarray(module.apply(variables, x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def random_variables_of(module: nn.Module, x: Any) -> Any:
    rng = np.random.default_rng(1)
    abstract = jax.eval_shape(module.init, jax.random.key(0), x)
    drawn = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), abstract)
    return {kind: jax.tree.map(np.abs, tree) for kind, tree in drawn.items()} | {
        "params": drawn["params"]
    }


@pytest.mark.parametrize("side", [16, 32])
def test_training_keeps_no_map_of_attention(side):
    """Of each layer the input, keys, values and the output: a map of pixels would be far more."""
    x, module = normal(1, side, side, 32), SeparableAttention()
    variables = random_variables_of(module, x)

    def planned(layers):
        def loss(x, variables):
            for _ in range(layers):
                x = x + jnp.asarray(module.apply(variables, x))
            return jnp.sum(jnp.sin(x))

        return planned_bytes(loss, jnp.asarray(x), variables) / x.nbytes

    assert (planned(8) - planned(4)) / 4 < 5.2


class TestGoldens:
    """Outputs of CVNets v0.2 and of transformers, reproduced with weights drawn by the rule."""

    def variables(self, model):
        shapes = convert.to_state_dict(model, random_variables(model), "cvnets")
        drawn = {name: reference.tensor(name, array.shape) for name, array in shapes.items()}
        return convert.load_state_dict(model, drawn)

    def assert_close(self, found, expected):
        expected = np.asarray(expected)
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max())
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "model", "size", "implementation"),
        [
            ("0.5_256x256", "mobilevitv2_050", (256, 256), "cvnets"),
            ("0.5_288x224", "mobilevitv2_050", (288, 224), "cvnets"),
            ("1.0_256x256", "mobilevitv2_100", (256, 256), "cvnets"),
            ("0.5_288x224_hf", "mobilevitv2_050", (288, 224), "transformers"),
        ],
    )
    def test_classifier(self, name, model, size, implementation):
        expected = reference.golden(f"classify_v2_{name}")
        model = create_model(model, implementation=implementation)
        images = reference.images(1, 2, *size)
        run = jax.jit(lambda v, x: model.apply(v, x, features=True))
        logits, features = run(self.variables(model), images)
        self.assert_close(logits, expected["logits"])
        batch, channels, *sides = expected["layer_5_shape"]
        assert features["layer_5"].shape == (batch, *sides, channels)
        kinds = {"mean": lambda x: x, "absmean": np.abs}
        wanted = {name.rpartition("_") for name in expected} - {("layer_5", "_", "shape")}
        for stage, _, kind in wanted - {("", "", "logits")}:
            found = kinds[kind](np.asarray(features[stage])).mean((1, 2))
            self.assert_close(found, expected[f"{stage}_{kind}"])

    @pytest.mark.slow
    def test_segmentation(self):
        expected = reference.golden("deeplabv3_v2_0.5_512")
        images = reference.images(7, 1, 512, 512)
        for name, implementation in (("cvnets", "cvnets"), ("hf", "transformers")):
            model = create_model(
                "deeplabv3_mobilevitv2_050", implementation=implementation, upsample=False
            )
            run = jax.jit(lambda v, x, model=model: model.apply(v, x, features=True))
            logits, features = run(self.variables(model), images)
            low = np.asarray(logits)[:, ::2, ::2].transpose(0, 3, 1, 2)
            self.assert_close(low, expected[f"{name}_low_every2nd"])
            for stage, key in (("layer_5", f"{name}_layer_5_mean"), ("layer_4", "layer_4_mean")):
                self.assert_close(np.asarray(features[stage]).mean((1, 2)), expected[key])
            if implementation == "cvnets":
                full = model.clone(upsample=True)._resized(logits, (512, 512))
                full = np.asarray(full)
                shown = full[:, ::32, ::32].transpose(0, 3, 1, 2)
                self.assert_close(shown, expected["cvnets_upsampled_every32"])
                agreeing = full[:, ::4, ::4].argmax(-1) == expected["cvnets_argmax_every4"]
                assert agreeing.mean() > 0.999
