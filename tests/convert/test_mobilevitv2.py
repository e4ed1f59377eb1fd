"""MobileViTv2 in the names and files of CVNets, transformers and timm."""

import json
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.convert.config import (
    from_huggingface,
    from_native,
    from_timm,
    timm_processor,
    to_huggingface,
    to_native,
    to_timm,
)
from mobilevit_jax.convert.infer_model import recognise
from mobilevit_jax.convert.layouts import detect
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.backbones import mobilevitv2
from mobilevit_jax.models.registry import families, with_options
from mobilevit_jax.pretrained import from_pretrained, load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained, save_weights
from tests import reference
from tests.small import random_variables

TABLE = json.loads((reference.GOLDEN / "mobilevitv2_names.json").read_text())
UNEVEN = mobilevitv2.Variant((8, 16, 24, 32, 40, 48), (16, 24, 40), 3, (1, 3, 2), 3)
LAYOUTS = ("huggingface", "cvnets", "timm")
THEIRS: dict[str, Any] = {"implementation": "transformers"}
RGB = ImageProcessor(do_flip_channel_order=False)


def names(layout, rows="mobilevitv2_050"):
    """Returns {name: PyTorch shape} of the committed table, without counters."""
    column = ["cvnets", "huggingface", "timm"].index(layout) + 1
    return {row[column]: tuple(row[-1]) for row in TABLE[rows]}


