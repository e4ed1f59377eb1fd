"""Weights of MobileNetV2 and ResNet as torchvision and timm name them, and their processors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from mobilevit_jax import convert
from mobilevit_jax.convert import hub
from mobilevit_jax.convert.infer_model import recognise
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.backbones import mobilenetv2, resnet
from mobilevit_jax.models.variables import variable_shapes
from mobilevit_jax.pretrained import from_pretrained, load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained, save_weights
from tests import reference
from tests.small import random_variables

MODELS = ("mobilenetv2_100", "resnet50")
LAYOUTS: tuple[Any, ...] = ("torchvision", "timm")
PUBLISHED = ImageProcessor(
    size=256,
    crop_size=(224, 224),
    do_flip_channel_order=False,
    resample="pillow_bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
TINY = {
    "mobilenetv2_100": mobilenetv2.Variant((8, 8, 16, 8, 16, 24, 16, 24), 32),
    "resnet50": resnet.Variant((1, 2, 3, 1), 4, (8, 16, 12, 16, 20)),
}


def shapes_of(model, layout):
    zeros = {path: np.zeros(s, np.float32) for path, s in variable_shapes(model).items()}
    state_dict = convert.to_state_dict(model, traverse_util.unflatten_dict(zeros), layout)
    return {name: array.shape for name, array in state_dict.items()}


@pytest.mark.parametrize("name", MODELS)
class TestNames:
    def test_there_and_back_is_exact(self, name):
        """In both layouts, under their names and in their order."""
        model, original = create_model(name), reference.torchvision_state_dict(name)
        variables = convert.load_state_dict(model, original)
        found = convert.to_state_dict(model, variables, "torchvision")
        assert {key: a.shape for key, a in found.items()} == reference.torchvision_names(name)
        assert [*found] == [*original]
        theirs = convert.to_state_dict(model, variables, "timm")
        assert [*theirs] == [*reference.torchvision_names(name, "timm")]
        again = convert.to_state_dict(model, convert.load_state_dict(model, theirs), "torchvision")
        for one in (found, again):
            for key, array in original.items():
                np.testing.assert_array_equal(one[key], array, strict=True, err_msg=key)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_network_and_layout_are_told_by_the_names(self, name, layout):
        shapes = reference.torchvision_names(name, layout)
        found = recognise(shapes)
        # timm's names of a ResNet are torchvision's.
        assert found.layout == ("torchvision" if name == "resnet50" else layout)
        assert (found.name, found.channel_order, found.model) == (name, "rgb", create_model(name))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("num_classes", [0, 7])
    def test_other_sizes(self, name, layout, num_classes):
        model = create_model(name, variant=TINY[name], num_classes=num_classes)
        found = recognise(shapes_of(model, layout))
        assert (found.name, found.model) == (None, model)


@pytest.mark.parametrize("name", ["mobilenetv2_025", "mobilenetv2_140", "resnet18", "resnet101"])
def test_published_sizes_are_recognised(name):
    assert recognise(shapes_of(create_model(name), "torchvision")).name == name


class TestFiles:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18"])
    def test_a_file_has_the_published_processor(self, name, layout, tmp_path):
        model = create_model(name, num_classes=5)
        variables, path = random_variables(model), tmp_path / "w.safetensors"
        save_weights(path, model, variables, PUBLISHED, layout=layout)
        loaded = load_weights(path)
        assert loaded.model == model
        for ours, theirs in zip(*map(leaves, (variables, loaded.variables)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        bicubic = layout == "timm" and name != "resnet18"
        resample = "pillow_bicubic" if bicubic else "pillow_bilinear"
        assert loaded.processor == replace(PUBLISHED, resample=resample)

    def test_a_stem_for_the_other_order_is_turned_round(self, tmp_path):
        model = create_model("resnet50", variant=TINY["resnet50"], num_classes=5)
        variables, path = random_variables(model), tmp_path / "w.safetensors"
        mean, std = (PUBLISHED.mean or ())[::-1], (PUBLISHED.std or ())[::-1]
        bgr = replace(PUBLISHED, mean=mean, std=std, do_flip_channel_order=True)
        save_weights(path, model, variables, bgr, layout="torchvision")
        found = load_weights(path).variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
        kernel = variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
        np.testing.assert_array_equal(found, kernel[:, :, ::-1])

    @pytest.mark.parametrize("prefix", ["module.", "model.backbone.", "net."])
    @pytest.mark.parametrize("name", MODELS)
    def test_under_a_prefix(self, name, prefix, tmp_path):
        model = create_model(name, variant=TINY[name], num_classes=5)
        tensors = convert.to_state_dict(model, random_variables(model), "torchvision")
        save_file({f"{prefix}{key}": array for key, array in tensors.items()}, tmp_path / "a.pt")
        assert load_weights(tmp_path / "a.pt").model == model

    @pytest.mark.parametrize("name", MODELS)
    def test_a_directory_for_timm(self, name, tmp_path):
        model = create_model(name, num_classes=5)
        variables = random_variables(model)
        processor = replace(PUBLISHED, size=288, crop_size=(256, 256), resample="pillow_bicubic")
        save_pretrained(
            tmp_path, model, variables, processor, layout="timm", class_names="a b c d e".split()
        )
        loaded = load_weights(tmp_path)
        assert (loaded.model, loaded.processor) == (model, processor)
        assert loaded.model_name == name and loaded.class_names == ("a", "b", "c", "d", "e")
        for ours, theirs in zip(*map(leaves, (variables, loaded.variables)), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("name", "options"), [("mobilenetv2_100", {}), ("resnet50", {"stem": "cvnets"})]
    )
    def test_our_own_directory(self, name, options, tmp_path):
        model = create_model(name, variant=TINY[name], num_classes=5, **options)
        variables = random_variables(model)
        save_pretrained(tmp_path, model, variables, PUBLISHED, layout="native")
        loaded = load_weights(tmp_path)
        assert (loaded.model, loaded.processor) == (model, PUBLISHED)
        (tmp_path / "preprocessor_config.json").unlink()
        message = f"{tmp_path} has no preprocessor_config.json, .* of a {name.rstrip('_015')} may"
        with pytest.raises(DataError, match=message):
            load_weights(tmp_path)


def leaves(variables):
    return [leaf for _, leaf in sorted(traverse_util.flatten_dict(variables).items())]


class TestRefusals:
    def test_a_file_of_another_network(self):
        tensors = reference.state_dict("xxs")
        message = "those of a mobilevit in the naming of CVNets v0.1, and the model is a resnet; cr"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(create_model("resnet50"), tensors)
        message = (
            "those of a mobilenetv2 in the naming of torchvision, and the model is a mobilevit"
        )
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(
                create_model("mobilevit_s"), reference.torchvision_state_dict("mobilenetv2_100")
            )

    def test_another_width(self):
        tensors = reference.torchvision_state_dict("mobilenetv2_100")
        with pytest.raises(DataError, match="would fit a model with the size of mobilenetv2_100"):
            convert.load_state_dict(create_model("mobilenetv2_050"), tensors)

    def test_without_running_statistics(self):
        tensors = reference.torchvision_state_dict("mobilenetv2_100")
        bare = {name: a for name, a in tensors.items() if ".running_" not in name}
        with pytest.raises(
            DataError, match="missing: features.0.1.running_mean.*without the norms'"
        ):
            convert.load_state_dict(create_model("mobilenetv2_100"), bare)

    def test_a_resnext(self):
        shapes = reference.torchvision_names("resnet50")
        for name, shape in shapes.items():
            if name.endswith("conv2.weight"):
                shapes[name] = (shape[0], shape[1] // 32, 3, 3)
        with pytest.raises(DataError, match="take 2 of 64 channels each: .* those of a ResNeXt"):
            recognise(shapes)

    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("layer1.0.conv2.weight", (), r"layer_2/block_0/conv_2/conv/kernel has shape \(\)"),
            ("layer1.0.conv3.weight", (100, 64, 1, 1), "expansion would be 100 / 64; only whole"),
            ("layer4.0.conv1.weight", None, "layer_5/block_0/conv_1/conv/kernel are missing"),
        ],
    )
    def test_no_whole_network(self, name, shape, message):
        shapes = reference.torchvision_names("resnet50")
        del shapes[name]
        if shape is not None:
            shapes[name] = shape
        with pytest.raises(DataError, match=message):
            recognise(shapes)

    def test_a_network_with_more_in_its_blocks(self, tmp_path):
        """Whose names are those of timm's MobileNetV2 but for a few, as EfficientNet's are."""
        tensors = convert.to_state_dict(
            create_model("mobilenetv2_100"),
            random_variables(create_model("mobilenetv2_100")),
            "timm",
        )
        tensors["blocks.0.0.se.conv_reduce.weight"] = np.zeros((8, 32, 1, 1), np.float32)
        save_file(tensors, Path(tmp_path) / "w.safetensors")
        with pytest.raises(DataError, match="unexpected: blocks.0.0.se.conv_reduce.weight"):
            load_weights(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_stem_of_cvnets_has_no_names(self, layout):
        model = create_model("resnet50", stem="cvnets")
        with pytest.raises(
            ConfigurationError, match=r"express stem='cvnets' \(one convolution of 7"
        ):
            convert.to_state_dict(model, {}, layout)

    def test_heads_and_layouts_without_names(self):
        with pytest.raises(
            ConfigurationError, match="'timm' has no names for a ssdlite_mobilenetv2"
        ):
            convert.to_state_dict(create_model("ssdlite_mobilenetv2_100"), {}, "timm")
        with pytest.raises(ConfigurationError, match="'cvnets' has no names for a resnet"):
            convert.to_state_dict(create_model("resnet50"), {}, "cvnets")
        with pytest.raises(ConfigurationError, match="'torchvision' has no names for a mobilevit"):
            convert.to_state_dict(create_model("mobilevit_xxs"), {}, "torchvision")

    def test_no_directory_for_torchvision(self, tmp_path):
        model = create_model("resnet50", variant=TINY["resnet50"])
        layout: Any = "torchvision"
        with pytest.raises(
            ConfigurationError, match="torchvision has files only, see save_weights"
        ):
            save_pretrained(tmp_path, model, random_variables(model), PUBLISHED, layout=layout)

    def test_a_width_that_timm_lacks(self, tmp_path):
        model = create_model("mobilenetv2_025")
        with pytest.raises(ConfigurationError, match="cannot express a width of 0.25"):
            save_pretrained(tmp_path, model, random_variables(model), PUBLISHED, layout="timm")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_for_other_images(self, tmp_path):
        """Whose readers would normalise what the weights want as it is, or the other way."""
        refused: tuple[tuple[Any, ImageProcessor, Any], ...] = (
            (create_model("resnet18"), ImageProcessor(), "torchvision"),
            (create_model("mobilenetv2_050"), replace(PUBLISHED, std=(1, 1, 1)), "timm"),
            (create_model("mobilevit_xxs"), PUBLISHED, "cvnets"),
        )
        for model, processor, layout in refused:
            message = f"images have mean .* and readers of the layout {layout} take"
            with pytest.raises(ConfigurationError, match=message):
                path = tmp_path / "w.safetensors"
                save_weights(path, model, random_variables(model), processor, layout=layout)
        assert list(tmp_path.iterdir()) == []

    def test_no_processor_of_transformers(self, tmp_path):
        model = create_model("mobilevit_xxs")
        bgr = replace(PUBLISHED, do_flip_channel_order=True)
        with pytest.raises(ConfigurationError, match="both turns channels round and normalises"):
            save_pretrained(tmp_path, model, random_variables(model), bgr)


def test_an_id_of_timm_on_the_hub(monkeypatch, tmp_path):
    """As timm's own configurations are, with what is said of tests and more than is needed."""
    model = create_model("resnet18", num_classes=5)
    variables = random_variables(model)
    tensors = convert.to_state_dict(model, variables, "timm")
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 5,
        "num_features": 512,
        "pretrained_cfg": {
            "tag": "a1_in1k",
            "custom_load": False,
            "input_size": [3, 224, 224],
            "test_input_size": [3, 288, 288],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "test_crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 5,
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(hub, "fetch", lambda source, revision: tmp_path)
    found, loaded, processor = from_pretrained("timm/resnet18.a1_in1k")
    assert found == model
    assert processor == replace(
        PUBLISHED, size=288, crop_size=(288, 288), resample="pillow_bicubic"
    )
    for ours, theirs in zip(*map(leaves, (variables, loaded)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
