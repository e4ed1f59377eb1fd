"""Boxes in the XML files of PASCAL VOC, of its own 20 classes or of any others.

A source is `VOCdevkit`, the folder of a year in it, or any folder of the same form:

* `Annotations/<image>.xml` and `JPEGImages/<image>.jpg` (other endings, and `images`, will do);
* `ImageSets/Main/<split>.txt`, the names of the images of each split, or their paths; VOC's lists
  of a single class, `<class>_<split>.txt` with a second column, are passed over, and so is
  `trainval.txt` where it has no image that the other lists lack. Without lists, all images are the
  split `train`.

Or it has a folder for each split with images and XML files together. The classes are those that
`classes.txt` in the source lists, else all that are found, sorted, which is VOC's own order.

Boxes are in pixels counted from 1, with the last ones inside, as VOC's are. A difficult object is
stored like a crowd of COCO: it takes no part in training, and evaluation ignores what a detector
finds there.
"""

import itertools
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilevit_jax.base.texts import read_bytes, read_lines
from mobilevit_jax.data.builders.class_names import CLASSES, read_names
from mobilevit_jax.data.builders.coco import CLIPPED, OBJECT, Content, ObjectsBuilder, clip_box
from mobilevit_jax.data.builders.coco_files import ImageEntry, SplitFiles, locate
from mobilevit_jax.data.builders.splits import by_split
from mobilevit_jax.data.builders.voc_segmentation import inside_folder
from mobilevit_jax.data.decode import IMAGE_ENDINGS, read_image
from mobilevit_jax.data.files import without_ending
from mobilevit_jax.errors import DataError, nearest, shortened

LAYOUT = "VOC2012/{Annotations,JPEGImages,ImageSets/Main}, or <split>/ with images and XML files"
_DIFFICULT = "difficult objects, ignored like COCO's crowds"
_UNLISTED = "XML files in no list left out"
_UNMARKED = "images without an XML file left out"
_OF_CLASS = re.compile(r"(.*\S)\s+(-1|0|1)")  # whether an image has the class of the list
_LIST_OF_CLASS = re.compile(r".+_(train|val|trainval|test)")
_FAR = 1e9  # pixels
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Part(NamedTuple):
    """A split: its folders and the names of its XML files, without the ending."""

    files: SplitFiles
    stems: list[str]


class _Found(NamedTuple):
    """A source: its folder, its splits, and how many files of which kind are in none of them."""

    root: Path
    parts: dict[str, _Part]
    left_out: dict[str, dict[str, int]]


class _Object(NamedTuple):
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class _Marked(NamedTuple):
    """What an XML file says."""

    path: Path
    image: ImageEntry
    objects: list[_Object]


