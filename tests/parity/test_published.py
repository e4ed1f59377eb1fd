"""The published checkpoints, where the Hugging Face hub can be reached.

The logits are those that transformers' conversion script expected of each converted checkpoint,
for image 39769 of COCO's validation set of 2017 (two cats and two remote controls).
"""

import io
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from tests.parity.support import compiled

pytestmark = [pytest.mark.parity, pytest.mark.network, pytest.mark.slow]

CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"
LOGITS = {
    "mobilevit-small": (-0.9866, 0.2392, -1.1241),
    "mobilevit-x-small": (-2.4761, -0.9399, -1.9587),
    "mobilevit-xx-small": (-1.9364, -1.2327, -0.4653),
    "mobilevitv2-1.0-imagenet1k-256": (-1.6336, -0.0732, -0.5188),
}
# Of DeepLabv3 on them, the background's at the first three places of the first row.
SEGMENTATION_LOGITS = {
    "small": (6.2065, 6.1292, 6.2070),
    "x-small": (5.4449, 5.5733, 5.6314),
    "xx-small": (6.9811, 6.9743, 7.3123),
}


def reach(url: str) -> bytes:
    """Returns what is at an address; skips where the network does not go there."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"{url} cannot be reached ({error})")


@pytest.fixture(scope="module")
def cats() -> Image.Image:
    return Image.open(io.BytesIO(reach(CATS))).convert("RGB")


@pytest.mark.parametrize("name", LOGITS)
def test_logits(name, cats):
    reach(f"https://huggingface.co/apple/{name}/raw/main/config.json")
    loaded = load_weights(f"apple/{name}")
    assert loaded.processor.channel_order == "bgr"
    # The script's own processing: 288 to 256, with what was transformers' filter at the time.
    processor = ImageProcessor(resample="pillow_bilinear")
    logits = np.asarray(compiled(loaded.model.apply)(loaded.variables, processor(cats)))
    assert logits.shape == (1, 1000)
    np.testing.assert_allclose(logits[0, :3], LOGITS[name], atol=1e-4)
    assert "cat" in loaded.class_names[int(logits[0].argmax())]


@pytest.mark.parametrize("size", SEGMENTATION_LOGITS)
def test_segmentation_logits(size, cats):
    reach(f"https://huggingface.co/apple/deeplabv3-mobilevit-{size}/raw/main/config.json")
    loaded = load_weights(f"apple/deeplabv3-mobilevit-{size}")
    assert loaded.processor.channel_order == "bgr"
    model = loaded.model.clone(upsample=False)
    processor = ImageProcessor(size=544, crop_size=(512, 512), resample="pillow_bilinear")
    logits = np.asarray(compiled(model.apply)(loaded.variables, processor(cats)))
    assert logits.shape == (1, 32, 32, 21)
    np.testing.assert_allclose(logits[0, 0, :3, 0], SEGMENTATION_LOGITS[size], atol=1e-4)