def without_counters(state_dict):
    return {n: a.shape for n, a in state_dict.items() if not n.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def model():
    return create_model("mobilevitv2_050")


@pytest.fixture(scope="module")
def variables(model):
    return random_variables(model)


class TestNames:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_there_and_back_is_exact(self, model, variables, layout):
        state_dict = convert.to_state_dict(model, variables, layout)
        # All three have the same tensors in the same order.
        assert [*without_counters(state_dict).items()] == [*names(layout).items()]
        assert len(state_dict) == 269
        assert convert.detect_layout(state_dict) == layout
        back = convert.load_state_dict(model, state_dict)
        jax.tree.map(np.testing.assert_array_equal, back, variables)

    @pytest.mark.parametrize("layout", ["cvnets", "huggingface"])
    def test_segmentation(self, layout):
        model = create_model("deeplabv3_mobilevitv2_050")
        variables = random_variables(model)
        state_dict = convert.to_state_dict(model, variables, layout)
        below = {"cvnets": "encoder.", "huggingface": ""}[layout]
        expected = {
            f"{below}{name}": shape
            for name, shape in names(layout).items()
            if not name.startswith("classifier")
        }
        assert without_counters(state_dict) == expected | names(layout, "deeplabv3_head")
        back = convert.load_state_dict(model, state_dict)
        jax.tree.map(np.testing.assert_array_equal, back, variables)

    def test_detectors_have_the_names_of_the_first_version_s(self):
        model = create_model("ssdlite_mobilevitv2_100", num_classes=5)
        variables = random_variables(model)
        state_dict = convert.to_state_dict(model, variables, "cvnets")
        v1 = reference.names_and_shapes("ssdlite_s").keys()
        heads = {name for name in state_dict if not name.startswith("encoder.")}
        assert heads == {name for name in v1 if not name.startswith("encoder.")}
        back = convert.load_state_dict(model, state_dict)
        jax.tree.map(np.testing.assert_array_equal, back, variables)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_other_widths_and_depths(self, layout):
        model = create_model("mobilevitv2_050", variant=UNEVEN, num_classes=3)
        variables = random_variables(model)
        state_dict = convert.to_state_dict(model, variables, layout)
        back = convert.load_state_dict(model, state_dict)
        jax.tree.map(np.testing.assert_array_equal, back, variables)
        found = recognise({name: array.shape for name, array in state_dict.items()})
        assert (found.name, found.kind) == (None, "mobilevitv2")
        assert found.model.backbone.variant == UNEVEN

    @pytest.mark.parametrize(
        ("layout", "order", "implementation"),
        [("cvnets", "rgb", "cvnets"), ("huggingface", "bgr", "transformers"),
         ("timm", "rgb", "cvnets")],
    )  # fmt: skip
    def test_names_alone_tell_the_network(self, layout, order, implementation):
        found = recognise(names(layout))
        assert (found.layout, found.name) == (layout, "mobilevitv2_050")
        assert found.channel_order == order
        assert found.model == create_model("mobilevitv2_050", implementation=implementation)

    def test_segmentation_is_told_too(self):
        backbone = {n: s for n, s in names("huggingface").items() if "classifier" not in n}
        found = recognise(backbone | names("huggingface", "deeplabv3_head"))
        expected = create_model("deeplabv3_mobilevitv2_050", align_corners=False, **THEIRS)
        assert found.model == expected
        backbone = {f"encoder.{n}": s for n, s in names("cvnets").items() if "classifier" not in n}
        found = recognise(backbone | names("cvnets", "deeplabv3_head"))
        assert found.model == create_model("deeplabv3_mobilevitv2_050")
        assert found.channel_order == "rgb"

    def test_titles(self):
        layout, prefix = detect([*names("cvnets")])
        assert (layout.kind, layout.title, prefix) == ("mobilevitv2", "CVNets after v0.1", "")


class TestWrongTensors:
    def test_of_the_other_version(self, model):
        first = reference.state_dict("xxs")
        message = "those of a mobilevit in the naming of CVNets v0.1, and the model is a mobilevitv"
        for strict in (True, False):
            with pytest.raises(DataError, match=message):
                convert.load_state_dict(model, first, strict=strict)
        second = {name: np.zeros(shape, np.float32) for name, shape in names("timm").items()}
        with pytest.raises(DataError, match="those of a mobilevitv2 .* the model is a mobilevit;"):
            convert.load_state_dict(create_model("mobilevit_xxs"), second)

    def test_of_another_width(self, model, variables):
        state_dict = convert.to_state_dict(model, variables, "cvnets")
        with pytest.raises(DataError, match="would fit a model with the size of mobilevitv2_050"):
            convert.load_state_dict(create_model("mobilevitv2_075"), state_dict)

    def test_without_running_statistics(self, model, variables):
        state_dict = convert.to_state_dict(model, variables, "timm")
        parameters = {name: a for name, a in state_dict.items() if "running_" not in name}
        message = r"missing: stem.bn.running_mean.*; they are without the norms' running statistics"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(model, parameters)

    def test_hidden_widths_of_no_multiple(self):
        shapes = names("cvnets")
        shapes["layer_4.1.global_rep.0.pre_norm_ffn.1.block.conv.weight"] = (100, 96, 1, 1)
        with pytest.raises(DataError, match=r"hidden widths of \[128, 100, 256\] .* no mult"):
            recognise(shapes)


def hf(**changes):
    model = create_model("mobilevitv2_075", num_classes=2, **THEIRS)
    return to_huggingface(model, ("a", "b")) | changes


class TestHuggingFace:
    @pytest.mark.parametrize("size", mobilevitv2.VARIANTS)
    def test_there_and_back(self, size):
        model = create_model(f"mobilevitv2_{size}", num_classes=2, **THEIRS)
        config = to_huggingface(model, ("a", "b"))
        assert config == json.loads(json.dumps(config))
        assert config["width_multiplier"] == int(size) / 100
        assert config["base_attn_unit_dims"] == [128, 192, 256]
        assert config["architectures"] == ["MobileViTV2ForImageClassification"]
        assert from_huggingface(config) == (model, ("a", "b"))

    def test_segmentation(self):
        options: dict[str, Any] = {"aspp_features": 64, "aspp_dropout": 0.2, "head_dropout": 0.3}
        model = create_model(
            "deeplabv3_mobilevitv2_100", num_classes=3, align_corners=False, **THEIRS, **options
        )
        config = to_huggingface(model, image_size=500)
        assert config["architectures"] == ["MobileViTV2ForSemanticSegmentation"]
        assert (config["output_stride"], config["atrous_rates"]) == (16, [6, 12, 18])
        assert from_huggingface(config)[0] == model

    def test_options(self):
        options: dict[str, Any] = {"attention_dropout": 0.1, "ffn_dropout": 0.2, "output_stride": 8}
        variant = replace(
            mobilevitv2.scaled(0.3, (40, 80, 130)), expansion=3, depths=(1, 2, 1), ffn_multiplier=4
        )
        model = create_model("mobilevitv2_100", variant=variant, **options, **THEIRS)
        assert from_huggingface(to_huggingface(model))[0] == model

    @pytest.mark.parametrize("width", [0.11, 0.3, 0.9, 1.1, 1.3333, 2.5])
    def test_widths_between(self, width):
        variant = mobilevitv2.scaled(width)
        model = create_model("mobilevitv2_100", variant=variant, **THEIRS)
        assert from_huggingface(to_huggingface(model))[0] == model
        found, _ = from_huggingface(hf(width_multiplier=width))
        assert found.backbone.variant == variant

    def test_what_a_file_leaves_out_is_transformers_default(self):
        found, _ = from_huggingface({"model_type": "mobilevitv2"})
        assert found == create_model("mobilevitv2_100", num_classes=2, **THEIRS)
        bare, _ = from_huggingface(hf(architectures=["MobileViTV2Model"]))
        assert bare == create_model("mobilevitv2_075", num_classes=0, **THEIRS)

    def test_ours_where_both_give_the_same(self):
        model = create_model("mobilevitv2_050")
        assert to_huggingface(model, image_size=320)["image_size"] == 320
        for size in (224, (256, 224)):
            with pytest.raises(ConfigurationError, match='"cvnets" for images of .* multiples of'):
                to_huggingface(model, image_size=size)

    @pytest.mark.parametrize(
        ("name", "options", "named"),
        [
            ("ssdlite_mobilevitv2_050", {}, "a model of the type ssdlite_mobilevitv2"),
            (
                "deeplabv3_mobilevitv2_050",
                {},
                '"cvnets" at output_stride=16 .*; align_corners=True',
            ),
            ("mobilevitv2_050", {"variant": UNEVEN}, r"channels=\(8, 16, .* of a width multipl"),
            (
                "mobilevitv2_050",
                {"variant": replace(mobilevitv2.VARIANTS["050"], dims=(60, 96, 128))},
                r"dims=\(60, 96, 128\) \(only multiples of 8",
            ),
        ],
    )
    def test_what_it_cannot_express_is_named(self, name, options, named):
        with pytest.raises(ConfigurationError, match=f"{named}.*layout='native'"):
            to_huggingface(create_model(name, **options))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width_multiplier": 0}, "width_multiplier must be above 0 and below 100, not 0"),
            ({"width_multiplier": -1.0}, "width_multiplier must be above 0"),
            (
                {"width_multiplier": 1e9},
                "width_multiplier must be above 0 and below 100, not 1000000",
            ),
            ({"width_multiplier": float("nan")}, "width_multiplier must be a finite number"),
            ({"width_multiplier": "1"}, "width_multiplier must be a number, not '1'"),
            ({"patch_size": 4}, "patch_size=4 is not supported, only 2"),
            ({"conv_kernel_size": 5}, "conv_kernel_size=5 is not supported, only 3"),
            ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'swish'"),
            ({"expand_ratio": 1.5}, "expand_ratio=1.5 is not supported"),
            ({"n_attn_blocks": [2, 4]}, "n_attn_blocks must be a list of 3"),
            ({"n_attn_blocks": [2, 0, 3]}, "depths must be from 1 to 100"),
            ({"ffn_multiplier": 0}, "ffn_multiplier must be from 1"),
            ({"ffn_dropout": 2.0}, r"ffn_dropout must be in \[0, 1\)"),
            (
                {"architectures": ["MobileViTForImageClassification"]},
                "a MobileViTForImageClassification; only MobileViTV2ForImageClassification and",
            ),
        ],
    )
    def test_what_our_model_does_not_do_is_named(self, changes, message):
        with pytest.raises(DataError, match=message):
            from_huggingface(hf(**changes))


