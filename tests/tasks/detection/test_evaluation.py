# The stand-ins are no `Split` and no `nn.Module` for pyright.
# pyright: reportArgumentType=false

import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobilevit_jax.data.annotations import to_detection
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.average_precision import METRICS
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.evaluation import DetectionEvaluator
from tests.tasks.detection.stand_ins import MemorySplit, TableDetector, table

PROCESSOR = ImageProcessor(size=(32, 32), crop_size=(32, 32))
NUMBERS = (3, 17, 90)
LOADER = LoaderConfig()


def random_scene(rng, count):
    """Returns sizes and objects of random pictures; the last has none."""
    sizes = [tuple(rng.integers(40, 300, 2).tolist()) for _ in range(count)]
    objects = []
    for height, width in sizes:
        found = []
        for _ in range(rng.integers(1, 6)):
            x, y = rng.uniform(0, 0.6, 2)
            w, h = rng.uniform(0.05, 0.4, 2)
            box = [x * width, y * height, (x + w) * width, (y + h) * height]
            found.append((box, int(rng.integers(1, 4)), bool(rng.random() < 0.1)))
        objects.append(found)
    objects[-1] = []
    return sizes, objects


def noisy_answers(rng, sizes, objects):
    """Returns what a mediocre detector would find, as shares of the image."""
    answers = []
    for (height, width), found in zip(sizes, objects, strict=True):
        image = []
        for box, label, _ in found:
            shares = np.array(box) / ([width, height] * 2) + rng.normal(0, 0.03, 4)
            label = label if rng.random() < 0.8 else int(rng.integers(1, 4))
            image.append((np.sort(shares.reshape(2, 2), 0).ravel(), label, rng.uniform(0.2, 0.95)))
        image.append(([0.1, 0.1, 0.9, 0.8], int(rng.integers(1, 4)), rng.uniform(0.2, 0.9)))
        answers.append([(list(b), n, s) for b, n, s in image])
    return answers


def evaluate(split, answers, batch_size=8, processor=PROCESSOR, loader=LOADER, results=None):
    model, variables = table(answers, 1 + len(split.info.class_names), 8)
    evaluator = DetectionEvaluator(model, processor, DetectionConfig(iou_threshold=1.0), results)
    return evaluator(variables, split, batch_size, loader)


def test_images_are_normalised():
    """Twice as bright, a picture has twice the number."""
    rng = np.random.default_rng(0)
    sizes, objects = random_scene(rng, 6)
    split, answers = MemorySplit(sizes, objects, category_ids=NUMBERS), perfect(sizes, objects)
    twice = [answer for found in answers for answer in (found, [])]
    half = dataclasses.replace(PROCESSOR, mean=(0, 0, 0), std=(0.5, 0.5, 0.5))
    assert evaluate(split, twice, processor=half) == evaluate(split, answers)


