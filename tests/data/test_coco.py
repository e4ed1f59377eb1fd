"""COCO's layout: what is stored, and every fault that its files may have."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevit_jax.data.annotations import to_detection
from mobilevit_jax.data.coco_names import COCO_CATEGORIES, class_names_coco
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.coco_layout import annotation, content, encoded, write_split


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def records_of(data_dir, split: str = "train", name: str = "coco") -> dict[int, dict[str, Any]]:
    opened = open_split(name, split, data_dir)
    stored = opened.records(range(len(opened)))
    return {record["image/id"]: record for record in stored}


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("coco", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def changed(tmp_path, change) -> Path:
    """A source whose annotations `change` has edited."""
    source, what = write_split(tmp_path / "source", "train2017", content()), content()
    change(what)
    (source / "annotations" / "instances_train2017.json").write_text(json.dumps(what))
    return source


def with_box(box: list, **more):
    """A change: one more annotation, 1004, on the second image."""
    return lambda what: what["annotations"].append(annotation(1004, 11, 3, box, **more))


def test_what_is_stored(tmp_path, data_dir):
    source = write_split(tmp_path / "source", "train2017", content(10))
    write_split(source, "val2017", content(50))
    info = prepare("coco", source=source, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 3}
    assert info.class_names == class_names_coco()
    assert info.category_ids == tuple(COCO_CATEGORIES)
    assert info.notes == {"validation": {"images, called 'val2017' in the source": 3}}
    assert info.skipped == {}
    records = records_of(data_dir)
    assert sorted(records) == [10, 11, 12]
    record = records[10]
    assert record["image"] == encoded(10)
    assert record["name"] == record["image/filename"].decode() == "000000000010.jpg"
    objects = record["objects"]
    boxes = np.array([[0.1, 0.1, 0.6, 0.6], [0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(objects["bbox"], boxes, atol=1e-6)
    # 18 is the 17th category, as 12 is missing; 90 is the last.
    assert objects["label"].tolist() == [16, 79]
    assert [info.class_names[label] for label in objects["label"]] == ["dog", "toothbrush"]
    assert objects["area"].tolist() == [150, 7.25]
    assert objects["id"].tolist() == [1001, 1002]
    assert objects["is_crowd"].tolist() == [False, False]
    assert records[11]["objects"]["is_crowd"].tolist() == [True]
    assert records[12]["objects"]["bbox"].shape == (0, 4)
    assert sorted(records_of(data_dir, "validation")) == [50, 51, 52]


def test_other_categories_and_names(tmp_path, data_dir):
    what = content()
    what["categories"] = [{"id": 7, "name": "bolt"}, {"id": 3, "name": "nut"}]
    what["annotations"] = [annotation(1, 10, 7, [1, 2, 3, 4]), annotation(2, 10, 3, [1, 2, 3, 4])]
    source = write_split(tmp_path / "source", "parts", what)
    (source / "images").mkdir()
    (source / "parts").rename(source / "images" / "parts")
    info = prepare("coco", source=source, data_dir=data_dir, name="workshop")
    assert info.splits == {"parts": 3} and info.name == "workshop"
    assert info.class_names == ("nut", "bolt") and info.category_ids == (3, 7)
    assert records_of(data_dir, "parts", "workshop")[10]["objects"]["label"].tolist() == [1, 0]


def test_fields_that_may_be_missing(tmp_path, data_dir):
    def change(what):
        for entry in what["annotations"]:
            for key in ("id", "area", "iscrowd", "segmentation"):
                del entry[key]

    prepare("coco", source=changed(tmp_path, change), data_dir=data_dir)
    objects = records_of(data_dir)[10]["objects"]
    assert objects["area"].tolist() == [300, 1200]
    assert objects["is_crowd"].tolist() == [False, False]
    assert objects["id"].tolist() == [1, 2]


def test_annotations_of_a_folder_that_is_not_there(tmp_path, data_dir):
    source = write_split(tmp_path / "source", "val2017", content())
    (source / "annotations" / "instances_train2017.json").write_text("never read")
    assert prepare("coco", source=source, data_dir=data_dir).splits == {"validation": 3}
    # It comes later: the stored data set is not taken for the whole.
    write_split(source, "train2017", content(30))
    with pytest.raises(DataError, match="had no train; remove that directory"):
        prepare("coco", source=source, data_dir=data_dir)


@pytest.mark.parametrize(
    ("box", "stored"),
    [
        ([-6, -4, 16, 24], (0, 0, 20 / 30, 10 / 40)),
        ([30, 20, 100, 100], (20 / 30, 30 / 40, 1, 1)),
    ],
)
def test_boxes_are_cut_off_at_the_edge_and_counted(tmp_path, data_dir, box, stored):
    info = prepare("coco", source=changed(tmp_path, with_box(box)), data_dir=data_dir)
    assert info.notes == {"train": {"boxes cut off at the edge of their image": 1}}
    boxes = records_of(data_dir)[11]["objects"]["bbox"]
    np.testing.assert_allclose(boxes[1], stored, atol=1e-6)


def test_a_fraction_of_a_pixel_is_not_counted(tmp_path, data_dir):
    info = prepare(
        "coco", source=changed(tmp_path, with_box([20, 10, 20.4, 20])), data_dir=data_dir
    )
    assert info.notes == {}
    assert records_of(data_dir)[11]["objects"]["bbox"].max() == 1


@pytest.mark.parametrize("box", [[5, 5, 0, 10], [5, 5, 10, 0], [50, 5, 10, 10], [5, -20, 8, 20]])
def test_boxes_without_area_are_left_out_and_counted(tmp_path, data_dir, box):
    info = prepare("coco", source=changed(tmp_path, with_box(box)), data_dir=data_dir)
    assert info.notes == {"train": {"boxes without area left out": 1}}
    assert len(records_of(data_dir)[11]["objects"]["bbox"]) == 1


@pytest.mark.parametrize(
    ("box", "match"),
    [
        ([30, 20, -10, 5], "annotation 1004 has a box of negative size.*x, y, width, height"),
        ([3, 20, 10, -5], "annotation 1004 has a box of negative size"),
        ([3, math.nan, 10, 5], "annotation 1004 has a box that is not finite"),
        ([3, 4, math.inf, 5], "annotation 1004 has a box that is not finite"),
    ],
)
def test_a_box_that_cannot_be_is_named(tmp_path, data_dir, box, match):
    def change(what):
        what["annotations"].append(annotation(1004, 11, 3, [1, 1, 2, 2]) | {"bbox": box})

    fails(changed(tmp_path, change), data_dir, f"instances_train2017.json: .*{match}")


@pytest.mark.parametrize("box", [None, [1, 2, 3], 7, [1, 2, 3, "4"]])
def test_a_box_that_is_none(tmp_path, data_dir, box):
    def change(what):
        what["annotations"][1]["bbox"] = box

    fails(changed(tmp_path, change), data_dir, "annotation 1002 has no box of four numbers")


def test_shares_for_pixels_are_noticed(tmp_path, data_dir):
    def change(what):
        what["annotations"] = [annotation(i, 12, 3, [0.1, 0.2, 0.5, 0.5]) for i in range(8)]

    fails(changed(tmp_path, change), data_dir, "all 8 boxes lie within the first pixel")


@pytest.mark.parametrize("folder", ["valid", "dev", "Val"])
def test_other_names_of_validation(tmp_path, data_dir, folder):
    source = write_split(tmp_path / "source", folder, content())
    assert prepare("coco", source=source, data_dir=data_dir).splits == {"validation": 3}
    write_split(source, "val2017", content(50))
    fails(source, tmp_path / "other", "val2017.*, which are the split 'validation'; keep one")


def test_corners_for_sizes_are_noticed(tmp_path, data_dir):
    """(x1, y1, x2, y2) with x2 > x1: as sizes, most reach beyond the image."""

    def change(what):
        for index in range(10):
            box = [20 + index, 15, 30 + index, 25]
            what["annotations"].append(annotation(2000 + index, 12, 3, box))

    fails(changed(tmp_path, change), data_dir, "10 of 13 boxes reach beyond.*not two corners")


def _change(key: str, index: int, **change):
    return lambda what: what[key][index].update(change)


def _twice(key: str, index: int, **change):
    return lambda what: what[key].append(what[key][index] | change)


FAULTS = {
    "image id twice": (
        _twice("images", 0, file_name="other.jpg"),
        "image id 10 is given to two images",
    ),
    "file twice": (_twice("images", 0, id=99), "file 000000000010.jpg is listed twice"),
    "category id twice": (
        _twice("categories", 0, name="new"),
        "category 90 is listed twice, as 'toothbrush' and as 'new'; give each an id",
    ),
    "category name twice": (
        _twice("categories", 0, id=91),
        "categories 90 and 91 have the same name, 'toothbrush'; rename one",
    ),
    "a name of a thousand letters twice": (
        lambda what: what["categories"].extend({"id": i, "name": "x" * 1000} for i in (98, 99)),
        "categories 98 and 99 have the same name, 'x{59}; rename one",
    ),
    "category name twice but for space": (
        _twice("categories", 0, id=91, name=" toothbrush"),
        "categories 90 and 91 have the same name, 'toothbrush'",
    ),
    "annotation id twice": (
        _twice("annotations", 0, id="1001", image_id=11),
        "annotation 1001 is not the only one of its id; give each an id of its own",
    ),
    "missing image": (
        _twice("annotations", 0, id=5, image_id=77),
        "annotation 5 is of image 77, which is not listed",
    ),
    "missing category": (
        _twice("annotations", 0, id=5, category_id=12),
        "annotation 5 is of category 12, which is not listed",
    ),
    "area": (lambda what: what["annotations"][0].update(area=-2), "annotation 1001 .*area -2"),
    "area that is text": (_change("annotations", 0, area="2"), "annotation 1001 .*area '2'"),
    "huge area": (_change("annotations", 0, area=10**400), "annotation 1001 .*area 1000"),
    "huge box": (_change("annotations", 0, bbox=[0, 0, 10**400, 1]), "1001 has a box .* too large"),
    "crowd": (_change("annotations", 0, iscrowd=2), "annotation 1001 has the iscrowd 2"),
    "no width": (lambda what: what["images"][1].pop("width"), "image 11 has no width"),
    "no image": (lambda what: what["images"].append(7), r"images\[3\] is no object but 7"),
    "no image id": (lambda what: what["images"][1].pop("id"), r"images\[1\] has no id"),
    "no file": (lambda what: what["images"][1].pop("file_name"), "image 11 has no file_name"),
    "no annotation": (
        lambda what: what["annotations"].append([1]),
        r"annotations\[3\] is no object but \[1\]",
    ),
    "no category": (
        lambda what: what["annotations"][1].pop("category_id"),
        "annotation 1002 has no category_id; it must be a whole number",
    ),
    "no image of it": (
        lambda what: what["annotations"][1].pop("image_id"),
        "annotation 1002 has no image_id",
    ),
    "no name": (lambda what: what["categories"][0].pop("name"), "category 90 has no name"),
    "name of two lines": (
        _change("categories", 0, name="a\nb"),
        "category 90 has the name 'a.*nb'",
    ),
    "name without letters": (_change("categories", 0, name=" "), "category 90 has the name ' '"),
    "categories as an object": (
        lambda what: what.update(categories={"1": "dog"}),
        "has no list of categories",
    ),
    "size zero": (lambda what: what["images"][1].update(height=0), "image 11 has the size 40x0"),
    "no annotations": (lambda what: what.pop("annotations"), "no list of annotations"),
    "no categories": (lambda what: what.update(categories=[]), "lists no categories"),
    "nothing": (lambda what: what.update(images=[], annotations=[]), "lists no images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_annotations_that_cannot_be(tmp_path, data_dir, fault):
    change, match = FAULTS[fault]
    fails(changed(tmp_path, change), data_dir, f"instances_train2017.json.*{match}")


@pytest.mark.parametrize("value", [None, "", "wide", "40.5", [], True, 1e30, 2**63, math.nan])
@pytest.mark.parametrize(
    ("key", "field"), [("images", "width"), ("images", "id"), ("annotations", "image_id")]
)
def test_numbers_that_are_none(tmp_path, data_dir, key, field, value):
    source = changed(tmp_path, _change(key, 1, **{field: value}))
    where = {"width": "image 11", "id": r"image[s ].*", "image_id": "annotation 1002"}[field]
    shown = re.escape(str(value) if value != value else ascii(value))
    fails(source, data_dir, f"2017.json: {where} has the {field} {shown}; .* whole number")


@pytest.mark.parametrize("value", [None, "", 7, ["a.jpg"], "a\0.jpg", "\ud800.jpg"])
def test_file_names_that_are_none(tmp_path, data_dir, value):
    source = changed(tmp_path, _change("images", 1, file_name=value))
    fails(source, data_dir, "image 11 has the file_name .*; it must be text")


def _as_text(*places: tuple[str, str], form: Callable[[int], Any] = str):
    def change(what):
        for key, field in places:
            for entry in what[key]:
                entry[field] = form(entry[field])

    return change


IMAGE_IDS = (("images", "id"), ("annotations", "image_id"))
CATEGORY_IDS = (("categories", "id"), ("annotations", "category_id"))


@pytest.mark.parametrize(
    "places",
    [
        *([place] for place in (*IMAGE_IDS, *CATEGORY_IDS, ("annotations", "id"))),
        [*IMAGE_IDS, *CATEGORY_IDS],
        [("images", "width"), ("images", "height")],
    ],
)
@pytest.mark.parametrize("form", [str, float, "{:05}".format, " {}.0".format])
def test_numbers_as_text_are_numbers(tmp_path, data_dir, places, form):
    prepare("coco", source=changed(tmp_path, _as_text(*places, form=form)), data_dir=data_dir)
    records = records_of(data_dir)
    assert sorted(records) == [10, 11, 12]
    assert records[10]["objects"]["label"].tolist() == [16, 79]
    assert records[10]["objects"]["id"].tolist() == [1001, 1002]


def test_one_id_as_number_and_as_text(tmp_path, data_dir):
    change = _twice("images", 0, id="10", file_name="other.jpg")
    fails(changed(tmp_path, change), data_dir, "image id 10 is given to two images")


def test_the_encoding_of_a_file(tmp_path, data_dir):
    what = content()
    what["categories"][0]["name"] = "Zahnbürste"
    source = write_split(tmp_path / "source", "train2017", content())
    path = source / "annotations" / "instances_train2017.json"
    text = json.dumps(what, ensure_ascii=False, indent=0)
    path.write_text(text, "latin-1")
    fails(source, data_dir, r"instances_train2017.json is not text in UTF-8 \(see line \d+\)")
    path.write_text(text, "utf-16")
    fails(source, data_dir, "instances_train2017.json is not text in UTF-8")
    path.write_text("[" * 100_000)
    fails(source, data_dir, "instances_train2017.json: ")
    path.write_text(text, "utf-8-sig")
    assert "Zahnbürste" in prepare("coco", source=source, data_dir=data_dir).class_names


@pytest.mark.parametrize("builder", ["coco", "coco_segmentation"])
@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            '"image_id": 10',
            '"image_id": 11, "image_id": 10',
            "entry of id 1001 has the key 'image",
        ),
        ('"images"', '"categories": [], "images"', "has the key 'categories'"),
    ],
)
def test_keys_that_stand_there_twice(tmp_path, data_dir, builder, old, new, match):
    source = write_split(tmp_path / "source", "train2017", content())
    path = source / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=f"train2017.json.*{match}.*twice; keep one$"):
        prepare(builder, source=source, data_dir=data_dir)


@pytest.mark.parametrize("builder", ["coco", "coco_segmentation"])
def test_images_that_the_file_does_not_list_are_counted(tmp_path, data_dir, builder):
    source = write_split(tmp_path / "source", "train2017", content())
    (source / "train2017" / "more").mkdir()
    for name in ("more/1.png", "2.jpg"):
        (source / "train2017" / name).write_bytes(encoded(1))
    info = prepare(builder, source=source, data_dir=data_dir)
    note = "images left out, not listed in instances_train2017.json, such as 2.jpg"
    assert info.splits == {"train": 3} and info.notes == {"train": {note: 2}}


def test_splits_with_different_categories(tmp_path, data_dir):
    source = write_split(tmp_path / "source", "train2017", content())
    other = content()
    other["categories"][0]["name"] = "broom"
    write_split(source, "val2017", other)
    fails(source, data_dir, "val2017.json has other categories than .*train2017.json")


@pytest.mark.parametrize(
    "form", ["./{}", "train2017/{}", "/content/data/train2017/{}", r"data\train2017\{}"]
)
def test_names_of_files_with_folders(tmp_path, data_dir, form):
    def change(what):
        what["images"][0]["file_name"] = form.format(what["images"][0]["file_name"])

    info = prepare("coco", source=changed(tmp_path, change), data_dir=data_dir)
    assert info.splits == {"train": 3} and info.notes == {}
    assert records_of(data_dir)[10]["image"] == encoded(10)
    again = content()["images"][0] | {"id": 99}
    source = tmp_path / "source" / "annotations" / "instances_train2017.json"
    what = json.loads(source.read_text())
    source.write_text(json.dumps(what | {"images": [*what["images"], again]}))
    fails(
        tmp_path / "source",
        tmp_path / "other",
        "10.jpg is listed twice, as the images 10 and 99; keep one",
    )


@pytest.mark.parametrize("form", ["../{}", "/gone/{}", "../other/{}", r"..\{}", r"\gone\{}"])
def test_names_of_files_elsewhere(tmp_path, data_dir, form):
    """What is missing there is not looked for in the folder of the split."""

    def change(what):
        what["images"][0]["file_name"] = form.format(what["images"][0]["file_name"])

    fails(changed(tmp_path, change), data_dir, "lacks 1 of the 3 images .*10.jpg; complete")


def test_training_images_without_boxes(tmp_path, data_dir):
    """Neither crowds nor the boxes of an image that was left out are something to learn."""

    def change(what):
        what["annotations"] = what["annotations"][:1] + what["annotations"][2:]  # 1003 is a crowd

    source = changed(tmp_path, change)
    (source / "train2017" / "000000000010.jpg").write_bytes(b"")
    match = "none of the 2 images of the split 'train' of .*source has a box, those of crowds"
    fails(source, data_dir, match, skip_bad_images=True)
    (source / "train2017" / "000000000010.jpg").write_bytes(encoded(10))
    assert prepare("coco", source=source, data_dir=data_dir).splits == {"train": 3}


def test_other_splits_without_boxes(tmp_path, data_dir):
    source = write_split(tmp_path / "source", "train", content())
    write_split(source, "test", content(50) | {"annotations": []})
    info = prepare("coco", source=source, data_dir=data_dir)
    assert info.splits == {"train": 3, "test": 3}
    assert info.notes == {"test": {"images, none of which has a box to find": 3}}


def test_annotations_among_the_images(tmp_path, data_dir):
    """As Roboflow exports them; halves of splits are named."""
    source = tmp_path / "source"
    for stem, first in (("train", 10), ("valid", 50)):
        write_split(source, stem, content(first))
        path = source / "annotations" / f"instances_{stem}.json"
        path.rename(source / stem / "_annotations.coco.json")
    (source / "annotations" / "instances_val2017.json").write_text("{}")
    for name in ("test", ".ipynb_checkpoints"):
        (source / name).mkdir()
    hidden = source / ".ipynb_checkpoints" / "_annotations.coco.json"
    hidden.write_bytes((source / "train" / "_annotations.coco.json").read_bytes())
    info = prepare("coco", source=source, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 3}
    assert info.notes == {
        "source": {
            "annotations left out, without a folder of images: val2017": 1,
            "folders left out, without annotations: test": 1,
        },
        "validation": {"images, called 'valid' in the source": 3},
    }
    assert sorted(records_of(data_dir, "validation")) == [50, 51, 52]
    write_split(source, "train", content())
    match = "annotations/instances_train.json and .*/train/_annotations.coco.json are of one split"
    fails(source, tmp_path / "other", match)
    (source / "annotations" / "instances_train.json").unlink()
    (source / "valid").rename(source / "set-1")
    fails(source, tmp_path / "other", "/set-1/_annotations.coco.json: 'set-1' cannot be a split")


def test_files_that_are_missing_or_damaged(tmp_path, data_dir):
    source = write_split(tmp_path / "source", "train2017", content())
    (source / "train2017" / "000000000011.jpg").unlink()
    fails(source, data_dir, "lacks 1 of the 3 images.*such as 000000000011.jpg.*--skip-bad-images")
    (source / "train2017" / "000000000011.jpg").write_bytes(encoded(1)[:-40])
    fails(source, data_dir, "000000000011.jpg: the file is damaged or was cut short")
    (source / "train2017" / "000000000011.jpg").write_bytes(encoded(1, 30, 40))
    fails(
        source,
        data_dir,
        "11.jpg is 30x40, but its annotations are for 40x30; either .*EXIF",
    )
    (source / "train2017" / "000000000012.jpg").unlink()
    info = prepare("coco", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"train": 1} and info.skipped == {"train": 2}
    metadata = json.loads((info.directory / "metadata.json").read_text())
    assert metadata["skipped"]["train"] == [f"train2017/{i:012}.jpg" for i in (11, 12)]


def test_sources_that_are_not_in_the_layout(tmp_path, data_dir):
    fails(None, data_dir, "coco needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", data_dir, r"has no instances_\*.json")
    source = write_split(tmp_path / "source", "train2017", content())
    (source / "train2017").rename(source / "pictures")
    fails(source, data_dir, "annotations of train2017, but no folder of images")
    (source / "pictures").rename(source / "train2017")
    write_split(source, "train2014", content())
    fails(source, data_dir, "both train2014 and train2017, which are the split 'train'")
    other = write_split(tmp_path / "other", "fold-1", content())
    fails(other, data_dir, "annotations/instances_fold-1.json: 'fold-1' cannot be a split")
    (other / "annotations" / "instances_fold-1.json").write_text("{")
    (other / "annotations" / "instances_fold-1.json").rename(
        other / "annotations" / "instances_fold.json"
    )
    (other / "fold-1").rename(other / "fold")
    fails(other, data_dir, "instances_fold.json")
    (other / "annotations" / "instances_fold.json").write_text("[]")
    fails(other, data_dir, "instances_fold.json is not a file of COCO's annotations")


def test_real_images(shared_data, data_dir):
    source = shared_data / "coco128"
    info = prepare("coco", source=source, data_dir=data_dir)
    assert info.splits == {"train": 128} and info.notes == {}
    truth = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    split = open_split("coco", "train", data_dir)
    stored = [to_detection(r, i) for i, r in enumerate(split.records(range(len(split))))]
    assert sum(len(r["boxes"]) for r in stored) == len(truth["annotations"]) == 939
    sizes = {image["id"]: image for image in truth["images"]}
    by_image: dict[int, list] = {}
    for entry in truth["annotations"]:
        by_image.setdefault(entry["image_id"], []).append(entry)
    for record in stored:
        image = sizes[record["image_id"]]
        assert re.sub(r"^0+", "", record["name"]) == f"{record['image_id']}.jpg"
        scale = np.array([image["width"], image["height"]] * 2)
        entries = by_image.get(record["image_id"], [])
        boxes = np.array([e["bbox"] for e in entries]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(record["boxes"] * scale, boxes, atol=0.02)
        ids = [info.category_ids[label - 1] for label in record["labels"]]
        assert ids == [e["category_id"] for e in entries]
        assert record["is_crowd"].tolist() == [bool(e["iscrowd"]) for e in entries]
        np.testing.assert_allclose(record["area"], [e["area"] for e in entries], rtol=1e-6)
