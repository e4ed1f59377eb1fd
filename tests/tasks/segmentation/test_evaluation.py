"""Evaluation: one matrix at the images' own sizes, whatever the batches and devices."""

# A stand-in takes the place of `Split`.
# pyright: reportArgumentType=false

import dataclasses

import cv2
import jax
import numpy as np
import pytest

from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.masks import decode_mask, encode_mask
from mobilevit_jax.errors import DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.evaluation import (
    Confusion,
    SegmentationEvaluator,
    confusion_matrix,
)
from mobilevit_jax.tasks.segmentation.maps import keeping_aspect, resize_classes, whole_images
from tests.tasks.segmentation.stand_ins import NAMES, MemorySplit, PixelNet, variables_of

PROCESSOR = ImageProcessor(size=(24, 32), crop_size=(24, 32))
VARIABLES = variables_of()


def slow_matrix(truth, predicted, classes):
    """Counts pixel by pixel."""
    matrix = np.zeros((classes, classes), int)
    for own, other in zip(truth.ravel(), predicted.ravel(), strict=True):
        if own != 255:
            matrix[own, other] += 1
    return matrix


def expected(split, numbers, processor_of=lambda image: PROCESSOR):
    """Computes the matrix image by image, with NumPy in the model's place."""
    kernel = VARIABLES["params"]["classifier"]["kernel"][0, 0]
    bias = VARIABLES["params"]["classifier"]["bias"]
    matrix = np.zeros((len(NAMES), len(NAMES)), int)
    for record in split.records(numbers):
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
        truth = decode_mask(record["mask"], name="m")
        pixels = processor_of(image).pixels(image) / 255 / np.sqrt(1 + 1e-5)
        classes = (pixels @ kernel + bias).argmax(-1)
        height, width = truth.shape
        rows = [int(i * classes.shape[0] / height + 1e-9) for i in range(height)]
        columns = [int(i * classes.shape[1] / width + 1e-9) for i in range(width)]
        matrix += slow_matrix(truth, classes[rows][:, columns], len(NAMES))
    return matrix


def evaluator(**options):
    return SegmentationEvaluator(PixelNet(), PROCESSOR, SegmentationConfig(**options), NAMES)


FIXED = evaluator()


def measure(evaluate, split, batch_size=4, **loader) -> Confusion:
    """Evaluates, and returns what was counted."""
    evaluate(VARIABLES, split, batch_size, LoaderConfig(**{"threads": 1, **loader}))
    return evaluate.found


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (7, 4), (7, 100), (12, 5)])
def test_every_image_counts_once_at_its_own_size(count, batch_size):
    assert jax.device_count() == 4
    split = MemorySplit(count)
    found = measure(FIXED, split, batch_size, threads=2)
    assert found.count == count
    np.testing.assert_array_equal(found.matrix, expected(split, range(count)))
    total = sum((decode_mask(r["mask"], name="m") != 255).sum() for r in split.stored)
    assert found.matrix.sum() == total


def test_the_metrics_of_a_call():
    split = MemorySplit(5)
    metrics = FIXED(VARIABLES, split, 4, LoaderConfig(threads=2))
    matrix = expected(split, range(5))
    hits = np.diag(matrix)
    iou = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    assert metrics == {
        "miou": pytest.approx(iou.mean()),
        "pixel_accuracy": pytest.approx(hits.sum() / matrix.sum()),
        "count": 5,
    }
    assert FIXED.per_class == pytest.approx(dict(zip(NAMES, iou, strict=True)))


def test_a_crop_is_taken_for_the_whole_image():
    split = MemorySplit(3)
    margin = dataclasses.replace(PROCESSOR, size=40)
    other = SegmentationEvaluator(PixelNet(), margin, SegmentationConfig(), NAMES)
    found = measure(other, split)
    np.testing.assert_array_equal(found.matrix, expected(split, range(3)))


@pytest.mark.parametrize("protocol", ["fixed", "keep_aspect"])
def test_images_are_normalised(protocol):
    """By a deviation of a half, which weights of twice the kernel do as well."""
    split, config = MemorySplit(3), SegmentationConfig(protocol=protocol)
    half = dataclasses.replace(PROCESSOR, mean=(0, 0, 0), std=(0.5, 0.5, 0.5))
    found = measure(SegmentationEvaluator(PixelNet(), half, config, NAMES), split)
    variables = jax.tree.map(np.copy, VARIABLES)
    variables["params"]["classifier"]["kernel"] *= 2
    plain = SegmentationEvaluator(PixelNet(), PROCESSOR, config, NAMES)
    plain(variables, split, 4, LoaderConfig(threads=1))
    assert plain.found is not None
    np.testing.assert_array_equal(found.matrix, plain.found.matrix)


@pytest.mark.parametrize("multiple", [1, 8])
def test_keeping_the_aspect_ratio(multiple):
    split = MemorySplit(4)
    shapes = set()

    def processor_of(image):
        processor = keeping_aspect(PROCESSOR, *image.shape[:2], multiple=multiple, name="x")
        shapes.add(processor.crop_size)
        return processor

    found = measure(evaluator(protocol="keep_aspect", multiple=multiple), split)
    np.testing.assert_array_equal(found.matrix, expected(split, range(4), processor_of))
    assert found.count == 4
    assert all(min(shape) == 24 for shape in shapes) and len(shapes) > 1
    assert multiple == 1 or all(side % 8 == 0 for shape in shapes for side in shape)


