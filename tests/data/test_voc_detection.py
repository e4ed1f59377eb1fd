"""VOC's XML files: layouts, what is stored, and every fault that they may have."""

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.annotations import for_training, to_detection
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.data.voc_names import VOC_CLASSES
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.boxes_layout import NAMES, SIZE, draw, voc_xml, write_voc

FOUND = tuple(sorted(NAMES))
VAL = {"validation": {"images, called 'val' in the source": 8}}


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    return write_voc(tmp_path / "source")


def records_of(data_dir, split: str = "train"):
    opened = open_split("voc_detection", split, data_dir)
    stored = opened.records(range(len(opened)))
    return {r["name"]: to_detection(r, i) for i, r in enumerate(stored)}


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("voc_detection", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def check(info, data_dir, names=FOUND, notes=VAL) -> None:
    """Checks that what is stored is what was drawn."""
    assert info.splits == {"train": 16, "validation": 8}
    assert info.class_names == names and info.category_ids == (1, 2, 3)
    assert info.notes == notes and info.skipped == {}
    for split, drawn_as in (("train", "train"), ("validation", "val")):
        records = records_of(data_dir, split)
        for drawn in draw(drawn_as):
            record = records[f"{drawn.name}.jpg"]
            assert record["image"] == drawn.image
            np.testing.assert_allclose(record["boxes"] * SIZE, drawn.boxes, atol=1e-3)
            labels = [names.index(NAMES[label]) + 1 for label in drawn.labels]
            assert record["labels"].tolist() == labels
            sides = drawn.boxes[:, 2:] - drawn.boxes[:, :2]
            np.testing.assert_allclose(record["area"], sides.prod(1))
            assert not record["is_crowd"].any()
        assert len({record["image_id"] for record in records.values()}) == len(records)


@pytest.mark.parametrize("name", ["VOC2012", "mine"])
def test_the_folder_of_a_year(source, data_dir, name):
    lists = source / "ImageSets" / "Main"
    # As VOC has them: both splits in one list, and lists of what has a class.
    both = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    (lists / "trainval.txt").write_text(both)
    (lists / "nut_train.txt").write_text("train_00  1\ntrain_01 -1\ntrain_02  0\n")
    (source.parent / "VOCdevkit").mkdir()
    source.rename(source.parent / "VOCdevkit" / name)
    check(prepare("voc_detection", source=source.parent / "VOCdevkit", data_dir=data_dir), data_dir)


def test_folders_of_splits(source, data_dir):
    for split, named in (("train", "train"), ("val", "valid")):
        (source / named).mkdir()
        for kind in ("Annotations", "JPEGImages"):
            for path in (source / kind).glob(f"{split}_*"):
                path.rename(source / named / path.name)
    for folder in ("Annotations", "JPEGImages", "ImageSets"):
        (source / folder).rename(source.parent / folder)
    # Of a program that writes capitals, and a folder that has only images.
    path = source / "valid" / "val_00.xml"
    path.rename(path.with_suffix(".XML"))
    (source / "test").mkdir()
    (source / "test" / "a.jpg").write_bytes(draw("val")[0].image)
    (source / "loose.xml").write_text(voc_xml(draw("val")[0]))
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    notes = {
        "source": {"XML files in no folder of a split left out": 1},
        "test": {"images without an XML file left out": 1},
        "validation": {"images, called 'valid' in the source": 8},
    }
    check(info, data_dir, notes=notes)


@pytest.mark.parametrize("form", ["{0}/{1}", "{1}/{0}"])
def test_folders_of_other_programs(source, data_dir, form):
    """images/train and annotations/train, or train/images and train/annotations."""
    for kind, named in (("Annotations", "annotations"), ("JPEGImages", "images")):
        for split in ("train", "val"):
            folder = source.parent / "other" / form.format(named, split)
            folder.mkdir(parents=True)
            for path in (source / kind).glob(f"{split}_*"):
                path.rename(folder / path.name)
    info = prepare("voc_detection", source=source.parent / "other", data_dir=data_dir)
    check(info, data_dir)


def into_folders(source) -> None:
    """Moves the files into folders of the splits, and takes the lists away."""
    for split in ("train", "val"):
        for kind in ("Annotations", "JPEGImages"):
            (source / kind / split).mkdir()
            for path in (source / kind).glob(f"{split}_*"):
                path.rename(path.parent / split / path.name)
        (source / "ImageSets" / "Main" / f"{split}.txt").unlink()


def test_other_folders_beside_those_of_splits(source, data_dir):
    into_folders(source)
    for kind in ("Annotations", "JPEGImages"):
        (source / kind / "extra").mkdir()
        for path in sorted((source / kind / "val").iterdir())[:3]:
            path.rename(path.parent.with_name("extra") / path.name)
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 16, "validation": 5, "extra": 3}


