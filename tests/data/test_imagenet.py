"""ImageNet from small archives of the official layout and names."""

import io
import tarfile
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mobilevit_jax.data.builders.imagenet import (
    DEVKIT_TAR,
    TRAIN_TAR,
    VALIDATION_TAR,
    VALIDATION_WNIDS,
    as_plain_jpeg,
)
from mobilevit_jax.data.imagenet_names import imagenet_classes
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import class_names_imagenet, open_split
from mobilevit_jax.errors import DataError

WNIDS = ("n01440764", "n01443537", "n15075141")
INDICES = (0, 1, 999)
CMYK_NAME = "n01440764_7.JPEG"
PNG_NAME = "n01443537_8.JPEG"
# As in the development kit, whose numbers are not the sorted order.
DEVKIT_NUMBERS = {"n01440764": 449, "n01443537": 3, "n15075141": 1000}
VALIDATION_CLASSES = ("n15075141", "n01440764", "n01440764", "n01443537")


def pixels(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(coarse, (40, 32), interpolation=cv2.INTER_LINEAR)


def image_bytes(seed: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: Literal["w:", "w:gz"] = "w:") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def train_tar() -> bytes:
    classes = {}
    for index, wnid in enumerate(WNIDS):
        files = {f"{wnid}_{i}.JPEG": image_bytes(10 * index + i) for i in range(3)}
        if wnid in CMYK_NAME:
            files[CMYK_NAME] = image_bytes(70, mode="CMYK")
        if wnid in PNG_NAME:
            files[PNG_NAME] = image_bytes(80, "PNG")
        classes[f"{wnid}.tar"] = tar_of(files)
    return tar_of(classes)


def validation_tar() -> bytes:
    count = len(VALIDATION_CLASSES)
    return tar_of(
        {f"ILSVRC2012_val_{i:08d}.JPEG": image_bytes(100 + i) for i in range(1, count + 1)}
    )


def devkit_tar() -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    rows = [(number, wnid, "words") for wnid, number in DEVKIT_NUMBERS.items()]
    table = io.BytesIO()
    savemat(table, {"synsets": np.array(rows, fields).reshape(-1, 1)})
    truth = "".join(f"{DEVKIT_NUMBERS[wnid]}\n" for wnid in VALIDATION_CLASSES)
    root = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{root}/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        f"{root}/meta.mat": table.getvalue(),
    }
    return tar_of(files, "w:gz")


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "archives"
    directory.mkdir()
    (directory / TRAIN_TAR).write_bytes(train_tar())
    (directory / VALIDATION_TAR).write_bytes(validation_tar())
    (directory / DEVKIT_TAR).write_bytes(devkit_tar())
    return directory


def records(split: str, data_dir) -> dict:
    opened = open_split("imagenet", split, data_dir)
    return {record["name"]: record for record in opened.records(range(len(opened)))}


def fails(source, data_dir, match: str, **options) -> None:
    with pytest.raises(DataError, match=match):
        prepare("imagenet", source=source, data_dir=data_dir, **options)
    assert not data_dir.exists() or not list(data_dir.rglob("*"))


def test_the_class_table():
    classes = imagenet_classes()
    assert len(classes) == len(class_names_imagenet()) == 1000
    assert list(classes) == sorted(classes)
    assert classes["n01440764"] == class_names_imagenet()[0] == "tench"
    assert classes["n15075141"] == class_names_imagenet()[999]


def test_both_splits(source, tmp_path):
    info = prepare("imagenet", source=source, data_dir=tmp_path / "data")
    assert info.splits == {"train": 11, "validation": 4}
    assert info.class_names == class_names_imagenet()
    train = records("train", tmp_path / "data")
    for index, wnid in zip(INDICES, WNIDS, strict=True):
        for i in range(3):
            assert train[f"{wnid}_{i}.JPEG"]["label"] == index
    # Plain JPEG files pass byte for byte.
    assert train["n01443537_2.JPEG"]["image"] == image_bytes(12)
    validation = records("validation", tmp_path / "data")
    labels = [validation[f"ILSVRC2012_val_{i:08d}.JPEG"]["label"] for i in range(1, 5)]
    assert labels == [999, 0, 0, 1]


def test_the_odd_files_become_rgb_jpeg(source, tmp_path):
    prepare("imagenet", source=source, data_dir=tmp_path / "data")
    train = records("train", tmp_path / "data")
    for name, seed in ((CMYK_NAME, 70), (PNG_NAME, 80)):
        with Image.open(io.BytesIO(train[name]["image"])) as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            difference = np.abs(np.asarray(image).astype(int) - pixels(seed))
        assert difference.mean() < 4


