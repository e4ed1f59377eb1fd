"""Splits that are drawn by the names of the examples, and folders of other names."""

import json
import shutil
import unicodedata

import pytest

from mobilevit_jax.data.builders.splits import draw
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.boxes_layout import NAMES as BOXES
from tests.data.boxes_layout import write_coco, write_voc, write_yolo
from tests.data.street_scenes import NAMES as STREET
from tests.data.street_scenes import write_streets
from tests.data.test_image_folder import write_folder
from tests.data.test_parquet import rows_of, write


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source", splits=("train", "test"), count=20)


def names_in(data_dir, split, dataset="image_folder"):
    opened = open_split(dataset, split, data_dir)
    return {record["name"] for record in opened.records(range(len(opened)))}


def fails(source, data_dir, share, match, kind: type[Exception] = DataError):
    with pytest.raises(kind, match=match) as caught:
        prepare("image_folder", source=source, data_dir=data_dir, validation_share=share)
    assert "\n" not in str(caught.value)
    assert not data_dir.exists() or list(data_dir.rglob("*")) == []


def test_the_draw_is_that_of_every_machine():
    names = [f"train/cat/{number}.jpg" for number in range(1000)]
    drawn = draw(names, 0.1)
    # If these change, everybody's validation images become training images.
    assert sorted(drawn)[:3] == ["train/cat/0.jpg", "train/cat/103.jpg", "train/cat/106.jpg"]
    assert 70 < len(drawn) < 130
    assert draw(names[::-1], 0.1) == drawn and drawn < draw(names, 0.2)
    assert draw([*names, "train/cat/x.jpg"], 0.1) - {"train/cat/x.jpg"} == drawn
    spelled = {unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")}
    assert len(spelled) == 2
    assert {len(draw(spelled, share / 20)) for share in range(1, 20)} == {0, 2}
    draw(["\udcff.jpg"], 0.5)  # a name that is not UTF-8


def test_training_images_become_validation_images(source, data_dir):
    info = prepare("image_folder", source=source, data_dir=data_dir, validation_share=0.2)
    train, drawn = names_in(data_dir, "train"), names_in(data_dir, "validation")
    everything = {f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(20)}
    assert train | drawn == everything and not train & drawn
    assert drawn == draw(everything, 0.2)
    assert info.splits == {"train": 40 - len(drawn), "validation": len(drawn), "test": 40}
    what = "of 40 images of train, drawn by --validation-share 0.2"
    assert info.notes == {"validation": {what: len(drawn)}}
    assert json.loads((info.directory / "metadata.json").read_text())["validation_share"] == 0.2
    assert prepare("image_folder", source=source, data_dir=data_dir, validation_share=0.2) == info


def test_another_share_is_another_data_set(source, data_dir):
    prepare("image_folder", source=source, data_dir=data_dir, validation_share=0.2)
    for share in (None, 0.1):
        with pytest.raises(DataError, match="already prepared with --validation-share 0.2; choose"):
            prepare("image_folder", source=source, data_dir=data_dir, validation_share=share)
    prepare("image_folder", source=source, data_dir=data_dir, name="plain")
    with pytest.raises(DataError, match="already prepared without --validation-share; choose"):
        prepare("image_folder", data_dir=data_dir, name="plain", validation_share=0.2)


def test_a_source_without_splits(source, data_dir):
    info = prepare("image_folder", source=source / "train", data_dir=data_dir, validation_share=0.3)
    assert set(info.splits) == {"train", "validation"} and sum(info.splits.values()) == 40
    assert info.class_names == ("cat", "dog")


def test_masks_without_splits(tmp_path, data_dir):
    source = write_streets(tmp_path / "streets", splits=("train",), count=12)
    for kind in ("images", "masks"):
        (source / "train" / kind).rename(source / kind)
    (source / "train").rmdir()
    with pytest.raises(DataError, match="images has no folders of splits.*--validation-share 0.1"):
        prepare("mask_folder", source=source, data_dir=data_dir)
    info = prepare("mask_folder", source=source, data_dir=data_dir, validation_share=0.3)
    drawn = names_in(data_dir, "validation", "mask_folder")
    assert drawn == draw((f"images/train_{i:03d}.png" for i in range(12)), 0.3)
    assert info.splits == {"train": 12 - len(drawn), "validation": len(drawn)}


@pytest.mark.parametrize("builder", ["yolo", "voc_detection", "parquet"])
def test_files_of_other_kinds(tmp_path, data_dir, builder):
    source = tmp_path / "source"
    if builder == "parquet":
        write(source / "train.parquet", rows_of(40))
    elif builder == "yolo":
        (write_yolo(source) / "data.yaml").write_text(
            f"train: images/train\nnames: {list(BOXES)}\n"
        )
    else:
        (write_voc(source) / "ImageSets" / "Main" / "val.txt").unlink()
    info = prepare(builder, source=source, data_dir=data_dir, validation_share=0.3)
    whole = 40 if builder == "parquet" else 16
    train, drawn = (names_in(data_dir, split, builder) for split in ("train", "validation"))
    assert not train & drawn and len(train | drawn) == whole
    assert info.splits == {"train": len(train), "validation": len(drawn)} and len(drawn) > 1


@pytest.mark.parametrize("folder", ["val", "valid", "dev", "Val", "VALIDATION"])
def test_other_names_of_validation_are_told(source, data_dir, folder):
    (source / "test").rename(source / folder)
    info = prepare("image_folder", source=source, data_dir=data_dir)
    assert info.splits == {"train": 40, "validation": 40}
    assert info.notes == {"validation": {f"images, called {folder!r} in the source": 40}}
    shutil.copytree(source / folder, source / "validation")
    other = data_dir.with_name("other")
    fails(source, other, None, f"has both ({folder}|validation) and ({folder}|validation), which")


@pytest.mark.parametrize("builder", ["yolo", "voc_detection", "coco", "parquet", "mask_folder"])
def test_classes_that_look_alike_are_told(tmp_path, data_dir, builder):
    """Every builder of a user's own classes says it, of each split."""
    source, names = tmp_path / "source", [*BOXES[:2], f"{BOXES[0].upper()}  "]
    if builder == "parquet":
        write(source / "train.parquet", rows_of(6), names=names)
    elif builder == "mask_folder":
        write_streets(source, ("train",), colors=False)
        (source / "classes.txt").write_text("\n".join([*STREET[:-1], STREET[0].upper()]))
    elif builder == "coco":
        path = write_coco(source) / "annotations" / "instances_train.json"
        path.write_text(path.read_text().replace(BOXES[2], names[2]))
        (source / "annotations" / "instances_val.json").unlink()
    elif builder == "yolo":
        (write_yolo(source) / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    else:
        write_voc(source)
        (source / "ImageSets" / "Main" / "val.txt").unlink()
        for path in (source / "Annotations").iterdir():
            path.write_text(path.read_text().replace(BOXES[2], names[2]))
    info = prepare(builder, source=source, data_dir=data_dir)
    notes = [note for note in info.notes["train"] if "look alike" in note]
    assert len(notes) == 1 and info.notes["train"][notes[0]] == 2
    assert STREET[0] in notes[0] if builder == "mask_folder" else BOXES[0] in notes[0]


def test_shares_that_cannot_be(source, data_dir):
    for share in (0, 1, -0.5, 1.5, float("nan")):
        fails(source, data_dir, share, "above 0 and below 1, such as 0.1; got", ConfigurationError)
    with pytest.raises(ConfigurationError, match="is drawn, not read: it takes no --validation-sh"):
        prepare("shapes/tiny", data_dir=data_dir, validation_share=0.5)
    fails(source, data_dir, 1e-6, "1e-06 of 40 images leaves none in the split 'validation'")
    fails(source, data_dir, 0.999999, "0.999999 of 40 images leaves none in the split 'train'")


def test_a_class_that_would_be_without_images(source, data_dir):
    for split in ("train", "test"):
        (source / split / "emu").mkdir()
        shutil.copy(source / split / "cat" / "0.png", source / split / "emu" / "0.png")
    fails(source, data_dir, 0.2, "leaves none of the class 'emu' in the split '(train|validation)'")


def test_nothing_to_draw_from(source, data_dir):
    (source / "train").rename(source / "valid")
    fails(source, data_dir, 0.2, "has a validation split .there are", ConfigurationError)
    shutil.rmtree(source / "valid")
    fails(source, data_dir, 0.2, "has no split 'train' .there are test.", ConfigurationError)


def test_images_that_another_split_shares(source, data_dir, monkeypatch):
    from mobilevit_jax.data.builders.image_folder import ImageFolder

    items = ImageFolder.items
    monkeypatch.setattr(
        ImageFolder, "items", lambda self: {**items(self), "train_aug": items(self)["train"]}
    )
    fails(source, data_dir, 0.2, "which another split of .* has as well", ConfigurationError)