def test_xml_files_beside_folders_of_splits(source, data_dir):
    into_folders(source)
    path = source / "Annotations" / "val" / "val_00.xml"
    path.rename(source / "Annotations" / path.name)
    match = "Annotations has folders of splits and 1 XML file beside them, such as val_00.xml; move"
    fails(source, data_dir, match)


def test_images_without_xml_are_counted_where_they_are(source, data_dir):
    into_folders(source)
    (source / "Annotations" / "val" / "val_00.xml").unlink()
    for place in ("other", "."):
        path = source / "JPEGImages" / place / "a.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(draw("val")[0].image)
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    what = "images without an XML file left out"
    called = {"images, called 'val' in the source": 7}
    assert info.notes == {"validation": {what: 1} | called, "JPEGImages": {what: 2}}


def test_loose_xml_files_beside_their_images(source, data_dir):
    for path in (source / "Annotations").iterdir():
        path.rename(source / path.name)
    (source / "Annotations").rmdir()
    (source / "JPEGImages").rename(source / "images")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 24} and info.notes == {}


def test_counts_of_one_name_are_added(source, data_dir):
    """The source is called like a split, and two of its folders are one."""
    folder = source.with_name("train")
    for kind in ("Annotations", "JPEGImages"):
        for path in (source / kind).iterdir():
            named = folder / path.name.partition("_")[0] / path.name
            named.parent.mkdir(parents=True, exist_ok=True)
            path.rename(named)
    (folder / "a.xml").touch()
    (folder / "validation").mkdir()
    for place in ("train", "val", "validation"):
        (folder / place / "a.jpg").write_bytes(draw("val")[0].image)
    info = prepare("voc_detection", source=folder, data_dir=data_dir)
    what = "images without an XML file left out"
    loose = {"XML files in no folder of a split left out": 1}
    called = {"images, called 'val' in the source": 8}
    assert info.notes == {"train": {what: 1} | loose, "validation": {what: 2} | called}


def test_what_stands_beside_the_folder_of_a_year(source, data_dir):
    kit = source.parent / "kit"
    for folder in ("coco/annotations", "other"):
        (kit / folder).mkdir(parents=True)
    (kit / "coco" / "annotations" / "instances_train.json").write_text("{}")
    (kit / "other" / "a.xml").write_text(voc_xml(draw("val")[0]))
    source.rename(kit / "VOC2012")
    notes = VAL | {"kit": {"XML files in other folders left out": 1}}
    check(prepare("voc_detection", source=kit, data_dir=data_dir), data_dir, notes=notes)


def test_annotations_of_another_kind_beside_folders_of_splits(source, data_dir):
    for kind in ("Annotations", "JPEGImages"):
        for path in (source / kind).iterdir():
            named = source.parent / "kit" / path.name.partition("_")[0] / path.name
            named.parent.mkdir(parents=True, exist_ok=True)
            path.rename(named)
    other = source.parent / "kit" / "coco" / "annotations"
    other.mkdir(parents=True)
    (other / "instances_train.json").write_text("{}")
    check(prepare("voc_detection", source=source.parent / "kit", data_dir=data_dir), data_dir)


def test_images_and_xml_files_alone(source, data_dir):
    for path in [*(source / "Annotations").iterdir(), *(source / "JPEGImages").iterdir()]:
        path.rename(source / path.name)
    for folder in ("Annotations", "JPEGImages"):
        (source / folder).rmdir()
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 24} and info.notes == {}


def test_classes_in_an_order_of_ones_own(source, data_dir):
    (source / "classes.txt").write_text("\n".join(NAMES))
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir, NAMES)