def test_greyscale_and_rgb_jpeg_are_left_alone():
    for data in (image_bytes(1), image_bytes(1, mode="L")):
        assert as_plain_jpeg(data, name="x") is data


def test_wnids_instead_of_the_development_kit(source, tmp_path):
    (source / DEVKIT_TAR).unlink()
    fails(source, tmp_path / "data", "not the classes of its images: add ILSVRC2012_devkit")
    (source / VALIDATION_WNIDS).write_text("\n".join(VALIDATION_CLASSES))
    prepare("imagenet", source=source, data_dir=tmp_path / "data")
    validation = records("validation", tmp_path / "data")
    assert validation["ILSVRC2012_val_00000004.JPEG"]["label"] == 1
    (source / VALIDATION_WNIDS).write_text("\n".join(VALIDATION_CLASSES), "utf-8-sig")
    prepare("imagenet", source=source, data_dir=tmp_path / "marked")
    (source / VALIDATION_WNIDS).write_text("n01440764 # caf\u00e9", "latin-1")
    fails(source, tmp_path / "other", "val_wnids.txt is not text in UTF-8 .see line 1.")
    (source / VALIDATION_WNIDS).write_text("n00000000")
    fails(source, tmp_path / "other", "'n00000000' is not one of the 1000 classes")


def test_one_archive_makes_one_split_and_a_second_one_is_not_overlooked(source, tmp_path):
    train = (source / TRAIN_TAR).read_bytes()
    (source / TRAIN_TAR).unlink()
    info = prepare("imagenet", source=source, data_dir=tmp_path / "data")
    assert info.splits == {"validation": 4}
    (source / TRAIN_TAR).write_bytes(train)
    with pytest.raises(DataError, match="prepared when .* had no train; remove"):
        prepare("imagenet", source=source, data_dir=tmp_path / "data")


def test_no_archives(tmp_path):
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", tmp_path / "data", f"has no {TRAIN_TAR} or {VALIDATION_TAR}")


@pytest.mark.parametrize("name", [TRAIN_TAR, VALIDATION_TAR, DEVKIT_TAR])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_an_archive_cut_short_is_named(source, tmp_path, name, share):
    data = (source / name).read_bytes()
    (source / name).write_bytes(data[: int(share * len(data))])
    fails(source, tmp_path / "data", name)


@pytest.mark.parametrize("name", [TRAIN_TAR, VALIDATION_TAR])
def test_a_cut_between_two_files_is_noticed(source, tmp_path, name):
    """Readers of tars take the end of the file for the end of the archive."""
    with tarfile.open(source / name) as tar:
        second = tar.getmembers()[1]
    data = (source / name).read_bytes()
    (source / name).write_bytes(data[: second.offset])
    with tarfile.open(source / name) as tar:
        assert len(tar.getmembers()) == 1
    fails(source, tmp_path / "data", f"{name} was cut short")


def test_a_class_tar_cut_short_inside_a_whole_tar(source, tmp_path):
    files = tar_of({"n01440764_1.JPEG": image_bytes(1)})
    (source / TRAIN_TAR).write_bytes(tar_of({"n01440764.tar": files[:700]}))
    fails(source, tmp_path / "data", f"{TRAIN_TAR} was cut short")


def test_what_is_not_imagenet(source, tmp_path):
    (source / TRAIN_TAR).write_bytes(tar_of({"n00000001.tar": tar_of({"a.JPEG": b"x"})}))
    fails(source, tmp_path / "data", "n00000001.tar is not the tar of one of the 1000 classes")
    (source / TRAIN_TAR).write_bytes(b"\1" * 4096 + b"\0" * 1024)
    fails(source, tmp_path / "data", f"{TRAIN_TAR} is not a tar")
    (source / VALIDATION_TAR).write_bytes(tar_of({"cat.JPEG": image_bytes(1)}))
    fails(source, tmp_path / "data", "cat.JPEG is not named ILSVRC2012_val")


def test_a_bad_image_is_named_or_skipped(source, tmp_path):
    files = {"n01440764_1.JPEG": image_bytes(1), "n01440764_2.JPEG": image_bytes(2)[:-30]}
    (source / TRAIN_TAR).write_bytes(tar_of({"n01440764.tar": tar_of(files)}))
    fails(source, tmp_path / "data", f"n01440764_2.JPEG in .*{TRAIN_TAR}")
    info = prepare("imagenet", source=source, data_dir=tmp_path / "data", skip_bad_images=True)
    assert info.splits == {"train": 1, "validation": 4}
    assert info.skipped == {"train": 1}