def reference(split, sizes, results, tmp_path, capsys):
    """Evaluates by pycocotools alone, from files in COCO's format."""
    truth = {
        "images": [
            {"id": record["image/id"], "height": size[0], "width": size[1]}
            for record, size in zip(split.records(range(len(split))), sizes, strict=True)
        ],
        "categories": [{"id": number, "name": str(number)} for number in NUMBERS],
        "annotations": [],
    }
    for record, (height, width) in zip(split.records(range(len(split))), sizes, strict=True):
        objects = record["objects"]
        for place in range(len(objects["label"])):
            top, left, bottom, right = objects["bbox"][place] * np.array([height, width] * 2)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": record["image/id"],
                    "category_id": NUMBERS[objects["label"][place]],
                    "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                    "area": float(objects["area"][place]),
                    "iscrowd": int(objects["is_crowd"][place]),
                }
            )
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = COCO(tmp_path / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return dict(zip(METRICS, evaluation.stats, strict=False))


@pytest.mark.parametrize("batch_size", [3, 8, 100])
def test_what_pycocotools_makes_of_the_results_file(tmp_path, capsys, batch_size):
    rng = np.random.default_rng(0)
    sizes, objects = random_scene(rng, 21)
    split = MemorySplit(sizes, objects, category_ids=NUMBERS)
    answers = noisy_answers(rng, sizes, objects)
    results = tmp_path / "deep" / "results.json"
    found = evaluate(split, answers, batch_size, results=results)
    assert capsys.readouterr().out == ""
    expected = reference(split, sizes, results, tmp_path, capsys)
    assert 0.1 < expected["map50"] < 0.9
    assert expected.pop("map_large") == -1  # there are none
    assert found == {"count": 21} | {k: pytest.approx(v, abs=1e-9) for k, v in expected.items()}
    # All of them, in pixels of the stored images, with the numbers of the categories.
    written = json.loads(results.read_text())
    assert [path.name for path in results.parent.iterdir()] == ["results.json"]
    assert len(written) == sum(map(len, answers))
    of_first = [entry for entry in written if entry["image_id"] == 1000]
    best = sorted(answers[0], key=lambda answer: -answer[2])
    for entry, (corners, label, score) in zip(of_first, best, strict=True):
        x1, y1, x2, y2 = np.clip(corners, 0, 1) * ([sizes[0][1], sizes[0][0]] * 2)
        np.testing.assert_allclose(entry["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=0.02)
        assert entry["category_id"] == NUMBERS[label - 1]
        assert entry["score"] == pytest.approx(score, abs=1e-5)


def perfect(sizes, objects):
    return [
        [
            (list(np.array(box) / ([size[1], size[0]] * 2)), label, 0.9)
            for box, label, crowd in found
            if not crowd
        ]
        for size, found in zip(sizes, objects, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 6, 50])
def test_every_image_counts_once(batch_size):
    assert jax.device_count() == 4
    sizes, objects = random_scene(np.random.default_rng(1), 13)
    split = MemorySplit(sizes, objects)
    found = evaluate(split, perfect(sizes, objects), batch_size)
    assert found["count"] == 13 and isinstance(found["count"], int)
    assert found["map"] == pytest.approx(1)


def test_what_is_found_in_a_crowd_is_not_counted_against_it():
    boxes = [[10, 10, 40, 40], [50, 50, 90, 90]]
    answers = [[([0.1, 0.1, 0.4, 0.4], 1, 0.5), ([0.6, 0.6, 0.8, 0.8], 1, 0.9)]]
    crowd = MemorySplit([(100, 100)], [[(boxes[0], 1, False), (boxes[1], 1, True)]])
    assert evaluate(crowd, answers)["map50"] == pytest.approx(1)
    plain = MemorySplit([(100, 100)], [[(boxes[0], 1, False)]])
    assert evaluate(plain, answers)["map50"] == pytest.approx(0.5, abs=0.01)


def test_sizes_that_no_object_has_are_left_out():
    split = MemorySplit([(200, 200)], [[([0, 0, 150, 150], 2, False)]])
    found = evaluate(split, [[([0, 0, 0.75, 0.75], 2, 0.8)]])
    assert found.keys() == {"map", "map50", "map75", "map_large", "count"}
    json.dumps(found, allow_nan=False)


def test_nothing_found():
    split = MemorySplit([(50, 60)] * 3, [[([0, 0, 30, 30], 1, False)], [], []])
    found = evaluate(split, [[], [], []])
    assert found["map"] == 0 and found["count"] == 3


def test_nothing_to_find():
    split = MemorySplit([(50, 60)] * 2, [[([0, 0, 30, 30], 1, True)], []])
    with pytest.raises(DataError, match="memory test has no objects to measure"):
        evaluate(split, [[], []])


def test_bad_images_are_named_or_left_out():
    sizes, objects = [(100, 100)] * 6, [[([10, 10, 60, 60], 1, False)]] * 6
    split = MemorySplit(sizes, objects, bad=(1, 5))
    answers = perfect(sizes, objects)
    with pytest.raises(DataError, match=r"1\.png"):
        evaluate(split, answers)
    found = evaluate(split, answers, loader=LoaderConfig(skip_bad_images=True))
    assert found["count"] == 4 and found["map"] == pytest.approx(1)


def test_the_edges_may_be_cut_off():
    # Resized to 40 x 80, of which the middle 32 x 32 is seen: 24 to 56 of the width.
    processor = ImageProcessor(size=40, crop_size=(32, 32))
    split = MemorySplit([(80, 160)], [[([48, 8, 112, 72], 1, False)]])
    found = evaluate(split, [[([0, 0, 1, 1], 1, 0.9)]], processor=processor)
    assert found["map"] == pytest.approx(1)


@pytest.mark.parametrize("size", [64, 96])
def test_letterboxed_images(size):
    """Boxes found in letterboxes of any size are measured in the images that they are of."""
    processor = ImageProcessor(do_pad=True, size=32, crop_size=(32, 32)).for_size(size)
    sizes, objects = random_scene(np.random.default_rng(3), 9)
    answers = [
        [(list(np.array(box) / scale), label, 0.9) for box, label, crowd in found if not crowd]
        for found, scale in zip(objects, [max(image) for image in sizes], strict=True)
    ]
    # The network sees the middle of the letterbox to know the image by.
    wide = [(h, w) for h, w in sizes if min(h, w) > max(h, w) / 2]
    assert len(wide) > 4
    kept = [i for i, image in enumerate(sizes) if image in wide]
    split = MemorySplit([sizes[i] for i in kept], [objects[i] for i in kept])
    found = evaluate(split, [answers[i] for i in kept], processor=processor)
    assert found["count"] == len(kept) and found["map"] > 0.95
    stretched = ImageProcessor(size=(size, size), crop_size=(size, size))
    assert evaluate(split, [answers[i] for i in kept], processor=stretched)["map"] < 0.7


def test_other_classes_are_refused():
    split = MemorySplit([(50, 60)], [[([0, 0, 30, 30], 1, False)]])
    model, variables = table([[]], 3, 8)
    evaluator = DetectionEvaluator(model, PROCESSOR, DetectionConfig())
    with pytest.raises(ConfigurationError, match="memory has 3 classes, but the detector 2"):
        evaluator(variables, split, 8, LOADER)


def test_thresholds_of_the_conventions():
    split = MemorySplit([(100, 100)], [[([10, 10, 60, 60], 1, False)]])
    model, variables = table([[([0.1, 0.1, 0.6, 0.6], 1, 0.03)]], 4, 8)
    for convention, expected in (("v0.1", 0), ("later", 1)):
        config = DetectionConfig(convention=convention)
        found = DetectionEvaluator(model, PROCESSOR, config)(variables, split, 8, LOADER)
        assert found["map"] == pytest.approx(expected)


class Recogniser(TableDetector):
    """Knows images by their mean."""

    def apply(self, variables, images):
        """Returns the line of the table whose mean is nearest to each image's."""
        means = images.mean((1, 2, 3))
        line = jnp.abs(means[:, None] - variables["means"][None]).argmin(1)
        return variables["logits"][line], variables["offsets"][line]


@pytest.mark.slow
def test_coco128_by_its_own_annotations(shared_data, tmp_path, capsys):
    """Found objects that were moved a little score as pycocotools says from COCO's own file."""
    source = shared_data / "coco128"
    prepare("coco", source=source, data_dir=tmp_path, name="coco128")
    split = open_split("coco128", "train", tmp_path)
    rng = np.random.default_rng(0)
    answers, means = [], []
    for position, record in enumerate(split.records(range(len(split)))):
        found = to_detection(record, position)
        moved = found["boxes"] + rng.normal(0, 0.02, found["boxes"].shape)
        scores = rng.uniform(0.3, 0.9, len(moved))
        ordered = [np.concatenate([np.minimum(b[:2], b[2:] - 0.01), b[2:]]) for b in moved]
        answers.append(list(zip(map(list, ordered), found["labels"], scores, strict=True)))
        image = decode_image(record["image"], name="")
        means.append(np.mean(PROCESSOR.pixels(image) / np.float32(255)))
    _, variables = table(answers, 81, 64)
    model = Recogniser(81, 64)
    variables["means"] = jnp.asarray(means)
    results = tmp_path / "results.json"
    evaluator = DetectionEvaluator(model, PROCESSOR, DetectionConfig(), results)
    measured = evaluator(variables, split, 32, LOADER)

    coco = COCO(source / "annotations" / "instances_train2017.json")
    evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert measured["count"] == 128 and 0.3 < measured["map50"] < 1
    for name, value in zip(METRICS, evaluation.stats, strict=False):
        assert measured[name] == pytest.approx(value, abs=1e-3), name


def test_memory_grows_by_the_detections_not_by_the_images():
    size, box = 192, [0.25, 0.25, 0.75, 0.75]
    corners = [(np.array(box) * size, 1, False)]
    model, variables = table([[(box, 1, 0.9)]] * 300, 1 + len(NUMBERS), 8)
    processor = ImageProcessor(size=(size, size), crop_size=(size, size))
    evaluator = DetectionEvaluator(model, processor, DetectionConfig())

    def split_of(count):
        return MemorySplit([(size, size)] * count, [corners] * count, NUMBERS)

    def peak(count):
        split = split_of(count)
        tracemalloc.start()
        try:
            assert evaluator(variables, split, 16, LOADER)["count"] == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    evaluator(variables, split_of(16), 16, LOADER)  # compiles
    more = peak(240) - peak(80)
    # What pycocotools keeps, 20 to 25 kB by its version; a picture has 110,592 bytes.
    assert more < 160 * 50_000