def test_the_20_classes_come_in_their_own_order(source, data_dir):
    """What is found is sorted, and so are VOC's classes."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox><part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
        "</object>"
        for name in reversed(VOC_CLASSES[1:])
    )
    for path in (source / "Annotations").iterdir():
        size = f"<size><width>{SIZE}</width><height>{SIZE}</height></size>"
        path.write_text(f"<annotation>{size}{objects}</annotation>")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.class_names == VOC_CLASSES[1:]
    assert len(records_of(data_dir)["train_00.jpg"]["boxes"]) == 20


def test_lists_in_capitals(source, data_dir):
    lists = source / "ImageSets" / "Main"
    text = (lists / "train.txt").read_text()
    (lists / "train.txt").rename(lists / "Train.TXT")
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir)
    (lists / "train.txt").write_text(text)
    match = "has both Train and train, which are the split 'train'"
    fails(source, data_dir.with_name("other"), match)


def test_without_lists_all_images_are_of_one_split(source, data_dir):
    for path in (source / "ImageSets" / "Main").iterdir():
        path.unlink()
    (source / "Annotations" / "val_00.xml").unlink()
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 23}
    assert info.notes == {"train": {"images without an XML file left out": 1}}


def test_files_in_no_list_are_counted(source, data_dir):
    path = source / "ImageSets" / "Main" / "val.txt"
    path.write_text("val_00.jpg\nval_01.jpg\ntrain_00.jpg\n")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 16, "validation": 3}
    assert info.notes == {
        "Annotations": {"XML files in no list left out": 6},
        "validation": {
            "images, called 'val' in the source": 3,
            "images that are in train, too": 1,
        },
    }


@pytest.mark.parametrize("place", [".", "ImageSets", "imagesets/main"])
@pytest.mark.parametrize("name", ["val", "Valid2012"])
def test_lists_in_other_places(source, data_dir, place, name):
    """Among other texts, where they stand beside the folders."""
    lists = source / "ImageSets" / "Main"
    lists.rename(source / "lists")
    (source / "ImageSets").rmdir()
    (source / place).mkdir(parents=True, exist_ok=True)
    for path in (source / "lists").iterdir():
        path.rename(source / place / path.name.replace("val", name))
    if place == ".":
        (source / "README.txt").write_text("no list")
    notes = {"validation": {f"images, called {name!r} in the source": 8}}
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir, notes=notes)


FORMS = (
    *("{} 1", "{}  -1", "JPEGImages/{}.jpg", r"JPEGImages\{}.jpg", "/d/Annotations/{}.xml"),
    "./JPEGImages/{0}.jpg ./Annotations/{0}.xml",
)


@pytest.mark.parametrize("form", FORMS)
def test_lists_with_labels_and_with_paths(source, data_dir, form):
    """Only lists of one class are passed over, not all that have a second column."""
    path = source / "ImageSets" / "Main" / "train.txt"
    path.write_text("\n".join(map(form.format, path.read_text().split())))
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir)


@pytest.mark.parametrize("form", ["./images/{0}.jpg ./annotations/{0}.xml", "{0}.xml {0}.jpg"])
def test_pairs_in_lists_beside_folders_of_other_capitals(source, data_dir, form):
    for split in ("train", "val"):
        path = source / "ImageSets" / "Main" / f"{split}.txt"
        (source / path.name).write_text("\n".join(map(form.format, path.read_text().split())))
        path.unlink()
    (source / "Annotations").rename(source / "annotations")
    (source / "JPEGImages").rename(source / "images")
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir)


PAIRS = (
    "./JPEGImages/train_00.jpg ./Annotations/train_01.xml",
    "JPEGImages/train_00.jpg Annotations/train_01.xml",
    "/d/Annotations/train_01.xml /d/JPEGImages/train_00.jpg",
    "./JPEGImages/train_00 ./Annotations/train_01",
)


@pytest.mark.parametrize("line", PAIRS)
def test_pairs_of_two_images(source, data_dir, line):
    (source / "ImageSets" / "Main" / "train.txt").write_text(f"train_02\n{line}\n")
    fails(source, data_dir, "train.txt, line 2: .*train_0.* and .*train_0.* are not of one image")


def test_paths_with_spaces(source, data_dir):
    for folder in ("Annotations", "JPEGImages"):
        for path in (source / folder).glob("train_0*"):
            path.rename(path.with_stem(f"photo {path.stem[-1]}"))
    lines = ("/my data/JPEGImages/photo 0.jpg", "photo 1.jpg photo 1.xml", "photo 2.xml")
    (source / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines))
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 8}


@pytest.mark.parametrize("lines", ["train_00  1\n", "train_00\ntrain_01 -1\ntrain_02  0\n"])
def test_labels_in_one_line_and_in_some(source, data_dir, lines):
    lists = source / "ImageSets" / "Main"
    (lists / "train.txt").write_text(lines)
    (lists / "nut_train.txt").write_text("train_00  1\n")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": lines.count("\n"), "validation": 8}


def test_names_that_end_like_a_label(source, data_dir):
    for folder in ("Annotations", "JPEGImages"):
        for path in (source / folder).glob("train_0*"):
            path.rename(path.with_stem(f"photo {path.stem[-1]}"))
    lists = source / "ImageSets" / "Main"
    (lists / "train.txt").write_text("photo 0\nphoto 1\n")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 2, "validation": 8}


def test_names_in_folders_and_in_other_forms_of_unicode(source, data_dir):
    for folder in ("Annotations", "JPEGImages"):
        (source / folder / "town").mkdir()
        for old, new in (("train_00", "town/1.v2"), ("train_01", "cafe\u0301")):
            (path,) = (source / folder).glob(f"{old}.*")
            path.rename(source / folder / (new + path.suffix))
    lists = source / "ImageSets" / "Main"
    (lists / "train.txt").write_text("town/1.v2\ncaf\xe9\n")
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.splits == {"train": 2, "validation": 8}
    assert sorted(records_of(data_dir)) == ["1.v2.jpg", "cafe\u0301.jpg"]


def test_tags_of_a_namespace_or_in_capitals(source, data_dir):
    path = annotation_of(source)
    text = path.read_text().replace("object>", "Object>").replace("bndbox>", "BndBox>")
    path.write_text(text.replace("<annotation>", '<annotation xmlns="http://a.b">'))
    path.rename(path.with_suffix(".XML"))
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir)


def test_difficult_objects_are_stored_like_crowds(source, data_dir):
    drawn = draw("train")[0]
    text = voc_xml(drawn, more="<difficult>1</difficult>")
    (source / "Annotations" / f"{drawn.name}.xml").write_text(text)
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    assert info.notes == VAL | {"train": {"difficult objects, ignored like COCO's crowds": 1}}
    record = records_of(data_dir)[f"{drawn.name}.jpg"]
    assert record["is_crowd"].tolist() == [True]
    assert len(for_training(record)[0]) == 0


def annotation_of(source, name: str = "train_00"):
    return source / "Annotations" / f"{name}.xml"


def with_box(source, xmin, ymin, xmax, ymax) -> None:
    """Puts a box into the first annotation."""
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    annotation_of(source).write_text(
        f"<annotation><size><width>{SIZE}</width><height>{SIZE}</height></size><object><name>nut"
        f"</name><bndbox>{corners}</bndbox></object></annotation>"
    )


@pytest.mark.parametrize(
    ("box", "stored", "cut"),
    [
        ((1, 1, 64, 64), (0, 0, 64, 64), False),
        ((5, 6, 5, 6), (4, 5, 5, 6), False),
        ((0, 0, 65, 65), (0, 0, 64, 64), False),
        ((60, 10, 80, 20), (59, 9, 64, 20), True),
        ((1.5, 2.5, 10.5, 20), (0.5, 1.5, 10.5, 20), False),
    ],
)
def test_pixels_count_from_one_and_the_last_is_inside(source, data_dir, box, stored, cut):
    with_box(source, *box)
    info = prepare("voc_detection", source=source, data_dir=data_dir)
    notes = {"train": {"boxes cut off at the edge of their image": 1}} if cut else {}
    assert info.notes == VAL | notes
    boxes = records_of(data_dir)["train_00.jpg"]["boxes"] * SIZE
    np.testing.assert_allclose(boxes, [stored], atol=1e-4)


BOXES = {
    "corners the wrong way": ((30, 10, 20, 20), "object 1, nut, has a bndbox that cannot be: 30"),
    "not finite": (("nan", 10, 20, 20), "object 1, nut, has a bndbox that cannot be: nan"),
    "no number": (("left", 10, 20, 20), "object 1, nut, has no bndbox of xmin, ymin"),
    "nothing": (("", 10, 20, 20), "object 1, nut, has no bndbox of xmin, ymin"),
    "outside": ((70, 10, 90, 20), "object 1, nut, lies outside its image"),
}


@pytest.mark.parametrize("fault", BOXES)
def test_a_box_that_cannot_be_is_named(source, data_dir, fault):
    box, match = BOXES[fault]
    with_box(source, *box)
    fails(source, data_dir, f"Annotations/train_00.xml: {match}")


TEXTS = {
    "cut": (
        "<annotation><object>",
        "train_00.xml is not XML, or damaged: no element found: line 1",
    ),
    "empty": ("", "train_00.xml is not XML, or damaged"),
    "another": ("<html></html>", "train_00.xml is not an annotation of VOC, but 'html'"),
    "no name": ("<annotation><object/></annotation>", "train_00.xml: object 1 has no name"),
    "difficult": (
        "<annotation><object><name>nut</name><difficult>yes</difficult></object></annotation>",
        "object 1, nut, has difficult 'yes', which must be 0 or 1",
    ),
    "two boxes": (
        "<annotation><object><name>nut</name><bndbox/><bndbox/></object></annotation>",
        "object 1, nut, has several bndbox",
    ),
    "size": (
        "<annotation><size><width>wide</width></size></annotation>",
        "has a size that is no number: .*wide",
    ),
    "size below 0": (
        "<annotation><size><width>-64</width><height>64</height></size></annotation>",
        "has a size that cannot be: .*-64",
    ),
    "two corners": (
        "<annotation><object><name>nut</name><bndbox><xmin>1</xmin><xmin>2</xmin></bndbox></object>"
        "</annotation>",
        "object 1, nut, has several bndbox or corners",
    ),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_files_that_cannot_be(source, data_dir, fault):
    text, match = TEXTS[fault]
    annotation_of(source).write_text(text)
    fails(source, data_dir, match)


def test_names_that_the_list_of_classes_lacks(source, data_dir):
    (source / "classes.txt").write_text("nut\nbolts\nwasher\n")
    match = r"object 1 is called 'bolt', which classes.txt does not list \(did you mean 'bolts'"
    fails(source, data_dir, match)
    (source / "classes.txt").write_text("nut\nbolt\nwash\xe9r\n")
    text = annotation_of(source, "train_02").read_text().replace("washer", "washe\u0301r")
    annotation_of(source, "train_02").write_text(text)
    fails(source, data_dir, "train_05.xml: object 1 is called 'washer'")
    (source / "classes.txt").write_text("nut\nnut\n")
    fails(source, data_dir, "the classes 0 and 1 are both 'nut'")


@pytest.mark.parametrize("size", [(0, 0), (0, SIZE), (f"{SIZE}.0", SIZE)])
def test_a_size_of_zero_is_that_of_the_image(source, data_dir, size):
    drawn = draw("train")[0]
    annotation_of(source).write_text(voc_xml(drawn, size=size))
    check(prepare("voc_detection", source=source, data_dir=data_dir), data_dir)


def test_a_size_that_is_not_the_images(source, data_dir):
    annotation_of(source).write_text(voc_xml(draw("train")[0], size=(SIZE, 2 * SIZE)))
    fails(source, data_dir, "train_00.jpg is 64x64, but its annotations are for 64x128")


def test_images_that_are_missing_or_several(source, data_dir):
    images = source / "JPEGImages"
    png = cv2.imencode(".png", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()
    (images / "train_00.png").write_bytes(png)
    fails(source, data_dir, "train_00.xml may be of train_00.jpg or train_00.png; keep one")
    (images / "train_00.jpg").unlink()
    (images / "train_01.jpg").unlink()
    fails(source, data_dir, "JPEGImages lacks 1 of the 16 images .* such as train_01.jpg")
    info = prepare("voc_detection", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"train": 15, "validation": 8} and info.skipped == {"train": 1}
    assert records_of(data_dir)["train_00.png"]["image"] == png


def test_sources_that_are_not_in_the_layout(source, data_dir, tmp_path):
    fails(None, data_dir, "voc_detection needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", data_dir, "empty has no XML files, in Annotations or beside it")
    lists = source / "ImageSets" / "Main"
    text = (lists / "val.txt").read_text()
    (lists / "val.txt").write_text(f"{text}val_00\n")
    fails(source, data_dir, "val.txt lists val_00 twice, in lines 1 and 9")
    (lists / "val.txt").write_text(f"{text}val_99\n")
    fails(source, data_dir, "val.txt, line 9: .*/val_99.xml is missing, as are those of 0 more of")
    (lists / "val.txt").write_text("\n")
    fails(source, data_dir, "val.txt lists no images")
    (source / "JPEGImages").rename(source / "pictures")
    fails(source, data_dir, "has Annotations, but no folder JPEGImages")
    (source / "pictures").rename(source / "JPEGImages")
    (tmp_path / "deep" / "kit").mkdir(parents=True)
    source.rename(tmp_path / "deep" / "kit" / "VOC2007")
    fails(tmp_path / "deep", data_dir, r"Annotations/train_00.xml is too deep in the source; give")
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / "kit" / year / "Annotations").mkdir(parents=True)
        (tmp_path / "kit" / year / "Annotations" / "a.xml").touch()
    fails(tmp_path / "kit", data_dir, "holds VOC2007, VOC2012; give the folder of one year")
