"""Image folders: layouts, file kinds, and every fault a user's folder may have."""

import io
import json
import os
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image, features

from mobilevit_jax.data.decode import decode_image
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


def pictured(kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(7).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def images_of(data_dir, split: str = "train") -> dict[str, bytes]:
    opened = open_split("image_folder", split, data_dir)
    return {record["name"]: record["image"] for record in opened.records(range(len(opened)))}


FILES = {
    "a.jpg": encoded(".jpg"),
    "b.JPEG": encoded(".jpg"),
    "c.Png": encoded(".png"),
    "d.webp": encoded(".webp"),
    "e.bmp": encoded(".bmp"),
    "f.jfif": encoded(".jpg"),
    "g.TIF": pictured("TIFF"),
    "h.tiff": pictured("TIFF", "L", compression="tiff_lzw"),
    "i.gif": pictured("GIF", "P"),
    "j.ppm": pictured("PPM"),
    "k.jp2": pictured("JPEG2000"),
    "site1/3.jpg": encoded(".jpg", 1),
    "site1/deep er/3.gif": pictured("GIF", "P"),
    "site2/3.jpg": encoded(".jpg", 2),
}


def test_every_kind_of_file_passes_untouched(source, data_dir):
    files = FILES | ({"l.avif": pictured("AVIF")} if features.check("avif") else {})
    for name, data in files.items():
        (source / "train" / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "train" / "cat" / name).write_bytes(data)
    (source / ".git").mkdir()
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.splits == {"train": 6 + len(files), "test": 6}
    assert info.class_names == ("cat", "dog") and info.notes == {}
    split = open_split("image_folder", "train", data_dir)
    records = {r["name"]: r for r in split.records(range(len(split)))}
    for name, data in files.items():
        record = records[f"train/cat/{name}"]
        assert record["image"] == data and record["label"] == 0
        assert decode_image(record["image"], name=name).shape == (12, 10, 3)
    assert records["train/dog/0.png"]["label"] == 1


def test_what_is_left_out_is_counted_and_named(source, data_dir):
    cat = source / "train" / "cat"
    (cat / ".cache").mkdir()
    for name in ("notes.txt", ".hidden.jpg", "photo.heic", "Thumbs.db", ".cache/1.jpg"):
        (cat / name).write_text("no image")
    os.mkfifo(cat / "pipe.jpg")
    (source / "train" / "loose.png").write_bytes(encoded())
    (source / "test" / "dog" / "._0.png").write_text("")
    (source / "README.md").write_text("")
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.splits == {"train": 6, "test": 6} and info.skipped == {}
    first = "train/cat/Thumbs.db, train/cat/notes.txt, train/cat/photo.heic, ..."
    assert info.notes == {
        "train": {
            "left out, in no class folder: train/loose.png": 1,
            f"left out, not named like an image: {first}": 6,
        },
        "test": {"left out, not named like an image: test/dog/._0.png": 1},
    }


def test_an_image_beside_the_splits_is_not_lost_without_a_word(source, data_dir):
    (source / "loose.jpg").write_bytes(encoded(".jpg"))
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.notes == {"test": {"left out, in no class folder: loose.jpg": 1}}


def test_links_are_followed_and_circles_end(source, data_dir, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "9.png").write_bytes(encoded(seed=9))
    cat = source / "train" / "cat"
    (cat / "link").symlink_to(tmp_path / "elsewhere")
    (cat / "up").symlink_to(cat)
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert images_of(data_dir)["train/cat/link/9.png"] == encoded(seed=9)
    assert info.splits["train"] == 7
    assert info.notes == {"train": {"left out, not named like an image: train/cat/up": 1}}


def test_a_link_to_the_split_brings_no_image_of_another_class(source, data_dir):
    (source / "train" / "cat" / "all").symlink_to(source / "train")
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.splits["train"] == 6
    assert info.notes == {"train": {"left out, not named like an image: train/cat/all": 1}}


@pytest.mark.parametrize("inside", ["train", "val"])
def test_splits_one_folder_too_deep(tmp_path, data_dir, inside):
    write_folder(tmp_path / "source" / "data", splits=(inside, "test"))
    match = r"data/test looks like a split, .*; give \S+source/data as the source, or rename"
    fails(tmp_path / "source", data_dir, match)


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


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ("dog", " dog", "' dog' and 'dog' in .*train are both the class 'dog'"),
        ("dog", "dog ", "are both the class 'dog'; put their images into one, or rename one"),
        ("\u00e9mu", "e\u0301mu", r"'e\\u0301mu' and '\\xe9mu' .* both the class"),
    ],
)
def test_folders_that_look_like_one_class(tmp_path, data_dir, first, second, match):
    source = write_folder(tmp_path / "source", ("train",), (first, second))
    fails(source, data_dir, match)


def test_a_name_is_the_same_class_in_every_split(tmp_path, data_dir):
    """Some systems write other letters into an archive than into a file system."""
    source = write_folder(tmp_path / "source", ("train",), ("caf\u00e9", "hot dog"))
    composed = unicodedata.normalize("NFD", "caf\u00e9")
    write_folder(source, ("test",), (composed, "hot dog "))
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.class_names == ("caf\u00e9", "hot dog")


@pytest.mark.parametrize("other", ["a", "\u200bA", "\uff21"])
def test_names_that_look_alike_are_kept_and_told(tmp_path, data_dir, other):
    source = write_folder(tmp_path / "source", ("train",), ("A", other, "b"))
    info = prepare("image_folder", source=source, data_dir=data_dir)
    names = sorted(("A", other, "b"))
    assert list(info.class_names) == names
    shown = ", ".join(ascii(name) for name in names if name != "b")
    assert info.notes == {"train": {f"classes have names that look alike: {shown}": 2}}


@pytest.mark.parametrize("name", [" ", "a\nb", "a\u2028b"])
def test_names_that_no_class_can_have(tmp_path, data_dir, name):
    source = write_folder(tmp_path / "source", ("train",), (name,))
    fails(
        source,
        data_dir,
        "class folder in .*train has the name '.*'; a class needs a name of one line",
    )


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
    fails(
        source, data_dir, r"class folder .*train/emu has no image \(.jpg.*; it has readme.txt; add"
    )


def test_a_class_in_one_split_only(source, data_dir):
    (source / "train" / "emu").mkdir()
    (source / "train" / "emu" / "1.png").write_bytes(encoded())
    fails(source, data_dir, "class 'emu' of .* is in train but not in test")


def test_both_val_and_validation(tmp_path, data_dir):
    source = write_folder(tmp_path / "source", splits=("train", "val", "validation"))
    fails(source, data_dir, "both val and validation, which are the split")


@pytest.mark.parametrize("name", ["fold-1", "all", "2nd"])
def test_a_folder_that_cannot_be_a_split(tmp_path, data_dir, name):
    fails(write_folder(tmp_path / "source", splits=(name,)), data_dir, f"{name}' cannot be a split")


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