class TestTimm:
    PROCESSOR = timm_processor(families()["mobilevitv2"])

    @pytest.mark.parametrize("size", mobilevitv2.VARIANTS)
    def test_there_and_back(self, size):
        model = create_model(f"mobilevitv2_{size}", num_classes=2)
        config = to_timm(model, ("a", "b"), self.PROCESSOR)
        assert config["architecture"] == f"mobilevitv2_{size}"
        assert config["num_features"] == model.backbone.variant.channels[5]
        stored = config["pretrained_cfg"]
        assert (stored["first_conv"], stored["classifier"]) == ("stem.conv", "head.fc")
        assert from_timm(config) == (model, ("a", "b"), self.PROCESSOR)

    def test_published_files(self):
        """As `timm/mobilevitv2_200.cvnets_in22k_ft_in1k_384` has it."""
        stored = {"input_size": [3, 384, 384], "crop_pct": 1.0, "interpolation": "bicubic"}
        config = {
            "architecture": "mobilevitv2_200",
            "num_classes": 1000,
            "pretrained_cfg": {"tag": "cvnets_in22k_ft_in1k_384", **stored},
        }
        model, _, processor = from_timm(config)
        assert model == create_model("mobilevitv2_200")
        assert (processor.size, processor.crop_size) == (384, (384, 384))
        assert from_timm({"architecture": "mobilevitv2_100"})[2] == ImageProcessor(
            size=288, crop_size=(256, 256), do_flip_channel_order=False, resample="pillow_bicubic"
        )

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (THEIRS, "implementation=transformers"),
            ({"output_stride": 16}, "output_stride=16"),
            ({"variant": UNEVEN}, "no published size"),
        ],
    )
    def test_what_it_cannot_express_is_named(self, options, named):
        model = create_model("mobilevitv2_050", **options)
        with pytest.raises(ConfigurationError, match=f"timm.*{named}.*layout='native'"):
            to_timm(model, None, self.PROCESSOR)


