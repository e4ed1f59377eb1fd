"""timm's models with our weights, from our directories, and the way back."""

import json

import numpy as np
import pytest

from mobilevit_jax.models import create_model
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained, save_weights
from tests.parity.support import compiled, difference, images, nchw
from tests.small import random_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

NAMES = ("a", "b", "b", "d", "é", "f", "g")


SLOW = ("075", "100", "125", "150", "175", "200")


# Maps with an odd side are resized by both versions, each in its own way.
@pytest.mark.parametrize(
    "name",
    [
        *("mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "mobilevitv2_050"),
        *(pytest.param(f"mobilevitv2_{width}", marks=pytest.mark.slow) for width in SLOW),
    ],
)
def test_timm_loads_what_we_save(name, tmp_path):
    model = create_model(name, num_classes=7)
    variables, pixels = random_variables(model), images(64, 96, count=2)
    processor = ImageProcessor(resample="pillow_bicubic")
    save_pretrained(tmp_path, model, variables, processor, class_names=NAMES, layout="timm")
    twin = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    # Our channels are B, G, R; timm's R, G, B.
    with torch.no_grad():
        theirs = twin(nchw(pixels[..., ::-1])).numpy()
    assert difference(compiled(model.apply)(variables, pixels), theirs) < 1e-5
    assert tuple(twin.pretrained_cfg["label_names"]) == NAMES
    data = timm.data.resolve_model_data_config(twin)
    assert tuple(data["input_size"]) == (3, 256, 256) and data["interpolation"] == "bicubic"
    transform = timm.data.create_transform(**data, is_training=False)
    assert transform.transforms[0].size == 288
    assert load_weights(tmp_path).model == model


def test_images_come_out_alike(tmp_path):
    from PIL import Image

    model = create_model("mobilevit_xxs", num_classes=7)
    processor = ImageProcessor(size=77, crop_size=(64, 64), resample="pillow_bicubic")
    save_pretrained(tmp_path, model, random_variables(model), processor, layout="timm")
    twin = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(twin))
    loaded = load_weights(tmp_path)
    for shape in ((100, 131), (90, 80), (50, 40)):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        theirs = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        assert np.abs(loaded.processor(image)[0] - theirs).max() <= 1.0001 / 255
        assert np.abs(processor(image)[0, ..., ::-1] - theirs).max() <= 1.0001 / 255


@pytest.mark.parametrize(("name", "short_side"), [("mobilevit_xxs", 284), ("mobilevitv2_050", 288)])
def test_we_load_what_timm_saves(name, short_side, tmp_path):
    twin = timm.create_model(name, num_classes=5).eval()
    timm.models.save_for_hf(
        twin,
        tmp_path,
        model_config={"label_names": list("abcde")},
        model_args={"drop_rate": 0.2},
        safe_serialization=True,
    )
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name
    loaded = load_weights(tmp_path)
    assert (loaded.model_name, loaded.class_names) == (name, tuple("abcde"))
    assert loaded.model.classifier_dropout == 0.2
    assert loaded.processor.channel_order == "rgb" and loaded.processor.size == short_side
    pixels = images(64, 96, count=2)
    with torch.no_grad():
        theirs = twin(nchw(pixels)).numpy()
    assert difference(compiled(loaded.model.apply)(loaded.variables, pixels), theirs) < 1e-5


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_a_file_without_configuration(name, tmp_path):
    model = create_model(name, num_classes=7)
    variables, pixels = random_variables(model), images(64, 96)
    save_weights(tmp_path / "w.pth", model, variables, ImageProcessor(), layout="timm")
    twin = timm.create_model(name, num_classes=7).eval()
    twin.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
    with torch.no_grad():
        theirs = twin(nchw(pixels[..., ::-1])).numpy()
    assert difference(compiled(model.apply)(variables, pixels), theirs) < 1e-5
