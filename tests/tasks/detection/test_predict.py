# The stand-in is no `nn.Module` for pyright.
# pyright: reportArgumentType=false

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.predict import Detection, Detector
from tests.tasks.detection.stand_ins import table

PROCESSOR = ImageProcessor(size=(32, 32), crop_size=(32, 32))
ANSWERS = [
    [([0.1, 0.2, 0.5, 0.6], 2, 0.9), ([0.5, 0.5, 1.0, 1.0], 1, 0.4), ([0, 0, 0.3, 0.3], 1, 0.2)],
    [([-0.5, 0.25, 0.5, 1.5], 1, 0.8), ([-0.5, -0.5, -0.1, -0.1], 1, 0.7)],
    [],
    *[[([0.1, 0.1, 0.9, 0.9], 1, 0.3 + 0.01 * index)] for index in range(3, 60)],
]


@pytest.fixture(scope="module")
def detector():
    model, variables = table(ANSWERS, 3, 8)
    return Detector(model, variables, PROCESSOR, ("cat", "dog"))


def picture(number: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


def test_one_image(detector):
    found = detector(picture(0, 100, 200))
    assert [(d.name, d.label) for d in found] == [("dog", 2), ("cat", 1)]
    assert found[0] == Detection(
        pytest.approx((20, 20, 100, 60), abs=1e-3), 2, "dog", pytest.approx(0.9, abs=1e-5)
    )
    assert found[1].box == pytest.approx((100, 50, 200, 100), abs=1e-3)
    assert isinstance(found[0].label, int) and isinstance(found[0].box[0], float)


def test_letterboxed_images():
    """What is found in a letterbox is told in the pixels of the photograph."""
    model, variables = table([[([0.1, 0.05, 0.5, 0.3], 2, 0.9), ([0.5, 0.25, 1, 1], 1, 0.8)]], 3, 8)
    processor = ImageProcessor(do_pad=True, size=32, crop_size=(32, 32), pad_value=0)
    first, second = Detector(model, variables, processor, ("cat", "dog"))(picture(0, 100, 200))
    assert first.box == pytest.approx((20, 10, 100, 60), abs=1e-3)
    assert second.box == pytest.approx((100, 50, 200, 100), abs=1e-3)  # ends with the photograph


def test_paths_pillow_images_and_arrays_are_the_same(detector, tmp_path):
    array = picture(0, 50, 80)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), array)
    expected = detector(array)
    assert len(expected) == 2
    assert detector(path) == detector(str(path)) == detector(Image.fromarray(array)) == expected
    assert detector([array, path]) == [expected, expected]


def test_boxes_end_with_the_image(detector):
    (found,) = detector(picture(1, 40, 40))  # the other lies outside
    assert found.box == pytest.approx((0, 10, 20, 40), abs=1e-3)


def test_nothing_is_found(detector):
    assert detector(picture(2, 40, 40)) == []
    assert detector([picture(2, 40, 40)]) == [[]]


def test_thresholds(detector):
    image = picture(0, 100, 200)
    assert [round(d.score, 2) for d in detector(image, 0.5)] == [0.9]
    assert [round(d.score, 2) for d in detector(image, 0.1)] == [0.9, 0.4, 0.2]
    model, variables = table(ANSWERS, 3, 8)
    strict = Detector(
        model, variables, PROCESSOR, ("cat", "dog"), DetectionConfig(score_threshold=0.5)
    )
    # The user's word goes before the configuration's.
    assert [round(d.score, 2) for d in strict(image, 0.3)] == [0.9, 0.4]
    with pytest.raises(ConfigurationError, match="score_threshold must be in"):
        detector(image, 3.0)


def test_many_images_of_many_sizes(detector):
    images = [picture(number, 30 + number, 100 - number) for number in range(60)]
    found = detector(images)
    assert len(found) == 60
    for number in range(3, 60):
        ((box, _, _, score),) = found[number]
        assert score == pytest.approx(0.3 + 0.01 * number, abs=1e-5)
        width, height = 100 - number, 30 + number
        expected = (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height)
        assert box == pytest.approx(expected, abs=1e-3)


def test_what_is_refused(detector, tmp_path):
    with pytest.raises(DataError, match="no images"):
        detector([])
    with pytest.raises(DataError, match=r"nothing\.png"):
        detector(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="must be uint8"):
        detector(np.zeros((4, 4), np.uint8))
    model, variables = table(ANSWERS, 3, 8)
    with pytest.raises(ConfigurationError, match="2 classes of objects, but there are 3 names"):
        Detector(model, variables, PROCESSOR, ("a", "b", "c"))
