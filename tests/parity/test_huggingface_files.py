"""Directories that one side saves and the other loads."""

from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mobilevit_jax.config import DataConfig
from mobilevit_jax.convert.config import read_config
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.models import Variant, create_model
from mobilevit_jax.pretrained import from_pretrained, load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.tasks.classifier import Classifier
from mobilevit_jax.training import loop, workdir
from tests.parity.support import (
    SilentReporter,
    compiled,
    difference,
    images,
    load_quietly,
    messages_of_transformers,
    nchw,
)
from tests.small import random_variables, tiny_experiment

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
def test_transformers_loads_what_we_save(size, tmp_path, capfd):
    model = create_model(f"mobilevit_{size}", num_classes=7)
    variables, pixels = random_variables(model), images(64, 96, count=2)
    names = ("a", "b", "crane", "crane", "über", 'q"', "g")
    save_pretrained(tmp_path, model, variables, ImageProcessor(), class_names=names)
    twin = load_quietly(tmp_path)
    assert capfd.readouterr().err == ""
    assert [twin.config.id2label[index] for index in range(7)] == list(names)
    assert twin.dtype == torch.float32
    with torch.no_grad():
        theirs = twin(nchw(pixels)).logits.numpy()
    ours = compiled(model.apply)(variables, pixels)
    assert difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "problem", [None, "single_label_classification", "multi_label_classification", "regression"]
)
def test_numbers_mean_what_the_pipeline_says(problem, classes, tmp_path):
    if classes == 1 and problem == "single_label_classification":
        return  # transformers refuses to make it
    config = transformers.MobileViTConfig(num_labels=classes, problem_type=problem)
    config.architectures = ["MobileViTForImageClassification"]
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    model = read_config(tmp_path).model
    logits = np.array([[-0.117, 2.25, 0.5]], np.float32)[:, :classes]

    pipeline: Any = object.__new__(transformers.ImageClassificationPipeline)
    pipeline.model = SimpleNamespace(config=config)
    theirs = pipeline.postprocess({"logits": torch.from_numpy(logits)})

    class Constant(nn.Module):
        problem_type: str = model.problem_type

        def __call__(self, images):
            return logits

    names = [config.id2label[place] for place in range(classes)]
    predictor = Classifier(Constant(), {}, ImageProcessor(), names)
    ours = predictor(np.zeros((8, 8, 3), np.uint8))
    number = "value" if problem == "regression" else "probability"
    assert [answer.name for answer in ours] == [answer["label"] for answer in theirs]
    scores = [answer["score"] for answer in theirs]
    np.testing.assert_allclose([getattr(answer, number) for answer in ours], scores, rtol=1e-5)


def test_features_alone(tmp_path):
    model = create_model("mobilevit_xxs", num_classes=0)
    variables, pixels = random_variables(model), images(64, 64)
    save_pretrained(tmp_path, model, variables, ImageProcessor())
    with torch.no_grad():
        theirs = load_quietly(tmp_path)(nchw(pixels)).logits.numpy()
    assert difference(compiled(model.apply)(variables, pixels), theirs) < 1e-5


def test_other_widths_and_options(tmp_path):
    """A variant of nobody's table, and every option that the format has."""
    variant = Variant((16, 24, 24, 32, 40, 48), (36, 48, 60), 3, 64, 0.2, heads=6, ffn_multiplier=3)
    model = create_model(
        "mobilevit_s", variant=variant, num_classes=5, patch_sizes=(3, 3, 3), kernel_size=5,
        output_stride=16, attention_dropout=0.1, classifier_dropout=0.2,
    )  # fmt: skip
    variables, pixels = random_variables(model), images(64, 96)
    save_pretrained(tmp_path, model, variables, ImageProcessor())
    assert read_config(tmp_path).model == model
    with torch.no_grad():
        theirs = load_quietly(tmp_path)(nchw(pixels)).logits.numpy()
    assert difference(compiled(model.apply)(variables, pixels), theirs) < 1e-5