class VocDetection(ObjectsBuilder, skip_registration=True):
    """Images with the boxes of objects, from the XML files of PASCAL VOC."""

    name = "voc_detection"
    layout = LAYOUT

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that have a list or a folder."""
        return set(_find(source).parts)

    @cached_property
    def _content(self) -> Content:
        root, parts, left_out = _find(self.folder)
        read = {split: list(_read_part(part)) for split, part in parts.items()}
        everything = itertools.chain.from_iterable(read.values())
        found = sorted({thing.name for marked in everything for thing in marked.objects})
        names = read_names(root / CLASSES) if (root / CLASSES).is_file() else found
        if not names:
            raise DataError(f"{root} has no objects: none of its XML files names one")
        labels = {name: label for label, name in enumerate(names)}
        numbers, items = itertools.count(1), {}
        for place, counts in left_out.items():
            self.notes[place].update(counts)
        for split, marked in read.items():
            objects = [_objects(one, labels, numbers, self.notes[split]) for one in marked]
            images, files = [one.image for one in marked], parts[split].files
            items[split] = locate(images, objects, files, allow_missing=self.skip_bad_images)
        return dict(enumerate(names, 1)), items


def _find(source: Path) -> _Found:
    years = [year for year in sorted(source.glob("VOC*")) if (year / "Annotations").is_dir()]
    if (source / "Annotations").is_dir():
        years = [source]
    if len(years) > 1:
        raise DataError(
            f"{source} holds {', '.join(year.name for year in years)}; give the folder of one year "
            f"as the source, such as {years[-1]}"
        )
    if years:
        return _find_in_year(years[0])
    folders = [f for f in sorted(source.iterdir()) if f.is_dir() and any(f.glob("*.xml"))]
    if not folders:
        raise DataError(f"{source} has no Annotations and no XML files; it must hold {LAYOUT}")
    named = [(f.name, _Part(SplitFiles(f, f), sorted(_files(f, (".xml",))))) for f in folders]
    parts = by_split(named, source)
    return _Found(source, parts, {split: _unmarked(part) for split, part in parts.items()})


def _find_in_year(root: Path) -> _Found:
    annotations = root / "Annotations"
    images = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root / "images"
    if not images.is_dir():
        raise DataError(f"{root} has Annotations, but no folder JPEGImages")
    whole = _Part(SplitFiles(annotations, images), sorted(_files(annotations, (".xml",))))
    if not whole.stems:
        raise DataError(f"{annotations} has no XML files")
    present = set(whole.stems)
    parts = {}
    for split, (path, stems) in _lists(root, images, present).items():
        missing = [stem for stem in stems if stem not in present]
        if missing:
            raise DataError(
                f"{path}, line {stems[missing[0]]}: {annotations / missing[0]}.xml is missing, as "
                f"are those of {len(missing) - 1} more of its {len(stems)} images; complete them, "
                "or take them out of the list"
            )
        parts[split] = whole._replace(stems=list(stems))
    if not parts:
        return _Found(root, {"train": whole}, {"train": _unmarked(whole)})
    unlisted = present.difference(*(part.stems for part in parts.values()))
    return _Found(root, parts, {annotations.name: {_UNLISTED: len(unlisted)}})


def _unmarked(part: _Part) -> dict[str, int]:
    images = _files(part.files.images, IMAGE_ENDINGS)
    return {_UNMARKED: len(images.keys() - set(part.stems))}


def _files(folder: Path, endings: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns {name without its ending: names} of the files of a kind, without hidden ones."""
    files: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(endings) and not name.startswith("."):
            files.setdefault(Path(name).stem, []).append(name)
    return files


def _lists(root: Path, images: Path, present: set[str]) -> dict[str, tuple[Path, dict[str, int]]]:
    """Returns the list of each split, {name: line}; `present` are the names of the XML files."""
    folder, read = root / "ImageSets" / "Main", {}
    for path in sorted(folder.glob("*.[tT][xX][tT]")):
        lines = {n: line for n, line in enumerate(map(str.strip, read_lines(path)), 1) if line}
        of_class = lines and all(_OF_CLASS.fullmatch(line) for line in lines.values())
        if of_class and _LIST_OF_CLASS.fullmatch(path.stem):
            continue
        stems: dict[str, int] = {}
        for number, line in lines.items():
            stem = _stem_of(line, images.name, present)
            first = stems.setdefault(stem, number)
            if first != number:
                raise DataError(f"{path} lists {stem} twice, in lines {first} and {number}")
        if not stems:
            raise DataError(f"{path} lists no images; fill it or remove it")
        read[path] = stems
    both = {path for path in read if path.stem.lower() == "trainval"}
    others = {stem for path in read if path not in both for stem in read[path]}
    for path in both:
        if others.issuperset(read[path]):
            del read[path]  # "train+validation" names the same images
    return by_split(((path.stem, (path, stems)) for path, stems in read.items()), folder)


def _stem_of(line: str, images: str, present: set[str]) -> str:
    """Returns the name that a line of a list has, as a whole, else before a label."""
    label = _OF_CLASS.fullmatch(line)
    texts = [line, label[1]] if label else [line]
    stems = [without_ending(inside_folder(text, images)) for text in texts]
    return next((stem for stem in stems if stem in present), stems[0])


