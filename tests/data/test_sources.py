"""Finding, describing and reading prepared data sets, ours and other people's."""

import io
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.record_parser import RecordParser
from mobilevit_jax.data.sources import (
    class_names_imagenet,
    dataset_info,
    default_data_dir,
    find_prepared,
    list_prepared,
    open_split,
)
from mobilevit_jax.errors import ConfigurationError, DataError


class Foreign(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Stands for what TFDS itself prepares: other names, nested and ragged features."""

    name = "foreign"
    VERSION = tfds.core.Version("2.1.0")

    def __init__(self, features: dict, examples: list[dict], name: str, **options) -> None:
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._content = tfds.features.FeaturesDict(features), examples
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=self._content[0])

    def _shard_iterators_per_split(self, dl_manager):
        return {"train": [lambda: iter(enumerate(self._content[1]))]}


def image(index: int) -> io.BytesIO:
    return io.BytesIO(b"image %d" % index)


def write_foreign(data_dir, name: str, features: dict, examples: list[dict]) -> Path:
    builder = Foreign(features, examples, name, data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record", download_dir=data_dir / "downloads")
    shutil.rmtree(data_dir / "downloads", ignore_errors=True)
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    prepare("shapes/tiny", data_dir=place)
    wnids = ["n01440764", "n01443537"]
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=wnids),
    }
    examples = [{"file_name": f"{i}.JPEG", "image": image(i), "label": i % 2} for i in range(10)]
    write_foreign(place, "imagenet2012", features, examples)
    return place


@pytest.fixture
def copy(data_dir, tmp_path):
    return Path(shutil.copytree(data_dir, tmp_path / "copy"))


def test_shapes_carry_boxes_and_masks(data_dir):
    split = open_split("shapes/tiny", "train", data_dir)
    record = split.records([3])[0]
    assert set(record) == {"image", "label", "mask", "name", "objects"}
    assert record["image"].startswith(b"\x89PNG") and record["mask"].startswith(b"\x89PNG")
    assert isinstance(record["label"], int) and isinstance(record["name"], str)
    boxes, labels = record["objects"]["bbox"], record["objects"]["label"]
    assert boxes.shape == (len(labels), 4) and boxes.dtype == np.float32
    assert record["label"] in labels


@pytest.mark.parametrize(
    ("name", "images"), [("shapes/tiny", ("image", "mask")), ("imagenet2012", ("image",))]
)
def test_the_parser_agrees_with_tfds(data_dir, name, images):
    split = open_split(name, "train", data_dir)
    builder: Any = tfds.builder_from_directory(split.info.directory)
    skip = {key: tfds.decode.SkipDecoding() for key in images}
    theirs = list(builder.as_data_source(split="train", decoders=skip))
    for ours, other in zip(split.records(range(len(split))), theirs, strict=True):
        assert ours["label"] == other["label"]
        for key in images:
            assert ours[key] == other[key]
        if "objects" in other:
            for key in ("bbox", "label"):
                np.testing.assert_array_equal(ours["objects"][key], other["objects"][key])


def test_a_data_set_of_others_with_readable_class_names(data_dir):
    info = dataset_info("imagenet2012", data_dir)
    assert info.splits == {"train": 10}
    assert info.class_names == ("tench", "goldfish") == class_names_imagenet()[:2]
    assert info.directory == data_dir / "imagenet2012" / "2.1.0"
    records = open_split("imagenet2012", "train", data_dir).records([2, 0])
    assert [r["image"] for r in records] == [b"image 2", b"image 0"]
    assert [r["name"] for r in records] == ["2.JPEG", "0.JPEG"]


def test_unnamed_and_unlabelled_records(tmp_path):
    features = {"image": tfds.features.Image(), "depth": np.float32}
    examples = [{"image": image(i), "depth": i / 2} for i in range(3)]
    write_foreign(tmp_path, "plain", features, examples)
    record = open_split("plain", "train", tmp_path).records([1])[0]
    assert record == {"image": b"image 1", "depth": 0.5, "name": "plain/train#1"}
    assert dataset_info("plain", tmp_path).class_names == ()


def test_ragged_features_are_left_to_tfds():
    """TFDS reads them without TensorFlow, but cannot write them."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "id": np.int64,
            "words": tfds.features.Sequence(tfds.features.Sequence(np.int64)),
        }
    )
    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    stored = example.features.feature
    stored["image"].bytes_list.value.append(b"data")
    stored["id"].int64_list.value.append(7)
    stored["words/ragged_flat_values"].int64_list.value.extend([1, 2, 3])
    stored["words/ragged_row_lengths_0"].int64_list.value.extend([2, 1])
    record = RecordParser(features).parse(example.SerializeToString())
    assert record["image"] == b"data" and record["name"] == "7"
    assert [list(row) for row in record["words"]] == [[1, 2], [3]]


def test_empty_sequences_keep_their_shape(tmp_path):
    features = {
        "image": tfds.features.Image(),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["person", "dog"]),
            }
        ),
    }
    write_foreign(tmp_path, "boxes", features, [{"image": image(0), "objects": []}])
    record = open_split("boxes", "train", tmp_path).records([0])[0]
    assert record["objects"]["bbox"].shape == (0, 4)
    assert record["objects"]["label"].shape == (0,)
    assert dataset_info("boxes", tmp_path).class_names == ("person", "dog")