def test_a_load_report_would_be_noticed(tmp_path):
    """The tests above would see it: transformers misses a counter that nothing uses."""
    model = create_model("mobilevit_xxs", num_classes=7)
    save_pretrained(tmp_path, model, random_variables(model), ImageProcessor())
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("mobilevit.conv_stem.normalization.num_batches_tracked")
    save_file(tensors, path, metadata={"format": "pt"})
    with messages_of_transformers() as said:
        transformers.MobileViTForImageClassification.from_pretrained(tmp_path)
    assert "num_batches_tracked" in "".join(said)


def test_we_load_what_transformers_saves(tmp_path):
    config = transformers.MobileViTConfig(
        id2label={0: "cat", 1: "dog", 2: "bird"},
        label2id={"cat": 0, "dog": 1, "bird": 2},
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
        hidden_dropout_prob=0.05,
    )
    twin = transformers.MobileViTForImageClassification(config).eval()
    for parameter in twin.parameters():
        # transformers' own initialisation leaves next to nothing of a signal.
        torch.nn.init.normal_(parameter, std=0.3)
    twin.save_pretrained(tmp_path)
    loaded = load_weights(tmp_path)
    assert (loaded.model_name, loaded.class_names) == ("mobilevit_xxs", ("cat", "dog", "bird"))
    assert loaded.model == create_model("mobilevit_xxs", num_classes=3)
    pixels = images(64, 96, count=2)
    with torch.no_grad():
        theirs = twin(nchw(pixels)).logits.numpy()
    assert difference(compiled(loaded.model.apply)(loaded.variables, pixels), theirs) < 1e-5


def test_the_default_configuration_is_the_same(tmp_path):
    transformers.MobileViTConfig(architectures=["MobileViTForImageClassification"]).save_pretrained(
        tmp_path
    )
    found = read_config(tmp_path)
    assert found.model == create_model("mobilevit_s", num_classes=2)
    assert found.class_names == ()


def test_the_processor_loads(tmp_path, capfd):
    model = create_model("mobilevit_xxs", num_classes=7)
    processor = ImageProcessor(size=144, crop_size=(128, 120), resample="pillow_bicubic")
    save_pretrained(tmp_path, model, random_variables(model), processor)
    with messages_of_transformers() as said:
        theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert said == [] and capfd.readouterr().err == ""
    assert theirs.size["shortest_edge"] == 144
    assert (theirs.crop_size["height"], theirs.crop_size["width"]) == (128, 120)
    assert theirs.resample == 3 and theirs.do_flip_channel_order is True
    theirs.save_pretrained(tmp_path / "theirs")
    assert ImageProcessor.load(tmp_path / "theirs") == processor


@pytest.mark.slow
def test_what_was_trained_here_runs_there(tmp_path):
    """Two steps of training, saved, loaded by transformers: the same answers to images."""
    prepare("shapes/tiny", data_dir=tmp_path)
    data = DataConfig("shapes/tiny", str(tmp_path), train="train[:32]", validation=None)
    experiment = tiny_experiment(tmp_path, epochs=1, data=data)
    run, saved = tmp_path / "run", tmp_path / "saved"
    task = ClassificationTask(experiment)
    workdir.open_workdir(run, experiment, task.class_names)
    outcome = loop.train(experiment, task, run, SilentReporter())
    assert outcome.finished and outcome.rows[-1]["step"] == 2

    loaded = load_weights(run)
    save_pretrained(
        saved, loaded.model, loaded.variables, loaded.processor, class_names=loaded.class_names
    )
    twin = load_quietly(saved)
    assert tuple(twin.config.id2label.values()) == task.class_names
    rng = np.random.default_rng(0)
    batch = loaded.processor([rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(4)])
    ours = compiled(loaded.model.apply)(loaded.variables, batch)
    with torch.no_grad():
        theirs = twin(nchw(batch)).logits.numpy()
    assert difference(ours, theirs) < 1e-5
    # And back: what transformers saves again is the same, bit for bit.
    twin.save_pretrained(tmp_path / "again")
    _, variables, _ = from_pretrained(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, variables, loaded.variables)