def _read_part(part: _Part) -> Iterator[_Marked]:
    """Yields what the XML files of a split say."""
    images = part.files.images
    stems = _files(images, IMAGE_ENDINGS)
    for number, stem in enumerate(part.stems, 1):
        path = part.files.annotations / f"{stem}.xml"
        root = _parse(path if path.exists() else path.with_name(f"{stem}.XML"))
        files = stems.get(stem, [f"{stem}.jpg"])
        if len(files) > 1:
            raise DataError(f"{path} may be of {' or '.join(files)}; keep one of these images")
        width, height = _size(root, images / files[0], path)
        entry = ImageEntry(number, files[0], width, height, [])
        yield _Marked(path, entry, list(_read(root, path)))


def _parse(path: Path) -> ET.Element:
    """Reads an XML file; its tags may be in capitals, or of a namespace."""
    data = read_bytes(path)
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path} is not XML, or damaged: {shortened(error)}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    if root.tag != "annotation":
        raise DataError(f"{path} is not an annotation of VOC, but {shortened(root.tag, 40)!r}")
    return root


def _size(root: ET.Element, image: Path, path: Path) -> tuple[int, int]:
    """Returns width and height as the file says, or those of the image where it does not."""
    texts = [root.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    try:
        width, height = (int(text) for text in texts)
    except ValueError as error:
        raise DataError(f"{path} has a size that is no number: {shortened(texts)}") from error
    if max(width, height) > _FAR:
        raise DataError(f"{path} has a size that cannot be: {shortened(texts)}")
    if min(width, height) > 0 or not image.exists():
        return max(width, 1), max(height, 1)
    height, width = read_image(image).shape[:2]
    return width, height


def _read(root: ET.Element, path: Path) -> Iterator[_Object]:
    """Yields the objects of an XML file; those within objects are parts, such as hands."""
    for place, element in enumerate(root.findall("object"), 1):
        name = " ".join(element.findtext("name", "").split())
        if not name:
            raise DataError(f"{path}: object {place} has no name")
        where = f"{path}: object {place}, {shortened(name, 40)},"
        difficult = element.findtext("difficult", "0").strip() or "0"
        if difficult not in ("0", "1"):
            raise DataError(
                f"{where} has difficult {shortened(difficult, 40)!r}, which must be 0 or 1"
            )
        if len(element.findall("bndbox")) > 1:
            raise DataError(f"{where} has several bndbox; make an object of each")
        texts = [element.findtext(f"bndbox/{corner}", "") for corner in _CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text) for text in texts)
        except ValueError as error:
            raise DataError(
                f"{where} has no bndbox of {', '.join(_CORNERS)}: {shortened(texts)}"
            ) from error
        far = not all(abs(value) < _FAR for value in (xmin, ymin, xmax, ymax))  # NaN is, too
        if far or xmax < xmin or ymax < ymin:
            raise DataError(f"{where} has a bndbox that cannot be: {shortened(', '.join(texts))}")
        yield _Object(name, (xmin, ymin, xmax, ymax), difficult == "1")


def _objects(
    marked: _Marked,
    labels: Mapping[str, int],
    numbers: Iterator[int],
    notes: Counter[str],
) -> np.ndarray:
    """Returns `OBJECT` [n], and adds to the notes of its split."""
    rows = []
    for place, (name, (xmin, ymin, xmax, ymax), difficult) in enumerate(marked.objects, 1):
        if name not in labels:
            raise DataError(
                f"{marked.path}: object {place} is called {shortened(name, 40)!r}, which {CLASSES} "
                f"does not list{nearest(name, labels)}"
            )
        width, height = xmax - xmin + 1, ymax - ymin + 1
        box, outside = clip_box(xmin - 1, ymin - 1, width, height, marked.image)
        if box[2] <= box[0] or box[3] <= box[1]:
            raise DataError(f"{marked.path}: object {place}, {name}, lies outside its image")
        notes[CLIPPED] += outside
        notes[_DIFFICULT] += difficult
        rows.append((next(numbers), width * height, box, labels[name], difficult))
    return np.array(rows, OBJECT)
