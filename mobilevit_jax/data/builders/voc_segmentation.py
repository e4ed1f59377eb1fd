"""PASCAL VOC's segmentation from its development kit, with the augmented list where there is one.

A source is `VOCdevkit`, or the folder of a year in it, such as `VOCdevkit/VOC2012`:

* `JPEGImages/<image>.jpg`;
* `SegmentationClass/<image>.png`, with `ImageSets/Segmentation/train.txt` and `val.txt`, which
  become the splits `train` and `validation`;
* for the split `train_aug`, `SegmentationClassAug/<image>.png`, and `trainaug.txt` or
  `train_aug.txt` in `ImageSets/Segmentation` or `list`: VOC's masks together with those of the
  Semantic Boundaries Dataset, in the form in which they are usually passed on, 10,582 images.

A line of a list is the name of an image, with or without an ending, or the path of an image and
that of its mask. An image may be in a folder of JPEGImages, and of any kind that is decoded.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.base.texts import read_bytes, read_lines
from mobilevit_jax.data.builders.base import Item
from mobilevit_jax.data.builders.segmentation import SegmentationBuilder
from mobilevit_jax.data.builders.voc_lists import label_of
from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.data.files import (
    inside_folder,
    list_images,
    printable,
    size_of,
    some_names,
    without_ending,
)
from mobilevit_jax.data.masks import decode_mask
from mobilevit_jax.data.voc_names import VOC_CLASSES, VOID
from mobilevit_jax.errors import DataError

LAYOUT = "VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}"
_IMAGES, _LISTS = "JPEGImages", "ImageSets/Segmentation"
_MASKS = {
    "train": "SegmentationClass",
    "validation": "SegmentationClass",
    "train_aug": "SegmentationClassAug",
}
_FILES = {
    "train": (f"{_LISTS}/train.txt",),
    "validation": (f"{_LISTS}/val.txt",),
    "train_aug": tuple(
        f"{folder}/{name}"
        for folder in (_LISTS, "list")
        for name in ("trainaug.txt", "train_aug.txt")
    ),
}


class _Pair(NamedTuple):
    name: str  # path in JPEGImages, without an ending
    image: Path
    mask: Path
    where: str  # the list and its line


class VocSegmentation(SegmentationBuilder, skip_registration=True):
    """Images of PASCAL VOC with masks of its 20 classes, background 0 and void 255."""

    name = "voc_segmentation"
    layout = LAYOUT

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that have a list."""
        return set(_lists(_find_root(source)))

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the pairs of image and mask of each split."""
        root = _find_root(self.folder)
        lists = _lists(root)
        if "train_aug" not in lists and (root / _MASKS["train_aug"]).is_dir():
            raise DataError(
                f"{root} has {_MASKS['train_aug']}, but no list of its images, "
                f"{_LISTS}/trainaug.txt"
            )
        if not lists:
            raise DataError(f"{root / _LISTS} has neither train.txt nor val.txt")
        images = _by_name(root / _IMAGES)
        pairs = {
            split: _read_list(path, root / _MASKS[split], images) for split, path in lists.items()
        }
        names = {split: {pair.name for pair in its_pairs} for split, its_pairs in pairs.items()}
        both = names.get("train_aug", set()) & names.get("validation", set())
        if both:
            raise DataError(
                f"{lists['train_aug']} lists {len(both)} images of val.txt, such as "
                f"{sorted(both)[0]}; take them out"
            )
        self._note_unlisted(root, pairs)
        return {split: self._items(split, its_pairs) for split, its_pairs in pairs.items()}

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image, whose bytes pass untouched, and its mask, and compares their sizes."""
        pair: _Pair = item.content
        names = {"image_name": str(pair.image), "mask_name": str(pair.mask)}
        mask = decode_mask(read_bytes(pair.mask), name=names["mask_name"])
        check_classes(mask, names["mask_name"])
        return self.pair(read_bytes(pair.image), mask, name=pair.name, **names)

    def _note_unlisted(self, root: Path, pairs: Mapping[str, list[_Pair]]) -> None:
        """Counts the masks whose name no list has; a folder may have those of other splits, too."""
        listed = {pair.mask.stem for its_pairs in pairs.values() for pair in its_pairs}
        for folder in sorted({root / _MASKS[split] for split in pairs}):
            masks = list_images(folder).images if folder.is_dir() else []
            left_out = [path for path in masks if path.stem not in listed]
            what = f"masks in no list left out, such as {some_names(left_out[:1], folder)}"
            self.notes[folder.name][what] = len(left_out)

    def _items(self, split: str, pairs: list[_Pair]) -> list[Item]:
        items, missing = [], []
        for pair in pairs:
            lacking = [path for path in (pair.image, pair.mask) if not path.is_file()]
            missing += [f"{pair.where}: {path}" for path in lacking[:1]]
            # Greyscale masks take some 5 kB.
            size = 0 if lacking else size_of(pair.image) + 5000
            items.append(Item(pair.name, size, pair))
        if missing and not self.skip_bad_images:
            raise DataError(
                f"{missing[0]} is missing, as are the files of {len(missing) - 1} more of the "
                f"{len(pairs)} images of {split}; complete them, or use --skip-bad-images"
            )
        return items


