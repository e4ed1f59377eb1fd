"""Detectors and segmentation models from weight files and directories."""

import jax
import numpy as np
import pytest

import mobilevit_jax as mvj
from mobilevit_jax.convert.files import write_state_dict
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.variables import variable_shapes
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained, save_weights
from tests import reference
from tests.small import random_variables

PROCESSOR = ImageProcessor(size=96, crop_size=(64, 64))


def model_of(kind, num_classes=4, **options):
    return mvj.create_model(f"{kind}_mobilevit_xxs", num_classes=num_classes, **options)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *(("ssdlite", "cvnets"), ("yolox", "cvnets")),
        *(("deeplabv3", "cvnets"), ("deeplabv3", "huggingface")),
    ],
)
@pytest.mark.parametrize("flipped", [True, False])
def test_bare_files(kind, layout, flipped, tmp_path):
    """Names and shapes tell the model; the file has the order of channels that readers assume."""
    model, path = model_of(kind), tmp_path / "weights.safetensors"
    variables = random_variables(model)
    processor = ImageProcessor(do_flip_channel_order=flipped)
    save_weights(path, model, variables, processor, layout=layout)
    loaded = load_weights(path)
    assert (loaded.model, loaded.model_name) == (model, f"{kind}_mobilevit_xxs")
    assert loaded.processor.do_flip_channel_order
    stem = loaded.variables["params"]["backbone"]["conv_1"]["conv"].pop("kernel")
    expected = variables["params"]["backbone"]["conv_1"]["conv"].pop("kernel")
    np.testing.assert_array_equal(stem, expected if flipped else expected[:, :, ::-1])
    assert_equal(loaded.variables, variables)


def test_names_of_later_cvnets_mean_other_options_and_channels(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_state_dict(path, reference.state_dict("deeplabv3_s_later"))
    model, variables, processor = mvj.from_pretrained(path)
    assert (model.backbone.output_stride, model.aspp_rates) == (8, (12, 24, 36))
    assert not processor.do_flip_channel_order
    assert "aux_conv" in variables["params"]


@pytest.mark.parametrize("kind", ["ssdlite", "yolox", "deeplabv3"])
def test_native_directories(kind, tmp_path):
    model = model_of(kind, patch_sizes=(8, 4, 2))
    variables, names = random_variables(model), ("a", "b", "c", "d")
    names = names[1:] if kind == "ssdlite" else names
    save_pretrained(tmp_path, model, variables, PROCESSOR, class_names=names, layout="native")
    loaded = load_weights(tmp_path)
    assert (loaded.model, loaded.processor, loaded.class_names) == (model, PROCESSOR, names)
    assert_equal(loaded.variables, variables)


def test_directories_of_transformers(tmp_path):
    model = model_of("deeplabv3")
    variables = random_variables(model)
    save_pretrained(tmp_path, model, variables, PROCESSOR)
    loaded = load_weights(tmp_path)
    assert (loaded.model, loaded.processor) == (model, PROCESSOR)
    assert_equal(loaded.variables, variables)
    small, _, _ = mvj.from_pretrained(tmp_path, upsample=False)
    images = np.zeros((1, 64, 64, 3), np.float32)
    assert jax.eval_shape(small.apply, variables, images).shape == (1, 4, 4, 4)


def test_no_directory_for_detectors_of_transformers(tmp_path):
    model = model_of("ssdlite")
    with pytest.raises(ConfigurationError, match="a model of the type ssdlite.*layout='native'"):
        save_pretrained(tmp_path / "new", model, random_variables(model), PROCESSOR)
    assert not (tmp_path / "new").exists()


class TestOptions:
    @pytest.mark.parametrize("kind", ["ssdlite", "yolox", "deeplabv3"])
    def test_other_classes_replace_the_last_layers_alone(self, kind, tmp_path):
        model, path = model_of(kind), tmp_path / "weights.safetensors"
        variables = random_variables(model)
        save_weights(path, model, variables, ImageProcessor(), layout="cvnets")
        with pytest.raises(ConfigurationError, match="the weights have 4 classes, not 7"):
            mvj.from_pretrained(path, num_classes=7)
        found, replaced, _ = mvj.from_pretrained(path, num_classes=7, replace_classifier=True)
        assert found == model.clone(num_classes=7)
        shapes = {
            (collection, *(key.key for key in keys)): leaf.shape
            for collection, tree in replaced.items()
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        assert shapes == variable_shapes(found)
        if kind == "ssdlite":
            for level in range(6):
                replaced["params"][f"head_{level}"].pop("predict")
                variables["params"][f"head_{level}"].pop("predict")
        elif kind == "yolox":
            for level in range(3):
                fresh = replaced["params"][f"head_{level}"].pop("predict_classes")
                np.testing.assert_allclose(fresh["bias"], -np.log(99), rtol=1e-6)
                variables["params"][f"head_{level}"].pop("predict_classes")
        else:
            assert not np.any(replaced["params"].pop("classifier")["bias"])
            variables["params"].pop("classifier")
        assert_equal(replaced, variables)

    def test_an_auxiliary_head_can_be_left_out(self, tmp_path):
        model, path = model_of("deeplabv3", aux_head=True), tmp_path / "weights.safetensors"
        variables = random_variables(model)
        save_weights(path, model, variables, ImageProcessor(), layout="cvnets")
        found, kept, processor = mvj.from_pretrained(path, aux_head=False)
        assert found == model.clone(aux_head=False)
        assert "aux_conv" not in kept["params"] and "aux_conv" not in kept["batch_stats"]
        save_pretrained(tmp_path / "saved", found, kept, processor)
        assert_equal(load_weights(tmp_path / "saved").variables, kept)
        with pytest.raises(ConfigurationError, match="aux_head=False"):
            save_pretrained(tmp_path / "other", model, variables, processor)

    def test_an_auxiliary_head_cannot_be_made_up(self, tmp_path):
        model, path = model_of("deeplabv3"), tmp_path / "weights.safetensors"
        save_weights(path, model, random_variables(model), ImageProcessor())
        with pytest.raises(ConfigurationError, match="weights do not fit aux_head=True: aux_"):
            mvj.from_pretrained(path, aux_head=True)


def test_a_configuration_of_another_kind_than_the_weights(tmp_path):
    model = model_of("deeplabv3")
    save_pretrained(tmp_path, model, random_variables(model), PROCESSOR)
    classifier = mvj.create_model("mobilevit_xxs", num_classes=4)
    save_pretrained(tmp_path / "other", classifier, random_variables(classifier), PROCESSOR)
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="a model with the kind and size of mobilevit_xxs"):
        load_weights(tmp_path)
