"""torchvision's and timm's networks with our weights, and the way back."""

from typing import Any

import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.models import create_model
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.saving import save_pretrained
from tests.convert.test_torchvision_networks import PUBLISHED
from tests.parity.support import compiled, difference, images, nchw
from tests.small import random_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

PIXELS = images(64, 96, count=2)


def theirs(twin: Any) -> np.ndarray:
    with torch.no_grad():
        return twin.eval()(nchw(PIXELS)).numpy()


def loaded_into(twin: Any, model: Any, variables: Any, layout: str) -> Any:
    state_dict = convert.to_state_dict(model, variables, layout)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    return twin


@pytest.mark.parametrize(
    ("name", "twin", "options"),
    [
        ("mobilenetv2_025", "mobilenet_v2", {"width_mult": 0.25}),
        ("mobilenetv2_100", "mobilenet_v2", {}),
        ("mobilenetv2_140", "mobilenet_v2", {"width_mult": 1.4}),
        ("resnet18", "resnet18", {}),
        ("resnet50", "resnet50", {}),
    ],
)
def test_torchvision_has_our_logits(name, twin, options):
    torchvision = pytest.importorskip("torchvision")
    model = create_model(name, num_classes=7)
    variables = random_variables(model)
    found = getattr(torchvision.models, twin)(num_classes=7, **options)
    expected = theirs(loaded_into(found, model, variables, "torchvision"))
    assert difference(compiled(model.apply)(variables, PIXELS), expected) < 1e-5
    again = convert.load_state_dict(model, found.state_dict())
    assert (
        difference(
            again["params"]["classifier"]["kernel"], variables["params"]["classifier"]["kernel"]
        )
        == 0
    )


@pytest.mark.parametrize("stride", [16, 8])
def test_torchvision_dilates_alike(stride):
    torchvision = pytest.importorskip("torchvision")
    model = create_model("resnet50", num_classes=7, output_stride=stride)
    variables = random_variables(model)
    found = torchvision.models.resnet50(
        num_classes=7, replace_stride_with_dilation=[False, stride == 8, True]
    )
    expected = theirs(loaded_into(found, model, variables, "torchvision"))
    assert difference(compiled(model.apply)(variables, PIXELS), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("mobilenetv2_035", 32),
        ("mobilenetv2_100", 16),
        ("mobilenetv2_100", 8),
        ("resnet34", 32),
        ("resnet18", 8),
    ],
)
def test_timm_has_our_logits(name, stride):
    timm = pytest.importorskip("timm")
    model = create_model(name, num_classes=7, output_stride=stride)
    variables = random_variables(model)
    found = timm.create_model(name, num_classes=7, output_stride=stride)
    expected = theirs(loaded_into(found, model, variables, "timm"))
    assert difference(compiled(model.apply)(variables, PIXELS), expected) < 1e-5


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18"])
def test_timm_loads_what_we_save_and_the_other_way(name, tmp_path):
    from PIL import Image

    timm = pytest.importorskip("timm")
    model = create_model(name, num_classes=7)
    variables = random_variables(model)
    save_pretrained(tmp_path / "ours", model, variables, PUBLISHED, layout="timm")
    twin = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
    assert difference(compiled(model.apply)(variables, PIXELS), theirs(twin)) < 1e-5
    timm.models.save_for_hf(twin, tmp_path / "theirs", safe_serialization=True)
    loaded = load_weights(tmp_path / "theirs")
    assert loaded.model == model and loaded.processor == PUBLISHED
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(twin))
    pixels = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    assert np.abs(loaded.processor(image)[0] - pixels).max() <= 1.0001 / 255 / 0.224


def test_evaluation_of_timms_resnet50_is_at_its_own_size(tmp_path):
    timm = pytest.importorskip("timm")
    twin = timm.create_model("resnet50", num_classes=3)
    timm.models.save_for_hf(twin, tmp_path, safe_serialization=True)
    loaded = load_weights(tmp_path)
    data = timm.data.resolve_data_config(model=twin, use_test_size=True)
    assert loaded.processor.crop_size == data["input_size"][1:] == (288, 288)
    assert loaded.processor.size == 288 and loaded.processor.std == tuple(data["std"])
    assert difference(compiled(loaded.model.apply)(loaded.variables, PIXELS), theirs(twin)) < 1e-5
