"""`mobilevit convert`, and the other commands on what it wrote."""

import json
import shutil

import numpy as np
import pytest

import mobilevit_jax as mvj
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.pretrained import load_weights
from tests.small import random_variables

# None of them those of the drawn data.
NAMES = ("disc", "box", "wedge", "spark", "plus", "moon", "love", "comb")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """XXS with random weights and class names, as a native directory."""
    model = mvj.create_model("mobilevit_xxs", num_classes=8)
    directory = tmp_path_factory.mktemp("native")
    processor = mvj.ImageProcessor(size=32, crop_size=(32, 32))
    mvj.save_pretrained(
        directory, model, random_variables(model), processor, class_names=NAMES, layout="native"
    )
    return directory


def kernel(path, processor=None):
    loaded = load_weights(path)
    kernel = loaded.variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]
    return kernel if loaded.processor.channel_order == "bgr" else kernel[:, :, ::-1]


@pytest.mark.parametrize(
    ("destination", "layout"),
    [
        ("hf", "huggingface"),
        ("hf.safetensors", "huggingface"),
        ("cvnets.safetensors", "cvnets"),
        ("timm", "timm"),
        ("timm.safetensors", "timm"),
        ("new/folder/native", "native"),
    ],
)
def test_every_form_holds_the_same_weights(mobilevit, native, tmp_path, destination, layout):
    ran = mobilevit("convert", native, tmp_path / destination, "--layout", layout)
    assert ran.status == 0
    assert "mobilevit_xxs, 8 classes, 953,592 parameters" in ran.err
    assert f"written to {tmp_path / destination} in the layout {layout}" in ran.err
    np.testing.assert_array_equal(kernel(tmp_path / destination), kernel(native))


def test_prediction_names_classes_from_the_configuration(mobilevit, native, tmp_path, test_images):
    assert mobilevit("convert", native, tmp_path / "hf").status == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    answers = []
    for weights in (native, tmp_path / "hf"):
        ran = mobilevit("predict", *test_images, "--weights", weights, "--json")
        assert ran.status == 0, ran.err
        answers.append(json.loads(ran.out))
    assert answers[0] == answers[1]
    shown = {p["class"] for answer in answers[0] for p in answer["predictions"]}
    assert shown <= set(NAMES) and len(shown) > 4


def test_evaluation_of_weights_from_elsewhere(mobilevit, native, tmp_path, test_images, data_dir):
    ran = mobilevit("evaluate", "--weights", native)
    assert ran.status == 2
    assert "does not say on which data set to evaluate; name one with --dataset" in ran.err
    ran = mobilevit("evaluate", "--weights", native, "--dataset", "shapes/tiny")
    assert ran.status == 0
    (path,) = tmp_path.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    split = open_split("shapes/tiny", "test", data_dir)
    assert (result["split"], result["count"]) == ("test", len(split))
    assert "going on, as both have 8 classes" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--convention", "later"], "the setting convention is of detection"),
        (["--protocol", "keep_aspect"], "the setting protocol is of segmentation"),
    ],
)
def test_settings_of_another_task(mobilevit, native, test_images, options, message):
    ran = mobilevit("evaluate", "--weights", native, "--dataset", "shapes/tiny", *options)
    assert ran.status == 2 and message in ran.err


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"do_rescale": False}, "evaluation scales pixels by 1/255, but the processor of these"),
        ({"do_center_crop": False}, "evaluation needs images of one size"),
    ],
)
def test_a_processor_that_evaluation_does_not_follow(
    mobilevit, native, tmp_path, test_images, entries, message
):
    shutil.copytree(native, tmp_path / "copy")
    path = tmp_path / "copy" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    ran = mobilevit("evaluate", "--weights", tmp_path / "copy", "--dataset", "shapes/tiny")
    assert ran.status == 2 and message in ran.err


def test_nothing_is_overwritten_unasked(mobilevit, native, tmp_path):
    for destination in ("hf", "w.safetensors"):
        arguments = ("convert", native, tmp_path / destination)
        assert mobilevit(*arguments).status == 0
        ran = mobilevit(*arguments)
        assert ran.status == 2
        assert "exists; choose another destination, or --overwrite it" in ran.err
        assert mobilevit(*arguments, "--overwrite").status == 0


@pytest.mark.parametrize(
    ("destination", "options", "status", "message"),
    [
        ("there", ["--layout", "cvnets"], 2, "CVNets reads a file, not a directory; name"),
        ("w.safetensors/", ["--layout", "timn"], 2, "timn"),
        ("w.safetensors", ["--checkpoint", "best"], 2, "only a work directory has checkpoints"),
        ("w.safetensors", ["--revision", "main"], 2, "only an id of the hub has revisions"),
        ("folder.safetensors", [], 2, "folder.safetensors is a directory"),
        ("file", [], 2, "file is a file"),
        ("w.safetensors", ["--layout", "native"], 2, "is a directory: it needs its configuration"),
    ],
)
def test_bad_usage(mobilevit, native, tmp_path, destination, options, status, message):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    ran = mobilevit("convert", native, tmp_path / destination, *options)
    assert ran.status == status
    assert message in ran.err + ran.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_the_layout_cannot_express(mobilevit, tmp_path):
    model = mvj.create_model("mobilevit_xxs", num_classes=8, patch_sizes=(8, 4, 2), fusion=False)
    mvj.save_pretrained(
        tmp_path / "native", model, random_variables(model), mvj.ImageProcessor(), layout="native"
    )
    ran = mobilevit("convert", tmp_path / "native", tmp_path / "out")
    assert ran.status == 2
    assert "patch" in ran.err and "fusion" in ran.err
    assert not (tmp_path / "out").exists()
    ran = mobilevit(
        "convert", tmp_path / "native", tmp_path / "w.safetensors", "--layout", "cvnets"
    )
    assert ran.status == 0


def test_a_source_that_is_nothing(mobilevit, tmp_path):
    ran = mobilevit("convert", tmp_path / "gone", tmp_path / "out")
    assert ran.status == 2
    assert f"there is nothing at {tmp_path / 'gone'}" in ran.err
