"""Several data sets opened as one."""

import io
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mobilevit_jax.data.masks import encode_mask
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError
from tests.data.test_sources import write_foreign


def features(labels):
    return {
        "image": tfds.features.Image(),
        "mask": tfds.features.LabeledImage(
            labels=labels, shape=(None, None, 1), encoding_format="png"
        ),
        "name": tfds.features.Text(),
    }


def examples(prefix, count):
    return [
        {
            "image": io.BytesIO(f"{prefix}{i}".encode()),
            "mask": io.BytesIO(encode_mask(np.full((2, 2), i % 3, np.uint8))),
            "name": f"{prefix}{i}",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    names = ["background", "cat", "dog"]
    write_foreign(place, "one", features(names), examples("a", 5))
    write_foreign(place, "two", features(names), examples("b", 3))
    write_foreign(place, "three", features(["background", "cat", "cow"]), examples("c", 2))
    return place


def names_of(split):
    return [record["name"] for record in split.records(range(len(split)))]


def test_records_follow_one_another(data_dir):
    split = open_split("one+two", "train", data_dir)
    assert len(split) == 8 and split.info.splits == {"train": 8}
    assert names_of(split) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2"]
    assert [r["image"] for r in split.records([6, 0, 6, 4])] == [b"b1", b"a0", b"b1", b"a4"]
    assert split.records([]) == []


def test_a_split_for_each(data_dir):
    split = open_split("one + two", "train[:2], train[1:]", data_dir)
    assert names_of(split) == ["a0", "a1", "b1", "b2"]


def test_an_empty_place_leaves_a_data_set_out(data_dir):
    assert names_of(open_split("one+two", "train,", data_dir)) == ["a0", "a1", "a2", "a3", "a4"]
    assert names_of(open_split("one+two", ",train", data_dir)) == ["b0", "b1", "b2"]


def test_the_description(data_dir):
    info = dataset_info("one+two", data_dir)
    assert info.name == "one+two" and info.class_names == ("background", "cat", "dog")


def test_it_opens_again_where_it_is_unpickled(data_dir):
    split = pickle.loads(pickle.dumps(open_split("one+two", "train[:1],train", data_dir)))
    assert names_of(split) == ["a0", "b0", "b1", "b2"]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("one+three", "train", "class 2 is 'dog' in one and 'cow' in the other"),
        ("one+two", "train,train,train", "one for all 2 data sets, or one for each"),
        ("one+two", ",", "one for all 2 data sets"),
        ("one+twoo", "train", "no data set 'twoo'.*did you mean 'two'"),
        ("one+two", "train,training", "split of two.*did you mean 'train'"),
    ],
)
def test_what_does_not_fit(data_dir, name, split, message):
    with pytest.raises(ConfigurationError, match=message):
        open_split(name, split, data_dir)


def test_ids_out_of_range(data_dir):
    with pytest.raises(IndexError, match="records 0 to 7"):
        open_split("one+two", "train", data_dir).records([8])