@pytest.mark.parametrize("name", ["", "ssdlite_", "deeplabv3_"])
def test_our_own_form_holds_all(name):
    model = create_model(f"{name}mobilevitv2_125", variant=UNEVEN, num_classes=4, **THEIRS)
    assert from_native(json.loads(json.dumps(to_native(model)))) == (model, ())


class TestFiles:
    def test_directories(self, model, variables, tmp_path):
        for layout in ("huggingface", "native", "timm"):
            save_pretrained(tmp_path / layout, model, variables, RGB, layout=layout)
            loaded = load_weights(tmp_path / layout)
            jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
            assert loaded.processor == RGB and loaded.model_name == "mobilevitv2_050"
            expected = model if layout != "huggingface" else with_options(model, **THEIRS)
            assert loaded.model == expected
        again, *_ = from_pretrained(tmp_path / "huggingface", implementation="cvnets")
        assert again == model

    def test_files_of_tensors(self, model, variables, tmp_path):
        """Nothing in them says the order of channels: it is the layout's."""
        turned = {}
        orders: dict[Any, str] = {"cvnets": "rgb", "huggingface": "bgr", "timm": "rgb"}
        for layout, order in orders.items():
            path = tmp_path / f"{layout}.safetensors"
            save_weights(path, model, variables, RGB, layout=layout)
            loaded = load_weights(path)
            assert loaded.processor.channel_order == order
            kernels = (
                v["params"]["backbone"]["conv_1"]["conv"]["kernel"]
                for v in (loaded.variables, variables)
            )
            ours, theirs = kernels
            np.testing.assert_array_equal(ours, theirs if order == "rgb" else theirs[:, :, ::-1])
            turned[layout] = loaded
        assert turned["cvnets"].model == turned["timm"].model == model
        assert turned["cvnets"].processor == replace(RGB, resample="pillow_bicubic")
        assert turned["huggingface"].processor == ImageProcessor(resample="pillow_bilinear")

    def test_a_file_of_the_other_version_beside_a_configuration(self, model, variables, tmp_path):
        save_pretrained(tmp_path, model, variables, RGB)
        first = create_model("mobilevit_xxs")
        save_weights(tmp_path / "model.safetensors", first, random_variables(first), RGB)
        message = r"model.safetensors does not fit .*config.json: .* those of a mobilevit in the na"
        with pytest.raises(DataError, match=message):
            load_weights(tmp_path)

    def test_what_transformers_would_answer_otherwise_is_not_saved_for_it(
        self, model, variables, tmp_path
    ):
        processor = replace(RGB, size=256, crop_size=(224, 224))
        for save in (save_pretrained, save_weights):
            target = tmp_path / "a.safetensors"
            with pytest.raises(ConfigurationError, match="for images of 224 pixels"):
                save(target, model, variables, processor)
            assert not target.exists()
