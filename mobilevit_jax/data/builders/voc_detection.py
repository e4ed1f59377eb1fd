"""Boxes in the XML files of PASCAL VOC, of its own 20 classes or of any others.

A source is `VOCdevkit`, the folder of a year in it, or any folder of the same form:

* `Annotations/<image>.xml` and `JPEGImages/<image>.jpg`, or `images/<image>.png` and the like, also
  in folders of these;
* `ImageSets/Main/<split>.txt`, the names of the images of each split, or their paths; VOC's lists
  of a single class, `<class>_<split>.txt` with a second column, are passed over, and so is
  `trainval.txt` where it has no image that the other lists lack. The lists may stand in
  `ImageSets`, or be `train.txt` and the like beside the folders. Without lists the folders in
  `Annotations` are the splits where one is called like a split, else all images are `train`.

Or it has a folder for each split with images and XML files, or these alone. The classes are those
that `classes.txt` in the source lists, else all that are found, sorted, which is VOC's own order.

Boxes are in pixels counted from 1, with the last ones inside, as VOC's are. A difficult object is
stored like a crowd of COCO: it takes no part in training, and evaluation ignores what a detector
finds there.
"""

import itertools
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilevit_jax.base.texts import read_bytes, to_number
from mobilevit_jax.data.builders.class_names import CLASSES, class_name, read_names
from mobilevit_jax.data.builders.coco import CLIPPED, OBJECT, Content, ObjectsBuilder, clip_box
from mobilevit_jax.data.builders.coco_files import ImageEntry, locate
from mobilevit_jax.data.builders.coco_layout import SplitFiles
from mobilevit_jax.data.builders.splits import Splits, by_split, split_name, usual_split
from mobilevit_jax.data.builders.voc_lists import read_lists
from mobilevit_jax.data.decode import IMAGE_ENDINGS, read_image
from mobilevit_jax.data.files import find_folder, is_hidden, list_images
from mobilevit_jax.errors import DataError, count, nearest, shortened

LAYOUT = "VOC2012/{Annotations,JPEGImages,ImageSets/Main}, or <split>/ with images and XML files"
_DIFFICULT = "difficult objects, ignored like COCO's crowds"
_UNLISTED = "XML files in no list left out"
_LOOSE = "XML files in no folder of a split left out"
_UNMARKED = "images without an XML file left out"
_ELSEWHERE = "XML files in other folders left out"
_FAR = 1e9  # pixels
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CORNERS_IN = tuple(f"bndbox/{corner}" for corner in _CORNERS)


class _Part(NamedTuple):
    """A split: its folders, and its XML files by the names of their images without an ending."""

    files: SplitFiles
    marked: dict[str, Path]


_LeftOut = tuple[str, str, int]  # a split or folder, which kind of files, how many


class _Found(NamedTuple):
    """A source: its folder, its splits, and the files that are in none of them."""

    root: Path
    parts: Splits
    left_out: list[_LeftOut]


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
        self.called = parts.called
        read = {split: list(_read_part(part)) for split, part in parts.items()}
        everything = itertools.chain.from_iterable(read.values())
        found = sorted({thing.name for marked in everything for thing in marked.objects})
        names = read_names(root / CLASSES) if (root / CLASSES).is_file() else found
        if not names:
            raise DataError(f"{root} has no objects: none of its XML files names one")
        labels = {name: label for label, name in enumerate(names)}
        numbers, items = itertools.count(1), {}
        for place, what, number in left_out:
            self.notes[place][what] += number
        for split, marked in read.items():
            objects = [_objects(one, labels, numbers, self.notes[split]) for one in marked]
            images, files = [one.image for one in marked], parts[split].files
            items[split] = locate(images, objects, files, allow_missing=self.skip_bad_images)
        return dict(enumerate(names, 1)), items


def _find(source: Path) -> _Found:
    inner = [f for f in sorted(source.iterdir()) if f.is_dir() and not is_hidden(f.name)]
    if year := _year(source, inner):
        return _find_in_year(year, source)
    parts = {folder.name: _whole(folder) for folder in inner}
    named = {name: part for name, part in parts.items() if part.marked}
    loose = [path for path in source.iterdir() if path.suffix.lower() == ".xml"]
    if not named and loose:
        parts = named = {"train": _whole(source)}
        loose = []
    if not named:
        raise DataError(
            f"{source} has no XML files, in Annotations or beside it; it must hold {LAYOUT}"
        )
    left_out = [(source.name, _LOOSE, len(loose))]
    for name, part in parts.items():
        place = split_name(name, source) if name in named else name
        left_out.append((place, _UNMARKED, len(_unmarked(part))))
    return _Found(source, by_split(named.items(), source), left_out)


def _year(source: Path, inner: list[Path]) -> Path | None:
    """Returns the folder that has Annotations, unless there is one in each folder of a split."""
    if find_folder(source, "annotations"):
        return source
    places = {year: folder for year in inner if (folder := find_folder(year, "annotations"))}
    if any(usual_split(year.name) for year in places):
        return None
    # Other data sets have folders of that name, too, without XML files.
    years = [year for year in places if _by_name(places[year], (".xml",))]
    if len(years) > 1:
        raise DataError(
            f"{source} holds {', '.join(year.name for year in years)}; give the folder of one year "
            f"as the source, such as {years[-1]}"
        )
    return years[0] if years else None


