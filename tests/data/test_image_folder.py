"""Image folders: layouts, file kinds, and every fault a user's folder may have."""

import json
import os

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError


def encoded(extension: str = ".png", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def write_folder(root, splits=("train", "test"), classes=("cat", "dog"), count=3):
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                (root / split / name / f"{index}.png").write_bytes(encoded(seed=index))
    return root


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("image_folder", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    left = [p for p in data_dir.rglob("*")] if data_dir.exists() else []
    assert left == []


def test_every_kind_of_file_passes_untouched(source, data_dir):
    files = {
        "a.jpg": encoded(".jpg"),
        "b.JPEG": encoded(".jpg"),
        "c.Png": encoded(".png"),
        "d.webp": encoded(".webp"),
        "e.bmp": encoded(".bmp"),
    }
    for name, data in files.items():
        (source / "train" / "cat" / name).write_bytes(data)
    (source / "train" / "cat" / "notes.txt").write_text("no image")
    (source / "train" / "cat" / ".hidden.jpg").write_text("no image")
    (source / ".git").mkdir()
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.splits == {"train": 11, "test": 6}
    assert info.class_names == ("cat", "dog")
    split = open_split("image_folder", "train", data_dir)
    records = {r["name"]: r for r in split.records(range(len(split)))}
    for name, data in files.items():
        assert records[f"train/cat/{name}"]["image"] == data
        assert records[f"train/cat/{name}"]["label"] == 0
    assert records["train/dog/0.png"]["label"] == 1


def test_the_stored_order_is_mixed_and_repeats(tmp_path, data_dir):
    source = write_folder(tmp_path / "many", count=40)
    names = []
    for place in (data_dir, tmp_path / "again"):
        prepare("image_folder", source=source, data_dir=place)
        split = open_split("image_folder", "train", place)
        records = split.records(range(len(split)))
        names.append([r["name"] for r in records])
    assert names[0] == names[1]
    assert len(set(names[0])) == 80
    first_half = sum(r["label"] for r in records[:40])
    assert 8 < first_half < 32


def test_val_is_validation_and_other_names_are_kept(tmp_path, data_dir):
    source = write_folder(tmp_path / "source", splits=("train", "val", "holdout_2"))
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert set(info.splits) == {"train", "validation", "holdout_2"}


def test_names_with_spaces_and_other_letters(tmp_path, data_dir):
    source = write_folder(tmp_path / "source", classes=("große Katze", "犬"))
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.class_names == ("große Katze", "犬")


@pytest.mark.skipif(os.name != "posix", reason="only POSIX file names are bytes")
def test_a_file_name_that_is_not_utf8(source, data_dir):
    with open(os.fsencode(source / "train" / "cat") + b"/\xff.png", "wb") as file:
        file.write(encoded())
    prepare("image_folder", source=source, data_dir=data_dir)
    split = open_split("image_folder", "train", data_dir)
    assert "train/cat/\ufffd.png" in {r["name"] for r in split.records(range(len(split)))}


def test_no_source(tmp_path, data_dir):
    fails(None, data_dir, "needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")


def test_no_split_folders(tmp_path, data_dir):
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", data_dir, "empty has no folders.*<split>/<class>/<image>")


def test_no_class_folders(source, data_dir):
    (source / "other").mkdir()
    fails(source, data_dir, "split folder .*other has no class folders")


def test_classes_without_splits(tmp_path, data_dir):
    source = write_folder(tmp_path, splits=("animals",)) / "animals"
    fails(
        source,
        data_dir,
        "cat holds images directly.*if 'cat' is a class, 'animals' must be a split",
    )


def test_an_empty_class_folder(source, data_dir):
    (source / "train" / "emu").mkdir()
    (source / "train" / "emu" / "readme.txt").write_text("none yet")
    fails(source, data_dir, r"class folder .*train/emu has no image \(.jpg")


def test_a_class_in_one_split_only(source, data_dir):
    (source / "train" / "emu").mkdir()
    (source / "train" / "emu" / "1.png").write_bytes(encoded())
    fails(source, data_dir, "class 'emu' of .* is in train but not in test")


def test_both_val_and_validation(tmp_path, data_dir):
    source = write_folder(tmp_path / "source", splits=("train", "val", "validation"))
    fails(source, data_dir, "both 'val' and 'validation'")


@pytest.mark.parametrize("name", ["fold-1", "all", "2nd"])
def test_a_folder_that_cannot_be_a_split(tmp_path, data_dir, name):
    fails(write_folder(tmp_path / "source", splits=(name,)), data_dir, f"{name} cannot be a split")


BAD = {
    "empty.jpg": b"",
    "text.jpg": b"this is no image",
    "cut.jpg": encoded(".jpg")[:-40],
    "cut.png": encoded(".png")[:-60],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named(source, data_dir, name):
    (source / "train" / "dog" / name).write_bytes(BAD[name])
    fails(source, data_dir, f"train/dog/{name}")


def test_a_dangling_link_is_named(source, data_dir):
    (source / "train" / "dog" / "link.jpg").symlink_to(source / "gone.jpg")
    fails(source, data_dir, "train/dog/link.jpg: No such file")


def test_bad_images_are_skipped_and_counted(source, data_dir):
    for name, data in BAD.items():
        (source / "train" / "dog" / name).write_bytes(data)
    (source / "test" / "cat" / "empty.jpg").write_bytes(b"")
    info = prepare("image_folder", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"train": 6, "test": 6}
    assert info.skipped == {"train": 4, "test": 1}
    metadata = json.loads((info.directory / "metadata.json").read_text())
    assert metadata["skipped"]["train"] == sorted(f"train/dog/{name}" for name in BAD)
    assert metadata["source"] == str(source)


def test_nothing_but_bad_images(tmp_path, data_dir):
    source = write_folder(tmp_path / "source", count=1)
    for path in source.glob("test/*/*.png"):
        path.write_bytes(b"")
    fails(source, data_dir, "none of the 2 images of the split 'test'", skip_bad_images=True)
