"""PASCAL VOC's layout: splits, palette masks, the augmented list, and every fault of the files."""

import io
import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.masks import decode_mask, encode_mask, mask_class_names, to_segmentation
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.data.voc_names import class_names_voc, voc_palette
from mobilevit_jax.errors import ConfigurationError, DataError

LISTS = {"train": ["2007_000001", "2007_000002", "2007_000003"], "val": ["2008_000009"]}
SIZE = (24, 32)  # height, width


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def mask_of(seed: int, size=SIZE) -> np.ndarray:
    values = np.array([*range(21), 255], np.uint8)
    return np.random.default_rng(seed).choice(values, size)


def palette_png(mask: np.ndarray) -> bytes:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette(voc_palette().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def year(tmp_path):
    """A VOCdevkit/VOC2012 of four images."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name, stems in LISTS.items():
        text = "".join(f"{stem}\n" for stem in stems)
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text(text)
        for stem in stems:
            seed = int(stem[-1])
            (root / "JPEGImages" / f"{stem}.jpg").write_bytes(photo(seed))
            (root / "SegmentationClass" / f"{stem}.png").write_bytes(palette_png(mask_of(seed)))
    return root


def add_augmented(root, lines: list[str], name: str = "ImageSets/Segmentation/trainaug.txt"):
    """Writes a list, and images and greyscale masks 4 and 5, which it may name."""
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(lines))
    (root / "SegmentationClassAug").mkdir()
    for seed in (1, 4, 5):
        (root / "JPEGImages" / f"2007_00000{seed}.jpg").write_bytes(photo(seed))
        path = root / "SegmentationClassAug" / f"2007_00000{seed}.png"
        path.write_bytes(encode_mask(mask_of(seed)))


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare("voc_segmentation", source=source, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def check(data_dir, split: str, seeds: list[int]) -> None:
    opened = open_split("voc_segmentation", split, data_dir)
    records = [to_segmentation(r) for r in opened.records(range(len(opened)))]
    assert sorted(int(r["name"][-1]) for r in records) == seeds
    for record in records:
        seed = int(record["name"][-1])
        assert record["image"] == photo(seed)
        mask = decode_mask(record["mask"], name=record["name"])
        np.testing.assert_array_equal(mask, mask_of(seed))


@pytest.mark.parametrize("inner", [False, True])
def test_train_and_validation(year, data_dir, inner):
    info = prepare("voc_segmentation", source=year if inner else year.parent, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 1}
    assert info.class_names == class_names_voc() == mask_class_names(info)
    assert info.notes == {}
    check(data_dir, "train", [1, 2, 3])
    check(data_dir, "validation", [9])


@pytest.mark.parametrize("name", ["ImageSets/Segmentation/trainaug.txt", "list/train_aug.txt"])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_augmented_list(year, data_dir, name, pairs):
    stems = [f"2007_00000{seed}" for seed in (1, 4, 5)]
    line = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png" if pairs else "{0}"
    add_augmented(year, [line.format(stem) for stem in stems], name)
    info = prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 1, "train_aug": 3}
    check(data_dir, "train_aug", [1, 4, 5])


def test_the_augmented_list_comes_later(year, data_dir):
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert prepare("voc_segmentation", source=year, data_dir=data_dir).splits["train"] == 3
    add_augmented(year, ["2007_000004"])
    with pytest.raises(DataError, match="had no train_aug; remove that directory"):
        prepare("voc_segmentation", source=year, data_dir=data_dir)


def test_faults_of_the_augmented_list(year, data_dir):
    add_augmented(year, ["2007_000004", "2008_000009"])
    fails(year, data_dir, "trainaug.txt lists 1 images of val.txt, such as 2008_000009")
    (year / "ImageSets/Segmentation/trainaug.txt").write_text("2007_000002\n")
    fails(year, data_dir, "SegmentationClassAug/2007_000002.png is missing")
    (year / "ImageSets/Segmentation/trainaug.txt").unlink()
    fails(year, data_dir, "has SegmentationClassAug, but no list of its images")


def test_masks_that_do_not_fit(year, data_dir):
    path = year / "SegmentationClass" / "2007_000002.png"
    where = re.escape(str(path))
    path.write_bytes(palette_png(mask_of(2, (32, 24))))
    fails(year, data_dir, f"{where} is 24x32, but its image 2007_000002.jpg is 32x24")
    wrong = mask_of(2)
    wrong[3, 4] = 21
    path.write_bytes(palette_png(wrong))
    fails(year, data_dir, f"{where} has the value 21; .* 0 to 20 and 255 for void")
    path.write_bytes(cv2.imencode(".png", np.zeros((*SIZE, 3), np.uint8))[1].tobytes())
    fails(year, data_dir, f"{where}: colours .* instead of class indices")
    path.write_bytes(b"")
    fails(year, data_dir, f"{where}: the file is empty")
    info = prepare("voc_segmentation", source=year, data_dir=data_dir, skip_bad_images=True)
    assert info.splits["train"] == 2 and info.skipped == {"train": 1}
    metadata = json.loads((info.directory / "metadata.json").read_text())
    assert metadata["skipped"] == {"train": ["2007_000002"]}


def test_missing_files(year, data_dir):
    (year / "JPEGImages" / "2007_000001.jpg").unlink()
    (year / "SegmentationClass" / "2007_000003.png").unlink()
    fails(
        year,
        data_dir,
        "train.txt, line 1: .*/2007_000001.jpg is missing, as are the files of 1 more",
    )
    info = prepare("voc_segmentation", source=year, data_dir=data_dir, skip_bad_images=True)
    assert info.splits["train"] == 1 and info.skipped == {"train": 2}


def test_images_of_both_lists_are_counted(year, data_dir):
    add_augmented(year, ["2007_000001", "2007_000004"])
    with (year / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("2007_000003\n")
    info = prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 2, "train_aug": 2}
    assert info.notes == {
        "SegmentationClassAug": {"masks in no list left out, such as 2007_000005.png": 1},
        "validation": {"images that are in train, too": 1},
    }


def test_lists_in_capitals(year, data_dir):
    lists = year / "ImageSets/Segmentation"
    text = (lists / "train.txt").read_text()
    (lists / "train.txt").rename(lists / "Train.TXT")
    info = prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert info.splits == {"train": 3, "validation": 1}
    (lists / "train.txt").write_text(text)
    fails(year, data_dir.with_name("other"), "Train.TXT and .*train.txt differ in capitals alone")


def test_lists_that_cannot_be(year, data_dir):
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("2007_000001\n2007_000002\n2007_000001\n")
    fails(year, data_dir, "train.txt lists 2007_000001 twice, also in line 3")
    path.write_text("\n")
    fails(year, data_dir, "train.txt lists no images")
    path.unlink()
    (year / "ImageSets/Segmentation/val.txt").unlink()
    fails(year, data_dir, "has neither train.txt nor val.txt")


def rename(root, old: str, image: str, mask: str = "") -> None:
    """Renames the files of an image: to `image`, and its mask to that with .png or to `mask`."""
    mask = mask or image.rpartition(".")[0] + ".png"
    for folder, source, target in (
        ("JPEGImages", f"{old}.jpg", image),
        ("SegmentationClass", f"{old}.png", mask),
    ):
        (root / folder / target).parent.mkdir(exist_ok=True, parents=True)
        (root / folder / source).rename(root / folder / target)


def names_of(data_dir, split: str = "train") -> dict[str, int]:
    """Returns the number of every image by its name, told by its mask."""
    opened = open_split("voc_segmentation", split, data_dir)
    numbers = {mask_of(seed).tobytes(): seed for seed in range(10)}
    found = {}
    for record in opened.records(range(len(opened))):
        seed = numbers[decode_mask(record["mask"], name=record["name"]).tobytes()]
        assert record["image"] == photo(seed)
        found[record["name"]] = seed
    return found


@pytest.mark.parametrize(
    ("line", "image", "name"),
    [
        ("2021-01-26_18.14.07", "2021-01-26_18.14.07.jpg", "2021-01-26_18.14.07"),
        ("IMG_1_jpg.rf.0a1b2c", "IMG_1_jpg.rf.0a1b2c.jpg", "IMG_1_jpg.rf.0a1b2c"),
        ("shot.v2.jpg", "shot.v2.jpg", "shot.v2"),
        ("my shot", "my shot.jpg", "my shot"),
        ("my shot -1", "my shot.jpg", "my shot"),
        ("2007_000009  1", "2007_000009.jpg", "2007_000009"),
        ("2007_000009\t0", "2007_000009.jpg", "2007_000009"),
        ("site 1/a.b", "site 1/a.b.jpg", "site 1/a.b"),
        ("JPEGImages/site/a.jpg", "site/a.jpg", "site/a"),
        ("VOC2012\\JPEGImages\\a.jpg", "a.jpg", "a"),
        ("./a.jpeg", "a.jpeg", "a"),
        ("a", "a.png", "a"),
        ("a.jpg", "a.JPG", "a"),
        ("a.webp", "a.webp.jpg", "a.webp"),
        ("u\u0308ber", "\u00fcber.jpg", "\u00fcber"),
        ("\u00fcber", "u\u0308ber.jpg", "u\u0308ber"),
    ],
)
def test_names_in_a_list(year, data_dir, line, image, name):
    rename(year, "2007_000001", image)
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text(f"{line}\n2007_000002\n")
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {name: 1, "2007_000002": 2}


def test_a_list_with_a_label_in_each_line(year, data_dir):
    """As programs write it, with one space; names come first where there are such files."""
    rename(year, "2007_000002", "2007_000001 1.jpg")
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("2007_000001 1\n2007_000003 0\n")
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {"2007_000001 1": 2, "2007_000003": 3}


def test_masks_in_no_list_are_counted(year, data_dir):
    add_augmented(year, ["2007_000004"])
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("2007_000002\n2007_000003\n")
    info = prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert info.notes == {
        "SegmentationClass": {"masks in no list left out, such as 2007_000001.png": 1},
        "SegmentationClassAug": {"masks in no list left out, such as 2007_000001.png": 2},
    }


def test_names_that_begin_alike_are_not_taken_for_one_another(year, data_dir):
    for number, image in enumerate(("shot.jpg", "shot.v2.jpg", "shot.v2 b.jpg"), 1):
        rename(year, f"2007_00000{number}", image)
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("shot.v2\nshot\nshot.v2 b\n")
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {"shot": 1, "shot.v2": 2, "shot.v2 b": 3}


@pytest.mark.parametrize(
    "line", ["shot.v3", "shot b", "shot 1", "shot.v3.jpg", "site/shot", "shot/a"]
)
def test_a_missing_image_is_named_and_no_other_taken_for_it(year, data_dir, line):
    rename(year, "2007_000001", "shot.jpg")
    (year / "ImageSets/Segmentation/train.txt").write_text(f"{line}\n")
    fails(year, data_dir, f"JPEGImages/{line.removesuffix('.jpg')}.jpg is missing")


def test_masks_of_other_names_and_spaces_in_both(year, data_dir):
    rename(year, "2007_000001", "my shot.jpg", "my mask 1.png")
    rename(year, "2007_000002", "my.jpg", "other/b.png")
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text(
        "JPEGImages/my shot.jpg SegmentationClass/my mask 1.png\n"
        "/JPEGImages/my.jpg\tVOC2012/SegmentationClass/other/b.png\n"
    )
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {"my shot": 1, "my": 2}


def test_a_mask_with_its_ending_in_capitals(year, data_dir):
    rename(year, "2007_000001", "2007_000001.jpg", "2007_000001.PNG")
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {f"2007_00000{seed}": seed for seed in (1, 2, 3)}


def test_a_mask_that_the_list_names_is_not_replaced_by_another(year, data_dir):
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("JPEGImages/2007_000001.jpg SegmentationClass/2007_000001_b.png\n")
    fails(year, data_dir, "SegmentationClass/2007_000001_b.png is missing")


def test_the_encoding_of_a_list(year, data_dir):
    rename(year, "2007_000001", "k\u00fche.jpg")
    path = year / "ImageSets/Segmentation/train.txt"
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        path.write_text("2007_000002\nk\u00fche\n", encoding)
        fails(year, data_dir, r"train.txt is not text in UTF-8 \(see line [12]\); save it in that")
    path.write_bytes("k\u00fche\r\n2007_000002\r\n".encode("utf-8-sig"))
    prepare("voc_segmentation", source=year, data_dir=data_dir)
    assert names_of(data_dir) == {"k\u00fche": 1, "2007_000002": 2}


def test_masks_of_void_where_a_class_is_meant(year, data_dir):
    """Masks of 0 and 255, as most programs draw two classes."""
    binary = np.where(mask_of(9) > 10, 255, 0).astype(np.uint8)
    path = year / "SegmentationClass" / "2008_000009.png"
    path.write_bytes(encode_mask(binary))
    fails(
        year,
        data_dir,
        "no mask of the split 'validation' .*: their values are 0 and 255, but 0 is background "
        "and 255 is left out of training; give the pixels of a class its number, from 1",
    )
    binary[0, 0] = 1
    path.write_bytes(encode_mask(binary))
    prepare("voc_segmentation", source=year, data_dir=data_dir)


def test_sources_that_are_not_in_the_layout(year, data_dir, tmp_path):
    fails(None, data_dir, "voc_segmentation needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    fails(year / "JPEGImages", data_dir, "JPEGImages has no VOC2012/")
    (year.parent / "VOC2007" / "ImageSets/Segmentation").mkdir(parents=True)
    fails(year.parent, data_dir, "holds VOC2007, VOC2012; give the folder of one year")


def test_the_classes_of_masks_without_names(data_dir):
    prepare("shapes/tiny", data_dir=data_dir)
    info = dataset_info("shapes/tiny", data_dir)
    assert info.mask_names == () and info.class_names[0] == "circle"
    assert mask_class_names(info) == ("background", *info.class_names)