def _find_in_year(root: Path, source: Path) -> _Found:
    whole = _whole(root)
    annotations, images = whole.files
    if images == root:
        raise DataError(f"{root} has {annotations.name}, but no folder JPEGImages or images")
    if not whole.marked:
        raise DataError(f"{annotations} has no XML files")
    there = sum(map(len, _by_name(source, (".xml",)).values()))
    left_out = [(source.name, _ELSEWHERE, there - len(whole.marked))]
    parts, listed = Splits(), set[str]()
    lists = read_lists(root, whole.files, whole.marked)
    parts.called = lists.called
    for split, (path, names) in lists.items():
        missing = [name for name in names if name not in whole.marked]
        if missing:
            raise DataError(
                f"{path}, line {names[missing[0]]}: {annotations / missing[0]}.xml is missing, as "
                f"are those of {len(missing) - 1} more of its {len(names)} images; complete them, "
                "or take them out of the list"
            )
        parts[split] = whole._replace(marked={name: whole.marked[name] for name in names})
        listed.update(names)
    if not parts:
        parts, unmarked = _by_folder(whole)
        return _Found(root, parts, left_out + unmarked)
    unlisted = len(whole.marked.keys() - listed)
    return _Found(root, parts, [*left_out, (annotations.name, _UNLISTED, unlisted)])


def _whole(root: Path) -> _Part:
    """Returns all that is in a folder as one split."""
    images = find_folder(root, "jpegimages") or find_folder(root, "images") or root
    annotations, marked = find_folder(root, "annotations") or root, {}
    for name, paths in _by_name(annotations, (".xml",)).items():
        if len(paths) > 1:
            raise DataError(f"{paths[0]} and {paths[1]} have one name; keep one")
        if "annotations" in name.lower().split("/")[:-1]:
            raise DataError(f"{paths[0]} is too deep in the source; give it as {LAYOUT}")
        marked[name] = paths[0]
    return _Part(SplitFiles(annotations, images), marked)


def _by_folder(whole: _Part) -> tuple[Splits, list[_LeftOut]]:
    """Returns the splits that folders of XML files are called like, or train; and what lacks XML.

    As elsewhere, every folder is a split where one has a usual split's name.
    """
    annotations, images = whole.files
    named: dict[str, dict[str, Path]] = {}
    for name, path in whole.marked.items():
        named.setdefault(_outermost(name), {})[name] = path
    elsewhere = images.name
    if not any(map(usual_split, named)):
        named, elsewhere = {"train": whole.marked}, "train"
    elif "" in named:
        beside = count(len(named[""]), "XML file")
        raise DataError(
            f"{annotations} has folders of splits and {beside} beside them, such as "
            f"{min(named[''])}.xml; move these into one of the folders"
        )
    parts = by_split(
        ((n, whole._replace(marked=marked)) for n, marked in named.items()), annotations
    )
    splits = {called: split for split, called in parts.called.items()}
    unmarked = Counter(splits.get(_outermost(name), elsewhere) for name in _unmarked(whole))
    return parts, [(place, _UNMARKED, number) for place, number in unmarked.items()]


def _outermost(name: str) -> str:
    """Returns the first folder of a path, "" for a file alone."""
    return name.partition("/")[0] if "/" in name else ""


def _unmarked(part: _Part) -> set[str]:
    return _by_name(part.files.images, IMAGE_ENDINGS).keys() - part.marked.keys()


def _by_name(folder: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """Returns the files of a kind in a folder, by their paths in it without the ending."""
    files: dict[str, list[Path]] = {}
    for path in sorted(itertools.chain(*list_images(folder))):
        if path.name.lower().endswith(endings) and not is_hidden(path.name) and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            files.setdefault(unicodedata.normalize("NFC", name), []).append(path)
    return files


def _read_part(part: _Part) -> Iterator[_Marked]:
    """Yields what the XML files of a split say."""
    folder = part.files.images
    images = _by_name(folder, IMAGE_ENDINGS)
    for number, (name, path) in enumerate(part.marked.items(), 1):
        root = _parse(path)
        files = images.get(name, [folder / f"{name}.jpg"])
        if len(files) > 1:
            which = " or ".join(file.name for file in files)
            raise DataError(f"{path} may be of {which}; keep one of these images")
        width, height = _size(root, files[0], path)
        file_name = files[0].relative_to(folder).as_posix()
        yield _Marked(
            path, ImageEntry(number, file_name, width, height, []), list(_read(root, path))
        )


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
        sizes = [to_number(text) for text in texts]
    except ValueError as error:
        raise DataError(f"{path} has a size that is no number: {shortened(texts)}") from error
    if not all(size.is_integer() and 0 <= size < _FAR for size in sizes):
        raise DataError(f"{path} has a size that cannot be: {shortened(texts)}")
    width, height = map(int, sizes)
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
        name = class_name(name, f"{path}: object {place}")
        where = f"{path}: object {place}, {shortened(name, 40)},"
        difficult = element.findtext("difficult", "0").strip() or "0"
        if difficult not in ("0", "1"):
            raise DataError(
                f"{where} has difficult {shortened(difficult, 40)!r}, which must be 0 or 1"
            )
        if any(len(element.findall(tag)) > 1 for tag in ("bndbox", *_CORNERS_IN)):
            raise DataError(f"{where} has several bndbox or corners; make an object of each")
        texts = [element.findtext(tag, "") for tag in _CORNERS_IN]
        try:
            xmin, ymin, xmax, ymax = (to_number(text) for text in texts)
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
