"""Objects in one form, whoever prepared the data set."""

import io
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mobilevit_jax.data.annotations import for_training, pad_objects, to_detection
from mobilevit_jax.data.coco_names import COCO_CATEGORIES, class_names_coco
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import DataError
from tests.data.coco_layout import content, encoded, write_split


class TfdsCoco(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The features and the layout of `coco/2017` as TFDS 4.9 prepares it."""

    name = "coco"
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2017")]

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {
            "id": np.int64,
            "area": np.int64,
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=list(class_names_coco())),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _shard_iterators_per_split(self, dl_manager):
        def box(ymin, xmin, ymax, xmax):
            return tfds.features.BBox(ymin, xmin, ymax, xmax)

        objects = [
            {"id": 1, "area": 150, "bbox": box(0.1, 0.2, 0.6, 0.5), "label": 16, "is_crowd": 0},
            {"id": 2, "area": 7, "bbox": box(0.0, 0.0, 1.0, 1.0), "label": 79, "is_crowd": 1},
        ]
        examples = [
            {
                "image": io.BytesIO(encoded(number)),
                "image/filename": f"{number:012}.jpg",
                "image/id": number,
                "objects": what,
            }
            for number, what in ((139, objects), (285, []))
        ]
        return {"validation": [lambda: iter(enumerate(examples))]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    builder = TfdsCoco(data_dir=place, config="2017")
    builder.download_and_prepare(file_format="array_record", download_dir=place / "downloads")
    shutil.rmtree(place / "downloads", ignore_errors=True)
    prepare("shapes/tiny", data_dir=place)
    source = write_split(place / "source", "val2017", content())
    prepare("coco", source=source, data_dir=place)
    return place


def detections(data_dir, name: str, split: str) -> dict[int, dict]:
    opened = open_split(name, split, data_dir)
    stored = opened.records(range(len(opened)))
    found = [to_detection(record, position) for position, record in enumerate(stored)]
    for record in found:
        count = len(record["boxes"])
        assert record["boxes"].shape == (count, 4) and record["boxes"].dtype == np.float32
        assert record["labels"].shape == (count,) and record["labels"].dtype == np.int32
        assert record["is_crowd"].shape == (count,) and record["is_crowd"].dtype == bool
        assert record["area"].shape == (count,) and record["area"].dtype == np.float32
        assert isinstance(record["image"], bytes) and isinstance(record["name"], str)
        assert (record["labels"] > 0).all()
    by_id = {record["image_id"]: record for record in found}
    assert len(by_id) == len(opened)
    return by_id


def test_coco_as_tfds_prepares_it(data_dir):
    records = detections(data_dir, "coco/2017", "validation")
    assert sorted(records) == [139, 285]
    record = records[139]
    corners = np.array([[0.2, 0.1, 0.5, 0.6], [0, 0, 1, 1]], np.float32)
    np.testing.assert_array_equal(record["boxes"], corners)
    assert record["labels"].tolist() == [17, 80]
    assert record["is_crowd"].tolist() == [False, True]
    assert record["area"].tolist() == [150, 7]
    assert record["name"] == "000000000139.jpg" and record["image"] == encoded(139)
    assert len(records[285]["boxes"]) == 0
    info = dataset_info("coco/2017", data_dir)
    assert info.class_names == class_names_coco()
    assert info.category_ids == tuple(COCO_CATEGORIES)


def test_coco_as_prepared_here(data_dir):
    records = detections(data_dir, "coco", "validation")
    assert sorted(records) == [10, 11, 12]
    np.testing.assert_allclose(records[10]["boxes"][0], [0.1, 0.1, 0.6, 0.6], atol=1e-6)
    assert records[10]["labels"].tolist() == [17, 80]
    assert records[10]["area"].tolist() == [150, 7.25]
    assert records[11]["is_crowd"].tolist() == [True]
    assert len(records[12]["boxes"]) == 0


def test_shapes(data_dir):
    records = detections(data_dir, "shapes/tiny", "test")
    assert sorted(records) == list(range(32))  # the places in the split stand for ids
    stored = open_split("shapes/tiny", "test", data_dir).records([5])[0]
    record = records[5]
    ymin, xmin, ymax, xmax = stored["objects"]["bbox"].T
    np.testing.assert_array_equal(record["boxes"], np.stack([xmin, ymin, xmax, ymax], 1))
    assert record["labels"].tolist() == (stored["objects"]["label"] + 1).tolist()
    assert not record["is_crowd"].any()
    pixels = (ymax - ymin) * (xmax - xmin) * 64 * 64
    np.testing.assert_allclose(record["area"], pixels, rtol=1e-5)
    assert dataset_info("shapes/tiny", data_dir).category_ids == ()
    # What the box holds is of the class that it says, in the mask's numbering.
    mask = cv2.imdecode(np.frombuffer(stored["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    for box, label in zip(np.rint(record["boxes"] * 64).astype(int), record["labels"], strict=True):
        assert (mask[box[1] : box[3], box[0] : box[2]] == label).any()


def test_records_without_objects():
    with pytest.raises(DataError, match="dogs#3 has no boxes"):
        to_detection({"image": b"", "label": 1, "name": "dogs#3"}, 3)
    objects = {"bbox": np.zeros((1, 4), np.float32), "label": np.zeros(1, int)}
    with pytest.raises(DataError, match="dogs#3: not an image that can be decoded"):
        to_detection({"image": b"", "objects": objects, "name": "dogs#3"}, 3)


def test_a_detector_is_trained_on_neither_crowds_nor_boxes_without_area():
    boxes = np.array(
        [[0, 0, 1, 1], [0.1, 0.1, 0.3, 0.3], [0.5, 0.2, 0.5, 0.9], [0.1, 0.4, 0.2, 0.4]], np.float32
    )
    record = {
        "boxes": boxes,
        "labels": np.array([1, 2, 3, 4], np.int32),
        "is_crowd": np.array([True, False, False, False]),
    }
    kept, labels = for_training(record)
    np.testing.assert_array_equal(kept, boxes[1:2])
    assert labels.tolist() == [2]


def test_padding_keeps_the_largest_in_their_order():
    sides = np.array([0.1, 0.4, 0.2, 0.3, 0.2], np.float32)
    boxes = np.stack([np.zeros(5), np.zeros(5), sides, sides], 1).astype(np.float32)
    labels = np.array([1, 2, 3, 4, 5], np.int32)
    padded = pad_objects(boxes, labels, 3)
    assert padded.labels.tolist() == [2, 3, 4] and padded.left_out == 2
    np.testing.assert_array_equal(padded.boxes, boxes[[1, 2, 3]])
    padded = pad_objects(boxes, labels, 7)
    assert padded.labels.tolist() == [1, 2, 3, 4, 5, 0, 0] and padded.left_out == 0
    assert not padded.boxes[5:].any()
    assert padded.boxes.dtype == np.float32 and padded.labels.dtype == np.int32
    empty = pad_objects(boxes[:0], labels[:0], 2)
    assert empty.labels.tolist() == [0, 0] and empty.left_out == 0
    with pytest.raises(ValueError, match="at least 1"):
        pad_objects(boxes, labels, 0)
