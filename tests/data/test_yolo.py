"""YOLO's text files: layouts, what is stored, and every fault that they may have."""

import re
from typing import Any

import numpy as np
import pytest

from mobilevit_jax.data.annotations import to_detection
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.boxes_layout import NAMES, SIZE, draw, write_yolo

VAL = {"validation": {"images, called 'val' in the source": 8}}


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    return write_yolo(tmp_path / "source")


def records_of(data_dir, split: str = "train", name: str = "yolo") -> dict[str, dict[str, Any]]:
    opened = open_split(name, split, data_dir)
    stored = opened.records(range(len(opened)))
    return {r["name"]: to_detection(r, i) for i, r in enumerate(stored)}


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("yolo", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def check(info, data_dir) -> None:
    """Checks that what is stored is what was drawn."""
    assert info.splits == {"train": 16, "validation": 8}
    assert info.class_names == NAMES and info.category_ids == (0, 1, 2)
    assert info.notes == VAL and info.skipped == {}
    for split, drawn_as in (("train", "train"), ("validation", "val")):
        records = records_of(data_dir, split)
        for drawn in draw(drawn_as):
            record = records[f"{drawn.name}.jpg"]
            assert record["image"] == drawn.image
            np.testing.assert_allclose(record["boxes"] * SIZE, drawn.boxes, atol=1e-3)
            assert record["labels"].tolist() == [label + 1 for label in drawn.labels]
            sides = drawn.boxes[:, 2:] - drawn.boxes[:, :2]
            np.testing.assert_allclose(record["area"], sides.prod(1), rtol=1e-3)
        assert len({record["image_id"] for record in records.values()}) == len(records)


def test_folders_of_images_and_of_labels(source, data_dir):
    check(prepare("yolo", source=source, data_dir=data_dir), data_dir)
    # Again, and after the source has gone.
    source.rename(source.parent / "elsewhere")
    check(prepare("yolo", source=source, data_dir=data_dir), data_dir)


def test_folders_of_splits(tmp_path, data_dir):
    source = write_yolo(tmp_path / "source", "{}/images")
    # As Roboflow exports it: paths that lead out of the folder, and "valid".
    for kind in ("images", "labels"):
        (source / "valid").mkdir(exist_ok=True)
        (source / "val" / kind).rename(source / "valid" / kind)
    (source / "val").rmdir()
    (source / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest:\nnc: 3\n"
        f"names: ['{NAMES[0]}', '{NAMES[1]}', '{NAMES[2]}']\nroboflow: {{version: 1}}\n"
    )
    (source / "README.roboflow.txt").write_text("exported")
    check(prepare("yolo", source=source, data_dir=data_dir), data_dir)


def test_lists_of_images_names_by_number_and_a_root(source, data_dir):
    for split in ("train", "val"):
        lines = [f"./images/{split}/{drawn.name}.jpg" for drawn in draw(split)]
        (source / f"{split}.txt").write_text("\n".join(lines))
    half = (source / "val.txt").read_text().splitlines()
    (source / "val.txt").write_text("\n".join(half[:4]))
    (source / "more.txt").write_text("\n".join(half[4:]))
    (source / "data.yaml").unlink()
    (source / "parts").mkdir()
    # Beside the data, as in a checkout; with a byte order mark, and names that YAML has views on.
    file = source / "parts" / "bolts.yaml"
    text = f"path: {source}\ntrain: train.txt\nval: [val.txt, more.txt]\n"
    text += "names:\n  2: washer\n  0: nut\n  1: bolt\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    check(prepare("yolo", source=file, data_dir=data_dir), data_dir)


def test_paths_and_keys_as_windows_has_them(source, data_dir):
    lines = [rf".\images\train\{drawn.name}.jpg" for drawn in draw("train")]
    (source / "list.txt").write_text("\r\n".join(lines))
    (source / "data.yaml").write_text(
        f"Train: list.txt\nVal: images\\val\nnames: [{', '.join(NAMES)}]\n"
    )
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.splits == {"train": 16, "validation": 8}
    assert info.notes == {"validation": {"images, called 'Val' in the source": 8}}
    (source / "list.txt").write_text("\n".join([*lines, "", lines[2]]))
    fails(source, data_dir.with_name("b"), r"list.txt, line 18: the split 'train' has .* twice")
    (source / "list.txt").write_text("\n".join([*lines, "q.jpg"]))
    fails(source, data_dir.with_name("b"), r"list.txt, line 17: .*/q.jpg is listed but not there")


@pytest.mark.parametrize("form", ["{}", "..\\{}", "../{}"])
def test_folders_beside_the_file_and_a_root_as_windows_has_them(tmp_path, data_dir, form):
    source = write_yolo(tmp_path / "kit" / "bolts", "{}/images")
    (source / "data.yaml").unlink()
    places = "".join(f"{s}: {form.format(s)}\\images\n" for s in ("train", "val"))
    file = tmp_path / "kit" / "parts" / "data.yaml"
    file.parent.mkdir()
    file.write_text(f"Path: ..\\..\\kit\\bolts\n{places}Names: [{', '.join(NAMES)}]\n")
    check(prepare("yolo", source=file, data_dir=data_dir), data_dir)


def test_a_root_that_is_not_there_is_told(source, data_dir):
    with (source / "data.yaml").open("a") as file:
        file.write("path: ../datasets/bolts\n")
    info = prepare("yolo", source=source, data_dir=data_dir)
    note = "path that is not there, ../datasets/bolts, its own folder taken"
    assert info.notes == VAL | {"data.yaml": {note: 1}}


def test_names_stay_as_they_are_written(source, data_dir):
    (source / "data.yaml").write_text("names: [no, 1.10, 'on']\n")
    assert prepare("yolo", source=source, data_dir=data_dir).class_names == ("no", "1.10", "on")


def test_one_folder_without_splits_and_classes_txt(source, data_dir):
    for kind in ("images", "labels"):
        for path in (source / kind / "train").iterdir():
            path.rename(source / kind / path.name)
        (source / kind / "train").rmdir()
        for path in (source / kind / "val").iterdir():
            path.unlink()
        (source / kind / "val").rmdir()
    (source / "data.yaml").unlink()
    (source / "classes.txt").write_text("nut\nbolt\nwasher\n\n")
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.splits == {"train": 16} and info.class_names == NAMES


def label_of(source, name: str = "train_00"):
    return source / "labels" / "train" / f"{name}.txt"


def test_background_is_counted(source, data_dir):
    label_of(source, "train_03").unlink()
    label_of(source, "train_04").write_text("\n")
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.notes == VAL | {"train": {"images without a label file, taken as background": 1}}
    records = records_of(data_dir)
    assert len(records) == 16
    assert len(records["train_03.jpg"]["boxes"]) == len(records["train_04.jpg"]["boxes"]) == 0


def test_outlines_become_boxes_and_are_counted(source, data_dir):
    label_of(source).write_text("1 0.1 0.2 0.5 0.1 0.4 0.75 0.2 0.6\n2 0.5 0.5 0.25 0.5\n")
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.notes == VAL | {"train": {"outlines of objects taken as the boxes around them": 1}}
    record = records_of(data_dir)["train_00.jpg"]
    expected = [[0.1, 0.1, 0.5, 0.75], [0.375, 0.25, 0.625, 0.75]]
    np.testing.assert_allclose(record["boxes"], expected, atol=1e-6)
    assert record["labels"].tolist() == [2, 3]


def test_boxes_that_pass_the_edge(source, data_dir):
    """Rounding is cut off in silence, and more than a pixel is counted."""
    label_of(source, "train_00").write_text("0 0.2 0.5 0.401 1.0005\n")
    label_of(source, "train_01").write_text("0 1.004 0.5 0.4 0.4\n")
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.notes == VAL | {"train": {"boxes cut off at the edge of their image": 1}}
    records = records_of(data_dir)
    np.testing.assert_allclose(records["train_00.jpg"]["boxes"], [[0, 0, 0.4005, 1]], atol=1e-6)
    np.testing.assert_allclose(records["train_01.jpg"]["boxes"], [[0.804, 0.3, 1, 0.7]], atol=1e-6)


def test_the_exif_orientation_turns_the_image_the_boxes_are_for(source, data_dir):
    from PIL import Image

    path = source / "images" / "train" / "train_00.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(path, exif=exif)
    label_of(source).write_text("0 0.5 0.5 0.5 0.25\n")
    prepare("yolo", source=source, data_dir=data_dir)
    record = records_of(data_dir)["train_00.jpg"]
    assert record["boxes"].tolist() == [[0.25, 0.375, 0.75, 0.625]]
    assert record["area"].tolist() == [40 * 20 / 8]


LINES = {
    "four columns": ("1 0.5 0.5 0.1", "has 4 columns; a line is class x y width height"),
    "a score": ("1 0.5 0.5 0.1 0.1 0.9", "has 6 columns"),
    "an odd outline": ("1 0.1 0.1 0.5 0.5 0.7 0.2 0.3", "has 8 columns"),
    "no number": ("nut 0.5 0.5 0.1 0.1", "could not convert string to float: 'nut'"),
    "a number of Python alone": ("0 0.5 0.5 0_1 0.1", "could not convert string to float: .0_1"),
    "another class": ("3 0.5 0.5 0.1 0.1", "there is no class 3; the 3 classes are 0 to 2"),
    "a negative class": ("-1 0.5 0.5 0.1 0.1", "there is no class -1"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "there is no class 0.5"),
    "not finite": ("1 0.5 nan 0.1 0.1", "not finite: 1 0.5 nan 0.1 0.1"),
    "pixels": ("1 320 240 64 48", "320 is not from 0 to 1; .*not pixels"),
    "negative": ("1 0.5 -0.2 0.1 0.1", "-0.2 is not from 0 to 1"),
    "no width": ("1 0.5 0.5 0 0.1", "the box has no area"),
    "a negative height": ("1 0.5 0.5 0.1 -0.01", "the box has no area"),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_line_that_cannot_be_is_named(source, data_dir, fault):
    line, match = LINES[fault]
    label_of(source).write_text(f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    fails(source, data_dir, f"labels/train/train_00.txt, line 3.* ?{match}")


def test_corners_for_sizes_are_noticed(source, data_dir):
    for drawn in draw("train"):
        (x1, y1, x2, y2) = drawn.boxes[0] / SIZE
        label_of(source, drawn.name).write_text(f"0 {x1} {y1} {x2} {y2}\n")
    fails(source, data_dir, "of 16 boxes of the split 'train' reach beyond.*not two corners")


def test_labels_without_images_and_images_that_are_not_there(source, data_dir):
    (source / "images" / "train" / "train_05.jpg").unlink()
    match = "labels/train/train_05.txt is without an image, as are 0 more"
    fails(source, data_dir, f"{match}.*--skip-bad-images")
    listed = [f"images/train/{drawn.name}.jpg" for drawn in draw("train")]
    (source / "train.txt").write_text("\n".join(listed))
    lines = f"names: [{', '.join(NAMES)}]\ntrain: train.txt\nval: images/val\n"
    (source / "data.yaml").write_text(lines)
    fails(source, data_dir, "train_05.jpg is listed but not there, as are 0 more")
    (source / "train.txt").write_text(f"{listed[0]}\n\nimages/train\n")
    fails(source, data_dir, "train.txt, line 3: images/train is not called like an image")
    (source / "train.txt").write_text("\n".join(listed))
    info = prepare("yolo", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"train": 15, "validation": 8} and info.skipped == {"train": 1}


def test_labels_without_images_left_out_are_counted(source, data_dir):
    (source / "images" / "train" / "train_05.jpg").unlink()
    (source / "images" / "train" / "train_06.jpg").write_bytes(b"no image")
    info = prepare("yolo", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits["train"] == 14 and info.skipped == {"train": 1}
    assert info.notes == VAL | {"train": {"label files without an image left out": 1}}


def test_two_images_of_one_label_file(source, data_dir):
    picture = source / "images" / "train" / "train_00.png"
    picture.write_bytes(draw("val")[0].image)
    match = "train_00.jpg and .*train_00.png share the label file .*train_00.txt; keep one"
    fails(source, data_dir, match)
    label_of(source).unlink()  # then both show nothing
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.notes["train"] == {"images without a label file, taken as background": 2}


def test_a_damaged_image_is_named(source, data_dir):
    path = source / "images" / "train" / "train_00.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    fails(source, data_dir, "train_00.jpg: the file is damaged or was cut short")


def test_images_in_both_splits_are_counted(source, data_dir):
    lines = f"names: [{', '.join(NAMES)}]\ntrain: images/train\nval: [images/train]\n"
    (source / "data.yaml").write_text(lines)
    info = prepare("yolo", source=source, data_dir=data_dir)
    what = ("images that are in train, too", "images, called 'val' in the source")
    assert info.notes == {"validation": dict.fromkeys(what, 16)}


DESCRIPTIONS = {
    "no YAML": ("names: [a, b\n", "data.yaml is not YAML"),
    "a list": ("- a\n- b\n", "must hold keys and values"),
    "no names": ("train: images/train\n", "must have names"),
    "a count": ("nc: 4\nnames: [a, b, c]\n", "nc is not 3, the number of classes"),
    "a gap": ("names: {0: a, 2: b}\n", "names has 2 classes, but no class 1"),
    "a number twice": ("names: {0: a, 00: b, 1: c}\n", "names has 3 classes, but no class 2"),
    "a key twice": ("names: [a]\nnames: [b]\n", "keys from line 1 on, one stands there twice"),
    "capitals": ("names: [a]\nNames: [b]\n", "has both names and Names; keep one"),
    "no text": ('names: ["\\e[31ma", b, c]\n', r"class 0 has the name '\\x1b\[31ma'"),
    "poses": ("names: [a, b, c]\nkpt_shape: [17, 2]\n", "has kpt_shape: its labels are poses"),
    "words": ("names: {a: 0, b: 1}\n", "a class has no whole number"),
    "twice": ("names: [a, b, a]\n", "the classes 0 and 2 are both 'a'"),
    "empty": ("names: [a, '', c]\n", "class 1 has the name ''; a class needs a name"),
    "none": ("names: []\n", "names no classes"),
    "a folder": (
        "names: [a, b, c]\ntrain: images/trian\n",
        "names images/trian, but there is none",
    ),
    "a number": ("names: [a]\ntrain: {a: b}\n", "train must be a folder, a text file, or a list"),
    "two": (
        "names: [a, b, c]\nval: images/val\nvalid: images/train\n",
        "has both val and valid, which are the split 'validation'",
    ),
}


@pytest.mark.parametrize("fault", DESCRIPTIONS)
def test_descriptions_that_cannot_be(source, data_dir, fault):
    text, match = DESCRIPTIONS[fault]
    (source / "data.yaml").write_text(text)
    fails(source, data_dir, match)


def test_sources_that_are_not_in_the_layout(source, data_dir, tmp_path):
    fails(None, data_dir, "yolo needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", data_dir, "has neither data.yaml nor classes.txt")
    (tmp_path / "empty" / "classes.txt").write_text("nut\n")
    fails(tmp_path / "empty", data_dir, "has no folders of images")
    (source / "data.yaml").rename(source / "a.yaml")
    (source / "b.yml").write_text("")
    fails(source, data_dir, "has a.yaml, b.yml; give the one that counts")
    fails(source / "b.yml", data_dir, "b.yml must hold keys")
    (source / "b.yml").unlink()
    (source / "images" / "loose.jpg").write_bytes(draw("val")[0].image)
    fails(source, data_dir, "has images beside the folders of its splits")
    (source / "images" / "loose.jpg").unlink()
    (source / "labels").rename(source / "annotations")
    match = r"none of the \d+ images of the split '\w+' has a label file, such as .*labels/"
    fails(source, data_dir, match)


def test_real_images(shared_data, data_dir, tmp_path):
    """The boxes of COCO128, written as YOLO's, are those that `coco` stores."""
    info = prepare("coco", source=shared_data / "coco128", data_dir=data_dir)
    source = tmp_path / "source"
    (source / "labels").mkdir(parents=True)
    (source / "images").symlink_to(shared_data / "coco128" / "train2017")
    (source / "data.yaml").write_text(f"names: {list(info.class_names)}\n")
    records = records_of(data_dir, name="coco")
    for name, record in records.items():
        low, high = record["boxes"][:, :2], record["boxes"][:, 2:]
        rows = np.concatenate([(low + high) / 2, high - low], 1)
        rows = np.concatenate([record["labels"][:, None] - 1, rows], 1)
        np.savetxt(source / "labels" / re.sub("jpg$", "txt", name), rows, fmt="%.7g")
    prepare("yolo", source=source, data_dir=data_dir)
    stored = records_of(data_dir)
    assert set(stored) == set(records)
    for name, record in records.items():
        np.testing.assert_allclose(stored[name]["boxes"], record["boxes"], atol=1e-5)
        assert stored[name]["labels"].tolist() == record["labels"].tolist()
        height, width = decode_image(record["image"], name=name).shape[:2]
        sides = record["boxes"][:, 2:] - record["boxes"][:, :2]
        np.testing.assert_allclose(stored[name]["area"], sides.prod(1) * height * width, rtol=0.01)


def test_files_of_systems_links_and_capitals(source, data_dir):
    images, labels = source / "images", source / "labels"
    (images / "train").rename(source / "elsewhere")
    (images / "train").mkdir()
    (images / "train" / "camera").symlink_to(source / "elsewhere")
    (labels / "train").rename(source / "texts")
    (labels / "train").mkdir()
    (source / "texts").rename(labels / "train" / "camera")
    label = labels / "val" / "val_00.txt"
    label.rename(label.with_suffix(".TXT"))
    picture = draw("val")[0].image
    for hidden in (images / "__MACOSX", images / "val" / ".thumbs"):
        hidden.mkdir()
        (hidden / "val_00.jpg").write_bytes(picture)
    (images / "val" / "photo.heic").write_bytes(b"not read")
    info = prepare("yolo", source=source, data_dir=data_dir)
    assert info.splits == {"train": 16, "validation": 8}
    note = "files left out, not named like an image, such as .thumbs"
    assert info.notes == {"validation": VAL["validation"] | {note: 2}}
    assert len(records_of(data_dir, "validation")["val_00.jpg"]["boxes"]) == 1
