"""Our DeepLabv3 and transformers', with the same random weights, and files both ways."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.convert import files, load_state_dict
from mobilevit_jax.convert.config import read_config
from mobilevit_jax.models import Variant, create_model
from mobilevit_jax.models.patches import resize_bilinear
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.parity.support import (
    SIZES,
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

pytestmark = [pytest.mark.parity, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# As in `test_huggingface_model`.
FORWARD, BACKWARD, BACKWARD_THROUGH_STATISTICS = 1e-5, 2e-5, 1e-4
KIND = "MobileViTForSemanticSegmentation"


def weighted_sum_nhwc(logits):
    """Returns the loss of `weighted_sum` for transformers' order of axes."""
    return weighted_sum(logits.permute(0, 2, 3, 1))


# Divided by patches; not divided, so that maps are resized, taller than wide.
@pytest.mark.parametrize("shape", [(128, 128), (200, 88)])
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_gradients(size, shape):
    model = create_model(f"deeplabv3_mobilevit_{size}", upsample=False)
    variables, pixels = random_variables(model), images(*shape)

    @compiled
    def run(params):
        def loss(params):
            logits = model.apply({**variables, "params": params}, pixels)
            return weighted_sum(logits), logits

        return jax.grad(loss, has_aux=True)(params)

    gradients, logits = run(variables["params"])
    twin = huggingface_twin(model, variables)
    theirs = twin(nchw(pixels)).logits
    assert logits.shape == (1, -(-shape[0] // 16), -(-shape[1] // 16), 21)
    assert difference(logits, nhwc(theirs)) < FORWARD
    weighted_sum_nhwc(theirs).backward()
    assert worst(gradients, gradients_of(twin, model)) < (BACKWARD,)


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 8},
        {"output_stride": 32},
        {"aspp_features": 32, "aspp_rates": (2, 4, 8)},
        {"patch_sizes": (4, 4, 4), "kernel_size": 5},
    ],
    ids=str,
)
def test_options(options):
    model = create_model("deeplabv3_mobilevit_xxs", num_classes=5, upsample=False, **options)
    variables, pixels = random_variables(model), images(136, 200)
    ours = compiled(model.apply)(variables, pixels)
    with torch.no_grad():
        theirs = huggingface_twin(model, variables)(nchw(pixels)).logits
    assert difference(ours, nhwc(theirs)) < FORWARD


@pytest.mark.parametrize("shape", [(128, 192), (131, 177)])
def test_upsampling_is_that_of_its_post_processing(shape):
    model = create_model("deeplabv3_mobilevit_xxs", num_classes=5)
    variables, pixels = random_variables(model), images(*shape)
    ours = compiled(model.apply)(variables, pixels)
    with torch.no_grad():
        outputs = huggingface_twin(model, variables)(nchw(pixels))
        resized = torch.nn.functional.interpolate(
            outputs.logits, size=shape, mode="bilinear", align_corners=False
        )
    assert difference(ours, nhwc(resized)) < FORWARD
    processor = transformers.MobileViTImageProcessor()
    (classes,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[shape])
    assert (ours[0].argmax(-1) == classes.numpy()).mean() > 0.999


@pytest.mark.parametrize("size", [(32, 48), (7, 5), (1, 9), (4, 1)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing(size, align_corners):
    for old in ((5, 7), (1, 1), (1, 6), (64, 40)):
        x = images(*old, count=2)
        ours = resize_bilinear(jnp.asarray(x), size, align_corners=align_corners)
        theirs = torch.nn.functional.interpolate(
            nchw(x), size=size, mode="bilinear", align_corners=align_corners
        )
        assert difference(ours, nhwc(theirs)) < FORWARD


def _keep_from_the_kink(norm):
    """Moves each channel wholly to one side of the ReLU that follows.

    Of some hundred thousand values a few are nearer to 0 than rounding, which differs from machine
    to machine; on the other side they have another gradient.
    """
    scale = np.asarray(norm["scale"])
    norm["bias"] = np.where(np.arange(len(scale)) % 2, 8, -8).astype(np.float32) * np.abs(scale)


def test_training_mode():
    """Batch statistics, the pooled branch's over images alone among them."""
    off: dict[str, Any] = {"dropout": 0.0, "aspp_dropout": 0.0, "head_dropout": 0.0}
    model = create_model("deeplabv3_mobilevit_xxs", num_classes=5, upsample=False, **off)
    variables, pixels = random_variables(model), images(96, 64, count=8)
    for branch in variables["params"]["aspp"].values():
        _keep_from_the_kink(branch["norm"])

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
    weighted_sum_nhwc(theirs).backward()
    assert difference(logits, nhwc(theirs)) < FORWARD
    # Biases that batch norm takes away again have a gradient of rounding alone; others reach 100.
    assert worst(gradients, gradients_of(twin, model), least=1) < (BACKWARD_THROUGH_STATISTICS,)
    after = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    assert worst(statistics, load_state_dict(model, after)["batch_stats"]) < (FORWARD,)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("deeplabv3_mobilevit_xxs", {}),
            (
                "deeplabv3_mobilevit_s",
                {
                    "variant": Variant((16, 24, 24, 32, 40, 48), (36, 48, 60), 3, 64, 0.2, heads=6),
                    "aspp_features": 24,
                    "aspp_rates": (2, 4, 8),
                    "aspp_dropout": 0.3,
                    "head_dropout": 0.2,
                    "output_stride": 8,
                },
            ),
        ],
    )
    def test_transformers_loads_what_we_save(self, name, options, tmp_path, capfd):
        model = create_model(name, num_classes=3, **options)
        variables, pixels = random_variables(model), images(64, 96, count=2)
        processor = ImageProcessor(size=80, crop_size=(64, 64))
        names = ("background", "cat", "über")
        save_pretrained(tmp_path, model, variables, processor, class_names=names)
        assert read_config(tmp_path).model == model
        twin = load_quietly(tmp_path, KIND)
        assert capfd.readouterr().err == ""
        assert tuple(twin.config.id2label.values()) == names
        with torch.no_grad():
            theirs = nhwc(twin(nchw(pixels)).logits)
        ours = compiled(model.clone(upsample=False).apply)(variables, pixels)
        assert difference(ours, theirs) < FORWARD

    def test_we_load_what_transformers_saves(self, tmp_path):
        config = transformers.MobileViTConfig(
            id2label={0: "background", 1: "cat", 2: "dog"},
            hidden_sizes=[64, 80, 96],
            neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
            expand_ratio=2.0,
            hidden_dropout_prob=0.05,
            output_stride=16,
        )
        twin = getattr(transformers, KIND)(config).eval()
        for parameter in twin.parameters():
            # transformers' own initialisation leaves next to nothing of a signal.
            torch.nn.init.normal_(parameter, std=0.3)
        twin.save_pretrained(tmp_path)
        found = read_config(tmp_path)
        assert found.class_names == ("background", "cat", "dog")
        assert found.model == create_model("deeplabv3_mobilevit_xxs", num_classes=3)
        tensors = files.read_state_dict(tmp_path / "model.safetensors")
        variables = load_state_dict(found.model, tensors)
        pixels = images(64, 96, count=2)
        ours = compiled(found.model.clone(upsample=False).apply)(variables, pixels)
        with torch.no_grad():
            theirs = nhwc(twin(nchw(pixels)).logits)
        assert difference(ours, theirs) < FORWARD
        state_dict = {name: np.asarray(t) for name, t in twin.state_dict().items()}
        jax.tree.map(
            np.testing.assert_array_equal, variables, load_state_dict(found.model, state_dict)
        )