@pytest.mark.parametrize("protocol", ["fixed", "keep_aspect"])
def test_bad_files_are_left_out_if_asked(protocol):
    split = MemorySplit(6, masks={1: b"no mask"}, bad=(4,))
    evaluate = evaluator(protocol=protocol)
    found = measure(evaluate, split, skip_bad_images=True)
    assert found.count == 4
    if protocol == "fixed":
        np.testing.assert_array_equal(found.matrix, expected(split, [0, 2, 3, 5]))
    with pytest.raises(DataError, match="1.png|4.png"):
        measure(evaluate, split)


def test_labels_past_the_classes_are_refused():
    split = MemorySplit(2, masks={1: encode_mask(np.full((9, 9), 4, np.uint8))})
    with pytest.raises(DataError, match="mask of 1.png has the value 4; the classes are 0 to 3"):
        measure(FIXED, split)


def test_nothing_but_void():
    split = MemorySplit(1)
    shape = decode_mask(split.stored[0]["mask"], name="m").shape
    split.stored[0]["mask"] = encode_mask(np.full(shape, 255, np.uint8))
    with pytest.raises(DataError, match="no pixel of memory train has a class"):
        FIXED(VARIABLES, split, 4, LoaderConfig(threads=1))


@pytest.mark.parametrize("protocol", ["fixed", "keep_aspect"])
def test_a_mask_of_another_size_than_its_image(protocol):
    split = MemorySplit(2, masks={1: encode_mask(np.ones((9, 8), np.uint8))})
    with pytest.raises(DataError, match="1.png: the mask has 9x8 pixels, its image "):
        measure(evaluator(protocol=protocol), split)


def test_records_without_masks():
    split = MemorySplit(2)
    for record in split.stored:
        del record["mask"]
    with pytest.raises(DataError, match="0.png has no mask"):
        FIXED(VARIABLES, split, 4, LoaderConfig(threads=1))


def test_matrix_of_a_mask():
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (30, 20))
    predicted = rng.integers(0, 3, (30, 20)).astype(np.uint8)
    found = confusion_matrix(truth, predicted, 3)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, slow_matrix(truth, predicted, 3))


def test_classes_that_are_not_there_are_left_out_of_the_mean():
    matrix = np.array([[8, 1, 1], [0, 5, 0], [0, 0, 0]])
    found = Confusion(matrix, ("a", "b", "c"), 1)
    assert found.per_class == {"a": 0.8, "b": pytest.approx(5 / 6)}
    assert found.miou == pytest.approx((0.8 + 5 / 6) / 2)
    assert found.pixel_accuracy == pytest.approx(13 / 15)


class TestSizes:
    def test_nearest_is_pytorchs(self):
        classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
        larger = resize_classes(classes, 7, 10)
        # torch.nn.functional.interpolate(classes, (7, 10), mode="nearest")
        rows, columns = [0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
        np.testing.assert_array_equal(larger, classes[rows][:, columns])
        np.testing.assert_array_equal(resize_classes(classes, 3, 4), classes)
        np.testing.assert_array_equal(resize_classes(classes, 1, 2), classes[[0]][:, [0, 2]])

    @pytest.mark.parametrize(
        ("options", "size"),
        [
            ({"size": 544, "crop_size": (512, 512)}, (512, 512)),
            ({"size": (300, 400), "crop_size": (300, 400)}, (300, 400)),
            ({"size": 320, "do_center_crop": False}, (320, 320)),
            ({"size": (320, 256), "do_center_crop": False}, (320, 256)),
            ({"do_resize": False, "crop_size": (64, 64)}, (64, 64)),
        ],
    )
    def test_whole_images(self, options, size):
        processor = whole_images(ImageProcessor(**options))
        assert processor.pixels(np.zeros((90, 70, 3), np.uint8)).shape[:2] == size
        corner = np.zeros((90, 70, 3), np.uint8)
        corner[:20, :20] = 255
        assert processor.pixels(corner)[0, 0, 0] == 255

    @pytest.mark.parametrize(
        ("image", "multiple", "size"),
        [
            ((375, 500), 1, (512, 682)),
            ((500, 375), 1, (682, 512)),
            ((375, 500), 32, (512, 672)),
            ((500, 333), 32, (768, 512)),
            ((1, 16), 1, (512, 8192)),
        ],
    )
    def test_keeping_aspect(self, image, multiple, size):
        processor = ImageProcessor(size=(512, 512), crop_size=(512, 512))
        found = keeping_aspect(processor, *image, multiple=multiple, name="x")
        assert found.size == found.crop_size == size

    def test_too_long_to_keep(self):
        with pytest.raises(DataError, match="wide.jpg: 500x20 is too long"):
            keeping_aspect(PROCESSOR, 20, 500, name="wide.jpg")