def test_slices(data_dir):
    def labels(split: str) -> list[int]:
        opened = open_split("shapes/tiny", split, data_dir)
        return [record["label"] for record in opened.records(range(len(opened)))]

    everything = labels("train")
    assert labels("train[:25%]") == everything[:16]
    assert labels("train[10:-4]") == everything[10:-4]
    assert labels("train[60:] + test[:3]") == everything[60:] + labels("test")[:3]


def test_any_order_of_ids_and_none(data_dir):
    split = open_split("shapes/tiny", "validation", data_dir)
    assert len(split) == 32
    names = [record["name"] for record in split.records(range(32))]
    assert len(set(names)) == 32
    assert [r["name"] for r in split.records(np.array([31, 0, 31]))] == [
        names[i] for i in (31, 0, 31)
    ]
    assert split.records([]) == []
    for bad in ([32], [-1]):
        with pytest.raises(IndexError, match="records 0 to 31"):
            split.records(bad)


def test_pickles_and_threads(data_dir):
    split = open_split("shapes/tiny", "train[8:]", data_dir)
    expected = split.records(range(56))
    again = pickle.loads(pickle.dumps(split))
    assert again.info == split.info and again.name == split.name
    assert [r["image"] for r in again.records(range(56))] == [r["image"] for r in expected]
    with ThreadPoolExecutor(8) as pool:
        for records in pool.map(split.records, [range(i, i + 16) for i in range(40)] * 4):
            first = next(i for i, e in enumerate(expected) if e["name"] == records[0]["name"])
            assert [r["name"] for r in records] == [e["name"] for e in expected[first : first + 16]]


def test_names_with_and_without_configuration_and_version(copy):
    assert find_prepared("shapes", copy).name == "shapes/tiny"
    assert find_prepared("shapes/tiny:1.0.0", copy).version == "1.0.0"
    shutil.copytree(copy / "imagenet2012" / "2.1.0", copy / "imagenet2012" / "10.0.0")
    assert find_prepared("imagenet2012", copy).version == "10.0.0"
    assert find_prepared("imagenet2012:2.1.0", copy).version == "2.1.0"
    with pytest.raises(ConfigurationError, match="version of imagenet2012 '2.0.0'.*2.1.0"):
        find_prepared("imagenet2012:2.0.0", copy)
    shutil.copytree(copy / "shapes" / "tiny", copy / "shapes" / "other")
    with pytest.raises(ConfigurationError, match="choose one of shapes/other, shapes/tiny"):
        find_prepared("shapes", copy)
    (copy / "shapes" / "tiny" / "incomplete.XYZ_1.0.0").mkdir()
    names = [(p.name, p.version) for p in list_prepared(copy)]
    assert names == [
        ("imagenet2012", "2.1.0"),
        ("imagenet2012", "10.0.0"),
        ("shapes/other", "1.0.0"),
        ("shapes/tiny", "1.0.0"),
    ]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("imagenet2021", "did you mean 'imagenet2012'.*prepared there: imagenet2012, shapes/tiny"),
        ("shapes/quickstart", "prepare it: mobilevit prepare shapes/quickstart --data-dir"),
        ("imagenet", "prepare it: mobilevit prepare imagenet --source PATH"),
        ("flowers", "mobilevit prepare image_folder --source PATH --name flowers"),
    ],
)
def test_an_unknown_name_says_what_to_do(data_dir, name, match):
    with pytest.raises(ConfigurationError, match=match) as caught:
        open_split(name, "train", data_dir)
    assert str(data_dir) in str(caught.value)


def test_nothing_prepared(tmp_path):
    with pytest.raises(ConfigurationError, match="nothing is there"):
        dataset_info("cifar10", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ("tset", "unknown split of shapes/tiny 'tset' .did you mean 'test'"),
        ("train+tset", "'tset'"),
        ("train[:10", "split 'train.:10'"),
        ("train[:0]", "selects no image"),
        ("train[5:2]", "split 'train.5:2.' of shapes/tiny selects no image"),
    ],
)
def test_splits_that_do_not_exist(data_dir, split, match):
    with pytest.raises(ConfigurationError, match=match) as caught:
        open_split("shapes/tiny", split, data_dir)
    assert "\n" not in str(caught.value)


def test_tfrecord_says_how_to_convert(copy):
    described = copy / "imagenet2012" / "2.1.0" / "dataset_info.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        DataError, match="stored as tfrecord, which needs TensorFlow; .*tfds convert"
    ):
        dataset_info("imagenet2012", copy)


def test_a_data_set_without_images(tmp_path):
    write_foreign(tmp_path, "numbers", {"value": np.int64}, [{"value": 1}])
    with pytest.raises(DataError, match="'numbers' in .* has no feature 'image'"):
        open_split("numbers", "train", tmp_path)


def test_damaged_files(copy):
    directory = copy / "shapes" / "tiny" / "1.0.0"
    shard = next(directory.glob("*validation*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot read shapes/tiny validation in .*prepare it again"):
        open_split("shapes/tiny", "validation", copy).records(range(32))
    shard.unlink()
    with pytest.raises(DataError, match="validation.* is missing; prepare shapes/tiny again"):
        open_split("shapes/tiny", "validation", copy)
    (directory / "features.json").write_text("{")
    with pytest.raises(DataError, match="cannot read the description"):
        dataset_info("shapes/tiny", copy)


def test_the_default_directory(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "~/sets")
    assert default_data_dir() == Path.home() / "sets"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert default_data_dir() == Path.home() / "tensorflow_datasets"
