"""Parquet files as the hub stores them: what is stored, in how much memory, and every fault."""

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilevit_jax.data.builders.parquet import Parquet
from mobilevit_jax.data.masks import decode_mask, mask_class_names
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.street_scenes import NAMES as STREET
from tests.data.street_scenes import STREET as COLORS
from tests.data.street_scenes import colored, draw_street, png

NAMES = ["tench", "goldfish", "great white shark"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(seed: int, size: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def rows_of(count: int, first: int = 0, size: int = 12) -> list[dict[str, Any]]:
    """Rows with labels 0, 1, 2, 0, ..."""
    return [
        {
            "image": {"bytes": encoded(seed, size), "path": f"{seed:03}.png"},
            "label": seed % len(NAMES),
        }
        for seed in range(first, first + count)
    ]


def write(
    path: Path,
    rows: list[dict[str, Any]],
    *,
    names: list[str] | None = NAMES,
    label: Any = None,
    image: Any = IMAGE,
    group: int = 4,
) -> None:
    """Writes a file as the hub's library does; without names as pandas would."""
    metadata = {}
    if names is not None:
        features = {
            "image": {"_type": "Image"},
            "label": {"names": names, "_type": "ClassLabel"},
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", image), ("label", label or pa.int64())], metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group)


def write_pairs(path: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    """Writes images and masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image", IMAGE), ("mask", IMAGE)])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group)


def streets_of(count: int, first: int = 0, color: bool = False) -> list[dict[str, Any]]:
    rows = []
    for number in range(first, first + count):
        image, mask = draw_street(number)
        cells = {"image": png(image), "mask": png(colored(mask) if color else mask)}
        rows.append({k: {"bytes": v, "path": f"{number:03}.png"} for k, v in cells.items()})
    return rows


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    """Two shards of train of 10 rows in groups of 4, and one of validation."""
    source = tmp_path / "source"
    for index in range(2):
        write(source / "data" / f"train-{index:05}-of-00002.parquet", rows_of(10, 10 * index))
    write(source / "data" / "validation-00000-of-00001.parquet", rows_of(6, 20))
    return source


FIRST = "data/train-00000-of-00002.parquet"


def records_of(data_dir, split: str = "train"):
    opened = open_split("parquet", split, data_dir)
    return {record["name"]: record for record in opened.records(range(len(opened)))}


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("parquet", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def check(info, data_dir, notes=None) -> None:
    assert info.splits == {"train": 20, "validation": 6}
    assert info.notes == (notes or {}) and info.skipped == {}
    for split, numbers in (("train", range(20)), ("validation", range(20, 26))):
        records = records_of(data_dir, split)
        assert sorted(records) == [f"{number:03}.png" for number in numbers]
        for number in numbers:
            record = records[f"{number:03}.png"]
            assert record["image"] == encoded(number)
            assert record["label"] == number % len(NAMES)


def test_shards_of_the_hub(source, data_dir):
    info = prepare("parquet", source=source, data_dir=data_dir)
    check(info, data_dir)
    assert info.class_names == tuple(NAMES)
    # Again, and after the source has gone.
    source.rename(source.parent / "elsewhere")
    check(prepare("parquet", source=source, data_dir=data_dir), data_dir)


def test_the_stored_order_is_mixed_and_repeats(tmp_path, data_dir):
    """Rows of a row group stay together, but groups and rows change places."""
    write(tmp_path / "source" / "train.parquet", rows_of(60), group=10)
    orders = []
    for place in (data_dir, tmp_path / "again"):
        prepare("parquet", source=tmp_path / "source", data_dir=place)
        orders.append([int(name[:3]) for name in records_of(place)])
    assert orders[0] == orders[1]
    groups = np.array(orders[0]).reshape(6, 10)
    assert all(len(set(row // 10)) == 1 for row in groups)
    assert (groups[:, 0] // 10).tolist() != list(range(6))
    assert not any((np.diff(row) > 0).all() for row in groups)


def test_folders_of_splits_with_numbered_files(tmp_path, data_dir):
    for index in range(2):
        write(tmp_path / "source" / "train" / f"{index:04}.parquet", rows_of(10, 10 * index))
    write(tmp_path / "source" / "dev" / "0000.parquet", rows_of(6, 20))
    info = prepare("parquet", source=tmp_path / "source", data_dir=data_dir)
    check(info, data_dir, {"validation": {"images, called 'dev' in the source": 6}})


@pytest.mark.parametrize(
    "form", ["{0}/{0}-{1:05}-of-00002.parquet", "default/{0}/{1:04}.parquet", "{0}/part{1}.parquet"]
)
def test_folders_of_splits_with_files_of_other_names(tmp_path, data_dir, form):
    for index in range(2):
        write(tmp_path / "source" / form.format("train", index), rows_of(10, 10 * index))
        write(tmp_path / "source" / form.format("validation", index), rows_of(3, 20 + 3 * index))
    check(prepare("parquet", source=tmp_path / "source", data_dir=data_dir), data_dir)


def test_one_file_a_split_with_a_hash_and_bytes_alone(tmp_path, data_dir):
    source = tmp_path / "source"
    rows = [row | {"image": row["image"]["bytes"]} for row in rows_of(4)]
    write(source / "train-00000-of-00001-0a1b2c3d4e5f6789.parquet", rows, image=pa.binary())
    write(source / "test.parquet", rows, image=pa.binary())
    info = prepare("parquet", source=source, data_dir=data_dir)
    assert info.splits == {"train": 4, "test": 4}
    record = records_of(data_dir, "test")["test.parquet, row 2"]
    assert record["image"] == encoded(2) and record["label"] == 2


def test_labels_without_names(tmp_path, data_dir):
    source = tmp_path / "source"
    write(source / "train.parquet", rows_of(6), names=None)
    info = prepare("parquet", source=source, data_dir=data_dir)
    assert info.class_names == ("0", "1", "2")
    assert info.notes == {"train": {"classes without names, called by their numbers": 3}}
    (source / "classes.txt").write_text("one\ntwo\nthree\nfour\n")
    info = prepare("parquet", source=source, data_dir=data_dir, name="named")
    assert info.class_names == ("one", "two", "three", "four") and info.notes == {}
    (source / "classes.txt").write_text("one\ntwo\n")
    fails(source, tmp_path / "other", "row 2: the label 2 is not one of the classes of 0 to 1")


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_that_are_names(tmp_path, data_dir, kind):
    source = tmp_path / "source"
    rows = [row | {"label": NAMES[row["label"]]} for row in rows_of(6)]
    write(source / "train.parquet", rows, names=None, label=kind)
    info = prepare("parquet", source=source, data_dir=data_dir)
    assert info.class_names == ("goldfish", "great white shark", "tench") and info.notes == {}
    records = records_of(data_dir)
    assert [records[f"{n:03}.png"]["label"] for n in range(3)] == [2, 0, 1]
    (source / "classes.txt").write_text("\n".join(NAMES[:2]))
    match = "row 2: the label 'great white shark' is not in classes.txt"
    fails(source, tmp_path / "other", match)


def test_labels_that_are_the_listed_names_in_another_form(tmp_path, data_dir):
    source = tmp_path / "source"
    labels = ("dog ", "cafe\u0301", "dog")
    rows = [row | {"label": labels[row["label"]]} for row in rows_of(3)]
    write(source / "train.parquet", rows, names=None, label=pa.string())
    fails(source, data_dir, "the classes 1 and 2 are both 'dog'")
    (source / "classes.txt").write_text("dog\ncaf\xe9\n")
    prepare("parquet", source=source, data_dir=data_dir)
    records = records_of(data_dir)
    assert [records[f"{n:03}.png"]["label"] for n in range(3)] == [0, 1, 0]


# Arrow's threads give memory back to the pool it came from, also after a reader is closed: a pool
# that is gone by then ends the process.
_POOLS = []


@pytest.mark.parametrize("masks", [False, True])
def test_memory_is_that_of_a_row_group(tmp_path, data_dir, masks):
    """Sixteen groups of 100 kB take no more bytes than four, but for what threads read ahead."""
    peaks = {}
    usual = pa.default_memory_pool()
    for groups in (4, 16):
        source = tmp_path / f"{groups}"
        rows = rows_of(10 * groups, size=60)
        if masks:  # half of the bytes
            rows = [row | {"image": row["image"], "mask": row["image"]} for row in rows[::2]]
            write_pairs(source / "train.parquet", rows, group=5)
            (source / "classes.txt").write_text("a\nb\n")
        else:
            write(source / "train.parquet", rows, group=10)
        builder = Parquet(data_dir=data_dir, source=source)
        items = builder.items()["train"]
        _POOLS.append(pool := pa.proxy_memory_pool(usual))
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            assert sum(1 for _ in builder.fetched(items)) == len(rows)
            peaks[groups] = pool.max_memory() + tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(usual)
    assert 100_000 < peaks[16] < 2 * peaks[4]
    assert peaks[16] < 700_000  # all of them are 1.7 MB


def changed(source, **change) -> Path:
    """Changes row 5 of the first shard."""
    rows = rows_of(10)
    rows[5] |= change
    write(source / FIRST, rows)
    return source


CHANGES = {
    "no image": ({"image": None}, "there is no image"),
    "a path alone": (
        {"image": {"bytes": None, "path": "a/5.png"}},
        "the image is a path, a/5.png, without its bytes; store",
    ),
    "a damaged image": (
        {"image": {"bytes": encoded(5)[:-20], "path": None}},
        "the file is damaged or was cut short",
    ),
    "no label": ({"label": None}, "there is no label"),
    "a label of tests": ({"label": -1}, "the label -1 stands for none.*take the files of 'train'"),
    "a label too high": ({"label": 3}, "the label 3 is not one of the classes of 0 to 2"),
    "a label too low": ({"label": -2}, "the label -2 is not one of the classes of 0 to 2"),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_a_row_that_cannot_be_is_named(source, data_dir, fault):
    change, match = CHANGES[fault]
    fails(changed(source, **change), data_dir, f"^{FIRST}, row 5: {match}")


def test_bad_images_are_skipped_and_counted(source, data_dir):
    changed(source, image={"bytes": encoded(5)[:-20], "path": None})
    info = prepare("parquet", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"train": 19, "validation": 6} and info.skipped == {"train": 1}
    metadata = json.loads((info.directory / "metadata.json").read_text())
    assert metadata["skipped"]["train"] == [f"{FIRST}, row 5"]


class TestMasks:
    """Two columns of images."""

    @pytest.fixture
    def streets(self, tmp_path):
        source = tmp_path / "streets"
        write_pairs(source / "data" / "train-00000-of-00001.parquet", streets_of(4))
        write_pairs(source / "data" / "test-00000-of-00001.parquet", streets_of(2, 10))
        (source / "classes.txt").write_text("\n".join(STREET))
        return source

    @pytest.mark.parametrize(
        ("image", "mask"),
        [
            *(("image", "mask"), ("image", "annotation"), ("image", "segmentation_mask")),
            ("pixel_values", "label"),
        ],
    )
    def test_pairs(self, streets, data_dir, image, mask):
        for path in streets.rglob("*.parquet"):
            table = pq.read_table(path)
            pq.write_table(table.rename_columns([image, mask]), path, row_group_size=2)
        info = prepare("parquet", source=streets, data_dir=data_dir)
        assert info.splits == {"train": 4, "test": 2}
        assert info.class_names == mask_class_names(info) == STREET and info.notes == {}
        for split, first in (("train", 0), ("test", 10)):
            records = records_of(data_dir, split)
            assert sorted(records) == [f"{first + n:03}.png" for n in range(info.splits[split])]
            for number, name in enumerate(sorted(records), first):
                pixels, classes = draw_street(number)
                assert records[name]["image"] == png(pixels)
                np.testing.assert_array_equal(decode_mask(records[name]["mask"], name=""), classes)

    def test_colours(self, streets, data_dir):
        (streets / "classes.txt").unlink()
        lines = [f"{r} {g} {b} {name}" for name, (r, g, b) in COLORS.items()] + ["0 0 0 void"]
        (streets / "label_colors.txt").write_text("\n".join(lines))
        write_pairs(streets / "data" / "train-00000-of-00001.parquet", streets_of(3, color=True))
        prepare("parquet", source=streets, data_dir=data_dir)
        for number, (_, record) in enumerate(sorted(records_of(data_dir).items())):
            mask = decode_mask(record["mask"], name="")
            np.testing.assert_array_equal(mask, draw_street(number)[1])

    def test_without_names_of_classes(self, streets, data_dir):
        (streets / "classes.txt").unlink()
        fails(
            streets, data_dir, "streets needs one file that names the classes, classes.txt, .*none"
        )

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"mask": None}, ": there is no mask"),
            ({"mask": {"bytes": None, "path": "a.png"}}, ": the mask is a path, a.png, without"),
            (
                {"mask": {"bytes": png(np.full((48, 64), 20, np.uint8)), "path": None}},
                ", mask has the value 20 at 3072 pixels",
            ),
            (
                {"image": {"bytes": encoded(1), "path": None}},
                ", mask is 64x48, but its image .* 12x",
            ),
        ],
    )
    def test_a_row_that_cannot_be_is_named(self, streets, data_dir, change, match):
        rows = streets_of(4)
        rows[2] |= change
        file = "data/train-00000-of-00001.parquet"
        write_pairs(streets / file, rows)
        fails(streets, data_dir, f"^{file}, row 2{match}")
        info = prepare("parquet", source=streets, data_dir=data_dir, skip_bad_images=True)
        assert info.skipped == {"train": 1}


def test_columns_that_are_left_out_are_named(source, data_dir):
    """Labels and masks, two kinds of labels: which are meant nobody can tell."""
    for path in source.rglob("*.parquet"):
        table = pq.read_table(path)
        table = table.append_column("mask", table["image"])
        pq.write_table(table.append_column("labels", table["label"]), path, row_group_size=4)
    info = prepare("parquet", source=source, data_dir=data_dir)
    (note,) = info.notes["train"].items()
    assert note[0].startswith("columns left out: mask, labels ('image' and 'label' are taken; if")
    assert note[1] == 2
    for path in source.rglob("*.parquet"):
        table = pq.read_table(path).drop_columns(["label", "labels"])
        pq.write_table(table, path, row_group_size=4)
    fails(source, data_dir.with_name("masks"), "needs one file that names the classes")


def test_columns_that_are_left_out_may_differ(source, data_dir):
    """Masks for train alone, or the same columns in another order, hinder nobody."""
    for path, more in zip(sorted(source.rglob("*.parquet")), ("ab", "ba", ""), strict=True):
        table = pq.read_table(path)
        for name in more:
            table = table.append_column(name, table["image"])
        pq.write_table(table, path, row_group_size=4)
    info = prepare("parquet", source=source, data_dir=data_dir)
    assert info.splits == {"train": 20, "validation": 6}
    ((note, count),) = info.notes["train"].items()
    assert note.startswith("columns left out: a, b ('image' and 'label'") and count == 2


def test_shards_that_are_missing_or_too_many(source, data_dir):
    (source / FIRST).rename(source / "kept")
    fails(
        source, data_dir, "'train' in .*data lacks 1 of its 2 files, such as train-00000-of-00002"
    )
    write(source / "data" / "train-00000-of-00001.parquet", rows_of(4))
    fails(source, data_dir, "'train' in .*data has files of several sets of shards")
    (source / "data" / "train-00000-of-00001.parquet").unlink()
    (source / "kept").rename(source / FIRST)
    write(source / "data" / "train-00000-of-00002-0a1b.parquet", rows_of(4))
    fails(source, data_dir, "'train' in .*data has files of several sets of shards")


def test_shards_that_do_not_agree(source, data_dir):
    write(source / FIRST, rows_of(10), names=NAMES[::-1])
    fails(source, data_dir, "has other columns or classes than .*train-00000-of-00002.parquet")


def test_files_that_are_damaged(source, data_dir):
    whole = (source / FIRST).read_bytes()
    (source / FIRST).write_bytes(whole[:-10])
    fails(source, data_dir, "train-00000-of-00002.parquet is not a whole Parquet file")
    (source / FIRST).write_bytes(b"")
    fails(source, data_dir, "train-00000-of-00002.parquet is not a whole Parquet file")
    (source / FIRST).write_bytes(whole[:4] + bytes(600) + whole[604:])
    fails(source, data_dir, "train-00000-of-00002.parquet: column '.*' of row group 0 cannot be")


COLUMNS = {
    "no label": ({"image": None}, "must have one column of labels, .* it has none among image"),
    "no image": ({"label": 1}, "must have one column of images, .* it has none among label"),
    "two images": (
        {"left": None, "right": None, "label": 1},
        "images, .* it has left, right among",
    ),
    "a label of a kind": (
        {"image": None, "label": 0.5},
        "column 'label' holds double; a label is a",
    ),
    "two masks": (
        {"image": None, "annotation": None, "label": None},
        "one column of masks, or one that is called 'mask'; it has annotation, label among",
    ),
}


@pytest.mark.parametrize("fault", COLUMNS)
def test_columns_that_cannot_be(tmp_path, data_dir, fault):
    row, match = COLUMNS[fault]
    image = {"bytes": encoded(0), "path": None}
    table = pa.Table.from_pylist([{k: image if v is None else v for k, v in row.items()}])
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "train.parquet")
    fails(tmp_path / "source", data_dir, f"train.parquet.*{match}")


def test_sources_that_are_not_in_the_layout(source, data_dir, tmp_path):
    fails(None, data_dir, "parquet needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", data_dir, "has no Parquet files")
    write(source / "other" / "train.parquet", rows_of(4))
    fails(source, data_dir, "has Parquet files in .*data and .*other, which are two data sets")
    (source / "other" / "train.parquet").unlink()
    write(source / "data" / "val.parquet", rows_of(4))
    fails(source, data_dir, "has both val and validation, which are the split 'validation'")


def test_pyarrow_that_is_not_there(source, data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    match = r"Parquet files need pyarrow; install it: pip install 'mobilevit-jax\[parquet\]'"
    fails(source, data_dir, match, ConfigurationError)


def test_names_of_classes_that_contradict(source, data_dir):
    (source / "classes.txt").write_text("other\nnames\n")
    fails(source, data_dir, "classes.txt has other classes than the Parquet files; remove it")


def test_files_of_systems(source, data_dir):
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "train.parquet").write_bytes(b"no Parquet")
    check(prepare("parquet", source=source, data_dir=data_dir), data_dir)
