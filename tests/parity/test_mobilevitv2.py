"""MobileViTv2 of transformers: the same answers, and files both ways."""

from typing import Any

import jax
import numpy as np
import pytest

from mobilevit_jax.convert import load_state_dict
from mobilevit_jax.convert.config import read_config
from mobilevit_jax.models import create_model
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.parity.support import (
    compiled,
    difference,
    gradients_of,
    huggingface_twin,
    images,
    load_quietly,
    nchw,
    nhwc,
    weighted_sum,
    worst,
)
from tests.small import random_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# As in `test_huggingface_model`.
FORWARD, BACKWARD, BACKWARD_THROUGH_STATISTICS = 1e-5, 2e-5, 1e-4
CLASSIFIER, SEGMENTER = (
    f"MobileViTV2For{what}" for what in ("ImageClassification", "SemanticSegmentation")
)
# What transformers computes of a segmentation model.
THEIRS: dict[str, Any] = {"implementation": "transformers", "align_corners": False}
WIDTHS = ("050", "075", "100", "125", "150", "175", "200")


def run_theirs(twin, pixels):
    with torch.no_grad():
        return twin(nchw(pixels)).logits.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(128, 192), (224, 160), (200, 88)])
def test_logits_stages_and_gradients(shape):
    """Even maps; layer_5 with an odd side; odd sides in all blocks."""
    model = create_model("mobilevitv2_050", num_classes=10, implementation="transformers")
    variables, pixels = random_variables(model), images(*shape)

    @compiled
    def run(params):
        def loss(params):
            inputs = {**variables, "params": params}
            logits, features = model.apply(inputs, pixels, features=True)
            return weighted_sum(logits), (logits, features)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, features) = run(variables["params"])
    twin = huggingface_twin(model, variables)
    outputs = twin(nchw(pixels), output_hidden_states=True)
    assert difference(logits, outputs.logits.detach().numpy()) < FORWARD
    for number, map_ in enumerate(outputs.hidden_states, 1):
        assert difference(features[f"layer_{number}"], nhwc(map_)) < FORWARD, number
    weighted_sum(outputs.logits).backward()
    assert worst(gradients, gradients_of(twin, model)) < (BACKWARD,)


@pytest.mark.slow
def test_training_mode():
    model = create_model("mobilevitv2_050", num_classes=10)
    variables, pixels = random_variables(model), images(128, 64, count=8)

    @compiled
    def run(params):
        def loss(params):
            inputs = {**variables, "params": params}
            logits, new = model.apply(inputs, pixels, train=True, mutable=["batch_stats"])
            return weighted_sum(logits), (logits, new["batch_stats"])

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, statistics) = run(variables["params"])
    twin = huggingface_twin(model, variables).train()
    theirs = twin(nchw(pixels)).logits
    weighted_sum(theirs).backward()
    assert difference(logits, theirs.detach().numpy()) < FORWARD
    # Biases that a norm takes away again have a gradient of rounding alone.
    assert worst(gradients, gradients_of(twin, model), least=1) < (BACKWARD_THROUGH_STATISTICS,)
    after = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    assert worst(statistics, load_state_dict(model, after)["batch_stats"]) < (FORWARD,)


@pytest.mark.parametrize(
    "width", [pytest.param(w, marks=() if w == "050" else pytest.mark.slow) for w in WIDTHS]
)
def test_transformers_loads_what_we_save(width, tmp_path, capfd):
    model = create_model(f"mobilevitv2_{width}", num_classes=3)
    variables, pixels = random_variables(model), images(64, 128, count=2)
    save_pretrained(tmp_path, model, variables, ImageProcessor(), class_names=("a", "b", "ü"))
    twin = load_quietly(tmp_path, CLASSIFIER)
    assert capfd.readouterr().err == ""
    assert tuple(twin.config.id2label.values()) == ("a", "b", "ü")
    ours = compiled(model.apply)(variables, pixels)
    # Logits below 1 are sums of a thousand numbers.
    assert difference(ours, run_theirs(twin, pixels), least=1) < FORWARD
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert processor.do_flip_channel_order is True and processor.size["shortest_edge"] == 288
    loaded = load_weights(tmp_path)
    assert loaded.model == model.clone(backbone=model.backbone.clone(implementation="transformers"))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [16, 8])
def test_transformers_loads_segmentation_models(stride, tmp_path, capfd):
    model = create_model("deeplabv3_mobilevitv2_050", num_classes=3, output_stride=stride, **THEIRS)
    variables, pixels = random_variables(model), images(72, 104, count=2)
    save_pretrained(tmp_path, model, variables, ImageProcessor(size=80, crop_size=(72, 72)))
    twin = load_quietly(tmp_path, SEGMENTER)
    assert capfd.readouterr().err == ""
    ours = compiled(model.clone(upsample=False).apply)(variables, pixels)
    assert difference(ours, run_theirs(twin, pixels).transpose(0, 2, 3, 1)) < FORWARD
    assert read_config(tmp_path).model == model


@pytest.mark.parametrize("kind", [CLASSIFIER, SEGMENTER])
def test_we_load_what_transformers_saves(kind, tmp_path):
    config = transformers.MobileViTV2Config(
        width_multiplier=0.5, num_labels=3, n_attn_blocks=[1, 1, 2], base_attn_unit_dims=[64] * 3
    )
    twin = getattr(transformers, kind)(config).eval()
    for parameter in twin.parameters():
        # transformers' own initialisation leaves next to nothing of a signal.
        torch.nn.init.normal_(parameter, std=0.3)
    twin.save_pretrained(tmp_path)
    loaded = load_weights(tmp_path)
    assert loaded.model.backbone.implementation == "transformers"
    pixels = images(88, 96, count=2)
    theirs = run_theirs(twin, pixels)
    model = loaded.model
    if kind == SEGMENTER:
        model, theirs = model.clone(upsample=False), theirs.transpose(0, 2, 3, 1)
    assert difference(compiled(model.apply)(loaded.variables, pixels), theirs) < FORWARD


def test_the_default_configuration_is_the_same(tmp_path):
    transformers.MobileViTV2Config(architectures=[CLASSIFIER]).save_pretrained(tmp_path)
    expected = create_model("mobilevitv2_100", num_classes=2, implementation="transformers")
    assert read_config(tmp_path).model == expected