def check_classes(mask: np.ndarray, name: str) -> None:
    """Checks that a mask has no other values than VOC's classes and void.

    Raises:
        DataError: Names the file and the value.
    """
    counts = np.bincount(mask.ravel(), minlength=VOID + 1)
    others = np.flatnonzero(counts[len(VOC_CLASSES) : VOID]) + len(VOC_CLASSES)
    if len(others):
        raise DataError(
            f"{name} has the value {others[0]}; a mask holds the classes 0 to "
            f"{len(VOC_CLASSES) - 1} and {VOID} for void"
        )


def _find_root(source: Path) -> Path:
    years = _years(source)
    if not years:
        raise DataError(f"{source} has no {LAYOUT}")
    if len(years) > 1:
        raise DataError(
            f"{source} holds {', '.join(year.name for year in years)}; give the folder of one year "
            f"as the source, such as {years[-1]}"
        )
    return years[0]


def _years(source: Path) -> list[Path]:
    if (source / _LISTS).is_dir():
        return [source]
    return sorted(folder for folder in source.glob("VOC*") if (folder / _LISTS).is_dir())


def _lists(root: Path) -> dict[str, Path]:
    found = {}
    for split, names in _FILES.items():
        for path in (root / name for name in names):
            there = [p for p in sorted(path.parent.glob("*")) if p.name.lower() == path.name]
            if len(there) > 1:
                raise DataError(f"{there[0]} and {there[1]} differ in capitals alone; keep one")
            if there and split not in found:
                found[split] = there[0]
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """Returns the images in a folder by their paths in it, with and without their endings."""
    found: dict[str, Path] = {}
    whole: dict[str, Path] = {}
    # VOC's own kind last, so that it is taken where there are several of one name.
    images = list_images(folder).images
    for path in sorted(images, key=lambda path: path.suffix.lower() == ".jpg"):
        name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
        whole[name] = found[without_ending(name)] = path
    return found | whole


def _read_list(path: Path, masks: Path, images: dict[str, Path]) -> list[_Pair]:
    pairs: dict[str, _Pair] = {}
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path), 1)]
    lines = [(number, line) for number, line in lines if line]
    label = label_of([line for _, line in lines])
    for number, line in lines:
        readings = [
            _pair(image, mask, f"{path}, line {number}", masks, images)
            for image, mask in _readings(line, label)
        ]
        pair = next((pair for pair in readings if pair.image.is_file()), readings[-1])
        if pair.name in pairs:
            raise DataError(f"{path} lists {pair.name} twice, also in line {number}")
        pairs[pair.name] = pair
    if not pairs:
        raise DataError(f"{path} lists no images")
    return list(pairs.values())


def _pair(text: str, mask: str, where: str, masks: Path, images: dict[str, Path]) -> _Pair:
    folder = masks.parent / _IMAGES
    name = unicodedata.normalize("NFC", inside_folder(text, _IMAGES).lstrip("/"))
    stem = without_ending(name)
    image = images.get(name) or images.get(stem) or folder / f"{stem}.jpg"
    stem = without_ending(image.relative_to(folder).as_posix())
    names = (
        [inside_folder(mask, masks.name).lstrip("/")] if mask else [f"{stem}.png", f"{stem}.PNG"]
    )
    found = [masks / name for name in names if (masks / name).is_file()]
    return _Pair(printable(stem), image, found[0] if found else masks / names[0], where)


def _readings(line: str, label: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yields how a line may be read, as (image, mask or ""): names may have spaces in them."""
    yield line, ""
    for space in reversed(list(re.finditer(r"\s+", line))):
        image, rest = line[: space.start()], line[space.end() :]
        files = [word for word in rest.split() if word.lower().endswith(IMAGE_ENDINGS)]
        if len(files) == 1 and rest.endswith(files[0]):
            yield image, rest
    if labelled := label.fullmatch(line):
        yield labelled[1], ""
