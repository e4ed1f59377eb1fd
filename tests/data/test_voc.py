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
    fails(year, data_dir, "2007_000001.jpg is missing, as are the files of 1 more of the 3 images")
    info = prepare("voc_segmentation", source=year, data_dir=data_dir, skip_bad_images=True)
    assert info.splits["train"] == 1 and info.skipped == {"train": 2}


def test_lists_that_cannot_be(year, data_dir):
    path = year / "ImageSets/Segmentation/train.txt"
    path.write_text("2007_000001\n2007_000002\n2007_000001\n")
    fails(year, data_dir, "train.txt lists 2007_000001 twice")
    path.write_text("\n")
    fails(year, data_dir, "train.txt lists no images")
    path.unlink()
    (year / "ImageSets/Segmentation/val.txt").unlink()
    fails(year, data_dir, "has neither train.txt nor val.txt")


def test_sources_that_are_not_in_the_layout(year, data_dir, tmp_path):
    fails(None, data_dir, "voc_segmentation needs --source", ConfigurationError)
    fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
    fails(year / "JPEGImages", data_dir, "JPEGImages has no VOC2012/")
    (year.parent / "VOC2007" / "ImageSets/Segmentation").mkdir(parents=True)
    fails(year.parent, data_dir, "holds VOC2007, VOC2012; give the folder of one year")


def test_the_classes_of_masks_without_names(data_dir):
    prepare("shapes/tiny", data_dir=data_dir)
    info = dataset_info("shapes/tiny", data_dir)
    assert mask_class_names(info) == ("background", *info.class_names)
