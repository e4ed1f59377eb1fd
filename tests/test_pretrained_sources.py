"""Weights from every kind of source: what comes with them, options, and what is refused."""

import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobilevit_jax as mvj
from mobilevit_jax.cli.weights import SelectionOptions
from mobilevit_jax.data.imagenet_names import class_names_imagenet
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.registry import with_options
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.saving import save_weights
from tests.convert.torch_zip import write_torch
from tests.small import random_variables, tiny_model

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
PROCESSOR = mvj.ImageProcessor(size=72, crop_size=(64, 64), resample="pillow_bilinear")


@pytest.fixture(scope="module")
def xxs():
    """XXS with six classes, and random weights."""
    model = mvj.create_model("mobilevit_xxs", num_classes=6)
    return model, random_variables(model, 1)


@pytest.fixture(scope="module")
def saved(xxs, tmp_path_factory) -> Path:
    """A directory as transformers has it; read it, and leave it as it is."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    model, variables = xxs
    mvj.save_pretrained(directory, model, variables, PROCESSOR, class_names=NAMES)
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of it to spoil."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_directory_brings_model_weights_processor_and_names(xxs, saved):
    loaded = load_weights(saved)
    assert loaded.model == xxs[0]
    assert_equal(loaded.variables, xxs[1])
    assert loaded.processor == PROCESSOR
    assert loaded.class_names == NAMES
    assert loaded.model_name == "mobilevit_xxs"
    assert loaded.description == f"weights of {saved}"
    assert loaded.experiment is None


@pytest.mark.parametrize("layout", ["native", "huggingface"])
@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_directories_keep_what_logits_stand_for(xxs, tmp_path, layout, problem):
    model = with_options(xxs[0], problem_type=problem)
    mvj.save_pretrained(tmp_path / "a", model, xxs[1], PROCESSOR, layout=layout)
    first = mvj.from_pretrained(tmp_path / "a")
    assert first[0] == model
    mvj.save_pretrained(tmp_path / "b", *first, layout=layout)
    assert load_weights(tmp_path / "b").model == model
    assert load_weights(tmp_path / "b" / "model.safetensors").model == model
    with pytest.raises(ConfigurationError, match=f"does not say problem_type='{problem}'; save a"):
        save_weights(tmp_path / "w.safetensors", *first, layout="cvnets")
    assert not (tmp_path / "w.safetensors").exists()


def test_the_native_directory_keeps_what_the_others_cannot(tmp_path):
    model = tiny_model(3, patch_sizes=(4, 2, 1), fusion=False, kernel_size=1)
    variables = random_variables(model)
    mvj.save_pretrained(tmp_path, model, variables, PROCESSOR, layout="native")
    loaded = load_weights(tmp_path)
    assert loaded.model == model
    assert_equal(loaded.variables, variables)
    assert loaded.model_name == "mobilevit"


@pytest.mark.parametrize("layout", ["huggingface", "cvnets"])
def test_a_bare_file_tells_its_model(xxs, tmp_path, layout):
    model, variables = xxs
    save_weights(tmp_path / "w.safetensors", model, variables, PROCESSOR, layout=layout)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.model == xxs[0]
    assert_equal(loaded.variables, xxs[1])
    assert loaded.processor == mvj.ImageProcessor()
    assert loaded.class_names == tuple(f"LABEL_{i}" for i in range(6))


def test_a_bare_file_of_timm_takes_rgb(xxs, tmp_path):
    model, variables = xxs
    save_weights(tmp_path / "w.safetensors", model, variables, PROCESSOR, layout="timm")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.processor.channel_order == "rgb"
    kernel = loaded.variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
    ours = variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, ours[:, :, ::-1])


def test_a_thousand_classes_without_names_are_those_of_imagenet(tmp_path):
    model = mvj.create_model("mobilevit_xxs")
    path = tmp_path / "w.safetensors"
    save_weights(path, model, random_variables(model), mvj.ImageProcessor())
    assert load_weights(path).class_names == class_names_imagenet()


@pytest.mark.parametrize("averaged", [True, False])
def test_a_training_checkpoint_of_cvnets(xxs, tmp_path, averaged):
    model, variables = xxs
    other = random_variables(model, 2)
    checkpoint = {
        "iterations": 5,
        "model_state_dict": mvj.convert.to_state_dict(model, other, layout="cvnets"),
        "ema_state_dict": mvj.convert.to_state_dict(model, variables, layout="cvnets"),
    }
    write_torch(tmp_path / "checkpoint.pt", checkpoint)
    loaded = load_weights(tmp_path / "checkpoint.pt", raw=not averaged)
    assert_equal(loaded.variables, variables if averaged else other)


def test_a_weight_file_goes_with_the_configuration_beside_it(copy, xxs):
    """If it is called as in such a directory; else it may be of another model, which is said."""
    loaded = load_weights(copy / "model.safetensors")
    assert (loaded.processor, loaded.class_names, loaded.notes) == (PROCESSOR, NAMES, ())
    with pytest.raises(ConfigurationError, match="says itself which order its channels have"):
        load_weights(copy / "model.safetensors", channel_order="rgb")
    (copy / "model.safetensors").rename(copy / "mine.safetensors")
    loaded = load_weights(copy / "mine.safetensors")
    assert loaded.processor == mvj.ImageProcessor() and loaded.names_assumed
    assert [note.partition(" is not followed")[0] for note in loaded.notes] == [
        str(copy / "config.json"),
        str(copy / "preprocessor_config.json"),
    ]


def test_a_directory_without_a_processor_says_what_is_assumed(copy, capsys):
    (copy / "preprocessor_config.json").unlink()
    loaded = SelectionOptions().load(str(copy))
    assert loaded.processor == mvj.ImageProcessor()
    (note,) = loaded.notes
    assert note in " ".join(capsys.readouterr().err.split())
    assert note.startswith(f"{copy} has no preprocessor_config.json; assumed: images are resized")
    assert note.endswith("to 288 and cropped to (256, 256) pixels, channels in the order bgr")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": "3"}, "num_classes must be of the type int, such as 1000; got '3'"),
        ({"num_classes": None}, "num_classes must be of the type int"),
        ({"num_classes": 6.0}, "num_classes must be of the type int"),
        ({"dropout": "0.1"}, "dropout must be of the type float"),
        ({"fusion": "no"}, "fusion must be of the type bool, such as True; got 'no'"),
        ({"remat": 1}, "remat must be of the type bool"),
    ],
)
def test_options_of_another_type(saved, options, match):
    with pytest.raises(ConfigurationError, match=match):
        mvj.from_pretrained(saved, **options)


@pytest.mark.parametrize("image", [None, [None], 3, b"bytes"])
def test_what_is_no_image(saved, image):
    with pytest.raises(DataError, match="image 0 must be a path, a Pillow image or an array, not"):
        mvj.load_predictor(saved)(image)


def test_a_pickled_file_in_a_directory(xxs, copy):
    model, variables = xxs
    (copy / "model.safetensors").unlink()
    write_torch(copy / "pytorch_model.bin", mvj.convert.to_state_dict(model, variables))
    assert_equal(load_weights(copy).variables, variables)


def test_options_over_what_the_source_says(saved, xxs):
    model, variables, processor = mvj.from_pretrained(saved, patch_sizes=(4, 4, 4), dropout=0.0)
    assert model == with_options(xxs[0], patch_sizes=(4, 4, 4), dropout=0.0)
    assert_equal(variables, xxs[1])
    assert processor == PROCESSOR


def test_features_and_a_new_classifier(saved, xxs):
    model, variables, _ = mvj.from_pretrained(saved, num_classes=0)
    assert model.num_classes == 0
    assert "classifier" not in variables["params"]
    images = np.zeros((1, 32, 32, 3), np.float32)
    assert jax.eval_shape(model.apply, variables, images).shape == (1, 320)

    model, variables, _ = mvj.from_pretrained(saved, num_classes=9, replace_classifier=True)
    assert jax.eval_shape(model.apply, variables, images).shape == (1, 9)
    kernel = variables["params"]["classifier"]["kernel"]
    assert 0.015 < kernel.std() < 0.025
    assert_equal(variables["params"]["backbone"], xxs[1]["params"]["backbone"])

    model, variables, _ = mvj.from_pretrained(saved, num_classes=6, replace_classifier=True)
    assert model == xxs[0]
    assert not variables["params"]["classifier"]["bias"].any()
    assert_equal(variables["params"]["backbone"], xxs[1]["params"]["backbone"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replace_classifier": True}, "replace_classifier needs num_classes"),
        ({"num_classes": 9}, "the weights have 6 classes, not 9; .* replace_classifier=True"),
        ({"kernel_size": 5}, "do not fit kernel_size=5: .*/fusion/conv/kernel"),
        ({"fusion": False}, "do not fit fusion=False: .*fusion"),
        ({"patch_size": 4}, "unknown option 'patch_size' .*did you mean 'patch_sizes'"),
    ],
)
def test_options_that_do_not_fit(saved, options, message):
    with pytest.raises(ConfigurationError, match=message):
        mvj.from_pretrained(saved, **options)


def test_a_configuration_that_contradicts_the_weights(copy):
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(4)}
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"model.safetensors does not fit .*config.json: .*classif"):
        load_weights(copy)


def test_weights_that_are_not_finite(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["classifier.bias"][0] = np.nan
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(DataError, match=r"model.safetensors.*classifier.bias"):
        load_weights(copy)


def test_half_precision_is_widened_only_on_request(xxs, copy):
    tensors = load_file(copy / "model.safetensors")
    halves = {
        name: t.astype(np.float16) if t.dtype == np.float32 else t for name, t in tensors.items()
    }
    save_file(halves, copy / "model.safetensors")
    with pytest.raises(DataError, match="model.safetensors.*float16.*allow_half"):
        load_weights(copy)
    loaded = load_weights(copy, allow_half=True)
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), xxs[1])
    assert_equal(loaded.variables, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint": "best"}, "only a work directory has checkpoints to choose from"),
        ({"raw": True}, "no averaged weights beside the raw ones"),
        ({"revision": "main"}, "is a path; only an id of the hub has revisions"),
    ],
)
def test_arguments_of_another_kind_of_source(saved, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        load_weights(saved, **arguments)


def test_the_order_of_channels_may_be_said_of_a_bare_file(saved, copy):
    path = (copy / "model.safetensors").rename(copy / "weights.safetensors")
    assert load_weights(path).processor.channel_order == "bgr"
    assert load_weights(path, channel_order="rgb").processor.channel_order == "rgb"
    with pytest.raises(ConfigurationError, match="says itself which order its channels have"):
        load_weights(saved, channel_order="rgb")


def test_nothing_there(tmp_path):
    with pytest.raises(ConfigurationError, match="there is nothing at .*gone.*apple/mobilevit"):
        load_weights(tmp_path / "gone")


def test_a_directory_without_configuration_or_weights(tmp_path, copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights; looked for model.safetensors"):
        load_weights(copy)
    (copy / "config.json").unlink()
    with pytest.raises(DataError, match=r"has neither experiment.json nor config.json"):
        load_weights(copy)


def test_loading_is_quick_and_traces_nothing(tmp_path, monkeypatch):
    model = mvj.create_model("mobilevit_s")
    mvj.save_pretrained(tmp_path, model, random_variables(model), mvj.ImageProcessor())
    monkeypatch.setattr(jax, "eval_shape", None)
    monkeypatch.setattr(type(model), "init", None)
    start = time.process_time()
    loaded = load_weights(tmp_path)
    assert time.process_time() - start < 10
    assert loaded.model.backbone.variant == model.backbone.variant
